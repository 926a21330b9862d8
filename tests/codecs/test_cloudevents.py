"""CloudEvents 1.0: both modes, the examples of the specification, and the Python SDK at the other end."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, cast

import msgspec
import pytest
from cloudevents.core.bindings import amqp, kafka, rabbitmq
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent as SdkEvent
from hypothesis import given
from hypothesis import strategies as st

import unimq
from unimq import JSON, CloudEvent, CloudEvents, Compressed, DecodeError, InvalidMessage, Message, MessagePack
from unimq._cloudevents import STRUCTURED
from unimq._codec import decode, encode
from unimq.adapter import Capabilities


class Order(msgspec.Struct):
    id: int
    name: str = ""


NOON = datetime(2026, 1, 2, 12, 0, 0, 123456, tzinfo=UTC)
BINDINGS: list[Any] = ["kafka", "amqp", None]
bindings = pytest.mark.parametrize("binding", BINDINGS, ids=str)


def on(codec: CloudEvents[Any], binding: Any) -> CloudEvents[Any]:
    """Return the codec as it is on a backend with this binding."""
    with unimq.connect("memory://?private=true") as broker:
        capabilities: Capabilities = broker.capabilities
    fields = {name: getattr(capabilities, name) for name in capabilities.__dataclass_fields__}
    return codec.bind(Capabilities(**{**fields, "cloudevents": binding}))


def sent(codec: unimq.Codec[Any], event: object) -> Message:
    body, headers, content_type = encode(codec, event, None, None)
    return Message(body, headers=headers or {}, content_type=content_type, id="m")


def event_of(data: Any, **attributes: Any) -> CloudEvent[Any]:
    return CloudEvent(data=data, source="/web", type="com.example.made", **attributes)


texts = st.text(min_size=1).filter(lambda text: text.isprintable())


@bindings
@given(
    data=st.builds(Order, id=st.integers(-(2**63), 2**63 - 1), name=st.text()),
    subject=st.none() | texts,
    time=st.none() | st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-3, minutes=-30))])),
    extensions=st.dictionaries(st.from_regex("[a-z0-9]{1,20}", fullmatch=True).map("x".__add__), st.text()),
)
def test_every_event_survives_on_every_backend(binding: Any, data: Order, **attributes: Any) -> None:
    """R2."""
    event = event_of(data, **attributes)
    codec = on(CloudEvents(Order), binding)
    event.datacontenttype = "application/json"
    message = sent(codec, event)
    assert decode(codec, message) == event
    assert decode(CloudEvents(Order), message) == event, "either mode is read anywhere"


@bindings
@pytest.mark.parametrize(
    ("codec", "data", "content_type"),
    [
        (CloudEvents(bytes), b"\x00\xff", "image/png"),
        (CloudEvents(bytes), b"", None),
        (CloudEvents(MessagePack(Order)), Order(1), "application/msgpack"),
        (CloudEvents(JSON(Order, content_type="application/vnd.acme+json")), Order(1), "application/vnd.acme+json"),
        (CloudEvents(cast("Any", int | None)), None, "application/json"),
        (CloudEvents(str), "text", "application/json; charset=utf-8"),
    ],
    ids=repr,
)
def test_data_of_any_kind(binding: Any, codec: CloudEvents[Any], data: Any, content_type: str | None) -> None:
    event = event_of(data, datacontenttype=content_type)
    there = on(codec, binding)
    assert decode(there, sent(there, event)) == event


def test_binary_mode_on_kafka_is_that_of_the_binding() -> None:
    message = sent(on(CloudEvents(Order), "kafka"), event_of(Order(1, "a"), id="i", time=NOON, subject="s"))
    assert message.body == b'{"id":1,"name":"a"}'
    assert message.headers == {
        "ce_specversion": "1.0",
        "ce_id": "i",
        "ce_source": "/web",
        "ce_type": "com.example.made",
        "ce_subject": "s",
        "ce_time": "2026-01-02T12:00:00.123456Z",
        "content-type": "application/json",
    }


def test_structured_mode_is_the_json_format() -> None:
    codec = CloudEvents(Order)
    message = sent(codec, event_of(Order(1), id="i", time=None, extensions={"region": "eu"}))
    assert message.content_type == STRUCTURED
    assert message.headers == {}
    assert json.loads(message.body) == {
        "specversion": "1.0",
        "id": "i",
        "source": "/web",
        "type": "com.example.made",
        "region": "eu",
        "datacontenttype": "application/json",
        "data": {"id": 1, "name": ""},
    }
    assert sent(on(CloudEvents(Order, mode="structured"), "kafka"), event_of(Order(1))).headers == {
        "content-type": STRUCTURED
    }


def test_binary_mode_needs_a_binding() -> None:
    """Principle 2: before any I/O."""
    codec = CloudEvents(Order, mode="binary")
    with unimq.connect("memory://?private=true") as broker:
        with pytest.raises(unimq.Unsupported, match="no binding"):
            broker.producer("events", codec=codec)
        with pytest.raises(unimq.Unsupported, match="structured"):
            broker.consumer("events", codec=Compressed(codec))
        with pytest.raises(unimq.Unsupported, match="binary"):
            broker.request("events", event_of(Order(1)), timeout=1, codec=codec)
        with pytest.raises(unimq.NotFound):
            broker.stats("events")


# The Python SDK at the other end.


def from_sdk(name: str, event: SdkEvent, *, structured: bool) -> Message:
    """Return what the SDK writes, as the adapters give it to codecs."""
    if name == "kafka":
        write = kafka.to_structured if structured else kafka.to_binary
        record = write(event, JSONFormat())
        return Message(record.value, headers=dict(record.headers))
    if name == "rabbitmq":
        rabbit = (rabbitmq.to_structured if structured else rabbitmq.to_binary)(event, JSONFormat())
        return Message(rabbit.body, headers=dict(rabbit.headers), content_type=rabbit.content_type)
    found = (amqp.to_structured if structured else amqp.to_binary)(event, JSONFormat())
    headers = {name: str(value) for name, value in found.application_properties.items()}
    return Message(found.application_data, headers=headers, content_type=str(found.properties["content-type"]))


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("name", ["kafka", "rabbitmq", "amqp"])
def test_events_of_the_sdk_are_read(name: str, structured: bool) -> None:
    attributes: dict[str, Any] = {
        "id": "i",
        "source": "/sdk",
        "type": "t",
        "time": NOON,
        "subject": "s",
        "dataschema": "https://example.com/order",
        "datacontenttype": "application/json",
        "region": "eu",
    }
    message = from_sdk(name, SdkEvent(attributes, {"id": 7, "name": "ä"}), structured=structured)
    time = NOON.replace(microsecond=123000) if name == "amqp" and not structured else NOON
    assert decode(CloudEvents(Order), message) == CloudEvent(
        data=Order(7, "ä"),
        source="/sdk",
        type="t",
        id="i",
        subject="s",
        time=time,
        datacontenttype="application/json",
        dataschema="https://example.com/order",
        extensions={"region": "eu"},
    )


@pytest.mark.parametrize("mode", [None, "structured"])
def test_the_sdk_reads_our_events(mode: Any) -> None:
    event = event_of(Order(7, "ä"), id="i", time=NOON, subject="s", extensions={"region": "eu"})
    record = sent(on(CloudEvents(Order, mode=mode), "kafka"), event)
    raw = {name: str(value).encode() for name, value in record.headers.items()}
    amqp_message = sent(on(CloudEvents(Order, mode=mode), "amqp"), event)
    properties = {"content-type": amqp_message.content_type}
    for found in (
        kafka.from_kafka(kafka.KafkaMessage(raw, None, record.body), JSONFormat()),
        amqp.from_amqp(amqp.AMQPMessage(properties, dict(amqp_message.headers), amqp_message.body), JSONFormat()),
    ):
        assert found.get_data() == {"id": 7, "name": "ä"}
        assert (found.get_id(), found.get_source(), found.get_type()) == ("i", "/web", "com.example.made")
        assert (found.get_subject(), found.get_time(), found.get_extension("region")) == ("s", NOON, "eu")
        assert found.get_datacontenttype() == "application/json"


def test_the_sdk_reads_our_binary_data() -> None:
    message = sent(CloudEvents(bytes), event_of(b"\x00\xff", datacontenttype="image/png"))
    assert JSONFormat().read(None, message.body).get_data() == b"\x00\xff"


# What other programs write.


def document(**members: object) -> Message:
    whole = {"specversion": "1.0", "id": "i", "source": "/s", "type": "t", **members}
    kept = {name: value for name, value in whole.items() if value != "left out"}
    return Message(json.dumps(kept).encode(), content_type=f"{STRUCTURED}; charset=utf-8")


def test_optional_attributes_may_be_null_numbers_or_booleans() -> None:
    event = decode(CloudEvents(Order), document(data={"id": 1}, subject=None, count=5, urgent=True))
    assert (event.subject, event.time, event.extensions) == (None, None, {"count": "5", "urgent": "true"})


def test_text_data_is_a_json_string() -> None:
    event = decode(CloudEvents(bytes), document(datacontenttype="text/xml", data="<ä/>"))
    assert event.data == "<ä/>".encode()


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (document(data={"id": "x"}), "at `$.id`"),
        (document(data={"id": 1}, source="left out"), "'source'"),
        (document(data={"id": 1}, id=""), "'id'"),
        (document(data={"id": 1}, specversion="0.3"), "'0.3'"),
        (document(data={"id": 1}, time="yesterday"), "'yesterday'"),
        (document(data={"id": 1}, time="2026-01-02T12:00:00"), "RFC 3339"),
        (document(data={"id": 1}, region=["eu"]), "$.region"),
        (document(data={"id": 1}, data_base64="AA=="), "both"),
        (document(data_base64="?"), "data_base64"),
        (document(), "Expected `object`, got `null`"),
        (document(data="x", datacontenttype="text/plain"), "'text/plain'; JSON(Order) reads 'application/json'"),
        (Message(b"[]", content_type="application/cloudevents-batch+json"), "cloudevents-batch+json"),
        (Message(b"{", content_type=STRUCTURED), "truncated"),
        (Message(b"[" * 100_000, content_type=STRUCTURED), "Expected"),
        (Message(b'{"a":' + b"[" * 100_000, content_type=STRUCTURED), "recursion"),
        (Message(b'{"id": 1}', content_type="application/json"), "'application/json' and no header"),
        (Message(b'{"id": 1}', headers={"ce_id": "i"}), "'specversion'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_event_is_refused_saying_why(message: Message, said: str) -> None:
    """D3."""
    with pytest.raises(DecodeError) as error:
        decode(CloudEvents(Order), message)
    assert said in str(error.value)
    assert len(str(error.value)) < 1200


@given(body=st.binary(max_size=100))
def test_any_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(CloudEvents(Order), Message(body, content_type=STRUCTURED))


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": ""},
        {"subject": ""},
        {"time": datetime(2026, 1, 1)},  # noqa: DTZ001 - that is what is wrong
        {"time": "2026-01-01T00:00:00Z"},
        {"datacontenttype": "text/plain"},
        {"extensions": {"Region": "eu"}},
        {"extensions": {"data": "x"}},
        {"extensions": {"n": 5}},
    ],
    ids=str,
)
def test_events_against_the_specification_are_not_sent(wrong: dict[str, Any]) -> None:
    """S4."""
    with pytest.raises(InvalidMessage):
        sent(CloudEvents(Order), event_of(Order(1), **wrong))


def test_what_is_no_event_or_has_headers_in_its_data_is_not_sent() -> None:
    with pytest.raises(InvalidMessage, match=r"unimq\.CloudEvent, not Order"):
        sent(CloudEvents(Order), Order(1))
    with pytest.raises(InvalidMessage, match="whole codec"):
        sent(CloudEvents(Compressed(JSON(str))), event_of("x" * 1000))
    with pytest.raises(InvalidMessage, match="must be bytes"):
        sent(CloudEvents(bytes), event_of("text"))
    wrong: Any = "batched"
    with pytest.raises(unimq.ConfigError):
        CloudEvents(Order, mode=wrong)


@bindings
def test_events_can_be_compressed(binding: Any) -> None:
    codec = Compressed(on(CloudEvents(Order), binding), "gzip")
    event = event_of(Order(1, "x" * 1000), datacontenttype="application/json")
    message = sent(codec, event)
    assert message.headers["content-encoding"] == "gzip"
    assert decode(codec, message) == event
