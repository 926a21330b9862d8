"""A message as a Kafka record: value, key, timestamp and plain headers, as any Kafka program reads and writes them.

What Kafka has no place for travels in headers that begin with ``unimq-``. Text headers are UTF-8; names of `bytes`
headers are listed in ``unimq-binary``, as UTF-8 bytes could not be told from text otherwise (R2).
"""

import time
from typing import Protocol, cast

import msgspec

from unimq import InvalidMessage
from unimq.adapter import NO_HEADERS, RESERVED_PREFIX, Message

ID = RESERVED_PREFIX + "id"
BINARY = RESERVED_PREFIX + "binary"
CONTENT_TYPE = RESERVED_PREFIX + "content-type"
CORRELATION_ID = RESERVED_PREFIX + "correlation-id"
REPLY_TO = RESERVED_PREFIX + "reply-to"
SENT_AT = RESERVED_PREFIX + "sent-at"
EXPIRES_AT = RESERVED_PREFIX + "expires-at"
_OWN = frozenset({ID, BINARY, CONTENT_TYPE, CORRELATION_ID, REPLY_TO, SENT_AT, EXPIRES_AT})

WireHeaders = list[tuple[str, bytes]]

_OLD = 60.0
"""Seconds of age beyond which a record's timestamp is now: retention goes by it, and would drop old dead letters."""
_BATCH_OVERHEAD = 61 + 36
"""Bytes of the head of a batch and, at most, of a record without headers."""
_HEADER_OVERHEAD = 10
"""Bytes of the two lengths of a header, at most."""

_to_json = msgspec.json.Encoder().encode
_names_from_json = msgspec.json.Decoder(list[str]).decode


class Record(Protocol):
    """What `decode` needs of a ``confluent_kafka.Message``."""

    def topic(self) -> str | None: ...
    def partition(self) -> int | None: ...
    def offset(self) -> int | None: ...
    def key(self) -> bytes | None: ...
    def value(self) -> bytes | None: ...
    def timestamp(self) -> tuple[int, int]: ...
    def headers(self) -> object: ...


def encode_key(key: str | None) -> bytes | None:
    """Return the key's bytes; a key that came from elsewhere and was no UTF-8 becomes what it was."""
    return None if key is None else key.encode("utf-8", "surrogateescape")


def encode_headers(message: Message) -> WireHeaders:
    """Return the headers of the record.

    Raises:
        InvalidMessage: a header name that the client library would cut at its NUL character (S4).

    """
    headers = [(ID, message.id.encode())]
    if message.content_type is not None:
        headers.append((CONTENT_TYPE, message.content_type.encode()))
    if message.correlation_id is not None:
        headers.append((CORRELATION_ID, message.correlation_id.encode()))
    if message.reply_to is not None:
        headers.append((REPLY_TO, message.reply_to.encode()))
    if message.expires_at is not None:
        headers.append((EXPIRES_AT, b"%d" % (message.expires_at * 1000)))
    if message.headers is not NO_HEADERS:
        binary: list[str] = []
        for name, value in message.headers.items():
            if "\0" in name:
                raise InvalidMessage(f"header {name!r}: Kafka takes no NUL character in a name", message_id=message.id)
            if type(value) is str:
                headers.append((name, value.encode()))
            else:
                headers.append((name, bytes(value)))  # type: ignore[arg-type] # not str, hence bytes
                binary.append(name)
        if binary:
            headers.append((BINARY, _to_json(binary)))
    return headers


def encode_timestamp(message: Message, headers: WireHeaders) -> int:
    """Return the record's timestamp in milliseconds, which is the time of the send unless that is long ago."""
    now = time.time()
    if abs(now - message.sent_at) <= _OLD:
        return int(message.sent_at * 1000)
    headers.append((SENT_AT, b"%d" % (message.sent_at * 1000)))
    return int(now * 1000)


def record_size(body: bytes, key: bytes | None, headers: WireHeaders) -> int:
    """Return the most bytes that the broker counts for the record in a batch of its own (S4)."""
    size = _BATCH_OVERHEAD + len(body) + _HEADER_OVERHEAD * len(headers)
    if key:
        size += len(key)
    for name, value in headers:
        size += (len(name) if name.isascii() else len(name.encode())) + len(value)
    return size


def decode(record: Record) -> Message:
    """Return the message of a record; those of plain Kafka programs get an id of their position."""
    kind, timestamp = record.timestamp()
    key = record.key()
    message = Message(record.value() or b"", None if key is None else key.decode("utf-8", "surrogateescape"))
    if kind:
        message.sent_at = timestamp / 1000
    wire = record.headers()
    if wire:
        # On receipt they are always a list, whose values are bytes.
        _decode_headers(message, cast("list[tuple[str, bytes | None]]", wire))
    if not message.id:
        message.id = f"{record.topic()}-{record.partition()}-{record.offset()}"
    return message


def _decode_headers(message: Message, wire: list[tuple[str, bytes | None]]) -> None:
    headers: dict[str, str | bytes] = {}
    for name, value in wire:
        value = value or b""
        try:
            headers[name] = value.decode()
        except UnicodeDecodeError:
            headers[name] = value
    if headers.keys().isdisjoint(_OWN):
        message.headers = headers
        return
    raw = {name: value or b"" for name, value in wire} if BINARY in headers else {}
    message.id = _text(headers, ID) or ""
    message.content_type = _text(headers, CONTENT_TYPE)
    message.correlation_id = _text(headers, CORRELATION_ID)
    message.reply_to = _text(headers, REPLY_TO)
    message.expires_at = _seconds(headers, EXPIRES_AT)
    message.sent_at = _seconds(headers, SENT_AT) or message.sent_at
    if raw:
        try:
            names = _names_from_json(headers.pop(BINARY))
        except msgspec.DecodeError:
            names = []
        for name in names:
            if name in headers:
                headers[name] = raw[name]
    if headers:
        message.headers = headers


def _text(headers: dict[str, str | bytes], name: str) -> str | None:
    value = headers.pop(name, None)
    return value if value is None or isinstance(value, str) else value.decode("utf-8", "replace")


def _seconds(headers: dict[str, str | bytes], name: str) -> float | None:
    text = _text(headers, name)
    return int(text) / 1000 if text is not None and text.isascii() and text.isdigit() else None
