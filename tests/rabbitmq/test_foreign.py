"""Exchanges, routing keys and queues that somebody else has made, on a real broker."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from unimq_contract.brokers import RunningTap

import unimq

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("rabbitmq")]

PATIENCE = 60.0
EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "rabbitmq_legacy.py"


@pytest.fixture
def foreign(running: RunningTap) -> Iterator[BlockingChannel]:
    """A program that knows nothing of unimq."""
    host, port = running.tap.nodes[0].split(":")
    with pika.BlockingConnection(pika.ConnectionParameters(host, int(port))) as connection:
        yield connection.channel()


@pytest.fixture
def name() -> str:
    return f"legacy.{uuid4().hex[:8]}"


def one(consumer: unimq.Consumer) -> unimq.Delivery:
    (delivery,) = consumer.receive(1, timeout=PATIENCE)
    return delivery


def connected(running: RunningTap, options: str = "") -> unimq.Broker:
    return unimq.connect(running.url + options, timeout=PATIENCE)


@pytest.mark.parametrize("declare", ["true", "false"])
def test_publish_to_an_exchange_with_a_routing_key(
    running: RunningTap, foreign: BlockingChannel, name: str, declare: str
) -> None:
    foreign.exchange_declare(name, exchange_type="topic", durable=False, auto_delete=False)
    foreign.queue_declare(name, durable=True)
    foreign.queue_bind(name, name, routing_key="order.*.created")
    target = unimq.Topic(f"/exchanges/{name}/order.eu.created", require_subscription=True, portable_name=False)
    elsewhere = unimq.Topic(f"/exchanges/{name}/order.eu.gone", require_subscription=True, portable_name=False)
    with connected(running, f"?declare={declare}") as broker:
        with broker.producer(target) as producer:
            producer.send(b"42", headers={"source": "web"})
            producer.send(b"later", delay=0.05)
        with broker.producer(elsewhere) as producer, pytest.raises(unimq.Unroutable):
            producer.send(b"nobody listens")
    bodies: list[bytes | None] = []
    for method, properties, body in foreign.consume(name, inactivity_timeout=PATIENCE):
        assert method is not None
        assert (method.exchange, method.routing_key) == (name, "order.eu.created")
        if body == b"42":
            assert properties is not None
            assert properties.headers is not None
            assert properties.headers["source"] == "web"
        bodies.append(body)
        foreign.basic_ack(int(method.delivery_tag or 0))
        if len(bodies) == 2:
            break
    assert bodies == [b"42", b"later"]
    with connected(running, f"?declare={declare}") as broker:
        broker.delete(target)
    # It is not ours.
    foreign.exchange_declare(name, passive=True)


def test_subscribe_to_an_exchange_with_a_pattern(running: RunningTap, foreign: BlockingChannel, name: str) -> None:
    topic = unimq.Topic("/exchanges/amq.topic/order.%2A.created", portable_name=False)
    audit = topic.subscription(name)
    with connected(running) as broker, broker.consumer(audit) as consumer:
        foreign.basic_publish("amq.topic", "order.eu.gone", b"other")
        foreign.basic_publish("amq.topic", "order.eu.created", b"mine")
        delivery = one(consumer)
        assert (delivery.body, delivery.key) == (b"mine", "order.eu.created")
        delivery.ack()
        consumer.settle()
        consumer.close()
        broker.delete(audit)


def test_a_missing_exchange_is_not_created(running: RunningTap, name: str) -> None:
    with connected(running) as broker:
        with pytest.raises(unimq.NotFound, match="exchange"):
            broker.producer(unimq.Topic(f"/exchanges/{name}/key", portable_name=False))
        with pytest.raises(unimq.ConfigError, match="expected /exchanges/EXCHANGE"):
            broker.producer(unimq.Topic("/exchanges/a/b/c", portable_name=False))


def test_consume_and_send_to_a_classic_queue(running: RunningTap, foreign: BlockingChannel, name: str) -> None:
    """As it is: nothing is declared, compared or added, and plain clients read and write at the other end."""
    foreign.queue_declare(name, durable=True, arguments={"x-max-priority": 5})
    for number in range(50):
        foreign.basic_publish("", name, b"%d" % number)
    queue = unimq.Queue(name, dead_letter=False, portable_name=False)
    with connected(running, "?declare=false") as broker, broker.consumer(queue) as consumer:
        deliveries: list[unimq.Delivery] = []
        while len(deliveries) < 50:
            deliveries += consumer.receive(50 - len(deliveries), timeout=PATIENCE)
        assert sorted(int(delivery.body) for delivery in deliveries) == list(range(50))
        assert len({delivery.id for delivery in deliveries}) == 50, "an id for each, though none has one"
        assert {(delivery.key, delivery.attempt) for delivery in deliveries} == {(None, 1)}
        deliveries[7].nack()
        consumer.ack(deliveries[:7] + deliveries[8:])
        again = one(consumer)
        assert again.body == deliveries[7].body
        again.ack()
        consumer.settle()
        assert broker.stats(queue).ready == 0
        consumer.close()
        with broker.producer(queue) as producer:
            producer.send(b"back")
        method, _, body = foreign.basic_get(name, auto_ack=True)
        assert (method is not None, body) == (True, b"back")
    with (
        connected(running) as broker,
        pytest.raises(unimq.DeclarationConflict, match=r"x-max-priority is .* there, none here"),
    ):
        broker.declare(queue)


def test_the_example_reconciles(running: RunningTap) -> None:
    command = (sys.executable, "-W", "error", EXAMPLE, "--url", running.url, "--orders", "300")
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=2 * PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "Reconciled: 300 orders = 300 receipts, 748.50 sold\n",
        "",
    )
