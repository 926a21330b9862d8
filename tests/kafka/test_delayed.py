"""Delayed messages on a real broker: several processes, deaths in the middle, and what is left behind."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from unimq_contract.brokers import RunningTap, start
from unimq_kafka._driver import Native

import unimq

from .conftest import until

pytestmark = pytest.mark.slow

WITHIN = 60.0


@pytest.fixture(scope="module")
def tap(start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap]) -> Iterator[RunningTap]:
    with start_or_skip(lambda: start("kafka")) as running:
        yield running


@pytest.fixture
def url(tap: RunningTap) -> str:
    return tap.tap.url


@pytest.fixture
def broker(url: str) -> Iterator[unimq.Broker]:
    with unimq.connect(url) as broker:
        yield broker


@pytest.fixture
def name() -> str:
    return f"q-{os.urandom(6).hex()}"


def read(consumer: unimq.Consumer, count: int, within: float = WITHIN) -> list[unimq.Delivery]:
    """Receive that many and ack each."""
    found: list[unimq.Delivery] = []
    deadline = time.monotonic() + within
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} came"
        received = consumer.receive(count - len(found), timeout=1)
        consumer.ack(received)
        found += received
    consumer.settle()
    return found


def topics(broker: unimq.Broker) -> set[str]:
    native = broker.native
    assert isinstance(native, Native)
    return set(native.admin.list_topics(timeout=10).topics)


def groups(broker: unimq.Broker) -> set[str]:
    native = broker.native
    assert isinstance(native, Native)
    # The client's types for administration are incomplete.
    admin: Any = native.admin
    return {group.group_id for group in admin.list_consumer_groups().result().valid}


@contextlib.contextmanager
def holder(url: str, queue: str) -> Generator[Callable[[], None]]:
    """A process that consumes the queue, holds the first message, and forwards; gives what kills it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "unimq_contract.holder", queue, "1"],
        env={**os.environ, "UNIMQ_URL": url},
        stdout=subprocess.PIPE,
    )
    with process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())
            yield process.kill
        finally:
            process.kill()


