"""The send window, outcomes and flushes of the portable layer, against a driver whose outcomes the test gives."""

# What the tests hand around as `Any` and as lambdas is theirs alone; mypy checks it strictly all the same.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

import unimq
from unimq import BufferFull, Closed, Message, NotFound, Receipt, SendRejected, SendUnknown, Unsupported


@pytest.fixture
def broker(driver: Any) -> Iterator[Any]:
    with unimq.connect("manual://") as broker:
        yield broker


def in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Run a call that waits; its result or exception is appended to the list."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


def when_submitted(driver: Any, number: int = 1) -> threading.Event:
    """Return an event that is set once the newest sender has that many entries."""
    sender, event = driver.senders[-1], threading.Event()

    def look(_: object) -> None:
        if len(sender.submitted) >= number:
            event.set()

    sender.on_submit = look
    look(None)
    return event


def test_send_returns_only_with_the_outcome(broker: unimq.Broker, driver: Any) -> None:
    """S1."""
    producer = broker.producer("orders")
    submitted = when_submitted(driver)
    thread, results = in_thread(lambda: producer.send(b"x", message_id="m1"))
    assert submitted.wait(5)
    assert results == []
    entry = driver.senders[-1].submitted[0]
    entry.position = 42
    driver.senders[-1].sink.stored((entry,))
    thread.join(5)
    assert results == [Receipt("m1", 42)]


def test_send_raises_the_error_of_its_own_message(broker: unimq.Broker, driver: Any) -> None:
    """S2, S3: one error object of the driver may stand for many messages."""
    producer = broker.producer("orders")
    shared = SendRejected("refused")
    driver.senders[-1].on_submit = lambda entries: driver.senders[-1].sink.failed(entries, shared)
    errors = []
    for name in ("m1", "m2"):
        with pytest.raises(SendRejected, match="refused") as caught:
            producer.send(b"x", message_id=name)
        errors.append(caught.value)
    assert [error.message_id for error in errors] == ["m1", "m2"]
    assert shared.message_id == ""


