"""Codecs at the seam: what the portable layer does with one, whatever it is."""

import asyncio
import logging
from typing import Any

import pytest

import unimq
from unimq import DecodeError, Encoded, InvalidMessage, Message, Queue, SendRejected


class Number:
    """A codec of whole numbers."""

    def __repr__(self) -> str:
        return "Number()"

    def encode(self, value: int) -> Encoded:
        return Encoded(str(value + 0).encode(), "text/x-number", {"x-sign": "-" if value < 0 else "+"})

    def decode(self, message: Message) -> int:
        if message.content_type != "text/x-number":
            raise DecodeError(f"content type {message.content_type!r}; expected 'text/x-number'")
        return int(message.body)


@pytest.fixture
def memory() -> Any:
    with unimq.connect("memory://?private=true") as broker:
        yield broker


def test_values_go_through_every_way_of_sending(memory: unimq.Broker) -> None:
    """R2."""
    with memory.producer("n", codec=Number()) as producer, memory.consumer("n", codec=Number()) as consumer:
        producer.send(1, headers={"a": "b"})
        producer.send_many([2, Message(b"3", content_type="text/x-number")])
        producer.enqueue(-4)
        producer.flush()
        got = consumer.receive(10, timeout=1)
        assert [each.value for each in got] == [1, 2, 3, -4]
        assert [each.body for each in got] == [b"1", b"2", b"3", b"-4"]
        assert dict(got[0].headers) == {"a": "b", "x-sign": "+"}
        consumer.ack(got)


def test_without_a_codec_the_value_is_the_body(memory: unimq.Broker) -> None:
    with memory.producer("n") as producer, memory.consumer("n") as consumer:
        producer.send(b"x")
        assert next(iter(consumer)).value == b"x"


@pytest.mark.parametrize(
    ("further", "said"),
    [
        ({"headers": {"x-sign": "?"}}, "'x-sign' is set by Number"),
        ({"content_type": "text/plain"}, "makes 'text/x-number'"),
    ],
)
def test_what_contradicts_the_codec_is_refused(memory: unimq.Broker, further: dict[str, Any], said: str) -> None:
    """S4."""
    with memory.producer("n", codec=Number()) as producer:
        with pytest.raises(InvalidMessage, match=said):
            producer.send(1, **further)
        assert memory.stats("n").ready == 0


def test_a_value_that_cannot_be_encoded_harms_no_other(memory: unimq.Broker) -> None:
    """S3, S4."""
    wrong: Any = "one"
    with memory.producer("n", codec=Number()) as producer:
        with pytest.raises(InvalidMessage, match="cannot encode str") as refused:
            producer.send(wrong)
        assert isinstance(refused.value.__cause__, TypeError)
        good, bad = producer.send_many([1, wrong], return_errors=True)
        assert isinstance(good, unimq.Receipt)
        assert isinstance(bad, InvalidMessage)
        assert memory.stats("n").ready == 1


@pytest.mark.parametrize(
    ("body", "content_type", "kind", "text"),
    [
        (b"1", "text/plain", "DecodeError", "expected 'text/x-number'"),
        (b"one", "text/x-number", "DecodeError", "invalid literal for int"),
    ],
)
def test_the_undecodable_goes_to_the_dead_letters_at_once(
    memory: unimq.Broker, body: bytes, content_type: str, kind: str, text: str
) -> None:
    """D3, D1."""
    with memory.producer("n") as producer, memory.consumer("n", codec=Number()) as consumer:
        producer.send(body, content_type=content_type)
        producer.send(b"2", content_type="text/x-number")
        assert [each.value for each in consumer.receive(10, timeout=1)] == [2]
        with memory.consumer("n-dead") as dead:
            (letter,) = dead.receive(timeout=1)
            assert letter.headers["unimq-dead-reason"] == "undecodable"
            assert letter.headers["unimq-dead-attempts"] == "1"
            assert letter.headers["unimq-dead-error-type"] == kind
            assert text in str(letter.headers["unimq-dead-error"])
            assert letter.body == body


def test_the_undecodable_without_dead_letters_is_dropped_with_a_warning(
    memory: unimq.Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """D4."""
    queue = Queue("n", dead_letter=False)
    with memory.producer(queue) as producer, memory.consumer(queue, codec=Number()) as consumer:
        producer.send(b"one", content_type="text/x-number")
        with caplog.at_level(logging.WARNING, "unimq"):
            assert consumer.receive(timeout=0) == []
        assert "dropped (undecodable" in caplog.text
        assert memory.stats(queue).ready == memory.stats(queue).in_flight == 0


def test_the_kept_text_of_an_error_is_bounded_and_can_be_stored(memory: unimq.Broker) -> None:
    class Wordy(Number):
        def decode(self, message: Message) -> int:
            raise ValueError("\ud800" * 5000)

    with memory.producer("n") as producer, memory.consumer("n", codec=Wordy()) as consumer:
        producer.send(b"x")
        assert consumer.receive(timeout=0) == []
        with memory.consumer("n-dead") as dead:
            (letter,) = dead.receive(timeout=1)
            assert len(letter.headers["unimq-dead-error"]) == 1000


def test_the_asyncio_front_encodes_and_decodes_too() -> None:
    asyncio.run(_both_ways_with_asyncio())


async def _both_ways_with_asyncio() -> None:
    async with (
        unimq.connect_async("memory://?private=true") as broker,
        broker.producer("n", codec=Number()) as producer,
        broker.consumer("n", codec=Number()) as consumer,
    ):
        await producer.send(5)
        await producer.send_many([6])
        await producer.enqueue(7)
        await producer.flush()
        assert [each.value for each in await consumer.receive(10)] == [5, 6, 7]
        with pytest.raises(SendRejected):
            await producer.send(8, headers={"x-sign": ""})
