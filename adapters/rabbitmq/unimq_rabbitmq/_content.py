"""Content headers as bytes, written and read by hand: a message's properties and headers without pika's objects.

`_wire` says what a message looks like, and stays the authority. What is written here are the same bytes; what is read
here is what programs usually send, and whatever else there is goes through `_wire.decode`. pika's codec takes ten times
as long, which made it the limit of everything.
"""

import struct
import time
from typing import Any, cast

from pika.spec import BasicProperties

from unimq.adapter import NO_HEADERS, RESERVED_PREFIX, Message, Outgoing
from unimq_rabbitmq import _wire

_CLASS = 60
_PERSISTENT = 2
_CONTENT_TYPE, _HEADERS, _DELIVERY_MODE = 1 << 15, 1 << 13, 1 << 12
_CORRELATION_ID, _REPLY_TO, _MESSAGE_ID, _TIMESTAMP = 1 << 10, 1 << 9, 1 << 7, 1 << 6
_ALWAYS = _HEADERS | _DELIVERY_MODE | _MESSAGE_ID | _TIMESTAMP
_KNOWN = _ALWAYS | _CONTENT_TYPE | _CORRELATION_ID | _REPLY_TO
_OTHERS = 0xFFFF & ~_KNOWN

_SENT_AT = _wire.SENT_AT.encode()
_SENT_AT_FIELD = bytes((len(_SENT_AT),)) + _SENT_AT + b"l"
_EXPIRES_AT_FIELD = bytes((len(_wire.EXPIRES_AT),)) + _wire.EXPIRES_AT.encode() + b"l"
_KEY_FIELD = bytes((len(_wire.KEY),)) + _wire.KEY.encode() + b"S"

_PLAIN = struct.Struct(f">IHHQHI{len(_SENT_AT_FIELD)}sqBB")
"""A header without anything that is optional, up to the id: size of the frame, class, weight, size of the body, flags,
size of the table, its only field, delivery mode, length of the id."""
_PLAIN_TABLE = len(_SENT_AT_FIELD) + 8
_PLAIN_REST = _PLAIN.size - 4 + 8
"""Bytes of such a frame beside its id."""
_START = struct.Struct(">IHHQH")
_LONG = struct.Struct(">I")
_LONG_LONG = struct.Struct(">q")
_UNSIGNED_LONG_LONG = struct.Struct(">Q")
_TEXT, _BYTES, _SIGNED_64 = b"Sxl"
"""Types of fields in a table."""
_KEY = _wire.KEY.encode()
_EXPIRES_AT = _wire.EXPIRES_AT.encode()
_DELIVERY_COUNT = _wire.DELIVERY_COUNT.encode()
_SPECIAL = frozenset(name.encode() for name in _wire.EFFECTIVE)
_SPECIAL_PREFIXES = tuple(name.encode() for name in (*_wire.EFFECTIVE_PREFIXES, RESERVED_PREFIX))
_AFTER_FLAGS = 2
START = 12
"""Bytes of a content header before its flags: class, weight and size of the body."""


def encode(entry: Outgoing, limits: _wire.Limits) -> _wire.Publication:
    """Return a message ready to be published; see `_wire.encode`, which refuses the same ones.

    Its `header` is the content header as it comes after type and channel of its frame, up to the frame's end.
    """
    message = entry.message
    if message.key is None and not message.headers and message.content_type is message.correlation_id is None:
        content = _encode_plain(message)
    else:
        content = _encode_rich(message)
    size = len(content) + _wire.HEADER_FRAME_REST - START - 4
    if size > limits.frame or size + len(message.body) > limits.message:
        _wire.check_size(message, size, limits)
    due = time.monotonic() + message.delay if message.delay else 0.0
    return _wire.Publication(entry, None, due, header=content)


def _encode_plain(message: Message) -> bytes:
    if message.reply_to is not None or message.expires_at is not None:
        return _encode_rich(message)
    message_id = message.id.encode()
    length = len(message_id)
    if length > _wire.LONGEST_SHORT:
        _wire.check_short(message, "id", message.id)
    return (
        _PLAIN.pack(
            _PLAIN_REST + length,
            _CLASS,
            0,
            len(message.body),
            _ALWAYS,
            _PLAIN_TABLE,
            _SENT_AT_FIELD,
            round(message.sent_at * 1000),
            _PERSISTENT,
            length,
        )
        + message_id
        + _UNSIGNED_LONG_LONG.pack(int(message.sent_at))
    )


def _encode_rich(message: Message) -> bytes:
    table = [_SENT_AT_FIELD, _LONG_LONG.pack(round(message.sent_at * 1000))]
    if message.key is not None:
        key = message.key.encode()
        table += (_KEY_FIELD, _LONG.pack(len(key)), key)
    if message.expires_at is not None:
        table += (_EXPIRES_AT_FIELD, _LONG_LONG.pack(round(message.expires_at * 1000)))
    for name, value in message.headers.items():
        table.append(_short(message, "header name", _wire.escaped(name)))
        if type(value) is str:
            text = value.encode()
            table += (b"S", _LONG.pack(len(text)), text)
        else:
            table += (b"x", _LONG.pack(len(value)), cast("bytes", value))
    flags, before, after = _ALWAYS, b"", b""
    message_id = _short(message, "id", message.id)
    if message.content_type is not None:
        flags |= _CONTENT_TYPE
        before = _short(message, "content_type", message.content_type)
    if message.correlation_id is not None:
        flags |= _CORRELATION_ID
        after = _short(message, "correlation_id", message.correlation_id)
    if message.reply_to is not None:
        flags |= _REPLY_TO
        after += _short(message, "reply_to", message.reply_to)
    headers = b"".join(table)
    content = b"".join(
        (
            before,
            _LONG.pack(len(headers)),
            headers,
            b"\x02",
            after,
            message_id,
            _UNSIGNED_LONG_LONG.pack(int(message.sent_at)),
        )
    )
    return _START.pack(_START.size - 4 + len(content), _CLASS, 0, len(message.body), flags) + content


