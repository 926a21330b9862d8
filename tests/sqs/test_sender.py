"""The sender with a scripted SQS: checks before I/O, checksums, and one outcome per entry."""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unimq_sqs._sender import Destination, Ready, SendLanes, SQSSender
from unimq_sqs._wire import _digested, encode

import unimq
from unimq import UnimqError
from unimq.adapter import Message, Outgoing


class Outcomes:
    """Notes the outcomes; fails at a second one for the same entry."""

    def __init__(self) -> None:
        self.of: dict[str, UnimqError | None] = {}

    def stored(self, entries: Sequence[Outgoing]) -> None:
        self._note(entries, None)

    def failed(self, entries: Sequence[Outgoing], error: UnimqError) -> None:
        self._note(entries, error)

    def _note(self, entries: Sequence[Outgoing], error: UnimqError | None) -> None:
        for entry in entries:
            assert entry.message.id not in self.of
            self.of[entry.message.id] = error


def stored(entries: list[Any]) -> dict[str, Any]:
    """Answer as SQS does."""
    return {
        "Successful": [
            {
                "Id": entry["Id"],
                "MessageId": f"sqs-{entry['Id']}",
                "MD5OfMessageBody": hashlib.md5(entry["MessageBody"].encode(), usedforsecurity=False).hexdigest(),
                "MD5OfMessageAttributes": hashlib.md5(
                    _digested(b"unimq", b"String", entry["MessageAttributes"]["unimq"]["StringValue"].encode()),
                    usedforsecurity=False,
                ).hexdigest(),
            }
            for entry in entries
        ]
    }


def open_sender(
    call: Callable[[list[Any]], Mapping[str, Any]],
    *,
    limit: int = 1000,
    is_topic: bool = False,
    is_fifo: bool = False,
    threads: int = 2,
) -> tuple[SQSSender, Outcomes]:
    outcomes = Outcomes()
    return SQSSender(Destination("queue 'q'", call, limit, is_topic, is_fifo), outcomes, threads), outcomes


def outgoing(
    message_id: str, body: bytes = b"x", *, key: str | None = None, delay: float = 0.0, timeout: float = 10.0
) -> Outgoing:
    return Outgoing(Message(body, key, id=message_id, delay=delay), time.monotonic() + timeout, len(body))


def test_stored_with_position_and_delay() -> None:
    seen: list[Any] = []

    def call(entries: list[Any]) -> Mapping[str, Any]:
        seen.extend(entries)
        return stored(entries)

    sender, outcomes = open_sender(call)
    entry = outgoing("a", delay=1.2)
    sender.submit([entry])
    sender.close(10)
    assert outcomes.of == {"a": None}
    assert entry.position == "sqs-0"
    assert seen[0]["DelaySeconds"] == 2, "whole seconds, and not before the delay is over"


def test_a_large_message_is_refused_before_any_request_and_spares_the_others() -> None:
    sender, outcomes = open_sender(stored, limit=190)
    sender.submit([outgoing("a"), outgoing("b", b"\xff" * 120), outgoing("c", b"x" * 120)])
    assert isinstance(outcomes.of["b"], unimq.MessageTooLarge), "base64 counts"
    sender.close(10)
    assert (outcomes.of["a"], outcomes.of["c"]) == (None, None)


def test_a_topic_has_no_delay() -> None:
    def call(entries: list[Any]) -> Mapping[str, Any]:
        return {"Successful": [{"Id": entry["Id"], "MessageId": entry["Message"]} for entry in entries]}

    sender, outcomes = open_sender(call, is_topic=True)
    entry = outgoing("b")
    sender.submit([outgoing("a", delay=1.0), entry])
    sender.close(10)
    assert isinstance(outcomes.of["a"], unimq.Unsupported)
    assert (outcomes.of["b"], entry.position) == (None, "x")


def test_another_checksum_is_no_confirmation() -> None:
    def call(entries: list[Any]) -> Mapping[str, Any]:
        answer = stored(entries)
        answer["Successful"][1]["MD5OfMessageAttributes"] = "0" * 32
        return answer

    sender, outcomes = open_sender(call)
    sender.submit([outgoing("a"), outgoing("b")])
    sender.close(10)
    assert outcomes.of["a"] is None
    assert isinstance(outcomes.of["b"], unimq.SendUnknown)


