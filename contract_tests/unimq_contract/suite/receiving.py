"""Receive: R1 to R5."""

import random
import time

import unimq
from unimq_contract.contract import Contract
from unimq_contract.guarantees import guarantee, needs
from unimq_contract.harness import Background, Destinations, Harness, bodies, numbered

BODIES = [
    b"",
    b"\x00",
    bytes(range(256)),
    b"\xff\xfe invalid UTF-8 \xc3",
    b"1",
    b"null",
    b"{}",
    b" \t\r\n",
    "naïve – 消息 – 🐇".encode(),
    b"line\x0b\x1b\x7fcontrol",
    bytes(range(256)) * 400,
]
"""What bodies may be: all 256 byte values, nothing at all, what looks like JSON, what is no text (R2)."""

HEADERS: list[dict[str, str | bytes]] = [
    {},
    {"plain": "value"},
    {"empty": "", "empty-bytes": b""},
    {"binary": bytes(range(256)), "text": "not binary"},
    {"unicode-naïve-消息": "naïve – 消息 – 🐇", "a b": " spaces ", "dots.and_lines": "x"},
    {"CC": "some-queue", "BCC": "another", "x-death": "mine", "x-delay": "5", "AWS.trace": "mine"},
    {"Case": "upper", "case": "lower", "content-type": "mine", "id": "mine", "key": "mine"},
    {f"header-{number:02}": f"value {number}" for number in range(40)},
    {"digits": "5", "json": '{"a": 1}', "bytes-digits": b"5", "control": "\x00\x01\t\n"},
]
"""What headers may be: more than the ten of SQS, binary, empty, names that brokers give a meaning to (R2)."""

FIELDS: list[dict[str, str | None]] = [
    {"key": None, "content_type": None, "correlation_id": None, "reply_to": None},
    {"key": "", "content_type": "", "correlation_id": "", "reply_to": ""},
    {"key": "customer-7", "content_type": "application/json", "correlation_id": "c-1", "reply_to": "answers"},
    {"key": "naïve 消息 🐇", "content_type": "text/plain; charset=utf-8", "correlation_id": "消息", "reply_to": "🐇"},
]
"""Values of the other fields; none differs from empty (R2)."""


def content(message: unimq.Message | unimq.Delivery) -> tuple[object, ...]:
    """Return everything that a user gave to a message."""
    headers = sorted((name, type(value), value) for name, value in message.headers.items())
    return (
        message.body,
        message.key,
        headers,
        message.id,
        message.content_type,
        message.correlation_id,
        message.reply_to,
    )


