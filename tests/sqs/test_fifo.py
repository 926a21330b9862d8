"""FIFO queues and topics on the emulators: what is made, under which names, and that nothing is lost or overtakes."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from unimq_sqs import Clients

import unimq

pytestmark = pytest.mark.slow

WITHIN = 20.0


@pytest.fixture
def broker(url: str) -> Iterator[unimq.Broker]:
    with unimq.connect(url) as broker:
        yield broker


@pytest.fixture
def name() -> str:
    return f"q-{os.urandom(6).hex()}"


def receive(consumer: unimq.Consumer, count: int = 1) -> list[unimq.Delivery]:
    found: list[unimq.Delivery] = []
    deadline = time.monotonic() + WITHIN
    while len(found) < count:
        assert time.monotonic() < deadline, f"{[delivery.body for delivery in found]} came"
        found += consumer.receive(count - len(found), timeout=1)
    return found


def read(consumer: unimq.Consumer, count: int) -> list[bytes]:
    """Receive and ack one by one."""
    bodies: list[bytes] = []
    for _ in range(count):
        (delivery,) = receive(consumer)
        bodies.append(delivery.body)
        delivery.ack()
    consumer.settle()
    return bodies


def clients_of(broker: unimq.Broker) -> Clients:
    native = broker.native
    assert isinstance(native, Clients)
    return native


def exists(broker: unimq.Broker, name: str) -> bool:
    client = clients_of(broker).sqs
    with contextlib.suppress(client.exceptions.QueueDoesNotExist):
        return bool(client.get_queue_url(QueueName=name)["QueueUrl"])
    return False


def needs_topics(broker: unimq.Broker) -> None:
    if not broker.capabilities.topics:
        pytest.skip("this emulator has no SNS")


def test_queue_and_dead_letters_are_fifo_and_a_bare_name_stands_for_them(url: str, name: str) -> None:
    queue = unimq.Queue(name, ordering="key", max_deliveries=3, ttl=3600)
    with unimq.connect(url) as broker:
        broker.declare(queue)
        broker.declare(queue)
        assert [exists(broker, each) for each in (f"{name}.fifo", f"{name}-dead.fifo", name)] == [True, True, False]
        client = clients_of(broker).sqs
        address = client.get_queue_url(QueueName=f"{name}.fifo")["QueueUrl"]
        found = client.get_queue_attributes(QueueUrl=address, AttributeNames=["All"])["Attributes"]
        assert found["FifoQueue"] == "true"
        assert f'{name}-dead.fifo"' in found["RedrivePolicy"]
        with broker.producer(queue) as producer:
            producer.send(b"a", key="k")
    with unimq.connect(url) as other:
        with pytest.raises(unimq.DeclarationConflict, match="ordering is 'key', not 'none'"):
            other.declare(unimq.Queue(name))
        with other.consumer(name) as consumer:
            assert consumer.receive(timeout=WITHIN)[0].key == "k"
        assert not exists(other, name)
        other.delete(name)
        assert not exists(other, f"{name}.fifo")
        other.delete(f"{name}-dead")
        assert not exists(other, f"{name}-dead.fifo")


def test_a_standard_queue_does_not_become_an_ordered_one(url: str, broker: unimq.Broker, name: str) -> None:
    broker.declare(unimq.Queue(name, dead_letter=False))
    ordered = unimq.Queue(name, ordering="key", dead_letter=False)
    with pytest.raises(unimq.DeclarationConflict, match="ordering is 'none', not 'key'"):
        broker.declare(ordered)
    with (
        unimq.connect(f"{url}&declare=false") as looking,
        pytest.raises(unimq.DeclarationConflict, match="ordering is 'none', not 'key'"),
    ):
        looking.producer(ordered)
    assert not exists(broker, f"{name}.fifo")


def test_names_of_other_programs_are_used_as_they_are(broker: unimq.Broker, name: str) -> None:
    queue = unimq.Queue(f"{name}.fifo", ordering="key", portable_name=False)
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        producer.send(b"bad", key="k")
        receive(consumer)[0].reject()
        consumer.settle()
    assert [exists(broker, each) for each in (f"{name}.fifo", f"{name}-dead.fifo")] == [True, True]
    assert broker.stats(queue).dead_letters == 1
    with pytest.raises(unimq.ConfigError, match='declare ordering="key"'):
        broker.declare(unimq.Queue(f"{name}.fifo", portable_name=False, dead_letter=False))


def test_keys_that_sqs_does_not_take_are_keys_all_the_same(broker: unimq.Broker, name: str) -> None:
    keys = ["", " ", "with space", "Schlüssel", "x" * 500, "plain-1", "tab\t", None]
    queue = unimq.Queue(name, ordering="key")
    messages = [unimq.Message(b"%d:%d" % (number, turn), key) for turn in range(3) for number, key in enumerate(keys)]
    with broker.producer(queue) as producer:
        producer.send_many(messages)
    seen: dict[str | None, list[bytes]] = {}
    with broker.consumer(queue) as consumer:
        for _ in messages:
            (delivery,) = receive(consumer)
            seen.setdefault(delivery.key, []).append(delivery.body)
            delivery.ack()
        consumer.settle()
    for number, key in enumerate(keys):
        expected = [b"%d:%d" % (number, turn) for turn in range(3)]
        # Without a key there is no order.
        assert (sorted(seen[key]) if key is None else seen[key]) == expected


def test_messages_without_a_key_wait_for_nobody(broker: unimq.Broker, name: str) -> None:
    queue = unimq.Queue(name, ordering="key")
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        producer.send_many([b"%d" % number for number in range(15)])
        held = receive(consumer, 15)
        assert sorted(int(delivery.body) for delivery in held) == list(range(15))
        assert {delivery.key for delivery in held} == {None}
        consumer.ack(held)
        consumer.settle()
    assert broker.stats(queue).ready == 0


def test_one_id_sent_twice_is_two_messages(broker: unimq.Broker, name: str) -> None:
    """SQS would swallow the second for five minutes, and call it stored, if the id were the one that it looks at."""
    queue = unimq.Queue(name, ordering="key")
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        producer.send_many([unimq.Message(b"1", "k", id="same"), unimq.Message(b"2", "k", id="same")])
        producer.send(unimq.Message(b"3", "k", id="same"))
        assert read(consumer, 3) == [b"1", b"2", b"3"]


def test_dead_letters_of_a_key_leave_the_others_and_come_back_in_order(broker: unimq.Broker, name: str) -> None:
    queue = unimq.Queue(name, ordering="key", max_deliveries=2)
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        producer.send_many([unimq.Message(b"%d" % number, "k") for number in range(4)])
        for number in range(4):
            (delivery,) = receive(consumer)
            assert (delivery.body, delivery.attempt) == (b"%d" % number, 1)
            if number == 0:
                delivery.nack()
                (again,) = receive(consumer)
                assert (again.body, again.attempt) == (b"0", 2)
                again.nack()
            elif number == 3:
                delivery.ack()
            else:
                delivery.reject("bad")
        consumer.settle()
        assert broker.stats(queue).dead_letters == 3
        for _ in range(2):
            # Twice within the five minutes in which SQS recognises what it has had before.
            result = broker.redrive(queue)
            assert (result.moved, result.complete) == (3, True)
            for number in range(3):
                (delivery,) = receive(consumer)
                assert (delivery.body, delivery.attempt) == (b"%d" % number, 1)
                delivery.reject("again")
            consumer.settle()
        assert broker.stats(queue).dead_letters == 3


def test_close_and_the_end_of_a_lease_leave_the_order(url: str, broker: unimq.Broker, name: str) -> None:
    queue = unimq.Queue(name, ordering="key", lease=2)
    with broker.producer(queue) as producer:
        producer.send_many([unimq.Message(b"%d" % number, "k") for number in range(12)])
    with unimq.connect(url) as other, other.consumer(queue) as consumer:
        assert read(consumer, 3) == [b"0", b"1", b"2"]
        (head,) = receive(consumer)
        assert head.body == b"3"
    with broker.consumer(queue) as consumer, broker.consumer(queue) as second:
        (head,) = receive(consumer)
        assert head.body == b"3"
        # Its lease ends: everything that waits behind it goes back with it.
        found = consumer.receive(timeout=WITHIN) or second.receive(timeout=WITHIN)
        assert [delivery.body for delivery in found] == [b"3"]
        with pytest.raises(unimq.LeaseLost):
            head.ack()
        found[0].ack()
        for expected in range(4, 12):
            found = []
            while not found:
                found = consumer.receive(1, timeout=0.05) or second.receive(1, timeout=0.05)
            assert [delivery.body for delivery in found] == [b"%d" % expected]
            found[0].ack()


HOLDER = """
import sys, unimq
with unimq.connect(sys.argv[1]) as broker, broker.consumer(sys.argv[2]) as consumer:
    for delivery in consumer:
        print(delivery.body.decode(), flush=True)
        if delivery.body != b"0":
            sys.stdin.read()
        delivery.ack()
        consumer.settle()
