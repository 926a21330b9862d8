"""Bad days of RabbitMQ that other brokers do not have: each falls on a load, and the history is judged.

Small loads here; `make soak` runs the same with 100 000 messages.
"""

import socket
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from uuid import uuid4

import pytest
from unimq_contract.brokers import RunningTap
from unimq_contract.brokers import rabbitmq as tap
from unimq_contract.faults.broker import BrokerFaults
from unimq_contract.faults.proxy import FaultProxy
from unimq_contract.harness import Background
from unimq_contract.history import Floors, Load, run
from unimq_contract.history.events import Delivered, NotSent, Sending, Sent

import unimq

from .judged import PATIENCE, WINDOW, JudgedRun, awaited

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("rabbitmq-faults")]

YOUNG = 3.0
"""Seconds in which a new quorum queue may not survive the death of its broker."""
STILL = 10.0
"""Seconds for which a broker or a network stands still."""
LIMIT = 65_536
"""Bytes of a message that this broker takes; unimq believes in its default of 16 MiB and lets larger ones through."""


@dataclass(frozen=True)
class Size:
    """How much load."""

    messages: int
    rate: float
    """Messages per second of each of two producers."""
    flow: int
    """Deliveries before a fault and after it."""

    def load(self, **changes: float) -> Load:
        """Return a load of this size."""
        given: dict[str, object] = {"seed": 1, "patience": 5.0, "limit": 1500, "keys": 100, **changes}
        return Load(messages=self.messages, rate=self.rate, **given)  # type: ignore[arg-type]


SHORT = Size(1000, 300, 100)
LONG = Size(100_000, 1000, 3000)
SOAK = (pytest.mark.soak, pytest.mark.timeout(1800))
SIZES = (pytest.param(SHORT, id="short"), pytest.param(LONG, id="long", marks=SOAK))


@pytest.fixture(scope="module")
def running(start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap]) -> Iterator[RunningTap]:
    """A broker that is ours to maltreat."""
    with start_or_skip(lambda: tap.start(settings={"max_message_size": str(LIMIT)})) as broker:
        yield broker


@pytest.fixture
def judged(running: RunningTap) -> JudgedRun:
    """A queue of its own, and nothing happened yet."""
    return JudgedRun([running.url])


@contextmanager
def alarm(running: RunningTap) -> Generator[None]:
    """Let the broker believe that it has no memory left."""
    running.tool("rabbitmqctl", "set_vm_memory_high_watermark", "0.00001")
    try:
        yield
    finally:
        running.tool("rabbitmqctl", "set_vm_memory_high_watermark", "0.6")


@contextmanager
def impatient(running: RunningTap) -> Generator[None]:
    """Let channels that are opened inside the block be closed when they hold a delivery for two seconds."""

    def limit(timeout: int, look: int) -> None:
        settings = (("consumer_timeout", timeout), ("channel_tick_interval", look))
        words = ", ".join(f"application:set_env(rabbit, {name}, {value})" for name, value in settings)
        running.tool("rabbitmqctl", "eval", f"{words}.")

    limit(2000, 1000)
    try:
        yield
    finally:
        limit(1_800_000, 60_000)


def refusing_port() -> int:
    """Return a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


# Several hosts.


def test_a_host_that_refuses_and_one_that_is_silent_cost_little(running: RunningTap) -> None:
    """A silent host gets its share of the time, not all of it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = f"127.0.0.1:{refusing_port()},127.0.0.1:{silent.getsockname()[1]},{running.tap.nodes[0]}"
        with unimq.connect(f"amqp://guest:guest@{hosts}/", timeout=6.0) as broker:
            broker.declare("reached")
            assert broker.stats("reached").ready == 0
            broker.delete("reached")


def test_no_host_answers() -> None:
    hosts = ",".join(f"127.0.0.1:{refusing_port()}" for _ in range(3))
    with pytest.raises(unimq.ConnectionLost, match=r"127\.0\.0\.1"):
        unimq.connect(f"amqp://guest:guest@{hosts}/", timeout=PATIENCE)


def test_workers_move_to_the_other_host(running: RunningTap) -> None:
    """Two ways to one broker, of which one after the other is cut and refuses."""
    host, _, port = running.tap.nodes[0].partition(":")
    with FaultProxy((host, int(port))) as first, FaultProxy((host, int(port))) as second:
        judged = JudgedRun([f"amqp://guest:guest@127.0.0.1:{first.port},127.0.0.1:{second.port}/"])

        def move() -> None:
            for proxy in (first, second, first):
                judged.flows(100)
                with judged.history.fault("host lost"):
                    proxy.refuse()
                    proxy.cut()
                    judged.flows(100)
                proxy.heal()

        judged.under_load(SHORT.load(), move, faults={"host lost": 3})


