"""Where a fault is put in: an adapter, driver, sender and receiver that pass every call on to a mutant."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import msgspec

from unimq import (
    Queue,
    Stats,
    Subscription,
    Topic,
    UnimqError,
)
from unimq._destinations import Seconds
from unimq.adapter import (
    Adapter,
    BrokerURL,
    Capabilities,
    CheckedPosition,
    Delivery,
    DeliverySink,
    Driver,
    Message,
    OutcomeSink,
    Outgoing,
    Receiver,
    SeekingDriver,
    Sender,
    Source,
    Target,
)


class Mutant:
    """A fault: what it does at each call of the driver interface, or to the layer above it. The base class has none.

    One object per connection. `state` lives as long as the process, per mutant, for faults between connections.
    """

    name: ClassVar[str] = "none"
    in_memory: ClassVar[bool] = True
    """Whether a broker in this process can have the fault; if not, it is made around real ones only (`around`)."""
    takes_tls: ClassVar[bool] = False
    """Whether, in memory, there is also a scheme that asks for TLS."""
    state: ClassVar[defaultdict[str, Any]]

    def __init_subclass__(cls) -> None:
        cls.name = "".join(f"-{c.lower()}" if c.isupper() else c for c in cls.__name__).strip("-")
        cls.state = defaultdict(dict)

    @classmethod
    def installed(cls) -> AbstractContextManager[None]:
        """Put the fault into the portable layer, for one test: where an adapter has no part in a guarantee."""
        return nullcontext()

    @classmethod
    def options(cls, real: type[msgspec.Struct]) -> type[msgspec.Struct]:
        return real

    def connect(self, real: Adapter, url: BrokerURL, options: msgspec.Struct, timeout: float) -> Driver:
        return real.connect(self.connecting(url), options, timeout=timeout)

    def connecting(self, url: BrokerURL) -> BrokerURL:
        return url

    def capabilities(self, real: Capabilities) -> Capabilities:
        return real

    def declare(
        self, driver: Driver, destination: Queue | Topic | Subscription, as_is: bool, timeout: float
    ) -> Queue | Topic | Subscription:
        return driver.declare(destination, as_is=as_is, timeout=timeout)

    def check(self, driver: Driver, destination: Queue | Topic | Subscription, timeout: float) -> None:
        driver.check(destination, timeout=timeout)

    def delete(self, driver: Driver, destination: Queue | Topic | Subscription, timeout: float) -> None:
        driver.delete(destination, timeout=timeout)

    def stats(self, driver: Driver, source: Source, timeout: float) -> Stats:
        return driver.stats(source, timeout=timeout)

    def seek(self, driver: Driver, source: Source, to: CheckedPosition, timeout: float) -> None:
        """Move to a position."""
        assert isinstance(driver, SeekingDriver)
        driver.seek(source, to, timeout=timeout)

    def prefetch(self, wanted: int) -> int:
        return wanted

    def opened(self, driver: Driver) -> None:
        pass

    def submit(self, sender: "FaultySender", entries: Sequence[Outgoing]) -> None:
        sender.real.submit(entries)

    def flush(self, sender: "FaultySender") -> None:
        sender.real.flush()

    def failed(self, sink: OutcomeSink, entries: Sequence[Outgoing], error: UnimqError) -> None:
        sink.failed(entries, error)

    def deliver(self, receiver: "FaultyReceiver", deliveries: Sequence[Delivery]) -> None:
        receiver.portable.deliver(deliveries)

    def ack(self, receiver: "FaultyReceiver", deliveries: Sequence[Delivery]) -> None:
        receiver.real.ack(deliveries)

    def nack(self, receiver: "FaultyReceiver", delivery: Delivery, delay: float) -> None:
        receiver.real.nack(delivery, delay)

    def extend(self, receiver: "FaultyReceiver", delivery: Delivery, duration: float) -> None:
        receiver.real.extend(delivery, duration)

    def barrier(self, receiver: "FaultyReceiver", done: Callable[[Sequence[UnimqError]], None]) -> None:
        receiver.real.barrier(done)

    def receiving(self, receiver: "FaultyReceiver") -> None:
        """See a receiver that was opened just now."""

    def pause(self, receiver: "FaultyReceiver") -> None:
        receiver.real.pause()

    def close_receiver(self, receiver: "FaultyReceiver", timeout: float) -> None:
        receiver.real.close(timeout)

    def settle(self, settlement: Callable[[], None]) -> None:
        """Do what the user's ``ack``, ``nack`` or ``reject`` does."""
        settlement()

    def reject(self, portable: DeliverySink, delivery: Delivery, reason: str) -> None:
        portable.reject(delivery, reason)


class FaultyAdapter:
    """An adapter with the fault of one mutant, under these schemes."""

    def __init__(self, mutant: type[Mutant], real: Adapter, schemes: Sequence[str]) -> None:
        self.schemes = schemes
        self.options: type[msgspec.Struct] = mutant.options(real.options)
        self.mutant = mutant
        self.real = real

    def connect(self, url: BrokerURL, options: msgspec.Struct, *, timeout: float) -> "FaultyDriver":
        mutant = self.mutant()
        driver = mutant.connect(self.real, url, options, timeout)
        mutant.opened(driver)
        return FaultyDriver(mutant, driver)


