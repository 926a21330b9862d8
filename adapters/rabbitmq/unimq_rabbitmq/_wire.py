"""Messages as AMQP 0-9-1 carries them: native properties where they exist, headers of our own for the rest.

There is no envelope: the body is the body. `encode` and `decode` are written with pika's own objects; `_content` does
the same with bytes, and has what it does not know done here.
"""

import copy
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

import msgspec
from pika import DeliveryMode
from pika.spec import Basic, BasicProperties

from unimq import InvalidMessage, MessageTooLarge
from unimq.adapter import NO_HEADERS, RESERVED_PREFIX, Delivery, Message, Outgoing

KEY = "unimq-key"
SENT_AT = "unimq-sent-at"
"""Milliseconds; the AMQP property `timestamp` has whole seconds."""
EXPIRES_AT = "unimq-expires-at"
"""Milliseconds. The property `expiration` is not set: the broker would drop what may have to be dead-lettered."""
_ATTEMPTS = "unimq-attempts"
"""Deliveries that failed before the message went to a queue of delays, from which it comes as a new one."""
_ESCAPED = "unimq-escaped-"
"""Put before the names of headers that would have an effect on the broker."""
EFFECTIVE = frozenset({"CC", "BCC", "x-delivery-count", "x-acquired-count", "x-death", "x-received-from"})
EFFECTIVE_PREFIXES = ("x-first-death-", "x-last-death-")
DELIVERY_COUNT = "x-delivery-count"
_USER_VISIBLE = "unimq-dead-"
LONGEST_SHORT = 255
HEADER_FRAME_REST = 8 + 14
"""Bytes of a header frame beside the properties: frame header and end, class, weight and body size."""


@dataclass(slots=True, eq=False)
class Publication:
    """One message ready for the channel. Owned by the I/O thread once it was handed over."""

    entry: Outgoing
    properties: BasicProperties | None
    """`None` if there is the header."""
    due: float = 0.0
    """`time.monotonic` before which it is not to be delivered; 0 for at once."""
    attempts: int = 0
    """Channels on which it was published."""
    expired: bool = False
    """Its outcome was reported because its deadline was over; it still waits for the broker's answer."""
    header: bytes = b""
    """The content header as `_content` has made it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the broker takes, in bytes."""

    message: int
    frame: int


def encode(entry: Outgoing, limits: Limits) -> Publication:
    """Return a message ready to be published.

    Raises:
        InvalidMessage: a name or a short property is longer than AMQP carries; nothing was sent (S4).
        MessageTooLarge: the body with all properties, or the properties alone, exceed the broker's limits (S4).

    """
    message = entry.message
    headers: dict[str, Any] = {SENT_AT: round(message.sent_at * 1000)}
    if message.key is not None:
        headers[KEY] = message.key
    if message.expires_at is not None:
        headers[EXPIRES_AT] = round(message.expires_at * 1000)
    for name, value in message.headers.items():
        name = escaped(name)
        check_short(message, "header name", name)
        headers[name] = value
    check_short(message, "id", message.id)
    check_short(message, "content_type", message.content_type)
    check_short(message, "correlation_id", message.correlation_id)
    check_short(message, "reply_to", message.reply_to)
    properties = BasicProperties(
        content_type=message.content_type,
        headers=headers,
        delivery_mode=DeliveryMode.Persistent,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        message_id=message.id,
        timestamp=int(message.sent_at),
    )
    # Four bytes per character are the most that UTF-8 takes; only near a limit is the exact size worth its encoding.
    bound = HEADER_FRAME_REST + 1500 + sum(4 * (len(name) + len(value)) + 6 for name, value in message.headers.items())
    bound += 4 * len(message.key or "")
    if bound > limits.frame or bound + len(message.body) > limits.message:
        check_size(message, sum(map(len, properties.encode())) + HEADER_FRAME_REST, limits)
    return Publication(entry, properties, time.monotonic() + message.delay if message.delay else 0.0)


def again(entry: Outgoing, delivery: Delivery, delay: float) -> Publication:
    """Return what was delivered as it came, to be delivered again after `delay` seconds as the next attempt (A3)."""
    native = cast("BasicProperties", delivery.native)
    headers: dict[Any, Any] = {}
    for name, value in (native.headers or {}).items():
        if name in {"CC", "BCC"}:
            headers[_ESCAPED + str(name)] = value
        elif name not in EFFECTIVE and not str(name).startswith(EFFECTIVE_PREFIXES):
            headers[name] = value
    headers[_ATTEMPTS] = delivery.attempt
    properties = copy.copy(native)
    properties.headers = headers
    # What was to be dropped by the broker after some time would leave the queue of delays before its time.
    properties.expiration = None
    return Publication(entry, properties, time.monotonic() + delay)


