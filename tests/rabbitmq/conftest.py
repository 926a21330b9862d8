"""A link without a broker: everything runs in the test's thread, and what would go to the broker is written down.

With both framings: frames of our own are really written and parsed, by a connection of ours that is not connected.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pika import ConnectionParameters, frame
from pika.spec import Basic, BasicProperties
from unimq_contract.brokers import RunningTap
from unimq_contract.brokers import rabbitmq as tap
from unimq_rabbitmq._frames import OwnConnection, OwnFraming
from unimq_rabbitmq._framing import Framing, PikaFraming

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
    """Answers every question at once and writes down the rest. With a connection it writes and reads bytes as well."""

    def __init__(
        self,
        number: int,
        connection: OwnConnection | None,
        opened: Callable[[Any], None],
        closed: Callable[[Any, BaseException], None],
    ) -> None:
        self.channel_number = number
        self.connection = connection
        self.consumer_tag = ""
        self._consumers: dict[str, Callable[..., None]] = {}
        self.on_close: list[Callable[..., object]] = []
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

    def add_on_close_callback(self, callback: Callable[..., object]) -> None:
        self.on_close.append(callback)

    def _feed(self, data: bytes) -> None:
        assert self.connection is not None
        # In two parts, as the network may bring it.
        self.connection._on_data_available(data[:30])
        self.connection._on_data_available(data[30:])

    def _feed_confirm(self, confirm: Any) -> None:
        self._feed(frame.Method(self.channel_number, confirm.method).marshal())

    def _feed_delivery(self, _channel: object, method: Any, properties: BasicProperties, body: bytes) -> None:
        method.consumer_tag = self.consumer_tag
        data = frame.Method(self.channel_number, method).marshal()
        data += frame.Header(self.channel_number, len(body), properties).marshal()
        self._feed(data + (frame.Body(self.channel_number, body).marshal() if body else b""))

    def add_on_return_callback(self, callback: Callable[..., None]) -> None:
        self.returned = callback

    def add_on_cancel_callback(self, callback: Callable[[Any], None]) -> None:
        self.cancelled = callback

    def add_callback(self, callback: Callable[[Any], None], replies: list[Any], *, one_shot: bool) -> None:
        assert replies == [Basic.GetEmpty]
        assert not one_shot
        self.fetched_nothing = callback

    def confirm_delivery(self, confirmed: Callable[[Any], None], callback: Callable[[Any], None]) -> None:
        self.confirmed = confirmed if self.connection is None else self._feed_confirm
        callback(None)

    def basic_qos(self, *, prefetch_count: int, callback: Callable[[Any], None]) -> None:
        self.sent.append(("qos", prefetch_count))
        callback(None)

    def basic_consume(
        self,
        queue: str,
        received: Callable[..., None],
        *,
        consumer_tag: str,
        arguments: dict[str, Any] | None,
        callback: Callable[[Any], None],
    ) -> str:
        if consumer_tag.startswith("unimq-proof-"):
            self.sent.append(("proof",))
        else:
            self.received = received if self.connection is None else self._feed_delivery
            self.consumer_tag = consumer_tag
        self._consumers[consumer_tag] = received
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

    def basic_publish(self, exchange: str, key: str, body: bytes, *, properties: object, mandatory: bool) -> None:
        assert self.is_open
        self.sent.append(("publish", exchange, key, body, mandatory))

    def basic_ack(self, tag: int, multiple: bool = False) -> None:
        assert self.is_open
        self.sent.append(("ack", tag, multiple))

    def basic_reject(self, tag: int, *, requeue: bool) -> None:
        self.sent.append(("reject", tag, requeue))

    def basic_nack(self, tag: int, *, multiple: bool, requeue: bool) -> None:
        self.sent.append(("nack", tag, multiple, requeue))

    def basic_cancel(self, tag: str, callback: Callable[[Any], None]) -> None:
        del self._consumers[tag]
        self.sent.append(("cancel",))
        callback(None)

    def close(self) -> None:
        # As pika does it.
        self.sent.extend(("cancel",) for _ in self._consumers)
        self.is_open = False
        self.sent.append(("close",))

    @property
    def bodies(self) -> list[bytes]:
        return [call[3] for call in self.sent if call[0] == "publish"]


class StubLink:
    """A connection whose channels the test opens and breaks."""

    def __init__(self, framing: Framing) -> None:
        self.framing = framing
        self.own: OwnConnection | None = None
        self.unsent = 0
        """Bytes that wait in the transport."""
        self._publish: Any = None
        if isinstance(framing, OwnFraming):
            self.own = unconnected(self._write, lambda: self.unsent)
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
        channel = StubChannel(len(self.channels) + 1, self.own, opened, closed)
        self.channels.append(channel)
        opened(channel)

    def _write(self, data: bytes) -> None:
        """Write down what bytes mean."""
        while data:
            size, found = frame.decode_frame(data)
            assert size, "whole frames only"
            data = data[size:]
            value = cast("Any", found)
            channel = self.channels[int(value.channel_number) - 1]
            assert channel.is_open
            if value.NAME == "Body":
                self._finish(channel, value.fragment)
            elif value.NAME == "Header":
                if not value.body_size:
                    self._finish(channel, b"")
            elif value.method.NAME == "Basic.Publish":
                self._publish = value.method
            else:
                assert value.method.NAME == "Basic.Ack"
                channel.sent.append(("ack", value.method.delivery_tag, value.method.multiple))

    def _finish(self, channel: StubChannel, body: bytes) -> None:
        method, self._publish = self._publish, None
        channel.sent.append(("publish", method.exchange, method.routing_key, body, method.mandatory))

    @property
    def channel(self) -> StubChannel:
        return self.channels[-1]

    def lose(self, error: BaseException) -> None:
        """Break the channel as pika reports it."""
        self.channel.is_open = False
        self.channel.closed(self.channel, error)
        for callback in self.channel.on_close:
            callback(self.channel, error)


def unconnected(write: Callable[[bytes], None], unsent: Callable[[], int] = lambda: 0) -> OwnConnection:
    """Return a connection that writes there, and reads what the test gives it."""
    loop = cast("Any", SimpleNamespace(READ=1, WRITE=4, ERROR=8))
    connection = OwnConnection(ConnectionParameters(), custom_ioloop=loop, internal_connection_workflow=False)
    connection._transport = SimpleNamespace(write=write, get_write_buffer_size=unsent)
    return connection


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


@pytest.fixture(params=[OwnFraming, PikaFraming])
def link(request: pytest.FixtureRequest) -> StubLink:
    return StubLink(request.param())


@pytest.fixture
def outcomes() -> Outcomes:
    return Outcomes()


@pytest.fixture
def deliveries() -> Deliveries:
    return Deliveries()


@pytest.fixture
def outgoing() -> Callable[..., Outgoing]:
    return _outgoing


@pytest.fixture(scope="session")
def running(start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap]) -> Iterator[RunningTap]:
    """A real broker, with the plugin that hashes keys; tests that share one are in the xdist group ``rabbitmq``."""
    with start_or_skip(tap.start) as broker:
        yield broker