# Memory alarm.


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_an_alarm_under_load(running: RunningTap, judged: JudgedRun) -> None:
    def alarmed() -> None:
        judged.flows(LONG.flow)
        with judged.history.fault("alarm"), alarm(running):
            # Whoever sends feels it: what does not reach the broker in time may or may not be stored, and says why.
            with judged.connect() as broker, judged.recording.producer(broker, judged.queue, timeout=5.0) as producer:
                outcomes = producer.send_many(100)
            errors = [str(outcome) for outcome in outcomes if isinstance(outcome, unimq.SendUnknown)]
            assert errors
            assert all("memory or disk alarm" in error for error in errors)
        judged.flows(LONG.flow)

    judged.under_load(LONG.load(), alarmed, faults={"alarm": 1})


def test_an_alarm_is_back_pressure(running: RunningTap, judged: JudgedRun) -> None:
    """What is taken beyond the broker is bounded by the window (S5, L5); receiving and settling go on meanwhile."""
    window, before, messages = 100, 50, 1000
    sent = partial(judged.count, Sent)
    with (
        judged.connect() as broker,
        judged.recording.producer(broker, judged.queue, window=window, timeout=PATIENCE) as producer,
        judged.recording.consumer(broker, judged.queue) as consumer,
    ):
        producer.send_many(before)
        with alarm(running):

            def send_all() -> None:
                for _ in range(messages):
                    producer.enqueue()

            sending = Background(send_all)
            judged.take(consumer, before)
            awaited(lambda: judged.count(Sending) >= before + window, "the window is full")
            assert judged.count(Sending) <= sent() + window + 1
            assert "takes no messages at present" in broker.stats(judged.queue).trouble
        awaited(lambda: not broker.stats(judged.queue).trouble, "all is well again")
        sending.result(PATIENCE)
        producer.flush(PATIENCE)
        judged.take(consumer, messages)
    assert sent() == before + messages
    judged.judge(faults={})


# A message that the broker does not take.


@pytest.mark.parametrize(
    ("senders", "each"), [pytest.param(10, 100, id="short"), pytest.param(100, 1000, id="long", marks=SOAK)]
)
def test_poison_among_good_messages(judged: JudgedRun, senders: int, each: int) -> None:
    """The first of each sender closes its channel with all confirms that were on their way; it alone is rejected (S2).

    The broker says how much it takes, and a sender remembers it: so there are many senders, one after the other.
    """
    good = senders * each
    every = each // 5
    poison: list[str] = []
    with judged.connect() as broker, judged.recording.consumer(broker, judged.queue, prefetch=500) as consumer:
        consuming = Background(lambda: judged.take(consumer, good + 1))
        with judged.history.fault("poison"):
            for _ in range(senders):
                with judged.recording.producer(broker, judged.queue, timeout=PATIENCE) as producer:
                    for number in range(each):
                        if number % every == every // 2:
                            poison.append(producer.enqueue(size=LIMIT + 1000))
                        producer.enqueue(size=100)
                    producer.flush(PATIENCE)
        # The judge wants to see that it goes on afterwards.
        with judged.recording.producer(broker, judged.queue, timeout=PATIENCE) as producer:
            producer.send()
        consuming.result(PATIENCE)
    refused = {event.message: event.error for event in judged.history.events if isinstance(event, NotSent)}
    assert set(refused) == set(poison)
    assert all(error.startswith("MessageTooLarge") for error in refused.values())
    assert judged.count(Sent) == good + 1
    judged.judge(faults={"poison": 1}, most_excused=senders * WINDOW)


def test_a_body_of_exactly_the_limit_is_taken(judged: JudgedRun) -> None:
    """What the broker counts is the body alone, and so does the sender that has learnt the limit."""
    with judged.connect() as broker, broker.producer(judged.queue) as producer:
        for _ in range(2):
            with pytest.raises(unimq.MessageTooLarge, match=str(LIMIT)):
                producer.send(b"x" * (LIMIT + 1))
            producer.send(b"x" * LIMIT)


# What the broker does to consumers.


def test_a_queue_is_deleted_under_its_users(running: RunningTap, judged: JudgedRun) -> None:
    """They are told; what is sent to nowhere is certainly not stored; with a new queue of the name all goes on."""
    lives, messages = 3, 100
    with judged.connect() as broker:
        for _ in range(lives):
            judged.recording.declare(broker, judged.queue)
            with (
                judged.recording.producer(broker, judged.queue) as producer,
                judged.recording.consumer(broker, judged.queue) as consumer,
            ):
                producer.send_many(messages)
                judged.take(consumer, messages)
                running.tool("rabbitmqctl", "delete_queue", judged.queue.name)
                with pytest.raises(unimq.NotFound):
                    consumer.receive(1, timeout=PATIENCE)
                with pytest.raises(unimq.NotFound):
                    producer.send()
    assert judged.count(Sent) == lives * messages
    assert judged.count(Delivered) == lives * messages
    judged.judge(faults={})


