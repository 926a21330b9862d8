"""A message as a Kafka record: value, key, timestamp and plain headers, as any Kafka program reads and writes them.

What Kafka has no place for travels in headers that begin with ``unimq-``. Text headers are UTF-8; names of `bytes`
headers are listed in ``unimq-binary``, as UTF-8 bytes could not be told from text otherwise (R2).
"""

import math
import time
from collections.abc import Sequence
from typing import Protocol, cast

import msgspec

from unimq import InvalidMessage
from unimq.adapter import NO_HEADERS, RESERVED_PREFIX, Delivery, DeliverySink, Message

ID = RESERVED_PREFIX + "id"
BINARY = RESERVED_PREFIX + "binary"
CONTENT_TYPE = RESERVED_PREFIX + "content-type"
CORRELATION_ID = RESERVED_PREFIX + "correlation-id"
REPLY_TO = RESERVED_PREFIX + "reply-to"
SENT_AT = RESERVED_PREFIX + "sent-at"
EXPIRES_AT = RESERVED_PREFIX + "expires-at"
DUE = RESERVED_PREFIX + "due"
"""Of messages in a topic of delays only: the Unix time in milliseconds at which they are to be delivered (T2)."""
ATTEMPTS = RESERVED_PREFIX + "attempts"
"""The last header of a message that waited in a topic of delays after a nack: its deliveries before that (A7)."""
_OWN = frozenset({ID, BINARY, CONTENT_TYPE, CORRELATION_ID, REPLY_TO, SENT_AT, EXPIRES_AT, ATTEMPTS})
_OF_DELAYS = frozenset({SENT_AT, DUE, ATTEMPTS})

WireHeaders = list[tuple[str, bytes]]
"""Headers as we write them; those that others wrote may have no value."""

OLD = 60.0
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


def has_id_only(message: Message) -> bool:
    """Tell whether `encode_headers` would return the id alone."""
    return (
        message.headers is NO_HEADERS
        and message.content_type is None
        and message.correlation_id is None
        and message.reply_to is None
        and message.expires_at is None
    )


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
    if abs(now - message.sent_at) <= OLD:
        return int(message.sent_at * 1000)
    headers.append((SENT_AT, b"%d" % (message.sent_at * 1000)))
    return int(now * 1000)


def encode_delay(message: Message, headers: WireHeaders) -> float:
    """Add what a message needs that waits in a topic of delays; return the Unix time in seconds when it is due."""
    # Upwards, as it must not come before its time.
    due = math.ceil((message.sent_at + message.delay) * 1000)
    headers.append((SENT_AT, b"%d" % (message.sent_at * 1000)))
    headers.append((DUE, b"%d" % due))
    return due / 1000


def encode_again(
    wire: Sequence[tuple[str, bytes | None]], message: Message, attempts: int, due: float
) -> list[tuple[str, bytes | None]]:
    """Return the headers of a copy of what was received, for a topic of delays."""
    headers = [each for each in wire if each[0] not in _OF_DELAYS]
    if not any(name == ID for name, _ in headers):
        # Of another program; its position, which is its id until now, will be another one.
        headers.append((ID, message.id.encode()))
    headers.append((SENT_AT, b"%d" % round(message.sent_at * 1000)))
    headers.append((DUE, b"%d" % math.ceil(due * 1000)))
    headers.append((ATTEMPTS, b"%d" % attempts))
    return headers


def attempts_before(record: Record) -> int:
    """Return how often a message was delivered before it waited in a topic of delays."""
    wire = cast("list[tuple[str, bytes | None]] | None", record.headers())
    if not wire or wire[-1][0] != ATTEMPTS:
        return 0
    return _number(wire, ATTEMPTS)


def due_time(wire: Sequence[tuple[str, bytes | None]]) -> float:
    """Return when a message of a topic of delays is due; a foreign one is due at once."""
    return _number(wire, DUE) / 1000


def end_of_delay(wire: Sequence[tuple[str, bytes | None]]) -> tuple[list[tuple[str, bytes | None]], int]:
    """Return headers and timestamp of a message that leaves its topic of delays: those that it would have without it.

    Its time of sending stays; see `encode_timestamp`.
    """
    sent_at, now = _number(wire, SENT_AT), int(time.time() * 1000)
    is_recent = abs(now - sent_at) <= OLD * 1000
    headers = [each for each in wire if each[0] != DUE and not (is_recent and each[0] == SENT_AT)]
    return headers, sent_at if is_recent else now


def _number(wire: Sequence[tuple[str, bytes | None]], name: str) -> int:
    text = next((value for header, value in wire if header == name), None)
    return int(text) if text is not None and text.isdigit() else 0


def record_size(body: bytes, key: bytes | None, headers: WireHeaders) -> int:
    """Return the most bytes that the broker counts for the record in a batch of its own (S4)."""
    size = _BATCH_OVERHEAD + len(body) + _HEADER_OVERHEAD * len(headers)
    if key:
        size += len(key)
    for name, value in headers:
        size += (len(name) if name.isascii() else len(name.encode())) + len(value)
    return size


def delivery_of(record: Record, token: object, settler: DeliverySink) -> Delivery:
    """Return the delivery of a record, which it keeps."""
    key = record.key()
    # On receipt they are always a list, whose values are bytes.
    wire: list[tuple[str, bytes | None]] | None = record.headers()  # type: ignore[assignment]
    if key is None and wire is not None and len(wire) == 1 and wire[0][0] == ID and (name := wire[0][1]):
        # What most messages have, in one step.
        kind, timestamp = record.timestamp()
        message = Message(record.value() or b"", None, NO_HEADERS, name.decode("utf-8", "replace"))
        if kind:
            message.sent_at = timestamp / 1000
        return Delivery(message, 1, token, settler, record)
    return Delivery(decode(record), 1 + attempts_before(record), token, settler, record)


def decode(record: Record) -> Message:
    """Return the message of a record; those of plain Kafka programs get an id of their position."""
    kind, timestamp = record.timestamp()
    key = record.key()
    message = Message(record.value() or b"", None if key is None else key.decode("utf-8", "surrogateescape"))
    if kind:
        message.sent_at = timestamp / 1000
    # On receipt they are always a list, whose values are bytes.
    wire = cast("list[tuple[str, bytes | None]] | None", record.headers())
    if wire:
        if len(wire) == 1 and wire[0][0] == ID:
            # What most messages have, without the search for the rest.
            message.id = (wire[0][1] or b"").decode("utf-8", "replace")
        else:
            _decode_headers(message, wire)
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
    headers.pop(ATTEMPTS, None)
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
