"""A row's connection put together from functions, so that a row's file shows what it does to messages."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from unimq_bench.rows.protocol import Description, Receiver, Sender


def _nothing() -> None:
    """Release nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """A `unimq_bench.rows.protocol.Connection`; see there for what each function has to do."""

    describe: Callable[[], Description]
    make: Callable[[str], object]
    delete: Callable[[str], object]
    sender: Callable[[str, int], Sender]
    """Of a queue, with a window."""
    receiver: Callable[[str, int], Receiver]
    """Of a queue, with a prefetch."""
    count: Callable[[], Mapping[str, int]] = dict[str, int]
    release: Callable[[], object] = _nothing

    @property
    def description(self) -> Description:
        """See the protocol, here and below."""
        return self.describe()

    def prepare(self, queue: str, /) -> None:
        """Make the queue, empty."""
        self.make(queue)

    def remove(self, queue: str, /) -> None:
        """Delete the queue."""
        self.delete(queue)

    def open_sender(self, queue: str, /, *, window: int) -> Sender:
        """Open a sender."""
        return self.sender(queue, window)

    def open_receiver(self, queue: str, /, *, prefetch: int) -> Receiver:
        """Open a receiver."""
        return self.receiver(queue, prefetch)

    def counters(self) -> Mapping[str, int]:
        """Return what was counted."""
        return self.count()

    def close(self) -> None:
        """Release everything."""
        self.release()


def checked(row: str, given: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """Return the defaults in `known`, with what is `given` instead.

    Raises:
        ValueError: an option is unknown.

    """
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"unknown option of {row}: {', '.join(unknown)}; known: {', '.join(known) or 'none'}")
    return {**known, **given}


def number_of(row: str, options: Mapping[str, str], name: str, *, least: int) -> int:
    """Return an option as a whole number.

    Raises:
        ValueError: it is none, or less than `least`.

    """
    text = options[name]
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise ValueError(f"option {name} of {row} is a whole number from {least} on, not {text!r}")
    return number
