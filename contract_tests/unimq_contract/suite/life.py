"""Life: L1 to L4, and what needs whole processes: A5, S1."""

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable

import pytest

import unimq
from unimq_contract.brokers import RunningTap
from unimq_contract.contract import Contract
from unimq_contract.fronts import AsyncioFront, Front
from unimq_contract.guarantees import guarantee, needs
from unimq_contract.harness import (
    Backend,
    Background,
    Connections,
    Destinations,
    Harness,
    bodies,
    in_background,
    numbered,
)
from unimq_contract.leaks import Holdings, wait_until_released


def in_fork(act: Callable[[], list[str]], within: float) -> list[str]:
    """Return what `act` returns in a forked child."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of forks in programs with threads; that users do it all the same is why this is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        try:
            signal.alarm(max(1, int(within)))
            os.write(writing, json.dumps(act()).encode())
        except BaseException as error:
            os.write(writing, json.dumps([f"the child failed: {error!r}"]).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    assert text, f"the child said nothing within {within} s"
    return [str(line) for line in json.loads(text)]


class LifeContract(Contract):
    @guarantee("L2", "R1", "S1", kills=("lose-some",))
    def test_a_message_can_be_answered_while_it_is_held(
        self, broker: unimq.Broker, queue: unimq.Queue, destinations: Destinations, harness: Harness
    ) -> None:
        """With a prefetch of one, in the same thread and connection, and into the queue that is being read."""
        answers = destinations.queue()
        with (
            broker.producer(queue) as producer,
            broker.producer(answers) as answering,
            broker.consumer(queue, prefetch=1) as consumer,
            broker.consumer(answers, prefetch=100) as reader,
        ):
            producer.send(b"00001")
            for number in range(1, 21):
                delivery = harness.receive_one(consumer)
                assert delivery.body == b"%05d" % number
                answering.send(delivery.body)
                producer.send(b"%05d" % (number + 1))
                # The next one waits until this one is settled (R3).
                assert consumer.receive(timeout=0) == []
                delivery.ack()
            harness.receive_one(consumer).ack()
            received = harness.receive(reader, 20)
            assert bodies(received) == numbered(20)
            reader.ack(received)

    @guarantee("L1", "L4", kills=("delivers-after-close",))
    def test_closing_twice_is_closing_once(self, connect: Connections, queue: unimq.Queue, harness: Harness) -> None:
        broker = connect()
        producer, consumer = broker.producer(queue), broker.consumer(queue)
        producer.send(b"stays")
        for closing in (producer.close, consumer.close, broker.close):
            closers = in_background([closing, closing, closing])
            for closer in closers:
                assert closer.result(harness.bounds.within) is None
            closing()
        with connect().consumer(queue) as other:
            assert harness.receive_one(other).body == b"stays"

    @guarantee("L1", kills=("stale-settlement-accepted",))
    def test_use_after_close_says_closed(self, connect: Connections, queue: unimq.Queue, harness: Harness) -> None:
        broker = connect()
        producer, consumer = broker.producer(queue), broker.consumer(queue)
        producer.send(b"held")
        held = harness.receive_one(consumer)
        producer.close()
        for call in (lambda: producer.send(b"x"), lambda: producer.enqueue(b"x"), lambda: producer.send_many([b"x"])):
            with pytest.raises(unimq.Closed, match=queue.name):
                call()
        consumer.close()
        with pytest.raises(unimq.Closed, match=queue.name):
            consumer.receive(timeout=0)
        with pytest.raises((unimq.LeaseLost, unimq.Closed)):
            held.ack()
        assert list(consumer) == []
        broker.close()
        for act in (
            lambda: broker.producer(queue),
            lambda: broker.consumer(queue),
            lambda: broker.declare(queue),
            lambda: broker.delete(queue),
            lambda: broker.purge(queue),
            lambda: broker.stats(queue),
        ):
            with pytest.raises(unimq.Closed):
                act()

    @guarantee("L1", "R4", kills=("close-wakes-nobody",))
    def test_close_wakes_a_waiting_receive(self, connect: Connections, queue: unimq.Queue, harness: Harness) -> None:
        for what in ("consumer", "broker"):
            broker = connect()
            consumer = broker.consumer(queue)
            # Nothing tells that a call waits; the wake-up must come whether it does already or not.
            waiting = Background(lambda consumer=consumer: consumer.receive(timeout=None))  # type: ignore[misc]
            time.sleep(harness.bounds.quiet)
            (consumer if what == "consumer" else broker).close()
            with pytest.raises(unimq.Closed):
                waiting.result(harness.bounds.wake)
            broker.close()

    @guarantee("L1", "S6", "A5", kills=("delivers-after-close", "acks-lost-at-close"))
    def test_closing_the_broker_closes_all_that_it_opened(
        self, connect: Connections, queue: unimq.Queue, harness: Harness
    ) -> None:
        broker = connect()
        producer, consumer = broker.producer(queue), broker.consumer(queue)
        for body in numbered(50):
            producer.enqueue(body)
        acked = harness.receive(consumer, 5)
        consumer.ack(acked)
        broker.close()
        with pytest.raises(unimq.Closed):
            producer.send(b"x")
        with pytest.raises(unimq.Closed):
            consumer.receive(timeout=0)
        rest = sorted(set(numbered(50)) - set(bodies(acked)))
        second = connect()
        with second.consumer(queue) as other:
            received = harness.receive(other, len(rest))
            assert bodies(received) == rest
            other.ack(received)
            harness.nothing_else(queue, second, other)

    @guarantee("L2", "R1", "G1", kills=("store-twice",))
    def test_threads_may_share_a_consumer(self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness) -> None:
        count = harness.bounds.backlog // 3
        with broker.producer(queue) as producer:
            producer.send_many(numbered(count))
        with broker.consumer(queue) as consumer:
            acked: list[bytes] = []

            def work() -> None:
                while len(acked) < count:
                    for delivery in consumer.receive(3, timeout=harness.bounds.quiet):
                        acked.append(delivery.body)
                        delivery.ack()

            for worker in in_background([work] * 4):
                worker.result(harness.bounds.within)
            assert sorted(acked) == numbered(count)
            harness.nothing_else(queue, broker, consumer)

    @pytest.mark.fronts("sync")
    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    @guarantee("L2", kills=("child-goes-on-as-parent",))
    def test_a_forked_child_gets_a_clear_error(
        self, connect: Connections, queue: unimq.Queue, backend: Backend, harness: Harness
    ) -> None:
        """And may connect on its own; the parent goes on."""
        broker = connect()
        producer, consumer = broker.producer(queue), broker.consumer(queue)
        producer.send(b"held")
        held = harness.receive_one(consumer)

        def misuse() -> list[str]:
            said: list[str] = []
            for call in (
                lambda: producer.send(b"x"),
                lambda: consumer.receive(timeout=0),
                held.ack,
                lambda: broker.declare(queue),
                producer.flush,
                consumer.settle,
            ):
                try:
                    call()
                    said.append("nothing")
                except unimq.Closed as error:
                    said.append(str(error))
            for closing in (producer.close, consumer.close, broker.close):
                closing()
            with unimq.connect(backend.url) as own, own.producer(queue) as of_own:
                of_own.send(b"from the child")
            return said

        said = in_fork(misuse, harness.bounds.within)
        assert len(said) == 6, said
        assert all(str(os.getpid()) in line for line in said), said
        held.ack()
        if not backend.in_process:
            assert harness.receive_one(consumer).body == b"from the child"
        producer.send(b"from the parent")
        assert harness.receive_one(consumer).body == b"from the parent"

    @guarantee("L4", kills=("thread-left-behind",))
    def test_nothing_outlives_a_connection(
        self, backend: Backend, front: Front, destinations: Destinations, connect: Connections, harness: Harness
    ) -> None:
        """Round after round: whatever a library keeps for good it keeps once."""
        queue = destinations.queue()
        connect.close()

        def round_trip() -> None:
            broker = front.connect(backend.url, timeout=backend.bounds.within)
            producer, consumer = broker.producer(queue), broker.consumer(queue)
            producer.send(b"round")
            harness.receive_one(consumer).ack()
            # One round closes all by itself, the next leaves it to the broker.
            broker.close()

        round_trip()
        before = Holdings.now()
        for _ in range(3):
            round_trip()
        left = wait_until_released(before, backend.bounds.within)
        assert left == []

    @guarantee("L4", kills=("ack-dropped", "thread-left-behind"))
    def test_producers_and_consumers_come_and_go(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        def round_trip(body: bytes) -> None:
            with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
                producer.send(body)
                delivery = harness.receive_one(consumer)
                assert delivery.body == body
                delivery.ack()

        round_trip(b"first")
        before = Holdings.now()
        rounds = numbered(6)
        for body in rounds:
            round_trip(body)
        # The connection itself may hold a few more than before, pools that fill; but not more with each round.
        gc.collect()
        harness.eventually(lambda: Holdings.now().count < before.count + len(rounds), "no round leaves anything behind")

    @guarantee("L1", "E1", kills=("first-lost",))
    def test_declaring_again_changes_nothing(
        self, broker: unimq.Broker, connect: Connections, destinations: Destinations, harness: Harness
    ) -> None:
        queue = destinations.queue(max_deliveries=5)
        broker.declare(queue)
        with broker.producer(queue) as producer:
            producer.send(b"stays")
        broker.declare(queue, queue)
        connect().declare(queue)
        with broker.consumer(queue) as consumer:
            delivery = harness.receive_one(consumer)
            assert delivery.body == b"stays"
            delivery.ack()

    @guarantee("L1", "R5", kills=("missing-queues-are-found",))
    def test_a_deleted_queue_is_gone_with_its_messages(
        self, broker: unimq.Broker, connect: Connections, queue: unimq.Queue, harness: Harness
    ) -> None:
        with broker.producer(queue) as producer:
            producer.send(b"gone")
        broker.delete(queue)
        broker.delete(queue)
        with pytest.raises(unimq.NotFound, match=queue.name):
            connect(declare="false").consumer(queue)
        broker.declare(queue)
        harness.is_empty(queue, broker)

    @pytest.mark.fronts("asyncio")
    @guarantee("L2", "R1", kills=("first-lost",))
    def test_a_cancelled_receive_loses_nothing(
        self, backend: Backend, front: Front, queue: unimq.Queue, harness: Harness
    ) -> None:
        assert isinstance(front, AsyncioFront)
        within, wait = harness.bounds.within, harness.bounds.quiet

        async def scenario() -> list[bytes]:
            received: list[bytes] = []
            async with (
                unimq.connect_async(backend.url) as broker,
                broker.producer(queue) as producer,
                broker.consumer(queue) as consumer,
            ):
                cancelled = 0
                for body in numbered(10):
                    receiving = asyncio.create_task(consumer.receive(timeout=within))
                    await asyncio.wait([receiving], timeout=wait / 10)
                    await producer.send(body)
                    # The message may be there already, or on its way: neither may lose it.
                    receiving.cancel()
                    try:
                        found = await receiving
                    except asyncio.CancelledError:
                        cancelled += 1
                    else:
                        received += [delivery.body for delivery in found]
                        consumer.ack(found)
                assert cancelled, "proved nothing: no receive was cancelled"
                while len(received) < 10:
                    found = await consumer.receive(10, timeout=within)
                    assert found, f"{len(received)} of 10 came"
                    received += [delivery.body for delivery in found]
                    consumer.ack(found)
            return sorted(received)

        assert front.run(scenario()) == numbered(10)

    @pytest.mark.fronts("sync")
    @guarantee("A5", "A7", "R1", kills=("attempt-stuck",))
    def test_the_messages_of_a_killed_consumer_return(
        self, connect: Connections, destinations: Destinations, harness: Harness, backend: Backend
    ) -> None:
        if backend.in_process:
            pytest.skip("no other process reaches this broker")
        lease = {"lease": max(2.0, harness.bounds.delay)} if harness.capabilities.lease else {}
        queue = destinations.queue(**lease)
        broker = connect()
        with broker.producer(queue) as producer:
            producer.send_many(numbered(5))
        holder = subprocess.Popen(
            [sys.executable, "-m", "unimq_contract.holder", queue.name, "5"],
            env={**os.environ, "UNIMQ_URL": backend.url},
            stdout=subprocess.PIPE,
        )
        with holder:
            assert holder.stdout is not None
            line = holder.stdout.readline()
            holder.kill()
        assert sorted(json.loads(line)) == [body.decode() for body in numbered(5)]
        with broker.consumer(queue) as consumer:
            back = consumer.receive(5, timeout=harness.bounds.within + harness.bounds.crash)
            back += harness.receive(consumer, 5 - len(back))
            assert bodies(back) == numbered(5)
            wanted = {2} if harness.capabilities.attempts_exact else {1, 2}
            assert {delivery.attempt for delivery in back} <= wanted
            consumer.ack(back)
            harness.nothing_else(queue, broker, consumer)

    @needs("durable")
    @pytest.mark.fronts("sync")
    @guarantee("S1", "A1", "A5", kills=("batch-loses-one",))
    def test_what_was_confirmed_survives_the_death_of_the_broker(
        self, connect: Connections, queue: unimq.Queue, harness: Harness, backend: Backend
    ) -> None:
        """``kill -9`` right after `send` returned and acks were confirmed."""
        tap = self.killable(backend)
        broker = connect()
        producer, consumer = broker.producer(queue), broker.consumer(queue, prefetch=3)
        time.sleep(harness.bounds.young)
        producer.send_many(numbered(10))
        acked = harness.receive(consumer, 3)
        consumer.ack(acked)
        consumer.settle()
        producer.send(b"99999")
        tap.kill()
        tap.restart()
        broker.close(timeout=harness.bounds.within)
        rest = sorted({*numbered(10), b"99999"} - set(bodies(acked)))
        with connect().consumer(queue) as after:
            received = harness.receive(after, len(rest))
            if not harness.capabilities.acks_at_risk:
                assert bodies(received) == rest
            assert set(rest) <= {delivery.body for delivery in received} | set(bodies(acked))

    @needs("durable")
    @pytest.mark.fronts("sync")
    @guarantee("L3", "S2", "R1", kills=("batch-loses-one",))
    def test_producers_and_consumers_survive_a_restart_of_the_broker(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness, backend: Backend
    ) -> None:
        """Nothing confirmed is lost, sending and receiving go on, and exactly one consumer is there afterwards."""
        tap = self.killable(backend)
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send_many(numbered(10))
            held = harness.receive(consumer, 10)
            consumer.ack(held[:5])
            consumer.settle()
            tap.restart()
            producer.send_many(numbered(10, first=101))
            # The first that arrives shows that the consumer is back. What it held before it still holds, or has lost.
            arrived = [harness.receive_one(consumer)]
            acked = set(bodies(held[:5]))
            for delivery in held[5:]:
                try:
                    delivery.ack()
                    acked.add(delivery.body)
                except unimq.LeaseLost:
                    continue
            consumer.settle()
            wanted = {*numbered(10), *numbered(10, first=101)}
            while acked != wanted:
                delivery = arrived.pop() if arrived else harness.receive_one(consumer)
                assert delivery.body in wanted - acked
                delivery.ack()
                acked.add(delivery.body)
            consumer.settle()
            harness.nothing_else(queue, broker, consumer)

    @staticmethod
    def killable(backend: Backend) -> RunningTap:
        """Return the broker on tap, which keeps its data over a restart."""
        if backend.tap is None or not backend.tap.pids:
            pytest.skip("this broker cannot be killed")
        if not backend.tap.tap.durable:
            pytest.skip(f"{backend.tap.tap.product} keeps everything in memory")
        return backend.tap
