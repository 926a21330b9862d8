"""What can be asked of a proxy, and what it counts: the same in a thread and in a process of its own."""

from typing import Literal, TypeAlias

import msgspec

Direction: TypeAlias = Literal["up", "down"]
"""``up`` is from client to server."""
Side: TypeAlias = Literal["client", "server"]

BOTH: tuple[Direction, ...] = ("up", "down")


class Cut(msgspec.Struct, tag_field="fault", tag="cut"):
    """Reset every connection (RST on both sides). New ones are accepted."""


class Refuse(msgspec.Struct, tag_field="fault", tag="refuse"):
    """Reset new connections; those that exist live on."""


class Stall(msgspec.Struct, tag_field="fault", tag="stall"):
    """Move nothing any more, not even the end of a connection: a black hole. What was swallowed flows after `Heal`."""

    directions: tuple[Direction, ...] = BOTH


class HalfOpen(msgspec.Struct, tag_field="fault", tag="half-open"):
    """Reset one side of every connection and tell the other nothing: `side` goes on believing in a peer that is gone.

    What it sends is swallowed. It is reset by `Heal`, as by a peer that comes back without memory.
    """

    side: Side = "client"


class Delay(msgspec.Struct, tag_field="fault", tag="delay"):
    """Deliver everything later, in order, without limiting the rate. Seconds; the jitter is added, evenly spread."""

    seconds: float
    jitter: float = 0.0
    directions: tuple[Direction, ...] = BOTH


class Throttle(msgspec.Struct, tag_field="fault", tag="throttle"):
    """Move at most so many bytes per second, each connection and direction by itself."""

    rate: float
    directions: tuple[Direction, ...] = BOTH


class ResetAfter(msgspec.Struct, tag_field="fault", tag="reset-after"):
    """Reset each connection once exactly so many more of its bytes went that way: half a request, half an answer."""

    count: int
    direction: Direction = "up"


class Heal(msgspec.Struct, tag_field="fault", tag="heal"):
    """End every fault."""


class Ask(msgspec.Struct, tag_field="fault", tag="ask"):
    """Change nothing, tell the counters."""


Command: TypeAlias = Cut | Refuse | Stall | HalfOpen | Delay | Throttle | ResetAfter | Heal | Ask


class Counters(msgspec.Struct, kw_only=True):
    """What the proxy did since it was started."""

    accepted: int = 0
    """Connections of clients, refused ones included."""
    open: int = 0
    """Of them now."""
    unreachable: int = 0
    """Connections reset because the server took none."""
    up: int = 0
    down: int = 0
    """Bytes that arrived at the other side."""
    hits: dict[str, int] = {}
    """By the tag of each fault how often it touched something: connections for ``cut``, ``refuse``, ``half-open`` and
    ``reset-after``; pieces of data (or connections, or their ends) for ``stall``, ``delay`` and ``throttle``."""
    in_effect: list[str] = []
    """Faults that last."""
