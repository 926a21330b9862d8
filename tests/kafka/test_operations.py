"""Operations on a real broker: reading again from elsewhere, partitions, settings, deleting what others use."""

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import confluent_kafka.admin
import pytest
from unimq_contract.brokers import RunningTap
from unimq_contract.brokers import kafka as tap

import unimq

from .judged import PATIENCE, awaited

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("kafka-operations")]

PROTOCOLS = ("classic", "consumer")


@pytest.fixture(scope="module")
def running(start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap]) -> Iterator[RunningTap]:
    """A broker of our own, as some of these change what it has."""
    with start_or_skip(tap.start) as broker:
        yield broker


@pytest.fixture
def broker(running: RunningTap) -> Iterator[unimq.Broker]:
    """A connection to it, whose topics have two partitions."""
    with unimq.connect(f"{running.url}?partitions=2", timeout=PATIENCE) as connection:
        yield connection


def named(prefix: str = "operated") -> str:
    """Return a name that nobody else uses."""
    return f"{prefix}-{uuid4().hex[:8]}"


def bodies(broker: unimq.Broker, source: str | unimq.Queue | unimq.Subscription, count: int) -> list[bytes]:
    """Receive and ack so many, and return their bodies, sorted; nothing more must be there."""
    with broker.consumer(source) as consumer:
        found: list[bytes] = []
        while len(found) < count:
            received = consumer.receive(count, timeout=PATIENCE)
            assert received, f"{count - len(found)} of {count} did not come"
            found += [delivery.body for delivery in received]
            consumer.ack(received)
        consumer.settle(PATIENCE)
        assert broker.stats(source).ready == 0
    return sorted(found)


def send(broker: unimq.Broker, target: str | unimq.Topic, *sent: bytes) -> None:
    """Send these, confirmed."""
    with broker.producer(target) as producer:
        for body in sent:
            producer.send(body, key=body.decode())


class TestSeek:
    def test_a_queue_is_read_again_from_its_beginning(self, broker: unimq.Broker) -> None:
        name = named()
        send(broker, name, b"1", b"2", b"3")
        assert bodies(broker, name, 3) == [b"1", b"2", b"3"]
        broker.seek(name, "earliest")
        assert broker.stats(name).ready == 3
        assert bodies(broker, name, 3) == [b"1", b"2", b"3"]

    def test_one_subscription_moves_and_the_others_stay(self, broker: unimq.Broker) -> None:
        topic = unimq.Topic(named("events"))
        audit, stock = topic.subscription("audit"), topic.subscription("stock")
        broker.declare(audit, stock)
        send(broker, topic, b"1", b"2")
        broker.seek(audit, "now")
        send(broker, topic, b"3")
        assert bodies(broker, audit, 1) == [b"3"]
        assert bodies(broker, stock, 3) == [b"1", b"2", b"3"]

    def test_a_time(self, broker: unimq.Broker) -> None:
        name = named()
        send(broker, name, b"before")
        since = datetime.now(UTC)
        # Timestamps are whole milliseconds, and one of the same millisecond as `since` may be before it.
        awaited(lambda: (datetime.now(UTC) - since).total_seconds() > 0.002, "two milliseconds")
        send(broker, name, b"after-1", b"after-2")
        assert len(bodies(broker, name, 3)) == 3
        broker.seek(name, since)
        assert bodies(broker, name, 2) == [b"after-1", b"after-2"]
        broker.seek(name, datetime.now(UTC))
        assert broker.stats(name).ready == 0

    def test_offsets_of_some_partitions(self, broker: unimq.Broker) -> None:
        name = named()
        with broker.producer(name) as producer:
            # One key, one partition: 0 to 4 there, nothing in the other.
            receipts = [producer.send(b"%d" % number, key="k") for number in range(5)]
        assert len(bodies(broker, name, 5)) == 5
        position: Any = receipts[3].position
        broker.seek(name, {position.partition: position.offset})
        assert bodies(broker, name, 2) == [b"3", b"4"]

    def test_acks_above_a_gap_do_not_outlive_it(self, broker: unimq.Broker) -> None:
        """The map of what is done above an unfinished message belongs to the old position."""
        name = named()
        with broker.producer(name) as producer:
            for number in range(4):
                producer.send(b"%d" % number, key="k")
        with broker.consumer(name) as consumer:
            received: list[unimq.Delivery[bytes]] = []
            while len(received) < 4:
                received += consumer.receive(4, timeout=PATIENCE)
            for delivery in received[1:]:
                delivery.ack()
            consumer.settle(PATIENCE)
        assert broker.stats(name).ready == 1
        broker.seek(name, "earliest")
        assert bodies(broker, name, 4) == [b"0", b"1", b"2", b"3"]

    def test_not_while_there_are_consumers(self, running: RunningTap, broker: unimq.Broker) -> None:
        name = named()
        send(broker, name, b"1")
        with unimq.connect(running.url, timeout=PATIENCE) as other, other.consumer(name) as consumer:
            (held,) = consumer.receive(1, timeout=PATIENCE)
            with pytest.raises(unimq.DeclarationConflict, match="has consumers"):
                broker.seek(name, "now")
            held.ack()
            consumer.settle(PATIENCE)

    @pytest.mark.parametrize("to", [{2: 0}, {0: 1}, {0: 0, 1: 99}])
    def test_a_partition_or_offset_that_there_is_not(self, broker: unimq.Broker, to: dict[int, int]) -> None:
        name = named()
        broker.declare(name)
        with pytest.raises(unimq.ConfigError, match=r"has no (partition|offset)"):
            broker.seek(name, to)

    def test_a_source_that_there_is_not(self, broker: unimq.Broker) -> None:
        with pytest.raises(unimq.NotFound):
            broker.seek(named(), "earliest")
        topic = unimq.Topic(named("events"))
        broker.declare(topic)
        with pytest.raises(unimq.NotFound):
            broker.seek(topic.subscription("never-declared"), "earliest")


