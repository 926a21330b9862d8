from typing import TYPE_CHECKING, Any

import pytest
from pika import exceptions
from pika.spec import Basic, BasicProperties
from unimq_rabbitmq._receiver import RabbitMQReceiver

from unimq import ConnectionLost, LeaseLost, NotFound, UnimqError

if TYPE_CHECKING:
    from collections.abc import Sequence

LOST = exceptions.StreamLostError("reset")


def _open(link: Any, deliveries: Any, *, prefetch: int = 10) -> RabbitMQReceiver:
    receiver = RabbitMQReceiver(link, "q", deliveries, prefetch)
    receiver.open(1.0)
    assert link.channel.sent == [("qos", prefetch)]
    link.channel.sent.clear()
    return receiver


def _push(link: Any, *tags: int) -> None:
    for tag in tags:
        method = Basic.Deliver("tag", tag, False, "", "q")
        link.channel.received(link.channel, method, BasicProperties(message_id=str(tag)), b"%d" % tag)
    link.thread.run_timers()


def _acks(link: Any) -> list[tuple[Any, ...]]:
    return [call for call in link.channel.sent if call[0] == "ack"]


def test_a_batch_is_handed_over_once_and_in_order(link: Any, deliveries: Any) -> None:
    _open(link, deliveries)
    _push(link, 1, 2, 3)
    assert [delivery.body for delivery in deliveries.delivered] == [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    ("acked", "expected"),
    [
        ([[1, 2, 3]], [("ack", 3, True)]),
        ([[3, 1, 2]], [("ack", 3, True)]),
        ([[2, 3]], [("ack", 2, False), ("ack", 3, False)]),
        ([[1, 3]], [("ack", 1, True), ("ack", 3, False)]),
        ([[3], [1]], [("ack", 3, False), ("ack", 1, True)]),
        ([[2], [1], [3, 4, 5]], [("ack", 2, False), ("ack", 1, True), ("ack", 5, True)]),
    ],
)
def test_multiple_reaches_over_settled_messages_only(
    link: Any, deliveries: Any, acked: list[list[int]], expected: list[tuple[Any, ...]]
) -> None:
    receiver = _open(link, deliveries)
    _push(link, 1, 2, 3, 4, 5)
    for tags in acked:
        receiver.ack([deliveries.delivered[tag - 1] for tag in tags])
    assert _acks(link) == expected
    settled = {tag for tags in acked for tag in tags}
    for _, tag, multiple in expected:
        assert set(range(1, tag + 1)) <= settled if multiple else tag in settled


def test_acks_linger_when_the_prefetch_is_large(link: Any, deliveries: Any) -> None:
    receiver = _open(link, deliveries, prefetch=100)
    _push(link, 1, 2, 3)
    for delivery in deliveries.delivered:
        receiver.ack((delivery,))
    assert _acks(link) == []
    link.thread.run_timers()
    assert _acks(link) == [("ack", 3, True)]


def test_nack_requeues_this_message_and_the_next_acks_skip_it(link: Any, deliveries: Any) -> None:
    receiver = _open(link, deliveries)
    _push(link, 1, 2, 3)
    receiver.nack(deliveries.delivered[0], 0.0)
    receiver.ack(deliveries.delivered[1:])
    assert link.channel.sent == [("reject", 1, True), ("ack", 3, True)]


def test_no_tag_of_a_lost_channel_reaches_the_next_one(link: Any, deliveries: Any) -> None:
    receiver = _open(link, deliveries)
    _push(link, 1, 2)
    old = list(deliveries.delivered)
    link.lose(LOST)
    assert deliveries.gone == old
    receiver.connected()
    _push(link, 1, 2)
    receiver.ack(old)
    receiver.nack(old[0], 0.0)
    assert link.channel.sent == [("qos", 10)]
    reported: list[Sequence[UnimqError]] = []
    receiver.barrier(reported.append)
    receiver.barrier(reported.append)
    assert [[type(error) for error in errors] for errors in reported] == [[LeaseLost], []]


def test_a_barrier_waits_for_the_answer_after_the_acks(link: Any, deliveries: Any) -> None:
    receiver = _open(link, deliveries)
    _push(link, 1, 2)
    receiver.ack(deliveries.delivered)
    reported: list[Sequence[UnimqError]] = []
    receiver.barrier(reported.append)
    assert link.channel.sent == [("ack", 2, True), ("barrier",)]
    assert reported == []
    link.channel.answer(None)
    assert reported == [[]]
    receiver.barrier(reported.append)
    assert reported == [[], []], "nothing new to prove"
    link.lose(LOST)
    receiver.barrier(reported.append)
    assert reported[2] == [], "what was proven is not at risk"


def test_acks_that_a_lost_channel_may_have_taken_are_reported_once(link: Any, deliveries: Any) -> None:
    receiver = _open(link, deliveries)
    _push(link, *range(1, 11))
    receiver.ack(deliveries.delivered)
    waiting: list[Sequence[UnimqError]] = []
    receiver.barrier(waiting.append)
    link.lose(LOST)
    assert [type(error) for error in waiting[0]] == [ConnectionLost]
    receiver.barrier(waiting.append)
    assert waiting[1] == []


def test_what_later_deliveries_prove_is_not_at_risk(link: Any, deliveries: Any) -> None:
    receiver = _open(link, deliveries, prefetch=2)
    for tag in range(1, 101):
        _push(link, tag)
        receiver.ack((deliveries.delivered[-1],))
    link.lose(LOST)
    reported: list[Sequence[UnimqError]] = []
    receiver.barrier(reported.append)
    assert "up to 2 settlements" in str(reported[0][0])


def test_a_deleted_queue_ends_the_consumer(link: Any, deliveries: Any) -> None:
    receiver = _open(link, deliveries)
    _push(link, 1)
    link.channel.cancelled(None)
    assert len(deliveries.gone) == 1
    receiver.ack(deliveries.delivered)  # on its way while the channel closes
    link.lose(exceptions.ChannelClosedByClient(0, "Normal shutdown"))
    assert deliveries.error is None
    link.thread.run_timers()
    link.lose(exceptions.ChannelClosedByBroker(404, "NOT_FOUND - no queue 'q'"))
    assert isinstance(deliveries.error, NotFound)
    assert link.users == []
    receiver.close(1.0)


def test_close_acks_gives_the_rest_back_and_delivers_nothing_more(link: Any, deliveries: Any) -> None:
    receiver = _open(link, deliveries, prefetch=100)
    _push(link, 1, 2, 3)
    receiver.ack(deliveries.delivered[:1])
    channel = link.channel
    channel.close = lambda: (channel.sent.append(("close",)), link.lose(exceptions.ChannelClosedByClient(0, "")))
    receiver.close(1.0)
    assert channel.sent == [("ack", 1, True), ("cancel",), ("nack", 0, True, True), ("close",)]
    _push(link, 4)
    assert len(deliveries.delivered) == 3
    assert link.users == []
    receiver.close(1.0)
