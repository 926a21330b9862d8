"""What a consumer receives, and its settlement."""

from datetime import timedelta
from typing import Any, Generic, Protocol, cast

import msgspec

from unimq._codec import Value_co
from unimq._destinations import Seconds
from unimq._message import Headers, Message, Notes


class Settler(Protocol):
    """What a delivery needs of the consumer that received it."""

    @property
    def source_name(self) -> str: ...
    def ack(self, delivery: "Delivery[Any]") -> None: ...
    def nack(self, delivery: "Delivery[Any]", delay: Seconds) -> None: ...
    def reject(self, delivery: "Delivery[Any]", reason: str) -> None: ...
    def extend(self, delivery: "Delivery[Any]", duration: Seconds) -> None: ...


class Delivery(msgspec.Struct, Generic[Value_co], eq=False):
    """One delivery of a message. Settle each exactly once, in any order, from any thread (A2).

    `ack`, `nack` and `reject` hand the settlement over without waiting for the broker; the consumer's ``settle()``
    waits until all of them are confirmed (A1). They raise `AlreadySettled` at the second call and `LeaseLost` when the
    delivery is no longer held by this consumer; both change nothing (A6). They never block, in both fronts.
    """

    message: Message
    attempt: int
    """1 at the first delivery; counts deliveries as far as ``Capabilities.attempts_exact`` says (A7)."""
    token: object
    """The driver's own handle; opaque to everybody else."""
    settler: Settler
    native: object = None
    """The client library's own object, if the driver keeps it."""
    lease_until: float = 0.0
    """`time.monotonic` at which the lease ends; 0 while there is none. Kept by the driver."""
    lost: bool = False
    """Set by the consumer when the driver says that the delivery is no longer held."""
    decoded: object = msgspec.UNSET
    """What the consumer's codec made of the message."""
    notes: Notes | None = None
    """What middlewares note between their hooks for this delivery."""

    @property
    def value(self) -> Value_co:
        """What the consumer's codec made of the message; without a codec the body."""
        return cast("Value_co", self.message.body if self.decoded is msgspec.UNSET else self.decoded)

    @property
    def body(self) -> bytes:
        """The bytes that were sent (R2)."""
        return self.message.body

    @property
    def key(self) -> str | None:
        """The key that was sent, or ``None`` (R2)."""
        return self.message.key

    @property
    def headers(self) -> Headers:
        """The headers that were sent (R2)."""
        return self.message.headers

    @property
    def id(self) -> str:
        """The message's id; the same in every redelivery (S2)."""
        return self.message.id

    @property
    def content_type(self) -> str | None:
        """The content type that was sent, or ``None``."""
        return self.message.content_type

    @property
    def correlation_id(self) -> str | None:
        """The correlation id that was sent, or ``None``."""
        return self.message.correlation_id

    @property
    def reply_to(self) -> str | None:
        """The reply queue that was sent, or ``None``."""
        return self.message.reply_to

    @property
    def sent_at(self) -> float:
        """Unix time of the send in seconds, to the millisecond."""
        return self.message.sent_at

    @property
    def source(self) -> str:
        """Name of the queue, or of the queue of the subscription, that it came from."""
        return self.settler.source_name

    def ack(self) -> None:
        """Settle as done: it is not delivered again (A1)."""
        self.settler.ack(self)

    def nack(self, delay: float | timedelta = 0.0) -> None:
        """Ask for this message, and no other, to be delivered again after `delay` seconds with ``attempt`` + 1 (A3).

        If this was delivery number ``max_deliveries``, it is dead-lettered instead (A8).

        Raises:
            ConfigError: the delay is negative or not a duration.
            Unsupported: the backend has no delayed redelivery.

        """
        self.settler.nack(self, delay)

    def reject(self, reason: str = "rejected") -> None:
        """Move it to the dead-letter queue with `reason`, or drop it where none is declared (A4)."""
        self.settler.reject(self, reason)

    def extend(self, duration: float | timedelta) -> None:
        """Prolong the lease to `duration` seconds from now (A10).

        Raises:
            Unsupported: the backend has no lease to prolong.

        """
        self.settler.extend(self, duration)
