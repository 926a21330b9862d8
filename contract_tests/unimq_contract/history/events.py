"""What happened in a run, as pure data: one line of JSON each, so that a killed process leaves its history behind.

Times are nanoseconds of the monotonic clock, which all processes of one machine share. Whatever starts something
(`Sending`, `Settling`, `Closing`, `Crashed`, `Down`) is recorded before it is done, whatever reports something
(`Sent`, `Delivered`, `Confirmed`, `Closed`, `Up`) afterwards; then an effect never stands before its cause.

A delivery is named by its consumer and the consumer's own count of deliveries; names of consumers are unique in a run.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Literal, TypeAlias

import msgspec

DEAD_LETTER_PREFIX = "unimq-dead-"
"""Headers that a dead letter has and its original has not."""

How: TypeAlias = Literal["ack", "nack", "reject"]


class Content(msgspec.Struct, array_like=True, gc=False):
    """What must arrive equal (R2). Everything that may be large is a digest."""

    id: str
    body: str
    key: str | None = None
    headers: str = ""
    properties: str = ""


def digest(data: bytes) -> str:
    """Return 64 bits that differ for different bytes."""
    return blake2b(data, digest_size=8).hexdigest()


def content_of(
    id: str,
    body: bytes,
    key: str | None,
    headers: Mapping[str, str | bytes] | None,
    *properties: str | None,
) -> Content:
    """Return what must arrive equal of a message; the headers that make a dead letter are left out.

    Text and bytes of the same characters differ, as do a missing property and an empty one.
    """
    kept = sorted((name, value) for name, value in (headers or {}).items() if not name.startswith(DEAD_LETTER_PREFIX))
    return Content(
        id,
        digest(body),
        key,
        digest(repr(kept).encode()) if kept else "",
        digest(repr(properties).encode()) if any(each is not None for each in properties) else "",
    )


class Sending(msgspec.Struct, array_like=True, tag="sending", gc=False):
    """A send begins. `sequence` counts the messages that one thread of one producer sends: the order of O1."""

    at: int
    message: str
    target: str
    producer: str
    sequence: int
    content: Content
    not_before: int = 0
    """When it may be delivered at the earliest (T2); 0 for at once."""
    expires: int = 0
    """When it must not be delivered any more (T1); 0 for never."""


class Sent(msgspec.Struct, array_like=True, tag="sent", gc=False):
    """The broker confirmed it (S1)."""

    at: int
    message: str


class NotSent(msgspec.Struct, array_like=True, tag="not-sent", gc=False):
    """It is certainly not stored (S2)."""

    at: int
    message: str
    error: str = ""


class MaybeSent(msgspec.Struct, array_like=True, tag="maybe-sent", gc=False):
    """It may be stored or not (S2)."""

    at: int
    message: str
    error: str = ""


class Subscribed(msgspec.Struct, array_like=True, tag="subscribed", gc=False):
    """From now on `group` gets what is sent to `target` (G2); with `dead_letters`, what `target` gave up (A4).

    A group that was never subscribed gets what is sent to the target of the same name: it is a queue.
    """

    at: int
    target: str
    group: str
    dead_letters: bool = False


class Topic(msgspec.Struct, array_like=True, tag="topic", gc=False):
    """The target is a topic: without subscription nobody gets what is sent to it (G2)."""

    at: int
    target: str


class Redriven(msgspec.Struct, array_like=True, tag="redriven", gc=False):
    """The dead letters of the group are about to be returned to it (D2)."""

    at: int
    group: str


class Opened(msgspec.Struct, array_like=True, tag="opened", gc=False):
    """A consumer joined its group."""

    at: int
    group: str
    consumer: str


class Delivered(msgspec.Struct, array_like=True, tag="delivered", gc=False):
    """A message was handed out."""

    at: int
    message: str
    group: str
    consumer: str
    number: int
    attempt: int
    content: Content
    epoch: int = 0
    """A higher one of the same consumer ends all deliveries of lower ones."""
    lease_until: int = 0
    """When the lease ends by itself; 0 for never."""


class Settling(msgspec.Struct, array_like=True, tag="settling", gc=False):
    """An ack, nack or reject begins."""

    at: int
    message: str
    group: str
    consumer: str
    number: int
    how: How = "ack"
    delay: int = 0
    """Of a nack, in nanoseconds."""


class Refused(msgspec.Struct, array_like=True, tag="refused", gc=False):
    """The settlement raised and did nothing (A6): `stale`, the delivery is not held any more; `again`, it was settled
    before; `invalid`, it never was a settlement.
    """

    at: int
    message: str
    group: str
    consumer: str
    number: int
    why: Literal["stale", "again", "invalid"]


class Confirmed(msgspec.Struct, array_like=True, tag="confirmed", gc=False):
    """The settlements of these deliveries are final (A1)."""

    at: int
    consumer: str
    numbers: list[int]


class Unconfirmed(msgspec.Struct, array_like=True, tag="unconfirmed", gc=False):
    """Some of the settlements of these deliveries may have been lost; their messages may come again."""

    at: int
    consumer: str
    numbers: list[int]
    error: str = ""


class Extended(msgspec.Struct, array_like=True, tag="extended", gc=False):
    """The lease was prolonged (A10)."""

    at: int
    message: str
    group: str
    consumer: str
    number: int
    lease_until: int


class LeaseEnded(msgspec.Struct, array_like=True, tag="lease-ended", gc=False):
    """The delivery is not held any more, for a reason that whoever records this knows (A5)."""

    at: int
    message: str
    group: str
    consumer: str
    number: int


class Revoked(msgspec.Struct, array_like=True, tag="revoked", gc=False):
    """All deliveries that the consumer holds were taken from it: a rebalance, a channel that closed."""

    at: int
    group: str
    consumer: str


class Lapsed(msgspec.Struct, array_like=True, tag="lapsed", gc=False):
    """The group gave the consumer up while it stood still; it does not know, and may hand out what it fetched before.

    What it hands out from now on is a stray: it counts once its settlement is confirmed, for nobody confirms the stale
    ones (A6).
    """

    at: int
    group: str
    consumer: str


class Discarded(msgspec.Struct, array_like=True, tag="discarded", gc=False):
    """The group gave the message up without a consumer: it expired, or made room for another (T1, T3)."""

    at: int
    message: str
    group: str
    why: Literal["expired", "dropped", "dead"]


class Closing(msgspec.Struct, array_like=True, tag="closing", gc=False):
    """A consumer begins to close: what it holds returns (A5)."""

    at: int
    group: str
    consumer: str


class Closed(msgspec.Struct, array_like=True, tag="closed", gc=False):
    """The close returned; a clean one confirmed all settlements (L1)."""

    at: int
    group: str
    consumer: str
    clean: bool = True


class Crashed(msgspec.Struct, array_like=True, tag="crashed", gc=False):
    """A consumer is about to be killed."""

    at: int
    group: str
    consumer: str


class Down(msgspec.Struct, array_like=True, tag="down", gc=False):
    """A fault of the environment is about to take effect."""

    at: int
    what: str


class Up(msgspec.Struct, array_like=True, tag="up", gc=False):
    """The fault is over."""

    at: int
    what: str


class Depth(msgspec.Struct, array_like=True, tag="depth", gc=False):
    """What the broker says is left in the group, exactly, while nobody sends, receives or settles (T4)."""

    at: int
    group: str
    ready: int
    in_flight: int = 0
    delayed: int = 0


Event: TypeAlias = (
    Sending
    | Sent
    | NotSent
    | MaybeSent
    | Subscribed
    | Topic
    | Redriven
    | Opened
    | Delivered
    | Settling
    | Refused
    | Confirmed
    | Unconfirmed
    | Extended
    | LeaseEnded
    | Revoked
    | Lapsed
    | Discarded
    | Closing
    | Closed
    | Crashed
    | Down
    | Up
    | Depth
)

_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
encode = msgspec.json.Encoder().encode


def decode_lines(data: bytes) -> Iterable[Event]:
    """Yield the events of JSON lines. A last line without its end is what a killed process did not finish: left out.

    Raises:
        msgspec.DecodeError: a finished line is not an event.

    """
    lines = data.split(b"\n")
    del lines[-1]
    return map(_decoder.decode, lines)


def shown(event: Event, start: int) -> str:
    """Return one line for people, with the seconds since `start`."""
    fields = (
        f"{name}={value!r}"
        for name, value in msgspec.structs.asdict(event).items()
        if name not in {"at", "content"} and value not in ("", 0, None)
    )
    return f"{(event.at - start) / 1e9:+12.6f} s  {event.__struct_config__.tag}  {'  '.join(fields)}"
