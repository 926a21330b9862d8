"""Deduplication: copies are dropped, but never the redelivery of what was not handled."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import unimq
from unimq import ConfigError, Queue


@pytest.fixture
def broker() -> Iterator[unimq.Broker]:
    with unimq.connect("memory://?private=true") as connected:
        yield connected


def _left(broker: unimq.Broker) -> tuple[int | None, int | None]:
    stats = broker.stats("q")
    return stats.ready, stats.in_flight


def test_a_copy_of_what_was_handled_is_acked_and_not_handed_out(broker: unimq.Broker) -> None:
    with broker.producer("q") as producer, broker.consumer("q", middleware=[unimq.deduplication()]) as consumer:
        producer.send(b"1", message_id="a")
        consumer.receive()[0].ack()
        producer.send(b"1", message_id="a")
        producer.send(b"2", message_id="b")
        (other,) = consumer.receive(10)
        assert other.id == "b"
        other.ack()
        assert _left(broker) == (0, 0)


def test_what_failed_is_handed_out_again(broker: unimq.Broker) -> None:
    """It is marked after success, not before."""
    with broker.producer("q") as producer, broker.consumer("q", middleware=[unimq.deduplication()]) as consumer:
        producer.send(b"1", message_id="a")
        consumer.receive()[0].nack()
        (again,) = consumer.receive()
        assert (again.id, again.attempt) == ("a", 2)
        again.ack()
        assert _left(broker) == (0, 0)


def test_a_worker_whose_handler_fails_first_handles_it_in_the_end(broker: unimq.Broker) -> None:
    calls: list[str] = []
    with broker.producer("q") as producer, broker.consumer("q", middleware=[unimq.deduplication()]) as consumer:

        def handle(delivery: unimq.Delivery) -> None:
            calls.append(delivery.id)
            if calls.count("a") == 1 and delivery.id == "a":
                raise ValueError("at first")
            if delivery.id == "last":
                consumer.stop()

        for message_id in ("a", "a", "b", "b"):
            producer.send(b"", message_id=message_id)
        producer.send(b"", message_id="last", delay=0.2)
        consumer.run(handle, concurrency=4, retry=unimq.Retry(base=0))
        assert calls.count("a") == 2
        assert calls.count("b") == 1
        assert _left(broker) == (0, 0)


def test_a_copy_waits_for_the_first_one_and_is_acked_with_it(broker: unimq.Broker) -> None:
    with broker.producer("q") as producer, broker.consumer("q", middleware=[unimq.deduplication()]) as consumer:
        producer.send_many([unimq.Message(b"", id="a"), unimq.Message(b"", id="a"), unimq.Message(b"", id="b")])
        first, other = consumer.receive(10)
        assert (first.id, other.id) == ("a", "b")
        other.ack()
        assert _left(broker) == (0, 2)
        first.ack()
        assert _left(broker) == (0, 0)


def test_a_copy_comes_again_when_the_first_one_fails(broker: unimq.Broker) -> None:
    with broker.producer("q") as producer, broker.consumer("q", middleware=[unimq.deduplication()]) as consumer:
        producer.send_many([unimq.Message(b"", id="a"), unimq.Message(b"", id="a")])
        (first,) = consumer.receive(10)
        first.nack()
        (second,) = consumer.receive(10)
        second.ack()
        assert consumer.receive(10, timeout=0) == []
        assert _left(broker) == (0, 0)


def test_a_copy_of_a_dead_letter_is_dropped_but_a_redriven_one_is_handled(broker: unimq.Broker) -> None:
    queue = Queue("q", max_deliveries=1)
    with broker.producer(queue) as producer, broker.consumer(queue, middleware=[unimq.deduplication()]) as consumer:
        producer.send_many([unimq.Message(b"", id="a"), unimq.Message(b"", id="a")])
        (first,) = consumer.receive(10)
        first.reject("bad")
        assert broker.stats(queue).dead_letters == 1
        assert broker.redrive(queue).moved == 1
        (again,) = consumer.receive(10)
        again.ack()
        assert _left(broker) == (0, 0)


def test_copies_of_what_was_lost_are_given_back(broker: unimq.Broker) -> None:
    queue = Queue("q", lease=0.2)
    with broker.producer(queue) as producer, broker.consumer(queue, middleware=[unimq.deduplication()]) as consumer:
        producer.send_many([unimq.Message(b"", id="a"), unimq.Message(b"", id="a")])
        (first,) = consumer.receive(10)
        again = consumer.receive(10)
        assert first.lost
        again += consumer.receive(10, timeout=0.1)
        assert [each.id for each in again] == ["a"]
        again[0].ack()
        consumer.settle()
        consumer.receive(10, timeout=0.3)
        assert _left(broker) == (0, 0)


def test_the_window_is_bounded_and_per_source(broker: unimq.Broker) -> None:
    """L5."""
    once = unimq.deduplication(window=2)
    with (
        broker.producer("q") as producer,
        broker.producer("p") as elsewhere,
        broker.consumer("q", middleware=[once]) as consumer,
        broker.consumer("p", middleware=[once]) as other,
    ):
        elsewhere.send(b"", message_id="a")
        other.receive()[0].ack()
        for message_id in ("a", "b", "b", "c", "a"):
            producer.send(b"", message_id=message_id)
        handled: list[str] = []
        while taken := consumer.receive(timeout=0):
            handled.append(taken[0].id)
            taken[0].ack()
        assert handled == ["a", "b", "c", "a"]


def test_a_store_may_be_shared(broker: unimq.Broker) -> None:
    class Shared:
        """What a table in a database would be."""

        def __init__(self) -> None:
            self.rows: set[tuple[str, str]] = set()
            self.lock = threading.Lock()

        def contains(self, source: str, message_id: str) -> bool:
            with self.lock:
                return (source, message_id) in self.rows

        def add(self, source: str, message_id: str) -> None:
            with self.lock:
                self.rows.add((source, message_id))

    shared = Shared()
    with broker.producer("q") as producer:
        for _ in range(2):
            producer.send(b"", message_id="a")
            with broker.consumer("q", middleware=[unimq.deduplication(store=shared)]) as consumer:
                consumer.ack(consumer.receive(timeout=0))
    assert shared.rows == {("q", "a")}
    assert _left(broker) == (0, 0)


def test_a_window_of_nothing_is_refused() -> None:
    nothing: Any = 0
    with pytest.raises(ConfigError, match="window must be a whole number of at least 1"):
        unimq.deduplication(nothing)
