"""Bad input for SQS: typed errors that name what is wrong, while good entries of the same call are stored (S3, E1)."""

import os
import time
from collections.abc import Iterator

import pytest

import unimq
from unimq import Message

pytestmark = pytest.mark.slow

WITHIN = 60.0
MIB = 1024 * 1024


@pytest.fixture
def broker(url: str) -> Iterator[unimq.Broker]:
    with unimq.connect(url, timeout=WITHIN) as broker:
        yield broker


@pytest.fixture
def name() -> str:
    return f"q-{os.urandom(6).hex()}"


def receive(consumer: unimq.Consumer, count: int) -> list[unimq.Delivery]:
    found: list[unimq.Delivery] = []
    deadline = time.monotonic() + WITHIN
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} came"
        found += consumer.receive(count - len(found), timeout=1)
    return found


@pytest.mark.parametrize(
    ("ordering", "bad", "error", "words"),
    [
        ("none", Message(b"x" * MIB), unimq.MessageTooLarge, "takes 1048576 bytes with headers"),
        ("none", Message(b"x" * (MIB - 200), headers={"h": "y" * 300}), unimq.MessageTooLarge, "with headers"),
        # Two thirds of the limit as bytes, and more than the limit as base64.
        ("none", Message(b"\xff" * 800_000), unimq.MessageTooLarge, "encoding counted"),
        ("none", Message("€".encode() * 400_000), unimq.MessageTooLarge, "has 12"),
        ("none", Message(b"x", delay=31 * 24 * 3600), unimq.Unsupported, "delay"),
        ("key", Message(b"x", key="k", delay=1), unimq.Unsupported, "FIFO|ordering"),
    ],
    ids=["body", "headers", "base64", "characters", "delay", "delay of a key"],
)
def test_a_bad_message_is_refused_and_spares_the_others(
    broker: unimq.Broker, name: str, ordering: str, bad: Message, error: type[unimq.UnimqError], words: str
) -> None:
    queue = unimq.Queue(name, ordering="key" if ordering == "key" else "none", dead_letter=False)
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        first, refused, last = producer.send_many([Message(b"first"), bad, Message(b"last")], return_errors=True)
        assert isinstance(first, unimq.Receipt)
        assert isinstance(last, unimq.Receipt)
        assert type(refused) is error
        with pytest.raises(error, match=words):
            producer.send(bad)
        assert {delivery.body for delivery in receive(consumer, 2)} == {b"first", b"last"}
    broker.delete(queue)


def test_what_sqs_refuses_in_a_body_or_an_attribute_goes_another_way(broker: unimq.Broker, name: str) -> None:
    """Characters that it does not take, more than ten headers, with names and values that no attribute may have."""
    queue = unimq.Queue(name, dead_letter=False)
    headers: dict[str, str | bytes] = {f"AWS.größe {number}..": "" for number in range(12)} | {"b": b"\0\xff"}
    bodies = [b"\x00\x01", "￾".encode(), b"", bytes(range(256)), b"-", b"text"]
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        for body in bodies:
            producer.send(body, headers=headers)
        found = receive(consumer, len(bodies))
        assert sorted(delivery.body for delivery in found) == sorted(bodies)
        assert all(dict(delivery.headers) == headers for delivery in found)
        consumer.ack(found)
        consumer.settle()
    broker.delete(queue)


def test_keys_that_are_no_message_group_keep_their_order_all_the_same(broker: unimq.Broker, name: str) -> None:
    queue = unimq.Queue(name, ordering="key", dead_letter=False)
    keys = [None, "", "with space", "ünïcode", "x" * 500, "a\nb"]
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        for number in range(2):
            for outcome in producer.send_many([Message(b"%d" % number, key=key) for key in keys]):
                assert isinstance(outcome, unimq.Receipt)
        came: dict[str | None, list[bytes]] = {}
        for _ in range(2 * len(keys)):
            (delivery,) = receive(consumer, 1)
            came.setdefault(delivery.key, []).append(delivery.body)
            delivery.ack()
        consumer.settle()
    assert came.pop(None) in ([b"0", b"1"], [b"1", b"0"]), "what has no key has no order"
    assert came == {key: [b"0", b"1"] for key in keys if key is not None}
    broker.delete(queue)


@pytest.mark.parametrize("bad", ["a.b", "with space", "ü", "", "x" * 81])
def test_names_that_sqs_does_not_take_are_refused_before_any_request(broker: unimq.Broker, bad: str) -> None:
    with pytest.raises(unimq.ConfigError, match="name"):
        broker.producer(bad)


def test_a_queue_that_is_not_there_is_not_found(url: str, name: str) -> None:
    with unimq.connect(f"{url}&declare=false", timeout=WITHIN) as broker:
        for call in (broker.producer, broker.consumer, broker.stats, broker.purge):
            with pytest.raises(unimq.NotFound, match=name):
                call(name)


def test_a_queue_that_is_deleted_while_it_is_used_is_not_found(broker: unimq.Broker, name: str) -> None:
    queue = unimq.Queue(name, dead_letter=False)
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        producer.send(b"there")
        receive(consumer, 1)
        broker.delete(queue)
        with pytest.raises(unimq.NotFound, match=name):
            producer.send(b"gone")
        outcomes = producer.send_many([b"a", b"b"], return_errors=True)
        assert [type(outcome) for outcome in outcomes] == [unimq.NotFound, unimq.NotFound]
        with pytest.raises(unimq.NotFound, match=name):
            consumer.receive(timeout=WITHIN)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("sqs://?region=nowhere", "eu-west-1"),
        ("sqs+http://key:secret@127.0.0.1:1/?region=EU WEST", "eu-west-1"),
        ("sqs://?region=eu-west-1&endpoint=127.0.0.1:1", "https://host"),
        ("sqs://?region=eu-west-1&endpoint=http://127.0.0.1:1", "https://host"),
        ("sqs+http://127.0.0.1:1", "KEY:SECRET@HOST"),
        ("sqs+http://key:secret@127.0.0.1:99999/", "1 to 65535"),
        ("sqs://?region=eu-west-1&wait=21", "wait"),
        ("sqs://?region=eu-west-1&visibility=43201", "visibility"),
        ("sqs://key:hunter2@/?region=eu-west-1", "chain"),
    ],
)
def test_a_wrong_url_says_what_would_be_right(bad: str, words: str) -> None:
    with pytest.raises(unimq.ConfigError, match=words) as caught:
        unimq.connect(bad)
    assert "hunter2" not in str(caught.value)
