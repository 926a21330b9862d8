"""What a backend can do, as frozen data: checked before I/O, shown in the documentation, proven by the suite."""

import enum
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

from unimq._errors import Unsupported


class Support(enum.Enum):
    """How a feature is provided."""

    NATIVE = "native"
    EMULATED = "emulated"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature of one backend.

    ``note`` holds the limits of an emulated feature or the reason of an unsupported one; ``alternative`` what to use
    instead of an unsupported one.
    """

    support: Support
    note: str = ""
    alternative: str = ""

    def __bool__(self) -> bool:
        """Tell whether the feature can be used."""
        return self.support is not Support.UNSUPPORTED


def native(note: str = "") -> Feature:
    """Return a feature that the broker itself provides."""
    return Feature(Support.NATIVE, note)


def emulated(note: str) -> Feature:
    """Return a feature that unimq provides on top of the broker; `note` says within which limits."""
    return Feature(Support.EMULATED, note)


def unsupported(reason: str, alternative: str = "") -> Feature:
    """Return a feature that is refused with `reason` before any I/O."""
    return Feature(Support.UNSUPPORTED, reason, alternative)


_KEEPS_NOTHING = unsupported("settled messages are not kept", "a Kafka topic, which keeps them for its retention")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What one connection can do. Numbers are bytes or seconds; ``None`` means no limit of the backend's own."""

    backend: str
    broker_version: str
    client_version: str
    emulator: str = ""
    """Name of the emulator that answers instead of the real broker; empty for a real one."""

    durable: Feature
    """Messages survive a restart of the broker (S1)."""
    topics: Feature
    """Publish-subscribe: topics and subscriptions (G2)."""
    start_earliest: Feature
    """A new subscription can ask for the messages sent before it was declared (G2)."""
    require_subscription: Feature
    """A topic can refuse messages while it has no subscription (G2)."""
    ordering_key: Feature
    """``ordering="key"`` (O1)."""
    delay: Feature
    """Per-message ``delay`` (T2); the longest one is ``max_delay``."""
    ttl: Feature
    """Per-message and per-queue ``ttl`` (T1)."""
    nack_delay: Feature
    """``nack(delay > 0)`` (A3)."""
    lease: Feature
    """A declared ``lease`` after which an unsettled delivery returns (A5)."""
    extend: Feature
    """``extend`` prolongs the lease of a delivery (A10)."""
    max_length: Feature
    """``max_length`` with ``overflow="reject"`` (T3)."""
    drop_oldest: Feature
    """``max_length`` with ``overflow="drop_oldest"`` (T3)."""
    dead_letter: Feature
    """``reject`` and ``max_deliveries`` move the message to the dead-letter queue (A4, A8)."""
    redrive_subscription: Feature
    """`redrive` returns the dead letters of a subscription to it alone (D2)."""
    stats: Feature
    """``stats()`` (T4); its note says how exact the numbers are."""
    purge: Feature
    """``purge()``."""
    pause: Feature
    """``pause()`` and ``resume()`` of a consumer."""
    seek: Feature = _KEEPS_NOTHING
    """``seek()``: a source whose consumers are stopped is read again, or on, from another position."""

    attempts_exact: bool
    """``attempt`` survives crashes of consumer and broker (A7)."""
    ordered_attempts: str = ""
    """Why ``attempt`` may begin again where ``ordering="key"``, although it is exact elsewhere; else empty (A7)."""
    shutdown_counts: bool
    """A close or a lost connection counts as a delivery (A9)."""
    idle_consumers: str = ""
    """Why some of many competing consumers may get no work; empty if each gets some (G1)."""
    acks_at_risk: str = ""
    """What a crash of the broker can still undo after ``settle()`` (A1); empty for nothing."""
    max_message_bytes: int | None = None
    """Largest message with headers and encoding counted (S4)."""
    max_topic_message_bytes: int | None = None
    """Largest message to a topic, where that is less (S4)."""
    max_header_bytes: int | None = None
    """Everything of a message but its body, encoding counted, where that has a limit of its own (S4)."""
    max_field_bytes: int | None = None
    """Longest header name, id, content type, correlation id or reply queue in UTF-8 (S4)."""
    max_delay: float | None = None
    """Longest ``delay`` in seconds (T2)."""
    cloudevents: Literal["kafka", "amqp"] | None = None
    """Protocol binding of CloudEvents by which `unimq.CloudEvents` writes binary mode; ``None``: structured mode."""
    max_nack_delay: float | None = None
    """Longest ``nack(delay)`` in seconds (A3); a note of ``nack_delay`` says if it counts from the receipt."""
    max_lease: float | None = None
    """Longest ``lease``, and longest ``extend``, in seconds (A5, A10)."""

    def require(self, feature: str) -> None:
        """Raise `Unsupported` with reason and alternative unless the feature can be used."""
        found: Feature = getattr(self, feature)
        if not found:
            raise Unsupported(f"{feature} on {self.backend}", found.note, found.alternative)

    def require_at_most(self, limit: str, what: str, duration: float) -> None:
        """Raise `Unsupported` if `duration` seconds are more than the field `limit` allows for a ``what``."""
        longest: float | None = getattr(self, limit)
        if longest is not None and duration > longest:
            raise Unsupported(
                f"{what} of {duration:.10g} s on {self.backend}",
                f"the longest is {longest:.10g} s",
                f"a shorter {what}",
            )

    def features(self) -> Iterator[tuple[str, Feature]]:
        """Yield name and support of every feature, in the order of the documentation."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Feature):
                yield field.name, value


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Depth of a queue or subscription (T4), and the health of the connection. ``None``: the backend does not say.

    ``exact`` is false where the backend only estimates; times are seconds.
    """

    ready: int | None
    in_flight: int | None = None
    delayed: int | None = None
    oldest_age: float | None = None
    consumers: int | None = None
    dead_letters: int | None = None
    exact: bool = True
    trouble: str = ""
    """What keeps this connection at present from all that it should do, though the broker could be asked: an alarm in
    which RabbitMQ takes no messages, a lost connection for sending that is being restored (L3). Empty while all is
    well, and on backends that have one connection for everything: there `stats` itself fails."""
