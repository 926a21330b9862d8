"""Where a run's events are kept: in memory, and on disk where the process may be killed."""

import contextlib
import os
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from unimq_contract.history.events import Down, Event, Up, decode_lines, encode


class History:
    """The events of one process. Thread-safe without a lock of ours: appending to a list, and a `write` in append mode,
    are each one step.

    With a `path` every event is also a line of that file by the time `record` returns. What was written survives the
    process's ``kill -9`` (though not the machine's), because it is in the kernel's hands.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.events: list[Event] = []
        self._file = -1 if path is None else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def record(self, event: Event) -> None:
        """Keep one event."""
        self.events.append(event)
        if self._file >= 0:
            os.write(self._file, encode(event) + b"\n")

    def record_all(self, events: Sequence[Event]) -> None:
        """Keep events that came together."""
        self.events.extend(events)
        if self._file >= 0:
            os.write(self._file, b"".join([encode(event) + b"\n" for event in events]))

    def down(self, what: str) -> None:
        """Record that a fault is about to take effect."""
        self.record(Down(time.monotonic_ns(), what))

    def up(self, what: str) -> None:
        """Record that it is over."""
        self.record(Up(time.monotonic_ns(), what))

    @contextlib.contextmanager
    def fault(self, what: str) -> Generator[None]:
        """Record a fault that is in effect inside the block."""
        self.down(what)
        try:
            yield
        finally:
            self.up(what)

    def close(self) -> None:
        """Close the file, if there is one. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read(path: Path) -> list[Event]:
    """Return the events that a process left in its file.

    Raises:
        msgspec.DecodeError: a finished line is not an event.

    """
    return list(decode_lines(path.read_bytes()))


def write(path: Path, events: Sequence[Event]) -> None:
    """Write events as a file that `read` understands."""
    path.write_bytes(b"".join([encode(event) + b"\n" for event in events]))


def merged(*histories: Sequence[Event]) -> list[Event]:
    """Return the events of several processes of one machine in the order of time."""
    return sorted((event for history in histories for event in history), key=lambda event: event.at)
