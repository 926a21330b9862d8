"""JSON and MessagePack by msgspec: any type that msgspec can decode, checked as it is decoded."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Generic, cast, is_typeddict, overload

import msgspec

from unimq._codec import Encoded, T
from unimq._destinations import count
from unimq._errors import ConfigError, DecodeError, InvalidMessage
from unimq._message import NO_HEADERS, Message

LARGEST_BODY = 64 * 1024 * 1024
"""Bytes of a body beyond which codecs neither make nor read it unless told otherwise: above what the brokers take."""

CONTENT_TYPE = "content-type"
CONTENT_ENCODING = "content-encoding"
"""Headers that other programs set where the backend has no field for them; the second is ours as well."""


def content_type_of(message: Message) -> str | None:
    """Return the content type of a message, also of one by a program that keeps it in a header, as on Kafka."""
    if message.content_type is not None or message.headers is NO_HEADERS:
        return message.content_type
    return text_of(message.headers.get(CONTENT_TYPE))


def media_type(content_type: str) -> str:
    """Return the content type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def text_of(header: str | bytes | None) -> str | None:
    """Return the value of a header as text."""
    return header.decode(errors="replace") if isinstance(header, bytes) else header


def _plain_class(kind: Any) -> type | None:
    # `list[int]` passes for an instance of `type`.
    return kind if isinstance(kind, type) and getattr(kind, "__origin__", None) is None else None


def check_readable(codec: object, message: Message, expected: str, largest: int) -> None:
    """Refuse what another codec made, or what is too large.

    A message without a content type is read: programs that do not use unimq often set none.

    Raises:
        DecodeError: the content type is another one, the body is encoded once more (compressed), or too large.

    """
    found = content_type_of(message)
    if found is not None and found != expected and media_type(found) != media_type(expected):
        raise DecodeError(f"content type {found!r}; {codec!r} reads {expected!r}")
    if message.headers is not NO_HEADERS:
        encoding = text_of(message.headers.get(CONTENT_ENCODING))
        if encoding is not None and encoding.lower() != "identity":
            raise DecodeError(
                f"content encoding {encoding!r}; {codec!r} reads plain bodies"
                f" (unimq.Compressed({codec!r}, {encoding!r}) may read this one)"
            )
    if len(message.body) > largest:
        raise DecodeError(f"{len(message.body)} bytes; {codec!r} reads at most {largest}")


def _class_to_check(kind: Any) -> type | None:
    """Return the type if `isinstance` tells its values: msgspec encodes whatever it gets, also what is of another type.

    Not the built-in ones, as where a float is wanted an int is right, too; nor `Any`.
    """
    found = _plain_class(kind)
    unchecked = found is None or found.__module__ in {"builtins", "typing"} or is_typeddict(found)
    return None if unchecked else found


def _checked_content_type(content_type: str) -> str:
    if type(content_type) is not str or "/" not in content_type:
        raise ConfigError(f"content_type must be a media type such as 'application/json', not {content_type!r}")
    return content_type


class JSON(Generic[T]):
    """JSON bodies of one type: any that msgspec can decode, checked as it is decoded (D3).

    An error names the path: ``Expected `int`, got `str` - at `$.lines[0].amount```. NaN and infinities, which JSON
    does not have, are refused before the message is sent (S4). The interpreter's recursion limit bounds nesting.

    Args:
        kind: the type of the values.
        content_type: set on sent messages and expected of received ones; its parameters do not count, and messages
            without any are read.
        max_bytes: size of the largest body that is made or read.
        enc_hook: turns objects that msgspec does not know into ones that it does.
        dec_hook: the way back; gets the type and what was decoded.

    Raises:
        ConfigError: msgspec cannot decode the type, or an argument is wrong.

    """

    @overload
    def __init__(
        self,
        kind: type[T],
        *,
        content_type: str = ...,
        max_bytes: int = ...,
        enc_hook: Callable[[Any], Any] | None = ...,
        dec_hook: Callable[[type[Any], Any], Any] | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: "JSON[Any]",
        kind: Any,
        *,
        content_type: str = ...,
        max_bytes: int = ...,
        enc_hook: Callable[[Any], Any] | None = ...,
        dec_hook: Callable[[type[Any], Any], Any] | None = ...,
    ) -> None: ...
    def __init__(
        self,
        kind: Any,
        *,
        content_type: str = "application/json",
        max_bytes: int = LARGEST_BODY,
        enc_hook: Callable[[Any], Any] | None = None,
        dec_hook: Callable[[type[Any], Any], Any] | None = None,
    ) -> None:
        self.content_type: str = _checked_content_type(content_type)
        self.max_bytes: int = count(max_bytes, "max_bytes")
        named = _plain_class(kind)
        self._name = repr(kind) if named is None else named.__qualname__
        self._class = _class_to_check(kind)
        self._enc_hook = enc_hook
        self._encode = msgspec.json.Encoder(enc_hook=enc_hook).encode
        try:
            self._decode: Callable[[bytes], T] = msgspec.json.Decoder(kind, dec_hook=dec_hook).decode
        except TypeError as error:
            raise ConfigError(f"{self!r}: {error}") from error

    def __repr__(self) -> str:
        return f"JSON({self._name})"

    def encode(self, value: T) -> Encoded:
        """See `Codec.encode`."""
        if self._class is not None and not isinstance(value, self._class):
            raise InvalidMessage(f"{self!r} encodes {self._name}, not {type(value).__name__}")
        body = self._encode(value)
        if b"null" in body and self._has_no_json(value):
            raise InvalidMessage(f"{self!r}: JSON has neither NaN nor infinities")
        if len(body) > self.max_bytes:
            raise InvalidMessage(f"{len(body)} bytes; {self!r} makes at most {self.max_bytes}")
        return Encoded(body, self.content_type)

    def decode(self, message: Message) -> T:
        """See `Codec.decode`."""
        # The usual case without a call; everything else, also errors, is decided there.
        if (
            message.content_type != self.content_type
            or message.headers is not NO_HEADERS
            or len(message.body) > self.max_bytes
        ):
            check_readable(self, message, self.content_type, self.max_bytes)
        return self._decode(message.body)

    def _has_no_json(self, value: T) -> bool:
        """Tell whether msgspec wrote a null for a number that JSON does not have."""

        def plain(value: Any) -> Any:
            # What is JSON already was written as it is.
            return None if isinstance(value, msgspec.Raw) or self._enc_hook is None else self._enc_hook(value)

        return _has_nan(msgspec.to_builtins(value, enc_hook=plain))


