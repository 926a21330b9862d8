"""Messages on the wire of SQS and SNS: the body as text where it is text, everything else in one packed attribute.

SQS allows ten attributes with restricted names and without empty values, so that one String attribute ``unimq`` holds
the headers and properties as JSON. ``docs/sqs.md`` describes it for programs that use boto3 alone.
"""

import base64
import binascii
import hashlib
import re
import struct
import time
from collections.abc import Mapping
from math import ceil
from typing import Any, Literal, TypeAlias

import msgspec

from unimq.adapter import NO_HEADERS, Message

Received: TypeAlias = Mapping[str, Any]
"""A message, or a part of one, as botocore gives it."""

ATTRIBUTE = "unimq"
_ATTRIBUTE_TYPE = "String"
ATTRIBUTE_OVERHEAD = len(ATTRIBUTE) + len(_ATTRIBUTE_TYPE)
"""Bytes that SQS counts for the attribute beside its value."""
_PARTS = ("DataType", "StringValue", "BinaryValue")
EMPTY_BODY = "-"
"""Stands for an empty body, which SQS refuses; the attribute says so."""
LONGEST_HOP = 900
"""Seconds for which SQS delays a message at most; longer delays are made of several."""
_REFUSED = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that SQS does not take, though they are valid UTF-8."""
_GROUP = re.compile("[!-~]{1,128}")
"""What SQS takes as a message group: ASCII without the space and without control characters."""


class Packed(msgspec.Struct, omit_defaults=True):
    """The JSON of the attribute; fields of later versions are ignored."""

    id: str = ""
    sent_at: int = 0
    """Unix time in milliseconds."""
    expires_at: int | None = None
    key: str | None = None
    content_type: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    headers: dict[str, str] = {}
    binary_headers: dict[str, bytes] = {}
    """Header values that are bytes: base64 in the JSON."""
    body: Literal["text", "base64", "empty"] = "text"
    due: int | None = None
    """When a delay is over that SQS cannot keep at once: whoever receives it earlier sends it on (T2)."""


class EnvelopeAttribute(msgspec.Struct):
    """See `Envelope`."""

    Type: str
    Value: str


class Envelope(msgspec.Struct, tag_field="Type", tag="Notification"):
    """What SNS puts into a queue without raw delivery; the names are those of its JSON."""

    TopicArn: str
    MessageId: str
    Message: str
    MessageAttributes: dict[str, EnvelopeAttribute] = {}


_encode_packed = msgspec.json.Encoder().encode
_decode_packed = msgspec.json.Decoder(Packed).decode
_decode_envelope = msgspec.json.Decoder(Envelope).decode


class Encoded(msgspec.Struct):
    """A message as SQS and SNS take it."""

    body: str
    attribute: str
    size: int
    """Bytes that count against the limits: body, and the attribute with its name and type (S4)."""


def encode(message: Message) -> Encoded:
    """Return the wire form of a message."""
    packed = Packed(
        message.id,
        round(message.sent_at * 1000),
        None if message.expires_at is None else round(message.expires_at * 1000),
        message.key,
        message.content_type,
        message.correlation_id,
        message.reply_to,
    )
    if message.headers is not NO_HEADERS:
        packed.headers = {name: value for name, value in message.headers.items() if isinstance(value, str)}
        packed.binary_headers = {name: value for name, value in message.headers.items() if isinstance(value, bytes)}
    if message.delay > LONGEST_HOP:
        packed.due = ceil((time.time() + message.delay) * 1000)
    body, size = _encode_body(message.body, packed)
    attribute = _encode_packed(packed)
    text = attribute.decode()
    if not text.isascii():
        # JSON leaves these two as they are; they only occur inside its strings, where an escape means the same.
        text = text.replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")
        attribute = text.encode()
    return Encoded(body, text, size + ATTRIBUTE_OVERHEAD + len(attribute))


def _encode_body(body: bytes, packed: Packed) -> tuple[str, int]:
    if not body:
        packed.body = "empty"
        return EMPTY_BODY, len(EMPTY_BODY)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = ""
    if text and not _REFUSED.search(text):
        return text, len(body)
    packed.body = "base64"
    text = base64.b64encode(body).decode()
    return text, len(text)


def group_of(key: str) -> str:
    """Return the message group of a key: the key itself where SQS takes it, else its digest; the attribute has the key.

    Programs with boto3 alone share the groups of ordinary keys. Two keys never share a group.
    """
    return key if _GROUP.fullmatch(key) else f"unimq-{hashlib.sha256(key.encode()).hexdigest()}"


def attributes_of(encoded: Encoded) -> dict[str, Any]:
    """Return the ``MessageAttributes`` of a request."""
    return {ATTRIBUTE: {"DataType": _ATTRIBUTE_TYPE, "StringValue": encoded.attribute}}


def matches(encoded: Encoded, result: Received) -> bool:
    """Tell whether SQS stored what was sent: botocore does not compare the checksums itself (S1)."""
    return result.get("MD5OfMessageBody") == _md5(encoded.body.encode()) and result.get(
        "MD5OfMessageAttributes"
    ) == _attribute_md5(encoded.attribute)


def arrived_whole(received: Received) -> bool:
    """Tell whether a message arrived as SQS has it, by its checksums: neither TCP's nor a proxy's word is enough (R2).

    Attributes of other programs are not looked at: only ours is a message.
    """
    body = received.get("MD5OfBody")
    if body is not None and body != _md5(received.get("Body", "").encode()):
        return False
    attributes: Received = received.get("MessageAttributes") or {}
    ours = attributes.get(ATTRIBUTE)
    if ours is None or len(attributes) > 1 or ours.get("DataType") != _ATTRIBUTE_TYPE:
        return True
    expected = received.get("MD5OfMessageAttributes")
    return expected is None or expected == _attribute_md5(ours.get("StringValue", ""))


def early_by(received: Received) -> float:
    """Return for how many seconds a message is not due yet, by the clock of this machine (T2)."""
    attributes: Received = received.get("MessageAttributes") or {}
    ours: Received = attributes.get(ATTRIBUTE) or {}
    text = str(ours.get("StringValue", ""))
    # Hardly any has it, and reading JSON twice would cost every message.
    if '"due":' not in text:
        return 0.0
    try:
        due = _decode_packed(text).due
    except ValueError:
        return 0.0
    return 0.0 if due is None else max(0.0, due / 1000 - time.time())


def sent_on(received: Received, delay: float) -> dict[str, Any]:
    """Return the entry of a request that sends a message as it is once more, delayed by as much of `delay` as goes."""
    attributes: Mapping[str, Received] = received.get("MessageAttributes") or {}
    system: Received = received.get("Attributes") or {}
    tenant: dict[str, Any] = {"MessageGroupId": system["MessageGroupId"]} if "MessageGroupId" in system else {}
    return {
        "MessageBody": received["Body"],
        "MessageAttributes": {
            name: {part: attribute[part] for part in _PARTS if part in attribute}
            for name, attribute in attributes.items()
        },
        "DelaySeconds": min(LONGEST_HOP, ceil(delay)),
        **tenant,
    }


_length = struct.Struct(">I").pack


def _digested(name: bytes, data_type: bytes, value: bytes) -> bytes:
    """Return the bytes over which SQS computes the checksum of one String attribute."""
    return b"".join((_length(len(name)), name, _length(len(data_type)), data_type, b"\1", _length(len(value)), value))


_DIGESTED_FIRST = _digested(ATTRIBUTE.encode(), _ATTRIBUTE_TYPE.encode(), b"").removesuffix(_length(0))
"""What is the same for every value of our attribute."""


def _attribute_md5(value: str) -> str:
    data = value.encode()
    return _md5(_DIGESTED_FIRST + _length(len(data)) + data)


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def decode(received: Received) -> Message:
    """Return the message of a received one: ours, a plain one of another program, or one in an SNS envelope (R2)."""
    body = received.get("Body", "")
    attributes: Received = received.get("MessageAttributes") or {}
    system: Received = received.get("Attributes") or {}
    message_id = received.get("MessageId", "")
    if not attributes and body.startswith("{"):
        envelope = _open_envelope(body)
        if envelope is not None:
            body, attributes, message_id = envelope
    packed = attributes.get(ATTRIBUTE)
    if packed is not None:
        try:
            ours = _decode_packed(packed["StringValue"])
            ours.id = ours.id or message_id
            return _decode_ours(body, ours, attributes)
        except (KeyError, TypeError, ValueError, binascii.Error):
            # Somebody else's attribute of this name: read it as the plain attribute that it is.
            pass
    return Message(
        body.encode(),
        key=system.get("MessageGroupId"),
        headers=_plain_headers(attributes) or NO_HEADERS,
        id=message_id,
        sent_at=int(system.get("SentTimestamp", 0)) / 1000,
    )


def _decode_ours(body: str, packed: Packed, attributes: Received) -> Message:
    if packed.body == "text":
        raw = body.encode()
    else:
        raw = base64.b64decode(body, validate=True) if packed.body == "base64" else b""
    headers: dict[str, str | bytes] = {**packed.headers, **packed.binary_headers}
    if len(attributes) > 1:
        # Added on the way, by a program between.
        headers = {**_plain_headers({name: attributes[name] for name in attributes if name != ATTRIBUTE}), **headers}
    return Message(
        raw,
        packed.key,
        headers or NO_HEADERS,
        packed.id,
        packed.content_type,
        packed.correlation_id,
        packed.reply_to,
        sent_at=packed.sent_at / 1000,
        expires_at=None if packed.expires_at is None else packed.expires_at / 1000,
    )


def _plain_headers(attributes: Received) -> dict[str, str | bytes]:
    """Return native attributes as headers: Binary as bytes, String and Number as text."""
    headers: dict[str, str | bytes] = {}
    for name, attribute in attributes.items():
        value = attribute.get("StringValue")
        headers[name] = value if value is not None else attribute.get("BinaryValue", b"")
    return headers


def _open_envelope(body: str) -> tuple[str, Received, str] | None:
    """Return text, attributes and id of an SNS notification that came without raw delivery; `None` if it is none."""
    try:
        envelope = _decode_envelope(body)
        attributes = {
            name: {"BinaryValue": base64.b64decode(attribute.Value)}
            if attribute.Type.startswith("Binary")
            else {"StringValue": attribute.Value}
            for name, attribute in envelope.MessageAttributes.items()
        }
    except (msgspec.MsgspecError, ValueError):
        return None
    return (envelope.Message, attributes, envelope.MessageId) if envelope.TopicArn.startswith("arn:") else None
