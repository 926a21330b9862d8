"""What is counted against what went over the wire: a proxy that understands HTTP stands before the emulator."""

import http.client
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qs, urlsplit

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from prometheus_client import CollectorRegistry
from unimq_contract.brokers import RunningTap, sqs
from unimq_sqs._counting import CHUNK, RequestCounts

import unimq
from unimq.adapter import RequestCount
from unimq.prometheus import Prometheus
from unimq.telemetry import OpenTelemetry

if TYPE_CHECKING:
    from unimq_sqs import Clients

WITHIN = 60.0


class Witness:
    """Passes requests on to an emulator, and keeps by action what it saw."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.lock = threading.Lock()
        self.seen: dict[str, Counter[str]] = {}
        witness = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                target = self.headers.get("X-Amz-Target")
                action = f"SQS.{target.rpartition('.')[2]}" if target else f"SNS.{parse_qs(body.decode())['Action'][0]}"
                upstream = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=WITHIN)
                upstream.request("POST", self.path, body, dict(self.headers.items()))
                answer = upstream.getresponse()
                data = answer.read()
                upstream.close()
                with witness.lock:
                    seen = witness.seen.setdefault(action, Counter())
                    seen.update(requests=1, bytes_sent=len(body), bytes_received=len(data))
                    seen["empty"] += action == "SQS.ReceiveMessage" and b'"Messages": [{' not in data
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in {"content-length", "transfer-encoding", "connection", "date", "server"}:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.listener.daemon_threads = True
        self.url = f"sqs+http://test:test@127.0.0.1:{self.listener.server_port}/?region=us-east-1&wait=1"
        threading.Thread(target=self.listener.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.listener.shutdown()
        self.listener.server_close()


@pytest.fixture(scope="module")
def emulator(start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap]) -> Iterator[RunningTap]:
    with start_or_skip(sqs.start) as running:
        yield running


@pytest.fixture
def witness(emulator: RunningTap) -> Iterator[Witness]:
    found = Witness(emulator.tap.url)
    yield found
    found.close()


@pytest.mark.parametrize("http", ["botocore", "fast"])
def test_every_request_is_counted_once(http: str, witness: Witness) -> None:
    broker = unimq.connect(f"{witness.url}&http={http}")
    topic = unimq.Topic("counted-topic")
    broker.declare("counted", topic.subscription("s"))
    with broker.producer("counted") as producer, broker.producer(topic) as publisher:
        assert all(isinstance(one, unimq.Receipt) for one in producer.send_many([b"x" * 100] * 25))
        publisher.send(b"to the topic")
    with broker.consumer("counted", prefetch=50) as consumer:
        received = 0
        while received < 25:
            deliveries = consumer.receive(25, WITHIN)
            assert deliveries
            received += len(deliveries)
            deliveries[0].extend(30)
            consumer.ack(deliveries)
        consumer.settle(WITHIN)
        # At least one poll that finds nothing.
        assert not consumer.receive(1, 1.2)
    broker.delete("counted", "counted-dead", topic)
    counted = cast("Clients", broker.native).requests()
    broker.close()
    assert {
        action: {
            "requests": count.requests,
            "bytes_sent": count.bytes_sent,
            "bytes_received": count.bytes_received,
            "empty": count.empty,
        }
        for action, count in counted.items()
    } == {action: {"empty": 0, **seen} for action, seen in witness.seen.items()}
    assert counted["SQS.SendMessageBatch"].requests == 3
    assert counted["SQS.ReceiveMessage"].empty >= 1
    assert counted["SNS.PublishBatch"].requests == 1
    assert all(count.billed == count.requests for count in counted.values()), "nothing was above 64 KiB"


def test_telemetry_shows_the_counts(witness: Witness) -> None:
    registry, reader = CollectorRegistry(), InMemoryMetricReader()
    otel = OpenTelemetry(tracing=False, meter_provider=MeterProvider([reader]))
    with unimq.connect(witness.url, middleware=[Prometheus(registry=registry), otel]) as broker:
        broker.declare("seen")
        with broker.producer("seen") as producer:
            producer.send_many([b"x"] * 30)
        counted = cast("Clients", broker.native).requests()["SQS.SendMessageBatch"]
        collected = reader.get_metrics_data()
        labels = {"backend": "sqs", "broker": urlsplit(witness.url).netloc.rpartition("@")[2]}
        shown = {
            name: registry.get_sample_value(f"unimq_service_{name}_total", {**labels, "action": "SQS.SendMessageBatch"})
            for name in ("requests", "billed_requests", "sent_bytes", "received_bytes", "empty_requests")
        }
        broker.delete("seen", "seen-dead")
    assert list(shown.values()) == list(counted)
    assert counted.requests == 3
    assert collected is not None
    metrics = [
        metric
        for resource in collected.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name.startswith("unimq.service.")
    ]
    values = {
        metric.name.removeprefix("unimq.service."): point.value
        for metric in metrics
        for point in metric.data.data_points
        if isinstance(point, NumberDataPoint)
        and (point.attributes or {})["unimq.action"] == "SQS.SendMessageBatch"
        and (point.attributes or {})["messaging.system"] == "aws_sqs"
    }
    assert values == dict(
        zip(("requests", "billed_requests", "sent", "received", "empty_requests"), counted, strict=True)
    )


def test_each_started_64_kib_is_billed_once() -> None:
    counts = RequestCounts()
    for sent, received in [(0, 0), (CHUNK, CHUNK), (CHUNK + 1, 0), (0, CHUNK + 1), (3 * CHUNK, 10)]:
        counts.sent("a", sent)
        counts.answered("a", received)
    counts.sent("a", 5)
    assert counts.by_action() == {
        "a": RequestCount(6, 1 + 1 + 2 + 2 + 3 + 1, 5 * CHUNK + 6, 2 * CHUNK + 11, 0),
    }
