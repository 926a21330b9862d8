"""Content headers of other programs, read by hand: any properties in any combination, and headers of simple types.

`_content` reads what unimq writes, in the fewest steps. What it does not know comes here, and from here to pika: tables
and arrays as header values, floating-point numbers, text that is no UTF-8. Nothing is read otherwise than by `_wire`.
"""

import struct
from typing import Any

from unimq.adapter import Message
from unimq_rabbitmq import _wire

_LONG = struct.Struct(">I")
_INT = struct.Struct(">i")
_LONG_LONG = struct.Struct(">q")
_UNSIGNED_LONG_LONG = struct.Struct(">Q")
_TEXT, _BYTES, _SIGNED_64, _SIGNED_32, _BOOL, _VOID = b"SxlItV"
"""Types of fields in a table."""
_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS, _DELIVERY_MODE = 1 << 15, 1 << 14, 1 << 13, 1 << 12
_PRIORITY, _CORRELATION_ID, _REPLY_TO, _EXPIRATION = 1 << 11, 1 << 10, 1 << 9, 1 << 8
_MESSAGE_ID, _TIMESTAMP = 1 << 7, 1 << 6
"""Properties, in their order; those behind the timestamp are of no interest."""
_UNKNOWN = 0b11
"""Flags of what the protocol does not have."""


def decode(raw: bytes, body: bytes, routing_key: str | None) -> tuple[Message, int] | None:
    """Return the message of this content header (from its flags on), and the number of this delivery.

    `routing_key` is that of a message which came through a named exchange. `None` means: something in it is not known
    here, have pika and `_wire.decode` look at it.
    """
    flags = raw[0] << 8 | raw[1]
    if flags & _UNKNOWN:
        return None
    content_type: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    message_id: str | None = None
    headers: dict[str, Any] = {}
    timestamp = 0
    at = 2
    try:
        if flags & _CONTENT_TYPE:
            content_type, at = _short(raw, at)
        if flags & _CONTENT_ENCODING:
            _, at = _short(raw, at)
        if flags & _HEADERS:
            end = at + 4 + _LONG.unpack_from(raw, at)[0]
            if not _read_table(raw, at + 4, end, headers):
                return None
            at = end
        at += (flags & _DELIVERY_MODE != 0) + (flags & _PRIORITY != 0)
        if flags & _CORRELATION_ID:
            correlation_id, at = _short(raw, at)
        if flags & _REPLY_TO:
            reply_to, at = _short(raw, at)
        if flags & _EXPIRATION:
            _, at = _short(raw, at)
        if flags & _MESSAGE_ID:
            message_id, at = _short(raw, at)
        if flags & _TIMESTAMP:
            timestamp = _UNSIGNED_LONG_LONG.unpack_from(raw, at)[0]
    except (UnicodeDecodeError, IndexError, struct.error):
        # pika leaves such text as bytes, and says what is wrong with nonsense.
        return None
    return _wire.assemble(body, headers, routing_key, message_id, content_type, correlation_id, reply_to, timestamp)


def _short(raw: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + raw[at]
    if end > len(raw):
        raise IndexError(end)
    return raw[at + 1 : end].decode(), end


def _read_table(raw: bytes, at: int, limit: int, headers: dict[str, Any]) -> bool:
    """Put the fields into `headers`, or return false."""
    if limit > len(raw):
        return False
    while at < limit:
        name, at = _short(raw, at)
        kind = raw[at]
        at += 1
        if kind in (_TEXT, _BYTES):
            start = at + 4
            at = start + _LONG.unpack_from(raw, at)[0]
            value = raw[start:at]
            headers[name] = value.decode() if kind == _TEXT else value
        elif kind == _SIGNED_64:
            headers[name] = _LONG_LONG.unpack_from(raw, at)[0]
            at += 8
        elif kind == _SIGNED_32:
            headers[name] = _INT.unpack_from(raw, at)[0]
            at += 4
        elif kind == _BOOL:
            headers[name] = bool(raw[at])
            at += 1
        elif kind == _VOID:
            headers[name] = None
        else:
            return False
    return at == limit
