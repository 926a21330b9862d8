"""A connection to a memory broker of its own, whose driver a test can disturb, and a responder in a thread."""

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, cast

import msgspec
import pytest
from unimq_memory import MemoryAdapter

import unimq
from unimq._adapters import register_adapter, unregister_adapter
from unimq._replies import Replier
from unimq.adapter import BrokerURL, Driver, OutcomeSink, Outgoing, Queue, Sender, Target


class Disturbed:
    """The memory driver, which does `on_check`, `on_delete` and `on_submit` before it does its own part."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.opened: list[str] = []
        self.closed: list[str] = []
        """Names of the targets of senders."""
        self.on_check: Callable[[str], None] = lambda name: None
        self.on_delete: Callable[[str], None] = lambda name: None
        self.on_submit: Callable[[str, Sequence[Outgoing], OutcomeSink], bool] = lambda name, entries, sink: True
        """Returns whether the entries are to be stored."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.driver, name)

    def check(self, destination: Queue, *, timeout: float) -> None:
        self.on_check(destination.name)
        self.driver.check(destination, timeout=timeout)

    def delete(self, destination: Queue, *, timeout: float) -> None:
        self.on_delete(destination.name)
        self.driver.delete(destination, timeout=timeout)

    def open_sender(self, target: Target, sink: OutcomeSink, *, timeout: float) -> "DisturbedSender":
        self.opened.append(target.name)
        return DisturbedSender(self, target.name, sink, self.driver.open_sender(target, sink, timeout=timeout))


class DisturbedSender:
    is_immediate = False

    def __init__(self, driver: Disturbed, name: str, sink: OutcomeSink, real: Sender) -> None:
        self.driver, self.name, self.sink, self.real = driver, name, sink, real

    def submit(self, entries: Sequence[Outgoing]) -> None:
        if self.driver.on_submit(self.name, entries, self.sink):
            self.real.submit(entries)

    def flush(self) -> None:
        self.real.flush()

    def close(self, timeout: float) -> None:
        self.driver.closed.append(self.name)
        self.real.close(timeout)


class DisturbedAdapter:
    schemes: ClassVar[Sequence[str]] = ("disturbed",)
    options: ClassVar[type[msgspec.Struct]] = MemoryAdapter.options

    def __init__(self) -> None:
        self.drivers: list[Disturbed] = []

    def connect(self, url: BrokerURL, options: Any, *, timeout: float) -> Driver:
        self.drivers.append(Disturbed(MemoryAdapter().connect(url, options, timeout=timeout)))
        return cast("Driver", self.drivers[-1])


@pytest.fixture
def adapter() -> Iterator[DisturbedAdapter]:
    disturbed = DisturbedAdapter()
    register_adapter(disturbed)
    yield disturbed
    unregister_adapter(disturbed)


@pytest.fixture
def broker(adapter: DisturbedAdapter) -> Iterator[unimq.Broker]:
    with unimq.connect("disturbed://?private=true&max_message_bytes=100000", timeout=5) as connected:
        yield connected


@pytest.fixture
def driver(broker: unimq.Broker, adapter: DisturbedAdapter) -> Disturbed:
    return adapter.drivers[0]


def reply_queues(broker: unimq.Broker) -> set[str]:
    """Names of the reply queues that exist."""
    return {name for name in cast("Any", broker.native).queues if name.startswith("unimq-reply-")}


def source_of(name: str) -> Queue:
    return unimq.Queue(name, dead_letter=False)


Answer = Callable[[unimq.Delivery[Any], Replier, Callable[[unimq.UnimqError | None], None]], None]


def echo(request: unimq.Delivery[Any], replier: Replier, settle: Callable[[unimq.UnimqError | None], None]) -> None:
    replier.submit(request, b"reply to " + request.body, None, settle)


@contextmanager
def responder(broker: unimq.Broker, queue: str, answer: Answer = echo) -> Generator[list[unimq.UnimqError]]:
    """Answer requests in a thread, as a worker does; yields the errors of replies that could not be sent."""
    errors: list[unimq.UnimqError] = []
    consumer = broker.consumer(queue)
    replier = Replier(broker._core)

    def work() -> None:
        for request in consumer:

            def settle(error: unimq.UnimqError | None, request: unimq.Delivery[Any] = request) -> None:
                if error is None:
                    request.ack()
                else:
                    errors.append(error)
                    request.reject(str(error))

            answer(request, replier, settle)

    worker = threading.Thread(target=work, name="responder")
    worker.start()
    try:
        yield errors
    finally:
        replier.close(5)
        consumer.close()
        worker.join(5)