def grow(broker: unimq.Broker, topic: str, partitions: int) -> None:
    """Add partitions to a topic, as its owner does."""
    native: Any = broker.native
    admin: Any = confluent_kafka.admin
    native.admin.create_partitions([admin.NewPartitions(topic, partitions)])[topic].result(timeout=PATIENCE)


class TestPartitions:
    def test_new_ones_are_used_by_who_is_there(self, running: RunningTap, broker: unimq.Broker) -> None:
        topic = unimq.Topic(named("grown"))
        subscriptions = {protocol: topic.subscription(protocol) for protocol in PROTOCOLS}
        broker.declare(*subscriptions.values())
        with (
            unimq.connect(f"{running.url}?group_protocol=classic", timeout=PATIENCE) as classic,
            unimq.connect(f"{running.url}?group_protocol=consumer", timeout=PATIENCE) as newer,
            broker.producer(topic) as producer,
            classic.consumer(subscriptions["classic"]) as first,
            newer.consumer(subscriptions["consumer"]) as second,
        ):
            numbers = itertools.count()
            sent: set[bytes] = set()

            def partition_of_next() -> int:
                body = b"%d" % next(numbers)
                position: Any = producer.send(body, key=body.decode()).position
                sent.add(body)
                return int(position.partition)

            assert partition_of_next() < 2
            for consumer in (first, second):
                (delivery,) = consumer.receive(1, timeout=PATIENCE)
                delivery.ack()
            grow(broker, topic.name, 4)
            awaited(lambda: partition_of_next() >= 2, "the producer uses a new partition")
            for consumer in (first, second):
                left = sent - {b"0"}
                while left:
                    received = consumer.receive(10, timeout=PATIENCE)
                    assert received, f"{len(left)} of {len(sent)} did not come"
                    left -= {delivery.body for delivery in received}
                    consumer.ack(received)
                consumer.settle(PATIENCE)

    def test_they_are_not_taken_away(self, running: RunningTap, broker: unimq.Broker) -> None:
        queue = unimq.Queue(named())
        broker.declare(queue)
        with unimq.connect(f"{running.url}?partitions=1", timeout=PATIENCE) as other:
            with pytest.raises(unimq.DeclarationConflict, match="has 2 partitions"):
                other.declare(queue)
            # By its name alone it is taken as it is, and so it is by who does not say a number, or a larger one.
            other.declare(queue.name)
        for options in ("", "?partitions=2", "?partitions=9"):
            with unimq.connect(running.url + options, timeout=PATIENCE) as other:
                other.declare(queue)
        native: Any = broker.native
        assert len(native.admin.list_topics(topic=queue.name).topics[queue.name].partitions) == 2

    def test_copies_that_no_broker_is_there_for(self, running: RunningTap, broker: unimq.Broker) -> None:
        name = named()
        with (
            unimq.connect(f"{running.url}?replication=2", timeout=PATIENCE) as other,
            pytest.raises(unimq.ConfigError, match="INVALID_REPLICATION_FACTOR"),
        ):
            other.declare(unimq.Queue(name, dead_letter=False))
        with pytest.raises(unimq.NotFound):
            broker.stats(name)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("held", [True, False])
def test_a_queue_that_others_consume_is_deleted(
    running: RunningTap, broker: unimq.Broker, protocol: str, held: bool
) -> None:
    """They hear of it, and leave the group, whose offsets would lead a new queue of this name astray."""
    name = named("deleted")
    send(broker, name, b"1")
    url = f"{running.url}?group_protocol={protocol}"
    with unimq.connect(url, timeout=PATIENCE) as other, other.consumer(name) as consumer:
        (delivery,) = consumer.receive(1, timeout=PATIENCE)
        if not held:
            delivery.ack()
            consumer.settle(PATIENCE)
        broker.delete(name)
        with pytest.raises(unimq.NotFound):
            consumer.receive(1, timeout=PATIENCE)
    send(broker, name, b"2")
    assert bodies(broker, name, 1) == [b"2"]