def escaped(name: str) -> str:
    """Return the name under which a header of the user travels."""
    return _ESCAPED + name if name in EFFECTIVE or name.startswith(EFFECTIVE_PREFIXES) else name


def check_short(message: Message, what: str, value: str | None) -> None:
    """Raise `InvalidMessage` for what is longer than a short string of AMQP."""
    if value is not None and len(value) * 4 > LONGEST_SHORT and len(value.encode()) > LONGEST_SHORT:
        raise InvalidMessage(
            f"{what} has {len(value.encode())} bytes; AMQP carries {LONGEST_SHORT}", message_id=message.id
        )


def check_size(message: Message, size: int, limits: Limits) -> None:
    """Raise `MessageTooLarge` if a message whose header frame has `size` bytes exceeds the broker's limits."""
    if size > limits.frame:
        raise MessageTooLarge(
            f"headers, key and properties have {size} bytes; RabbitMQ takes {limits.frame} (one frame)",
            message_id=message.id,
        )
    if size + len(message.body) > limits.message:
        raise MessageTooLarge(
            f"{size + len(message.body)} bytes with headers; this RabbitMQ takes {limits.message}",
            message_id=message.id,
        )


def decode(method: Basic.Deliver | Basic.GetOk, properties: BasicProperties, body: bytes) -> tuple[Message, int]:
    """Return the message and the number of this delivery; messages of any other client are understood too.

    What such a message lacks is filled in; see `assemble`.
    """
    return assemble(
        body,
        properties.headers or {},
        method.routing_key if method.exchange else None,
        _text(properties.message_id),
        _text(properties.content_type),
        _text(properties.correlation_id),
        _text(properties.reply_to),
        int(properties.timestamp or 0),
    )


def assemble(
    body: bytes,
    table: Mapping[Any, Any],
    routing_key: str | None,
    message_id: str | None,
    content_type: str | None,
    correlation_id: str | None,
    reply_to: str | None,
    timestamp: int,
) -> tuple[Message, int]:
    """Return the message of these properties and headers, and the number of this delivery.

    What it lacks is filled in: an id of this delivery, the time of its arrival, and as key the routing key, if it came
    through a named exchange.
    """
    key: str | None = None
    sent_at: float | None = None
    expires_at: float | None = None
    attempt = 1
    headers: dict[str, str | bytes] = {}
    for name, value in table.items():
        if not isinstance(name, str):
            name = name.decode(errors="replace")
        if name == SENT_AT and isinstance(value, int):
            sent_at = value / 1000
        elif name == KEY:
            key = value if isinstance(value, str) else _as_text(value)
        elif name == EXPIRES_AT and isinstance(value, int):
            expires_at = value / 1000
        elif (name == DELIVERY_COUNT and isinstance(value, int)) or (name == _ATTEMPTS and isinstance(value, int)):
            attempt += value
        elif name.startswith(_ESCAPED):
            headers[name[len(_ESCAPED) :]] = _header_value(value)
        elif name in EFFECTIVE or name.startswith(EFFECTIVE_PREFIXES):
            # The broker's own; a user who wants them finds them in `Delivery.native`.
            continue
        elif not name.startswith(RESERVED_PREFIX) or name.startswith(_USER_VISIBLE):
            headers[name] = _header_value(value)
    if sent_at is None:
        sent_at = float(timestamp) if timestamp else time.time()
        if key is None:
            key = routing_key or None
    message = Message(
        body,
        key,
        headers or NO_HEADERS,
        message_id or os.urandom(16).hex(),
        content_type,
        correlation_id,
        reply_to,
        sent_at=sent_at,
        expires_at=expires_at,
    )
    return message, attempt


def _text(value: str | bytes | None) -> str | None:
    """Return a short string; pika leaves those that are no UTF-8 as bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _header_value(value: Any) -> str | bytes:
    return value if isinstance(value, str | bytes) else _as_text(value)


def _as_text(value: Any) -> str:
    """Return a foreign header value of another AMQP type as text: numbers in decimal, the rest as JSON."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, int) and not isinstance(value, bool):
        # pika's own `long` prints as "5L".
        return int.__repr__(value)
    try:
        return msgspec.json.encode(value, enc_hook=str).decode()
    except (TypeError, ValueError, msgspec.MsgspecError):
        return str(value)
