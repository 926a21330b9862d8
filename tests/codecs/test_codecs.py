"""JSON and MessagePack: what goes in comes out, what is wrong is refused with its path, and types are inferred."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypedDict, assert_type
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import unimq
from unimq import JSON, ConfigError, DecodeError, Message, MessagePack
from unimq._codec import decode, encode


class Line(msgspec.Struct):
    article: str
    amount: int


class Order(msgspec.Struct):
    id: int
    lines: list[Line] = []
    discount: float | None = None


@dataclass
class Point:
    x: float
    y: float


class Options(TypedDict):
    fast: bool


lines = st.builds(Line, article=st.text(), amount=st.integers(-(2**63), 2**63 - 1))
orders = st.builds(
    Order,
    id=st.integers(-(2**63), 2**63 - 1),
    lines=st.lists(lines, max_size=5),
    discount=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)
FORMATS: list[type[JSON[Any] | MessagePack[Any]]] = [JSON, MessagePack]
formats = pytest.mark.parametrize("codec_of", FORMATS)
CodecOf = Callable[[Any], JSON[Any] | MessagePack[Any]]


def there_and_back(codec: unimq.Codec[Any], value: object) -> Any:
    body, headers, content_type = encode(codec, value, None, None)
    return decode(codec, Message(body, headers=headers or {}, content_type=content_type, id="m"))


def refused(codec: unimq.Codec[Any], body: bytes, **fields: Any) -> str:
    with pytest.raises(DecodeError) as error:
        decode(codec, Message(body, id="m", **fields))
    return str(error.value)


@formats
@given(order=orders)
def test_every_order_survives(codec_of: CodecOf, order: Order) -> None:
    """R2."""
    assert there_and_back(codec_of(Order), order) == order


@formats
@given(body=st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_decode_error(codec_of: CodecOf, body: bytes) -> None:
    """D3."""
    try:
        value = decode(codec_of(Order), Message(body))
    except DecodeError:
        return
    assert isinstance(value, Order)


@formats
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (list[int], [1, 2]),
        (dict[str, Point], {"a": Point(1.5, 2.0)}),
        (int | str | None, "x"),
        (Options, {"fast": True}),
        (datetime, datetime(2026, 1, 2, tzinfo=UTC)),
        (Decimal, Decimal("1.10")),
        (UUID, UUID(int=5)),
        (bytes, b"\x00\xff"),
        (float, 1),
        (object, {"any": ["thing", None]}),
    ],
    ids=str,
)
def test_any_type_that_msgspec_decodes(codec_of: CodecOf, kind: Any, value: object) -> None:
    assert there_and_back(codec_of(kind), value) == value


@formats
def test_a_mismatch_names_its_path(codec_of: CodecOf) -> None:
    """D3."""
    wrong = codec_of(Any).encode({"id": 1, "lines": [{"article": "a", "amount": "3"}]}).body
    assert "Expected `int`, got `str` - at `$.lines[0].amount`" in refused(codec_of(Order), wrong)


@pytest.mark.parametrize(
    ("codec", "body", "said"),
    [
        (JSON(Order), b'{"id":' + b"[" * 100_000, "recursion"),
        (JSON(object), b"[" * 100_000, "recursion"),
        (MessagePack(object), b"\x91" * 100_000, "recursion"),
        (JSON(object), b'"\xff"', "utf-8"),
        (MessagePack(object), b"\xa1\xff", "utf-8"),
        (JSON(object), b"NaN", "malformed"),
        (JSON(float), b"1e999", "out of range"),
        (JSON(object), b"", "truncated"),
        (JSON(object), b"1 2", "trailing"),
        (MessagePack(object), b"\xdd\xff\xff\xff\xff", "truncated"),
        (JSON(object, max_bytes=3), b"1000", "at most 3"),
    ],
    ids=repr,
)
def test_hostile_bodies_are_refused_quickly(codec: unimq.Codec[Any], body: bytes, said: str) -> None:
    """D3, L5."""
    text = refused(codec, body)
    assert said in text or (said == "recursion" and "Expected" in text)
    assert len(text) < 1200


def test_the_text_of_an_error_is_bounded() -> None:
    """L5: msgspec quotes what it does not know."""
    import enum

    class Colour(enum.Enum):
        RED = "red"

    assert len(refused(JSON(Colour), b'"' + b"x" * 100_000 + b'"')) < 1200


@pytest.mark.parametrize("value", [math.nan, [1.0, math.inf], {"a": (-math.inf,)}, Point(math.nan, 0.0)], ids=str)
def test_json_has_no_nan_and_messagepack_has(value: Any) -> None:
    """S4: msgspec would make null of it."""
    with pytest.raises(unimq.InvalidMessage, match="NaN"):
        encode(JSON(object), value, None, None)
    assert "nan" in str(there_and_back(MessagePack(object), math.nan))


def test_null_itself_is_fine() -> None:
    assert there_and_back(JSON(Order), Order(1)) == Order(1)
    assert there_and_back(JSON(str), "null") == "null"
    assert [bytes(raw) for raw in there_and_back(JSON(list[msgspec.Raw]), [msgspec.Raw(b"null")])] == [b"null"]


@formats
def test_values_that_cannot_be_encoded_are_refused(codec_of: CodecOf) -> None:
    """S4."""
    circle: list[Any] = []
    circle.append(circle)
    for codec, value in [
        (codec_of(Order), {"id": 1}),
        (codec_of(Point), Order(1)),
        (codec_of(object), object()),
        (codec_of(object), circle),
        (codec_of(object), "\ud800"),
    ]:
        with pytest.raises(unimq.InvalidMessage):
            encode(codec, value, None, None)


@formats
def test_a_body_that_is_too_large_is_not_made(codec_of: CodecOf) -> None:
    codec: Any = type(codec_of(str))(str, max_bytes=10)
    assert there_and_back(codec, "x" * 8) == "x" * 8
    with pytest.raises(unimq.InvalidMessage, match="at most 10"):
        encode(codec, "x" * 11, None, None)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"content_type": "application/json"},
        {"content_type": "Application/JSON; charset=utf-8"},
        {"headers": {"content-type": b"application/json"}},
        {"headers": {"content-encoding": "identity"}},
    ],
    ids=str,
)
def test_content_types_that_are_read(fields: dict[str, Any]) -> None:
    assert decode(JSON(int), Message(b"5", **fields)) == 5


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"content_type": "application/msgpack"}, "'application/msgpack'; JSON(int) reads 'application/json'"),
        ({"content_type": "application/cloudevents+json"}, "reads 'application/json'"),
        ({"headers": {"content-type": b"text/plain"}}, "'text/plain'"),
        ({"headers": {"content-encoding": "gzip"}}, "unimq.Compressed(JSON(int), 'gzip')"),
    ],
    ids=str,
)
def test_what_another_codec_made_is_refused_naming_both(fields: dict[str, Any], said: str) -> None:
    """D3."""
    assert said in refused(JSON(int), b"5", **fields)


def test_another_content_type_can_be_declared() -> None:
    codec = JSON(int, content_type="application/vnd.acme.count+json")
    assert there_and_back(codec, 5) == 5
    assert "vnd.acme" in refused(codec, b"5", content_type="application/json")


def test_types_that_msgspec_does_not_know_go_through_hooks() -> None:
    def to_parts(value: complex) -> list[float]:
        return [value.real, value.imag]

    def from_parts(kind: type[Any], parts: list[float]) -> Any:
        return kind(*parts)

    for codec in (
        JSON(complex, enc_hook=to_parts, dec_hook=from_parts),
        MessagePack(complex, enc_hook=to_parts, dec_hook=from_parts),
    ):
        assert there_and_back(codec, 1 + 2j) == 1 + 2j


def test_wrong_arguments_are_refused() -> None:
    wrong: Any = "application"
    for make in (
        lambda: JSON(dict[int, dict[int, Any]] | list[int] | set[int]),
        lambda: JSON(int, content_type=wrong),
        lambda: MessagePack(int, max_bytes=0),
    ):
        with pytest.raises(ConfigError):
            make()


def test_types_are_inferred() -> None:
    """mypy and pyright check the types, the run that they are true."""
    codec = JSON(Order)
    assert_type(codec, JSON[Order])
    with (
        unimq.connect("memory://?private=true") as broker,
        broker.producer("orders", codec=codec) as producer,
        broker.consumer("orders", codec=codec) as consumer,
    ):
        assert_type(producer, unimq.Producer[Order])
        producer.send(Order(1))
        (delivery,) = consumer.receive(timeout=1)
        assert_type(delivery, unimq.Delivery[Order])
        assert assert_type(delivery.value, Order) == Order(1)
        assert_type(broker.producer("raw"), unimq.Producer)
        assert_type(broker.consumer("raw"), unimq.Consumer[bytes])
        with pytest.raises(unimq.InvalidMessage):
            producer.send({"id": 1})  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert_type(MessagePack(list[int]), MessagePack[list[int]])
    assert_type(unimq.Compressed(codec), unimq.Compressed[Order])
    assert_type(unimq.CloudEvents(Order), unimq.CloudEvents[Order])
    assert_type(unimq.CloudEvents(MessagePack(Order)), unimq.CloudEvents[Order])
    events: unimq.Codec[unimq.CloudEvent[Order]] = unimq.CloudEvents(Order)
    assert repr(events) == "CloudEvents(JSON(Order))"