def test_send_without_an_outcome_is_unknown(broker: unimq.Broker, driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """S2: a driver that never answers does not hang its caller."""
    monkeypatch.setattr("unimq._sync.GRACE", 0.01)
    producer = broker.producer("orders", timeout=0.01)
    with pytest.raises(SendUnknown, match="may be stored"):
        producer.send(b"x")
    driver.senders[-1].sink.stored(driver.senders[-1].submitted)  # Late: ignored, but the window is free again.
    driver.senders[-1].on_submit = driver.senders[-1].sink.stored
    assert producer.send(b"y", message_id="m2") == Receipt("m2", None)


@pytest.mark.parametrize(("window", "window_bytes"), [(2, 1000), (1000, 20)])
def test_a_full_window_blocks_then_raises(broker: unimq.Broker, driver: Any, window: Any, window_bytes: Any) -> None:
    """S5: in messages and in bytes."""
    producer = broker.producer("orders", timeout=0.02, window=window, window_bytes=window_bytes)
    producer.enqueue(b"0123456789")
    producer.enqueue(b"0123456789")
    with pytest.raises(BufferFull, match=r"2 messages \(20 bytes\)"):
        producer.enqueue(b"x")
    assert len(driver.senders[-1].submitted) == 2
    driver.senders[-1].sink.stored(driver.senders[-1].submitted)
    producer.enqueue(b"x")
    driver.senders[-1].sink.stored(driver.senders[-1].submitted[2:])
    producer.close()


def test_room_wakes_a_blocked_enqueue(broker: unimq.Broker, driver: Any) -> None:
    """S5."""
    producer = broker.producer("orders", window=1)
    producer.enqueue(b"1")
    submitted = when_submitted(driver, 2)
    thread, results = in_thread(lambda: producer.enqueue(b"2", message_id="m2"))
    assert not submitted.is_set()
    driver.senders[-1].sink.stored(driver.senders[-1].submitted[:1])
    thread.join(5)
    assert results == ["m2"]
    driver.senders[-1].sink.stored(driver.senders[-1].submitted[1:])
    producer.close()


class Interrupted(list[Any]):
    """Outcomes whose delivery a signal's handler ends after the first."""

    def __iter__(self) -> Iterator[Any]:
        yield self[0]
        raise KeyboardInterrupt


def test_an_interrupt_among_outcomes_loses_no_room_and_no_waiter(broker: unimq.Broker, driver: Any) -> None:
    """S5, S6: a waiting caller may bring outcomes itself, and where it is interrupted they are brought again."""
    producer = broker.producer("orders", timeout=0.02, window=2)
    outcomes: list[object] = []
    producer.enqueue(b"1", on_outcome=outcomes.append)
    producer.enqueue(b"2")
    sender = driver.senders[-1]
    with pytest.raises(KeyboardInterrupt):
        sender.sink.stored(Interrupted(sender.submitted))
    assert [type(outcome) for outcome in outcomes] == [Receipt]
    sender.sink.stored(sender.submitted)
    assert len(outcomes) == 1
    producer.flush()
    producer.enqueue(b"3")
    producer.enqueue(b"4")
    with pytest.raises(BufferFull, match="2 messages"):
        producer.enqueue(b"5")
    sender.sink.stored(sender.submitted[2:])
    producer.close()


def test_a_message_larger_than_the_window_goes_alone(broker: unimq.Broker, driver: Any) -> None:
    """S5: it must not wait for ever."""
    producer = broker.producer("orders", window_bytes=10)
    driver.senders[-1].on_submit = driver.senders[-1].sink.stored
    producer.send(b"x" * 1000)
    assert len(driver.senders[-1].submitted) == 1


def test_flush_waits_for_what_was_enqueued_before_it_and_raises_failures(broker: unimq.Broker, driver: Any) -> None:
    """S6."""
    producer = broker.producer("orders")
    sender = driver.senders[-1]
    for name in ("m1", "m2", "m3"):
        producer.enqueue(b"x", message_id=name)
    thread, results = in_thread(producer.flush)
    sender.sink.stored(sender.submitted[:1])
    sender.sink.failed(sender.submitted[1:2], SendRejected("refused"))
    assert results == []
    producer.enqueue(b"later")  # Belongs to the next flush.
    sender.sink.stored(sender.submitted[2:3])
    thread.join(5)
    (error,) = results
    assert isinstance(error, SendRejected)
    assert [getattr(outcome, "message_id", "") for outcome in error.outcomes] == ["m2"]
    assert sender.flushes == 1
    sender.sink.stored(sender.submitted[3:])
    producer.flush()


def test_flush_that_runs_out_of_time_says_how_many_are_missing(broker: unimq.Broker, driver: Any) -> None:
    """S6."""
    producer = broker.producer("orders")
    producer.enqueue(b"x")
    producer.enqueue(b"y")
    with pytest.raises(SendUnknown, match="2 messages to 'orders' have no outcome yet"):
        producer.flush(timeout=0.01)
    driver.senders[-1].sink.stored(driver.senders[-1].submitted)
    producer.close()


def test_close_reports_failures_that_nobody_was_told_of(broker: unimq.Broker, driver: Any) -> None:
    """S6, L1."""
    producer = broker.producer("orders")
    producer.enqueue(b"x", message_id="m1")
    driver.senders[-1].sink.failed(driver.senders[-1].submitted, SendUnknown("lost"))
    with pytest.raises(SendUnknown) as caught:
        producer.close()
    assert [getattr(outcome, "message_id", "") for outcome in caught.value.outcomes] == ["m1"]
    producer.close()
    assert driver.senders[-1].closed == 1
    with pytest.raises(Closed, match="orders"):
        producer.send(b"x")


def test_a_failing_close_does_not_hide_the_error_of_the_block(broker: unimq.Broker, driver: Any) -> None:
    def block() -> None:
        with broker.producer("orders") as producer:
            producer.enqueue(b"x")
            driver.senders[-1].sink.failed(driver.senders[-1].submitted, SendUnknown("lost"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        block()
    assert any("SendUnknown" in note for note in caught.value.__notes__)


def test_callbacks_get_each_outcome_and_may_fail(
    broker: unimq.Broker, driver: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """S6: what a callback was told is not raised again; a faulty callback is reported and harms nobody."""
    producer = broker.producer("orders")
    outcomes: list[object] = []

    def faulty(_: object) -> None:
        raise ValueError("fault of the user")

    producer.enqueue(b"x", message_id="m1", on_outcome=outcomes.append)
    producer.enqueue(b"x", message_id="m2", on_outcome=outcomes.append)
    producer.enqueue(b"x", message_id="m3", on_outcome=faulty)
    sender = driver.senders[-1]
    sender.sink.stored(sender.submitted[:1])
    with caplog.at_level(logging.ERROR, "unimq"):
        sender.sink.failed(sender.submitted[1:], SendRejected("refused"))
    producer.flush()
    assert outcomes[0] == Receipt("m1", None)
    assert isinstance(outcomes[1], SendRejected)
    assert "m3" in caplog.text


def test_send_many_gives_each_message_its_own_outcome(broker: unimq.Broker, driver: Any) -> None:
    """S3: also when some are wrong before anything is sent."""
    producer = broker.producer("orders")
    sender = driver.senders[-1]

    def answer(entries: Any) -> None:
        good = [entry for entry in entries if entry.message.body != b"bad"]
        sender.sink.stored(good)
        sender.sink.failed([entry for entry in entries if entry not in good], NotFound("gone"))

    sender.on_submit = answer
    messages = [
        Message(b"1", id="m1"),
        Message(b"bad", id="m2"),
        Message(cast("bytes", "text"), id="m3"),
        Message(b"4", id="m4"),
    ]
    outcomes = producer.send_many(messages, return_errors=True)
    assert [type(outcome).__name__ for outcome in outcomes] == ["Receipt", "NotFound", "InvalidMessage", "Receipt"]
    with pytest.raises(SendRejected, match="2 of 4 messages failed") as caught:
        producer.send_many(messages)
    assert [type(outcome).__name__ for outcome in caught.value.outcomes] == [type(o).__name__ for o in outcomes]
    assert producer.send_many([]) == []


def test_send_many_goes_out_in_parts_that_fit_the_window(broker: unimq.Broker, driver: Any) -> None:
    """S5."""
    producer = broker.producer("orders", window=3, window_bytes=25)
    parts: list[int] = []

    def answer(entries: list[Any]) -> None:
        parts.append(len(entries))
        driver.senders[-1].sink.stored(entries)

    driver.senders[-1].on_submit = answer
    producer.send_many([b"0123456789"] * 5 + [b""] * 4)
    assert parts == [2, 2, 3, 2]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"delay": 61}, "longest is 60 s"),
        ({"delay": -1}, "delay must be at least 0 seconds"),
        ({"ttl": 0}, "ttl must be more than 0 seconds"),
        ({"delay": float("nan")}, "delay"),
        ({"key": 7}, "key must be str or None, not int"),
        ({"key": "\ud800"}, "key is not valid Unicode"),
        ({"headers": {"a": 1}}, "header 'a' must be str or bytes, not int"),
        ({"headers": {1: "a"}}, "header names must be non-empty str"),
        ({"headers": {"": "a"}}, "header names must be non-empty str"),
        ({"headers": [("a", "b")]}, "headers must be a mapping, not list"),
        ({"headers": {"unimq-id": "a"}}, "reserved"),
        ({"content_type": b"x"}, "content_type must be str or None, not bytes"),
        ({"message_id": 5}, "id must be str"),
    ],
)
def test_wrong_messages_raise_before_anything_is_sent(
    broker: unimq.Broker, driver: Any, arguments: Any, what: Any
) -> None:
    """S4."""
    producer = broker.producer("orders")
    with pytest.raises((unimq.InvalidMessage, Unsupported), match=what):
        producer.send(b"x", **arguments)
    assert driver.senders[-1].submitted == []