def _short(message: Message, what: str, text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > _wire.LONGEST_SHORT:
        _wire.check_short(message, what, text)
    return bytes((len(encoded),)) + encoded


def encode_properties(properties: BasicProperties, body_size: int) -> bytes:
    """Return any properties in the form in which `encode` returns a message's own."""
    encoded = b"".join(properties.encode())
    return struct.pack(">IHHQ", START + len(encoded), _CLASS, 0, body_size) + encoded


def decode(raw: bytes, body: bytes) -> tuple[Message, int] | None:
    """Return the message of this content header (from its flags on), and the number of this delivery.

    `None` means: something in it is not known here, have `_wire.decode` look at it. Nothing is read differently here.
    """
    flags = raw[0] << 8 | raw[1]
    if flags & _ALWAYS != _ALWAYS or flags & _OTHERS:
        return None
    try:
        at = _AFTER_FLAGS
        content_type: str | None = None
        if flags & _CONTENT_TYPE:
            end = at + 1 + raw[at]
            content_type = raw[at + 1 : end].decode()
            at = end
        limit = at + 4 + _LONG.unpack_from(raw, at)[0]
        at += 4
        sent_at: float | None = None
        expires_at: float | None = None
        key: str | None = None
        headers: dict[str, str | bytes] | None = None
        attempt = 1
        while at < limit:
            if raw.startswith(_SENT_AT_FIELD, at):
                at += len(_SENT_AT_FIELD) + 8
                sent_at = _LONG_LONG.unpack_from(raw, at - 8)[0] / 1000
                continue
            end = at + 1 + raw[at]
            name, kind = raw[at + 1 : end], raw[end]
            if kind in (_TEXT, _BYTES):
                start = end + 5
                at = start + _LONG.unpack_from(raw, end + 1)[0]
                if name == _KEY:
                    if kind != _TEXT:
                        return None
                    key = raw[start:at].decode()
                elif name.startswith(_SPECIAL_PREFIXES) or name in _SPECIAL:
                    return None
                else:
                    if headers is None:
                        headers = {}
                    headers[name.decode()] = raw[start:at].decode() if kind == _TEXT else raw[start:at]
            elif kind == _SIGNED_64:
                at = end + 9
                value = _LONG_LONG.unpack_from(raw, end + 1)[0]
                if name == _DELIVERY_COUNT:
                    attempt += value
                elif name == _EXPIRES_AT:
                    expires_at = value / 1000
                else:
                    return None
            else:
                return None
        at += 1
        correlation_id: str | None = None
        reply_to: str | None = None
        if flags & _CORRELATION_ID:
            end = at + 1 + raw[at]
            correlation_id = raw[at + 1 : end].decode()
            at = end
        if flags & _REPLY_TO:
            end = at + 1 + raw[at]
            reply_to = raw[at + 1 : end].decode()
            at = end
        message_id = raw[at + 1 : at + 1 + raw[at]].decode()
    except UnicodeDecodeError:
        # pika leaves it as bytes, and `_wire` makes the best of them.
        return None
    except (IndexError, struct.error):
        # Nonsense: pika says so.
        return None
    if sent_at is None or not message_id:
        return None
    return (
        Message(
            body,
            key,
            headers or NO_HEADERS,
            message_id,
            content_type,
            correlation_id,
            reply_to,
            sent_at=sent_at,
            expires_at=expires_at,
        ),
        attempt,
    )


class UnreadProperties(BasicProperties):
    """The properties of a delivery as `Delivery.native` has them, decoded when somebody looks at them.

    Few do, and pika takes longer for it than everything else takes together. At the first look it becomes an ordinary
    `BasicProperties`, in any thread: two that look at once write the same.
    """

    def __init__(self, raw: bytes) -> None:  # pyright: ignore[reportMissingSuperCall] - that is the point
        self.__dict__["raw"] = raw

    def __getattr__(self, name: str) -> Any:
        # Called for what is not there, which is everything until the properties are read.
        if name.startswith("__"):
            raise AttributeError(name)
        self._read()
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        self._read()
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        self._read()
        return BasicProperties.__repr__(self)

    def __eq__(self, other: object) -> bool:
        self._read()
        return bool(BasicProperties.__eq__(self, cast("Any", other)))

    __hash__ = None  # type: ignore[assignment] # as in every `BasicProperties`

    def _read(self) -> None:
        raw = self.__dict__.get("raw")
        if raw is not None:
            self.__dict__.update(read_properties(raw).__dict__)
            object.__setattr__(self, "__class__", BasicProperties)
            self.__dict__.pop("raw", None)


def read_properties(raw: bytes) -> BasicProperties:
    """Return what pika reads in a content header, from its flags on."""
    properties = BasicProperties()
    properties.decode(raw)
    return properties
