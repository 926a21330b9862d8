"""CloudEvents 1.0: events with a source, a type and an id, as other programs and languages read and write them.

Where the specification has a binding for the protocol, the attributes of an event are headers and its data is the body
(binary mode); elsewhere the whole event is one JSON document (structured mode). Both are read everywhere.
"""

import base64
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, cast, overload

import msgspec

from unimq._capabilities import Capabilities
from unimq._codec import Codec, Encoded, T
from unimq._codecs import CONTENT_TYPE, JSON, content_type_of, media_type, text_of
from unimq._errors import ConfigError, DecodeError, InvalidMessage, Unsupported
from unimq._message import Message, new_id

STRUCTURED = "application/cloudevents+json"
_VERSION = "1.0"

_WRITTEN_PREFIX = {"kafka": "ce_", "amqp": "cloudEvents_"}
_READ_PREFIXES = ("ce_", "cloudEvents_", "cloudEvents:", "ce-")
"""Kafka's, the two of AMQP 1.0, and the one that Knative uses on RabbitMQ."""
_OWN = frozenset({"id", "source", "type", "specversion", "subject", "time", "dataschema", "datacontenttype"})
_NOT_EXTENSIONS = _OWN | {"data", "data_base64"}
_NAME = re.compile("[a-z0-9]+")

_AwareTime = Annotated[datetime, msgspec.Meta(tz=True)]
_to_json = msgspec.json.Encoder().encode
_members_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_attribute_of = msgspec.json.Decoder(str | bool | int | None).decode
_text_of = msgspec.json.Decoder(str).decode


def _now() -> datetime:
    return datetime.now(UTC)


class CloudEvent(msgspec.Struct, Generic[T], kw_only=True):
    """One event of CloudEvents 1.0: its attributes and its data."""

    data: T
    source: str
    """URI reference of what the event comes from; with `id` it makes the event unique."""
    type: str
    """What happened, by convention with the name of an owner in reverse: ``com.example.order.created``."""
    id: str = msgspec.field(default_factory=new_id)
    subject: str | None = None
    """What of the source it is about."""
    time: datetime | None = msgspec.field(default_factory=_now)
    """When it happened, with a time zone."""
    datacontenttype: str | None = None
    """Content type of the data; that of the data's codec if left out."""
    dataschema: str | None = None
    """URI of the data's schema."""
    extensions: Mapping[str, str] = {}
    """Further attributes, named by lower-case letters and digits. Values are text on the wire of most backends, so they
    are text here on all; received whole numbers and booleans are in decimal, and ``true`` or ``false``."""


class _Bytes:
    """The codec of data that is bytes already."""

    def __repr__(self) -> str:
        return "bytes"

    def encode(self, value: bytes) -> Encoded:
        if not isinstance(value, bytes):
            raise InvalidMessage(f"the data must be bytes, not {type(value).__name__}")
        return Encoded(value)

    def decode(self, message: Message) -> bytes:
        return message.body


