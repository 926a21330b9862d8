"""Messages, and the checks that a message passes before anything is done with it."""

import itertools
import os
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

import msgspec

from unimq._destinations import Seconds, seconds
from unimq._errors import ConfigError, InvalidMessage

Headers = Mapping[str, str | bytes]
NO_HEADERS: Headers = MappingProxyType({})
Notes = dict[object, object]
"""What middlewares note for themselves, each by a key of its own."""

RESERVED_PREFIX = "unimq-"
"""Header names of our own on the wire begin so; users cannot set them."""
DEAD_LETTER_PREFIX = "unimq-dead-"
"""The provenance of dead letters. These are seen by users, who may forward a dead letter as it is."""


class Message(msgspec.Struct, eq=False, gc=False):
    """One message, as it is sent and as it is delivered (R2).

    A sent message is a checked copy of what the user gave: later changes to the user's objects do not reach it (S7).
    The garbage collector does not look at it, which takes a tenth of the cost of a send where many are unconfirmed: a
    note that refers to its own message keeps both for ever.
    """

    body: bytes
    key: str | None = None
    """Messages of one key keep their order under ``ordering="key"`` (O1); ``None`` differs from ``""``."""
    headers: Headers = NO_HEADERS
    """Names to `str` or `bytes` values; both types arrive as they were sent."""
    id: str = ""
    """Unique; made by the library when empty, kept over every retry and redelivery (S2)."""
    content_type: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    delay: float = 0.0
    """Seconds before which the message is not delivered (T2)."""
    ttl: float | None = None
    """Seconds from the send after which it is no longer delivered (T1)."""
    sent_at: float = 0.0
    """Unix time of the send in seconds; the wire keeps milliseconds. Set by the library."""
    expires_at: float | None = None
    """Unix time in seconds after which it is no longer delivered (T1). Set by the library."""
    notes: Notes | None = None
    """What middlewares note between `publish` and `published`; never sent."""


class _MessageIds:
    """Unique ids: 64 random bits for this process, then a counter (a fifteenth of the cost of a `uuid4`)."""

    def __init__(self) -> None:
        self.restart()
        # A forked child has the parent's prefix and counter, and would make the parent's ids again.
        os.register_at_fork(after_in_child=self.restart)

    def restart(self) -> None:
        # One call into C per id: `map` formats the next number of `count`.
        self.new = map(f"{os.urandom(8).hex()}-%x".__mod__, itertools.count(1)).__next__


_ids = _MessageIds()


def new_id() -> str:
    """Return an id that no process has made before."""
    return _ids.new()


_NOTHING_ELSE = (None, None, "", None, None, None, 0.0, None)


def prepare(message: Message | bytes | bytearray | memoryview) -> Message:
    """Return a checked, completed copy of a message, or of bytes that are its body; see `compose`."""
    if type(message) is bytes:
        return Message(message, id=_ids.new(), sent_at=time.time())
    return compose(message)


def compose(
    body: object,
    key: str | None = None,
    headers: Headers | None = None,
    message_id: str = "",
    content_type: str | None = None,
    correlation_id: str | None = None,
    reply_to: str | None = None,
    delay: Seconds = 0.0,
    ttl: Seconds | None = None,
) -> Message:
    """Return the checked message of these fields, with its id and time.

    Raises:
        InvalidMessage: a field has a wrong type or value; the error names it (S4).

    """
    if type(body) is not bytes:
        if isinstance(body, Message):
            if (key, headers, message_id, content_type, correlation_id, reply_to, delay, ttl) != _NOTHING_ELSE:
                raise InvalidMessage("a Message carries all of its fields; set them there and not as further arguments")
            return compose(
                body.body,
                body.key,
                body.headers,
                body.id,
                body.content_type,
                body.correlation_id,
                body.reply_to,
                body.delay,
                body.ttl,
            )
        if not isinstance(body, bytes | bytearray | memoryview):
            raise InvalidMessage(
                f"body must be bytes, not {type(body).__name__}: encode it, or give the producer a codec"
            )
        body = bytes(cast("bytes", body))
    if key is not None and (type(key) is not str or not key.isascii()):
        _check_texts(key=key)
    copied = _check_headers(headers) if headers else NO_HEADERS
    if content_type is not None or correlation_id is not None or reply_to is not None or message_id:
        _check_texts(id=message_id, content_type=content_type, correlation_id=correlation_id, reply_to=reply_to)
    sent_at = time.time()
    expires_at = None
    if delay == 0 and ttl is None:
        delay = 0.0
    else:
        try:
            delay = seconds(delay, "delay", zero=True)
            if ttl is not None:
                ttl = seconds(ttl, "ttl")
                expires_at = sent_at + ttl
        except ConfigError as error:
            raise InvalidMessage(str(error)) from None
    return Message(
        body,
        key,
        copied,
        message_id or _ids.new(),
        content_type,
        correlation_id,
        reply_to,
        delay,
        ttl,
        sent_at,
        expires_at,
    )


def _check_headers(headers: Headers) -> Headers:
    copied: dict[str, str | bytes] = {}
    try:
        items = headers.items()
    except AttributeError:
        raise InvalidMessage(f"headers must be a mapping, not {type(headers).__name__}") from None
    for name, value in items:
        if type(name) is not str or not name:
            raise InvalidMessage(f"header names must be non-empty str, not {name!r}")
        if type(value) is not bytes:
            if type(value) is not str:
                raise InvalidMessage(f"header {name!r} must be str or bytes, not {type(value).__name__}")
            if not value.isascii():
                _check_texts(**{f"header {name!r}": value})
        if not name.isascii():
            _check_texts(**{f"header name {name!r}": name})
        if name.startswith(RESERVED_PREFIX) and not name.startswith(DEAD_LETTER_PREFIX):
            raise InvalidMessage(f"header {name!r}: names that begin with {RESERVED_PREFIX!r} are reserved")
        copied[name] = value
    return copied


def _check_texts(**texts: str | None) -> None:
    for name, value in texts.items():
        if value is None:
            continue
        if type(value) is not str:
            raise InvalidMessage(f"{name} must be str or None, not {type(value).__name__}")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidMessage(f"{name} is not valid Unicode text: {error.reason}") from None
