"""The wire format of SQS: what we write comes back equal, and what others write is read as naturally as possible."""

import base64
import json
from typing import Any

import pytest
from unimq_sqs._wire import ATTRIBUTE, attributes_of, decode, early_by, encode, matches, sent_on

from unimq.adapter import Headers, Message


def _received(message: Message, **system: str) -> dict[str, Any]:
    encoded = encode(message)
    return {
        "MessageId": "sqs-id",
        "Body": encoded.body,
        "Attributes": {"SentTimestamp": "1000", **system},
        "MessageAttributes": attributes_of(encoded),
    }


@pytest.mark.parametrize(
    ("body", "wire"),
    [
        (b"plain", "plain"),
        ("grüße \U0001f600\t\r\n".encode(), "grüße \U0001f600\t\r\n"),
        (b"", "-"),
        (b"-", "-"),
        (bytes(range(256)), None),
        (b"\0", None),
        (b"\x0b", None),
        ("\ufffe".encode(), None),
        (b"\xed\xa0\x80", None),
        (b"eA==", "eA=="),
    ],
)
def test_bodies_survive_and_text_stays_text(body: bytes, wire: str | None) -> None:
    encoded = encode(Message(body))
    assert encoded.body == (base64.b64encode(body).decode() if wire is None else wire)
    assert decode(_received(Message(body))).body == body


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {f"name-{number}": f"value {number}" for number in range(25)},
        {
            "text": "",
            "bytes": b"",
            "both": bytes(range(256)),
            "AWS.evil": "x",
            "ü \ufffe\uffff\0": "\ufffe\uffff\0\x7f é",
        },
    ],
)
def test_all_fields_survive(headers: Headers) -> None:
    sent = Message(b"x", "", headers, "id-1", "text/plain", "c", "r", sent_at=1700000000.123, expires_at=1700000060.5)
    found = decode(_received(sent))
    for field in ("body", "key", "id", "content_type", "correlation_id", "reply_to", "sent_at", "expires_at"):
        assert getattr(found, field) == getattr(sent, field), field
    assert dict(found.headers) == headers
    assert {name: type(value) for name, value in found.headers.items()} == {n: type(v) for n, v in headers.items()}


def test_no_key_differs_from_an_empty_one() -> None:
    assert decode(_received(Message(b"x", None))).key is None
    assert decode(_received(Message(b"x", ""))).key == ""


def test_the_attribute_holds_only_what_sqs_takes() -> None:
    attribute = encode(Message(b"x", headers={"a": "\0\ufffe\uffff\x1f"})).attribute
    assert all(char >= " " and char not in "\ufffe\uffff" for char in attribute)
    assert json.loads(attribute)["headers"] == {"a": "\0\ufffe\uffff\x1f"}


def test_the_size_counts_body_and_attribute_in_bytes() -> None:
    encoded = encode(Message("é".encode(), headers={"ü": "ö"}))
    parts = (encoded.body, ATTRIBUTE, "String", encoded.attribute)
    assert encoded.size == sum(len(part.encode()) for part in parts)


def test_checksums_are_those_of_sqs() -> None:
    encoded = encode(Message(b"a"))
    encoded.attribute = "{}"
    # Recorded from an SQS emulator for body "a" with the String attribute unimq="{}".
    stored = {
        "MD5OfMessageBody": "0cc175b9c0f1b6a831c399e269772661",
        "MD5OfMessageAttributes": "a4324cf8f92e6884673aa4e2844c4f33",
    }
    assert matches(encoded, stored)
    assert not matches(encoded, {**stored, "MD5OfMessageBody": "0" * 32})
    assert not matches(encoded, {**stored, "MD5OfMessageAttributes": "0" * 32})
    assert not matches(encoded, {})


def test_a_plain_message_of_another_program() -> None:
    found = decode(
        {
            "MessageId": "sqs-id",
            "Body": "hello",
            "Attributes": {"SentTimestamp": "1700000000123", "MessageGroupId": "tenant"},
            "MessageAttributes": {
                "text": {"DataType": "String.custom", "StringValue": "t"},
                "number": {"DataType": "Number", "StringValue": "1"},
                "binary": {"DataType": "Binary", "BinaryValue": b"\0"},
            },
        }
    )
    assert (found.body, found.id, found.key, found.sent_at) == (b"hello", "sqs-id", "tenant", 1700000000.123)
    assert dict(found.headers) == {"text": "t", "number": "1", "binary": b"\0"}


