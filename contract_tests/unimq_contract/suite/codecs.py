"""Typed bodies: D3, and R2 through every codec."""

from typing import Any

import msgspec

import unimq
from unimq_contract.contract import Contract
from unimq_contract.guarantees import guarantee, needs
from unimq_contract.harness import Harness, shown
from unimq_contract.suite.dead_letters import dead_letters_of


class Order(msgspec.Struct):
    """What the tests send."""

    id: int
    lines: list[str] = []


WHOLE = Order(7, ["ä 1", "€ 2", "x" * 1000])
JSON = unimq.JSON(Order)
PLAIN: list[tuple[unimq.Codec[Order], str, str | None]] = [
    (JSON, "application/json", None),
    (unimq.MessagePack(Order), "application/msgpack", None),
    (unimq.Compressed(JSON, "gzip"), "application/json", "gzip"),
]
"""Codecs with the content type and content encoding that they set."""


def why(dead: unimq.Delivery) -> tuple[Any, ...]:
    """Return what the provenance says, but for the text of the error."""
    return tuple(dead.headers.get(f"unimq-dead-{name}") for name in ("reason", "attempts", "error-type"))


def dead_letters(
    consumer: unimq.Consumer[Any], morgue: unimq.Consumer, count: int, harness: Harness
) -> list[unimq.Delivery]:
    """Return so many dead letters; the consumer, which is to get nothing else, may still have to come across them."""
    found: list[unimq.Delivery] = []

    def are_there() -> bool:
        surplus = consumer.receive(10, timeout=harness.bounds.quiet)
        assert not surplus, f"nothing that can be decoded was left, but there came {shown(surplus)}"
        found.extend(morgue.receive(count - len(found), timeout=harness.bounds.quiet))
        return len(found) == count

    harness.eventually(are_there, f"{count} dead letters")
    return found


class CodecsContract(Contract):
    @guarantee("R2", kills=("content-type-dropped", "body-written-anew", "headers-dropped", "text-mangled"))
    def test_values_arrive_through_every_codec(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        """With the same bytes, content type and encoding on every backend, for programs that have no such codec."""
        for codec, content_type, encoding in PLAIN:
            with broker.producer(queue, codec=codec) as producer, broker.consumer(queue, codec=codec) as consumer:
                producer.send(WHOLE, headers={"source": "web"})
                delivery = harness.receive_one(consumer)
                assert delivery.value == WHOLE
                assert delivery.body == codec.encode(WHOLE).body
                assert delivery.content_type == content_type
                assert delivery.headers.get("content-encoding") == encoding
                assert delivery.headers.get("source") == "web"
                delivery.ack()

    @guarantee("R2", kills=("content-type-dropped",))
    def test_cloudevents_arrive_in_both_modes(self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness) -> None:
        """What is written is the mode of the backend's binding, or the JSON document; both are read."""
        event = unimq.CloudEvent(
            data=WHOLE, source="/web", type="order.created", subject="7", extensions={"region": "eu", "traceparent": ""}
        )
        codec = unimq.CloudEvents(Order)
        is_binary = harness.capabilities.cloudevents is not None
        with broker.consumer(queue, codec=codec) as consumer:
            for mode in (codec, unimq.CloudEvents(Order, mode="structured")):
                with broker.producer(queue, codec=mode) as producer:
                    producer.send(event)
                delivery = harness.receive_one(consumer)
                got = delivery.value
                event.datacontenttype = "application/json"
                assert got == event
                binary = is_binary and mode is codec
                assert delivery.content_type == ("application/json" if binary else "application/cloudevents+json")
                delivery.ack()

    @needs("dead_letter")
    @guarantee("D3", "D1", "A4", kills=("undecodable-dropped", "poison-comes-again"))
    def test_the_undecodable_is_dead_lettered_at_once_and_blocks_nobody(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        bad = {
            b'{"id": "seven"}': "$.id",
            b"{": "truncated",
            b'{"lines": []}': "missing required field `id`",
            b'{"id": 7, "lines": ["\xff"]}': "utf-8",
            b'{"id": 7, "unknown": ' + b"[" * 50_000: "recursion",
        }
        good = [Order(number) for number in range(10)]
        with broker.producer(queue) as raw, broker.producer(queue, codec=JSON) as producer:
            raw.send_many([unimq.Message(body, content_type="application/json") for body in bad])
            producer.send_many(good)
        with (
            broker.consumer(queue, codec=JSON, prefetch=3) as consumer,
            broker.consumer(dead_letters_of(queue)) as morgue,
        ):
            got: list[Order] = []
            while len(got) < len(good):
                delivery = harness.receive_one(consumer)
                got.append(delivery.value)
                delivery.ack()
            assert sorted(order.id for order in got) == [order.id for order in good]
            dead = dead_letters(consumer, morgue, len(bad), harness)
            assert {letter.body for letter in dead} == bad.keys()
            for letter in dead:
                assert why(letter) == ("undecodable", "1", "DecodeError")
                assert bad[letter.body] in str(letter.headers["unimq-dead-error"])
            morgue.ack(dead)
            harness.nothing_else(dead_letters_of(queue), broker, morgue)
            consumer.settle()
        harness.is_empty(queue, broker)

    @needs("dead_letter")
    @guarantee("D3", kills=("content-type-dropped", "undecodable-dropped"))
    def test_what_another_codec_made_is_not_misread(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        """The byte of the number 53 in MessagePack is the number 5 in JSON."""
        with (
            broker.producer(queue, codec=unimq.MessagePack(int)) as other,
            broker.producer(queue, codec=unimq.JSON(int)) as own,
        ):
            assert unimq.MessagePack(int).encode(53).body == unimq.JSON(int).encode(5).body
            other.send(53)
            own.send(6)
        with (
            broker.consumer(queue, codec=unimq.JSON(int)) as consumer,
            broker.consumer(dead_letters_of(queue)) as morgue,
        ):
            delivery = harness.receive_one(consumer)
            assert delivery.value == 6
            delivery.ack()
            (letter,) = dead_letters(consumer, morgue, 1, harness)
            assert why(letter) == ("undecodable", "1", "DecodeError")
            said = str(letter.headers["unimq-dead-error"])
            assert "'application/msgpack'" in said
            assert "'application/json'" in said
            letter.ack()
