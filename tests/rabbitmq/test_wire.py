from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from pika.spec import Basic, BasicProperties
from unimq_rabbitmq import _wire

from unimq import InvalidMessage, MessageTooLarge
from unimq.adapter import Message, Outgoing

LIMITS = _wire.Limits(message=1000, frame=600)
Make = Callable[..., Outgoing]


def _over_the_wire(properties: BasicProperties | None) -> BasicProperties:
    """Through the bytes, as pika would send and read them."""
    assert properties is not None
    read = BasicProperties()
    read.decode(b"".join(properties.encode()))
    return read


def _deliver(exchange: str = "", routing_key: str = "q") -> Basic.Deliver:
    return Basic.Deliver("c", 1, False, exchange, routing_key)


def _received(entry: Outgoing, **changed: Any) -> tuple[Message, int]:
    publication = _wire.encode(entry, _wire.Limits(16 * 2**20, 131064))
    return _wire.decode(_deliver(**changed), _over_the_wire(publication.properties), entry.message.body)


@pytest.mark.parametrize("key", [None, "", "k", "schlüssel" * 100])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {f"h{number}": str(number) for number in range(40)},
        {"text": "ä€\U0001f600", "empty": "", "bytes": bytes(range(256)), "no bytes": b"", "like text": b"abc"},
        {"CC": "other", "BCC": b"other", "x-death": "x", "x-delivery-count": "7", "x-first-death-queue": "q"},
        {"unimq-dead-reason": "rejected"},
    ],
)
def test_everything_arrives_as_it_was_sent(outgoing: Make, key: str | None, headers: dict[str, str | bytes]) -> None:
    entry = outgoing(
        bytes(range(256)),
        id="the id",
        key=key,
        headers=headers,
        content_type="text/plain",
        correlation_id="",
        reply_to="answers",
        expires_at=1795506387.25,
    )
    message, attempt = _received(entry)
    sent = entry.message
    for name in ("body", "key", "id", "content_type", "correlation_id", "reply_to", "sent_at", "expires_at"):
        assert getattr(message, name) == getattr(sent, name), name
    assert dict(message.headers) == headers
    assert all(type(message.headers[name]) is type(value) for name, value in headers.items())
    assert attempt == 1


def test_no_header_of_a_user_reaches_the_broker_with_an_effect(outgoing: Make) -> None:
    entry = outgoing(b"b", headers={"CC": "q2", "BCC": "q2", "x-death": "", "x-delivery-count": "5", "cc": "harmless"})
    properties = _wire.encode(entry, LIMITS).properties
    assert properties is not None
    sent = properties.headers
    assert sent is not None
    assert not {"CC", "BCC", "x-death", "x-delivery-count"} & sent.keys()
    assert "cc" in sent


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"id": "i" * 256}, InvalidMessage, "id has 256 bytes"),
        ({"correlation_id": "ä" * 128}, InvalidMessage, "correlation_id has 256 bytes"),
        ({"headers": {"n" * 256: "v"}}, InvalidMessage, "header name has 256 bytes"),
        ({"headers": {"CC": "v", "x": "y" * 600}}, MessageTooLarge, "one frame"),
        ({"key": "k" * 600}, MessageTooLarge, "one frame"),
    ],
)
def test_what_amqp_cannot_carry_is_refused(
    outgoing: Make, fields: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        _wire.encode(outgoing(b"b", **fields), LIMITS)


def test_the_size_counts_the_headers_exactly(outgoing: Make) -> None:
    overhead = 0
    for size in range(1000, 0, -1):
        try:
            _wire.encode(outgoing(b"x" * size, id="i", headers={"h": "v"}), LIMITS)
        except MessageTooLarge:
            continue
        overhead = 1000 - size
        break
    properties = _wire.encode(outgoing(b"x", id="i", headers={"h": "v"}), LIMITS).properties
    assert properties is not None
    assert overhead == sum(map(len, properties.encode())) + 22


def test_the_longest_names_pass(outgoing: Make) -> None:
    message, _ = _received(outgoing(b"b", id="ä" * 127, headers={"n" * 255: "v"}))
    assert message.id == "ä" * 127
    assert dict(message.headers) == {"n" * 255: "v"}


def test_foreign_messages_are_understood() -> None:
    when = datetime(2026, 1, 2, tzinfo=UTC)
    properties = BasicProperties(
        headers={
            "int": 2**40,
            "flag": True,
            "none": None,
            "when": when,
            "list": [1, "a", {"b": [2]}],
            "raw": b"\xff",
            "x-death": [{"count": 1}],
            "x-delivery-count": 2,
            "unimq-key": 5,
            "unimq-sent-at": "yesterday",
        },
        timestamp=1700000000,
        message_id="theirs",
    )
    message, attempt = _wire.decode(_deliver("logs", "de.berlin"), _over_the_wire(properties), b"")
    assert attempt == 3
    assert message.id == "theirs"
    assert message.sent_at == 1700000000.0
    assert message.key == "5"
    assert dict(message.headers) == {
        "int": str(2**40),
        "flag": "true",
        "none": "",
        "when": "2026-01-02T00:00:00+00:00",
        "list": '[1,"a",{"b":[2]}]',
        "raw": b"\xff",
    }


def test_a_bare_message_gets_an_id_of_its_own_and_the_routing_key() -> None:
    first, attempt = _wire.decode(_deliver("logs", "de.berlin"), _over_the_wire(BasicProperties()), b"x")
    second, _ = _wire.decode(_deliver("", "q"), _over_the_wire(BasicProperties()), b"x")
    assert attempt == 1
    assert first.key == "de.berlin"
    assert second.key is None
    assert first.id
    assert first.id != second.id
    assert first.sent_at > 1.7e9
