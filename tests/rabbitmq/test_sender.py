from collections.abc import Callable, Iterable
from typing import Any

import pytest
from pika import exceptions, frame
from pika.spec import Basic, BasicProperties
from unimq_rabbitmq import _wire
from unimq_rabbitmq._sender import RabbitMQSender

from unimq import MessageTooLarge, NotFound, Queue, QueueFull, SendRejected, SendUnknown, Topic, Unroutable
from unimq.adapter import Outgoing, Target

Make = Callable[..., Outgoing]
LOST = exceptions.StreamLostError("reset")


def _open(link: Any, outcomes: Any, target: Target) -> RabbitMQSender:
    sender = RabbitMQSender(link, target, outcomes, _wire.Limits(10**6, 10**5), set())
    sender.open(1.0)
    return sender


def _bodies(numbers: Iterable[int]) -> list[bytes]:
    return [b"%d" % number for number in numbers]


def _ack(link: Any, tag: int, *, multiple: bool = False) -> None:
    link.channel.confirmed(frame.Method(1, Basic.Ack(tag, multiple)))


def _nack(link: Any, tag: int, *, multiple: bool = False) -> None:
    link.channel.confirmed(frame.Method(1, Basic.Nack(tag, multiple)))


def _return(link: Any, message_id: str) -> None:
    link.channel.returned(link.channel, Basic.Return(312, "NO_ROUTE"), BasicProperties(message_id=message_id), b"")


def test_confirms_out_of_order_and_multiple_settle_each_message_once(link: Any, outcomes: Any, outgoing: Make) -> None:
    sender = _open(link, outcomes, Queue("q"))
    sender.submit([outgoing(body) for body in _bodies(range(1, 8))])
    assert link.channel.sent == [("publish", "", "q", body, True) for body in _bodies(range(1, 8))]
    _ack(link, 7)
    assert outcomes.stored_bodies == [b"7"]
    _ack(link, 5, multiple=True)
    assert outcomes.stored_bodies == [b"7", *_bodies(range(1, 6))]
    _ack(link, 5)
    _ack(link, 6, multiple=True)
    assert sorted(outcomes.stored_bodies) == _bodies(range(1, 8))
    assert not outcomes.failures


def test_a_returned_message_is_not_stored_though_it_is_acked(link: Any, outcomes: Any, outgoing: Make) -> None:
    sender = _open(link, outcomes, Queue("q"))
    sender.submit([outgoing(b"a"), outgoing(b"b", id="twice"), outgoing(b"c", id="twice"), outgoing(b"d")])
    _return(link, "twice")
    _return(link, "twice")
    _ack(link, 4, multiple=True)
    assert outcomes.stored_bodies == [b"a", b"d"]
    assert isinstance(outcomes.failures[b"b"], NotFound)
    assert isinstance(outcomes.failures[b"c"], NotFound)


@pytest.mark.parametrize("required", [True, False])
def test_only_a_topic_that_requires_a_subscription_is_mandatory(
    link: Any, outcomes: Any, outgoing: Make, required: bool
) -> None:
    sender = _open(link, outcomes, Topic("t", require_subscription=required))
    sender.submit([outgoing(b"a")])
    assert link.channel.sent == [("publish", "t", "", b"a", required)]
    if required:
        _return(link, "a")
    _ack(link, 1)
    assert (outcomes.stored_bodies == []) is required
    assert all(isinstance(error, Unroutable) for error in outcomes.failures.values())


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (Queue("q", max_length=3), QueueFull),
        (Queue("q", max_length=3, overflow="drop_oldest"), SendUnknown),
        (Queue("q"), SendUnknown),
        (Topic("t"), SendUnknown),
    ],
)
def test_a_nack_is_certain_only_where_one_queue_was_declared_to_refuse(
    link: Any, outcomes: Any, outgoing: Make, target: Target, kind: type[Exception]
) -> None:
    sender = _open(link, outcomes, target)
    sender.submit([outgoing(b"a"), outgoing(b"b")])
    _nack(link, 2, multiple=True)
    assert {type(error) for error in outcomes.failures.values()} == {kind}
    assert len(outcomes.failures) == 2


