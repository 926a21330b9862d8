"""The one error tree of unimq (E1), named by situation.

    UnimqError
    |-- ConfigError             a URL, option, name or argument is wrong; nothing was sent
    |-- Unsupported             this backend cannot do it; says why and what to use instead
    |-- MissingDependency       the client library of a backend is not installed (also an ImportError)
    |-- NotFound                the destination does not exist
    |-- DeclarationConflict     it exists with other properties
    |-- AuthError               credentials or permissions were refused; never retried
    |-- ConnectionLost          the broker cannot be reached (retryable)
    |-- SendRejected            the message is certainly not stored
    |   |-- InvalidMessage      its body, key, header or option has a wrong type or value
    |   |-- MessageTooLarge     it exceeds the backend's limit, headers and encoding counted
    |   |-- QueueFull           max_length is reached and overflow is "reject" (retryable)
    |   `-- Unroutable          no queue takes it
    |-- SendUnknown             the message may be stored or not (retryable, duplicates possible)
    |-- BufferFull              the producer's window stayed full for the whole timeout (retryable)
    |-- LeaseLost               the delivery is no longer ours; it is or will be delivered again
    |-- AlreadySettled          the delivery was acked, nacked or rejected before
    |-- DecodeError             the body is not what the codec expects
    |-- RequestTimeout          no reply came in time (retryable, the request may be handled all the same)
    |-- RequestFailed           the responder gave the request up, and says why
    `-- Closed                  the broker, producer or consumer was closed, or belongs to another process

The error of the client library is the ``__cause__``. ``retryable`` says whether doing the same again can help.
"""

from collections.abc import Sequence
from typing import ClassVar

from unimq._receipt import Receipt


class UnimqError(Exception):
    """Root of every error that unimq raises on purpose."""

    retryable: ClassVar[bool] = False


class ConfigError(UnimqError, ValueError):
    """A URL, option, name, policy or argument is wrong; raised before any I/O where possible."""


class Unsupported(UnimqError):
    """The backend cannot do what was asked for; raised before any I/O (principle 2).

    ``feature`` is the field of :class:`unimq.Capabilities` that says so, ``reason`` why, ``alternative`` what to use.
    """

    def __init__(self, feature: str, reason: str, alternative: str = "") -> None:
        super().__init__(feature, reason, alternative)
        self.feature = feature
        self.reason = reason
        self.alternative = alternative

    def __str__(self) -> str:
        """Say what is not possible, why, and what to use instead."""
        return f"{self.feature}: {self.reason}" + (f". Use instead: {self.alternative}" if self.alternative else "")


class MissingDependency(UnimqError, ImportError):
    """The client library of a backend is not installed; the message holds the exact pip line."""


class NotFound(UnimqError):
    """The queue, topic or subscription does not exist on the broker (S4)."""


class DeclarationConflict(UnimqError):
    """The destination exists with other properties than the ones declared; nothing was changed."""


class AuthError(UnimqError):
    """The broker refused the credentials or the permission; never retried (E2)."""


class ConnectionLost(UnimqError):
    """The broker cannot be reached, or the connection broke and could not be restored in time."""

    retryable = True


class _SendFailed(UnimqError):
    """What one or several sends ended with.

    ``outcomes`` is filled when the error speaks for several messages (`send_many`, `flush`, `close`): one
    :class:`Receipt` or error per message, in the order in which they were given. ``message_id`` names the message when
    the error speaks for one.
    """

    def __init__(
        self, *args: object, message_id: str = "", outcomes: Sequence[Receipt | UnimqError] | None = None
    ) -> None:
        super().__init__(*args)
        self.message_id = message_id
        self.outcomes: tuple[Receipt | UnimqError, ...] = tuple(outcomes or ())


class SendRejected(_SendFailed):
    """The message is certainly not stored (S2)."""


class InvalidMessage(SendRejected, ValueError):
    """The body, key, a header or an option of the message has a wrong type or value; nothing was sent (S4)."""


class MessageTooLarge(SendRejected):
    """The message exceeds the backend's limit with headers and encoding counted; nothing was sent (S4)."""


class QueueFull(SendRejected):
    """The queue holds ``max_length`` messages and its ``overflow`` is ``"reject"`` (T3)."""

    retryable = True


class Unroutable(SendRejected):
    """No queue or subscription takes the message, and somebody had to (S4, G2)."""


class SendUnknown(_SendFailed):
    """The message may be stored or not: no answer came within the timeout, or the connection broke (S2)."""

    retryable = True


class BufferFull(UnimqError):
    """The producer's window stayed full for the whole timeout; the message was not taken (S5)."""

    retryable = True


class LeaseLost(UnimqError):
    """The delivery is no longer held here: it is delivered again, and this settlement touched nothing (A6)."""


class AlreadySettled(UnimqError):
    """The delivery was acked, nacked or rejected before; the first settlement stands (A6)."""


class DecodeError(UnimqError):
    """The body is not what the codec expects (D3)."""


class RequestTimeout(UnimqError, TimeoutError):
    """No reply came within the timeout; the request may be handled all the same, now or later (Q2)."""

    retryable = True


class RequestFailed(UnimqError):
    """The responder gave the request up: its handler rejected it, or failed for the last time.

    ``reason`` is that of the dead letter, ``error_type`` the name of the exception's class if one was raised.
    """

    def __init__(self, *args: object, reason: str = "", error_type: str | None = None) -> None:
        super().__init__(*args)
        self.reason = reason
        self.error_type = error_type


class Closed(UnimqError):
    """The broker, producer or consumer is closed, or was opened by the parent of a forked process (L1, L2)."""