def _has_nan(value: object) -> bool:
    if type(value) is float:
        return not math.isfinite(value)
    if type(value) is dict:
        return any(_has_nan(each) for each in cast("dict[object, object]", value).values())
    if isinstance(value, list | tuple | set | frozenset):
        return any(_has_nan(each) for each in cast("Iterable[object]", value))
    return False


class MessagePack(Generic[T]):
    """MessagePack bodies of one type: any that msgspec can decode, checked as it is decoded (D3).

    An error names the path: ``Expected `int`, got `str` - at `$.lines[0].amount```. The interpreter's recursion limit
    bounds the nesting.

    Args:
        kind: the type of the values.
        content_type: set on sent messages and expected of received ones; its parameters do not count, and messages
            without any are read.
        max_bytes: size of the largest body that is made or read.
        enc_hook: turns objects that msgspec does not know into ones that it does.
        dec_hook: the way back; gets the type and what was decoded.

    Raises:
        ConfigError: msgspec cannot decode the type, or an argument is wrong.

    """

    @overload
    def __init__(
        self,
        kind: type[T],
        *,
        content_type: str = ...,
        max_bytes: int = ...,
        enc_hook: Callable[[Any], Any] | None = ...,
        dec_hook: Callable[[type[Any], Any], Any] | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: "MessagePack[Any]",
        kind: Any,
        *,
        content_type: str = ...,
        max_bytes: int = ...,
        enc_hook: Callable[[Any], Any] | None = ...,
        dec_hook: Callable[[type[Any], Any], Any] | None = ...,
    ) -> None: ...
    def __init__(
        self,
        kind: Any,
        *,
        content_type: str = "application/msgpack",
        max_bytes: int = LARGEST_BODY,
        enc_hook: Callable[[Any], Any] | None = None,
        dec_hook: Callable[[type[Any], Any], Any] | None = None,
    ) -> None:
        self.content_type: str = _checked_content_type(content_type)
        self.max_bytes: int = count(max_bytes, "max_bytes")
        named = _plain_class(kind)
        self._name = repr(kind) if named is None else named.__qualname__
        self._class = _class_to_check(kind)
        self._enc_hook = enc_hook
        self._encode = msgspec.msgpack.Encoder(enc_hook=enc_hook).encode
        try:
            self._decode: Callable[[bytes], T] = msgspec.msgpack.Decoder(kind, dec_hook=dec_hook).decode
        except TypeError as error:
            raise ConfigError(f"{self!r}: {error}") from error

    def __repr__(self) -> str:
        return f"MessagePack({self._name})"

    def encode(self, value: T) -> Encoded:
        """See `Codec.encode`."""
        if self._class is not None and not isinstance(value, self._class):
            raise InvalidMessage(f"{self!r} encodes {self._name}, not {type(value).__name__}")
        body = self._encode(value)
        if len(body) > self.max_bytes:
            raise InvalidMessage(f"{len(body)} bytes; {self!r} makes at most {self.max_bytes}")
        return Encoded(body, self.content_type)

    def decode(self, message: Message) -> T:
        """See `Codec.decode`."""
        # The usual case without a call; everything else, also errors, is decided there.
        if (
            message.content_type != self.content_type
            or message.headers is not NO_HEADERS
            or len(message.body) > self.max_bytes
        ):
            check_readable(self, message, self.content_type, self.max_bytes)
        return self._decode(message.body)
