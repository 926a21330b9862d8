"""The codec by hand against that of pika: the same bytes, and the same messages out of them."""

import copy
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pika.spec import Basic, BasicProperties
from unimq_rabbitmq import _content, _foreign_content, _wire

from unimq import InvalidMessage, MessageTooLarge, SendRejected
from unimq.adapter import Message, Outgoing

UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""The machine may be busy."""
WIDE = _wire.Limits(message=16 * 2**20, frame=131064)
Make = Callable[..., Outgoing]

TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
SHORT = st.none() | TEXTS
SPECIAL = ["CC", "BCC", "x-death", "x-delivery-count", "unimq-dead-reason", "x-first-death-queue"]
NAMES = TEXTS.filter(bool) | st.sampled_from(SPECIAL)
TIMES = st.integers(10**12, 4 * 10**12).map(lambda ms: ms / 1000)
MESSAGES = st.builds(
    Message,
    body=st.binary(max_size=50),
    key=SHORT,
    headers=st.dictionaries(NAMES, TEXTS | st.binary(max_size=40), max_size=5),
    id=TEXTS.filter(bool),
    content_type=SHORT,
    correlation_id=SHORT,
    reply_to=SHORT,
    sent_at=TIMES,
    expires_at=st.none() | TIMES,
)
FIELDS: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXTS | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=4,
)
OWN_NAMES = st.sampled_from(["unimq-key", "unimq-sent-at", "unimq-expires-at", "unimq-attempts", "unimq-escaped-CC"])
PROPERTIES = st.builds(
    BasicProperties,
    content_type=SHORT,
    content_encoding=SHORT,
    headers=st.none() | st.dictionaries(NAMES | OWN_NAMES, FIELDS, max_size=6),
    delivery_mode=st.none() | st.sampled_from([1, 2]),
    priority=st.none() | st.integers(0, 9),
    correlation_id=SHORT,
    reply_to=SHORT,
    expiration=SHORT,
    message_id=SHORT,
    timestamp=st.none() | st.integers(0, 2**40),
    app_id=SHORT,
)


def _outcome(encode: Callable[..., _wire.Publication], entry: Outgoing, limits: _wire.Limits) -> object:
    """Return the header, or what it was refused for."""
    try:
        publication = encode(entry, limits)
    except SendRejected as error:
        return type(error), str(error)
    if publication.properties is None:
        return publication.header
    return _content.encode_properties(publication.properties, len(entry.message.body))


def _raw(properties: BasicProperties) -> bytes:
    return b"".join(properties.encode())


def _by_pika(properties: BasicProperties, body: bytes) -> tuple[Message, int]:
    return _wire.decode(Basic.Deliver("t", 1, False, "", "q"), _content.read_properties(_raw(properties)), body)


def _fields(message: Message) -> list[object]:
    fields = [getattr(message, name) for name in Message.__struct_fields__ if name != "headers"]
    return [*fields, dict(message.headers)]


@UNTIMED
@given(MESSAGES, st.sampled_from([WIDE, _wire.Limits(message=200, frame=190), _wire.Limits(message=10**6, frame=120)]))
def test_the_same_bytes_or_the_same_refusal(message: Message, limits: _wire.Limits) -> None:
    entry = Outgoing(message, 0.0, 1)
    assert _outcome(_content.encode, entry, limits) == _outcome(_wire.encode, entry, limits)


@UNTIMED
@given(MESSAGES)
def test_what_was_sent_is_read_as_pika_reads_it(message: Message) -> None:
    raw = _content.encode(Outgoing(message, 0.0, 1), WIDE).header[4 + _content.START :]
    read = _content.decode(raw, message.body)
    by_pika, attempt = _by_pika(_content.read_properties(raw), message.body)
    assert _fields(by_pika) == _fields(message)
    if read is not None:
        assert _fields(read[0]) == _fields(by_pika)
        assert [type(value) for value in read[0].headers.values()] == [type(each) for each in by_pika.headers.values()]
        assert read[1] == attempt == 1


@UNTIMED
@given(PROPERTIES, st.binary(max_size=10))
@example(
    BasicProperties(
        delivery_mode=2, headers={"unimq-sent-at": 10**12, "x-delivery-count": 2**40}, message_id="1", timestamp=7
    ),
    b"",
)
def test_of_others_it_reads_nothing_in_another_way(properties: BasicProperties, body: bytes) -> None:
    read = _content.decode(_raw(properties), body)
    if read is not None:
        by_pika, attempt = _by_pika(properties, body)
        assert _fields(read[0]) == _fields(by_pika)
        assert read[1] == attempt


@UNTIMED
@given(PROPERTIES, st.binary(max_size=10), st.sampled_from([("", "q"), ("events", "order.created"), ("events", "")]))
def test_of_others_it_reads_the_rest_as_pika_reads_it(
    properties: BasicProperties, body: bytes, sent_to: tuple[str, str]
) -> None:
    exchange, routing_key = sent_to
    began = time.time()
    read = _foreign_content.decode(_raw(properties), body, routing_key if exchange else None)
    if read is None:
        return
    method = Basic.Deliver("t", 1, False, exchange, routing_key)
    by_pika, attempt = _wire.decode(method, _content.read_properties(_raw(properties)), body)
    found, expected = read[0], by_pika
    if not properties.message_id:
        assert found.id != expected.id, "an id of this delivery"
        found, expected = msgspec.structs.replace(found, id=""), msgspec.structs.replace(expected, id="")
    if began <= expected.sent_at <= time.time():
        assert began <= found.sent_at <= expected.sent_at, "the time of arrival"
        found, expected = msgspec.structs.replace(found, sent_at=0.0), msgspec.structs.replace(expected, sent_at=0.0)
    assert _fields(found) == _fields(expected)
    assert [type(value) for value in found.headers.values()] == [type(each) for each in expected.headers.values()]
    assert read[1] == attempt


FOREIGN = {
    "bare": BasicProperties(),
    "persistent": BasicProperties(delivery_mode=2),
    "everything": BasicProperties(
        "application/json",
        "utf-8",
        {"n": 5, "s": "x", "y": True, "z": None},
        2,
        3,
        "c",
        "r",
        "1000",
        "id",
        7,
        "order",
        "me",
    ),
    "redelivered": BasicProperties(headers={"x-delivery-count": 2}, message_id="id"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_other_programs_usually_send_needs_no_pika(kind: str) -> None:
    read = _foreign_content.decode(_raw(FOREIGN[kind]), b"", "key")
    assert read is not None
    assert read[0].key == "key"


@UNTIMED
@given(st.binary(min_size=2, max_size=60))
def test_of_nonsense_of_others_nothing_is_raised(raw: bytes) -> None:
    read = _foreign_content.decode(raw, b"", None)
    assert read is None or read[0].id


@UNTIMED
@given(st.binary(min_size=2, max_size=60))
def test_nonsense_is_left_to_pika(raw: bytes) -> None:
    header = b"\x30\xc0" + raw
    read = _content.decode(header, b"")
    assert read is None or read[0].id


def test_what_our_own_programs_send_needs_no_pika() -> None:
    message = Message(
        b"b",
        "k",
        {"h": "v", "b": b"\xff"},
        "id",
        content_type="text/plain",
        correlation_id="c",
        reply_to="r",
        sent_at=1.7e9,
        expires_at=1.8e9,
    )
    for each in (message, Message(b"", id="id", sent_at=1.7e9)):
        raw = _content.encode(Outgoing(each, 0.0, 1), WIDE).header[4 + _content.START :]
        assert _content.decode(raw, each.body) is not None
        redelivered = _content.read_properties(raw)
        redelivered.headers = {**(redelivered.headers or {}), "x-delivery-count": 2**40}
        read = _content.decode(_raw(redelivered), each.body)
        assert read is not None
        assert read[1] == 2**40 + 1


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"id": "i" * 256}, InvalidMessage, "id has 256 bytes"),
        ({"correlation_id": "ä" * 128}, InvalidMessage, "correlation_id has 256 bytes"),
        ({"content_type": "i" * 256}, InvalidMessage, "content_type has 256 bytes"),
        ({"reply_to": "i" * 256}, InvalidMessage, "reply_to has 256 bytes"),
        ({"headers": {"n" * 256: "v"}}, InvalidMessage, "header name has 256 bytes"),
        ({"headers": {"CC": "v", "x": "y" * 600}}, MessageTooLarge, "one frame"),
        ({"key": "k" * 600}, MessageTooLarge, "one frame"),
    ],
)
def test_what_amqp_cannot_carry_is_refused(
    outgoing: Make, fields: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        _content.encode(outgoing(b"b", **fields), _wire.Limits(message=1000, frame=600))


READ = BasicProperties(headers={"h": "v"}, message_id="id", priority=3)


LOOKS: dict[str, Callable[[Any], bool]] = {
    "attribute": lambda native: native.headers["h"] == "v",
    "repr": lambda native: repr(native) == repr(READ),
    "comparison": lambda native: bool(native == READ),
    "reflected comparison": lambda native: bool(native == READ),
    "copy": lambda native: bool(copy.copy(native) == READ),
    "deep copy": lambda native: bool(copy.deepcopy(native) == READ),
    "method": lambda native: bool(native.encode() == READ.encode()),
}


@pytest.mark.parametrize("look", LOOKS)
def test_native_properties_are_those_of_pika_when_somebody_looks(look: str) -> None:
    native = _content.UnreadProperties(_raw(READ))
    assert isinstance(native, BasicProperties)
    assert LOOKS[look](native)


def test_native_properties_can_be_changed() -> None:
    native = _content.UnreadProperties(_raw(READ))
    copied = copy.copy(native)
    copied.priority = 7
    assert (copied.priority, copied.message_id, native.priority) == (7, "id", 3)
    with pytest.raises(AttributeError):
        native.nothing_of_this_name  # noqa: B018 - it raises


def test_many_threads_read_native_properties_at_once() -> None:
    def look(native: BasicProperties, seen: list[object]) -> None:
        seen.append(native.message_id)

    for _ in range(200):
        seen: list[object] = []
        native = _content.UnreadProperties(_raw(READ))
        threads = [threading.Thread(target=look, args=(native, seen)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == ["id"] * 4
