"""Delays longer than SQS has: made of hops, none of which anybody gets to see (T2)."""

import os
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from unimq_contract.faults.sqs import SQSFaultProxy

import unimq

pytestmark = pytest.mark.slow

WITHIN = 60.0
HOP = 1
DELAY = 3.5


@pytest.fixture
def proxy(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SQSFaultProxy]:
    """SQS whose longest delay is one second."""
    for module in ("_wire", "_sender"):
        monkeypatch.setattr(f"unimq_sqs.{module}.LONGEST_HOP", HOP)
    with SQSFaultProxy(("127.0.0.1", urlsplit(url).port or 0)) as proxy:
        yield proxy


@pytest.fixture
def broker(url: str, proxy: SQSFaultProxy) -> Iterator[unimq.Broker]:
    with unimq.connect(url.replace(f":{urlsplit(url).port}", f":{proxy.port}"), timeout=WITHIN) as broker:
        yield broker


@pytest.fixture
def queue(broker: unimq.Broker) -> Iterator[unimq.Queue]:
    queue = unimq.Queue(f"q-{os.urandom(6).hex()}", max_deliveries=3)
    yield queue
    assert queue.dead_letters is not None
    broker.delete(queue, queue.dead_letters)


HEADERS: dict[str, str | bytes] = {"größe": "1", "b": b"\xff"}


def test_a_delay_of_several_hops_is_kept_and_is_one_delivery(
    broker: unimq.Broker, queue: unimq.Queue, proxy: SQSFaultProxy
) -> None:
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        bodies = [b"text", bytes(range(256)), b""]
        began = time.time()
        for body in bodies:
            producer.send(body, delay=DELAY, key="k", headers=HEADERS, message_id=f"id-{len(body)}")
        producer.send(b"at once")
        (first,) = consumer.receive(timeout=WITHIN)
        assert first.body == b"at once", "a short delay overtakes a long one"
        first.ack()
        came: list[bytes] = []
        while len(came) < len(bodies):
            for delivery in consumer.receive(10, timeout=WITHIN):
                # SQS and its emulators count whole seconds of their own.
                assert time.time() >= began + DELAY - 0.01
                assert (delivery.attempt, delivery.key, dict(delivery.headers)) == (1, "k", HEADERS)
                assert delivery.id == f"id-{len(delivery.body)}"
                came.append(delivery.body)
                delivery.ack()
        consumer.settle()
        assert sorted(came) == sorted(bodies)
        hops = proxy.requests["SendMessageBatch"] - len(bodies) - 1
        assert hops >= 2, "nothing was sent on"


def test_what_cannot_be_sent_on_stays_until_it_is_due(
    broker: unimq.Broker, queue: unimq.Queue, proxy: SQSFaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        began = time.time()
        producer.send(b"later", delay=DELAY)
        producer.flush()
        with proxy.injecting("throttled", "SendMessageBatch"):
            (delivery,) = consumer.receive(timeout=WITHIN)
            assert time.time() >= began + DELAY - 0.01
            assert delivery.attempt == 2, "the hop that was none counts as a delivery"
            delivery.ack()
            consumer.settle()
    assert "could not be sent on" in caplog.text


def test_the_delay_goes_on_in_another_consumer(url: str, broker: unimq.Broker, queue: unimq.Queue) -> None:
    with broker.producer(queue) as producer:
        began = time.time()
        producer.send(b"later", delay=DELAY)
    for _ in range(2):
        with broker.consumer(queue) as consumer:
            assert time.time() > began + DELAY or not consumer.receive(timeout=0.5)
    with broker.consumer(queue) as consumer:
        (delivery,) = consumer.receive(timeout=WITHIN)
        assert time.time() >= began + DELAY - 0.01
        delivery.ack()
        consumer.settle()
