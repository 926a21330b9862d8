"""Limits, exactly at the edge and one beyond: S4, and those of T2, A3 and A5. What a backend declares no limit for is
tried far beyond what anybody needs.
"""

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

import unimq
from unimq_contract.contract import Contract
from unimq_contract.guarantees import guarantee, needs
from unimq_contract.harness import Connections, Destinations, Harness, bodies

LONGEST_NAME = 80
"""Of everything that has a name on every backend (S4)."""
DEAD = len("-dead")
TEN_YEARS = 10 * 365 * 86_400.0
"""A time that no backend without a limit may refuse or take for another."""
MANY_HEADERS = 1000
LONG_FIELD = 1000
"""Bytes of a name or an id that no backend without a limit may refuse."""

Fields = Callable[[int], unimq.Message]
"""Makes a message of this many bytes in the part that grows."""


@dataclass(frozen=True, slots=True)
class Edge:
    """The largest message that was accepted, and how many bytes the backend counted of the next one."""

    size: int
    next_counted: int


def counted(error: unimq.MessageTooLarge, limit: int) -> int:
    """Return how many bytes the backend counted: an error that does not say it and the limit helps nobody."""
    text = str(error).replace(",", "").replace("_", "")
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    assert limit in numbers, f"{error} does not name the limit {limit}"
    more = [number for number in numbers if limit < number < 2 * limit + 10_000]
    assert more, f"{error} does not say how many bytes it has"
    return more[0]


def refusal(producer: unimq.Producer, message: unimq.Message) -> unimq.MessageTooLarge | None:
    """Send a message; return why it is too large, or ``None`` if it was accepted."""
    try:
        producer.send(message)
    except unimq.MessageTooLarge as error:
        return error
    return None


def edge(producer: unimq.Producer, limit: int, make: Fields) -> Edge:
    """Return the largest message that is accepted, found from above: everything but that one is refused.

    How much an encoding adds is learnt from what the backend counts of two messages that are too large.
    """
    near, far = (
        counted(refused, limit) if (refused := refusal(producer, make(limit + more))) is not None else 0
        for more in (1, 3001)
    )
    assert near > limit, f"{limit + 1} bytes were accepted, and the limit is {limit}"
    assert far > near
    expected = limit + 1 - math.floor((near - limit) * 3000 / (far - near))
    last = 0
    for size in range(expected + 5, expected - 16, -1):
        refused = refusal(producer, make(size))
        if refused is None:
            assert last, f"{size} bytes were accepted, which is more than the limit of {limit} leaves room for"
            return Edge(size, last)
        last = counted(refused, limit)
    pytest.fail(f"none of {expected - 15} to {expected + 5} bytes was accepted, and the limit is {limit}")


def same(delivery: unimq.Delivery, message: unimq.Message) -> bool:
    """Tell whether everything arrived as it was sent; a plain comparison would print megabytes."""
    return (
        delivery.body == message.body
        and dict(delivery.headers) == dict(message.headers)
        and (delivery.id, delivery.key, delivery.content_type) == (message.id, message.key, message.content_type)
        and (delivery.correlation_id, delivery.reply_to) == (message.correlation_id, message.reply_to)
    )


def text(size: int) -> bytes:
    """Return a body that every backend carries as it is."""
    return b"t" * size


