"""What the judge knows while it goes through a history: messages, groups, consumers, deliveries, and their fates."""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto

from unimq_contract.history.events import Content, Delivered, How, Sending

LONG_AGO = -(10**18)
"""Before every time of a history."""


class SendOutcome(Enum):
    PENDING = auto()
    OK = auto()
    REJECTED = auto()
    UNKNOWN = auto()


class Fate(Enum):
    """Of a message in a group."""

    OPEN = auto()
    MAYBE = auto()
    DONE = auto()


class Proof(Enum):
    """Of a settlement; HELD while there is none."""

    HELD = auto()
    SETTLING = auto()
    CONFIRMED = auto()
    LOST_SIGHT = auto()
    STALE = auto()


PENDING, OK, REJECTED, UNKNOWN = SendOutcome
OPEN, MAYBE, DONE = Fate
HELD, SETTLING, CONFIRMED, LOST_SIGHT, STALE = Proof
# Module constants are looked up once, members of an enumeration each time through their class.


@dataclass(slots=True, eq=False)
class MessageState:
    sending: Sending
    faults: int
    """Faults before the send."""
    copies: bool
    """Whether the library may have stored it more than once: its send met a fault or ended unknown (S2)."""
    outcome: SendOutcome = PENDING
    surfaced: bool = False


@dataclass(slots=True, eq=False)
class Place:
    """One message in one group."""

    message: MessageState
    order: int
    """Its place among the first deliveries of the group."""
    last: "DeliveryState | None" = None
    fate: Fate = OPEN
    acked: bool = False
    """Whether an ack was confirmed, ever."""
    dead: bool = False
    """Whether it was rejected or failed for the last time."""
    discarded: str = ""


@dataclass(slots=True, eq=False)
class DeliveryState:
    event: Delivered
    place: Place
    consumer: "ConsumerState"
    faults: int
    """Faults before it."""
    shaky: bool
    """Whether it came while a fault was in effect, or shortly after."""
    endings: int
    """Closes, crashes and revocations of the group before it."""
    members: int
    """Changes of the group's membership before it."""
    lease_until: int
    how: How | None = None
    proof: Proof = HELD
    settled_at: int = 0
    delay: int = 0
    ended: str = ""
    holds: bool = True
    """Whether it counts among what its consumer holds."""
    successor: "DeliveryState | None" = None
    stray: bool = False
    """Whether its consumer had lapsed: it may have been fetched before, and others may hold the message."""
    suspicion: "tuple[Delivered, str] | None" = None
    """A redelivery while the settlement was under way, and what would excuse it if there had been none."""


@dataclass(slots=True, eq=False)
class ConsumerState:
    name: str
    group: "Group"
    epoch: int = 0
    ended: str = ""
    lapsed: bool = False
    held: int = 0
    deliveries: dict[int, DeliveryState] = field(default_factory=dict[int, DeliveryState])
    pending: dict[int, DeliveryState] = field(default_factory=dict[int, DeliveryState])
    """Settlements that are neither confirmed nor known to be lost."""
    unsettled: deque[DeliveryState] = field(default_factory=deque["DeliveryState"])
    """Deliveries in order, without those at the left end that were settled."""


@dataclass(slots=True, eq=False)
class Lane:
    """The messages of one thread of one producer with one key: these have an order (O1)."""

    highest: int = -1
    holder: MessageState | None = None


@dataclass(slots=True, eq=False)
class Group:
    name: str
    target: str
    since: int
    parent: "Group | None" = None
    """Of a dead-letter queue: the group whose dead letters it holds."""
    places: dict[str, Place] = field(default_factory=dict[str, Place])
    lanes: dict[tuple[str, str], Lane] = field(default_factory=dict[tuple[str, str], Lane])
    keys: dict[str, dict[Place, None]] = field(default_factory=dict[str, dict[Place, None]])
    """Per key the messages that were delivered and are not settled: one, if all is well."""
    holders: int = 0
    """Consumers that hold something."""
    endings: int = 0
    members: int = 0
    members_changed_at: int = LONG_AGO
    redriven_at: int = LONG_AGO
    opened: bool = False
    ok: int = 0
    possible: int = 0
    """Messages for this group that are stored, or may be."""
    copies: bool = False
    transient: int = 0
    """Messages for this group that expire."""
    done: int = 0
    maybe: int = 0


UNPLACED = Place(MessageState(Sending(0, "", "", "", 0, Content("", "")), 0, copies=False), -1)
"""What a delivery refers to until its place is known."""
