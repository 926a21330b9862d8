from typing import TYPE_CHECKING, Any

import pytest
from pika import exceptions
from pika.spec import Basic, BasicProperties
from unimq_rabbitmq import _wire
from unimq_rabbitmq._delayed_nacks import DelayedNacks
from unimq_rabbitmq._receiver import RabbitMQReceiver

from unimq import ConnectionLost, LeaseLost, NotFound, UnimqError

if TYPE_CHECKING:
    from collections.abc import Sequence

LOST = exceptions.StreamLostError("reset")


def _open(link: Any, deliveries: Any, *, prefetch: int = 10) -> RabbitMQReceiver:
    delays = DelayedNacks(link, "q", _wire.Limits(10**6, 10**5), set())
    receiver = RabbitMQReceiver(link, "q", deliveries, prefetch, delays)
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


def test_acks_behind_the_loss_are_reported_and_never_proven_by_the_next_channel(link: Any, deliveries: Any) -> None:
    receiver = _open(link, deliveries)
    _push(link, 1, 2, 3)
    receiver.ack(deliveries.delivered[:1])
    link.lose(LOST)
    # Handed over before anybody knew of the loss, and looked at after it.
    receiver.ack(deliveries.delivered[1:])
    receiver.connected()
    _push(link, 1)
    receiver.ack(deliveries.delivered[3:])
    reported: list[Sequence[UnimqError]] = []
    receiver.barrier(reported.append)
    assert reported == [], "the acks of the new channel wait for their own answer"
    link.channel.answer(None)
    assert [type(error) for error in reported[0]] == [LeaseLost, ConnectionLost]
    assert "2 settlements" in str(reported[0][0])
    assert "up to 1 settlements" in str(reported[0][1])


def test_lingering_acks_of_a_lost_channel_are_reported(link: Any, deliveries: Any) -> None:
    receiver = _open(link, deliveries, prefetch=100)
    _push(link, 1, 2)
    receiver.ack(deliveries.delivered)
    link.lose(LOST)
    receiver.connected()
    reported: list[Sequence[UnimqError]] = []
    receiver.barrier(reported.append)
    assert [type(error) for error in reported[0]] == [LeaseLost]
    assert _acks(link) == []


def test_every_barrier_that_waits_at_the_loss_gets_an_error(link: Any, deliveries: Any) -> None:
    receiver = _open(link, deliveries)
    _push(link, 1, 2)
    reported: list[Sequence[UnimqError]] = []
    for delivery in deliveries.delivered:
        receiver.ack((delivery,))
        receiver.barrier(reported.append)
    link.lose(LOST)
    assert [[type(error) for error in errors] for errors in reported] == [[ConnectionLost]] * 2


def _many_commands(link: Any, deliveries: Any) -> tuple[RabbitMQReceiver, "list[Sequence[UnimqError]]"]:
    """Settle so many one by one, last first, that the channel may keep some to itself; then ask whether it did."""
    receiver = _open(link, deliveries, prefetch=100)
    _push(link, *range(1, 41))
    for delivery in reversed(deliveries.delivered[1:]):
        receiver.ack((delivery,))
        link.thread.run_timers()
    assert len(_acks(link)) == 39
    link.channel.sent.clear()
    reported: list[Sequence[UnimqError]] = []
    receiver.barrier(reported.append)
    assert link.channel.sent == [("get",)]
    return receiver, reported


def test_many_settlements_are_proven_by_a_fetch_and_an_answer(link: Any, deliveries: Any) -> None:
    receiver, reported = _many_commands(link, deliveries)
    receiver.barrier(reported.append)
    assert link.channel.sent == [("get",)], "one fetch serves all that wait"
    link.channel.fetched_nothing(None)
    assert link.channel.sent == [("get",), ("barrier",), ("barrier",)]
    assert reported == []
    for answer in link.channel.answers:
        answer(None)
    assert reported == [[], []]


