"""The sender with a scripted SQS: checks before I/O, checksums, and one outcome per entry."""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unimq_sqs._sender import Destination, SQSSender
from unimq_sqs._wire import _digested

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
    call: Callable[[list[Any]], Mapping[str, Any]], *, limit: int = 1000, is_topic: bool = False
) -> tuple[SQSSender, Outcomes]:
    outcomes = Outcomes()
    return SQSSender(Destination("queue 'q'", call, limit, is_topic), outcomes, threads=2), outcomes


def outgoing(message_id: str, body: bytes = b"x", *, delay: float = 0.0, timeout: float = 10.0) -> Outgoing:
    return Outgoing(Message(body, id=message_id, delay=delay), time.monotonic() + timeout, len(body))


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