class FaultyDriver:
    def __init__(self, mutant: Mutant, real: Driver) -> None:
        self.mutant = mutant
        self.real = real

    @property
    def capabilities(self) -> Capabilities:
        return self.mutant.capabilities(self.real.capabilities)

    @property
    def native(self) -> object:
        return self.real.native

    def declare(
        self, destination: Queue | Topic | Subscription, *, as_is: bool, timeout: float
    ) -> Queue | Topic | Subscription:
        return self.mutant.declare(self.real, destination, as_is, timeout)

    def check(self, destination: Queue | Topic | Subscription, *, timeout: float) -> None:
        self.mutant.check(self.real, destination, timeout)

    def delete(self, destination: Queue | Topic | Subscription, *, timeout: float) -> None:
        self.mutant.delete(self.real, destination, timeout)

    def purge(self, source: Source, *, timeout: float) -> int | None:
        return self.real.purge(source, timeout=timeout)

    def seek(self, source: Source, to: CheckedPosition, *, timeout: float) -> None:
        self.mutant.seek(self.real, source, to, timeout)

    def stats(self, source: Source, *, timeout: float) -> Stats:
        return self.mutant.stats(self.real, source, timeout)

    def open_sender(self, target: Target, sink: OutcomeSink, *, timeout: float) -> "FaultySender":
        return FaultySender(self, target, sink, timeout)

    def open_receiver(self, source: Source, sink: DeliverySink, *, prefetch: int, timeout: float) -> "FaultyReceiver":
        return FaultyReceiver(self, source, sink, prefetch, timeout)

    def close(self, timeout: float) -> None:
        self.real.close(timeout)


class FaultySender:
    """Sender, and the sink that the real sender reports to."""

    is_immediate = False
    """Some faults report later than the in-memory broker does."""

    def __init__(self, driver: FaultyDriver, target: Target, sink: OutcomeSink, timeout: float) -> None:
        self.mutant = driver.mutant
        self.driver = driver.real
        self.target = target
        self.largest = driver.capabilities.max_message_bytes
        self.sink = sink
        self.held: list[Outgoing] = []
        """What the mutant keeps to itself."""
        self.real: Sender = driver.real.open_sender(target, self, timeout=timeout)

    def submit(self, entries: Sequence[Outgoing]) -> None:
        self.mutant.submit(self, entries)

    def flush(self) -> None:
        self.mutant.flush(self)

    def close(self, timeout: float) -> None:
        self.real.close(timeout)

    def stored(self, entries: Sequence[Outgoing]) -> None:
        self.sink.stored(entries)

    def failed(self, entries: Sequence[Outgoing], error: UnimqError) -> None:
        self.mutant.failed(self.sink, entries, error)


class FaultySink:
    """What the real receiver delivers to, and what settles its deliveries for the user."""

    def __init__(self, mutant: Mutant, receiver: "FaultyReceiver", portable: DeliverySink) -> None:
        self.mutant = mutant
        self.receiver = receiver
        self.portable = portable

    @property
    def source_name(self) -> str:
        return self.portable.source_name

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        self.receiver.take(deliveries)

    def lost(self, deliveries: Sequence[Delivery]) -> None:
        self.portable.lost(deliveries)

    def failed(self, error: UnimqError) -> None:
        self.portable.failed(error)

    def ack(self, delivery: Delivery) -> None:
        self.mutant.settle(lambda: self.portable.ack(delivery))

    def nack(self, delivery: Delivery, delay: Seconds) -> None:
        self.mutant.settle(lambda: self.portable.nack(delivery, delay))

    def reject(self, delivery: Delivery, reason: str) -> None:
        self.mutant.settle(lambda: self.mutant.reject(self.portable, delivery, reason))

    def extend(self, delivery: Delivery, duration: Seconds) -> None:
        self.portable.extend(delivery, duration)


class FaultyReceiver:
    """What the portable layer settles through."""

    def __init__(self, driver: FaultyDriver, source: Source, sink: DeliverySink, prefetch: int, timeout: float) -> None:
        self.mutant = driver.mutant
        self.driver = driver.real
        self.source = source
        self.portable = sink
        self.delivered: list[Delivery] = []
        self._early: list[Delivery] | None = []
        """What comes before the real receiver is known."""
        self.real: Receiver = driver.real.open_receiver(
            source,
            FaultySink(self.mutant, self, sink),
            prefetch=self.mutant.prefetch(prefetch),
            timeout=timeout,
        )
        early, self._early = self._early, None
        if early:
            self.mutant.deliver(self, early)
        self.mutant.receiving(self)

    def take(self, deliveries: Sequence[Delivery]) -> None:
        self.delivered.extend(deliveries)
        if self._early is not None:
            self._early.extend(deliveries)
        else:
            self.mutant.deliver(self, deliveries)

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        self.mutant.ack(self, deliveries)

    def nack(self, delivery: Delivery, delay: float) -> None:
        self.mutant.nack(self, delivery, delay)

    def extend(self, delivery: Delivery, duration: float) -> None:
        self.mutant.extend(self, delivery, duration)

    def barrier(self, done: Callable[[Sequence[UnimqError]], None]) -> None:
        self.mutant.barrier(self, done)

    def pause(self) -> None:
        self.mutant.pause(self)

    def resume(self) -> None:
        self.real.resume()

    def close(self, timeout: float) -> None:
        self.mutant.close_receiver(self, timeout)


class Deaf:
    """An outcome sink that does not listen."""

    def stored(self, entries: Sequence[Outgoing]) -> None: ...
    def failed(self, entries: Sequence[Outgoing], error: UnimqError) -> None: ...


class Rewriting(Mutant):
    """Base of the faults that change what is sent."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        for entry in entries:
            self.change(entry.message)
        sender.real.submit(entries)

    def change(self, message: Message) -> None:
        raise NotImplementedError
