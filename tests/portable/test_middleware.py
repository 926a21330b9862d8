"""Middleware: when each hook is called, and what its failure changes."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import unimq
from unimq import ConfigError, InvalidMessage, LeaseLost, Message, Middleware, Nack, Queue, SendRejected

if TYPE_CHECKING:
    from collections.abc import Callable


class Trace:
    """Writes down every call of every hook."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    @property
    def middleware(self) -> Middleware:
        return Middleware(
            publish=self._publish,
            published=lambda message, target, outcome: self._note("published", message.body, target, type(outcome)),
            deliver=self._deliver,
            settled=lambda delivery, how: self._note("settled", delivery.body, how),
        )

    def _note(self, *call: object) -> None:
        self.calls.append(call)

    def _publish(self, message: Message, target: str) -> Message:
        self._note("publish", message.body, target)
        return message

    def _deliver(self, delivery: unimq.Delivery[Any]) -> bool:
        self._note("deliver", delivery.body, delivery.attempt)
        return True


def test_hooks_are_called_in_the_order_of_a_message() -> None:
    trace = Trace()
    with (
        unimq.connect("memory://?private=true", middleware=[trace.middleware]) as broker,
        broker.consumer(Queue("q", max_deliveries=2)) as consumer,
        broker.producer("q") as producer,
    ):
        producer.send(b"a")
        consumer.receive()[0].nack()
        consumer.receive()[0].nack()
        producer.send_many([b"b"])
        consumer.ack(consumer.receive())
        producer.enqueue(b"c")
        consumer.receive()[0].ack()
        producer.send(b"d")
        consumer.receive()
    sent = [[("publish", x, "q"), ("published", x, "q", unimq.Receipt)] for x in (b"a", b"b", b"c", b"d")]
    assert trace.calls == [
        *sent[0],
        *[("deliver", b"a", 1), ("settled", b"a", "nack"), ("deliver", b"a", 2), ("settled", b"a", "dead")],
        *sent[1],
        *[("deliver", b"b", 1), ("settled", b"b", "ack")],
        *sent[2],
        *[("deliver", b"c", 1), ("settled", b"c", "ack")],
        *sent[3],
        *[("deliver", b"d", 1), ("settled", b"d", "lost")],
    ]


def test_those_of_the_connection_come_before_the_own_ones() -> None:
    def adding(letter: bytes) -> Middleware:
        return Middleware(publish=lambda message, _: Message(message.body + letter))

    with (
        unimq.connect("memory://?private=true", middleware=[adding(b"1")]) as broker,
        broker.producer("q", middleware=[adding(b"2")]) as producer,
        broker.consumer("q") as consumer,
    ):
        receipt = producer.send(b"0")
        (got,) = consumer.receive()
        assert got.body == b"012"
        assert got.id == receipt.message_id


def test_what_middleware_makes_is_checked_like_what_a_user_sends() -> None:
    """S4."""
    wrong: Any = {"x": 1}
    hook = Middleware(publish=lambda message, _: Message(message.body, headers=wrong))
    with (
        unimq.connect("memory://?private=true", middleware=[hook]) as broker,
        broker.producer("q") as producer,
        pytest.raises(InvalidMessage, match="'x' must be str or bytes"),
    ):
        producer.send(b"")


def test_an_exception_of_publish_refuses_that_message_only() -> None:
    """S3."""

    def refuse(message: Message, _target: str) -> Message:
        if message.body == b"bad":
            raise ValueError("not today")
        return message

    with (
        unimq.connect("memory://?private=true", middleware=[Middleware(publish=refuse)]) as broker,
        broker.producer("q") as producer,
        broker.consumer("q") as consumer,
    ):
        with pytest.raises(SendRejected, match="not today") as refused:
            producer.send(b"bad")
        assert isinstance(refused.value.__cause__, ValueError)
        outcomes = producer.send_many([b"bad", b"good"], return_errors=True)
        assert [type(each) for each in outcomes] == [SendRejected, unimq.Receipt]
        assert [each.body for each in consumer.receive(10)] == [b"good"]


def test_a_deliver_hook_may_settle_and_withhold() -> None:
    def withhold(delivery: unimq.Delivery[Any]) -> bool:
        if delivery.body == b"seen":
            delivery.ack()
            return False
        return True

    with (
        unimq.connect("memory://?private=true") as broker,
        broker.producer("q") as producer,
    ):
        producer.send_many([b"seen", b"new"])
        with broker.consumer("q", middleware=[Middleware(deliver=withhold)]) as consumer:
            (got,) = consumer.receive(10)
            assert got.body == b"new"
            got.ack()
            assert broker.stats("q").in_flight == 0


def _raise(*_: object) -> Any:
    raise RuntimeError("broken hook")


@pytest.mark.parametrize("hook", ["published", "deliver", "settled"])
def test_a_broken_hook_is_logged_and_changes_nothing(hook: str, caplog: pytest.LogCaptureFixture) -> None:
    hooks: dict[str, Callable[..., Any]] = {hook: _raise}
    with (
        unimq.connect("memory://?private=true", middleware=[Middleware(**hooks)]) as broker,
        broker.producer("q") as producer,
        broker.consumer("q") as consumer,
    ):
        with caplog.at_level(logging.ERROR, "unimq"):
            producer.send(b"x")
            consumer.receive()[0].ack()
        assert "broken hook" in caplog.text
        assert broker.stats("q").in_flight == broker.stats("q").ready == 0


def test_outcomes_that_a_driver_reports_later_reach_the_hook_once(driver: Any) -> None:
    outcomes: list[object] = []
    hook = Middleware(published=lambda message, _target, outcome: outcomes.append((message.body, outcome)))
    with unimq.connect("manual://", middleware=[hook]) as broker:
        producer = broker.producer("q")
        producer.enqueue(b"1")
        producer.enqueue(b"2", on_outcome=lambda _: None)
        (sender,) = driver.senders
        error = unimq.Unroutable("no")
        sender.sink.stored(sender.submitted[:1])
        sender.sink.failed(sender.submitted, error)
        first, second = outcomes
        assert first == (b"1", unimq.Receipt(sender.submitted[0].message.id, None)) or isinstance(first, tuple)
        assert second == (b"2", error)
        assert len(outcomes) == 2


def test_a_settlement_that_is_refused_reaches_no_hook() -> None:
    """A6."""
    trace = Trace()
    with (
        unimq.connect("memory://?private=true", middleware=[trace.middleware]) as broker,
        broker.producer("q") as producer,
    ):
        producer.send(b"x")
        consumer = broker.consumer("q")
        (got,) = consumer.receive()
        consumer.close()
        before = list(trace.calls)
        assert before[-1] == ("settled", b"x", "lost")
        with pytest.raises(LeaseLost):
            got.ack()
        assert trace.calls == before


@pytest.mark.parametrize("wrong", [[object()], Middleware()])
def test_what_is_no_middleware_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"middleware must be"):
        unimq.connect("memory://?private=true", middleware=wrong)


def test_decisions_check_their_values() -> None:
    with pytest.raises(ConfigError, match="delay must be at least 0"):
        Nack(-1)


def test_the_documentation_shows_what_happens() -> None:
    document = (Path(__file__).parents[2] / "docs" / "middleware.md").read_text(encoding="utf-8")
    _, program, rest = document.split("```", 2)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program.removeprefix("python\n")],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"It prints `{done.stdout.strip()}`." in rest
