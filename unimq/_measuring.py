"""What is measured of every message, once for every kind of telemetry: a `Recorder` says where it goes."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol

from unimq._delivery import Delivery
from unimq._errors import UnimqError
from unimq._message import Message
from unimq._middleware import Middleware, Settlement
from unimq._outgoing import Outcome


class Recorder(Protocol):
    """Where measurements of one connection go. Called from several threads at once; must not block."""

    def sent(self, target: str, duration: float, error: UnimqError | None) -> None:
        """Take that a message was confirmed, or failed, so many seconds after it was given to the producer."""
        ...

    def delivered(self, source: str, latency: float, attempt: int) -> None:
        """Take that a message reached its user, so many seconds after it was sent."""
        ...

    def settled(self, source: str, how: Settlement) -> None:
        """Take how a delivery ended."""
        ...

    def handled(self, source: str, messages: int, duration: float, error: BaseException | None) -> None:
        """Take that a handler had so many messages for so many seconds, and what it raised."""
        ...


def measuring(recorder: Recorder) -> Middleware:
    """Return the hooks that measure for a recorder."""

    def publish(message: Message, target: str) -> Message:
        notes = message.notes
        if notes is None:
            message.notes = {recorder: time.perf_counter()}
        else:
            notes[recorder] = time.perf_counter()
        return message

    def published(message: Message, target: str, outcome: Outcome) -> None:
        began: Any = message.notes.pop(recorder, None) if message.notes else None
        if began is not None:
            error = outcome if isinstance(outcome, UnimqError) else None
            recorder.sent(target, time.perf_counter() - began, error)

    def deliver(delivery: Delivery[Any]) -> bool:
        # Clocks of two machines may differ by more than the message took.
        recorder.delivered(delivery.source, max(0.0, time.time() - delivery.message.sent_at), delivery.attempt)
        return True

    def handling(deliveries: Sequence[Delivery[Any]]) -> AbstractContextManager[object]:
        return _Handling(recorder, deliveries[0].source, len(deliveries))

    def settled(delivery: Delivery[Any], how: Settlement) -> None:
        recorder.settled(delivery.source, how)

    return Middleware(publish=publish, published=published, deliver=deliver, handling=handling, settled=settled)


class _Handling:
    """The time that one call of a handler takes."""

    __slots__ = ("_began", "_messages", "_recorder", "_source")

    def __init__(self, recorder: Recorder, source: str, messages: int) -> None:
        self._recorder = recorder
        self._source = source
        self._messages = messages

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        self._recorder.handled(self._source, self._messages, time.perf_counter() - self._began, error)
