"""What only the in-memory broker has: stores, its clock thread, and lanes under one lock."""

# What the tests hand around as `Any` and as lambdas is theirs alone; mypy checks it strictly all the same.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import unimq
from unimq import DeclarationConflict, MessageTooLarge, NotFound, Queue, QueueFull, Topic, Unroutable


@pytest.fixture
def broker() -> Iterator[Any]:
    with unimq.connect("memory://?private=true") as broker:
        yield broker


def clock_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("unimq-memory-clock")]


def bodies(deliveries: Any) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


def test_connections_of_one_name_share_their_queues_and_others_do_not() -> None:
    with unimq.connect("memory://shared-name") as one, unimq.connect("memory://shared-name") as two:
        one.producer("q").send(b"x")
        assert bodies(two.consumer("q").receive(timeout=0)) == [b"x"]
    with (
        unimq.connect("memory://other-name?declare=false") as other,
        pytest.raises(NotFound, match="memory://other-name"),
    ):
        other.consumer("q")
    with unimq.connect("memory://shared-name") as again:
        assert bodies(again.consumer("q").receive(timeout=0)) == [b"x"], "a store outlives its connections"
        again.delete("q", "q-dead")


def test_a_private_broker_is_its_own(broker: unimq.Broker) -> None:
    with unimq.connect("memory://?private=true&declare=false") as other:
        broker.declare("q")
        with pytest.raises(NotFound):
            other.producer("q")


def test_the_clock_thread_ends_with_the_last_connection() -> None:
    """L4."""
    with unimq.connect("memory://clock") as one, unimq.connect("memory://clock") as two:
        assert clock_threads() == []
        one.producer("q").send(b"x", delay=60)
        assert clock_threads() == ["unimq-memory-clock"]
        one.close()
        assert clock_threads() == ["unimq-memory-clock"]
        two.purge("q")
    assert clock_threads() == []


def test_a_delay_that_ends_while_nobody_is_connected() -> None:
    """T2."""
    with unimq.connect("memory://delayed") as broker:
        broker.producer("q").send(b"x", delay=0.05)
    time.sleep(0.06)  # The time itself is what is waited for.
    with unimq.connect("memory://delayed") as broker:
        assert bodies(broker.consumer("q").receive(timeout=5)) == [b"x"]
        broker.delete("q", "q-dead")


def test_a_lease_returns_the_message_and_fences_the_first_holder(broker: unimq.Broker) -> None:
    """A5, A6, A7."""
    consumer, other = [broker.consumer(Queue("q", lease=0.05), prefetch=1) for _ in range(2)]
    broker.producer("q").send(b"x")
    (first,) = consumer.receive(timeout=5)
    (second,) = other.receive(timeout=5)
    assert (first.attempt, second.attempt) == (1, 2)
    with pytest.raises(unimq.LeaseLost):
        first.ack()
    second.ack()
    assert broker.stats("q").ready == broker.stats("q").in_flight == 0


def test_extend_keeps_the_lease(broker: unimq.Broker) -> None:
    """A10."""
    consumer = broker.consumer(Queue("q", lease=0.05), prefetch=1)
    broker.producer("q").send(b"x")
    (delivery,) = consumer.receive(timeout=5)
    delivery.extend(60)
    assert broker.consumer("q").receive(timeout=0.1) == []
    delivery.ack()


def test_a_nacked_head_blocks_its_own_key_only(broker: unimq.Broker) -> None:
    """O1: successors of its key wait for it, others go on."""
    queue = Queue("q", ordering="key")
    with broker.producer(queue) as producer:
        for number in range(3):
            for key in "ab":
                producer.send(b"%s%d" % (key.encode(), number), key=key)
        producer.send(b"none", key=None)
    consumer = broker.consumer(queue)
    first = consumer.receive(10, timeout=0)
    assert bodies(first) == [b"a0", b"b0", b"none"]
    first[0].nack(0.05)
    first[1].ack()
    second = consumer.receive(10, timeout=0)
    assert bodies(second) == [b"b1"]
    second[0].ack()
    assert bodies(consumer.receive(10, timeout=0)) == [b"b2"]
    rest: list[bytes] = []
    while len(rest) < 3:
        (delivery,) = consumer.receive(10, timeout=5)
        rest.append(delivery.body)
        delivery.ack()
    assert rest == [b"a0", b"a1", b"a2"]


def test_closing_returns_ordered_messages_to_their_place(broker: unimq.Broker) -> None:
    """O1, A5, A9: uncounted."""
    queue = Queue("q", ordering="key")
    broker.producer(queue).send_many([unimq.Message(b"%d" % n, key="k") for n in range(3)])
    consumer = broker.consumer(queue)
    assert bodies(consumer.receive(timeout=0)) == [b"0"]
    consumer.close()
    received = []
    for delivery in broker.consumer(queue):
        received.append((delivery.body, delivery.attempt))
        delivery.ack()
        if len(received) == 3:
            break
    assert received == [(b"0", 1), (b"1", 1), (b"2", 1)]