@pytest.mark.parametrize("body", ["text", None, 5, ["list"]])
def test_wrong_bodies_raise(broker: unimq.Broker, body: Any) -> None:
    """S4."""
    with pytest.raises(unimq.InvalidMessage, match=f"body must be bytes, not {type(body).__name__}"):
        broker.producer("orders").send(body)


def test_a_message_takes_no_further_arguments(broker: unimq.Broker) -> None:
    """An option that nobody reads is an error."""
    with pytest.raises(unimq.InvalidMessage, match="carries all of its fields"):
        broker.producer("orders").send(Message(b"x"), key="k")


def test_later_changes_do_not_reach_what_was_sent(broker: unimq.Broker, driver: Any) -> None:
    """S7."""
    body, headers = bytearray(b"before"), {"a": "before"}
    message = Message(b"m", headers=headers)
    producer = broker.producer("orders")
    producer.enqueue(body, headers=headers)
    producer.enqueue(message)
    body[:] = b"after!"
    headers["a"] = "after"
    message.body = b"after"
    sent = [entry.message for entry in driver.senders[-1].submitted]
    assert [(each.body, dict(each.headers)) for each in sent] == [(b"before", {"a": "before"}), (b"m", {"a": "before"})]
    driver.senders[-1].sink.stored(driver.senders[-1].submitted)


