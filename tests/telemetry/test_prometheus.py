"""What Prometheus reads."""

import threading
from typing import Any

import pytest

import unimq
from unimq import Delivery, Queue

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from unimq.prometheus import Prometheus

URL = "memory://?private=true"
Samples = dict[tuple[str, str, str], float]


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def scrape(registry: CollectorRegistry) -> Samples:
    """Return what stands in the text, by name, destination and the label of the outcome."""
    found: Samples = {}
    names: list[str] = []
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        names.append(family.name)
        for sample in family.samples:
            if sample.name.endswith(("_bucket", "_created", "_sum")):
                continue
            outcome = sample.labels.get("outcome") or sample.labels.get("how") or ""
            found[sample.name.removeprefix("unimq_"), sample.labels.get("destination", ""), outcome] = sample.value
    assert len(names) == len(set(names))
    return found


def test_a_worker_is_counted_from_send_to_dead_letter(registry: CollectorRegistry) -> None:
    queue = Queue("orders", max_deliveries=2)
    with (
        unimq.connect(URL, middleware=[Prometheus(["orders"], registry=registry)]) as broker,
        broker.producer(queue) as producer,
        broker.consumer(queue) as consumer,
    ):
        producer.send_many([b"good", b"bad", b"good"])
        left = [4]

        def handle(delivery: Delivery) -> None:
            left[0] -= 1
            if not left[0]:
                consumer.stop()
            if delivery.body == b"bad":
                raise ValueError

        consumer.run(handle, retry=unimq.Retry(base=0))
        producer.send_many([b"waiting"] * 5)
        (held,) = consumer.receive(timeout=1)
        found = scrape(registry)
        held.ack()
    expected: Samples = {
        ("sent_messages_total", "orders", "stored"): 8,
        ("send_seconds_count", "orders", ""): 8,
        ("delivered_messages_total", "orders", ""): 5,
        ("redelivered_messages_total", "orders", ""): 1,
        ("message_latency_seconds_count", "orders", ""): 4,
        ("settled_messages_total", "orders", "ack"): 2,
        ("settled_messages_total", "orders", "nack"): 1,
        ("settled_messages_total", "orders", "dead"): 1,
        ("handled_messages_total", "orders", "done"): 2,
        ("handled_messages_total", "orders", "failed"): 2,
        ("handler_seconds_count", "orders", "done"): 2,
        ("handler_seconds_count", "orders", "failed"): 2,
        ("in_flight_messages", "orders", ""): 5,
        ("unconfirmed_messages", "orders", ""): 0,
        ("reconnects_total", "", ""): 0,
        ("queue_in_flight_messages", "orders", ""): 5,
        ("queue_ready_messages", "orders", ""): 0,
        ("queue_delayed_messages", "orders", ""): 0,
        ("queue_consumers", "orders", ""): 1,
        ("queue_dead_letters", "orders", ""): 1,
    }
    assert found == expected


def test_a_batch_is_one_call_and_as_many_messages(registry: CollectorRegistry) -> None:
    with (
        unimq.connect(URL, middleware=[Prometheus(registry=registry)]) as broker,
        broker.producer("q") as producer,
        broker.consumer("q") as consumer,
    ):
        producer.send_many([b"x"] * 30)
        consumer.run(lambda batch: consumer.stop(), batch=30)
    found = scrape(registry)
    assert found["handled_messages_total", "q", "done"] == 30
    assert found["handler_seconds_count", "q", "done"] == 1


def test_a_failed_send_is_counted_by_its_error(registry: CollectorRegistry) -> None:
    queue = Queue("q", max_length=1)
    with (
        unimq.connect(URL, middleware=[Prometheus(registry=registry)]) as broker,
        broker.producer(queue) as producer,
    ):
        producer.send_many([b"1", b"2"], return_errors=True)
    assert scrape(registry)["sent_messages_total", "q", "QueueFull"] == 1


def test_connections_of_one_registry_share_its_metrics(registry: CollectorRegistry) -> None:
    one, two = Prometheus(["a"], registry=registry), Prometheus(["b"], registry=registry)
    with unimq.connect("memory://", middleware=[one]) as first, unimq.connect("memory://", middleware=[two]) as second:
        for broker, name in ((first, "a"), (second, "b"), (second, "a")):
            with broker.producer(name) as producer:
                producer.send(b"1")
        found = scrape(registry)
        first.delete("a", "b")
    assert found["sent_messages_total", "a", "stored"] == 2
    assert found["sent_messages_total", "b", "stored"] == 1
    assert found["queue_ready_messages", "a", ""] == 2
    assert found["queue_ready_messages", "b", ""] == 1


def test_reply_queues_do_not_fill_the_registry(registry: CollectorRegistry) -> None:
    with (
        unimq.connect(URL, middleware=[Prometheus(registry=registry)]) as broker,
        broker.consumer("q") as consumer,
    ):

        def answer(delivery: Delivery) -> bytes:
            return delivery.body

        answering = threading.Thread(target=consumer.run, args=(answer,))
        answering.start()
        assert broker.request("q", b"1", timeout=10).body == b"1"
        consumer.stop()
        answering.join()
        found = scrape(registry)
    assert found["sent_messages_total", "(replies)", "stored"] == 1
    assert not [name for name in found if "unimq-reply" in name[1]]


def test_only_what_has_a_depth_can_be_shown(registry: CollectorRegistry) -> None:
    wrong: Any = [unimq.Topic("events")]
    with pytest.raises(unimq.ConfigError, match="have a depth, not Topic"):
        Prometheus(wrong, registry=registry)
    with pytest.raises(unimq.ConfigError, match="in brackets"):
        Prometheus("orders", registry=registry)