class CloudEvents(Generic[T]):
    """CloudEvents 1.0 around data of one type: ``unimq.CloudEvents(Order)`` gives values of `CloudEvent[Order]`.

    On Kafka and RabbitMQ the attributes are headers and the data is the body, as the bindings for Kafka (``ce_…``) and
    AMQP (``cloudEvents_…``) say; on other backends an event is one JSON document. Either form is read on every backend.

    Args:
        data: the type of the data, which is JSON then; ``bytes`` for data of any kind, whose `datacontenttype` each
            event says; or the codec of the data.
        mode: ``"structured"`` writes the JSON document everywhere, ``"binary"`` refuses backends without a binding.

    Raises:
        ConfigError: the type or mode is wrong.
        Unsupported: when a producer or consumer is opened: ``mode="binary"`` on a backend without a binding.

    """

    @overload
    def __init__(self, data: type[T], *, mode: Literal["binary", "structured"] | None = None) -> None: ...
    @overload
    def __init__(self, data: Codec[T], *, mode: Literal["binary", "structured"] | None = None) -> None: ...
    @overload
    def __init__(
        self: "CloudEvents[Any]", data: Any, *, mode: Literal["binary", "structured"] | None = None
    ) -> None: ...
    def __init__(self, data: Any, *, mode: Literal["binary", "structured"] | None = None) -> None:
        if mode not in {None, "binary", "structured"}:
            raise ConfigError(f"mode must be 'binary' or 'structured', not {mode!r}")
        self.mode: Literal["binary", "structured"] | None = mode
        self._data: Codec[T]
        if data is bytes:
            self._data = cast("Codec[T]", _Bytes())
        elif isinstance(data, type) or not hasattr(data, "decode"):
            self._data = JSON(data)
        else:
            self._data = data
        self._binding: Literal["kafka", "amqp"] | None = None

    def __repr__(self) -> str:
        return f"CloudEvents({self._data!r})"

    def bind(self, capabilities: Capabilities) -> "CloudEvents[T]":
        """Return this codec for one backend; see `unimq.Codec`."""
        binding = capabilities.cloudevents
        if self.mode == "binary" and binding is None:
            raise Unsupported(
                f"CloudEvents in binary mode on {capabilities.backend}",
                "the specification has no binding for it",
                "structured mode, which is what is written there if no mode is given",
            )
        found = CloudEvents(self._data, mode=self.mode)
        found._binding = binding
        return found

    def encode(self, value: CloudEvent[T]) -> Encoded:
        """See `Codec.encode`."""
        if not isinstance(value, CloudEvent):
            raise InvalidMessage(f"{self!r} encodes unimq.CloudEvent, not {type(value).__name__}")
        data = self._data.encode(value.data)
        if data.headers:
            raise InvalidMessage(f"{self!r}: data of an event has no headers; give unimq.Compressed the whole codec")
        content_type = value.datacontenttype
        if content_type is None:
            content_type = data.content_type
        elif data.content_type is not None and media_type(content_type) != media_type(data.content_type):
            raise InvalidMessage(f"datacontenttype {content_type!r}: {self._data!r} makes {data.content_type!r}")
        attributes = _attributes(value)
        if self._binding is None or self.mode == "structured":
            if content_type is not None:
                attributes["datacontenttype"] = content_type
            headers = {CONTENT_TYPE: STRUCTURED} if self._binding == "kafka" else {}
            return Encoded(_document(attributes, data), STRUCTURED, headers)
        prefix = _WRITTEN_PREFIX[self._binding]
        headers = {prefix + name: text for name, text in attributes.items()}
        if self._binding == "kafka" and content_type is not None:
            # The binding's place for it; Kafka has no field of its own.
            headers[CONTENT_TYPE] = content_type
        return Encoded(data.body, content_type, headers)

    def decode(self, message: Message) -> CloudEvent[T]:
        """See `Codec.decode`."""
        content_type = content_type_of(message)
        kind = "" if content_type is None else media_type(content_type)
        if kind.startswith("application/cloudevents"):
            if kind != STRUCTURED:
                raise DecodeError(f"content type {content_type!r}; {self!r} reads {STRUCTURED!r} and binary mode")
            attributes, body = _undocument(message.body)
            content_type = attributes.pop("datacontenttype", None)
        else:
            attributes, body = _from_headers(message), message.body
            if not attributes:
                raise DecodeError(
                    f"content type {content_type!r} and no header such as 'ce_type'; {self!r} reads {STRUCTURED!r} and"
                    " events in binary mode"
                )
        return self._event(attributes, content_type, body)

    def _event(self, attributes: dict[str, str], content_type: str | None, body: bytes) -> CloudEvent[T]:
        for name in ("specversion", "id", "source", "type"):
            if not attributes.get(name):
                raise DecodeError(f"the event has no {name!r}, which CloudEvents requires")
        version = attributes.pop("specversion")
        if version != _VERSION:
            raise DecodeError(f"the event is of CloudEvents {version!r}; {self!r} reads {_VERSION!r}")
        time = attributes.pop("time", None)
        try:
            data = self._data.decode(Message(body, id=attributes["id"], content_type=content_type))
        except msgspec.MsgspecError as error:
            raise DecodeError(f"data of the event: {error}") from error
        return CloudEvent(
            data=data,
            source=attributes.pop("source"),
            type=attributes.pop("type"),
            id=attributes.pop("id"),
            subject=attributes.pop("subject", None),
            time=None if time is None else _read_time(time),
            datacontenttype=content_type,
            dataschema=attributes.pop("dataschema", None),
            extensions=attributes,
        )


