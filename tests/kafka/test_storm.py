"""Members that come and go, stand still, or lose their topic, on a real broker (R1, A1, A6, O1)."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import confluent_kafka.admin
import pytest
from unimq_contract.brokers import RunningTap
from unimq_contract.brokers import kafka as tap
from unimq_contract.faults.churn import Churn, Leave
from unimq_contract.faults.client import ClientFailed, ClientProcess
from unimq_contract.harness import Background
from unimq_contract.history import Floors, Load
from unimq_kafka._options import KafkaOptions, client_settings, consumer_settings
from unimq_kafka._receiver import KafkaReceiver

import unimq
from unimq._url import parse_url
from unimq.adapter import Delivery

from .conftest import Deliveries
from .judged import PATIENCE, JudgedRun, awaited

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("kafka-storm")]

PROTOCOLS = ("classic", "consumer")
SOAK = (pytest.mark.soak, pytest.mark.timeout(1800))
SESSION = 2.0
"""Seconds after which a member that stands still is out of its group, with either protocol."""
SETTINGS = {
    "group.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": str(int(SESSION * 1000)),
    "group.consumer.min.session.timeout.ms": "1000",
}


@pytest.fixture(scope="module")
def running(start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap]) -> Iterator[RunningTap]:
    """A broker that gives members up soon."""
    with start_or_skip(lambda: tap.start(settings=SETTINGS)) as broker:
        yield broker


def url_of(running: RunningTap, protocol: str, **options: object) -> str:
    """Return its URL for members of this protocol."""
    given = {"group_protocol": protocol, "partitions": 8, **options}
    return f"{running.url}?{'&'.join(f'{name}={value}' for name, value in given.items())}"


def storm(run: JudgedRun, leaves: int, interval: float) -> None:
    """Let a member join, and the oldest of two leave, every `interval` seconds."""

    def join() -> Leave:
        broker = run.connect()
        consumer = run.recording.consumer(broker, run.queue, prefetch=20)
        leaving = threading.Event()

        def work() -> None:
            while not leaving.is_set():
                for delivery in consumer.receive(5, timeout=0.2):
                    with contextlib.suppress(unimq.LeaseLost):
                        delivery.ack()

        working = Background(work)

        def leave() -> None:
            # Some deliveries are on their way, or wait in the consumer: they go to the others.
            leaving.set()
            working.result(PATIENCE)
            # An ack that raced the loss of its partition is told here, as nobody settles before (L1).
            with contextlib.suppress(unimq.LeaseLost):
                consumer.close()
            broker.close()

        return leave

    with Churn(join, interval=interval, at_once=2) as members:
        members.wait_for(leaves, 30 * PATIENCE)


def test_members_join_and_leave_all_the_time(running: RunningTap) -> None:
    run = JudgedRun(url_of(running, "classic"))
    load = Load(seed=3, messages=1600, rate=150, close=0.0, patience=PATIENCE, limit=4 * PATIENCE)
    counts = run.under_load(load, lambda: storm(run, 5, 1.0), floors=Floors(acks=800))
    assert counts.closes >= 5


@pytest.mark.parametrize("protocol", [pytest.param(protocol, marks=SOAK) for protocol in PROTOCOLS])
def test_a_storm_of_a_minute(running: RunningTap, protocol: str) -> None:
    messages = 200_000
    run = JudgedRun(url_of(running, protocol))
    load = Load(seed=4, messages=messages, rate=1000, close=0.0, keys=200, patience=PATIENCE, limit=1200)
    counts = run.under_load(load, lambda: storm(run, 30, 2.0), floors=Floors(acks=messages // 2))
    assert counts.closes >= 30


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("messages", "rate", "flow"),
    [pytest.param(1000, 100, 50, id="short"), pytest.param(200_000, 1000, 5000, id="long", marks=SOAK)],
)
def test_a_process_that_stood_still_for_longer_than_its_session(
    running: RunningTap, protocol: str, tmp_path: Path, messages: int, rate: float, flow: int
) -> None:
    """It was out of the group, its messages went to others, and what it settles afterwards changes nothing (A6).

    What it had fetched before it may hand out once more, until it hears that it is out.
    """
    run = JudgedRun(url_of(running, protocol, session_timeout=SESSION))
    load = Load(seed=5, messages=messages, rate=rate, consumers=1, close=0.0, patience=PATIENCE, limit=10 * PATIENCE)
    with ClientProcess(run.url, tmp_path / "stalled", run.history) as stalled:

        def stall() -> None:
            stalled.consume(run.queue, prefetch=20)
            assert stalled.receive(5, timeout=PATIENCE) >= 1
            stalled.freeze()
            with run.connect() as watching:
                # Frozen or not, it is a member until its session is over.
                awaited(lambda: watching.stats(run.queue).consumers == 1, "the stalled member is given up")
            stalled.lapsed()
            run.flows(flow)
            stalled.thaw()
            # Of what it held nothing is its own any more; it may not even know yet.
            stalled.settle(5, confirm=False)
            stalled.work()
            run.flows(flow)
            # What it settled too late is told at the end, or nothing was.
            with contextlib.suppress(ClientFailed):
                stalled.rest()
            stalled.close()

        counts = run.under_load(
            load,
            stall,
            floors=Floors(acks=messages // 2, overlaps=0, faults={"client frozen": 1}),
            elsewhere=stalled.events,
        )
    assert counts.faults["client frozen"] == 1


class _Stalling(Deliveries):
    """A sink whose `deliver` does not return until it may: it stalls the thread that has to poll."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.may_go_on = threading.Event()

    def deliver(self, deliveries: Any) -> None:
        super().deliver(deliveries)
        self.entered.set()
        assert self.may_go_on.wait(PATIENCE)