"""
"""Acks the first message, and holds the second with all that waits behind it."""


def test_what_a_dead_consumer_held_comes_again_in_order(url: str, broker: unimq.Broker, name: str) -> None:
    queue = unimq.Queue(name, ordering="key")
    with broker.producer(queue) as producer:
        producer.send_many([unimq.Message(b"%d" % number, "k") for number in range(6)])
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, f"{url}&visibility=2", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert [holder.stdout.readline() for _ in range(2)] == ["0\n", "1\n"]
    finally:
        holder.kill()
        holder.communicate()
    with broker.consumer(queue) as consumer:
        for number in range(1, 6):
            (delivery,) = receive(consumer)
            assert (delivery.body, delivery.attempt) == (b"%d" % number, 2), "SQS counts what nobody saw, too"
            delivery.ack()
        consumer.settle()
    assert broker.stats(queue).ready == 0


def test_stats_purge_and_what_is_sent_afterwards(broker: unimq.Broker, name: str) -> None:
    queue = unimq.Queue(name, ordering="key")
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        producer.send_many([unimq.Message(b"%d" % number, "k") for number in range(5)])
        (head,) = receive(consumer)
        stats = broker.stats(queue)
        assert (stats.ready or 0) + (stats.in_flight or 0) == 5
        head.ack()
        consumer.settle()
    broker.purge(queue)
    assert broker.stats(queue).ready == 0
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        producer.send(b"new", key="k")
        assert read(consumer, 1) == [b"new"]


def test_a_delay_is_refused_before_any_request(broker: unimq.Broker, name: str) -> None:
    queue = unimq.Queue(name, ordering="key")
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        with pytest.raises(unimq.Unsupported, match="delay"):
            producer.send(b"never", key="k", delay=1)
        producer.send(b"next", key="k")
        assert read(consumer, 1) == [b"next"]


def test_other_programs_share_the_order_of_ordinary_keys(broker: unimq.Broker, name: str) -> None:
    queue = unimq.Queue(name, ordering="key")
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        client = clients_of(broker).sqs
        address = client.get_queue_url(QueueName=f"{name}.fifo")["QueueUrl"]
        producer.send(b"ours", key="customer-7")
        client.send_message(
            QueueUrl=address, MessageBody="theirs", MessageGroupId="customer-7", MessageDeduplicationId="1"
        )
        (first,) = receive(consumer)
        assert (first.body, first.key) == (b"ours", "customer-7")
        assert consumer.receive(timeout=0.3) == []
        first.ack()
        (second,) = receive(consumer)
        assert (second.body, second.key) == (b"theirs", "customer-7")
        second.ack()
        consumer.settle()


def test_topics_and_their_subscriptions(url: str, broker: unimq.Broker, name: str) -> None:
    needs_topics(broker)
    topic = unimq.Topic(name, ordering="key")
    audit, stock = topic.subscription("audit"), topic.subscription("stock")
    broker.declare(audit, stock)
    assert exists(broker, f"{name}--audit.fifo")
    messages = [unimq.Message(b"%d" % number, "a key with spaces", id="same") for number in range(6)]
    with broker.producer(topic) as producer:
        producer.send_many(messages)
        with pytest.raises(unimq.Unsupported, match="delay"):
            producer.send(b"never", key="k", delay=1)
    for subscription in (audit, stock):
        with broker.consumer(subscription) as consumer:
            assert read(consumer, 6) == [b"%d" % number for number in range(6)]
    with unimq.connect(url) as other:
        with pytest.raises(unimq.DeclarationConflict, match="ordering is 'key', not 'none'"):
            other.declare(unimq.Topic(name))
        other.delete(topic)
        assert not exists(other, f"{name}--audit.fifo")
        with unimq.connect(f"{url}&declare=false") as looking, pytest.raises(unimq.NotFound):
            looking.producer(topic)


def test_a_standard_topic_does_not_become_an_ordered_one(url: str, broker: unimq.Broker, name: str) -> None:
    needs_topics(broker)
    broker.declare(unimq.Topic(name))
    ordered = unimq.Topic(name, ordering="key")
    with pytest.raises(unimq.DeclarationConflict, match="ordering is 'none', not 'key'"):
        broker.declare(ordered)
    with (
        unimq.connect(f"{url}&declare=false") as looking,
        pytest.raises(unimq.DeclarationConflict, match="ordering is 'none', not 'key'"),
    ):
        looking.producer(ordered)