def _attributes(event: CloudEvent[Any]) -> dict[str, str]:
    """Return the attributes as text, but for the content type of the data; types are checked for who uses no checker.

    Raises:
        InvalidMessage: one is missing, empty, misnamed or of another type.

    """
    found: dict[str, Any] = {"specversion": _VERSION, "id": event.id, "source": event.source, "type": event.type}
    for name in ("subject", "dataschema"):
        value = getattr(event, name)
        if value is not None:
            found[name] = value
    for name, value in cast("Mapping[Any, object]", event.extensions).items():
        if name in _NOT_EXTENSIONS or not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidMessage(
                f"extension {name!r}: names are lower-case letters and digits, and none of CloudEvents' own"
            )
        found[name] = value
    for name, value in found.items():
        if not isinstance(value, str) or (not value and name not in event.extensions):
            raise InvalidMessage(f"{name} of a CloudEvent must be a non-empty str, not {value!r}")
    time: Any = event.time
    if time is not None:
        if not isinstance(time, datetime) or time.utcoffset() is None:
            raise InvalidMessage(f"time of a CloudEvent must be a datetime with a time zone, not {time!r}")
        found["time"] = time.isoformat().removesuffix("+00:00") + "Z" * (not time.utcoffset())
    return cast("dict[str, str]", found)


def _read_time(text: str) -> datetime:
    # AMQP's own timestamps come as milliseconds.
    try:
        if text.isdecimal():
            return datetime.fromtimestamp(int(text) / 1000, UTC)
        return msgspec.convert(text, _AwareTime)
    except (ValueError, OverflowError, OSError, msgspec.ValidationError):
        raise DecodeError(f"time of the event is not RFC 3339: {text[:100]!r}") from None


def _document(attributes: dict[str, str], data: Encoded) -> bytes:
    document: dict[str, object] = dict(attributes)
    if data.content_type is not None and _is_json(data.content_type):
        document["data"] = msgspec.Raw(data.body)
    else:
        document["data_base64"] = data.body
    return _to_json(document)


def _undocument(body: bytes) -> tuple[dict[str, str], bytes]:
    """Return the attributes and the bytes of the data of a JSON document."""
    members = _members_of(body)
    data, encoded = members.pop("data", None), members.pop("data_base64", None)
    attributes: dict[str, str] = {}
    for name, raw in members.items():
        try:
            value = _attribute_of(raw)
        except msgspec.MsgspecError as error:
            raise DecodeError(f"{error} - at `$.{name[:100]}`") from None
        if value is not None:
            attributes[name] = value if isinstance(value, str) else _to_json(value).decode()
    is_json = _is_json(attributes.get("datacontenttype", "application/json"))
    if encoded is not None:
        if data is not None:
            raise DecodeError("the event has both 'data' and 'data_base64'")
        try:
            return attributes, base64.b64decode(_text_of(encoded), validate=True)
        except (ValueError, msgspec.MsgspecError) as error:
            raise DecodeError(f"data_base64 of the event: {error}") from None
    if data is None:
        return attributes, b"null" if is_json else b""
    content = bytes(data)
    if not is_json and content.startswith(b'"'):
        # Text that is not JSON stands in the document as a JSON string.
        return attributes, _text_of(content).encode()
    return attributes, content


def _is_json(content_type: str) -> bool:
    kind = media_type(content_type)
    return kind == "application/json" or kind.endswith("+json")


def _from_headers(message: Message) -> dict[str, str]:
    """Return the attributes of an event in binary mode; none if it is not one."""
    found: dict[str, str] = {}
    for name, value in message.headers.items():
        for prefix in _READ_PREFIXES:
            if name.startswith(prefix):
                found[name[len(prefix) :]] = cast("str", text_of(value))
    return found