def test_a_lost_connection_sends_the_unconfirmed_again_in_order(link: Any, outcomes: Any, outgoing: Make) -> None:
    sender = _open(link, outcomes, Queue("q", max_length=9))
    sender.submit([outgoing(body) for body in _bodies(range(1, 5))])
    _ack(link, 2)
    link.lose(LOST)
    sender.submit([outgoing(b"5")])
    link.lose(LOST)  # the next channel does not live long either
    sender.connected()
    assert link.channel.bodies == [b"1", b"3", b"4", b"5"]
    _ack(link, 1)
    assert outcomes.stored_bodies == [b"2", b"1"]
    # Refused now, but an earlier attempt may have been stored: that is not "certainly not stored".
    _nack(link, 4, multiple=True)
    assert {type(error) for error in outcomes.failures.values()} == {SendUnknown}
    assert outcomes.failures.keys() == {b"3", b"4", b"5"}


def test_one_bad_message_is_found_and_harms_no_other(link: Any, outcomes: Any, outgoing: Make) -> None:
    sender = _open(link, outcomes, Queue("q"))
    sender.submit([outgoing(body) for body in _bodies(range(1, 5))])
    refusal = exceptions.ChannelClosedByBroker(406, "PRECONDITION_FAILED - message size 9 is larger than 5")
    link.lose(refusal)
    while len(outcomes.stored_bodies) + len(outcomes.failures) < 4:
        link.thread.run_timers()
        assert len(link.channel.bodies) <= 1 + len(outcomes.stored_bodies)
        if link.channel.bodies[-1] == b"3":
            link.lose(refusal)
        else:
            _ack(link, len(link.channel.bodies))
    assert sorted(outcomes.stored_bodies) == [b"1", b"2", b"4"]
    assert isinstance(outcomes.failures[b"3"], SendRejected)
    sender.submit([outgoing(body) for body in _bodies(range(5, 9))])
    link.thread.run_timers()
    assert link.channel.bodies[-4:] == _bodies(range(5, 9)), "the pipeline is open again"


TOO_LARGE = exceptions.ChannelClosedByBroker(
    406, "PRECONDITION_FAILED - message size 9 is larger than configured max size 5"
)


def test_a_broker_that_names_its_limit_is_asked_once(link: Any, outcomes: Any, outgoing: Make) -> None:
    """All that are too large are refused at the first one's reply, and the rest goes on at once, many at a time."""
    sender = _open(link, outcomes, Queue("q"))
    sender.submit([outgoing(body) for body in (b"1", b"too large", b"2", b"larger yet", b"4", b"5", b"12345")])
    _ack(link, 1)
    link.lose(TOO_LARGE)
    link.thread.run_timers()
    assert link.channel.bodies == [b"2", b"4", b"5", b"12345"]
    assert outcomes.failures.keys() == {b"too large", b"larger yet"}
    for body, error in outcomes.failures.items():
        assert isinstance(error, MessageTooLarge)
        assert error.message_id == body.decode()
        assert f"{len(body)} bytes" in str(error)
        assert error.__cause__ is TOO_LARGE
    _ack(link, 4, multiple=True)
    assert outcomes.stored_bodies == [b"1", b"2", b"4", b"5", b"12345"]

    sender.submit([outgoing(b"too large again"), outgoing(b"6")])
    assert link.channel.bodies[-1] == b"6"
    assert isinstance(outcomes.failures[b"too large again"], MessageTooLarge)

    # The next broker may take it.
    link.lose(LOST)
    sender.connected()
    sender.submit([outgoing(b"no more too large")])
    assert link.channel.bodies == [b"6", b"no more too large"]


