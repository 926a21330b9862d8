"""Messages as records: what Kafka programs see, and what comes back."""

import time
from dataclasses import dataclass

import pytest
from unimq_kafka._wire import (
    DUE,
    attempts_before,
    decode,
    due_time,
    encode_again,
    encode_delay,
    encode_headers,
    encode_key,
    encode_timestamp,
    end_of_delay,
    record_size,
)

from unimq import InvalidMessage, Message


@dataclass
class Foreign:
    """A record as any Kafka program may write it."""

    _value: bytes | None = b""
    _key: bytes | None = None
    _headers: list[tuple[str, bytes | None]] | None = None
    _timestamp: tuple[int, int] = (1, 1_700_000_000_123)

    def topic(self) -> str:
        return "orders"

    def partition(self) -> int:
        return 3

    def offset(self) -> int:
        return 42

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes | None:
        return self._value

    def timestamp(self) -> tuple[int, int]:
        return self._timestamp

    def headers(self) -> object:
        return self._headers


def over_the_wire(message: Message) -> Message:
    headers = encode_headers(message)
    timestamp = encode_timestamp(message, headers)
    return decode(Foreign(message.body, encode_key(message.key), [*headers], (1, timestamp)))


@pytest.mark.parametrize(
    "message",
    [
        Message(b"", id="1"),
        Message(bytes(range(256)), key="", id="2"),
        Message(b"x", key="ключ", id="m ☃"),
        Message(b"x", headers={f"h{i}": str(i) if i % 2 else bytes([i, 255]) for i in range(30)}, id="4"),
        Message(b"x", headers={"text": "ä", "bytes": "ä".encode(), 'a,"b"': b"", "☃": "", "CC": "y"}, id="5"),
        Message(b"x", content_type="a/b", correlation_id="", reply_to="ä", expires_at=2_000_000_000.5, id="6"),
    ],
    ids=lambda message: message.id,
)
def test_everything_survives(message: Message) -> None:
    message.sent_at = round(time.time(), 3)
    back = over_the_wire(message)
    for field in ("body", "key", "id", "content_type", "correlation_id", "reply_to", "expires_at"):
        assert getattr(back, field) == getattr(message, field), field
    assert dict(back.headers) == dict(message.headers)
    assert back.sent_at == pytest.approx(message.sent_at, abs=0.0011)


def test_text_headers_are_plain_for_others() -> None:
    assert encode_headers(Message(b"", id="i", headers={"source": "wäb", "raw": b"\xff"})) == [
        ("unimq-id", b"i"),
        ("source", "wäb".encode()),
        ("raw", b"\xff"),
        ("unimq-binary", b'["raw"]'),
    ]


def test_an_old_message_keeps_its_time_but_not_as_the_timestamp_that_retention_goes_by() -> None:
    message = Message(b"", id="i", sent_at=1_600_000_000.25)
    headers = encode_headers(message)
    assert encode_timestamp(message, headers) == pytest.approx(time.time() * 1000, abs=5000)
    assert over_the_wire(message).sent_at == 1_600_000_000.25


@pytest.mark.parametrize("age", [0.5, 3600.0])
def test_after_its_delay_a_message_is_as_if_it_had_had_none(age: float) -> None:
    message = Message(b"x", id="i", headers={"a": "b", "raw": b"\xff"}, expires_at=2e9, delay=age)
    message.sent_at = time.time() - age
    waiting = encode_headers(message)
    due = encode_delay(message, waiting)
    # Never before the delay is over, and less than a millisecond after it.
    assert 0 <= due - (message.sent_at + age) < 0.0011
    assert due_time(waiting) == due
    headers, timestamp = end_of_delay(waiting)
    plain = encode_headers(message)
    assert timestamp == pytest.approx(encode_timestamp(message, plain), abs=1000)
    assert headers == plain
    assert decode(Foreign(b"x", None, headers, (1, timestamp))).sent_at == pytest.approx(message.sent_at, abs=0.0011)


