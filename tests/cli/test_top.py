"""`unimq top`."""

import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import unimq
from unimq._cli._scraping import Counts, Look, percentile, rates_between
from unimq._cli._top import Watch

from .conftest import Command

pytest.importorskip("prometheus_client")

import prometheus_client

from unimq.prometheus import Prometheus


@pytest.fixture
def exporter() -> Iterator[tuple[prometheus_client.CollectorRegistry, str]]:
    """A registry, and where it is exported."""
    registry = prometheus_client.CollectorRegistry()
    server, thread = prometheus_client.start_http_server(0, addr="127.0.0.1", registry=registry)
    yield registry, f"http://127.0.0.1:{server.server_port}/metrics"
    server.shutdown()
    server.server_close()
    thread.join()


def send(broker: unimq.Broker, name: str, number: int) -> None:
    with broker.producer(name) as producer:
        producer.send_many([b"x"] * number)


def test_each_queue_has_a_line(command: Command, broker: unimq.Broker) -> None:
    send(broker, "orders", 1234)
    send(broker, "invoices", 1)
    lines = command("top", "orders", "invoices", "--times", "1").lines
    assert re.fullmatch(r"memory://\S+ · \d\d:\d\d:\d\d", lines[0])
    cells = [line.split() for line in lines if line.strip().startswith(("orders", "invoices"))]
    assert [line[:2] for line in cells] == [["orders", "1,234"], ["invoices", "1"]]


def test_without_names_all_of_the_configuration_are_shown(
    command: Command, broker: unimq.Broker, tmp_path: Path
) -> None:
    file = tmp_path / "unimq.toml"
    file.write_text("[queues.orders]\n[topics.events]\n[topics.events.subscriptions.audit]\n")
    broker.declare(unimq.Queue("orders"), unimq.Topic("events").subscription("audit"))
    found = command("top", "--config", str(file), "--times", "1", "--json").documents
    assert [line["source"] for line in found] == ["orders", "events--audit"]
    assert command("top", "--times", "1").code == 2


def test_growth_is_what_came_between_two_looks(broker: unimq.Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("unimq._cli._top.time.monotonic", lambda: now[0])
    broker.declare("orders")
    watch = Watch(broker, [unimq.Queue("orders")], None)

    def growth() -> float | None:
        (row,) = watch.screen().rows
        return row.growth

    assert growth() is None
    send(broker, "orders", 30)
    now[0] += 2
    assert growth() == 15
    broker.purge("orders")
    now[0] += 1
    assert growth() == -30


def test_what_cannot_be_seen_is_said_in_its_line_and_the_others_go_on(command: Command, broker: unimq.Broker) -> None:
    send(broker, "orders", 3)
    missing, orders = command("top", "nowhere", "orders", "--times", "1", "--json").documents
    assert missing["error"].startswith("NotFound: queue 'nowhere' does not exist")
    assert missing["ready"] is None
    assert (orders["ready"], orders["error"]) == (3, None)


def test_workers_are_seen_by_their_metrics(
    command: Command, url: str, exporter: tuple[prometheus_client.CollectorRegistry, str]
) -> None:
    registry, where = exporter
    queue = unimq.Queue("orders", max_deliveries=2)
    with unimq.connect(url, middleware=[Prometheus(registry=registry)]) as broker, broker.consumer(queue) as consumer:
        send(broker, "orders", 10)
        handled = [0]

        def handle(delivery: unimq.Delivery) -> None:
            handled[0] += 1
            if handled[0] == 11:
                consumer.stop()
            if delivery.attempt == 1 and handled[0] == 1:
                raise ValueError

        consumer.run(handle, retry=unimq.Retry(base=0))
        first, second = command(
            "top", "orders", "--metrics", where, "--times", "2", "--interval", "0.05", "--json"
        ).documents
    assert first["workers"] == second["workers"] | {"sent": 0.0}
    assert first["workers"]["in_flight"] == 0
    assert first["reconnects"] == 0
    assert first["error"] is None


def test_rates_are_differences_and_a_restart_is_no_negative_one() -> None:
    before = Look(10.0, {"q": Counts(sent=100, done=50, redelivered=5, dead=1)}, 0)
    now = Look(12.0, {"q": Counts(sent=300, done=20, redelivered=5, dead=2, in_flight=7)}, 0)
    found = rates_between(before, now)["q"]
    assert (found.sent, found.done, found.redelivered, found.dead, found.in_flight) == (100, 10, 0, 0.5, 7)
    assert found.latency_p50 is None


def test_percentiles_are_of_what_came_between() -> None:
    before = Look(0.0, {"q": Counts(latency={0.1: 1000, 1.0: 1000, math.inf: 1000})}, 0)
    now = Look(1.0, {"q": Counts(latency={0.1: 1000, 1.0: 1090, math.inf: 1100})}, 0)
    found = rates_between(before, now)["q"]
    assert found.latency_p50 == pytest.approx(0.1 + 0.9 * 50 / 90)
    assert found.latency_p99 == 1.0, "beyond the last bound nothing is known"
    assert percentile({}, 0.5) is None


def test_a_terminal_sees_it_live(
    command: Command, broker: unimq.Broker, exporter: tuple[prometheus_client.CollectorRegistry, str]
) -> None:
    send(broker, "orders", 1234)
    done = command("top", "orders", "--metrics", exporter[1], "--times", "3", "--interval", "0.01", terminal=True)
    assert (done.code, done.err) == (0, "")
    shown = done.out.decode()
    assert shown.count("Ctrl-C ends") >= 3
    assert "0 reconnects" in shown
    assert "1,234" in shown


def test_an_endpoint_that_does_not_answer_is_said_and_the_queues_are_shown(
    command: Command, broker: unimq.Broker
) -> None:
    send(broker, "orders", 1)
    (line,) = command(
        "top", "orders", "--metrics", "http://u:secret@127.0.0.1:9/metrics", "--times", "1", "--json"
    ).documents
    assert line["ready"] == 1
    assert line["error"].startswith("no metrics from 127.0.0.1:9: ")
    assert "secret" not in line["error"]