def test_the_ttl_of_the_queue_can_only_be_shortened(broker: unimq.Broker, driver: Any) -> None:
    """T1."""
    producer = broker.producer(unimq.Queue("orders", ttl=10))
    for ttl in (None, 5, 20):
        producer.enqueue(b"x", ttl=ttl)
    messages = [entry.message for entry in driver.senders[-1].submitted]
    assert [round(message.expires_at - message.sent_at) for message in messages] == [10, 5, 10]
    driver.senders[-1].sink.stored(driver.senders[-1].submitted)


def test_ids_are_unique_over_threads(broker: unimq.Broker, driver: Any) -> None:
    producer = broker.producer("orders", window=100_000)
    threads = [threading.Thread(target=lambda: [producer.enqueue(b"x") for _ in range(2000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    submitted = driver.senders[-1].submitted
    assert len({entry.message.id for entry in submitted}) == len(submitted) == 8000
    driver.senders[-1].sink.stored(submitted)


def test_asyncio_waits_with_one_wake_up_per_batch(driver: Any) -> None:
    """Outcomes of a driver's thread reach any number of waiting tasks by one call into the loop."""

    async def main() -> None:
        async with unimq.connect_async("manual://") as broker, broker.producer("orders") as producer:
            loop: Any = asyncio.get_running_loop()
            tasks = [asyncio.create_task(producer.send(b"x", message_id=f"m{n}")) for n in range(50)]
            await asyncio.sleep(0)
            sender = driver.senders[-1]
            assert len(sender.submitted) == 50
            wakes, original = [], loop.call_soon_threadsafe

            def counting(callback: Any, *args: Any, context: Any = None) -> Any:
                wakes.append(callback)
                return original(callback, *args, context=context)

            loop.call_soon_threadsafe = counting
            thread = threading.Thread(target=lambda: sender.sink.stored(sender.submitted))
            thread.start()
            thread.join()
            loop.call_soon_threadsafe = original
            receipts = await asyncio.gather(*tasks)
            assert [receipt.message_id for receipt in receipts] == [f"m{n}" for n in range(50)]
            assert len(wakes) == 1

    asyncio.run(main())


def test_a_cancelled_send_keeps_the_accounting(driver: Any) -> None:
    """A cancelled task leaves no stray exception, and its slot of the window is freed by its outcome."""

    async def main() -> None:
        async with unimq.connect_async("manual://") as broker, broker.producer("orders", window=1) as producer:
            sender = driver.senders[-1]
            task = asyncio.create_task(producer.send(b"x"))
            await asyncio.sleep(0)
            waiting = asyncio.create_task(producer.send(b"y", message_id="m2"))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(sender.submitted) == 1
            sender.on_submit = sender.sink.stored
            sender.sink.stored(sender.submitted)
            assert await waiting == Receipt("m2", None)

    asyncio.run(main())