def forwarded_by_killed(
    broker: unimq.Broker, url: str, queue: unimq.Queue, delays: Sequence[float]
) -> tuple[list[unimq.Receipt], bool]:
    """Send one message per delay while two forwarders are killed; tell whether each of them left some to the next."""
    with broker.producer(queue) as producer:
        producer.send(b"to hold")
        with holder(url, queue.name) as kill:
            sent = producer.send_many([unimq.Message(b"%05d" % number, delay=d) for number, d in enumerate(delays)])
            until(lambda: (broker.stats(queue).ready or 0) > len(delays) // 10, WITHIN)
            kill()
        first = broker.stats(queue).delayed or 0
        producer.send(b"to hold")
        with holder(url, queue.name) as kill:
            # It gets the tiers when the session of the killed one is over.
            until(lambda: (broker.stats(queue).delayed or 0) <= first // 2, WITHIN)
            kill()
        second = broker.stats(queue).delayed or 0
    return sent, 0 < second < first < len(delays)


def test_forwarders_that_are_killed_lose_nothing(broker: unimq.Broker, url: str, name: str) -> None:
    """What they moved and had not committed comes twice, with the same id."""
    count = 6000
    # On a busy machine the first one may have forwarded all before it is seen to have begun.
    for spread in (7.5, 30.0):
        queue = unimq.Queue(f"{name}-over-{spread:.0f}-s")
        # The whole range of what there is: kept in memory, waiting in line, forwarded on its way through.
        delays = [0.5 + spread * number / count for number in range(count)]
        sent, is_shared = forwarded_by_killed(broker, url, queue, delays)
        if is_shared:
            break
    else:
        pytest.fail("proved nothing: all was forwarded by one")
    came: dict[bytes, set[str]] = {}
    with broker.consumer(queue, prefetch=1000) as consumer:
        deadline = time.monotonic() + WITHIN
        while len(came) < count + 1:
            assert time.monotonic() < deadline, f"{len(came)} of {count + 1} came"
            for delivery in consumer.receive(1000, timeout=1):
                came.setdefault(delivery.body, set()).add(delivery.id)
                delivery.ack()
        until(lambda: broker.stats(queue).delayed == 0)
    assert len(came.pop(b"to hold")) == 2
    assert came == {b"%05d" % number: {receipt.message_id} for number, receipt in enumerate(sent)}


def test_a_broker_that_is_killed_loses_nothing(tap: RunningTap, url: str, name: str) -> None:
    queue = unimq.Queue(name)
    with unimq.connect(url) as broker, broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        producer.send(b"first", delay=0.1)
        assert [delivery.body for delivery in read(consumer, 1)] == [b"first"]
        bodies = [b"%04d" % number for number in range(500)]
        producer.send_many([unimq.Message(body, delay=0.2 + number / 100) for number, body in enumerate(bodies)])
        tap.kill()
        tap.restart()
        came: set[bytes] = set()
        deadline = time.monotonic() + WITHIN
        while came != set(bodies):
            assert time.monotonic() < deadline, f"{len(came)} of 500 came"
            came |= {delivery.body for delivery in read(consumer, 1)}


def test_forwarders_that_come_and_go_forward_everything_once(broker: unimq.Broker, url: str, name: str) -> None:
    count = 3000
    queue = unimq.Queue(name)
    came: Counter[bytes] = Counter()
    is_over = threading.Event()

    def consume() -> None:
        """Consume for a while, again and again."""
        while not is_over.is_set():
            with unimq.connect(url) as other, other.consumer(queue, prefetch=50) as consumer:
                leave_at = time.monotonic() + 2.5
                while time.monotonic() < leave_at and not is_over.is_set():
                    received = consumer.receive(50, timeout=0.1)
                    consumer.ack(received)
                    came.update(delivery.body for delivery in received)

    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        producer.send_many([unimq.Message(b"%05d" % number, delay=1 + number / 300) for number in range(count)])
        worker = threading.Thread(target=consume)
        worker.start()
        deadline = time.monotonic() + WITHIN
        try:
            while len(came) < count:
                assert time.monotonic() < deadline, f"{len(came)} of {count} came"
                received = consumer.receive(50, timeout=0.1)
                consumer.ack(received)
                came.update(delivery.body for delivery in received)
        finally:
            is_over.set()
            worker.join(WITHIN)
    assert set(came.values()) == {1}


def test_a_consumer_that_was_there_before_finds_the_first_delayed_message(
    broker: unimq.Broker, url: str, name: str
) -> None:
    queue = unimq.Queue(name)
    with broker.consumer(queue) as consumer, unimq.connect(url) as other, other.producer(queue) as producer:
        producer.send(b"now")
        assert read(consumer, 1)[0].body == b"now"
        sent_at = time.monotonic()
        producer.send(b"later", delay=0.3)
        assert read(consumer, 1)[0].body == b"later"
        assert time.monotonic() - sent_at >= 0.3


def test_what_fell_due_while_nobody_consumed_comes_with_the_first_consumer(broker: unimq.Broker, name: str) -> None:
    queue = unimq.Queue(name)
    with broker.producer(queue) as producer:
        sent_at = time.time()
        producer.send(b"a", key="k", headers={"h": b"\xff"}, delay=0.2, content_type="t", correlation_id="c")
        producer.send(b"b", delay=1.1)
        producer.send(b"expires", delay=0.2, ttl=0.5)
        stats = broker.stats(queue)
        assert (stats.ready, stats.delayed) == (0, 3)
        time.sleep(max(0.0, sent_at + 1.2 - time.time()))
    with broker.consumer(queue) as consumer:
        first, second = sorted(read(consumer, 2), key=lambda delivery: delivery.body)
        # The ttl counts from the send: it was over before anybody could forward the message.
        assert consumer.receive(timeout=0.3) == []
    assert (first.body, first.key, dict(first.headers), first.content_type) == (b"a", "k", {"h": b"\xff"}, "t")
    assert (first.correlation_id, first.attempt, second.body) == ("c", 1, b"b")
    assert first.sent_at == pytest.approx(sent_at, abs=0.1)
    # One is not acked: the expired one is dropped, which is seen after its commit.
    until(lambda: broker.stats(queue).ready == broker.stats(queue).delayed == 0)


def test_other_programs_see_what_would_have_come_without_a_delay(broker: unimq.Broker, url: str, name: str) -> None:
    queue = unimq.Queue(name)
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        receipt = producer.send(b"x", key="k", headers={"a": "b"}, delay=0.2)
        read(consumer, 1)
    reader = Consumer({"bootstrap.servers": url.partition("//")[2], "group.id": f"reader-of-{name}", "log_level": 0})
    reader.assign([TopicPartition(name, partition, 0) for partition in range(4)])
    record = reader.poll(10)
    assert record is not None
    assert record.error() is None
    assert (record.value(), record.key()) == (b"x", b"k")
    assert record.headers() == [("unimq-id", receipt.message_id.encode()), ("a", b"b")]
    reader.close()


def test_a_deleted_queue_takes_what_is_delayed_along(broker: unimq.Broker, name: str) -> None:
    queue = unimq.Queue(name)
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        producer.send(b"arrives", delay=0.1)
        read(consumer, 1)
        producer.send(b"goes with its queue", delay=1.0)
    assert f"{name}.unimq-delay" in topics(broker)
    assert f"{name}.unimq-delay" in groups(broker)
    broker.delete(queue)
    assert not {each for each in topics(broker) | groups(broker) if each.startswith(name)} - {f"{name}-dead"}
    broker.declare(queue)
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        producer.send(b"of the new one", delay=1.5)
        assert [delivery.body for delivery in read(consumer, 1)] == [b"of the new one"]


def test_a_deleted_topic_takes_what_is_delayed_along(broker: unimq.Broker, name: str) -> None:
    topic = unimq.Topic(name)
    subscription = topic.subscription("audit")
    broker.declare(subscription)
    with broker.producer(topic) as producer, broker.consumer(subscription) as consumer:
        producer.send(b"arrives", delay=0.1)
        read(consumer, 1)
        producer.send(b"goes with its topic", delay=600)
        # The one that was forwarded counts until that is committed.
        until(lambda: broker.stats(subscription).delayed == 1)
        broker.delete(topic)
        with pytest.raises(unimq.NotFound):
            consumer.receive(timeout=10)
    assert not {each for each in topics(broker) | groups(broker) if each.startswith(name)} - {f"{name}--audit-dead"}


def test_two_subscriptions_get_a_delayed_message_once_each(broker: unimq.Broker, url: str, name: str) -> None:
    topic = unimq.Topic(name)
    first, second = topic.subscription("first"), topic.subscription("second")
    broker.declare(first, second)
    with (
        unimq.connect(url) as other,
        broker.producer(topic) as producer,
        broker.consumer(first) as of_first,
        other.consumer(second) as of_second,
    ):
        bodies = [b"%02d" % number for number in range(20)]
        producer.send_many([unimq.Message(body, delay=0.5) for body in bodies])
        for consumer in (of_first, of_second):
            assert sorted(delivery.body for delivery in read(consumer, 20)) == bodies
            assert consumer.receive(timeout=0.5) == []


def test_purge_drops_what_is_delayed(broker: unimq.Broker, name: str) -> None:
    queue = unimq.Queue(name)
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        producer.send(b"arrives", delay=0.1)
        read(consumer, 1)
        # In memory, in line, and neither.
        producer.send_many([unimq.Message(b"dropped", delay=delay) for delay in (0.9, 1.5, 3.0, 3600.0)])
        until(lambda: broker.stats(queue).delayed == 4)
        assert broker.purge(queue) == 4
        until(lambda: broker.stats(queue).delayed == 0)
        producer.send(b"marker", delay=3.5)
        assert [delivery.body for delivery in read(consumer, 1)] == [b"marker"]


def test_delayed_messages_of_one_key_keep_the_order_in_which_they_fall_due(broker: unimq.Broker, name: str) -> None:
    queue = unimq.Queue(name, ordering="key")
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        producer.send_many([unimq.Message(b"%03d" % number, key="k", delay=1.0) for number in range(200)])
        producer.send(b"at once", key="k")
        came = [delivery.body for delivery in read(consumer, 201)]
        assert came == [b"at once", *(b"%03d" % number for number in range(200))]


def test_a_long_nack_and_its_attempts_outlive_the_consumer(
    broker: unimq.Broker, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unimq_kafka._receiver.LONG_NACK", 1.0)
    queue = unimq.Queue(name, max_deliveries=3)
    with broker.producer(queue) as producer:
        receipt = producer.send(b"x", key="k", headers={"a": "b"})
    began = 0.0
    for attempt in (1, 2, 3):
        with broker.consumer(queue) as consumer:
            (delivery,) = consumer.receive(timeout=WITHIN)
            assert (delivery.attempt, delivery.id, delivery.key) == (attempt, receipt.message_id, "k")
            assert dict(delivery.headers) == {"a": "b"}
            assert time.monotonic() - began >= 1.5
            began = time.monotonic()
            delivery.nack(delay=1.5)
            consumer.settle()
            if attempt < 3:
                until(lambda: broker.stats(queue).delayed == 1)
    # The third failure was the last one that the policy allows.
    assert broker.stats(queue).dead_letters == 1
    until(lambda: broker.stats(queue).ready == broker.stats(queue).delayed == 0)


@pytest.mark.parametrize("kind", ["ordered", "subscription"])
def test_a_long_nack_waits_in_the_consumer_where_a_copy_would_be_wrong(
    broker: unimq.Broker, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would lose its place, or reach the other subscriptions."""
    monkeypatch.setattr("unimq_kafka._receiver.LONG_NACK", 0.5)
    topic = unimq.Topic(name)
    target = topic if kind == "subscription" else unimq.Queue(name, ordering="key")
    source = topic.subscription("audit") if isinstance(target, unimq.Topic) else target
    broker.declare(source)
    with broker.producer(target) as producer, broker.consumer(source) as consumer:
        producer.send(b"x", key="k")
        (delivery,) = consumer.receive(timeout=WITHIN)
        began = time.monotonic()
        delivery.nack(delay=1.0)
        assert [each.attempt for each in read(consumer, 1)] == [2]
        assert time.monotonic() - began >= 1.0
    assert f"{name}.unimq-delay" not in topics(broker)


def test_what_is_done_is_deleted_from_the_topic_of_delays(url: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unimq_kafka._delays._TRIM_INTERVAL", 0.2)
    queue = unimq.Queue(name)
    with unimq.connect(url) as broker, broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        producer.send_many([unimq.Message(b"x", delay=0.1) for _ in range(10)])
        producer.send(b"waits", delay=2.0)
        read(consumer, 10)
        looker = Consumer(
            {"bootstrap.servers": url.partition("//")[2], "group.id": f"looker-of-{name}", "log_level": 0}
        )
        delays = [TopicPartition(f"{name}.unimq-delay", partition) for partition in (0, 1)]

        def first_offsets() -> list[int]:
            return [looker.get_watermark_offsets(partition, timeout=10)[0] for partition in delays]

        until(lambda: first_offsets() == [10, 0])
        assert broker.stats(queue).delayed == 1
        assert read(consumer, 1)[0].body == b"waits"
        until(lambda: first_offsets() == [10, 1])
        looker.close()


def test_nothing_of_a_topic_of_delays_outlives_its_connection(url: str, name: str) -> None:
    queue = unimq.Queue(name)
    with unimq.connect(url) as broker, broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        producer.send(b"x", delay=0.1)
        read(consumer, 1)
        assert f"unimq-kafka-delays-{name}" in {thread.name for thread in threading.enumerate()}
        consumer.close()
        assert f"unimq-kafka-delays-{name}" not in {thread.name for thread in threading.enumerate()}
        producer.send(b"waits", delay=600)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("unimq-kafka")]