@pytest.mark.parametrize("age", [0.5, 3600.0])
def test_a_copy_that_waits_for_the_delay_of_a_nack_is_the_same_message_with_its_attempts(age: float) -> None:
    message = Message(b"x", key="k", id="i", headers={"a": "b", "raw": b"\xff"}, expires_at=2e9)
    message.sent_at = round(time.time() - age, 3)
    for attempt in (1, 2, 17):
        waiting = encode_again(encode_headers(message), message, attempt, time.time() + 0.0001)
        assert 0 <= due_time(waiting) - time.time() < 0.01
        headers, timestamp = end_of_delay(waiting)
        record = Foreign(b"x", b"k", headers, (1, timestamp))
        assert attempts_before(record) == attempt
        back = decode(record)
        assert dict(back.headers) == dict(message.headers)
        assert (back.id, back.key, back.expires_at) == ("i", "k", 2e9)
        assert back.sent_at == pytest.approx(message.sent_at, abs=0.0001)
        again = encode_again(headers, back, attempt + 1, time.time())
        assert [name for name, _ in again] == [name for name, _ in waiting]


def test_a_copy_of_a_foreign_record_keeps_the_id_that_it_had() -> None:
    record = Foreign(b"x", None, [("a", b"1"), ("a", b"2"), ("none", None)])
    headers, timestamp = end_of_delay(encode_again(record.headers(), decode(record), 1, time.time()))  # type: ignore[arg-type]
    assert headers[:3] == record.headers()
    back = decode(Foreign(b"x", None, headers, (1, timestamp)))
    assert (back.id, back.headers) == ("orders-3-42", {"a": "2", "none": ""})
    assert back.sent_at == 1_700_000_000.123


@pytest.mark.parametrize("headers", [None, [], [("a", b"1")], [("unimq-attempts", b"x")], [("unimq-attempts", None)]])
def test_what_says_nothing_of_attempts_had_none(headers: list[tuple[str, bytes | None]] | None) -> None:
    assert attempts_before(Foreign(b"x", None, headers)) == 0


@pytest.mark.parametrize("value", [None, b"", b"soon", b"-5", b"\xff"])
def test_a_foreign_message_among_the_delayed_is_due_at_once(value: bytes | None) -> None:
    assert due_time([("other", b"1"), (DUE, value)]) == due_time([]) == 0.0


def test_a_name_that_the_client_would_cut_is_refused() -> None:
    with pytest.raises(InvalidMessage, match="NUL"):
        encode_headers(Message(b"", id="i", headers={"a\0b": "c"}))


def test_a_foreign_record_is_read_as_it_is() -> None:
    record = Foreign(b"body", b"k", [("a", b"1"), ("a", b"2"), ("none", None), ("raw", b"\xff")])
    message = decode(record)
    assert (message.body, message.key, message.id, message.sent_at) == (b"body", "k", "orders-3-42", 1_700_000_000.123)
    assert message.headers == {"a": "2", "none": "", "raw": b"\xff"}


def test_a_foreign_tombstone_and_a_key_that_is_no_text() -> None:
    message = decode(Foreign(None, b"\xff\xfe", None, (0, -1)))
    assert (message.body, message.sent_at) == (b"", 0.0)
    assert encode_key(message.key) == b"\xff\xfe"


def test_damaged_headers_of_ours_harm_nothing() -> None:
    record = Foreign(b"x", None, [("unimq-binary", b"{{"), ("unimq-expires-at", b"soon"), ("unimq-id", b"\xff")])
    message = decode(record)
    assert (message.expires_at, message.id, dict(message.headers)) == (None, "\ufffd", {})


def test_the_size_is_at_least_what_the_broker_counts() -> None:
    headers = [("ä", b"123"), ("b", b"")]
    # The head of a batch has 61 bytes; each length takes at least one.
    assert record_size(b"12345", b"key", headers) >= 61 + 5 + 3 + 2 + 3 + 1 + 4 + 6
