"""`run` of the synchronous front on memory: settlement, retries, batches, timeouts, drain and its ends."""

import functools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import pytest

import unimq
from unimq import Delivery, Nack, Queue, Reject, Retry
from unimq.adapter import unsupported

NOW = Retry(base=0)
Modes = dict[str, Any]
MODES: list[Modes] = [{}, {"concurrency": 4}, {"concurrency": 4, "timeout": 5.0}]


def send(broker: unimq.Broker, queue: str | Queue, *bodies: bytes) -> None:
    with broker.producer(queue) as producer:
        producer.send_many(bodies)


def dead(broker: unimq.Broker, name: str) -> list[Delivery]:
    with broker.consumer(f"{name}-dead") as consumer:
        found = consumer.receive(1000, timeout=0)
        consumer.ack(found)
        return found


def ready(broker: unimq.Broker, queue: str) -> tuple[int | None, int | None]:
    stats = broker.stats(queue)
    return stats.ready, stats.in_flight


def as_kind(handler: Callable[[Any], object], kind: str) -> Callable[[Any], object]:
    if kind == "plain":
        return handler

    async def handle(delivery: Any) -> object:
        return handler(delivery)

    return handle


@pytest.fixture(params=["plain", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("mode", MODES)
def test_each_message_is_handled_once_and_acked(broker: unimq.Broker, mode: Modes, kind: str) -> None:
    bodies = [b"%d" % number for number in range(500)]
    send(broker, "q", *bodies)
    handled: list[bytes] = []
    with broker.consumer("q") as consumer:

        def handle(delivery: Delivery) -> None:
            handled.append(delivery.body)
            if len(handled) == len(bodies):
                consumer.stop()

        consumer.run(as_kind(handle, kind), **mode)
        assert ready(broker, "q") == (0, 0)
    assert sorted(handled) == sorted(bodies)


@pytest.mark.parametrize("mode", MODES)
def test_a_failure_comes_again_and_the_last_one_is_dead_lettered_with_its_exception(
    broker: unimq.Broker, mode: Modes, kind: str
) -> None:
    queue = Queue("q", max_deliveries=3)
    send(broker, queue, b"poison", b"good")
    attempts: list[int] = []
    with broker.consumer(queue) as consumer:

        def handle(delivery: Delivery) -> None:
            if delivery.body == b"poison":
                attempts.append(delivery.attempt)
                if delivery.attempt == 3:
                    consumer.stop()
                raise LookupError("no such customer " + "x" * 5000)

        consumer.run(as_kind(handle, kind), retry=NOW, **mode)
        assert ready(broker, "q") == (0, 0)
    assert attempts == [1, 2, 3]
    (poison,) = dead(broker, "q")
    assert poison.body == b"poison"
    assert poison.headers["unimq-dead-reason"] == "max_deliveries"
    assert poison.headers["unimq-dead-attempts"] == "3"
    assert poison.headers["unimq-dead-error-type"] == "LookupError"
    assert str(poison.headers["unimq-dead-error"]).startswith("no such customer")
    assert len(poison.headers["unimq-dead-error"]) <= 1000


def test_policy_hooks_and_returned_decisions_in_their_order(broker: unimq.Broker) -> None:
    def hook(delivery: Delivery[Any], error: BaseException) -> Nack | Reject | None:
        return Reject("by hook") if delivery.body == b"hook" else None

    bodies = (b"hook", b"never", b"attempts", b"returned", b"settled", b"again")
    send(broker, "q", *bodies)
    with broker.consumer("q", middleware=[unimq.Middleware(error=hook)]) as consumer:

        def handle(delivery: Delivery) -> object:
            match delivery.body:
                case b"returned":
                    return Reject("by return")
                case b"again":
                    if delivery.attempt == 2:
                        consumer.stop()
                        return None
                    return Nack()
                case b"settled":
                    delivery.ack()
                    raise ValueError("after the settlement")
                case b"never":
                    raise KeyError("k")
                case _:
                    raise ValueError("v")

        consumer.run(handle, retry=Retry(attempts=1, never=(KeyError,)))
    reasons = {letter.body: letter.headers["unimq-dead-reason"] for letter in dead(broker, "q")}
    assert reasons == {
        b"hook": "by hook",
        b"never": "not_retryable",
        b"attempts": "attempts",
        b"returned": "by return",
    }


def test_back_off_is_held_here_where_the_backend_cannot_delay(broker: unimq.Broker) -> None:
    send(broker, "q", b"once more")
    times: list[float] = []
    with broker.consumer("q") as consumer:
        core = consumer._core
        core.capabilities = replace(core.capabilities, nack_delay=unsupported("for this test"))

        def handle(delivery: Delivery) -> object:
            times.append(time.monotonic())
            if delivery.attempt == 2:
                consumer.stop()
                return None
            return Nack(0.2)

        consumer.run(handle)
    assert times[1] - times[0] >= 0.2


def test_what_is_held_back_goes_back_when_the_worker_stops(broker: unimq.Broker) -> None:
    send(broker, "q", b"later")
    with broker.consumer("q") as consumer:
        core = consumer._core
        core.capabilities = replace(core.capabilities, nack_delay=unsupported("for this test"))

        def handle(delivery: Delivery) -> Nack:
            consumer.stop()
            return Nack(1000.0)

        consumer.run(handle)
        assert not consumer._core.held - set(consumer._core.buffer)
        (again,) = consumer.receive(timeout=1)
        assert again.attempt == 2


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_batch_settles_each_by_its_result(broker: unimq.Broker, kind: str, concurrency: int) -> None:
    send(broker, "q", b"good", b"bad", b"nack", b"reject")
    sizes: list[int] = []
    with broker.consumer("q") as consumer:

        def handle(deliveries: list[Delivery]) -> object:
            sizes.append(len(deliveries))
            if deliveries[0].attempt == 2:
                consumer.stop()
                return None
            results = {b"good": None, b"bad": ValueError("bad"), b"nack": Nack(), b"reject": Reject("no")}
            return [results[delivery.body] for delivery in deliveries]

        consumer.run(as_kind(handle, kind), batch=4, batch_wait=0.2, concurrency=concurrency, retry=Retry(attempts=1))
        assert ready(broker, "q") == (0, 0)
    assert sizes[0] == 4
    assert {letter.body: letter.headers["unimq-dead-reason"] for letter in dead(broker, "q")} == {
        b"bad": "attempts",
        b"reject": "no",
    }


@pytest.mark.parametrize("by_id", [True, False])
def test_a_batch_may_answer_with_a_mapping(broker: unimq.Broker, by_id: bool) -> None:
    send(broker, "q", b"good", b"bad")
    with broker.consumer("q") as consumer:

        def handle(deliveries: list[Delivery]) -> object:
            consumer.stop()
            bad = deliveries[1]
            return {bad.id if by_id else bad: Reject("bad")}

        consumer.run(handle, batch=2, batch_wait=1.0)
        assert ready(broker, "q") == (0, 0)
    assert [letter.body for letter in dead(broker, "q")] == [b"bad"]


@pytest.mark.parametrize(
    "result", [[None], {"unknown": None}, "ab", 7, ValueError("all")], ids=["short", "unknown", "str", "int", "raises"]
)
def test_a_batch_with_no_valid_answer_fails_as_a_whole(broker: unimq.Broker, result: object) -> None:
    send(broker, "q", b"1", b"2")
    with broker.consumer("q") as consumer:

        def handle(deliveries: list[Delivery]) -> object:
            consumer.stop()
            if isinstance(result, Exception):
                raise result
            return result

        consumer.run(handle, batch=2, batch_wait=1.0, retry=Retry(attempts=1))
    assert len(dead(broker, "q")) == 2


def test_a_batch_does_not_wait_longer_than_it_is_told(broker: unimq.Broker) -> None:
    send(broker, "q", b"alone")
    with broker.consumer("q") as consumer:
        began = time.monotonic()

        def handle(deliveries: list[Delivery]) -> None:
            assert len(deliveries) == 1
            consumer.stop()

        consumer.run(handle, batch=100, batch_wait=0.1)
        assert 0.1 <= time.monotonic() - began < 2
        assert ready(broker, "q") == (0, 0)


def test_an_async_handler_is_cancelled_at_its_timeout(broker: unimq.Broker) -> None:
    import asyncio

    send(broker, "q", b"slow")
    cancelled: list[bool] = []
    with broker.consumer("q") as consumer:

        async def handle(delivery: Delivery) -> None:
            consumer.stop()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        consumer.run(handle, timeout=0.1, retry=Retry(attempts=1))
    assert cancelled == [True]
    assert [letter.headers["unimq-dead-error-type"] for letter in dead(broker, "q")] == ["TimeoutError"]


def test_threads_that_overrun_are_replaced_up_to_a_bound_and_their_results_ignored(
    broker: unimq.Broker, caplog: pytest.LogCaptureFixture
) -> None:
    send(broker, "q", *[b"stuck"] * 4, b"good")
    release = threading.Event()
    good = threading.Event()
    with broker.consumer("q") as consumer:

        def handle(delivery: Delivery) -> None:
            if delivery.body == b"good":
                good.set()
                return
            assert release.wait(30)

        running = threading.Thread(
            target=functools.partial(consumer.run, handle, concurrency=2, timeout=0.1, retry=Retry(attempts=1))
        )
        running.start()
        deadline = time.monotonic() + 10
        while broker.stats("q").dead_letters != 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        threads = [thread for thread in threading.enumerate() if thread.name == "unimq-worker"]
        assert len(threads) == 4
        assert not good.is_set()
        assert "4 handlers of 'q' have overrun" in caplog.text
        release.set()
        assert good.wait(10)
        consumer.stop()
        running.join(10)
        assert not running.is_alive()
        assert ready(broker, "q") == (0, 0)
    assert len(dead(broker, "q")) == 4


def test_the_lease_is_kept_for_what_is_handled_and_for_what_waits(broker: unimq.Broker, kind: str) -> None:
    queue = Queue("q", lease=0.3)
    send(broker, queue, b"1", b"2")
    seen: list[tuple[bytes, int]] = []
    with broker.consumer(queue) as consumer:

        def handle(delivery: Delivery) -> None:
            seen.append((delivery.body, delivery.attempt))
            time.sleep(0.7)
            if len(seen) == 2:
                consumer.stop()

        consumer.run(as_kind(handle, kind))
        assert ready(broker, "q") == (0, 0)
    assert seen == [(b"1", 1), (b"2", 1)]


def test_handling_hooks_are_entered_around_each_call(broker: unimq.Broker, kind: str) -> None:
    steps: list[str] = []

    @contextmanager
    def around(deliveries: Any) -> Generator[None, None, None]:
        steps.append(f"enter {len(deliveries)}")
        yield
        steps.append("exit")

    def broken(deliveries: Any) -> AbstractContextManager[object]:
        raise ValueError("hook")

    send(broker, "q", b"1")
    hooks = [unimq.Middleware(handling=broken), unimq.Middleware(handling=around)]
    with broker.consumer("q", middleware=hooks) as consumer:

        def handle(delivery: Delivery) -> None:
            steps.append("handle")
            consumer.stop()

        consumer.run(as_kind(handle, kind))
    assert steps == ["enter 1", "handle", "exit"]


def test_the_return_value_answers_a_request(broker: unimq.Broker, kind: str) -> None:
    with broker.consumer("q") as consumer:

        def handle(delivery: Delivery) -> bytes:
            if delivery.body == b"fail":
                raise ValueError("no answer")
            return b"re: " + delivery.body

        running = threading.Thread(
            target=consumer.run, args=(as_kind(handle, kind),), kwargs={"retry": Retry(attempts=1)}
        )
        running.start()
        assert broker.request("q", b"question", timeout=10).body == b"re: question"
        with pytest.raises(unimq.RequestFailed, match="no answer"):
            broker.request("q", b"fail", timeout=10)
        consumer.stop()
        running.join(10)
        assert ready(broker, "q") == (0, 0)
    assert len(dead(broker, "q")) == 1


# What ends a run.


@pytest.mark.parametrize("mode", MODES)
def test_what_is_not_handled_goes_back_uncounted(broker: unimq.Broker, mode: Modes, kind: str) -> None:
    send(broker, "q", *[b"%d" % number for number in range(50)])
    handled: list[bytes] = []
    with broker.consumer("q") as consumer:

        def handle(delivery: Delivery) -> None:
            handled.append(delivery.body)
            consumer.stop()

        consumer.run(as_kind(handle, kind), **mode)
    with broker.consumer("q") as consumer:
        rest = consumer.receive(100, timeout=1)
    assert 1 <= len(handled) <= 4
    assert sorted([*handled, *(delivery.body for delivery in rest)], key=int) == [b"%d" % n for n in range(50)]
    assert {delivery.attempt for delivery in rest} == {1}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_an_exit_in_a_handler_ends_the_run_and_is_no_failure(
    broker: unimq.Broker, mode: Modes, kind: str, error: BaseException
) -> None:
    send(broker, "q", b"1")
    with broker.consumer("q") as consumer:

        def handle(delivery: Delivery) -> None:
            raise error

        with pytest.raises(type(error)):
            consumer.run(as_kind(handle, kind), supervise=True, **mode)
    with broker.consumer("q") as consumer:
        (again,) = consumer.receive(timeout=1)
        assert again.attempt == 1


@pytest.mark.parametrize("mode", MODES)
def test_close_ends_it_and_keeps_the_acks(broker: unimq.Broker, mode: Modes, kind: str) -> None:
    send(broker, "q", b"1", b"2")
    consumer = broker.consumer("q")
    handled = threading.Semaphore(0)

    def handle(delivery: Delivery) -> None:
        handled.release()

    running = threading.Thread(target=functools.partial(consumer.run, as_kind(handle, kind), **mode))
    running.start()
    assert handled.acquire(timeout=5)
    assert handled.acquire(timeout=5)
    time.sleep(0.01)
    consumer.close()
    running.join(10)
    assert not running.is_alive()
    assert ready(broker, "q") == (0, 0)


def test_the_error_of_a_consumer_that_ends_is_raised(broker: unimq.Broker, kind: str) -> None:
    send(broker, "q", b"1")
    with broker.consumer("q") as consumer:

        def handle(delivery: Delivery) -> None:
            broker.delete("q")

        with pytest.raises(unimq.NotFound):
            consumer.run(as_kind(handle, kind), supervise=True)


@pytest.mark.parametrize("mode", MODES)
def test_a_supervised_worker_opens_its_consumer_again(
    broker: unimq.Broker, mode: Modes, kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unimq._worker._REOPEN", Retry(base=0.01))
    send(broker, "q", b"1", b"2")
    handled: list[bytes] = []
    with broker.consumer("q", prefetch=7) as consumer:
        first = consumer._core

        def handle(delivery: Delivery) -> None:
            handled.append(delivery.body)
            if len(handled) == 2:
                first.failed(unimq.ConnectionLost("cut"))
            if delivery.body == b"3":
                consumer.stop()

        running = threading.Thread(
            target=functools.partial(consumer.run, as_kind(handle, kind), supervise=True, **mode)
        )
        running.start()
        deadline = time.monotonic() + 10
        while consumer._core is first and time.monotonic() < deadline:
            time.sleep(0.01)
        send(broker, "q", b"3")
        running.join(10)
        assert not running.is_alive()
        assert consumer._core is not first
        assert consumer._core.prefetch == 7
    assert b"3" in handled
    assert "opened again" in caplog.text
    assert ready(broker, "q") == (0, 0)


@pytest.mark.parametrize("mode", MODES)
def test_the_first_signal_drains(broker: unimq.Broker, mode: Modes, kind: str) -> None:
    before = signal.getsignal(signal.SIGTERM)
    send(broker, "q", b"1", b"2")
    handled: list[bytes] = []
    with broker.consumer("q") as consumer:

        def handle(delivery: Delivery) -> None:
            if delivery.body == b"1":
                os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
            handled.append(delivery.body)

        consumer.run(as_kind(handle, kind), **mode)
        assert handled
        assert ready(broker, "q")[1] == 2 - len(handled)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("mode", MODES)
def test_a_signal_that_interrupts_no_wait_is_seen_all_the_same(
    broker: unimq.Broker, mode: Modes, kind: str, signal_from_another_thread: Callable[[str], threading.Thread]
) -> None:
    with broker.consumer("q") as consumer:
        sender = signal_from_another_thread("block_until")
        consumer.run(as_kind(lambda _: None, kind), **mode)
        sender.join(10)
    assert signal.set_wakeup_fd(-1) == -1


def test_whoever_had_asked_for_signals_hears_of_them_still(
    broker: unimq.Broker, signal_from_another_thread: Callable[[str], threading.Thread]
) -> None:
    reading, writing = socket.socketpair()
    with reading, writing:
        writing.settimeout(0)
        reading.settimeout(10)
        signal.set_wakeup_fd(writing.fileno())
        try:
            with broker.consumer("q") as consumer:
                sender = signal_from_another_thread("block_until")
                consumer.run(lambda _: None)
                sender.join(10)
            assert reading.recv(1) == bytes([signal.SIGTERM])
        finally:
            assert signal.set_wakeup_fd(-1) == writing.fileno()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_the_second_signal_ends_it_at_once(
    broker: unimq.Broker, mode: Modes, number: signal.Signals, error: type[BaseException]
) -> None:
    send(broker, "q", b"1")
    release = threading.Event()
    with broker.consumer("q") as consumer:

        def handle(delivery: Delivery) -> None:
            os.kill(os.getpid(), number)
            time.sleep(0.05)
            os.kill(os.getpid(), number)
            release.wait(10)

        began = time.monotonic()
        with pytest.raises(error):
            consumer.run(handle, **mode)
        assert time.monotonic() - began < 5
    release.set()
    with broker.consumer("q") as consumer:
        (again,) = consumer.receive(timeout=1)
        assert again.attempt == 1


@pytest.mark.parametrize("mode", MODES)
def test_the_drain_is_bounded(broker: unimq.Broker, mode: Modes, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    import asyncio

    send(broker, "q", b"1")
    release = threading.Event()
    with broker.consumer("q") as consumer:

        def handle(delivery: Delivery) -> None:
            consumer.stop()
            release.wait(20)

        async def handle_async(delivery: Delivery) -> None:
            consumer.stop()
            await asyncio.sleep(20)

        began = time.monotonic()
        consumer.run(handle if kind == "plain" else handle_async, drain_timeout=0.2, **mode)
        assert 0.2 <= time.monotonic() - began < 5
    release.set()
    assert "have not ended within their time" in caplog.text
    with broker.consumer("q") as consumer:
        (again,) = consumer.receive(timeout=1)
        assert again.attempt == 1


def test_no_thread_outlives_it(broker: unimq.Broker, kind: str) -> None:
    send(broker, "q", b"1")
    with broker.consumer("q") as consumer:

        def handle(delivery: Delivery) -> None:
            consumer.stop()

        consumer.run(as_kind(handle, kind), concurrency=3)
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("unimq-worker") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


# What is refused.


def _takes_none() -> None: ...


def _takes_two(first: Delivery, second: Delivery) -> None: ...


def _generator(delivery: Delivery) -> Generator[int, None, None]:
    yield 1


@pytest.mark.parametrize(
    ("handler", "word"),
    [
        (_takes_none, "must take one delivery"),
        (_takes_two, "must take one delivery"),
        ("handler", "not str"),
        (_generator, "generator"),
    ],
    ids=["none", "two", "str", "generator"],
)
def test_a_handler_of_another_signature_is_refused_before_anything_is_taken(
    broker: unimq.Broker, handler: Any, word: str
) -> None:
    with broker.consumer("q") as consumer, pytest.raises(unimq.ConfigError, match=word):
        consumer.run(handler)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": 11}, "prefetch is 10"),
        ({"batch": 11}, "prefetch is 10"),
        ({"batch": 0}, "batch"),
        ({"timeout": 0}, "timeout"),
        ({"drain_timeout": -1}, "drain_timeout"),
        ({"batch_wait": -1}, "batch_wait"),
        ({"retry": 3}, "Retry"),
    ],
)
def test_options_out_of_range_are_refused(broker: unimq.Broker, options: dict[str, Any], word: str) -> None:
    with broker.consumer("q", prefetch=10) as consumer, pytest.raises(unimq.ConfigError, match=word):
        consumer.run(lambda delivery: None, **options)


def test_a_lambda_that_returns_a_coroutine_fails(broker: unimq.Broker) -> None:
    async def work() -> None:
        raise AssertionError("is never awaited")

    send(broker, "q", b"1")
    with broker.consumer("q") as consumer:

        def handle(delivery: Delivery) -> object:
            consumer.stop()
            return work()

        consumer.run(handle, retry=Retry(attempts=1))
    assert [letter.headers["unimq-dead-error-type"] for letter in dead(broker, "q")] == ["ConfigError"]


def test_a_handler_that_outlives_its_message_is_told_in_the_log(
    broker: unimq.Broker, caplog: pytest.LogCaptureFixture
) -> None:
    queue = Queue("q", lease=0.3)
    send(broker, queue, b"1")
    with broker.consumer(queue) as consumer:
        core = consumer._core
        core.capabilities = replace(core.capabilities, extend=unsupported("for this test"))

        def handle(delivery: Delivery) -> None:
            if delivery.attempt > 1:
                consumer.stop()
                return
            time.sleep(0.5)

        consumer.run(handle)
        assert "no longer held" in caplog.text
        assert ready(broker, "q") == (0, 0)


def test_a_stop_that_comes_before_its_run_is_not_forgotten(broker: unimq.Broker, kind: str) -> None:
    send(broker, "q", b"1")
    handled: list[bytes] = []
    with broker.consumer("q") as consumer:

        def handle(delivery: Delivery) -> None:
            handled.append(delivery.body)
            consumer.stop()

        consumer.stop()
        consumer.run(as_kind(handle, kind))
        assert handled == []
        consumer.run(as_kind(handle, kind))
        assert handled == [b"1"]
        send(broker, "q", b"2")
        consumer.run(as_kind(handle, kind))
        assert handled == [b"1", b"2"], "a stop that reached its run stops no other"