def test_an_unexpected_error_is_an_unknown_outcome(caplog: object) -> None:
    def call(entries: list[Any]) -> Mapping[str, Any]:
        raise RuntimeError

    sender, outcomes = open_sender(call)
    sender.submit([outgoing("a")])
    sender.close(10)
    assert isinstance(outcomes.of["a"], unimq.SendUnknown)
    assert isinstance(outcomes.of["a"].__cause__, RuntimeError)


def test_close_gives_up_in_time_and_a_late_answer_changes_nothing() -> None:
    begun, go = threading.Event(), threading.Event()

    def call(entries: list[Any]) -> Mapping[str, Any]:
        begun.set()
        assert go.wait(10)
        return stored(entries)

    sender, outcomes = open_sender(call)
    sender.submit([outgoing("a")])
    assert begun.wait(10)
    sender.close(0.05)
    assert isinstance(outcomes.of["a"], unimq.SendUnknown)
    go.set()
    sender.close(10)
    sender.submit([outgoing("b")])
    assert isinstance(outcomes.of["b"], unimq.SendRejected)


class Fifo:
    """Stores what it is sent, except for what the script refuses at its first or every attempt."""

    def __init__(self, **refusals: dict[str, Any]) -> None:
        self.refusals = refusals
        self.lock = threading.Lock()
        self.under_way: set[str] = set()
        self.requests: list[list[Any]] = []
        self.stored: list[str] = []

    def call(self, entries: list[Any]) -> Mapping[str, Any]:
        groups = [entry["MessageGroupId"] for entry in entries]
        with self.lock:
            assert len(groups) == len(set(groups)), "two of one group in one request"
            assert not self.under_way.intersection(groups), "two of one group at a time"
            self.under_way.update(groups)
            self.requests.append(entries)
        try:
            # Time for another thread to break the rule.
            time.sleep(0.002)
            failed: list[dict[str, Any]] = []
            for entry in entries:
                refusal = self.refusals.pop(entry["MessageBody"], None)
                if refusal is not None:
                    failed.append({"Id": entry["Id"], **refusal})
                else:
                    self.stored.append(entry["MessageBody"])
            numbers = {failure["Id"] for failure in failed}
            return {**stored([entry for entry in entries if entry["Id"] not in numbers]), "Failed": failed}
        finally:
            with self.lock:
                self.under_way.difference_update(groups)

    def of(self, key: str) -> list[str]:
        return [body for body in self.stored if body.startswith(key)]


def keyed(keys: str, each: int) -> list[Outgoing]:
    return [
        outgoing(f"{key}{number:02}", f"{key}{number:02}".encode(), key=key) for number in range(each) for key in keys
    ]


def test_one_message_of_a_key_at_a_time_and_many_keys_in_one_request() -> None:
    fifo = Fifo()
    sender, outcomes = open_sender(fifo.call, is_fifo=True, threads=4)
    entries = keyed("abcdefghijklmnopqrst", each=10)
    for first in range(0, len(entries), 7):
        sender.submit(entries[first : first + 7])
    sender.close(20)
    assert set(outcomes.of.values()) == {None}
    assert len(outcomes.of) == 200
    for key in "abcdefghijklmnopqrst":
        assert fifo.of(key) == [f"{key}{number:02}" for number in range(10)]
    assert len(fifo.requests) < 100, "keys do not share requests"


def test_a_failed_message_holds_its_key_back_until_it_is_stored() -> None:
    fifo = Fifo(a00={"SenderFault": False, "Code": "InternalError"})
    sender, outcomes = open_sender(fifo.call, is_fifo=True)
    sender.submit(keyed("ab", each=3))
    sender.close(20)
    assert set(outcomes.of.values()) == {None}
    assert fifo.of("a") == ["a00", "a01", "a02"]
    assert fifo.of("b") == ["b00", "b01", "b02"]
    attempts = [entry for entries in fifo.requests for entry in entries if entry["MessageBody"] == "a00"]
    assert len(attempts) == 2
    assert len({entry["MessageDeduplicationId"] for entry in attempts}) == 1, "SQS cannot recognise the repetition"