def test_a_message_that_is_too_large_and_overdue_is_not_sent_again(link: Any, outcomes: Any, outgoing: Make) -> None:
    sender = _open(link, outcomes, Queue("q"))
    late = outgoing(b"too large")
    sender.submit([late, outgoing(b"1"), outgoing(b"2")])
    assert link.channel.bodies == [b"too large", b"1", b"2"]
    late.deadline = 0.0
    link.thread.run_timers()
    assert isinstance(outcomes.failures[b"too large"], SendUnknown)
    link.lose(TOO_LARGE)
    link.thread.run_timers()
    assert link.channel.bodies == [b"1", b"2"]


def test_a_send_in_the_pause_after_a_refused_message_opens_the_only_channel(
    link: Any, outcomes: Any, outgoing: Make
) -> None:
    sender = _open(link, outcomes, Queue("q"))
    sender.submit([outgoing(b"bad")])
    link.lose(exceptions.ChannelClosedByBroker(406, "PRECONDITION_FAILED - message size 9 is larger than 5"))
    sender.submit([outgoing(b"good")])
    second = link.channel
    assert second.bodies == [b"good"]
    link.thread.run_timers()
    assert link.channel is second
    _ack(link, 1)
    assert outcomes.stored_bodies == [b"good"]


def test_a_missing_topic_is_certain_only_for_what_cannot_have_been_stored(
    link: Any, outcomes: Any, outgoing: Make
) -> None:
    missing = exceptions.ChannelClosedByBroker(404, "NOT_FOUND - no exchange 't'")
    sender = _open(link, outcomes, Topic("t"))
    sender.submit([outgoing(b"alone")])
    link.lose(missing)
    assert isinstance(outcomes.failures[b"alone"], NotFound)
    sender.submit([outgoing(b"first"), outgoing(b"second")])
    link.lose(missing)
    assert isinstance(outcomes.failures[b"first"], SendUnknown)
    assert isinstance(outcomes.failures[b"second"].__cause__, NotFound)


def test_an_overdue_message_is_unknown_and_its_late_confirm_is_ignored(
    link: Any, outcomes: Any, outgoing: Make
) -> None:
    sender = _open(link, outcomes, Queue("q"))
    sender.submit([outgoing(b"late", within=0.0), outgoing(b"in time")])
    link.thread.run_timers()
    assert isinstance(outcomes.failures[b"late"], SendUnknown)
    _ack(link, 2, multiple=True)
    assert outcomes.stored_bodies == [b"in time"]
    link.lose(LOST)
    sender.connected()
    assert link.channel.bodies == []


def test_an_alarm_holds_messages_back_until_it_ends(link: Any, outcomes: Any, outgoing: Make) -> None:
    sender = _open(link, outcomes, Queue("q"))
    link.blocked = True
    sender.submit([outgoing(b"a")])
    assert link.channel.bodies == []
    link.blocked = False
    sender.connected()
    assert link.channel.bodies == [b"a"]


def test_the_channel_never_carries_more_than_its_window(link: Any, outcomes: Any, outgoing: Make) -> None:
    sender = _open(link, outcomes, Queue("q"))
    sender.submit([outgoing(body) for body in _bodies(range(5005))])
    assert len(link.channel.bodies) == 5000
    _ack(link, 3, multiple=True)
    assert len(link.channel.bodies) == 5003


def test_close_reports_what_has_no_outcome(link: Any, outcomes: Any, outgoing: Make) -> None:
    sender = _open(link, outcomes, Queue("q"))
    sender.submit([outgoing(b"a"), outgoing(b"b")])
    _ack(link, 1)
    link.thread.run_timers_at_once = True
    sender.close(0.0)
    sender.close(0.0)
    sender.submit([outgoing(b"c")])
    assert outcomes.stored_bodies == [b"a"]
    assert isinstance(outcomes.failures[b"b"], SendUnknown)
    assert b"c" in outcomes.failures
    assert ("close",) in link.channel.sent
    assert link.users == []
