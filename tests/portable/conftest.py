"""A driver that does nothing by itself: tests play the broker, and see exactly what the portable layer asks for."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import msgspec
import pytest

from unimq import Queue, Stats, Subscription, Topic, UnimqError
from unimq._adapters import register_adapter, unregister_adapter
from unimq.adapter import (
    BrokerURL,
    Capabilities,
    Delivery,
    DeliverySink,
    Message,
    OutcomeSink,
    Outgoing,
    Source,
    Target,
    native,
    unsupported,
)

_FEATURES: dict[str, Any] = {
    "durable": native(),
    "topics": native(),
    "start_earliest": unsupported("no history", "declare first"),
    "require_subscription": native(),
    "ordering_key": native(),
    "delay": native(),
    "ttl": native(),
    "nack_delay": unsupported("cannot wait", "nack without delay"),
    "lease": native(),
    "extend": native(),
    "max_length": native(),
    "drop_oldest": unsupported("never drops", 'overflow="reject"'),
    "dead_letter": native(),
    "redrive_subscription": native(),
    "stats": native(),
    "purge": native(),
    "pause": native(),
}


class ManualSender:
    """Keeps what was submitted until the test reports an outcome."""

    is_immediate = False

    def __init__(self, target: Target, sink: OutcomeSink) -> None:
        self.target = target
        self.sink = sink
        self.submitted: list[Outgoing] = []
        self.flushes = 0
        self.closed = 0
        self.on_submit: Callable[[Sequence[Outgoing]], None] = lambda _: None

    def submit(self, entries: Sequence[Outgoing]) -> None:
        self.submitted += entries
        self.on_submit(entries)

    def flush(self) -> None:
        self.flushes += 1

    def close(self, timeout: float) -> None:
        self.closed += 1


class ManualReceiver:
    """Records settlements; the test answers barriers."""

    def __init__(self, sink: DeliverySink) -> None:
        self.sink = sink
        self.acked: list[Delivery] = []
        self.nacked: list[tuple[Delivery, float]] = []
        self.extended: list[tuple[Delivery, float]] = []
        self.barriers: list[Callable[[Sequence[UnimqError]], None]] = []
        self.errors: Sequence[UnimqError] | None = None
        """What every barrier hears at once, if it is not for the test to answer."""
        self.unconfirmed: Sequence[UnimqError] = ()
        """What the barrier after the close hears."""
        self.closed = 0

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        self.acked += deliveries

    def nack(self, delivery: Delivery, delay: float) -> None:
        self.nacked.append((delivery, delay))

    def extend(self, delivery: Delivery, duration: float) -> None:
        self.extended.append((delivery, duration))

    def barrier(self, done: Callable[[Sequence[UnimqError]], None]) -> None:
        self.barriers.append(done)
        if self.closed:
            done(self.unconfirmed)
        elif self.errors is not None:
            done(self.errors)

    def pause(self) -> None: ...
    def resume(self) -> None: ...

    def close(self, timeout: float) -> None:
        self.closed += 1

    def give(self, body: bytes, *, attempt: int = 1, **fields: object) -> Delivery:
        """Deliver one message to the consumer under test."""
        delivery = Delivery(Message(body, id=body.decode(), **fields), attempt, object(), self.sink)  # type: ignore[arg-type]
        self.sink.deliver((delivery,))
        return delivery


class ManualDriver:
    """Everything exists, nothing happens."""

    native = "the native client"

    def __init__(self) -> None:
        self.capabilities = Capabilities(
            backend="manual",
            broker_version="1",
            client_version="1",
            attempts_exact=True,
            shutdown_counts=False,
            max_delay=60.0,
            max_lease=80.0,
            **_FEATURES,
        )
        self.declared: list[tuple[Queue | Topic | Subscription, bool]] = []
        self.checked: list[Queue | Topic | Subscription] = []
        self.senders: list[ManualSender] = []
        self.receivers: list[ManualReceiver] = []
        self.closed = 0

    def declare(
        self,
        destination: Queue | Topic | Subscription,
        *,
        as_is: bool,
        timeout: float,
    ) -> Queue | Topic | Subscription:
        self.declared.append((destination, as_is))
        return destination

    def check(self, destination: Queue | Topic | Subscription, *, timeout: float) -> None:
        self.checked.append(destination)

    def delete(self, destination: Queue | Topic | Subscription, *, timeout: float) -> None: ...

    def purge(self, source: Source, *, timeout: float) -> int | None:
        return 0

    def stats(self, source: Source, *, timeout: float) -> Stats:
        return Stats(ready=7)

    def open_sender(self, target: Target, sink: OutcomeSink, *, timeout: float) -> ManualSender:
        self.senders.append(ManualSender(target, sink))
        return self.senders[-1]

    def open_receiver(
        self,
        source: Source,
        sink: DeliverySink,
        *,
        prefetch: int,
        timeout: float,
    ) -> ManualReceiver:
        self.receivers.append(ManualReceiver(sink))
        return self.receivers[-1]

    def close(self, timeout: float) -> None:
        self.closed += 1


class ManualOptions(msgspec.Struct, forbid_unknown_fields=True):
    """Options that a test can get wrong."""

    linger_ms: int = 0


class ManualAdapter:
    """The way to the driver of the running test."""

    schemes: ClassVar[Sequence[str]] = ("manual",)
    options: ClassVar[type[msgspec.Struct]] = ManualOptions

    def __init__(self, driver: ManualDriver) -> None:
        self.driver = driver
        self.connected_with: tuple[BrokerURL, ManualOptions] | None = None

    def connect(self, url: BrokerURL, options: ManualOptions, *, timeout: float) -> ManualDriver:
        self.connected_with = (url, options)
        return self.driver


@pytest.fixture
def adapter() -> Iterator[ManualAdapter]:
    manual = ManualAdapter(ManualDriver())
    register_adapter(manual)
    yield manual
    unregister_adapter(manual)


@pytest.fixture
def driver(adapter: ManualAdapter) -> ManualDriver:
    return adapter.driver
