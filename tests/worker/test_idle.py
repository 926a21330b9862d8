"""Which workers are awake: none sleeps while a message waits, and no message waits behind a slow one."""

import asyncio
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest

import unimq
from unimq import Delivery
from unimq._idle import Idle
from unimq._waiting import Waiters

if TYPE_CHECKING:
    from unimq._receiving import ConsumerCore


@pytest.fixture(params=["plain", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def send(broker: unimq.Broker, *bodies: bytes) -> None:
    with broker.producer("q") as producer:
        producer.send_many(bodies)


@contextmanager
def running(
    consumer: unimq.Consumer[Any], handler: Callable[[Any], object], **options: Any
) -> Generator[None, None, None]:
    thread = threading.Thread(target=functools.partial(consumer.run, handler, **options))
    thread.start()
    try:
        yield
    finally:
        consumer.stop()
        thread.join(10)
        assert not thread.is_alive()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def idle_workers(consumer: unimq.Consumer[Any]) -> int:
    """How many workers sleep: the consumer has one wake-up for all of them, which knows them."""
    wakes = [wake for wake in list(consumer._core.arrived.wakes) if isinstance(getattr(wake, "__self__", None), Idle)]
    return sum(len(cast("Any", wake).__self__._wakes) for wake in wakes)


def waiting_handler(kind: str, begin: Callable[[bytes], bool]) -> Callable[[Any], object]:
    """Return a handler that returns once `begin`, which gets its body again and again, is true."""

    def plain(delivery: Delivery) -> None:
        while not begin(delivery.body):
            time.sleep(0.002)

    async def working(delivery: Delivery) -> None:
        while not begin(delivery.body):  # noqa: ASYNC110 - what it waits for comes from another thread
            await asyncio.sleep(0.002)

    return working if kind == "async" else plain


@pytest.mark.parametrize("sent", ["before", "while idle"])
def test_as_many_workers_as_messages_are_at_work_at_once(broker: unimq.Broker, kind: str, sent: str) -> None:
    at_work: set[bytes] = set()

    def begin(body: bytes) -> bool:
        at_work.add(body)
        return len(at_work) == 8

    bodies = [b"%d" % number for number in range(8)]
    with broker.consumer("q") as consumer:
        if sent == "before":
            send(broker, *bodies)
        with running(consumer, waiting_handler(kind, begin), concurrency=8):
            if sent == "while idle":
                wait_until(lambda: idle_workers(consumer) == 8)
                send(broker, *bodies)
            wait_until(lambda: len(at_work) == 8)


def test_a_slow_message_delays_none_of_those_that_came_with_it(broker: unimq.Broker, kind: str) -> None:
    quick: list[bytes] = []

    def begin(body: bytes) -> bool:
        if body == b"slow":
            return len(quick) == 60
        quick.append(body)
        return True

    with broker.consumer("q") as consumer, running(consumer, waiting_handler(kind, begin), concurrency=3):
        wait_until(lambda: idle_workers(consumer) == 3)
        send(broker, b"slow", *[b"%d" % number for number in range(60)])
        wait_until(lambda: len(quick) == 60)
    assert broker.stats("q").in_flight == 0


def test_each_of_the_messages_that_come_one_by_one_finds_an_idle_worker(broker: unimq.Broker, kind: str) -> None:
    at_work: list[bytes] = []
    is_over = threading.Event()

    def begin(body: bytes) -> bool:
        if body not in at_work:
            at_work.append(body)
        return is_over.is_set()

    with broker.consumer("q") as consumer, running(consumer, waiting_handler(kind, begin), concurrency=6):
        wait_until(lambda: idle_workers(consumer) == 6)
        for number in range(6):
            send(broker, b"%d" % number)
            wait_until(lambda number=number: len(at_work) == number + 1)  # type: ignore[misc]
        is_over.set()


def test_an_idle_worker_hears_of_the_end_of_its_consumer_while_another_handles(broker: unimq.Broker, kind: str) -> None:
    begun, is_over = threading.Event(), threading.Event()

    def begin(body: bytes) -> bool:
        begun.set()
        return is_over.is_set()

    with broker.consumer("q") as consumer:
        raised: list[unimq.UnimqError] = []

        def run() -> None:
            try:
                consumer.run(waiting_handler(kind, begin), concurrency=2, drain_timeout=0.05)
            except unimq.UnimqError as error:
                raised.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        send(broker, b"1")
        assert begun.wait(10)
        wait_until(lambda: idle_workers(consumer) == 1)
        consumer._core.failed(unimq.ConnectionLost("cut"))
        thread.join(10)
        assert not thread.is_alive()
        is_over.set()
    assert [str(error) for error in raised] == ["cut"]


def test_whoever_receives_beside_a_run_is_woken_once_that_is_stopped(broker: unimq.Broker, kind: str) -> None:
    begun, is_over = threading.Event(), threading.Event()

    def begin(body: bytes) -> bool:
        begun.set()
        return is_over.is_set()

    found: list[bytes] = []
    with broker.consumer("q") as consumer:
        receiving = threading.Thread(
            target=lambda: found.extend(delivery.body for delivery in consumer.receive(timeout=10))
        )
        with running(consumer, waiting_handler(kind, begin), concurrency=2):
            send(broker, b"1")
            assert begun.wait(10)
            consumer.stop()
            receiving.start()
            wait_until(lambda: bool(consumer._core.arrived.wakes))
            send(broker, b"2")
            receiving.join(5)
            assert found == [b"2"]
            is_over.set()


def test_what_expires_behind_a_slow_message_is_not_handled(broker: unimq.Broker, kind: str) -> None:
    handled: list[bytes] = []
    with broker.consumer("q") as consumer:

        def begin(body: bytes) -> bool:
            handled.append(body)
            time.sleep(0.3)
            return True

        with broker.producer("q") as producer:
            producer.send_many([unimq.Message(b"1"), unimq.Message(b"2", ttl=0.2), unimq.Message(b"3")])
        with running(consumer, waiting_handler(kind, begin)):
            wait_until(lambda: len(handled) == 2)
        assert handled == [b"1", b"3"]
        assert broker.stats("q").in_flight == 0


def test_a_handler_that_never_suspends_lets_the_loop_go_on() -> None:
    count = 2000

    async def main() -> tuple[int, int]:
        async with unimq.connect_async("memory://?private=true") as broker, broker.consumer("q") as consumer:
            async with broker.producer("q") as producer:
                await producer.send_many([b"x"] * count)
            handled = 0
            seen: list[int] = []

            async def watch() -> None:
                while handled < count:
                    if handled:
                        seen.append(handled)
                    await asyncio.sleep(0)

            async def handle(delivery: Delivery) -> None:
                nonlocal handled
                handled += 1
                if handled == count:
                    consumer.stop()

            watching = asyncio.create_task(watch())
            await asyncio.wait_for(consumer.run(handle, concurrency=2), 10)
            await watching
            return len(seen), handled

    seen, handled = asyncio.run(main())
    assert handled == count
    assert seen >= 2


def test_a_backlog_of_expired_messages_lets_the_loop_go_on() -> None:
    count = 2000

    async def main() -> int:
        dropped = 0

        def on_settled(_delivery: Delivery, settlement: str) -> None:
            nonlocal dropped
            dropped += settlement == "dropped"

        async with unimq.connect_async("memory://?private=true") as broker:
            async with broker.producer("q") as producer:
                await producer.send_many([unimq.Message(b"old", ttl=0.01)] * count)
                await producer.send(b"new")
            hook = unimq.Middleware(settled=on_settled)
            async with broker.consumer("q", middleware=[hook]) as consumer:
                await asyncio.sleep(0.02)
                seen: set[int] = set()

                async def watch() -> None:
                    while dropped < count:
                        seen.add(dropped)
                        await asyncio.sleep(0)

                async def handle(delivery: Delivery) -> None:
                    assert delivery.body == b"new"
                    consumer.stop()

                watching = asyncio.create_task(watch())
                await asyncio.wait_for(consumer.run(handle), 10)
                await watching
                return len(seen - {0})

    assert asyncio.run(main()) >= 2


# The registry alone, where the moments can be chosen.


class _Core:
    """What `Idle` sees of a consumer."""

    def __init__(self) -> None:
        self.arrived = Waiters()
        self.buffer: deque[int] = deque()
        self.error: Exception | None = None

    def deliver(self, *numbers: int) -> None:
        self.buffer.extend(numbers)
        self.arrived.wake(len(numbers))


@pytest.fixture
def core() -> _Core:
    return _Core()


@pytest.fixture
def idle(core: _Core) -> Idle:
    return Idle(cast("ConsumerCore", core))


def sleepers(idle: Idle, count: int) -> list[int]:
    """Have so many workers sleep; the list gets the number of each that is woken."""
    woken: list[int] = []
    for number in range(count):
        idle.add(functools.partial(woken.append, number))
    return woken


def test_an_arrival_wakes_one_and_each_that_took_its_own_wakes_the_next(core: _Core, idle: Idle) -> None:
    woken = sleepers(idle, 4)
    core.deliver(1, 2, 3)
    assert woken == [0]
    core.buffer.popleft()
    idle.wake()
    assert woken == [0, 1]
    core.buffer.clear()
    idle.wake()
    assert woken == [0, 1], "there is nothing more"
    core.deliver(4)
    assert woken == [0, 1, 2], "the others did not lose their wake-up"


def test_the_consumer_has_one_wake_up_of_all_idle_workers(core: _Core, idle: Idle) -> None:
    for _ in range(5):
        sleepers(idle, 3)
        core.deliver(1)
        core.buffer.clear()
        idle.wake()
        assert len(core.arrived.wakes) == 1


def test_an_arrival_that_no_worker_is_idle_for_wakes_somebody_else(core: _Core, idle: Idle) -> None:
    wake = functools.partial(core.buffer.clear)
    idle.add(wake)
    others: list[str] = []
    core.arrived.add(functools.partial(others.append, "receive"))
    assert idle.discard(wake)
    core.deliver(1)
    assert others == ["receive"]
    assert core.buffer


def test_a_wake_up_that_its_worker_did_not_need_goes_to_somebody_else(core: _Core, idle: Idle) -> None:
    woken = sleepers(idle, 1)
    core.deliver(1)
    assert woken == [0]
    others: list[str] = []
    core.arrived.add(functools.partial(others.append, "receive"))
    idle.wake()
    assert others == ["receive"]


def test_an_error_wakes_one_after_the_other_too(core: _Core, idle: Idle) -> None:
    woken = sleepers(idle, 2)
    core.error = unimq.ConnectionLost("cut")
    core.arrived.wake_all()
    idle.wake()
    assert woken == [0, 1]


def test_all_are_woken_to_stop_and_who_was_woken_has_nothing_to_take_back(core: _Core, idle: Idle) -> None:
    woken: list[int] = []
    wakes = [functools.partial(woken.append, number) for number in range(3)]
    for wake in wakes:
        idle.add(wake)
    assert idle.discard(wakes[1])
    idle.wake_all()
    assert woken == [0, 2]
    assert not any(idle.discard(wake) for wake in wakes)
