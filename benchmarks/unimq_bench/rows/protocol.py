"""The one protocol behind which every row is: unimq itself, raw clients and peers.

A row is a module with a function ``connect(url, options) -> Connection``. It is at most 120 lines, so that a reader can
check its fairness, and imports nothing but its own client library, the standard library and this module: a peer's row
runs in an environment that has nothing else. What it imports of its client, it imports inside ``connect``.

Every row sends and receives the same bodies, which the harness makes and checks. Each message is *acked* if it was sent
and the next `Sender.flush` did not return its body. A row must be as fast as its library idiomatically is **at the
declared durability**; the harness refuses to rank rows whose durability differs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol


class NotTaken(Exception):
    """`Sender.send` could not take the message within the row's timeout; it is certainly not on its way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What decides a row's figures, as it is in force and not as it was wished."""

    durability: str
    """``at-most-once``, ``memory``, ``leader memory``, ``fsync`` or ``replicated(n)``."""
    emulated: str = ""
    """Name of the emulator that answers instead of the broker."""
    client_settings: Mapping[str, str] = field(default_factory=dict[str, str])
    broker_settings: Mapping[str, str] = field(default_factory=dict[str, str])
    versions: Mapping[str, str] = field(default_factory=dict[str, str])


class Batch(NamedTuple):
    """What one receive brought."""

    bodies: Sequence[bytes]
    token: Any
    """Whatever the row needs to settle these messages."""


class Sender(Protocol):
    """Used by one thread."""

    def send(self, body: bytes, /) -> None:
        """Send one message without waiting for its confirmation; waits while `window` messages are unconfirmed.

        Raises:
            NotTaken: the window stayed full, or the client refused it.

        """
        ...

    def flush(self) -> Sequence[bytes]:
        """Wait until everything sent so far has its outcome; return the bodies since the last flush that are not stored
        or of unknown fate. Never raises for a message's fault.
        """
        ...

    def close(self) -> None:
        """Release everything of the sender. Idempotent."""
        ...


class Receiver(Protocol):
    """Used by one thread."""

    def receive(self, max_messages: int, timeout: float, /) -> Batch:
        """Return 1 to `max_messages` as soon as any is there, or an empty batch after `timeout` seconds."""
        ...

    def ack(self, batch: Batch, /) -> None:
        """Settle all of a batch as done, as cheaply as the client can, without waiting for a confirmation."""
        ...

    def settle(self) -> None:
        """Wait until the acks so far are confirmed by the strongest proof that the client offers, if it offers one."""
        ...

    def close(self) -> None:
        """Give back what is not settled and release everything. Idempotent."""
        ...


class Redelivering(Protocol):
    """What a receiver has besides if its row takes part in the workload ``redeliver``."""

    def settle_each(self, batch: Batch, nacked: Sequence[int], rejected: Sequence[int], /) -> None:
        """Give back those with the indexes `nacked`, dead-letter those in `rejected`, ack the others."""
        ...


class Connection(Protocol):
    """One connection of a row to its broker, in one process. Threads share it; a sender or receiver belongs to one."""

    @property
    def description(self) -> Description:
        """Settings in force and versions."""
        ...

    def prepare(self, queue: str, /) -> None:
        """Make the queue, durable as described, empty; it may exist from before."""
        ...

    def remove(self, queue: str, /) -> None:
        """Delete the queue; a missing one is no error."""
        ...

    def open_sender(self, queue: str, /, *, window: int) -> Sender:
        """Open a sender to a prepared queue, with at most `window` unconfirmed messages."""
        ...

    def open_receiver(self, queue: str, /, *, prefetch: int) -> Receiver:
        """Open a receiver of a prepared queue, with at most `prefetch` unsettled messages."""
        ...

    def counters(self) -> Mapping[str, int]:
        """Return what the client counts, since it connected: any of ``requests``, ``billed_requests``,
        ``empty_receives``, ``bytes_sent``, ``bytes_received``. What it cannot tell is left out.
        """
        ...

    def close(self) -> None:
        """Release everything. Idempotent."""
        ...


class Connect(Protocol):
    """The function ``connect`` of a row's module."""

    def __call__(self, url: str, options: Mapping[str, str], /) -> Connection:
        """Connect. `options` are those of the row in the workload, for example ``partitions``; unknown ones raise
        `ValueError`.
        """
        ...