def test_both_overflows(broker: unimq.Broker) -> None:
    """T3."""
    producer = broker.producer(Queue("reject", max_length=2))
    producer.send_many([b"1", b"2"])
    with pytest.raises(QueueFull, match="max_length of 2"):
        producer.send(b"3")
    outcomes = broker.producer(Queue("reject-many", max_length=2)).send_many([b"1", b"2", b"3"], return_errors=True)
    assert [type(outcome) for outcome in outcomes] == [unimq.Receipt, unimq.Receipt, QueueFull]
    producer = broker.producer(Queue("drop", max_length=2, overflow="drop_oldest"))
    producer.send_many([b"1", b"2", b"3"])
    assert bodies(broker.consumer("drop").receive(5, timeout=0)) == [b"2", b"3"]


def test_a_full_subscription_refuses_for_all(broker: unimq.Broker) -> None:
    """T3, G2: all or none, so that a retry duplicates nothing."""
    topic = Topic("t")
    full, free = topic.subscription("full", max_length=1), topic.subscription("free")
    broker.declare(full, free)
    producer = broker.producer(topic)
    producer.send(b"1")
    with pytest.raises(QueueFull):
        producer.send(b"2")
    assert bodies(broker.consumer(free).receive(5, timeout=0)) == [b"1"]


def test_a_topic_that_requires_a_subscription(broker: unimq.Broker) -> None:
    """G2."""
    with pytest.raises(Unroutable, match="no subscription"):
        broker.producer(Topic("strict", require_subscription=True)).send(b"x")
    assert broker.producer(Topic("forgetful")).send(b"x").message_id


def test_conflicting_declarations_name_the_difference(broker: unimq.Broker) -> None:
    broker.declare(Queue("q", ttl=5))
    with pytest.raises(DeclarationConflict, match=r"ttl is 5\.0, not 7\.0"):
        broker.declare(Queue("q", ttl=7))
    broker.declare("q")
    broker.declare(Topic("t"))
    with pytest.raises(DeclarationConflict, match="topic 't' exists as"):
        broker.declare(Topic("t", ordering="key"))


def test_a_deleted_queue_ends_its_consumers_and_fails_its_producers(broker: unimq.Broker) -> None:
    """S4, L3."""
    producer, consumer = broker.producer("q"), broker.consumer("q")
    producer.send(b"x")
    (held,) = consumer.receive(timeout=0)
    broker.delete("q")
    with pytest.raises(NotFound, match="was deleted"):
        consumer.receive(timeout=5)
    with pytest.raises(unimq.LeaseLost):
        held.ack()
    with pytest.raises(NotFound, match="declare it first"):
        producer.send(b"y")
    broker.declare("q")
    producer.send(b"z")
    assert bodies(broker.consumer("q").receive(timeout=0)) == [b"z"]


def test_the_size_limit_counts_key_and_headers() -> None:
    """S4."""
    with unimq.connect("memory://?private=true&max_message_bytes=10") as broker:
        producer = broker.producer("q")
        producer.send(b"12345", key="ab", headers={"c": b"de"})
        with pytest.raises(MessageTooLarge, match="11 bytes with key and headers"):
            producer.send(b"123456", key="ab", headers={"c": b"de"})
        outcomes = producer.send_many([b"1", b"x" * 11, b"3"], return_errors=True)
        assert [type(outcome) for outcome in outcomes] == [unimq.Receipt, MessageTooLarge, unimq.Receipt]


def test_stats_and_purge(broker: unimq.Broker) -> None:
    """T4."""
    producer = broker.producer("q")
    producer.send_many([b"1", b"2", b"3"])
    producer.send(b"later", delay=60)
    consumer = broker.consumer("q", prefetch=1)
    stats = broker.stats("q")
    assert (stats.ready, stats.in_flight, stats.delayed, stats.consumers, stats.exact) == (2, 1, 1, 1, True)
    assert stats.oldest_age is not None
    assert 0 <= stats.oldest_age < 60
    assert broker.purge("q") == 3
    assert broker.stats("q").ready == broker.stats("q").delayed == 0
    assert bodies(consumer.receive(5, timeout=0)) == [b"1"]


def test_work_is_spread_over_consumers(broker: unimq.Broker) -> None:
    """G1."""
    consumers = [broker.consumer("q", prefetch=10) for _ in range(3)]
    broker.producer("q").send_many([b"%d" % n for n in range(30)])
    assert [len(consumer.receive(100, timeout=0)) for consumer in consumers] == [10, 10, 10]


def test_a_paused_consumer_gets_nothing_new(broker: unimq.Broker) -> None:
    """R3."""
    consumer = broker.consumer("q")
    consumer.pause()
    broker.producer("q").send(b"x")
    assert consumer.receive(timeout=0.02) == []
    consumer.resume()
    assert bodies(consumer.receive(timeout=0)) == [b"x"]
