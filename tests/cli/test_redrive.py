"""`unimq redrive`."""

import os
import signal
import threading

import pytest

import unimq

from .conftest import Command


def bury(broker: unimq.Broker, source: unimq.Queue | unimq.Subscription, reasons: list[str]) -> None:
    """Make one dead letter per reason."""
    with broker.consumer(source) as consumer:
        with broker.producer(source if isinstance(source, unimq.Queue) else source.topic) as producer:
            producer.send_many([reason.encode() for reason in reasons])
        for delivery in consumer.receive(len(reasons), timeout=5):
            delivery.reject(delivery.body.decode())
        consumer.settle()


def test_dead_letters_return_and_are_listed_by_reason(command: Command, broker: unimq.Broker) -> None:
    bury(broker, unimq.Queue("orders"), ["no stock", "bad address", "no stock"])
    lines = command("redrive", "orders").lines
    assert lines[0] == "orders: 3 moved, 0 skipped, 0 failed, 0 remaining"
    assert [line.split() for line in lines if line.endswith(("1", "2"))] == [
        ["no", "stock", "2"],
        ["bad", "address", "1"],
    ]
    stats = broker.stats("orders")
    assert (stats.ready, stats.dead_letters) == (3, 0)


def test_json_has_all_figures(command: Command, broker: unimq.Broker) -> None:
    bury(broker, unimq.Queue("orders"), ["no stock", "bad address", "no stock"])
    (document,) = command("redrive", "orders", "--reason", "no stock", "--limit", "1", "--json").documents
    assert document == {
        "source": "orders",
        "moved": 1,
        "skipped": 0,
        "failed": 0,
        "remaining": 2,
        "reasons": {"no stock": 1},
        "complete": False,
        "dry_run": False,
        "error": None,
    }


def test_a_dry_run_leaves_everything(command: Command, broker: unimq.Broker) -> None:
    bury(broker, unimq.Queue("orders"), ["no stock", "bad address"])
    assert (
        command("redrive", "orders", "--dry-run").lines[0] == "orders: 2 would move, 0 skipped, 0 failed, 2 remaining"
    )
    assert broker.stats("orders").dead_letters == 2


@pytest.mark.parametrize("words", [("events--audit",), ("events", "--subscription", "audit")])
def test_a_subscription_is_named_in_both_ways(command: Command, broker: unimq.Broker, words: tuple[str, ...]) -> None:
    topic = unimq.Topic("events")
    audit, stock = topic.subscription("audit"), topic.subscription("stock")
    broker.declare(audit, stock)
    bury(broker, audit, ["unaudited"])
    assert command("redrive", *words).lines[0] == "events--audit: 1 moved, 0 skipped, 0 failed, 0 remaining"
    assert (broker.stats(audit).ready, broker.stats(stock).ready) == (1, 1)


def test_what_cannot_be_sent_is_an_error(command: Command, broker: unimq.Broker) -> None:
    queue = unimq.Queue("orders", max_length=1)
    bury(broker, queue, ["one"])
    with broker.producer(queue) as producer:
        producer.send(b"full")
    result = command("redrive", "orders")
    assert result.code == 1
    assert result.out.startswith(b"orders: 0 moved, 0 skipped, 1 failed, 1 remaining\n")
    assert result.err.startswith("error: 1 could not be sent; the first: QueueFull: ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["missing"], "error: queue 'missing' does not exist"),
        (["orders-dead"], "error: 'orders-dead' has no dead-letter queue"),
        (["orders", "--limit", "0"], "error: limit must be a whole number"),
        (["orders", "--rate", "0"], "error: the rate must be"),
        (["orders", "--timeout", "0"], "error: timeout must be"),
    ],
)
def test_what_is_wrong_is_told(command: Command, words: list[str], said: str) -> None:
    result = command("redrive", *words)
    assert (result.code, result.out) == (1, b"")
    assert said in result.err


def test_a_terminal_sees_the_progress(command: Command, broker: unimq.Broker) -> None:
    bury(broker, unimq.Queue("orders"), ["no stock"] * 3)
    result = command("redrive", "orders", terminal=True)
    assert result.code == 0
    assert "3 moved" in result.err


def test_an_interrupt_tells_the_figures_and_loses_nothing(command: Command, broker: unimq.Broker) -> None:
    bury(broker, unimq.Queue("orders"), ["no stock"] * 20)

    def interrupt_after_the_first() -> None:
        with broker.consumer("orders") as consumer:
            received = consumer.receive(1, timeout=10)
            os.kill(os.getpid(), signal.SIGINT)
            consumer.ack(received)
            consumer.settle()

    interrupting = threading.Thread(target=interrupt_after_the_first)
    interrupting.start()
    result = command("redrive", "orders", "--rate", "4")
    interrupting.join()
    assert result.code == 130
    assert "interrupted: " in result.err
    assert "start it again" in result.err
    assert broker.redrive("orders").complete
    stats = broker.stats("orders")
    assert (stats.ready, stats.dead_letters) == (19, 0)