def test_a_fetched_message_is_a_delivery_and_no_second_one_is_fetched_beyond_the_prefetch(
    link: Any, deliveries: Any
) -> None:
    receiver, _ = _many_commands(link, deliveries)
    for tag in (41, 42):
        link.channel.fetched(link.channel, Basic.GetOk(tag, False, "", "q", 0), BasicProperties(), b"%d" % tag)
        link.thread.run_timers()
        assert deliveries.delivered[-1].body == b"%d" % tag
        assert link.channel.sent[-1] == ("barrier",)
        link.channel.answer(None)
        _settle_one_by_one(link, deliveries, receiver, first=1000 * tag)
        receiver.barrier(lambda _: None)
        if tag == 41:
            assert link.channel.sent[-1] == ("get",)
    # Both places are taken: what remains is to wait a little.
    assert link.channel.sent[-1][0] == "ack"
    assert link.thread.timers[-1][0] == 0.1
    link.thread.run_timers()
    assert link.channel.sent[-1] == ("barrier",)


def test_what_is_fetched_on_top_of_the_prefetch_is_held_back(link: Any, deliveries: Any) -> None:
    receiver, _ = _many_commands(link, deliveries)
    _push(link, *range(41, 140))
    assert len(deliveries.delivered) == 139, "one is unsettled since the beginning: the prefetch of 100 is used up"
    link.channel.fetched(link.channel, Basic.GetOk(140, False, "", "q", 0), BasicProperties(), b"140")
    link.thread.run_timers()
    assert len(deliveries.delivered) == 139
    receiver.nack(deliveries.delivered[0], 0.0)
    assert deliveries.delivered[-1].body == b"140"


def _settle_one_by_one(link: Any, deliveries: Any, receiver: RabbitMQReceiver, first: int) -> None:
    _push(link, *range(first, first + 40))
    for delivery in deliveries.delivered[-40:]:
        receiver.ack((delivery,))
        link.thread.run_timers()


def test_many_settlements_on_a_lost_channel_are_not_proven_by_the_next(link: Any, deliveries: Any) -> None:
    receiver, reported = _many_commands(link, deliveries)
    late = link.channel
    link.lose(LOST)
    assert [type(error) for error in reported[0]] == [ConnectionLost]
    receiver.connected()
    late.fetched_nothing(None)
    late.fetched(late, Basic.GetOk(41, False, "", "q", 0), BasicProperties(), b"41")
    assert ("barrier",) not in late.sent + link.channel.sent
    receiver.barrier(reported.append)
    assert reported[1] == []


def test_a_queue_that_refuses_fetches_is_asked_no_more(link: Any, deliveries: Any) -> None:
    receiver, reported = _many_commands(link, deliveries)
    link.lose(exceptions.ChannelClosedByBroker(405, "RESOURCE_LOCKED - single active consumer"))
    assert [type(error) for error in reported[0]] == [ConnectionLost]
    link.thread.run_timers()
    receiver.connected()
    _settle_one_by_one(link, deliveries, receiver, first=1)
    _push(link, *range(100, 141))
    for delivery in reversed(deliveries.delivered[-40:]):
        receiver.ack((delivery,))
        link.thread.run_timers()
    receiver.barrier(reported.append)
    assert ("get",) not in link.channel.sent
    link.thread.run_timers()
    link.channel.answer(None)
    assert reported[1:] == [[]]


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

    def close() -> None:
        channel.sent.append(("close",))
        receiver.ack(deliveries.delivered[1:])  # too late: the stub would refuse it
        channel.is_open = False
        link.thread.run_timers()
        link.lose(exceptions.ChannelClosedByClient(0, ""))

    channel.close = close
    closing = receiver.begin_close()
    assert channel.sent == [("ack", 1, True), ("barrier",)], "without its proof the channel takes acks to its grave"
    channel.answer(None)
    receiver.finish_close(closing, 1.0)
    assert channel.sent[2:] == [("cancel",), ("nack", 0, True, True), ("close",)]
    reported: list[Sequence[UnimqError]] = []
    receiver.barrier(reported.append)
    assert [[type(error) for error in errors] for errors in reported] == [[LeaseLost]], "of those that came too late"
    _push(link, 4)
    assert len(deliveries.delivered) == 3
    assert link.users == []
    receiver.close(1.0)


