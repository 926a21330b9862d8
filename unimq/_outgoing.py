"""One message on its way to the broker, as the portable layer and the driver share it."""

from collections.abc import Callable
from typing import Literal

import msgspec

from unimq._errors import UnimqError
from unimq._message import Message
from unimq._receipt import Receipt
from unimq._waiting import Waiters, Wake

Outcome = Receipt | UnimqError
OnOutcome = Callable[[Outcome], None]


class PipelinedGroup:
    """The enqueued messages between two flushes. Guarded by the lock of the `ProducerCore`."""

    __slots__ = ("failures", "finished", "remaining", "unkept_failures")

    def __init__(self) -> None:
        self.remaining: int = 0
        self.finished: Waiters = Waiters()
        self.failures: list[UnimqError] = []
        self.unkept_failures: int = 0

    def is_finished(self) -> Literal[True] | None:
        """Attempt for the fronts: true once every outcome is there."""
        return True if self.remaining == 0 else None


class Outgoing(msgspec.Struct, eq=False):
    """One message on its way to the broker: what a driver sends, and where it leaves the position."""

    message: Message
    deadline: float
    """`time.monotonic` until which the driver may retry; then the outcome is `SendUnknown` (S2)."""
    size: int
    """Bytes that it counts in the window."""
    group: PipelinedGroup | None = None
    """Set for an enqueued message."""
    on_outcome: OnOutcome | None = None
    position: object = None
    """The backend's own position, set by the driver before it reports the entry as stored."""
    error: UnimqError | None = None
    done: bool = False
    """Set under the lock of the `ProducerCore`, after `error` and `position`."""
    wake: Wake | None = None
    """Wake-up of the caller that waits for this outcome."""

    @property
    def outcome(self) -> Outcome:
        """The receipt or the error, once `done`."""
        return self.error if self.error is not None else Receipt(self.message.id, self.position)

    def is_done(self) -> Literal[True] | None:
        """Attempt for the fronts."""
        return True if self.done else None
