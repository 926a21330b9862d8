"""The client library's own mock broker, and sinks that remember what they are told."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from confluent_kafka import Producer
from unimq_kafka._delayed_sends import OnFailure, OnPartitions

from unimq import Message, UnimqError
from unimq.adapter import Delivery, Outgoing


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for what another thread brings about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def outgoing(body: bytes, seconds: float = 20.0) -> Outgoing:
    """Return an entry as the portable layer makes it."""
    return Outgoing(Message(body, id=body.decode(), sent_at=time.time()), time.monotonic() + seconds, len(body))


class Outcomes:
    """An `OutcomeSink`."""

    def __init__(self) -> None:
        self.kept: list[Outgoing] = []
        self.errors: list[tuple[str, UnimqError]] = []

    def stored(self, entries: Sequence[Outgoing]) -> None:
        self.kept += entries

    def failed(self, entries: Sequence[Outgoing], error: UnimqError) -> None:
        self.errors += [(entry.message.id, error) for entry in entries]

    def wait_for(self, count: int) -> None:
        """Wait until so many are reported."""
        until(lambda: len(self.kept) + len(self.errors) >= count)

    def told(self) -> list[str]:
        """Return the ids of everything reported, in order of the text."""
        return sorted([entry.message.id for entry in self.kept] + [name for name, _ in self.errors])


class NoDelays:
    """For senders that send nothing with a delay."""

    def provide(self, topic: str, deadline: float, found: OnPartitions, failed: OnFailure) -> None:
        raise AssertionError(topic)


class Tiers:
    """A `Provider` that is asked and answers when the test wants it to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, OnPartitions, OnFailure]] = []

    def provide(self, topic: str, deadline: float, found: OnPartitions, failed: OnFailure) -> None:
        self.asked.append((topic, found, failed))

    def answer(self, partitions: int | UnimqError) -> None:
        """Answer the oldest question."""
        _, found, failed = self.asked.pop(0)
        if isinstance(partitions, int):
            found(partitions)
        else:
            failed(partitions)


class Deliveries:
    """A `DeliverySink`."""

    source_name = "orders"

    def __init__(self) -> None:
        self.came: list[Delivery] = []
        self.gone: list[Delivery] = []
        self.end: UnimqError | None = None
        self.changed = threading.Event()

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        self.came += deliveries

    def lost(self, deliveries: Sequence[Delivery]) -> None:
        self.gone += deliveries

    def failed(self, error: UnimqError) -> None:
        self.end = error

    def wait_for(self, count: int) -> None:
        """Wait until so many have come in all."""
        until(lambda: len(self.came) >= count)

    def bodies(self) -> list[bytes]:
        """Return what came, sorted."""
        return sorted(delivery.body for delivery in self.came)

    def ack(self, delivery: Delivery) -> None:
        raise NotImplementedError

    def nack(self, delivery: Delivery, delay: object) -> None:
        raise NotImplementedError

    def reject(self, delivery: Delivery, reason: str) -> None:
        raise NotImplementedError

    def extend(self, delivery: Delivery, duration: object) -> None:
        raise NotImplementedError


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """A mock broker inside a client of its own; it makes topics by itself and forgets them at the end."""
    cluster = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    broker = next(iter(cluster.list_topics(timeout=10).brokers.values()))
    yield f"{broker.host}:{broker.port}"
    cluster.close()
