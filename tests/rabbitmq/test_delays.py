"""Queues of delays: their lengths and names, when they are declared, and what becomes of the original of a copy."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import exceptions, frame
from pika.spec import Basic, BasicProperties
from unimq_rabbitmq import _wire
from unimq_rabbitmq._delayed_nacks import DelayedNacks
from unimq_rabbitmq._delays import LONGEST, DelayQueues, rounded_up
from unimq_rabbitmq._receiver import RabbitMQReceiver

from unimq.adapter import Delivery, Message, Outgoing


@given(st.floats(0.0, LONGEST))
def test_a_rounded_delay_is_never_shorter_and_at_most_an_eighth_longer(delay: float) -> None:
    """T2."""
    found = rounded_up(delay)
    assert found >= delay * 1000
    assert found <= max(16, delay * 1000 * 1.125 + 1)
    assert found < 2**32


def test_all_delays_make_a_bounded_number_of_queues() -> None:
    lengths = {rounded_up(milliseconds / 1000) for milliseconds in range(1, 70_000)}
    assert len(lengths) <= 8 * 13 + 1
    assert sorted(lengths)[:3] == [16, 18, 20]


class Channel:
    """Writes down what is declared."""

    def __init__(self) -> None:
        self.declared: list[tuple[str, dict[str, Any]]] = []

    def queue_declare(self, name: str, *, durable: bool, arguments: dict[str, Any]) -> None:
        assert durable
        self.declared.append((name, arguments))


def test_a_queue_is_declared_once_a_minute_and_again_on_a_new_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    channel: Any = Channel()
    made: set[str] = set()
    delays = DelayQueues("", "orders", made)
    assert [delays.queue_for(channel, 1.5) for _ in range(3)] == ["orders.delay.1536"] * 3
    assert [name for name, _ in channel.declared] == ["orders.delay.1536"]
    assert made == {"orders.delay.1536"}
    arguments = channel.declared[0][1]
    assert arguments["x-message-ttl"] == 1536
    assert (arguments["x-dead-letter-exchange"], arguments["x-dead-letter-routing-key"]) == ("", "orders")
    # What is published just before the next declaration has left the queue before the broker deletes it.
    assert arguments["x-expires"] >= 1536 + 60_000
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    delays.queue_for(channel, 1.5)
    assert len(channel.declared) == 2
    delays.forget()
    delays.queue_for(channel, 1.5)
    assert len(channel.declared) == 3


def test_a_topic_and_a_queue_of_one_name_have_different_ones() -> None:
    channel: Any = Channel()
    assert DelayQueues("events", "", set()).queue_for(channel, 1) == "events.topic-delay.1024"
    assert channel.declared[0][1]["x-dead-letter-exchange"] == "events"
    assert DelayQueues("", "events", set()).queue_for(channel, 1) == "events.delay.1024"


def test_a_copy_keeps_what_others_wrote_and_counts_on() -> None:
    """A3, A7, R2."""
    native = BasicProperties(
        priority=3,
        app_id="theirs",
        expiration="60000",
        headers={"n": 7, "x-death": [{"count": 1}], "x-delivery-count": 1, "CC": ["elsewhere"]},
    )
    delivery = Delivery(Message(b"x", id="1"), 2, None, None, native)  # type: ignore[arg-type]
    copy = _wire.again(Outgoing(delivery.message, 0.0, 1), delivery, 5.0).properties
    assert copy is not None
    assert (copy.priority, copy.app_id, copy.expiration) == (3, "theirs", None)
    assert copy.headers == {"n": 7, "unimq-attempts": 2, "unimq-escaped-CC": ["elsewhere"]}
    assert (native.headers or {})["CC"] == ["elsewhere"]
    message, attempt = _wire.decode(Basic.Deliver("t", 1, False, "", "q"), copy, b"x")
    assert attempt == 3
    assert dict(message.headers) == {"n": "7", "CC": '["elsewhere"]'}


@pytest.fixture
def receiving(link: Any, deliveries: Any) -> tuple[RabbitMQReceiver, Any, Callable[[], Any]]:
    """A consumer that holds one delivery; its channel; and how to get the channel of its copies."""
    delays = DelayedNacks(link, "q", _wire.Limits(10**6, 10**5), set())
    receiver = RabbitMQReceiver(link, "q", deliveries, 10, delays)
    receiver.open(1.0)
    channel = link.channel
    channel.received(channel, Basic.Deliver("t", 1, False, "", "q"), BasicProperties(message_id="1"), b"1")
    link.thread.run_timers()
    channel.sent.clear()
    return receiver, channel, lambda: link.channel


Receiving = tuple[RabbitMQReceiver, Any, Callable[[], Any]]


def test_the_original_is_acked_when_its_copy_is_confirmed(receiving: Receiving, deliveries: Any) -> None:
    """A3, A8."""
    receiver, channel, copies = receiving
    receiver.nack(deliveries.delivered[0], 1.0)
    assert channel.sent == []
    publications = [call for call in copies().sent if call[0] == "publish"]
    assert publications == [("publish", "", "q.delay.1024", b"1", True)]
    proven: list[object] = []
    receiver.barrier(proven.append)
    assert proven == []
    copies().confirmed(frame.Method(1, Basic.Ack(1, False)))
    assert channel.sent[0] == ("ack", 1, True)
    channel.answers[0](None)
    assert proven == [[]]


def test_a_refused_copy_brings_the_original_back_at_once(receiving: Receiving, deliveries: Any) -> None:
    """A3: better early than lost."""
    receiver, channel, copies = receiving
    receiver.nack(deliveries.delivered[0], 1.0)
    copies().confirmed(frame.Method(1, Basic.Nack(1, False)))
    assert channel.sent == [("reject", 1, True)]


def test_a_copy_of_a_message_that_is_not_held_any_more_is_not_sent(
    link: Any, receiving: Receiving, deliveries: Any
) -> None:
    """A6."""
    receiver, channel, copies = receiving
    link.lose(exceptions.StreamLostError("reset"))
    before = list(channel.sent)
    receiver.nack(deliveries.delivered[0], 1.0)
    assert channel.sent == before
    assert [call for call in copies().sent if call[0] == "publish"] == []


def test_where_what_is_rejected_comes_next_a_copy_goes_to_the_tail_from_the_second_failure_on(
    link: Any, deliveries: Any
) -> None:
    """D1: as many as the prefetch that always fail would otherwise keep everything behind them away."""
    delays = DelayedNacks(link, "q", _wire.Limits(10**6, 10**5), set())
    receiver = RabbitMQReceiver(link, "q", deliveries, 10, delays, returns_to_head=True)
    receiver.open(1.0)
    channel = link.channel
    for tag, headers in (1, {}), (2, {"x-delivery-count": 1}), (3, {"unimq-attempts": 4}):
        properties = BasicProperties(message_id=str(tag), headers=headers)
        channel.received(channel, Basic.Deliver("t", tag, False, "", "q"), properties, b"%d" % tag)
    link.thread.run_timers()
    channel.sent.clear()
    first, second, third = deliveries.delivered
    assert [each.attempt for each in deliveries.delivered] == [1, 2, 5]

    receiver.nack(first, 0.0)
    assert channel.sent == [("reject", 1, True)]
    receiver.nack(second, 0.0)
    receiver.nack(third, 0.0)
    assert link.channel is not channel
    publications = [call for call in link.channel.sent if call[0] == "publish"]
    assert publications == [("publish", "", "q", b"2", True), ("publish", "", "q", b"3", True)]
    link.channel.confirmed(frame.Method(1, Basic.Ack(1, False)))
    assert channel.sent[1:] == [("ack", 2, True)]
    link.channel.confirmed(frame.Method(1, Basic.Nack(2, False)))
    assert channel.sent[2:] == [("reject", 3, True)]
