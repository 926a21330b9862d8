"""A link without a broker: everything runs in the test's thread, and what would go to the broker is written down."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from pika.spec import Basic

from unimq import UnimqError
from unimq.adapter import Delivery, Message, Outgoing


class StubThread:
    """Runs what is posted at once, and timers when the test says so."""

    def __init__(self) -> None:
        self.failure: UnimqError | None = None
        self.run_timers_at_once = False
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def post(self, function: Callable[[Any], None], argument: Any) -> None:
        function(argument)

    def guarded(self, function: Callable[..., None]) -> Callable[..., None]:
        return function

    def call_later(self, delay: float, function: Callable[[], None]) -> object:
        if self.run_timers_at_once:
            function()
        self.timers.append((delay, function))
        return function

    def cancel(self, timer: object) -> None:
        self.timers = [entry for entry in self.timers if entry[1] is not timer]

    def run_timers(self) -> None:
        timers, self.timers = self.timers, []
        for _, function in timers:
            function()


class StubChannel:
    """Answers every question at once and writes down the rest."""

    def __init__(self, opened: Callable[[Any], None], closed: Callable[[Any, BaseException], None]) -> None:
        self.is_open = True
        self.sent: list[tuple[Any, ...]] = []
        self.answers: list[Callable[[Any], None]] = []
        self.opened = opened
        self.closed = closed
        self.returned: Callable[..., None] = lambda *_: None
        self.confirmed: Callable[[Any], None] = lambda _: None
        self.cancelled: Callable[[Any], None] = lambda _: None
        self.received: Callable[..., None] = lambda *_: None
        self.fetched: Callable[..., None] = lambda *_: None
        self.fetched_nothing: Callable[[Any], None] = lambda _: None

    def add_on_return_callback(self, callback: Callable[..., None]) -> None:
        self.returned = callback

    def add_on_cancel_callback(self, callback: Callable[[Any], None]) -> None:
        self.cancelled = callback

    def add_callback(self, callback: Callable[[Any], None], replies: list[Any], *, one_shot: bool) -> None:
        assert replies == [Basic.GetEmpty]
        assert not one_shot
        self.fetched_nothing = callback

    def confirm_delivery(self, confirmed: Callable[[Any], None], callback: Callable[[Any], None]) -> None:
        self.confirmed = confirmed
        callback(None)

    def basic_qos(self, *, prefetch_count: int, callback: Callable[[Any], None]) -> None:
        self.sent.append(("qos", prefetch_count))
        callback(None)

    def basic_consume(
        self, queue: str, received: Callable[..., None], *, consumer_tag: str, callback: Callable[[Any], None]
    ) -> str:
        self.received = received
        callback(None)
        return consumer_tag

    def exchange_declare(self, name: str, *, passive: bool, callback: Callable[[Any], None]) -> None:
        assert passive
        callback(None)

    def queue_declare(
        self,
        name: str,
        *,
        passive: bool = False,
        durable: bool = False,
        arguments: dict[str, Any] | None = None,
        callback: Callable[[Any], None] | None = None,
    ) -> None:
        if callback is None:
            assert durable
            self.sent.append(("declare", name))
            return
        assert passive
        self.sent.append(("barrier",))
        self.answer = callback
        self.answers.append(callback)

    def basic_get(self, queue: str, callback: Callable[..., None]) -> None:
        assert self.is_open
        self.sent.append(("get",))
        self.fetched = callback

    def basic_publish(self, exchange: str, key: str, body: bytes, _properties: object, *, mandatory: bool) -> None:
        assert self.is_open
        self.sent.append(("publish", exchange, key, body, mandatory))

    def basic_ack(self, tag: int, multiple: bool = False) -> None:
        assert self.is_open
        self.sent.append(("ack", tag, multiple))

    def basic_reject(self, tag: int, *, requeue: bool) -> None:
        self.sent.append(("reject", tag, requeue))

    def basic_nack(self, tag: int, *, multiple: bool, requeue: bool) -> None:
        self.sent.append(("nack", tag, multiple, requeue))

    def basic_cancel(self, _tag: str, callback: Callable[[Any], None]) -> None:
        self.sent.append(("cancel",))
        callback(None)

    def close(self) -> None:
        self.is_open = False
        self.sent.append(("close",))

    @property
    def bodies(self) -> list[bytes]:
        return [call[3] for call in self.sent if call[0] == "publish"]


class StubLink:
    """A connection whose channels the test opens and breaks."""

    def __init__(self) -> None:
        self.thread = StubThread()
        self.endpoint = "broker:5672"
        self.connection: object | None = object()
        self.blocked = False
        self.last_error: UnimqError | None = None
        self.channels: list[StubChannel] = []
        self.users: list[Any] = []

    def attach(self, user: Any) -> None:
        self.users.append(user)
        user.connected()

    def detach(self, user: Any) -> None:
        if user in self.users:
            self.users.remove(user)

    def open_channel(self, opened: Callable[[Any], None], closed: Callable[[Any, BaseException], None]) -> None:
        channel = StubChannel(opened, closed)
        self.channels.append(channel)
        opened(channel)

    @property
    def channel(self) -> StubChannel:
        return self.channels[-1]

    def lose(self, error: BaseException) -> None:
        """Break the channel as pika reports it."""
        self.channel.is_open = False
        self.channel.closed(self.channel, error)


@dataclass
class Outcomes:
    """An `OutcomeSink` that counts every report."""

    stored_bodies: list[bytes] = field(default_factory=list[bytes])
    failures: dict[bytes, UnimqError] = field(default_factory=dict[bytes, UnimqError])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def stored(self, entries: Sequence[Outgoing]) -> None:
        for entry in entries:
            self._once(entry.message.body)
            self.stored_bodies.append(entry.message.body)

    def failed(self, entries: Sequence[Outgoing], error: UnimqError) -> None:
        for entry in entries:
            self._once(entry.message.body)
            self.failures[entry.message.body] = error

    def _once(self, body: bytes) -> None:
        assert body not in self.failures
        assert body not in self.stored_bodies


class Deliveries:
    """A `DeliverySink` that keeps what it gets."""

    source_name = "q"

    def __init__(self) -> None:
        self.delivered: list[Delivery] = []
        self.gone: list[Delivery] = []
        self.error: UnimqError | None = None

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        self.delivered.extend(deliveries)

    def lost(self, deliveries: Sequence[Delivery]) -> None:
        self.gone.extend(deliveries)

    def failed(self, error: UnimqError) -> None:
        self.error = error


def _outgoing(body: bytes, *, within: float = 60.0, **fields: Any) -> Outgoing:
    fields.setdefault("id", body.decode("latin-1"))
    return Outgoing(Message(body, sent_at=1.5, **fields), time.monotonic() + within, len(body))


@pytest.fixture
def link() -> StubLink:
    return StubLink()


@pytest.fixture
def outcomes() -> Outcomes:
    return Outcomes()


@pytest.fixture
def deliveries() -> Deliveries:
    return Deliveries()


@pytest.fixture
def outgoing() -> Callable[..., Outgoing]:
    return _outgoing