def test_a_close_that_got_no_proof_says_so(link: Any, deliveries: Any) -> None:
    """L1: the barrier that follows it tells what that of the close heard."""
    receiver = _open(link, deliveries, prefetch=100)
    _push(link, 1)
    receiver.ack(deliveries.delivered)
    closing = receiver.begin_close()
    link.lose(LOST)
    receiver.finish_close(closing, 1.0)
    reported: list[Sequence[UnimqError]] = []
    receiver.barrier(reported.append)
    receiver.barrier(reported.append)
    assert [[type(error) for error in errors] for errors in reported] == [[ConnectionLost], []]


def test_a_key_is_in_work_once_and_acks_never_reach_over_its_nacked_head(link: Any, deliveries: Any) -> None:
    """O1, A2."""
    receiver = RabbitMQReceiver(
        link, "q", deliveries, 10, DelayedNacks(link, "q", _wire.Limits(10**6, 10**5), set()), is_ordered=True
    )
    receiver.open(1.0)
    assert link.channel.sent == [("qos", 1000)]
    link.channel.sent.clear()
    for tag, key in enumerate(("a", "a", "b", "b"), start=1):
        properties = BasicProperties(message_id=str(tag), headers={"unimq-key": key})
        link.channel.received(link.channel, Basic.Deliver("tag", tag, False, "", "q"), properties, b"%d" % tag)
    link.thread.run_timers()
    assert [delivery.body for delivery in deliveries.delivered] == [b"1", b"3"]
    head, other = deliveries.delivered
    receiver.nack(head, 5.0)
    receiver.ack((other,))
    assert _acks(link) == [("ack", 3, False)]
    assert [delivery.body for delivery in deliveries.delivered] == [b"1", b"3", b"4"]
    link.thread.run_timers()
    link.thread.run_timers()
    again = deliveries.delivered[3]
    assert (again.body, again.attempt) == (b"1", 2)
    receiver.ack((again, deliveries.delivered[2]))
    # Only now is everything below 2 settled; 4 is above it.
    assert _acks(link)[1:] == [("ack", 1, True), ("ack", 4, False)]
    assert deliveries.delivered[4].body == b"2"


def _ordered(link: Any, deliveries: Any) -> RabbitMQReceiver:
    delays = DelayedNacks(link, "q", _wire.Limits(10**6, 10**5), set())
    receiver = RabbitMQReceiver(link, "q", deliveries, 10, delays, is_ordered=True)
    receiver.open(1.0)
    link.channel.sent.clear()
    return receiver


def test_an_ordered_consumer_leaves_with_its_channel_and_cancels_nothing(link: Any, deliveries: Any) -> None:
    """O1: a queue whose consumer is cancelled goes on with the next one before it gets back what this one holds."""
    receiver = _ordered(link, deliveries)
    _push(link, 1, 2)
    receiver.ack(deliveries.delivered[:1])
    channel = link.channel
    close = channel.close

    def closed() -> None:
        close()
        link.lose(exceptions.ChannelClosedByClient(0, "Normal shutdown"))

    channel.close = closed
    closing = receiver.begin_close()
    assert channel.sent == [("ack", 1, True), ("barrier",)], "what was acked is proven first"
    assert not closing.done()
    channel.answer(None)
    receiver.finish_close(closing, 1.0)
    assert channel.sent == [("ack", 1, True), ("barrier",), ("close",)]
    assert deliveries.gone == deliveries.delivered[1:]


def test_a_paused_consumer_of_an_ordered_queue_holds_back_and_stays(link: Any, deliveries: Any) -> None:
    receiver = _ordered(link, deliveries)
    receiver.pause()
    _push(link, 1, 2)
    assert (deliveries.delivered, link.channel.sent) == ([], [])
    receiver.resume()
    assert [delivery.body for delivery in deliveries.delivered] == [b"1", b"2"]
    assert link.channel.sent == []


def test_many_settlements_in_an_ordered_queue_are_proven_by_a_second_consumer(link: Any, deliveries: Any) -> None:
    receiver = _ordered(link, deliveries)
    _push(link, *range(1, 81))
    for number in range(80):
        receiver.ack((deliveries.delivered[number],))
    link.channel.sent.clear()
    reported: list[Sequence[UnimqError]] = []
    receiver.barrier(reported.append)
    assert link.channel.sent == [("proof",), ("cancel",), ("barrier",)]
    link.channel.answer(None)
    assert reported == [[]]
