"""The receiver with a scripted SQS: leases by our own clock, order of changes, duplicates, pauses and closing."""

import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from unimq_sqs._held import Held
from unimq_sqs._receiver import ReceiverSettings, SQSReceiver
from unimq_sqs._wire import attributes_of, encode

import unimq
from unimq import UnimqError
from unimq.adapter import Delivery, Message

WITHIN = 10.0
OURS = ("unimq-sqs-poll", "unimq-sqs-leases", "unimq-sqs-ack", "unimq-sqs-visibility")


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


class Service:
    """Answers the four calls of a receiver. A poll waits until the test has an answer, or `wait` seconds."""

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.answers: deque[list[dict[str, Any]] | Exception] = deque()
        self.asked: list[dict[str, Any]] = []
        self.asked_at: list[float] = []
        self.polling = 0
        self.ended = False
        self.deleted: list[str] = []
        self.changed: list[tuple[str, int]] = []
        self.changing = threading.Event()
        self.may_change = threading.Event()
        self.may_change.set()
        self.delete_failures: dict[str, dict[str, Any]] = {}
        self.change_failures: dict[str, dict[str, Any]] = {}

    def answer(self, answer: "list[dict[str, Any]] | Exception") -> None:
        with self.lock:
            self.answers.append(answer)
            self.lock.notify_all()

    def end(self) -> None:
        """Let the running polls end, and further ones at once."""
        with self.lock:
            self.ended = True
            self.lock.notify_all()

    def receive_message(self, **asked: Any) -> dict[str, Any]:
        with self.lock:
            self.asked.append(asked)
            self.asked_at.append(time.monotonic())
            self.polling += 1
            self.lock.wait_for(lambda: self.answers or self.ended, asked["WaitTimeSeconds"])
            self.polling -= 1
            answer = self.answers.popleft() if self.answers else []
        if isinstance(answer, Exception):
            raise answer
        return {"Messages": answer}

    def delete_message_batch(self, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803 - theirs
        failed = [
            {"Id": entry["Id"], **self.delete_failures[entry["ReceiptHandle"]]}
            for entry in Entries
            if entry["ReceiptHandle"] in self.delete_failures
        ]
        done = [entry for entry in Entries if entry["ReceiptHandle"] not in self.delete_failures]
        self.deleted += [entry["ReceiptHandle"] for entry in done]
        return {"Successful": [{"Id": entry["Id"]} for entry in done], "Failed": failed}

    def change_message_visibility_batch(self, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        self.changing.set()
        assert self.may_change.wait(WITHIN)
        failed = [
            {"Id": entry["Id"], **self.change_failures[entry["ReceiptHandle"]]}
            for entry in Entries
            if entry["ReceiptHandle"] in self.change_failures
        ]
        done = [entry for entry in Entries if entry["ReceiptHandle"] not in self.change_failures]
        self.changed += [(entry["ReceiptHandle"], entry["VisibilityTimeout"]) for entry in done]
        return {"Successful": [{"Id": entry["Id"]} for entry in done], "Failed": failed}


class Sink:
    """Takes deliveries."""

    source_name = "q"

    def __init__(self) -> None:
        self.delivered: list[Delivery] = []
        self.gone: list[Delivery] = []
        self.settling: list[Delivery] = []
        """Those that somebody has begun to settle, and that are not lost therefore."""
        self.error: UnimqError | None = None

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        self.delivered += deliveries

    def lost(self, deliveries: Sequence[Delivery]) -> None:
        self.gone += deliveries
        for delivery in deliveries:
            delivery.lost = delivery not in self.settling

    def failed(self, error: UnimqError) -> None:
        self.error = error


class Fixture:
    """A receiver with its service and sink."""

    def __init__(
        self,
        *,
        prefetch: int = 10,
        lease: int = 60,
        keep: bool = True,
        wait: int = 1,
        pollers: int = 1,
        is_fifo: bool = False,
        idle_wait: int = 0,
        window: float = 0.0,
    ) -> None:
        self.service = Service()
        self.sink = Sink()
        settings = ReceiverSettings("q", "url", prefetch, lease, keep, wait, pollers, is_fifo, idle_wait, window)
        client = cast("Any", self.service)
        self.recoveries: list[None] = []
        self.receiver = SQSReceiver(
            client, client, settings, cast("Any", self.sink), lambda: self.recoveries.append(None)
        )

    def deliver(self, *names: str) -> list[Delivery]:
        """Have messages delivered."""
        before = len(self.sink.delivered)
        self.service.answer([message(name) for name in names])
        until(lambda: len(self.sink.delivered) >= before + len(names), "not delivered")
        return self.sink.delivered[before:]

    def settle(self) -> list[UnimqError]:
        """Wait for a barrier."""
        found: list[Sequence[UnimqError]] = []
        self.receiver.barrier(found.append)
        until(lambda: found, "the barrier did not end")
        return list(found[0])


def message(name: str, handle: str = "", count: int = 1) -> dict[str, Any]:
    encoded = encode(Message(name.encode(), id=name))
    return {
        "MessageId": f"sqs-{name}",
        "ReceiptHandle": handle or name,
        "Body": encoded.body,
        "Attributes": {"ApproximateReceiveCount": str(count), "SentTimestamp": "1000"},
        "MessageAttributes": attributes_of(encoded),
    }


@pytest.fixture
def make() -> Iterator[Callable[..., Fixture]]:
    made: list[Fixture] = []

    def make(**options: Any) -> Fixture:
        made.append(Fixture(**options))
        return made[-1]

    yield make
    for fixture in made:
        fixture.service.may_change.set()
        closing = threading.Thread(target=fixture.receiver.close, args=(WITHIN,))
        closing.start()
        until(partial(getattr, fixture.receiver, "_closing"), "does not close")
        fixture.service.end()
        closing.join(WITHIN)
    until(
        lambda: not [thread for thread in threading.enumerate() if thread.name.startswith(OURS)],
        "a thread outlives its receiver",
    )


Make = Callable[..., Fixture]


def test_never_asks_for_more_than_there_is_room(make: Make) -> None:
    fixture = make(prefetch=13)
    fixture.deliver(*"abcdefghij")
    until(lambda: fixture.service.polling, "no further poll")
    assert [asked["MaxNumberOfMessages"] for asked in fixture.service.asked] == [10, 3]
    (first, *_) = fixture.deliver("x", "y", "z")
    time.sleep(0.1)
    assert not fixture.service.polling, "polls without room"
    fixture.receiver.ack([first])
    until(lambda: fixture.service.polling, "room is not used")
    assert fixture.service.asked[-1]["MaxNumberOfMessages"] == 1


def test_a_lease_begins_at_arrival_and_not_with_the_long_poll(make: Make) -> None:
    fixture = make(lease=60, wait=20)
    until(lambda: fixture.service.polling, "no poll")
    time.sleep(0.2)
    (delivery,) = fixture.deliver("a")
    assert delivery.lease_until > time.monotonic() + 59.5
    assert fixture.service.asked[0]["VisibilityTimeout"] == 80, "the message is hidden for the whole lease"


def test_a_declared_lease_ends_and_the_message_goes_back_at_once(make: Make) -> None:
    fixture = make(lease=1, keep=False)
    (delivery,) = fixture.deliver("a")
    until(lambda: fixture.sink.gone, "the lease did not end")
    assert time.monotonic() >= delivery.lease_until
    until(lambda: fixture.service.changed == [("a", 0)], "not given back")
    fixture.receiver.ack([delivery])
    (error,) = fixture.settle()
    assert isinstance(error, unimq.LeaseLost)
    assert fixture.service.deleted == []


def test_a_kept_lease_is_renewed_until_it_is_settled(make: Make) -> None:
    fixture = make(lease=2)
    (delivery,) = fixture.deliver("a")
    first = delivery.lease_until
    until(lambda: delivery.lease_until > first, "not renewed")
    assert set(fixture.service.changed) == {("a", 2)}
    fixture.receiver.ack([delivery])
    assert fixture.settle() == []
    renewals = len(fixture.service.changed)
    time.sleep(1.5)
    assert len(fixture.service.changed) == renewals, "renewed after the ack"
    assert fixture.sink.gone == []


def test_a_nack_waits_for_the_renewal_under_way_and_comes_last(make: Make) -> None:
    fixture = make(lease=60)
    (delivery,) = fixture.deliver("a")
    fixture.service.may_change.clear()
    fixture.receiver.extend(delivery, 100.5)
    assert fixture.service.changing.wait(WITHIN)
    fixture.receiver.nack(delivery, 0)
    time.sleep(0.1)
    fixture.service.may_change.set()
    assert fixture.settle() == []
    assert fixture.service.changed == [("a", 101), ("a", 0)]


def test_extend_counts_from_its_confirmation_and_a_shorter_one_at_once(make: Make) -> None:
    fixture = make(lease=60, keep=False)
    (delivery,) = fixture.deliver("a")
    fixture.receiver.extend(delivery, 300)
    until(lambda: delivery.lease_until > time.monotonic() + 290, "not extended")
    fixture.service.may_change.clear()
    fixture.receiver.extend(delivery, 5)
    assert delivery.lease_until <= time.monotonic() + 5
    with pytest.raises(unimq.Unsupported, match="12 hours"):
        fixture.receiver.extend(delivery, 43_201)


def test_nack_delays_are_whole_seconds_rounded_up_and_at_most_12_hours(make: Make) -> None:
    fixture = make()
    first, second = fixture.deliver("a", "b")
    fixture.receiver.nack(first, 1.2)
    with pytest.raises(unimq.Unsupported, match="12 hours"):
        fixture.receiver.nack(second, 50_000)
    fixture.settle()
    assert fixture.service.changed == [("a", 2)]


def test_one_message_twice_in_one_answer_is_delivered_once_and_deleted_twice(make: Make) -> None:
    fixture = make()
    fixture.service.answer([message("a", "handle-1"), message("b"), message("a", "handle-2")])
    until(lambda: len(fixture.sink.delivered) == 2, "not delivered")
    fixture.receiver.ack(fixture.sink.delivered)
    assert fixture.settle() == []
    assert sorted(fixture.service.deleted) == ["b", "handle-1", "handle-2"]


def test_what_arrives_with_another_checksum_is_nobody_s_until_it_comes_again(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    fixture = make()
    right = hashlib.md5(b"a", usedforsecurity=False).hexdigest()
    good, bad, worse = (message(name) | {"MD5OfBody": right} for name in "aaa")
    bad["Body"] = "b"
    worse["MD5OfMessageAttributes"] = right
    fixture.service.answer([bad, worse, message("c")])
    until(lambda: fixture.sink.delivered, "the good one did not come")
    assert [delivery.id for delivery in fixture.sink.delivered] == ["c"]
    assert "another checksum" in caplog.text
    fixture.service.answer([good])
    until(lambda: len(fixture.sink.delivered) == 2, "it did not come again")
    assert fixture.service.changed == [], "it is left to the end of its lease, so that it does not come at once"


def test_what_follows_a_broken_message_of_its_group_waits_for_it(make: Make) -> None:
    fixture = make(is_fifo=True, prefetch=100)
    first, second, third = fifo("a", "b", "c")
    second["MD5OfBody"] = "0" * 32
    fixture.service.answer([first, second, third, *fifo("d", group="h")])
    until(lambda: len(fixture.sink.delivered) == 2, "not delivered")
    fixture.receiver.ack(fixture.sink.delivered)
    fixture.settle()
    assert ids(fixture) == ["a", "d"], "c overtook b"


def test_a_failed_delete_is_repeated_or_reported(make: Make) -> None:
    fixture = make()
    deliveries = fixture.deliver("a", "b", "c")
    fixture.service.delete_failures = {
        "a": {"SenderFault": True, "Code": "ReceiptHandleIsInvalid"},
        "b": {"SenderFault": False, "Code": "InternalError"},
    }
    fixture.receiver.ack(deliveries)
    found: list[Sequence[UnimqError]] = []
    fixture.receiver.barrier(found.append)
    until(lambda: "c" in fixture.service.deleted, "the good one was not deleted")
    fixture.service.delete_failures.clear()
    until(lambda: found, "the barrier did not end")
    assert [type(error) for error in found[0]] == [unimq.LeaseLost]
    assert sorted(fixture.service.deleted) == ["b", "c"]


def test_what_comes_during_a_pause_goes_back_at_once(make: Make) -> None:
    fixture = make(wait=5)
    until(lambda: fixture.service.polling, "no poll")
    fixture.receiver.pause()
    fixture.service.answer([message("a")])
    until(lambda: fixture.service.changed == [("a", 0)], "not given back")
    assert fixture.sink.delivered == []
    time.sleep(0.1)
    assert not fixture.service.polling
    fixture.receiver.resume()
    (delivery,) = fixture.deliver("b")
    assert delivery.message.body == b"b"


def test_close_lets_the_long_poll_end_and_gives_back_what_it_brings_and_what_is_held(make: Make) -> None:
    fixture = make(wait=20)
    acked, held = fixture.deliver("acked", "held")
    until(lambda: fixture.service.polling, "no poll")
    fixture.receiver.ack([acked])
    closing = threading.Thread(target=fixture.receiver.close, args=(WITHIN,))
    closing.start()
    until(lambda: fixture.service.deleted == ["acked"], "acks are not sent at once")
    time.sleep(0.1)
    assert fixture.service.changed == [], "given back while our own poll would receive it again"
    fixture.service.answer([message("late")])
    closing.join(WITHIN)
    assert fixture.service.changed == [("late", 0), ("held", 0)]
    assert [delivery.id for delivery in fixture.sink.delivered] == ["acked", "held"]
    fixture.receiver.ack([held])
    (error,) = fixture.settle()
    assert isinstance(error, unimq.LeaseLost)


def test_what_one_poll_gives_back_no_other_of_the_same_consumer_receives(make: Make) -> None:
    fixture = make(prefetch=100, pollers=2, wait=20)
    fixture.deliver(*(f"first-{number}" for number in range(10)))
    until(lambda: fixture.service.polling == 2, "one poll only")
    fixture.receiver.pause()
    fixture.service.answer([message("a")])
    until(lambda: fixture.service.polling == 1, "no poll ended")
    time.sleep(0.1)
    assert fixture.service.changed == [], "the other poll would receive it, and count a delivery"
    fixture.service.answer([message("b")])
    until(lambda: fixture.service.changed == [("a", 0), ("b", 0)], "not given back after the last poll")


def test_resume_delivers_what_came_in_the_meantime(make: Make) -> None:
    fixture = make(prefetch=100, pollers=2, wait=20)
    fixture.deliver(*(f"first-{number}" for number in range(10)))
    until(lambda: fixture.service.polling == 2, "one poll only")
    fixture.receiver.pause()
    fixture.service.answer([message("a")])
    until(lambda: fixture.receiver._unwanted, "no poll ended")
    fixture.receiver.resume()
    assert fixture.sink.delivered[-1].id == "a"


def test_close_lets_through_what_is_just_being_settled(make: Make) -> None:
    fixture = make()
    first, second = fixture.deliver("a", "b")
    fixture.sink.settling = [first]
    closing = threading.Thread(target=fixture.receiver.close, args=(WITHIN,))
    closing.start()
    until(lambda: second in fixture.sink.gone, "nothing is settled any more")
    assert ("b", 0) not in fixture.service.changed, "before that is known, nothing is given back"
    fixture.receiver.ack([first])
    closing.join(WITHIN)
    assert fixture.service.deleted == ["a"]
    assert fixture.service.changed == [("b", 0)]


def test_close_is_bounded_by_a_poll_that_does_not_end(make: Make) -> None:
    fixture = make(wait=20)
    fixture.deliver("held")
    until(lambda: fixture.service.polling, "no poll")
    began = time.monotonic()
    fixture.receiver.close(0.5)
    assert time.monotonic() - began < WITHIN / 2
    assert fixture.service.changed == [("held", 0)]
    fixture.service.answer([message("late")])
    until(lambda: fixture.service.changed[1:] == [("late", 0)], "stranded")


def test_an_outage_is_survived_and_other_errors_end_the_consumer(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    fixture = make()
    caplog.set_level(logging.INFO, "unimq.sqs")
    for _ in range(2):
        fixture.service.answer(EndpointConnectionError(endpoint_url="http://127.0.0.1:1/"))
    (delivery,) = fixture.deliver("a")
    assert (delivery.attempt, fixture.sink.error) == (1, None)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"], "told once, and that it is over"
    assert len(fixture.recoveries) == 1
    fixture.service.answer(ClientError({"Error": {"Code": "QueueDoesNotExist"}}, "ReceiveMessage"))
    until(lambda: fixture.sink.error, "the consumer goes on without a queue")
    assert isinstance(fixture.sink.error, unimq.NotFound)


def test_an_unexpected_failure_ends_the_consumer_with_a_typed_error(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    fixture = make()
    fixture.service.answer(RuntimeError("surprise"))
    until(lambda: fixture.sink.error, "the consumer died in silence")
    assert isinstance(fixture.sink.error, unimq.ConnectionLost)
    assert isinstance(fixture.sink.error.__cause__, RuntimeError)
    assert "surprise" in caplog.text


def test_polls_multiply_while_they_come_back_full_and_end_when_empty(make: Make) -> None:
    fixture = make(prefetch=100, pollers=3)
    for batch in range(3):
        fixture.service.answer([message(f"{batch}-{number}") for number in range(10)])
    until(lambda: fixture.service.polling == 3, "one poll only")
    until(lambda: fixture.service.polling == 1, "idle polls remain")
    assert {asked["MaxNumberOfMessages"] for asked in fixture.service.asked} == {10}


def test_messages_that_trickle_in_collect_for_a_while(make: Make) -> None:
    fixture = make(window=3600.0)
    fixture.deliver("a")
    # Closing ends the pause, and nothing was asked for in it.
    fixture.receiver.close(WITHIN)
    assert len(fixture.service.asked) == 1


@pytest.mark.parametrize("why", ["full", "reply", "fifo"])
def test_nobody_pauses_where_more_is_there_or_somebody_waits(make: Make, why: str) -> None:
    fixture = make(window=3600.0, prefetch=20, is_fifo=why == "fifo")
    first = message("a")
    if why == "reply":
        first["MessageAttributes"] = attributes_of(encode(Message(b"a", id="a", reply_to="replies")))
    fixture.service.answer([first] if why != "full" else [message(f"{number}") for number in range(10)])
    until(lambda: len(fixture.service.asked) >= 2, "waits")


def test_an_idle_consumer_polls_as_long_as_sqs_lets_it(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unimq_sqs._pacing.Idleness.AFTER", 0.0)
    fixture = make(idle_wait=20, lease=30)
    until(lambda: fixture.service.asked, "no poll")
    monkeypatch.setattr("unimq_sqs._pacing.Idleness.AFTER", WITHIN * 1000)
    fixture.deliver("a")
    until(lambda: len(fixture.service.asked) >= 2, "no second poll")
    idle, busy = fixture.service.asked[:2]
    # What is handed out at its end is hidden for a whole lease from then on.
    assert (idle["WaitTimeSeconds"], idle["VisibilityTimeout"]) == (20, 50)
    assert (busy["WaitTimeSeconds"], busy["VisibilityTimeout"]) == (1, 31)


def fifo(*names: str, group: str = "g", count: int = 1) -> list[dict[str, Any]]:
    """Return messages of one group."""
    found = [message(name, count=count) for name in names]
    for each in found:
        each["Attributes"]["MessageGroupId"] = group
    return found


def ids(fixture: Fixture) -> list[str]:
    return [delivery.id for delivery in fixture.sink.delivered]


def test_one_of_a_group_is_out_at_a_time_and_the_others_take_no_room(make: Make) -> None:
    fixture = make(prefetch=10, is_fifo=True)
    fixture.service.answer(fifo(*(f"g{number}" for number in range(9))) + fifo("h0", group="h"))
    until(lambda: ids(fixture) == ["g0", "h0"], "not one of each group")
    until(lambda: fixture.service.polling, "no further poll")
    assert fixture.service.asked[-1]["MaxNumberOfMessages"] == 8
    for number in range(9):
        assert ids(fixture) == ["g0", "h0", *(f"g{each}" for each in range(1, number + 1))]
        fixture.receiver.ack([fixture.sink.delivered[-1 if number else 0]])
    assert fixture.settle() == []
    assert fixture.service.deleted == [f"g{number}" for number in range(9)]


def test_a_standard_queue_has_no_lanes_whatever_its_groups(make: Make) -> None:
    fixture = make()
    fixture.service.answer(fifo("a", "b"))
    until(lambda: ids(fixture) == ["a", "b"], "a fair queue was taken for a FIFO queue")


def test_a_nacked_head_comes_again_from_here_and_those_behind_it_are_not_touched(make: Make) -> None:
    fixture = make(is_fifo=True, prefetch=1)
    fixture.service.answer(fifo("a", "b"))
    until(lambda: ids(fixture) == ["a"], "no head")
    head = fixture.sink.delivered[0]
    fixture.receiver.nack(head, 0)
    assert fixture.settle() == []
    assert [(delivery.id, delivery.attempt) for delivery in fixture.sink.delivered] == [("a", 1), ("a", 2)]
    assert fixture.service.changed == []
    # The first delivery is over.
    fixture.receiver.ack([head])
    (error,) = fixture.settle()
    assert isinstance(error, unimq.LeaseLost)
    assert fixture.service.deleted == []
    fixture.receiver.ack([fixture.sink.delivered[1]])
    assert fixture.settle() == []
    assert fixture.service.deleted == ["a"]
    assert [(delivery.id, delivery.attempt) for delivery in fixture.sink.delivered[2:]] == [("b", 1)]
    # Nobody waits behind this one: SQS itself keeps the others of its group back, and counts.
    fixture.receiver.nack(fixture.sink.delivered[2], 0.5)
    assert fixture.settle() == []
    assert fixture.service.changed == [("b", 1)]


def test_a_head_that_waits_for_its_delay_takes_no_room_and_keeps_its_group_hidden(make: Make) -> None:
    fixture = make(is_fifo=True, prefetch=1, lease=60)
    fixture.service.answer(fifo("a", "b"))
    until(lambda: ids(fixture) == ["a"], "no head")
    nacked_at = time.monotonic()
    fixture.receiver.nack(fixture.sink.delivered[0], 0.5)
    until(lambda: fixture.service.polling, "no room")
    fixture.service.answer(fifo("x", group="h"))
    until(lambda: ids(fixture) == ["a", "x"], "another group waits as well")
    fixture.receiver.ack([fixture.sink.delivered[1]])
    until(lambda: len(fixture.sink.delivered) == 3, "not delivered again")
    assert time.monotonic() - nacked_at >= 0.5
    assert [(delivery.id, delivery.attempt) for delivery in fixture.sink.delivered[2:]] == [("a", 2)]
    fixture.receiver.nack(fixture.sink.delivered[2], 500)
    until(lambda: len(fixture.service.changed) == 2, "not hidden for the delay")
    # Should this consumer die, they do not come before the delay is over.
    assert fixture.service.changed == [("a", 560), ("b", 560)]


def test_due_again_while_there_is_no_room_waits_for_room(make: Make) -> None:
    fixture = make(is_fifo=True, prefetch=1)
    fixture.service.answer(fifo("a", "b"))
    until(lambda: ids(fixture) == ["a"], "no head")
    fixture.receiver.nack(fixture.sink.delivered[0], 0.2)
    fixture.service.answer(fifo("x", group="h"))
    until(lambda: ids(fixture) == ["a", "x"], "another group waits as well")
    until(lambda: fixture.receiver._lanes.ready, "the delay does not end")
    assert ids(fixture) == ["a", "x"], "more than the prefetch"
    assert not fixture.service.polling
    fixture.receiver.ack([fixture.sink.delivered[1]])
    assert ids(fixture) == ["a", "x", "a"]


def test_too_many_delays_wait_at_sqs(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unimq_sqs._receiver.MOST_PARKED", 1)
    fixture = make(is_fifo=True)
    fixture.service.answer(fifo("a", "b") + fifo("x", "y", "z", group="h"))
    until(lambda: ids(fixture) == ["a", "x"], "no heads")
    fixture.receiver.nack(fixture.sink.delivered[0], 30)
    fixture.receiver.nack(fixture.sink.delivered[1], 30)
    assert fixture.settle() == []
    assert fixture.service.changed == [("z", 30), ("y", 30), ("x", 30)], "from the end, or a later one could overtake"


def test_the_end_of_a_lease_gives_back_what_waits_behind_from_its_end(make: Make) -> None:
    fixture = make(is_fifo=True, lease=1, keep=False, wait=1)
    fixture.service.answer(fifo("a", "b", "c"))
    until(lambda: fixture.sink.gone, "the lease did not end")
    until(lambda: ("a", 0) in fixture.service.changed, "not given back")
    assert [change for change in fixture.service.changed if not change[1]] == [("c", 0), ("b", 0), ("a", 0)]
    assert ids(fixture) == ["a"]
    assert fixture.sink.gone == fixture.sink.delivered
    fixture.service.answer(fifo("a", "b", "c", count=2))
    until(lambda: ids(fixture) == ["a", "a"], "not delivered again")


def test_a_declared_lease_begins_when_those_ahead_are_done(make: Make) -> None:
    fixture = make(is_fifo=True, lease=4, keep=False, wait=1)
    fixture.service.answer(fifo("a", "b"))
    until(lambda: fixture.sink.delivered, "no head")
    first = fixture.sink.delivered[0]
    waiting = next(held for held in fixture.receiver._held if held.delivery is not first)
    # Less than a lease is left of the time for which it was hidden, and its renewal is not due.
    until(lambda: waiting.hidden_until < time.monotonic() + 3.5, "the clock stands still")
    now = time.monotonic()
    fixture.receiver.ack([first])
    assert ids(fixture) == ["a", "b"]
    until(lambda: fixture.sink.delivered[1].lease_until >= now + 4, "it begins with what the wait has left")
    assert fixture.service.changed == [("b", 4)]


def test_what_waits_is_kept_where_a_declared_lease_ends(make: Make) -> None:
    fixture = make(is_fifo=True, lease=1, keep=False, wait=1)
    fixture.service.answer(fifo("a", "b"))
    until(lambda: fixture.sink.delivered, "no head")
    first = fixture.sink.delivered[0]
    fixture.receiver.extend(first, 10)
    waiting = next(held for held in fixture.receiver._held if held.delivery is not first)
    began = waiting.hidden_until
    until(lambda: waiting.hidden_until > began + 0.5, "what waits is not kept")
    fixture.receiver.ack([first])
    assert ids(fixture) == ["a", "b"]
    until(lambda: fixture.sink.gone == fixture.sink.delivered[1:], "a declared lease ends")


def test_the_end_of_a_lease_makes_room_for_what_is_due_again(make: Make) -> None:
    fixture = make(is_fifo=True, lease=1, keep=False, wait=1, prefetch=1)
    fixture.service.answer(fifo("a", "b"))
    until(lambda: ids(fixture) == ["a"], "no head")
    fixture.receiver.nack(fixture.sink.delivered[0], 0.1)
    fixture.service.answer(fifo("x", group="h"))
    until(lambda: ids(fixture) == ["a", "x"], "another group waits as well")
    until(lambda: ids(fixture) == ["a", "x", "a"], "nobody takes the place of what is lost")
    assert fixture.sink.gone == fixture.sink.delivered[1:2]


def test_what_is_back_by_itself_is_not_given_back(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    fixture = make(lease=1, keep=False)
    (delivery,) = fixture.deliver("a")
    before = delivery.lease_until
    fixture.receiver.extend(delivery, 1)
    until(lambda: delivery.lease_until != before, "not extended")
    until(lambda: fixture.sink.gone, "the lease did not end")
    fixture.settle()
    # At its receipt it was hidden for longer than its lease, but not any more.
    fixture.receiver.close(WITHIN)
    assert fixture.service.changed == [("a", 1)]
    assert not caplog.records


def test_a_lost_renewal_gives_back_what_waits_behind(make: Make) -> None:
    fixture = make(is_fifo=True, lease=60)
    fixture.service.answer(fifo("a", "b", "c"))
    until(lambda: fixture.sink.delivered, "no head")
    fixture.service.change_failures = {"b": {"SenderFault": True, "Code": "MessageNotInflight"}}
    waiting = {held.delivery.id: held for held in fixture.receiver._held}
    with fixture.receiver._room:
        fixture.receiver._hide(waiting["b"], 500, time.monotonic())
    until(lambda: fixture.service.changed == [("c", 0)], "what waits behind the lost one would overtake it")
    assert fixture.sink.gone == [], "nobody had it"
    fixture.receiver.ack([fixture.sink.delivered[0]])
    assert fixture.settle() == []
    assert ids(fixture) == ["a"]


def test_close_gives_a_lane_back_from_its_end(make: Make) -> None:
    fixture = make(is_fifo=True, wait=20)
    fixture.service.answer(fifo("a", "b", "c"))
    until(lambda: fixture.sink.delivered, "no head")
    fixture.receiver.nack(fixture.sink.delivered[0], 100)
    until(lambda: len(fixture.service.changed) == 3, "not hidden")
    until(lambda: fixture.service.polling, "no poll")
    closing = threading.Thread(target=fixture.receiver.close, args=(WITHIN,))
    closing.start()
    until(lambda: fixture.receiver._closing, "does not close")
    fixture.service.answer(fifo("x", "y", group="h"))
    closing.join(WITHIN)
    assert fixture.service.changed[3:] == [("y", 0), ("x", 0), ("c", 0), ("b", 0), ("a", 0)]
    assert ids(fixture) == ["a"]


def test_during_a_pause_nobody_follows(make: Make) -> None:
    fixture = make(is_fifo=True)
    fixture.service.answer(fifo("a", "b"))
    until(lambda: fixture.sink.delivered, "no head")
    fixture.receiver.pause()
    fixture.receiver.nack(fixture.sink.delivered[0], 0)
    assert ids(fixture) == ["a"]
    fixture.receiver.resume()
    assert ids(fixture) == ["a", "a"]
    fixture.receiver.pause()
    fixture.receiver.ack([fixture.sink.delivered[1]])
    assert fixture.settle() == []
    assert ids(fixture) == ["a", "a"]
    fixture.receiver.resume()
    assert ids(fixture) == ["a", "a", "b"]


def test_acks_of_a_fifo_queue_do_not_linger(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQS gives nothing more of the group before they are deleted."""
    monkeypatch.setattr("unimq_sqs._receiver.ACK_LINGER", WITHIN * 2)
    fixture = make(is_fifo=True)
    fixture.service.answer(fifo("a"))
    until(lambda: fixture.sink.delivered, "no head")
    fixture.receiver.ack(fixture.sink.delivered)
    until(lambda: fixture.service.deleted == ["a"], "not deleted at once")


def test_a_nack_beyond_the_12_hours_gives_back_what_waits_behind(make: Make) -> None:
    fixture = make(is_fifo=True)
    fixture.service.answer(fifo("a", "b"))
    until(lambda: fixture.sink.delivered, "no head")
    with pytest.raises(unimq.Unsupported, match="12 hours"):
        fixture.receiver.nack(fixture.sink.delivered[0], 43_201)
    until(lambda: fixture.service.changed == [("b", 0)], "the group is held up")


def test_a_lost_answer_is_asked_for_again_by_the_same_name(make: Make) -> None:
    """Else its messages would be stranded, and their groups held up, until their leases end."""
    lost = EndpointConnectionError(endpoint_url="http://127.0.0.1:1/")
    fixture = make(is_fifo=True)
    for answer in (lost, lost, fifo("a"), lost):
        fixture.service.answer(answer)
    until(lambda: len(fixture.service.asked) >= 5, "does not go on")
    first, second, third, fourth, fifth = (asked["ReceiveRequestAttemptId"] for asked in fixture.service.asked[:5])
    assert first == second == third
    assert fourth == fifth != first
    held = fixture.sink.delivered[0].token
    assert isinstance(held, Held)
    assert held.received_at <= fixture.service.asked_at[0], "hidden from the first request on, perhaps"


def test_a_lost_answer_is_not_asked_for_when_its_messages_may_be_elsewhere(make: Make) -> None:
    lost = EndpointConnectionError(endpoint_url="http://127.0.0.1:1/")
    fixture = make(is_fifo=True, lease=1)
    for _ in range(30):
        fixture.service.answer(lost)
    until(lambda: len({asked["ReceiveRequestAttemptId"] for asked in fixture.service.asked}) > 1, "the same for ever")
    standard = make()
    standard.service.answer(lost)
    until(lambda: len(standard.service.asked) >= 2, "does not go on")
    assert "ReceiveRequestAttemptId" not in standard.service.asked[1]


def test_a_renewal_that_comes_after_the_ack_is_no_news(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    fixture = make()
    first, second = fixture.deliver("a", "b")
    fixture.service.may_change.clear()
    fixture.receiver.extend(first, 100)
    fixture.receiver.extend(second, 100)
    assert fixture.service.changing.wait(WITHIN)
    fixture.receiver.ack([first])
    fixture.service.change_failures = {
        handle: {"SenderFault": True, "Code": "ReceiptHandleIsInvalid"} for handle in "ab"
    }
    fixture.service.may_change.set()
    until(lambda: fixture.sink.gone == [second], "a lost lease is not noticed")
    assert fixture.settle() == []
    assert len(caplog.records) == 1, "the end of a renewal that nobody needs is a warning"