def test_after_a_refused_message_its_key_goes_on() -> None:
    fifo = Fifo(a00={"SenderFault": True, "Code": "InvalidMessageContents"})
    sender, outcomes = open_sender(fifo.call, is_fifo=True)
    sender.submit(keyed("a", each=3))
    sender.close(20)
    assert isinstance(outcomes.of["a00"], unimq.InvalidMessage)
    assert fifo.of("a") == ["a01", "a02"]


def test_after_an_unknown_outcome_its_key_goes_on(caplog: object) -> None:
    calls: list[list[Any]] = []

    def call(entries: list[Any]) -> Mapping[str, Any]:
        calls.append(entries)
        if len(calls) == 1:
            raise RuntimeError
        return stored(entries)

    sender, outcomes = open_sender(call, is_fifo=True)
    sender.submit(keyed("a", each=3))
    sender.close(20)
    assert isinstance(outcomes.of["a00"], unimq.SendUnknown)
    assert (outcomes.of["a01"], outcomes.of["a02"]) == (None, None)


def test_what_is_reported_twice_lets_one_follow() -> None:
    """A crash after some outcomes of a batch reports all of it."""
    lanes = SendLanes()
    first, second, third = (Ready(entry, encode(entry.message), "a") for entry in keyed("a", each=3))
    assert lanes.admit([first, second, third]) == [first]
    assert lanes.follow([first]) == [second]
    assert lanes.follow([first]) == []
    assert lanes.follow([second]) == [third]
    assert lanes.follow([third]) == []
    assert lanes.follow([third]) == []
    assert lanes.admit([first]) == [first]


def test_close_reports_what_waited_behind_a_request_that_hangs() -> None:
    begun, go = threading.Event(), threading.Event()

    def call(entries: list[Any]) -> Mapping[str, Any]:
        begun.set()
        assert go.wait(10)
        return stored(entries)

    sender, outcomes = open_sender(call, is_fifo=True)
    sender.submit(keyed("a", each=3))
    assert begun.wait(10)
    sender.close(0.05)
    assert [type(outcomes.of[f"a0{number}"]) for number in range(3)] == [unimq.SendUnknown] * 3
    go.set()
    sender.close(10)
    assert len(outcomes.of) == 3


def test_groups_and_deduplication_ids() -> None:
    """A key is a group of its own; without a key each message is. No two sends are the same to SQS."""
    keys = ["plain", "", " ", "Schlüssel", "x" * 129, "!~", None, None]
    fifo = Fifo()
    sender, _ = open_sender(fifo.call, is_fifo=True)
    sender.submit([outgoing("a", f"{number}".encode(), key=key) for number, key in enumerate(keys)])
    sender.submit([outgoing("a", b"again", key="plain")])
    sender.close(10)
    entries = {entry["MessageBody"]: entry for entries in fifo.requests for entry in entries}
    groups = [entries[f"{number}"]["MessageGroupId"] for number in range(len(keys))]
    assert len(set(groups)) == len(keys)
    assert (groups[0], groups[5], entries["again"]["MessageGroupId"]) == ("plain", "!~", "plain")
    assert all(group.isascii() and group.isprintable() and " " not in group for group in groups)
    assert all(1 <= len(group) <= 128 for group in groups)
    assert len({entry["MessageDeduplicationId"] for entry in entries.values()}) == len(keys) + 1


def test_a_fifo_queue_has_no_delay_per_message() -> None:
    fifo = Fifo()
    sender, outcomes = open_sender(fifo.call, is_fifo=True)
    sender.submit([outgoing("a", b"late", key="k", delay=1.0), outgoing("b", b"now", key="k")])
    sender.close(10)
    assert isinstance(outcomes.of["a"], unimq.Unsupported)
    assert "delay" in outcomes.of["a"].feature
    assert fifo.stored == ["now"]