def binary(size: int) -> bytes:
    """Return a body that a backend of text has to encode."""
    return (bytes(range(256)) * (size // 256 + 1))[:size]


class LimitsContract(Contract):
    @pytest.mark.fronts("sync")
    @guarantee("S4", "S3", "R2", kills=("too-large-accepted", "refuses-at-the-limit", "refusal-spoils-neighbours"))
    def test_the_largest_message_is_what_is_declared(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        """With headers and encoding counted: the next byte is refused, alone, and nothing of it is stored."""
        limit = self.largest(harness)
        note: dict[str, str | bytes] = {"note": "n" * 500, "mark": b"\xff\x00"}
        kinds: list[tuple[Fields, int]] = [
            (lambda size: unimq.Message(text(size), id="plain"), 1),
            (lambda size: unimq.Message(text(size), key="k" * 100, headers=note, id="with-headers"), 1),
            # Base64, where it is needed, grows by four bytes.
            (lambda size: unimq.Message(binary(size), id="binary"), 4),
        ]
        sizes: list[int] = []
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            for make, step in kinds:
                found = edge(producer, limit, make)
                sizes.append(found.size)
                assert found.next_counted <= limit + step, f"{found.next_counted} bytes were refused, not only beyond"
                self.arrives(harness, consumer, [make(found.size)])
                self.is_refused_alone(producer, consumer, harness, make(found.size + 1))
            assert sizes[0] - sizes[1] >= 600, "headers and key count"
            harness.nothing_else(queue, broker, consumer)

    @needs("topics")
    @pytest.mark.fronts("sync")
    @guarantee("S4", "R2", kills=("too-large-accepted", "refuses-at-the-limit"))
    def test_the_largest_message_to_a_topic_is_what_is_declared(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        limit = harness.capabilities.max_topic_message_bytes or self.largest(harness)
        topic = destinations.topic()
        subscription = destinations.subscription(topic, "audit")
        broker.declare(subscription)
        with broker.producer(topic) as producer, broker.consumer(subscription) as consumer:
            found = edge(producer, limit, lambda size: unimq.Message(text(size), id="plain"))
            assert found.next_counted == limit + 1
            self.arrives(harness, consumer, [unimq.Message(text(found.size), id="plain")])
            harness.nothing_else(topic, broker, consumer)

    @pytest.mark.fronts("sync")
    @guarantee("S4", "R2", kills=("too-large-accepted", "long-headers-cut"))
    def test_the_largest_headers_are_what_is_declared(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        limit = harness.capabilities.max_header_bytes or self.largest(harness)

        def make(size: int) -> unimq.Message:
            return unimq.Message(b"small", headers={"note": "n" * size}, id="headers")

        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            found = edge(producer, limit, make)
            assert found.next_counted == limit + 1
            self.arrives(harness, consumer, [make(found.size)])
            self.is_refused_alone(producer, consumer, harness, make(found.size + 1))
            harness.nothing_else(queue, broker, consumer)

    @needs("dead_letter")
    @pytest.mark.fronts("sync")
    @guarantee("A4", "D1", "S4", kills=("dead-letter-lost", "reject-requeues"))
    def test_the_largest_message_can_be_dead_lettered(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        """Though nothing has room beside it: without its reason, if it must be, but neither lost nor for ever again."""
        dead = queue.dead_letters
        assert dead is not None

        def make(size: int) -> unimq.Message:
            return unimq.Message(text(size), id="plain")

        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            largest = make(edge(producer, self.largest(harness), make).size)
            harness.receive_one(consumer).reject("too long to read")
            consumer.settle()
            harness.nothing_else(queue, broker, consumer)
            with broker.consumer(dead) as last:
                delivery = harness.receive_one(last)
                assert delivery.body == largest.body
                assert delivery.id == largest.id
                delivery.ack()

    @guarantee("R2", "S4", kills=("headers-counted-off",))
    def test_headers_may_be_many(self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness) -> None:
        """No backend has a limit to their number."""
        headers = {f"h{number}": str(number) for number in range(MANY_HEADERS)}
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            message = unimq.Message(b"many", headers=headers, id="many")
            producer.send(message)
            self.arrives(harness, consumer, [message])

    @guarantee("S4", "R2", kills=("long-fields-cut",))
    def test_the_longest_fields_are_what_is_declared(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness, subtests: pytest.Subtests
    ) -> None:
        """Counted in bytes of UTF-8, each by itself."""
        limit = harness.capabilities.max_field_bytes
        longest = "é" + "x" * ((limit or LONG_FIELD) - 2)
        fields = ("id", "content_type", "correlation_id", "reply_to")

        def one(name: str, value: str) -> unimq.Message:
            given: dict[str, Any] = {"id": "as-any", name: value}
            return unimq.Message(b"f", **given)

        fitting = [one(name, longest) for name in fields]
        fitting.append(unimq.Message(b"f", headers={longest: "value"}, id="header"))
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            for message in fitting:
                producer.send(message)
                self.arrives(harness, consumer, [message])
            if limit is None:
                return
            too_long = [one(name, longest + "x") for name in fields]
            too_long.append(unimq.Message(b"f", headers={longest + "x": "value"}, id="header"))
            for what, message in zip((*fields, "header"), too_long, strict=True):
                with subtests.test(what):
                    with pytest.raises(unimq.InvalidMessage, match=str(limit)) as caught:
                        producer.send(message)
                    assert what in str(caught.value)
            harness.nothing_else(queue, broker, consumer)

    @guarantee("S4", "E1", "A4", kills=("dead-letters-of-long-names-lost", "long-names-are-one"))
    def test_names_of_the_longest_length_work_with_all_that_is_derived_from_them(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        longest = destinations.name(LONGEST_NAME)
        with_dead = destinations.name(LONGEST_NAME - DEAD)
        for name, dead_letter in ((longest + "x", False), (with_dead + "x", True)):
            with pytest.raises(unimq.ConfigError, match=str(len(name) - 1)) as caught:
                unimq.Queue(name, dead_letter=dead_letter)
            assert name in str(caught.value)
        plain = destinations.queue(longest, dead_letter=False)
        twin = destinations.queue(longest[:-1] + "y", dead_letter=False)
        with (
            broker.producer(plain) as producer,
            broker.consumer(plain) as consumer,
            broker.consumer(twin) as other,
        ):
            producer.send(b"to one of two that differ in the last letter")
            harness.receive_one(consumer).ack()
            harness.nothing_else(twin, broker, other)
        queue = destinations.queue(with_dead)
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send(b"no good")
            harness.receive_one(consumer).reject("for its name")
            consumer.settle()
            self.dead_letter_arrives(broker, queue, harness, b"no good")

    @needs("topics", "dead_letter")
    @guarantee("S4", "E1", "G2", "A4", kills=("dead-letters-of-long-names-lost",))
    def test_topics_and_subscriptions_of_the_longest_names_work(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        own = "audit"
        topic = destinations.topic(destinations.name(LONGEST_NAME - DEAD - len("--") - len(own)))
        with pytest.raises(unimq.ConfigError, match=str(LONGEST_NAME - DEAD)):
            topic.subscription(own + "s")
        with pytest.raises(unimq.ConfigError, match=str(LONGEST_NAME - DEAD)):
            unimq.Topic(destinations.name(LONGEST_NAME - DEAD + 1))
        subscription = destinations.subscription(topic, own)
        broker.declare(subscription)
        with broker.producer(topic) as producer, broker.consumer(subscription) as consumer:
            producer.send(b"news")
            harness.receive_one(consumer).reject("for its name")
            consumer.settle()
            self.dead_letter_arrives(broker, subscription.queue, harness, b"news")

    @needs("delay")
    @guarantee("T2", "P2", kills=("long-delays-come-at-once",))
    def test_the_longest_delay_is_accepted_and_the_next_refused_not_cut(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        longest = harness.capabilities.max_delay
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            assert producer.send(b"much later", delay=longest or TEN_YEARS).message_id
            if longest is not None:
                with pytest.raises(unimq.Unsupported, match=f"{longest:.10g}"):
                    producer.send(b"never", delay=longest + 1)
                outcomes = producer.send_many(
                    [b"before", unimq.Message(b"never", delay=longest + 1), b"after"], return_errors=True
                )
                assert [type(outcome) for outcome in outcomes] == [unimq.Receipt, unimq.Unsupported, unimq.Receipt]
                received = harness.receive(consumer, 2)
                assert bodies(received) == [b"after", b"before"]
                consumer.ack(received)
            harness.nothing_else(queue, broker, consumer)

    @needs("nack_delay")
    @guarantee("A3", "P2", kills=("long-nack-delays-come-at-once",))
    def test_the_longest_delay_of_a_nack_is_accepted_and_the_next_refused_not_cut(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        longest = harness.capabilities.max_nack_delay
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            sent_at = time.monotonic()
            producer.send(b"much later")
            delivery = harness.receive_one(consumer)
            if longest is not None:
                with pytest.raises(unimq.Unsupported, match=f"{longest:.10g}"):
                    delivery.nack(delay=longest + 1)
            # It is still held, and can be settled otherwise. Some backends count from the receipt.
            delivery.nack(delay=TEN_YEARS if longest is None else longest - math.ceil(time.monotonic() - sent_at) - 1)
            consumer.settle()
            harness.nothing_else(queue, broker, consumer)

    @needs("lease")
    @guarantee("A5", "P2", kills=("long-leases-end-at-once",))
    def test_the_longest_lease_is_accepted_and_the_next_refused_not_cut(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness, connect: Connections
    ) -> None:
        longest = harness.capabilities.max_lease
        if longest is not None:
            beyond = destinations.queue(lease=longest + 1)
            with pytest.raises(unimq.Unsupported, match=f"{longest:.10g}"):
                broker.declare(beyond)
            with pytest.raises(unimq.NotFound):
                connect(declare="false").consumer(unimq.Queue(beyond.name))
        queue = destinations.queue(lease=longest or TEN_YEARS)
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send(b"held")
            delivery = harness.receive_one(consumer)
            harness.nothing_else(queue, broker, consumer)
            delivery.ack()
            consumer.settle()

    @needs("lease", "extend")
    @guarantee("A10", "P2", kills=("long-leases-end-at-once",))
    def test_the_longest_extension_is_accepted_and_the_next_refused_not_cut(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        longest = harness.capabilities.max_lease
        lease = harness.bounds.delay * 2
        queue = destinations.queue(lease=lease)
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            sent_at = time.monotonic()
            producer.send(b"held")
            delivery = harness.receive_one(consumer)
            over_at = time.monotonic() + lease + harness.bounds.tolerance
            if longest is not None:
                with pytest.raises(unimq.Unsupported, match=f"{longest:.10g}"):
                    delivery.extend(longest + 1)
            delivery.extend(TEN_YEARS if longest is None else longest - math.ceil(time.monotonic() - sent_at) - 1)
            while (left := over_at - time.monotonic()) > 0:
                assert consumer.receive(timeout=left) == []
            harness.nothing_else(queue, broker, consumer)
            delivery.ack()
            consumer.settle()

    @staticmethod
    def largest(harness: Harness) -> int:
        """Return the size of the largest message of the backend."""
        largest = harness.capabilities.max_message_bytes
        assert largest is not None, "every backend has a limit; say it in Capabilities.max_message_bytes (S4)"
        return largest

    @staticmethod
    def arrives(harness: Harness, consumer: unimq.Consumer, sent: Sequence[unimq.Message]) -> None:
        """Fail unless exactly these come next, with everything that they were sent with."""
        received = harness.receive(consumer, len(sent))
        wrong = [delivery.id for delivery, message in zip(received, sent, strict=True) if not same(delivery, message)]
        assert not wrong, f"changed on the way: {wrong}"
        consumer.ack(received)

    @staticmethod
    def is_refused_alone(
        producer: unimq.Producer, consumer: unimq.Consumer, harness: Harness, too_large: unimq.Message
    ) -> None:
        """Fail unless the one message is refused and those before and after it in the same batch arrive."""
        outcomes = producer.send_many([b"before", too_large, b"after"], return_errors=True)
        assert [type(outcome) for outcome in outcomes] == [unimq.Receipt, unimq.MessageTooLarge, unimq.Receipt]
        received = harness.receive(consumer, 2)
        assert bodies(received) == [b"after", b"before"]
        consumer.ack(received)

    @staticmethod
    def dead_letter_arrives(broker: unimq.Broker, queue: unimq.Queue, harness: Harness, body: bytes) -> None:
        """Fail unless the dead letters of the queue give this message."""
        dead = queue.dead_letters
        assert dead is not None
        assert len(dead.name) == LONGEST_NAME
        with broker.consumer(dead) as consumer:
            delivery = harness.receive_one(consumer)
            assert (delivery.body, delivery.headers["unimq-dead-reason"]) == (body, "for its name")
            delivery.ack()
