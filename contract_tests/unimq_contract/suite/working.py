"""Workers: what `run` makes of a handler's outcome. A3, A5, A8, A10, D1, L1, O1, Q3."""

import asyncio
import inspect
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any, Literal

import pytest

import unimq
from unimq_contract.contract import Contract
from unimq_contract.guarantees import guarantee, needs
from unimq_contract.harness import Background, Connections, Destinations, Harness, bodies, numbered
from unimq_contract.suite.dead_letters import dead_letters_of

Kind = Literal["plain", "async"]
NOW = unimq.Retry(base=0)

both_kinds = pytest.mark.parametrize("kind", ["plain", "async"])


@contextmanager
def working(
    consumer: unimq.Consumer, handler: Callable[[Any], object], kind: Kind, harness: Harness, **options: Any
) -> Generator[None, None, None]:
    """Run a worker beside the block, and stop it at the end; its error is the block's."""

    async def handle(delivery: Any) -> object:
        await asyncio.sleep(0)
        result = handler(delivery)
        return await result if inspect.isawaitable(result) else result

    run = Background(lambda: consumer.run(handle if kind == "async" else handler, retry=NOW, signals=False, **options))
    try:
        yield
    finally:
        consumer.stop()
        run.result(harness.bounds.within * 2)


class WorkContract(Contract):
    @both_kinds
    @needs("dead_letter")
    @guarantee("A8", "A3", "D1", kills=("nack-acks", "limit-off-by-one", "dead-letter-lost", "attempt-stuck"))
    def test_a_failing_handler_sends_its_message_to_the_dead_letters_and_no_other(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness, kind: Kind
    ) -> None:
        queue = destinations.queue(max_deliveries=3)
        poison, good = numbered(3), numbered(30, first=101)
        handled: Counter[bytes] = Counter()
        attempts: list[int] = []

        def handle(delivery: unimq.Delivery) -> None:
            if delivery.body in poison:
                attempts.append(delivery.attempt)
                raise LookupError(f"no such customer: {delivery.body!r}")
            handled[delivery.body] += 1

        with broker.producer(queue) as producer:
            producer.send_many([*poison, *good])
        with broker.consumer(queue) as consumer:
            with working(consumer, handle, kind, harness, concurrency=4):
                harness.eventually(
                    lambda: len(handled) == len(good) and len(attempts) >= 3 * len(poison), "each has its deliveries"
                )
            harness.nothing_else(queue, broker, consumer)
        assert handled == Counter(good)
        assert sorted(attempts) == [1, 1, 1, 2, 2, 2, 3, 3, 3]
        with broker.consumer(dead_letters_of(queue)) as consumer:
            dead = harness.receive(consumer, len(poison))
            assert bodies(dead) == poison
            for letter in dead:
                assert letter.headers["unimq-dead-reason"] == "max_deliveries"
                assert letter.headers["unimq-dead-error-type"] == "LookupError"
                assert letter.headers["unimq-dead-error"] == f"no such customer: {letter.body!r}"
            consumer.ack(dead)

    @needs("nack_delay")
    @guarantee("A3", "A7", kills=("nack-delay-ignored", "nack-acks"))
    def test_a_returned_nack_is_waited_for(self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness) -> None:
        delay = 2 * harness.bounds.delay
        times: list[float] = []

        def handle(delivery: unimq.Delivery) -> unimq.Nack | None:
            times.append(time.monotonic())
            return unimq.Nack(delay) if delivery.attempt == 1 else None

        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            with working(consumer, handle, "async", harness):
                producer.send(b"later")
                harness.eventually(lambda: len(times) == 2, "it comes again")
            harness.nothing_else(queue, broker, consumer)
        assert times[1] - times[0] >= delay - harness.bounds.tolerance

    @both_kinds
    @needs("lease", "extend")
    @guarantee("A10", "R1", kills=("extend-ignored",))
    def test_long_handlers_and_what_waits_for_them_keep_their_lease(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness, kind: Kind
    ) -> None:
        # A shorter one is lost to any machine that stands still for a moment.
        lease = max(1.0, 2 * harness.bounds.delay)
        queue = destinations.queue(lease=lease)
        handled: list[tuple[bytes, int]] = []

        def handle(delivery: unimq.Delivery) -> None:
            time.sleep(1.5 * lease)
            handled.append((delivery.body, delivery.attempt))

        with broker.producer(queue) as producer:
            producer.send_many(numbered(2))
        # However short the limits of time are, the handlers take what they take.
        patient = Harness(harness.backend, harness.capabilities, within=harness.bounds.within + 4 * lease)
        with broker.consumer(queue) as consumer:
            with working(consumer, handle, kind, patient):
                patient.eventually(lambda: len(handled) >= 2, "both are handled")
            harness.nothing_else(queue, broker, consumer)
        assert sorted(handled) == [(b"00001", 1), (b"00002", 1)]

    @both_kinds
    @guarantee("L1", "A1", "A5", kills=("ack-dropped", "acked-at-delivery"))
    def test_a_stopped_worker_finishes_what_it_has_and_leaves_the_rest(
        self, connect: Connections, queue: unimq.Queue, harness: Harness, kind: Kind
    ) -> None:
        wanted = numbered(60)
        handled: list[bytes] = []
        enough, told = threading.Event(), threading.Event()
        releases: list[Callable[[], object]] = []
        broker = connect()

        async def hold() -> None:
            loop, released = asyncio.get_running_loop(), asyncio.Event()
            releases.append(lambda: loop.call_soon_threadsafe(released.set))
            # The one that comes after the others were released has nobody to wait for.
            if not told.is_set():
                await asyncio.wait_for(released.wait(), harness.bounds.within)

        def handle(delivery: unimq.Delivery) -> Awaitable[None] | None:
            handled.append(delivery.body)
            if len(handled) <= 20:
                return None
            # However slow the thread is that stops the worker, what it has not begun by then is left.
            enough.set()
            if kind == "async":
                return hold()
            assert told.wait(harness.bounds.within)
            return None

        with broker.producer(queue) as producer:
            producer.send_many(wanted)
        with broker.consumer(queue) as consumer, working(consumer, handle, kind, harness, concurrency=8):
            assert enough.wait(harness.bounds.within)
            consumer.stop()
            told.set()
            for release in releases:
                # Who came after that did not wait, and its loop may have ended.
                with suppress(RuntimeError):
                    release()
        broker.close()
        other = connect()
        assert len(set(handled)) == len(handled)
        rest = sorted(set(wanted) - set(handled))
        assert rest, "some were to be left"
        with other.consumer(queue) as consumer:
            back = harness.receive(consumer, len(rest))
            assert bodies(back) == rest
            consumer.ack(back)
            harness.nothing_else(queue, other, consumer)

    @needs("ordering_key")
    @guarantee("O1", "A3", kills=("nacked-head-behind",))
    def test_the_order_of_a_key_is_kept_by_many_workers(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        """Also over the failure of its head."""
        queue = destinations.queue(ordering="key", max_deliveries=5)
        handled: list[bytes] = []

        def handle(delivery: unimq.Delivery) -> None:
            if delivery.body == b"00002" and delivery.attempt == 1:
                raise ValueError("once")
            handled.append(delivery.body)

        with broker.producer(queue) as producer:
            producer.send_many([unimq.Message(body, "customer-7") for body in numbered(8)])
        with (
            broker.consumer(queue) as consumer,
            working(consumer, handle, "async", harness, concurrency=4),
        ):
            harness.eventually(lambda: len(handled) >= 8, "all are handled")
        assert handled == numbered(8)

    @needs("dead_letter")
    @guarantee("A2", "A4", kills=("dead-letter-lost", "nack-acks"))
    def test_each_message_of_a_batch_has_its_own_outcome(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        good, again, bad = numbered(4), b"again", b"bad"
        handled: Counter[tuple[bytes, int]] = Counter()

        def handle(deliveries: list[unimq.Delivery]) -> list[object]:
            handled.update((delivery.body, delivery.attempt) for delivery in deliveries)
            return [self._outcome(delivery, again, bad) for delivery in deliveries]

        with broker.producer(queue) as producer:
            producer.send_many([*good[:2], again, *good[2:], bad])
        with broker.consumer(queue) as consumer:
            with working(consumer, handle, "plain", harness, batch=6):
                harness.eventually(lambda: (again, 2) in handled and len(handled) >= 7, "the failed one comes again")
            harness.nothing_else(queue, broker, consumer)
        assert handled == Counter([*((body, 1) for body in (*good, again, bad)), (again, 2)])
        with broker.consumer(dead_letters_of(queue)) as consumer:
            dead = harness.receive_one(consumer)
            assert (dead.body, dead.headers["unimq-dead-reason"]) == (bad, "unfit")
            dead.ack()

    @staticmethod
    def _outcome(delivery: unimq.Delivery, again: bytes, bad: bytes) -> object:
        if delivery.body == again and delivery.attempt == 1:
            return ValueError("once")
        return unimq.Reject("unfit") if delivery.body == bad else None

    @guarantee("Q1", "Q3", kills=("correlation-id-dropped", "nack-acks"))
    def test_what_a_handler_returns_is_the_reply(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        """Also after a failure: the requester waits for the next attempt."""

        def handle(delivery: unimq.Delivery) -> bytes:
            if delivery.attempt == 1:
                raise ValueError("once")
            return b"reply to " + delivery.body

        with broker.consumer(queue) as consumer:
            with working(consumer, handle, "async", harness):
                try:
                    reply = broker.request(queue, b"question", timeout=harness.bounds.within)
                except unimq.RequestTimeout as error:
                    pytest.fail(str(error))
            assert reply.body == b"reply to question"
            harness.nothing_else(queue, broker, consumer)
