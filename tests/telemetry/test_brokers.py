"""Telemetry on real brokers and an emulator: the trace goes through, the counts are exact, reconnects are seen."""

import os
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest
from unimq_contract.brokers import RunningTap, start
from unimq_contract.faults.proxy import FaultProxy

import unimq
from unimq import Delivery, Queue

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("prometheus_client")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from unimq.prometheus import Prometheus
from unimq.telemetry import OpenTelemetry

pytestmark = pytest.mark.slow

MESSAGES = 50


Take = Callable[[Callable[[], RunningTap]], RunningTap]


@pytest.fixture(params=["rabbitmq", "kafka", "sqs"])
def url(request: pytest.FixtureRequest, start_or_skip: Take) -> Iterator[str]:
    with start_or_skip(lambda: start(request.param)) as running:
        yield running.tap.url


@pytest.fixture
def rabbitmq(start_or_skip: Take) -> Iterator[str]:
    with start_or_skip(lambda: start("rabbitmq")) as running:
        yield running.tap.url


def test_a_trace_goes_through_the_broker_and_every_message_is_counted(url: str) -> None:
    exporter, registry = InMemorySpanExporter(), CollectorRegistry()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    queue = Queue(f"telemetry-{os.urandom(6).hex()}", max_deliveries=2)
    tracing = OpenTelemetry(measuring=False, tracer_provider=tracers)
    with (
        unimq.connect(url, middleware=[tracing, Prometheus([queue], registry=registry)]) as broker,
        broker.consumer(queue) as consumer,
        broker.producer(queue) as producer,
    ):
        producer.send_many([unimq.Message(b"x", id=f"m{number}") for number in range(MESSAGES)])
        done: set[str] = set()
        failed: list[str] = []

        def handle(delivery: Delivery) -> None:
            if delivery.id == "m7":
                failed.append(delivery.id)
                if len(failed) == 2 and len(done) == MESSAGES - 1:
                    consumer.stop()
                raise LookupError
            done.add(delivery.id)
            if len(failed) == 2 and len(done) == MESSAGES - 1:
                consumer.stop()

        consumer.run(handle, retry=unimq.Retry(base=0))
        backend = broker.capabilities.backend
        of = {"backend": backend, "broker": registry_broker(registry), "destination": queue.name}

        def value(name: str, **more: str) -> float | None:
            return registry.get_sample_value(f"unimq_{name}", {**of, **more})

        assert value("sent_messages_total", outcome="stored") == MESSAGES
        assert value("settled_messages_total", how="ack") == MESSAGES - 1
        assert value("settled_messages_total", how="dead") == 1
        assert value("handled_messages_total", outcome="failed") == 2
        assert value("redelivered_messages_total") == 1
        assert value("message_latency_seconds_count") == MESSAGES
        assert value("in_flight_messages") == 0
        assert value("queue_dead_letters") == 1
        broker.delete(queue, f"{queue.name}-dead")
    spans = exporter.get_finished_spans()
    sent = {
        attributes["messaging.message.id"]: span.context.span_id
        for span in spans
        if span.name.startswith("send ") and span.context is not None and (attributes := span.attributes or {})
    }
    handled = [
        (attributes["messaging.message.id"], span.parent.span_id)
        for span in spans
        if span.name.startswith("process ") and span.parent is not None and (attributes := span.attributes or {})
    ]
    assert len(sent) == MESSAGES
    assert len(handled) == MESSAGES + 1
    assert {parent == sent[message] for message, parent in handled} == {True}


def registry_broker(registry: CollectorRegistry) -> str:
    """Return the label of the only broker."""
    labels = {
        sample.labels["broker"]
        for family in registry.collect()
        if family.name == "unimq_reconnects"
        for sample in family.samples
    }
    (found,) = labels
    return found


def test_reconnects_of_rabbitmq_are_counted(rabbitmq: str) -> None:
    registry = CollectorRegistry()
    parts = urlsplit(rabbitmq)
    assert parts.hostname is not None
    assert parts.port is not None
    with FaultProxy((parts.hostname, parts.port)) as proxy:
        through = rabbitmq.replace(f":{parts.port}", f":{proxy.port}", 1)
        with unimq.connect(through, middleware=[Prometheus(registry=registry)]) as broker:
            broker.declare("q-reconnects")
            with broker.producer("q-reconnects") as producer, broker.consumer("q-reconnects") as consumer:
                producer.send(b"1")
                consumer.ack(consumer.receive(timeout=10))
                consumer.settle()
                proxy.cut()
                producer.send(b"2")
                deadline = time.monotonic() + 20
                again: list[Delivery] = []
                while not again and time.monotonic() < deadline:
                    again = consumer.receive(timeout=1)
                assert [delivery.body for delivery in again] == [b"2"]
                consumer.ack(again)
            broker.delete("q-reconnects", "q-reconnects-dead")
            labels = {"backend": "rabbitmq", "broker": registry_broker(registry)}
            assert registry.get_sample_value("unimq_reconnects_total", labels) == 2, "of both connections"