@pytest.mark.parametrize("size", SIZES)
def test_a_delivery_is_held_for_too_long(running: RunningTap, judged: JudgedRun, size: Size) -> None:
    """The broker closes the channel (``consumer_timeout``): others get it, and who held it settles nothing (A6)."""
    held = 20

    def hold() -> None:
        judged.flows(size.flow)
        with impatient(running), judged.connect() as broker:
            consumer = judged.recording.consumer(broker, judged.queue, prefetch=held)
            # The timeout that was set holds for channels that are opened after it.
            with judged.history.fault("consumer timeout"):
                deliveries = consumer.receive(held, timeout=PATIENCE)
                assert deliveries
                messages = {delivery.message for delivery in deliveries}
                since = len(judged.history.events)
                awaited(
                    lambda: (
                        messages
                        <= {event.message for event in judged.history.events[since:] if isinstance(event, Delivered)}
                    ),
                    "all that was held came again",
                )
                for delivery in deliveries:
                    with pytest.raises(unimq.LeaseLost):
                        delivery.ack()
            # It consumes again, by itself.
            assert consumer.receive(1, timeout=PATIENCE)
            consumer.close()
        judged.flows(size.flow)

    judged.under_load(size.load(), hold, faults={"consumer timeout": 1})


# The broker restarts, the network pretends.


@pytest.mark.parametrize("size", SIZES)
def test_the_broker_restarts_during_a_drain(running: RunningTap, judged: JudgedRun, size: Size) -> None:
    """Consumers close with messages in hand all the time: some in the middle of the restart (L1)."""
    broker = BrokerFaults(running, judged.history)

    def restart() -> None:
        judged.flows(size.flow)
        broker.restart()
        judged.flows(size.flow)

    judged.under_load(
        size.load(close=0.02), restart, faults={"broker restarted": 1}, undoing=frozenset({"broker restarted"})
    )


@pytest.mark.parametrize("size", SIZES)
def test_an_order_outlives_its_broker(running: RunningTap, size: Size) -> None:
    """Consumers of an ordered queue close with messages in hand, and the broker is killed twice (O1, R1)."""
    judged = JudgedRun([running.url], unimq.Queue(f"ordered-{uuid4().hex[:8]}", ordering="key"))
    broker = BrokerFaults(running, judged.history)

    def die() -> None:
        for _ in range(2):
            judged.flows(size.flow)
            with broker.killed():
                pass
        judged.flows(size.flow)

    load = size.load(close=0.005)
    with judged.connect() as first:
        judged.recording.declare(first, judged.queue)
    # So long it takes until a new queue is written down, and no client can see when it is.
    time.sleep(YOUNG)
    run(load, judged.recording, judged.connect, judged.queue, meanwhile=die)
    judged.judge(
        faults={"broker killed": 2},
        undoing=frozenset({"broker killed"}),
        # One consumer at a time has work.
        floors=Floors(acks=load.messages // 2, overlaps=0),
    )


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_faults_of_the_suite_at_length(running: RunningTap) -> None:
    """kill -9 and SIGSTOP of the broker, resets and a black hole, one after the other under one load."""
    host, _, port = running.tap.nodes[0].partition(":")
    with FaultProxy((host, int(port))) as proxy:
        judged = JudgedRun([f"amqp://guest:guest@127.0.0.1:{proxy.port}/"])
        broker = BrokerFaults(running, judged.history)

        def storm() -> None:
            judged.flows(LONG.flow)
            with broker.killed():
                pass
            judged.flows(LONG.flow)
            with broker.frozen():
                time.sleep(STILL)
            judged.flows(LONG.flow)
            with judged.history.fault("cut"):
                for _ in range(3):
                    proxy.cut()
                    judged.flows(LONG.flow // 10)
            judged.flows(LONG.flow)
            with judged.history.fault("black hole"), proxy.healing():
                proxy.stall()
                time.sleep(STILL)
            judged.flows(LONG.flow)

        faults = {"broker killed": 1, "broker frozen": 1, "cut": 1, "black hole": 1}
        judged.under_load(LONG.load(), storm, faults=faults, undoing=frozenset({"broker killed"}), shadow=STILL)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("heals", [True, False])
def test_the_broker_is_gone_and_nobody_says_so(running: RunningTap, heals: bool) -> None:
    """The broker's side of every connection is reset; the client's side lives on (L3)."""
    host, _, port = running.tap.nodes[0].partition(":")
    with FaultProxy((host, int(port))) as proxy:
        # Noticed after half a minute at most. Less than that also ends the connection of a client whose processor is
        # busy, with judging this history for one, and no fault would excuse that.
        judged = JudgedRun([f"amqp://guest:guest@127.0.0.1:{proxy.port}/?heartbeat=10"])

        def pretend() -> None:
            judged.flows(LONG.flow)
            with judged.history.fault("half-open"):
                proxy.half_open()
                if heals:
                    # What was held is given to whoever is not cut off: it is there again.
                    with unimq.connect(running.url, timeout=PATIENCE) as direct:
                        awaited(lambda: direct.stats(judged.queue).consumers == 0, "the broker has lost all consumers")
                else:
                    # Nothing tells them but their heartbeats.
                    judged.flows(LONG.flow)
                proxy.heal()
            judged.flows(LONG.flow)

        judged.under_load(LONG.load(), pretend, faults={"half-open": 1})
