"""Copies of messages that were nacked with a long delay, through the client library, against its mock broker."""

import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as Record
from unimq_kafka._options import KafkaOptions, producer_settings
from unimq_kafka._postponed import Postponed
from unimq_kafka._producer import SharedProducer
from unimq_kafka._wire import attempts_before, decode, due_time

from unimq import AuthError, ConnectionLost, MessageTooLarge, SendUnknown, UnimqError
from unimq.adapter import Delivery

from .conftest import Deliveries, Tiers, until
from .test_wire import Foreign

LIMIT = 10_000


@pytest.fixture
def producer(address: str) -> Iterator[SharedProducer]:
    settings = producer_settings({"bootstrap.servers": address, "log_level": 0}, KafkaOptions(), LIMIT)
    # The mock makes a topic when it is asked for it.
    producer = SharedProducer({**settings, "allow.auto.create.topics": True})
    yield producer
    producer.close(time.monotonic())


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    return f"{request.node.name}-{time.time_ns()}".replace("[", "-").replace("]", "")


def delivery_of(record: Foreign, attempt: int = 1) -> Delivery:
    return Delivery(decode(record), attempt, None, Deliveries(), record)


def read(address: str, topic: str) -> Record:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "reader", "log_level": 0, "fetch.wait.max.ms": 10})
    consumer.assign([TopicPartition(f"{topic}.unimq-delay", partition, 0) for partition in range(4)])
    record = consumer.poll(10)
    assert record is not None
    assert record.error() is None
    consumer.close()
    return record


def test_a_copy_waits_in_its_tier(producer: SharedProducer, address: str, topic: str) -> None:
    tiers, outcomes = Tiers(), list[UnimqError | None]()
    postponed = Postponed(producer, topic, tiers)
    due = time.time() + 6
    wire: list[tuple[str, bytes | None]] = [("unimq-id", b"i"), ("a", b"b")]
    postponed.send(delivery_of(Foreign(b"x", b"k", wire), 3), due, outcomes.append)
    tiers.answer(4)
    until(lambda: outcomes)
    assert outcomes == [None]
    record = read(address, topic)
    assert (record.value(), record.key(), record.partition()) == (b"x", b"k", 2)
    headers = record.headers()
    assert isinstance(headers, list)
    assert headers[:2] == wire
    assert due_time(headers) == pytest.approx(due, abs=0.002)  # type: ignore[arg-type]
    assert attempts_before(record) == 3
    postponed.close()


def test_what_cannot_be_copied_is_told(producer: SharedProducer, topic: str) -> None:
    tiers, outcomes = Tiers(), list[UnimqError | None]()
    postponed = Postponed(producer, topic, tiers)
    delivery = delivery_of(Foreign(b"x"))
    postponed.send(delivery, time.time() + 6, outcomes.append)
    tiers.answer(AuthError("no right"))
    assert [type(error) for error in outcomes] == [AuthError]
    postponed.send(delivery_of(Foreign(bytes(2 * LIMIT))), time.time() + 6, outcomes.append)
    tiers.answer(4)
    assert [type(error) for error in outcomes[1:]] == [MessageTooLarge]
    # Found while the topic of delays is known.
    postponed.send(delivery_of(Foreign(bytes(2 * LIMIT))), time.time() + 6, outcomes.append)
    assert [type(error) for error in outcomes[2:]] == [MessageTooLarge]
    postponed.send(delivery, time.time() + 6, outcomes.append)
    (entry,) = postponed.outstanding
    postponed.take_reports([], [(entry, KafkaError(KafkaError._MSG_TIMED_OUT))])
    assert [type(error) for error in outcomes[3:]] == [SendUnknown]
    cause = outcomes[3].__cause__ if outcomes[3] is not None else None
    assert isinstance(cause, KafkaException)
    postponed.close()


def test_what_has_no_outcome_in_time_or_at_the_end_is_told(
    producer: SharedProducer, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unimq_kafka._postponed._TIMEOUT", 0.2)
    tiers, outcomes = Tiers(), list[UnimqError | None]()
    postponed = Postponed(producer, topic, tiers)
    postponed.send(delivery_of(Foreign(b"x")), time.time() + 6, outcomes.append)
    until(lambda: outcomes)
    monkeypatch.setattr("unimq_kafka._postponed._TIMEOUT", 60.0)
    postponed.send(delivery_of(Foreign(b"y")), time.time() + 6, outcomes.append)
    postponed.close()
    assert [type(error) for error in outcomes] == [ConnectionLost, ConnectionLost]
    # What comes after that is for nobody.
    tiers.answer(4)
    assert len(outcomes) == 2
