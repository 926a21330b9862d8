"""Programs with boto3 alone at the other end: what they send is read right, and they read what unimq sends (R2, P6)."""

import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from unimq_contract.brokers import RunningTap, sqs
from unimq_sqs import Clients

import unimq

pytestmark = pytest.mark.slow

WITHIN = 60.0
FOURTEEN_DAYS = str(14 * 24 * 3600)
ATTRIBUTES: Any = {
    "text": {"DataType": "String", "StringValue": "t"},
    "own-type": {"DataType": "String.iso8601", "StringValue": "2026-11-24"},
    "number": {"DataType": "Number", "StringValue": "1.5"},
    "whole": {"DataType": "Number.int", "StringValue": "7"},
    "binary": {"DataType": "Binary", "BinaryValue": b"\0\xff"},
    "png": {"DataType": "Binary.png", "BinaryValue": b"\x89PNG"},
}
HEADERS: dict[str, str | bytes] = {
    "text": "t",
    "own-type": "2026-11-24",
    "number": "1.5",
    "whole": "7",
    "binary": b"\0\xff",
    "png": b"\x89PNG",
}


@pytest.fixture(scope="module")
def url(start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap]) -> Iterator[str]:
    with start_or_skip(lambda: sqs.start(flavour="ministack")) as running:
        yield f"{running.tap.url}&wait=1"


@pytest.fixture
def broker(url: str) -> Iterator[unimq.Broker]:
    with unimq.connect(url, timeout=WITHIN) as broker:
        yield broker


@pytest.fixture
def clients(broker: unimq.Broker) -> Clients:
    native = broker.native
    assert isinstance(native, Clients)
    return native


@pytest.fixture
def queue(broker: unimq.Broker) -> Iterator[unimq.Queue]:
    queue = unimq.Queue(f"q-{os.urandom(6).hex()}")
    broker.declare(queue)
    yield queue
    assert queue.dead_letters is not None
    broker.delete(queue, queue.dead_letters)


def address(clients: Clients, name: str) -> str:
    return clients.sqs.get_queue_url(QueueName=name)["QueueUrl"]


def receive_one(consumer: unimq.Consumer) -> unimq.Delivery:
    deadline = time.monotonic() + WITHIN
    while not (found := consumer.receive(1, timeout=1)):
        assert time.monotonic() < deadline, "nothing came"
    return found[0]


def test_a_plain_message_with_attributes_of_every_type(
    broker: unimq.Broker, clients: Clients, queue: unimq.Queue
) -> None:
    before = time.time()
    sent = clients.sqs.send_message(
        QueueUrl=address(clients, queue.name), MessageBody='{"grüß": 1}', MessageAttributes=ATTRIBUTES
    )
    with broker.consumer(queue) as consumer:
        delivery = receive_one(consumer)
        assert delivery.body == '{"grüß": 1}'.encode()
        assert dict(delivery.headers) == HEADERS
        assert (delivery.id, delivery.key, delivery.attempt) == (sent["MessageId"], None, 1)
        assert before - 60 < delivery.sent_at < time.time() + 60
        delivery.reject("not ours")
        consumer.settle()
    assert queue.dead_letters is not None
    with broker.consumer(queue.dead_letters) as consumer:
        dead = receive_one(consumer)
        assert dead.body == delivery.body
        assert HEADERS.items() <= dict(dead.headers).items()
        dead.ack()
        consumer.settle()


def test_the_tenant_of_a_fair_queue_is_the_key(broker: unimq.Broker, clients: Clients, queue: unimq.Queue) -> None:
    clients.sqs.send_message(QueueUrl=address(clients, queue.name), MessageBody="b", MessageGroupId="tenant")
    with broker.consumer(queue) as consumer:
        delivery = receive_one(consumer)
        assert delivery.key == "tenant"
        delivery.ack()
        consumer.settle()


def test_a_topic_that_wraps_its_messages(broker: unimq.Broker, clients: Clients, queue: unimq.Queue) -> None:
    """A subscription that another program made, without raw delivery."""
    url = address(clients, queue.name)
    arn = clients.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    topic = clients.sns.create_topic(Name=f"t-{os.urandom(6).hex()}")["TopicArn"]
    clients.sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    # Binary ones, which this emulator leaves empty, are a matter of test_wire.
    attributes = {name: ATTRIBUTES[name] for name in ("text", "number")}
    sent = clients.sns.publish(TopicArn=topic, Message="news", MessageAttributes=attributes)
    with broker.consumer(queue) as consumer:
        delivery = receive_one(consumer)
        assert (delivery.body, delivery.id) == (b"news", sent["MessageId"])
        assert dict(delivery.headers) == {name: HEADERS[name] for name in attributes}
        native: Any = delivery.native
        assert json.loads(native["Body"])["TopicArn"] == topic
        delivery.ack()
        consumer.settle()
    clients.sns.delete_topic(TopicArn=topic)


def test_a_plain_program_reads_what_unimq_sends(broker: unimq.Broker, clients: Clients, queue: unimq.Queue) -> None:
    with broker.producer(queue) as producer:
        producer.send("grüß dich".encode(), key="k", headers={"source": "web"}, content_type="text/plain")
    answer: Any = clients.sqs.receive_message(
        QueueUrl=address(clients, queue.name), WaitTimeSeconds=20, MessageAttributeNames=["All"]
    )
    (found,) = answer["Messages"]
    assert found["Body"] == "grüß dich"
    packed = json.loads(found["MessageAttributes"]["unimq"]["StringValue"])
    assert (packed["key"], packed["headers"], packed["content_type"]) == ("k", {"source": "web"}, "text/plain")


@pytest.mark.parametrize("ordering", ["none", "key"])
def test_queues_and_their_dead_letters_keep_messages_for_14_days(
    broker: unimq.Broker, clients: Clients, ordering: str
) -> None:
    """A dead letter keeps the age of its original in a standard queue: with SQS's 4 days it could be gone at once."""
    queue = unimq.Queue(f"q-{os.urandom(6).hex()}", ordering="key" if ordering == "key" else "none", max_deliveries=3)
    broker.declare(queue)
    dead = queue.dead_letters
    assert dead is not None
    for name in (queue.name, dead.name):
        found = clients.sqs.get_queue_attributes(
            QueueUrl=address(clients, name + ".fifo" * (ordering == "key")),
            AttributeNames=["MessageRetentionPeriod"],
        )
        assert found["Attributes"]["MessageRetentionPeriod"] == FOURTEEN_DAYS
    broker.delete(queue, dead)
