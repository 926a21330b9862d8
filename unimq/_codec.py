"""Typed bodies: a codec is two functions, one on the way down and one on the way up."""

from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from unimq._capabilities import Capabilities
from unimq._errors import DecodeError, InvalidMessage, UnimqError
from unimq._message import NO_HEADERS, Headers, Message

if TYPE_CHECKING:
    from collections.abc import Callable

    # Type parameters with defaults are new in Python 3.13; type checkers know them in every version.
    from typing_extensions import TypeVar as TypeVarWithDefault

    Value_co = TypeVarWithDefault("Value_co", default=bytes, covariant=True)
    Sent_contra = TypeVarWithDefault("Sent_contra", default=bytes | bytearray | memoryview, contravariant=True)
else:
    Value_co = TypeVar("Value_co", covariant=True)
    Sent_contra = TypeVar("Sent_contra", contravariant=True)

T = TypeVar("T")

LONGEST_ERROR = 1000
"""Characters that are kept of what a codec or a handler raises: it may hold a whole document."""


class Encoded(msgspec.Struct, eq=False):
    """What a codec makes of a value."""

    body: bytes
    content_type: str | None = None
    headers: Headers = NO_HEADERS
    """Headers in which the codec keeps what is not in the body; a user's header of the same name is refused."""


class Codec(Protocol[T]):
    """How values become messages and messages values. Called from several threads at once.

    One that differs between backends also has ``bind(capabilities)``, which returns the codec to use on that backend.
    """

    def encode(self, value: T) -> Encoded:
        """Return body, content type and headers; any exception refuses the message with `InvalidMessage` (S4)."""
        ...

    def decode(self, message: Message) -> T:
        """Return the value, having checked the content type.

        Any exception, best a `DecodeError`, moves the message to the dead letters at its first delivery (D3).
        """
        ...


def bound(codec: Codec[T], capabilities: Capabilities) -> Codec[T]:
    """Return the codec as it is on one backend; most are the same on each.

    Raises:
        Unsupported: the backend cannot carry what the codec makes.

    """
    bind: Callable[[Capabilities], Codec[T]] | None = getattr(codec, "bind", None)
    return codec if bind is None else bind(capabilities)


def encode(
    codec: Codec[T], value: T, headers: Headers | None, content_type: str | None
) -> tuple[bytes, Headers | None, str | None]:
    """Return body, headers and content type of a value that is sent with these headers and content type.

    Raises:
        InvalidMessage: the codec refused the value, or the user's headers or content type contradict the codec's (S4).

    """
    try:
        encoded = codec.encode(value)
    except InvalidMessage:
        raise
    except Exception as error:
        raise InvalidMessage(f"{codec!r} cannot encode {type(value).__name__}: {error}") from error
    if content_type is None:
        content_type = encoded.content_type
    elif encoded.content_type is not None and content_type != encoded.content_type:
        raise InvalidMessage(f"content_type {content_type!r}: {codec!r} makes {encoded.content_type!r}")
    if not encoded.headers:
        return encoded.body, headers, content_type
    if headers:
        both = encoded.headers.keys() & headers.keys()
        if both:
            raise InvalidMessage(f"header {min(both)!r} is set by {codec!r} itself")
        return encoded.body, {**headers, **encoded.headers}, content_type
    return encoded.body, encoded.headers, content_type


def decode(codec: Codec[T], message: Message) -> T:
    """Return the value of a message.

    Raises:
        DecodeError: the message is not what the codec reads (D3).

    """
    try:
        return codec.decode(message)
    except DecodeError:
        raise
    except Exception as error:
        # A codec may be the user's own; whatever it raises means that this message cannot be read.
        kind = "" if isinstance(error, UnimqError) else f"{type(error).__name__}: "
        # The text may hold any part of the body.
        text = str(error)[:LONGEST_ERROR]
        raise DecodeError(f"{codec!r} cannot decode message {message.id}: {kind}{text}") from error
