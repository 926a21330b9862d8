"""Spans and metrics, as the SDK of OpenTelemetry gets them."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

import unimq
from unimq import Delivery, Queue

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import baggage, context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from unimq.telemetry import OpenTelemetry, context_of

URL = "memory://?private=true"


class Collected:
    """A telemetry, and what came of it."""

    def __init__(self, queues: Sequence[str | Queue] = ()) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.telemetry = OpenTelemetry(queues, tracer_provider=self.tracers, meter_provider=self.meters)

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def metrics(self) -> dict[str, list[tuple[dict[str, Any], float]]]:
        """Return, by name, attributes and value of each point; of histograms the count."""
        found: dict[str, list[tuple[dict[str, Any], float]]] = {}
        data = self.reader.get_metrics_data()
        for scope in data.resource_metrics[0].scope_metrics if data is not None else ():
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    value: Any = getattr(point, "value", None)
                    if value is None:
                        value = getattr(point, "count", None)
                    found.setdefault(metric.name, []).append((dict(point.attributes or {}), value))
        return found


@pytest.fixture
def collected() -> Collected:
    return Collected(["q"])


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def span_id(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def test_a_handler_continues_the_trace_of_the_send(collected: Collected) -> None:
    tracer = collected.tracers.get_tracer("test")
    with (
        unimq.connect(URL, middleware=[collected.telemetry]) as broker,
        broker.producer("q") as producer,
        broker.consumer("q") as consumer,
    ):
        with tracer.start_as_current_span("request"):
            receipt = producer.send(b"12345", correlation_id="c1")

        def handle(delivery: Delivery) -> None:
            with tracer.start_as_current_span("work"):
                consumer.stop()

        consumer.run(handle)
    (request,), (send,), (process,), (work,) = map(collected.spans, ("request", "send q", "process q", "work"))
    assert send.parent is not None
    assert process.parent is not None
    assert work.parent is not None
    assert send.parent.span_id == span_id(request)
    assert process.parent.span_id == span_id(send)
    assert work.parent.span_id == span_id(process)
    assert [link.context.span_id for link in process.links] == [span_id(send)]
    assert (send.kind, process.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    both = {
        "messaging.system": "memory",
        "messaging.destination.name": "q",
        "messaging.message.id": receipt.message_id,
        "messaging.message.body.size": 5,
        "messaging.message.conversation_id": "c1",
    }
    send_only = {"messaging.operation.name": "send", "messaging.operation.type": "send"}
    process_only = {"messaging.operation.name": "process", "messaging.operation.type": "process"}
    assert attributes_of(send) == both | send_only
    assert attributes_of(process) == both | process_only | {"unimq.delivery.attempt": 1}
    assert {send.status.status_code, process.status.status_code} == {StatusCode.UNSET}
    scope = send.instrumentation_scope
    assert scope is not None
    assert (scope.name, scope.schema_url) == ("unimq", "https://opentelemetry.io/schemas/1.37.0")


def test_a_batch_is_linked_to_each_of_its_messages(collected: Collected) -> None:
    with (
        unimq.connect(URL, middleware=[collected.telemetry]) as broker,
        broker.producer("q") as producer,
        broker.consumer("q") as consumer,
    ):
        producer.send_many([b"1", b"2", b"3"])
        consumer.run(lambda batch: consumer.stop(), batch=3)
    (process,) = collected.spans("process q")
    sends = collected.spans("send q")
    assert process.parent is None
    assert [link.context.span_id for link in process.links] == [span_id(send) for send in sends]
    assert len(sends) == 3
    assert attributes_of(process)["messaging.batch.message_count"] == 3
    assert "messaging.message.id" not in attributes_of(process)


def test_what_failed_is_an_error_of_its_span(collected: Collected) -> None:
    queue = Queue("q", max_length=1)
    with (
        unimq.connect(URL, middleware=[collected.telemetry]) as broker,
        broker.producer(queue) as producer,
    ):
        producer.send(b"1")
        with pytest.raises(unimq.QueueFull):
            producer.send(b"2")
        consumer = broker.consumer(queue)

        def handle(delivery: Delivery) -> None:
            consumer.stop()
            raise ValueError("no such order")

        consumer.run(handle, retry=unimq.Retry(attempts=1))
    _, refused = collected.spans("send q")
    (process,) = collected.spans("process q")
    assert refused.status.status_code is process.status.status_code is StatusCode.ERROR
    assert attributes_of(refused)["error.type"] == "QueueFull"
    assert attributes_of(process)["error.type"] == "ValueError"
    assert process.status.description == "no such order"
    assert [event.name for event in process.events] == ["exception"]


def test_baggage_goes_along_and_receivers_without_run_find_the_context(collected: Collected) -> None:
    tracer = collected.tracers.get_tracer("test")
    with (
        unimq.connect(URL, middleware=[collected.telemetry]) as broker,
        broker.producer("q") as producer,
        broker.consumer("q") as consumer,
    ):
        token = context.attach(baggage.set_baggage("tenant", "blue"))
        producer.send(b"1", headers={"mine": "kept", "traceparent": "old"})
        context.detach(token)
        (delivery,) = consumer.receive(timeout=1)
        sent_in = context_of(delivery)
        with tracer.start_as_current_span("work", context=sent_in):
            delivery.ack()
    (send,), (work,) = collected.spans("send q"), collected.spans("work")
    assert work.parent is not None
    assert work.parent.span_id == span_id(send)
    assert baggage.get_baggage("tenant", sent_in) == "blue"
    assert delivery.headers["mine"] == "kept"


def test_headers_that_are_bytes_or_nonsense_are_no_context(collected: Collected) -> None:
    with unimq.connect(URL) as broker, broker.producer("q") as producer, broker.consumer("q") as consumer:
        valid = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        producer.send(b"1", headers={"traceparent": valid})
        producer.send(b"2", headers={"traceparent": b"\xff\xfe"})
        first, second = consumer.receive(2, timeout=1)
        found = trace.get_current_span(context_of(first)).get_span_context()
        assert found.span_id == 0xB7AD6B7169203331
        assert not trace.get_current_span(context_of(second)).get_span_context().is_valid


def test_async_handlers_that_overlap_keep_their_own_spans(collected: Collected) -> None:
    tracer = collected.tracers.get_tracer("test")

    async def main() -> None:
        async with (
            unimq.connect_async(URL, middleware=[collected.telemetry]) as broker,
            broker.producer("q") as producer,
            broker.consumer("q") as consumer,
        ):
            await producer.send_many([b"1", b"2", b"3"])
            together = asyncio.Barrier(3)

            async def handle(delivery: Delivery) -> None:
                await together.wait()
                with tracer.start_as_current_span("work"):
                    await asyncio.sleep(0)
                consumer.stop()

            await consumer.run(handle, concurrency=3)

    asyncio.run(main())
    parents = [span.parent.span_id for span in collected.spans("work") if span.parent is not None]
    assert sorted(parents) == sorted(span_id(span) for span in collected.spans("process q"))
    assert len(set(parents)) == 3


def test_subscriptions_and_replies_are_named_as_the_conventions_say(collected: Collected) -> None:
    events = unimq.Topic("events")
    with unimq.connect(URL, middleware=[collected.telemetry]) as broker:
        audit = events.subscription("audit")
        broker.declare(audit)
        with broker.producer(events) as producer, broker.consumer(audit) as consumer:
            producer.send(b"1")
            consumer.run(lambda _: consumer.stop())
    (send,), (process,) = collected.spans("send events"), collected.spans("process events--audit")
    assert attributes_of(send)["messaging.destination.name"] == "events"
    assert attributes_of(process)["messaging.destination.name"] == "events"
    assert attributes_of(process)["messaging.destination.subscription.name"] == "audit"


def test_metrics_have_the_names_of_the_conventions(collected: Collected) -> None:
    queue = Queue("q", max_deliveries=2)
    with (
        unimq.connect(URL, middleware=[collected.telemetry]) as broker,
        broker.producer(queue) as producer,
        broker.consumer(queue) as consumer,
    ):
        producer.send_many([b"1", b"2"])

        def handle(delivery: Delivery) -> None:
            if delivery.attempt == 2:
                consumer.stop()
            if delivery.body == b"2":
                raise ValueError

        consumer.run(handle, retry=unimq.Retry(base=0))
        producer.send(b"3")
        found = collected.metrics()
    q = {"messaging.system": "memory", "messaging.destination.name": "q"}

    def operation(name: str) -> dict[str, str]:
        return {**q, "messaging.operation.name": name, "messaging.operation.type": name}

    def sorted_by_value(name: str) -> list[tuple[dict[str, Any], float]]:
        return sorted(found.pop(name), key=lambda point: (point[1], str(point[0])))

    assert sorted_by_value("messaging.client.sent.messages") == [(operation("send"), 3)]
    assert sorted_by_value("messaging.client.operation.duration") == [(operation("send"), 3)]
    assert sorted_by_value("messaging.client.consumed.messages") == [(operation("receive"), 3)]
    assert sorted_by_value("messaging.process.duration") == [
        (operation("process"), 1),
        (operation("process") | {"error.type": "ValueError"}, 2),
    ]
    assert sorted_by_value("unimq.redelivered.messages") == [(q, 1)]
    assert sorted_by_value("unimq.message.latency") == [(q, 2)]
    assert sorted_by_value("unimq.settled.messages") == [
        (q | {"unimq.settlement": how}, 1) for how in ("ack", "dead", "nack")
    ]
    assert sorted_by_value("unimq.in_flight.messages") == [(q, 1)]
    assert sorted_by_value("unimq.unconfirmed.messages") == [(q, 0)]
    assert sorted_by_value("unimq.reconnects") == [({"messaging.system": "memory"}, 0)]
    depths = {name.removeprefix("unimq.queue."): found.pop(name)[0][1] for name in list(found) if "queue" in name}
    assert depths == {"ready": 0, "in_flight": 1, "delayed": 0, "consumers": 1, "dead_letters": 1}
    assert found == {}


def test_either_half_can_be_left_out() -> None:
    exporter = InMemorySpanExporter()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    reader = InMemoryMetricReader()
    neither = OpenTelemetry(
        tracing=False, measuring=False, tracer_provider=tracers, meter_provider=MeterProvider([reader])
    )
    with unimq.connect(URL, middleware=[neither]) as broker, broker.producer("q") as producer:
        producer.send(b"1")
        assert broker._core.middleware == ()
    assert exporter.get_finished_spans() == ()
    assert reader.get_metrics_data() is None
