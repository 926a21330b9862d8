"""What a receiver holds, and what it asks of SQS for it."""

import enum
from typing import TYPE_CHECKING

import msgspec

from unimq_sqs._settlements import Generation

if TYPE_CHECKING:
    from unimq.adapter import Delivery


class Place(enum.Enum):
    """Where a held message is."""

    READY = enum.auto()
    """Goes to the user as soon as there is room."""
    OUT = enum.auto()
    """The user has it, or the buffer of the portable layer."""
    BEHIND = enum.auto()
    """Waits for an earlier message of its group (O1)."""
    PARKED = enum.auto()
    """Was nacked, and waits here for the end of its delay."""


class Held:
    """What finds a delivery again: its token. Guarded by the lock of the receiver."""

    __slots__ = ("changing", "delivery", "group", "handles", "hidden_until", "next_change", "place", "received_at")

    def __init__(self, handle: str, received_at: float, hidden_until: float, group: str = "") -> None:
        self.delivery: Delivery
        """The current one: a message that is nacked may stay here, and gets another (see `place`)."""
        self.handles = [handle]
        """More than one if SQS returned the message twice in one answer: an ack deletes all, one is delivered."""
        self.received_at = received_at
        """`time.monotonic` before the request was sent: whatever is counted from here ends no later than at SQS."""
        self.hidden_until = hidden_until
        """Until then nobody else can receive it; never before the end of its lease."""
        self.group = group
        """Its message group in a FIFO queue; empty in a standard one."""
        self.place = Place.READY
        self.changing = False
        """A change of its visibility is under way: the next one waits for it, or the earlier could win."""
        self.next_change: Change | None = None

    @property
    def lease_until(self) -> float:
        """`time.monotonic` at which it is lost: the lease that the user knows, or while nobody has it all of it."""
        return self.delivery.lease_until if self.place is Place.OUT else self.hidden_until


class Ack(msgspec.Struct, eq=False):
    """One receipt handle to delete."""

    held: Held
    handle: str
    generation: Generation


class Change(msgspec.Struct, eq=False):
    """A new visibility timeout for a message."""

    held: Held
    seconds: int
    generation: Generation | None = None
    """Set where it settles the message (nack)."""
    is_last: bool = False
    """The message is given back with it, and no later change may follow."""