def test_attributes_added_on_the_way_become_headers() -> None:
    received = _received(Message(b"x", headers={"mine": "1"}))
    received["MessageAttributes"]["theirs"] = {"DataType": "String", "StringValue": "2"}
    assert dict(decode(received).headers) == {"mine": "1", "theirs": "2"}


@pytest.mark.parametrize("value", ["", "no json", "[]", '{"body": "rot13"}', '{"headers": 1}'])
def test_a_foreign_attribute_of_our_name_is_a_header(value: str) -> None:
    attribute = {ATTRIBUTE: {"DataType": "String", "StringValue": value}}
    found = decode({"MessageId": "sqs-id", "Body": "x", "MessageAttributes": attribute})
    assert (found.body, found.id, dict(found.headers)) == (b"x", "sqs-id", {ATTRIBUTE: value})


def test_a_body_that_is_not_the_base64_it_claims_to_be() -> None:
    received = _received(Message(b"\xff"))
    received["Body"] = "no base64!"
    assert decode(received).body == b"no base64!"


def test_an_attribute_of_a_later_version_is_read() -> None:
    received = _received(Message(b"x", id="id-1"))
    attribute = received["MessageAttributes"][ATTRIBUTE]
    attribute["StringValue"] = json.dumps({**json.loads(attribute["StringValue"]), "later": [1]})
    assert decode(received).id == "id-1"


def test_a_delay_that_sqs_has_is_not_in_the_attribute_and_a_longer_one_is() -> None:
    assert early_by(_received(Message(b"x", delay=900))) == 0
    received = _received(Message(b"x", delay=10_000))
    assert 9_000 < early_by(received) <= 10_001
    assert decode(received).body == b"x"
    attribute = received["MessageAttributes"][ATTRIBUTE]
    attribute["StringValue"] = json.dumps({**json.loads(attribute["StringValue"]), "due": 1})
    assert early_by(received) == 0, "it is over"


@pytest.mark.parametrize("value", ['{"headers": {"a": "\\"due\\":"}}', '{"due": "x"}', '{"due":', ""])
def test_what_only_looks_like_a_delay_is_none(value: str) -> None:
    assert early_by({"MessageAttributes": {ATTRIBUTE: {"DataType": "String", "StringValue": value}}}) == 0


def test_a_message_is_sent_on_as_it_is_for_as_long_as_sqs_can() -> None:
    received = _received(Message(b"\xff", "k", delay=10_000))
    received["MessageAttributes"]["theirs"] = {"DataType": "Binary", "BinaryValue": b"b", "StringListValues": []}
    received["Attributes"] = {"MessageGroupId": "tenant"}
    entry = sent_on(received, 9_000)
    assert entry["MessageBody"] == received["Body"]
    assert entry["MessageAttributes"][ATTRIBUTE] == received["MessageAttributes"][ATTRIBUTE]
    assert entry["MessageAttributes"]["theirs"] == {"DataType": "Binary", "BinaryValue": b"b"}
    assert (entry["DelaySeconds"], entry["MessageGroupId"]) == (900, "tenant")
    assert sent_on(_received(Message(b"x")), 1.2)["DelaySeconds"] == 2


def _envelope(**changes: object) -> dict[str, Any]:
    envelope = {
        "Type": "Notification",
        "MessageId": "sns-id",
        "TopicArn": "arn:aws:sns:us-east-1:000000000000:news",
        "Message": "hello",
        "MessageAttributes": {
            "a": {"Type": "String", "Value": "1"},
            "b": {"Type": "Binary", "Value": base64.b64encode(b"\xff").decode()},
        },
        **changes,
    }
    return {"MessageId": "sqs-id", "Body": json.dumps(envelope)}


def test_an_sns_envelope_is_opened() -> None:
    found = decode(_envelope())
    assert (found.body, found.id, dict(found.headers)) == (b"hello", "sns-id", {"a": "1", "b": b"\xff"})


def test_our_message_inside_an_sns_envelope() -> None:
    encoded = encode(Message(b"\0", "k", id="id-1"))
    attributes = {ATTRIBUTE: {"Type": "String", "Value": encoded.attribute}}
    found = decode(_envelope(Message=encoded.body, MessageAttributes=attributes))
    assert (found.body, found.key, found.id) == (b"\0", "k", "id-1")


@pytest.mark.parametrize(
    "changes", [{"Type": "SubscriptionConfirmation"}, {"TopicArn": "x"}, {"Message": 1}, {"MessageId": None}]
)
def test_what_only_looks_like_an_envelope_stays_as_it_is(changes: dict[str, object]) -> None:
    received = _envelope(**changes)
    assert decode(received).body == received["Body"].encode()