class ReceiveContract(Contract):
    @guarantee(
        "R2",
        kills=(
            "empty-body-lost",
            "text-mangled",
            "body-truncated",
            "headers-dropped",
            "eleventh-header-dropped",
            "binary-headers-become-text",
            "empty-key-for-none",
        ),
    )
    def test_every_message_arrives_equal(self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness) -> None:
        sent = [unimq.Message(body, id=f"body-{number}") for number, body in enumerate(BODIES)]
        sent += [unimq.Message(b"h", headers=headers, id=f"headers-{n}") for n, headers in enumerate(HEADERS)]
        sent += [unimq.Message(b"f", id=f"fields-{number}", **fields) for number, fields in enumerate(FIELDS)]  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send_many(sent)
            received = {delivery.id: delivery for delivery in harness.receive(consumer, len(sent))}
            for message in sent:
                assert content(received[message.id]) == content(message)
                assert received[message.id].source == queue.name
            # And once more: what was given back keeps everything.
            for delivery in received.values():
                delivery.nack()
            again = {delivery.id: delivery for delivery in harness.receive(consumer, len(sent))}
            for message in sent:
                assert content(again[message.id]) == content(message)
            consumer.ack(again.values())
            harness.nothing_else(queue, broker, consumer)

    @guarantee("R2", kills=("internal-headers-leak", "attempt-sticks-to-message"))
    def test_what_is_sent_on_takes_nothing_of_its_delivery_along(
        self, broker: unimq.Broker, queue: unimq.Queue, destinations: Destinations, harness: Harness
    ) -> None:
        """A message that was redelivered and is sent on to another queue is a new one there, with the same content."""
        onward = destinations.queue()
        sent = unimq.Message(b"to be sent on", key="k", headers={"mine": "yes"}, content_type="text/plain")
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send(sent)
            harness.receive_one(consumer).nack()
            delivery = harness.receive_one(consumer)
            assert dict(delivery.headers) == {"mine": "yes"}
            with broker.producer(onward) as forward, broker.consumer(onward) as last:
                forward.send(delivery.message)
                arrived = harness.receive_one(last)
                assert content(arrived) == content(delivery)
                assert (arrived.attempt, arrived.source) == (1, onward.name)
                arrived.ack()
            delivery.ack()

    @guarantee("R3", kills=("room-only-when-empty",))
    def test_what_is_held_takes_no_more_room_than_itself(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        """While half of the prefetch is held, everything else goes through the other half."""
        with broker.producer(queue) as producer, broker.consumer(queue, prefetch=10) as consumer:
            producer.send_many(numbered(40))
            held = harness.receive(consumer, 5)
            others: list[bytes] = []
            while len(others) < 35:
                delivery = harness.receive_one(consumer)
                others.append(delivery.body)
                delivery.ack()
            assert sorted(others + [delivery.body for delivery in held]) == numbered(40)
            consumer.ack(held)
            harness.nothing_else(queue, broker, consumer)

    @guarantee("R2", kills=("nack-acks",))
    def test_a_message_tells_when_it_was_sent(self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness) -> None:
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            before = time.time()
            producer.send(b"now")
            after = time.time()
            delivery = harness.receive_one(consumer)
            # Both clocks are ours; a millisecond is lost to rounding.
            assert before - 0.001 <= delivery.sent_at <= after + 0.001
            delivery.nack()
            assert harness.receive_one(consumer).sent_at == delivery.sent_at

    @guarantee("R3", kills=("prefetch-ignored",))
    def test_no_more_than_prefetch_are_unsettled(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        with broker.producer(queue) as producer:
            producer.send_many(numbered(10))
        with broker.consumer(queue, prefetch=3) as consumer:
            held = harness.receive(consumer, 3)
            assert consumer.receive(10, timeout=harness.bounds.quiet) == []
            seen = [delivery.body for delivery in held]
            while len(seen) < 10:
                held.pop(0).ack()
                delivery = harness.receive_one(consumer)
                assert consumer.receive(10, timeout=harness.bounds.quiet / 4) == []
                held.append(delivery)
                seen.append(delivery.body)
            assert sorted(seen) == numbered(10)
            consumer.ack(held)

    @guarantee("R3", "A3", kills=("nack-acks", "nack-only-at-restart", "room-only-when-empty"))
    def test_a_nack_makes_room_too(self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness) -> None:
        with broker.producer(queue) as producer:
            producer.send_many(numbered(4))
        with broker.consumer(queue, prefetch=1) as consumer:
            acked: list[bytes] = []
            nacked: set[bytes] = set()
            while len(acked) < 4:
                delivery = harness.receive_one(consumer)
                if delivery.body in nacked:
                    delivery.ack()
                    acked.append(delivery.body)
                else:
                    nacked.add(delivery.body)
                    delivery.nack()
            assert sorted(acked) == numbered(4)

    @needs("pause")
    @guarantee("R3", kills=("pause-ignored",))
    def test_a_paused_consumer_fetches_nothing_and_settles(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        with broker.producer(queue) as producer, broker.consumer(queue, prefetch=2) as consumer:
            producer.send(b"before")
            held = harness.receive_one(consumer)
            consumer.pause()
            producer.send_many(numbered(5))
            held.ack()
            consumer.settle()
            assert len(consumer.receive(5, timeout=harness.bounds.quiet)) <= 1, "one may have been fetched before"
            consumer.resume()
            rest = harness.receive(consumer, 1)
            assert rest[0].body in numbered(5)

    @guarantee("R4", kills=("greets-consumers",))
    def test_an_empty_receive_ends_at_its_timeout(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        with broker.consumer(queue) as consumer:
            wait = harness.bounds.quiet * 2
            began = time.monotonic()
            assert consumer.receive(timeout=wait) == []
            took = time.monotonic() - began
            assert wait - harness.bounds.tolerance <= took <= wait + harness.bounds.within
            assert consumer.receive(timeout=0) == []

    @guarantee("R4", kills=("slow-wake",))
    def test_a_waiting_receive_wakes_for_a_message(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            # The first message shows that the consumer is at work, so that the second one measures the wake-up alone.
            producer.send(b"first")
            harness.receive_one(consumer).ack()
            waiting = Background(lambda: consumer.receive(10, timeout=harness.bounds.within))
            sent_at = time.monotonic()
            producer.send(b"second")
            found = waiting.result(harness.bounds.within)
            assert bodies(found) == [b"second"]
            assert waiting.ended_at is not None
            assert waiting.ended_at - sent_at < harness.bounds.wake
            consumer.ack(found)

    @guarantee("R4", kills=("lose-some", "batch-loses-one"))
    def test_receive_gives_what_is_there_and_never_more_than_asked(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send_many(numbered(7))
            received = harness.receive(consumer, 1)
            while len(received) < 7:
                found = consumer.receive(3, timeout=harness.bounds.within)
                assert 1 <= len(found) <= 3
                received += found
            assert bodies(received) == numbered(7)
            consumer.ack(received)

    @guarantee("R4", "L1", kills=("lose-some", "batch-loses-one"))
    def test_iteration_yields_until_the_consumer_is_closed(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send_many(numbered(5))

            def iterate() -> list[bytes]:
                seen: list[bytes] = []
                for delivery in consumer:
                    seen.append(delivery.body)
                    delivery.ack()
                    if len(seen) == 5:
                        producer.send(b"last")
                    if delivery.body == b"last":
                        last_seen.append(True)
                return sorted(seen)

            last_seen: list[bool] = []
            iterating = Background(iterate)
            harness.eventually(lambda: last_seen, "the last message was iterated over")
            consumer.close()
            assert iterating.result(harness.bounds.within) == [*numbered(5), b"last"]

    @guarantee("R5", "S1", kills=("phantom",))
    def test_queues_do_not_share_messages(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        one, other = destinations.queue(), destinations.queue()
        with (
            broker.producer(one) as to_one,
            broker.producer(other) as to_other,
            broker.consumer(one) as from_one,
            broker.consumer(other) as from_other,
        ):
            to_one.send_many(numbered(10))
            to_other.send_many(numbered(10, first=101))
            received_one, received_other = harness.receive(from_one, 10), harness.receive(from_other, 10)
            assert bodies(received_one) == numbered(10)
            assert bodies(received_other) == numbered(10, first=101)
            from_one.ack(received_one)
            from_other.ack(received_other)
            harness.nothing_else(one, broker, from_one)
            harness.nothing_else(other, broker, from_other)

    @guarantee("R1", "R5", "A1", "A3", kills=("lose-some", "phantom", "nack-acks", "redelivers-acked"))
    def test_a_random_history_settles_every_message_once(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        """Each message is nacked up to two times, then acked, in no order: acked are exactly those that were sent."""
        chance = random.Random(8)
        count = harness.bounds.backlog // 3
        acked: list[bytes] = []
        attempts: dict[bytes, int] = {}
        nacks = 0
        with broker.producer(queue) as producer, broker.consumer(queue, prefetch=20) as consumer:
            for body in numbered(count):
                producer.enqueue(body)
            held: list[unimq.Delivery] = []
            while len(acked) < count:
                held += harness.receive(consumer, 1) if not held else consumer.receive(20, timeout=0)
                chance.shuffle(held)
                delivery = held.pop()
                attempts[delivery.body] = attempts.get(delivery.body, 0) + 1
                assert delivery.attempt == attempts[delivery.body]
                if delivery.attempt < 3 and chance.random() < 0.4:
                    nacks += 1
                    delivery.nack()
                else:
                    delivery.ack()
                    acked.append(delivery.body)
            assert sorted(acked) == numbered(count)
            assert nacks >= count // 5, "proved nothing"
            harness.nothing_else(queue, broker, consumer)
        harness.is_empty(queue, broker)