def is_among(delivery: Delivery, others: list[Delivery]) -> bool:
    """Tell whether this very delivery is there."""
    return any(each is delivery for each in others)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_consumer_that_does_not_poll_for_too_long_comes_back(running: RunningTap, protocol: str) -> None:
    """The client gives its partitions up; nothing of the former assignment is settled, and all comes again."""
    name = f"stalled-{uuid4().hex[:8]}"
    with unimq.connect(running.url, timeout=PATIENCE) as broker:
        with broker.producer(name) as producer:
            for number in range(3):
                producer.send(b"%d" % number)
        options = KafkaOptions(session_timeout=SESSION)
        settings = consumer_settings(client_settings(parse_url(running.url), options), options, name, protocol, 10)
        sink = _Stalling()
        receiver = KafkaReceiver(
            {**settings, "max.poll.interval.ms": int(SESSION * 1000)},
            name,
            sink,
            10,
            is_ordered=False,
            find_topic_id=str,
            is_topic_missing=bool,
        )
        try:
            assert sink.entered.wait(PATIENCE)
            awaited(lambda: broker.stats(name).consumers == 0, "the consumer is out of its group")
            late: list[Delivery] = list(sink.came)
            sink.may_go_on.set()
            awaited(lambda: all(is_among(each, sink.gone) for each in late), "it is told that these are lost")
            again = len(late)
            sink.wait_for(again + 3)
            assert sorted({delivery.body for delivery in sink.came[again:]}) == [b"0", b"1", b"2"]
            # The lost ones touch nothing, the others are final.
            receiver.ack([*late, *(each for each in sink.came if not is_among(each, sink.gone))])
            awaited(lambda: broker.stats(name).ready == 0, "all is acked")
        finally:
            sink.may_go_on.set()
            receiver.close(PATIENCE)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("old", "new"), [pytest.param(5, 12, id="short"), pytest.param(100_000, 200_000, id="long", marks=SOAK)]
)
def test_a_topic_that_was_made_again_is_read_from_its_beginning(
    running: RunningTap, protocol: str, old: int, new: int
) -> None:
    """By other programs, which leave the group's old commits: those are about other messages."""
    name = f"again-{uuid4().hex[:8]}"
    with unimq.connect(url_of(running, protocol, partitions=1), timeout=PATIENCE) as broker:
        native: Any = broker.native
        with broker.producer(name) as producer:
            for number in range(old):
                producer.enqueue(b"old-%d" % number)
        consumer = broker.consumer(name)
        left = old
        while left:
            came = consumer.receive(1000, timeout=PATIENCE)
            assert came
            consumer.ack(came)
            left -= len(came)
        consumer.settle(PATIENCE)
        native.admin.delete_topics([name])[name].result(timeout=PATIENCE)
        awaited(lambda: _is_made(native.admin, name), "the topic is made again")
        sent = {b"new-%d" % number for number in range(new)}
        with unimq.connect(url_of(running, protocol), timeout=PATIENCE) as other, other.producer(name) as producer:
            for body in sorted(sent):
                producer.enqueue(body)
        seen: set[bytes] = set()
        deadline = time.monotonic() + PATIENCE
        while seen != sent:
            assert time.monotonic() < deadline, f"never came: {sorted(sent - seen)[:20]}"
            try:
                for delivery in consumer.receive(1000, timeout=1.0):
                    assert delivery.body in sent
                    seen.add(delivery.body)
                    delivery.ack()
            except unimq.NotFound:
                # It heard of the end of the old one; whoever goes on opens another.
                consumer.close()
                consumer = broker.consumer(name)
        consumer.settle(PATIENCE)
        consumer.close()
        assert broker.stats(name).ready == 0


def _is_made(admin: Any, name: str) -> bool:
    """Make a topic; false while the deletion of the old one is under way."""
    typed: Any = confluent_kafka.admin
    try:
        admin.create_topics([typed.NewTopic(name, 1, 1)])[name].result(timeout=PATIENCE)
    except confluent_kafka.KafkaException:
        return False
    return True
