"""The permissions that `docs/rabbitmq.md` asks an operator for, on a real broker: exactly they are enough."""

import re
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from unimq_contract.brokers import RunningTap

import unimq

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("rabbitmq")]

PATIENCE = 60.0
PAGE = Path(__file__).parent.parent.parent / "docs" / "rabbitmq.md"
Account = Callable[[str, str, str], str]


@pytest.fixture
def account(running: RunningTap) -> Account:
    """Return the URL of a new user with these permissions: configure, write, read."""

    def make(configure: str, write: str, read: str) -> str:
        name = f"user-{uuid4().hex[:8]}"
        running.tool("rabbitmqctl", "add_user", name, "Pa55neverseen")
        running.tool("rabbitmqctl", "set_permissions", name, configure, write, read)
        return running.url.replace("guest:guest@", f"{name}:Pa55neverseen@")

    return make


def documented(who: str) -> tuple[str, str, str]:
    """Return the patterns in the row of the page."""
    row = re.search(rf"^\| {who}.*?\| `(.*)` \| `(.*)` \| `(.*)` \|$", PAGE.read_text(), re.MULTILINE)
    assert row is not None, f"the page has no row about {who!r}"
    patterns = [pattern.replace("\\|", "|") for pattern in row.groups()]
    return patterns[0], patterns[1], patterns[2]


def one(consumer: unimq.Consumer) -> unimq.Delivery:
    (delivery,) = consumer.receive(1, timeout=PATIENCE)
    return delivery


@pytest.mark.parametrize("key_lanes", [1, 3])
def test_who_makes_and_uses_everything(account: Account, key_lanes: int) -> None:
    url = account(*documented("makes, sends, receives"))
    queue = unimq.Queue("orders", max_deliveries=3)
    keyed = unimq.Queue("orders-by-key", ordering="key")
    topic = unimq.Topic(f"orders-events-{key_lanes}", ordering="key" if key_lanes > 1 else "none")
    audit = topic.subscription("audit")
    with unimq.connect(f"{url}?key_lanes={key_lanes}", timeout=PATIENCE) as broker:
        broker.declare(queue, keyed, topic, audit)
        for source, target in ((queue, queue), (keyed, keyed), (audit, topic)):
            with broker.producer(target) as producer, broker.consumer(source) as consumer:
                producer.send(b"now", key="k")
                one(consumer).nack()
                delivery = one(consumer)
                assert (delivery.body, delivery.attempt) == (b"now", 2)
                delivery.ack()
                producer.send(b"later", delay=0.05)
                one(consumer).nack(delay=0.05)
                delivery = one(consumer)
                assert (delivery.body, delivery.attempt) == (b"later", 2)
                delivery.reject("no good")
                consumer.settle()
            assert broker.stats(source).dead_letters == 1
            assert broker.redrive(source).moved == 1
            assert broker.purge(source) == 1
        with pytest.raises(unimq.RequestTimeout):
            broker.request(queue, b"is anybody there?", timeout=0.2)
        broker.delete(queue, keyed, topic, audit)


def test_who_only_sends_and_who_only_receives(running: RunningTap, account: Account) -> None:
    queue, topic = unimq.Queue("orders"), unimq.Topic("orders-events")
    audit = topic.subscription("audit")
    sender, receiver = account(*documented("only sends")), account(*documented("only receives"))
    with unimq.connect(running.url, timeout=PATIENCE) as owner:
        owner.declare(queue, topic, audit)
        with unimq.connect(f"{sender}?declare=false", timeout=PATIENCE) as broker:
            for target in (queue, topic):
                with broker.producer(target) as producer:
                    producer.send(b"one", key="k")
            with pytest.raises(unimq.AuthError, match="orders"):
                broker.consumer(queue)
        with unimq.connect(f"{receiver}?declare=false", timeout=PATIENCE) as broker:
            for source in (queue, audit):
                with broker.consumer(source) as consumer:
                    one(consumer).nack()
                    one(consumer).reject("no good")
                    consumer.settle()
                assert broker.stats(source).dead_letters == 1
            with pytest.raises(unimq.AuthError, match="orders-events"), broker.producer(topic) as producer:
                producer.send(b"not allowed")
        owner.delete(queue, topic, audit, *filter(None, (queue.dead_letters, audit.queue.dead_letters)))


def test_who_may_not_is_told_what(account: Account) -> None:
    url, refused = account("^$", "^$", "^$"), pytest.raises(unimq.AuthError, match=r"queue 'orders.*refused")
    with unimq.connect(url, timeout=PATIENCE) as broker, refused as caught:
        broker.declare(unimq.Queue("orders"))
    assert not caught.value.retryable
