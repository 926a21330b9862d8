"""Deliberately broken brokers: a test that passes on all of them proves nothing.

Each mutant is the in-memory adapter with one fault, put in at the driver interface, under a scheme of its own. A test
says with ``@guarantee(…, kills=…)`` on which of them it must fail, and

    pytest -p unimq_contract.plugin -p unimq_contract.mutants --pyargs unimq_contract --unimq-mutants all

runs those tests on those mutants. A mutant is killed when a test fails on it by an assertion; one that survives a test
that claims it, that nobody claims, or that only breaks something by accident, fails the run.
"""

import itertools
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import msgspec
import pytest

from unimq import (
    AlreadySettled,
    LeaseLost,
    MessageTooLarge,
    NotFound,
    Queue,
    Stats,
    Subscription,
    Topic,
    UnimqError,
    Unroutable,
)
from unimq._adapters import load_adapter, register_adapter
from unimq._dead_letters import REASON, REDRIVES
from unimq._destinations import Seconds
from unimq._receiving import UNDECODABLE
from unimq.adapter import (
    NO_HEADERS,
    REPLY_PREFIX,
    Adapter,
    BrokerURL,
    Capabilities,
    Delivery,
    DeliverySink,
    Driver,
    Message,
    OutcomeSink,
    Outgoing,
    Receiver,
    Sender,
    Source,
    Target,
    native,
    queue_of,
    unsupported,
)

STRESS = 0.2
"""Limits of time on a mutant: most of them are found out by something that does not come."""


class Mutant:
    """A fault: what it does at each call of the driver interface. The base class has none.

    One object per connection. `state` lives as long as the process, per mutant, for faults between connections.
    """

    name: ClassVar[str] = ""
    state: ClassVar[defaultdict[str, Any]]

    def __init_subclass__(cls) -> None:
        cls.name = "".join(f"-{c.lower()}" if c.isupper() else c for c in cls.__name__).strip("-")
        cls.state = defaultdict(dict)

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

    def close_receiver(self, receiver: "FaultyReceiver", timeout: float) -> None:
        receiver.real.close(timeout)

    def settle(self, settlement: Callable[[], None]) -> None:
        """Do what the user's ``ack``, ``nack`` or ``reject`` does."""
        settlement()

    def reject(self, portable: DeliverySink, delivery: Delivery, reason: str) -> None:
        portable.reject(delivery, reason)


# The seams: each passes its calls on to the mutant.


class FaultyAdapter:
    """The in-memory adapter under the scheme of one mutant."""

    def __init__(self, mutant: type[Mutant], memory: Adapter) -> None:
        self.schemes: Sequence[str] = (f"memory+{mutant.name}", f"memory+{mutant.name}+ssl")
        self.options: type[msgspec.Struct] = memory.options
        self.mutant = mutant
        self.memory = memory

    def connect(self, url: BrokerURL, options: msgspec.Struct, *, timeout: float) -> "FaultyDriver":
        mutant = self.mutant()
        driver = self.memory.connect(mutant.connecting(url), options, timeout=timeout)
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
        self.real.pause()

    def resume(self) -> None:
        self.real.resume()

    def close(self, timeout: float) -> None:
        self.mutant.close_receiver(self, timeout)


# Faults of sending.


class LoseSome(Mutant):
    """Every fifth message is confirmed and not stored."""

    def __init__(self) -> None:
        self.count = itertools.count(1)

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        lost = [entry for entry in entries if next(self.count) % 5 == 0]
        sender.real.submit([entry for entry in entries if entry not in lost])
        sender.stored(lost)


class StoreTwice(Mutant):
    """Every message is stored twice."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        sender.real.submit(entries)
        sender.real.submit(entries)


class BatchLosesOne(Mutant):
    """The fourth entry of a batch is confirmed and not stored."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        sender.real.submit([*entries[:3], *entries[4:]])
        sender.stored(entries[3:4])


class SharedVerdict(Mutant):
    """One failed entry fails all entries of its batch."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        largest = cast("int", sender.largest)
        if any(entry.size > largest for entry in entries):
            sender.failed(entries, MessageTooLarge(f"some of {len(entries)} messages exceed {largest} bytes"))
        else:
            sender.real.submit(entries)


class TooLargeAccepted(Mutant):
    """A message that is too large is confirmed and not stored."""

    def failed(self, sink: OutcomeSink, entries: Sequence[Outgoing], error: UnimqError) -> None:
        sink.stored(entries) if isinstance(error, MessageTooLarge) else sink.failed(entries, error)


class LostDestinationAccepted(Mutant):
    """What no queue takes is confirmed."""

    def check(self, driver: Driver, destination: Queue | Topic | Subscription, timeout: float) -> None:
        pass

    def failed(self, sink: OutcomeSink, entries: Sequence[Outgoing], error: UnimqError) -> None:
        sink.stored(entries) if isinstance(error, NotFound | Unroutable) else sink.failed(entries, error)


class LingersForEver(Mutant):
    """An enqueued message leaves with the next flush only."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        sender.held += [entry for entry in entries if entry.group is not None]
        sender.real.submit([entry for entry in entries if entry.group is None])

    def flush(self, sender: FaultySender) -> None:
        held, sender.held = sender.held, []
        sender.real.submit(held)


class FlushDropsPending(LingersForEver):
    """What waits for a flush or a close is confirmed by it and not stored."""

    def flush(self, sender: FaultySender) -> None:
        held, sender.held = sender.held, []
        sender.stored(held)


class Phantom(Mutant):
    """Every seventh message brings along one that nobody sent."""

    def __init__(self) -> None:
        self.count = itertools.count(1)

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        sender.real.submit(entries)
        for entry in entries:
            if next(self.count) % 7 == 0:
                made_up = msgspec.structs.replace(entry.message, body=b"phantom", id=f"phantom of {entry.message.id}")
                sender.real.submit([Outgoing(made_up, entry.deadline, entry.size, done=True)])


class Rewriting(Mutant):
    """Base of the faults that change what is sent."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        for entry in entries:
            self.change(entry.message)
        sender.real.submit(entries)

    def change(self, message: Message) -> None:
        raise NotImplementedError


class HeadersDropped(Rewriting):
    """No message has headers."""

    def change(self, message: Message) -> None:
        message.headers = NO_HEADERS


class EleventhHeaderDropped(Rewriting):
    """Only ten headers arrive."""

    def change(self, message: Message) -> None:
        message.headers = dict(itertools.islice(message.headers.items(), 10))


class BinaryHeadersBecomeText(Rewriting):
    """A header of bytes that could be text arrives as text."""

    def change(self, message: Message) -> None:
        headers = {n: v.decode() if isinstance(v, bytes) and v.isascii() else v for n, v in message.headers.items()}
        message.headers = headers


class TextMangled(Rewriting):
    """The body passes through text and back."""

    def change(self, message: Message) -> None:
        message.body = message.body.decode(errors="replace").encode()


class BodyTruncated(Rewriting):
    """Bodies end at 64 KiB."""

    def change(self, message: Message) -> None:
        message.body = message.body[:65536]


class EmptyBodyLost(Mutant):
    """A message without a body is confirmed and not stored."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        sender.real.submit([entry for entry in entries if entry.message.body])
        sender.stored([entry for entry in entries if not entry.message.body])


class EmptyKeyForNone(Rewriting):
    """A message without a key arrives with an empty one."""

    def change(self, message: Message) -> None:
        message.key = message.key or ""


class DelayIgnored(Rewriting):
    """A delayed message comes at once."""

    def change(self, message: Message) -> None:
        message.delay = 0.0


class Shuffled(Mutant):
    """The messages of a batch are stored in reverse order."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        sender.real.submit(entries[::-1])


class DeadLetterLost(Mutant):
    """A dead-letter copy is confirmed and not stored."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        if sender.target.name.endswith("-dead"):
            sender.stored(entries)
        else:
            sender.real.submit(entries)


# Faults of receiving.


class PrefetchIgnored(Mutant):
    """The consumer gets everything at once."""

    def prefetch(self, wanted: int) -> int:
        return 1_000_000


class SlowWake(Mutant):
    """A message that arrives is noticed only half a second later."""

    def deliver(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        timer = threading.Timer(0.5, receiver.portable.deliver, [deliveries])
        timer.daemon = True
        timer.start()


class AttemptStuck(Mutant):
    """Every delivery is the first."""

    def deliver(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            delivery.attempt = 1
        receiver.portable.deliver(deliveries)


class AckedAtDelivery(Mutant):
    """A message is settled when it is handed out."""

    def deliver(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        receiver.portable.deliver(deliveries)
        receiver.real.ack(deliveries)


class TtlIgnored(Mutant):
    """What expired is delivered all the same."""

    def deliver(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            delivery.message.expires_at = None
            delivery.message.sent_at = time.time()
        receiver.portable.deliver(deliveries)


class EverybodyGetsAll(Mutant):
    """Consumers of one queue do not compete: each gets a copy of everything."""

    def deliver(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        receivers: list[FaultyReceiver] = self.state[receiver.portable.source_name].setdefault("receivers", [])
        if receiver not in receivers:
            receivers.append(receiver)
        for other in receivers:
            if other is receiver:
                other.portable.deliver(deliveries)
            else:
                copies = [Delivery(each.message, each.attempt, None, other.portable) for each in deliveries]
                other.portable.deliver(copies)

    def ack(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        receiver.real.ack([delivery for delivery in deliveries if delivery.token is not None])


class SubscriptionsCompete(Mutant):
    """The subscriptions of a topic share its messages."""

    def deliver(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        if not isinstance(receiver.source, Subscription):
            receiver.portable.deliver(deliveries)
            return
        taken: dict[str, str] = self.state[receiver.source.topic.name]
        me = receiver.source.name
        mine = [each for each in deliveries if taken.setdefault(each.id, me) == me]
        receiver.real.ack([each for each in deliveries if each not in mine])
        receiver.portable.deliver(mine)


# Faults of settling.


class AckDropped(Mutant):
    """An ack does not reach the broker."""

    def ack(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        pass


class AcksLostAtClose(Mutant):
    """Acks wait for the next barrier, and a close forgets them."""

    def __init__(self) -> None:
        self.waiting: list[Delivery] = []

    def ack(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        self.waiting += deliveries

    def barrier(self, receiver: FaultyReceiver, done: Callable[[Sequence[UnimqError]], None]) -> None:
        waiting, self.waiting = self.waiting, []
        receiver.real.ack(waiting)
        receiver.real.barrier(done)


class RedeliversAcked(Mutant):
    """Every fifth acked message comes again."""

    def __init__(self) -> None:
        self.count = itertools.count(1)

    def ack(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            if next(self.count) % 5 == 0:
                receiver.real.nack(delivery, 0.0)
            else:
                receiver.real.ack((delivery,))


class CumulativeAck(Mutant):
    """An ack settles everything that was delivered before."""

    def ack(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        last = max(receiver.delivered.index(delivery) for delivery in deliveries)
        receiver.real.ack(receiver.delivered[: last + 1])


class NackAcks(Mutant):
    """A nack settles the message for good."""

    def nack(self, receiver: FaultyReceiver, delivery: Delivery, delay: float) -> None:
        receiver.real.ack((delivery,))


class NackOnlyAtRestart(Mutant):
    """A nacked message returns when its consumer is closed, and not before."""

    def nack(self, receiver: FaultyReceiver, delivery: Delivery, delay: float) -> None:
        pass


class NackDelayIgnored(Mutant):
    """A nacked message comes again at once, whatever its delay."""

    def nack(self, receiver: FaultyReceiver, delivery: Delivery, delay: float) -> None:
        receiver.real.nack(delivery, 0.0)


class NackReturnsAll(Mutant):
    """A nack gives back everything that the consumer holds."""

    def nack(self, receiver: FaultyReceiver, delivery: Delivery, delay: float) -> None:
        for held in receiver.delivered[:]:
            receiver.real.nack(held, 0.0)


class NacksLostAtClose(Mutant):
    """A nack waits in the memory of the client, and a close forgets it."""

    def __init__(self) -> None:
        self.nacked: list[Delivery] = []

    def nack(self, receiver: FaultyReceiver, delivery: Delivery, delay: float) -> None:
        self.nacked.append(delivery)

    def close_receiver(self, receiver: FaultyReceiver, timeout: float) -> None:
        receiver.real.ack(self.nacked)
        receiver.real.close(timeout)


class NackedHeadBehind(Mutant):
    """A nacked message goes behind the others of its key."""

    def nack(self, receiver: FaultyReceiver, delivery: Delivery, delay: float) -> None:
        again = msgspec.structs.replace(delivery.message, delay=delay)
        sender = receiver.driver.open_sender(queue_of(receiver.source), Deaf(), timeout=1.0)
        sender.submit([Outgoing(again, time.monotonic() + 1.0, 0)])
        receiver.real.ack((delivery,))


class Deaf:
    """An outcome sink that does not listen."""

    def stored(self, entries: Sequence[Outgoing]) -> None: ...
    def failed(self, entries: Sequence[Outgoing], error: UnimqError) -> None: ...


class RejectRequeues(Mutant):
    """A rejected message comes again."""

    def reject(self, portable: DeliverySink, delivery: Delivery, reason: str) -> None:
        portable.nack(delivery, 0.0)


class SecondSettlementAccepted(Mutant):
    """A second settlement is no error."""

    def settle(self, settlement: Callable[[], None]) -> None:
        try:
            settlement()
        except AlreadySettled:
            return


class StaleSettlementAccepted(Mutant):
    """The settlement of a delivery that is not held any more is no error."""

    def settle(self, settlement: Callable[[], None]) -> None:
        try:
            settlement()
        except LeaseLost:
            return


class ExtendIgnored(Mutant):
    """A lease ends when it was to end, whatever is asked."""

    def extend(self, receiver: FaultyReceiver, delivery: Delivery, duration: float) -> None:
        pass


class ShutdownCounts(Mutant):
    """A close counts as a failed delivery of everything held."""

    def close_receiver(self, receiver: FaultyReceiver, timeout: float) -> None:
        receiver.real.pause()
        for delivery in receiver.delivered:
            receiver.real.nack(delivery, 0.0)
        receiver.real.close(timeout)


class LimitOffByOne(Mutant):
    """A message fails once more than ``max_deliveries`` before it is dead-lettered."""

    def declare(
        self, driver: Driver, destination: Queue | Topic | Subscription, as_is: bool, timeout: float
    ) -> Queue | Topic | Subscription:
        found = driver.declare(destination, as_is=as_is, timeout=timeout)
        if isinstance(found, Queue) and found.max_deliveries is not None:
            return replace(found, max_deliveries=found.max_deliveries + 1)
        return found


class LimitTooEarly(LimitOffByOne):
    """A message fails once less than ``max_deliveries`` before it is dead-lettered."""

    def declare(
        self, driver: Driver, destination: Queue | Topic | Subscription, as_is: bool, timeout: float
    ) -> Queue | Topic | Subscription:
        found = driver.declare(destination, as_is=as_is, timeout=timeout)
        if isinstance(found, Queue) and found.max_deliveries is not None:
            return replace(found, max_deliveries=found.max_deliveries - 1)
        return found


# Faults at the edge of limits.

LONG = 3600.0
"""Seconds beyond which some faults set in."""


class RefusesAtTheLimit(Mutant):
    """A message of exactly the largest size is refused as too large."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        largest = cast("int", sender.largest)
        at_limit = [entry for entry in entries if entry.size == largest]
        for entry in at_limit:
            sender.failed((entry,), MessageTooLarge(f"{entry.size} bytes; less than {largest} are taken"))
        sender.real.submit([entry for entry in entries if entry not in at_limit])


class RefusalSpoilsNeighbours(Mutant):
    """What follows a message that is too large in its batch is confirmed and not stored."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        largest = cast("int", sender.largest)
        first = next((index for index, entry in enumerate(entries) if entry.size > largest), len(entries))
        sender.real.submit(entries[: first + 1])
        sender.stored(entries[first + 1 :])


class LongHeadersCut(Rewriting):
    """The value of a header ends at 64 KiB."""

    def change(self, message: Message) -> None:
        if message.headers:
            message.headers = {name: value[:65536] for name, value in message.headers.items()}


class HeadersCountedOff(Rewriting):
    """Of very many headers a hundred arrive."""

    def change(self, message: Message) -> None:
        if len(message.headers) > 100:
            message.headers = dict(itertools.islice(message.headers.items(), 100))


class LongFieldsCut(Rewriting):
    """Content type, correlation id and reply queue end after 255 characters."""

    def change(self, message: Message) -> None:
        for field in ("content_type", "correlation_id", "reply_to"):
            value = getattr(message, field)
            setattr(message, field, value and value[:255])


class LongNamesAreOne(Mutant):
    """Of a name of 80 characters the last one does not count."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        name = sender.target.name
        if len(name) < 80:
            sender.real.submit(entries)
            return
        taken = self.state["names"].setdefault(name[:79], name)
        sender.driver.open_sender(Queue(taken, dead_letter=False), Deaf(), timeout=1.0).submit(entries)
        sender.stored(entries)


class DeadLettersOfLongNamesLost(Mutant):
    """A dead-letter queue with a very long name stores nothing."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        if sender.target.name.endswith("-dead") and len(sender.target.name) > 78:
            sender.stored(entries)
        else:
            sender.real.submit(entries)


class LongDelaysComeAtOnce(Rewriting):
    """A delay that is very long is none."""

    def change(self, message: Message) -> None:
        message.delay = message.delay if message.delay < LONG else 0.0


class LongNackDelaysComeAtOnce(Mutant):
    """A nack with a very long delay has none."""

    def nack(self, receiver: FaultyReceiver, delivery: Delivery, delay: float) -> None:
        receiver.real.nack(delivery, delay if delay < LONG else 0.0)


class LongLeasesEndAtOnce(Mutant):
    """A very long lease, declared or asked for by `extend`, ends at once."""

    def declare(
        self, driver: Driver, destination: Queue | Topic | Subscription, as_is: bool, timeout: float
    ) -> Queue | Topic | Subscription:
        if isinstance(destination, Queue) and (destination.lease_seconds or 0.0) > LONG:
            destination = replace(destination, lease=0.001)
        return driver.declare(destination, as_is=as_is, timeout=timeout)

    def extend(self, receiver: FaultyReceiver, delivery: Delivery, duration: float) -> None:
        receiver.real.extend(delivery, duration if duration < LONG else 0.01)


# Faults of what is declared.


class RefusesWhatWorks(Mutant):
    """A nack could wait, and is declared not to."""

    def capabilities(self, real: Capabilities) -> Capabilities:
        return replace(real, nack_delay=unsupported("cannot wait", "nack() without delay"))


class PlainTextForTls(Mutant):
    """A server that does not speak TLS is spoken to without."""

    def connecting(self, url: BrokerURL) -> BrokerURL:
        if not url.scheme.endswith("+ssl"):
            return url
        host, port = url.hosts[0]
        with socket.create_connection((host, cast("int", port))) as connection:
            connection.sendall(b"hello, here I am")
        return replace(url, hosts=())


class ClaimsHistory(Mutant):
    """History is declared to be kept, and is not."""

    def capabilities(self, real: Capabilities) -> Capabilities:
        return replace(real, start_earliest=native())


class SaysNoReason(Mutant):
    """What is unsupported does not say why, nor what to use instead."""

    def capabilities(self, real: Capabilities) -> Capabilities:
        return replace(real, start_earliest=unsupported(""))


class LanesForEverybody(Mutant):
    """Every queue keeps the order of keys, whether asked to or not."""

    def declare(
        self, driver: Driver, destination: Queue | Topic | Subscription, as_is: bool, timeout: float
    ) -> Queue | Topic | Subscription:
        if isinstance(destination, Queue):
            driver.declare(replace(destination, ordering="key"), as_is=True, timeout=timeout)
            return destination
        return driver.declare(destination, as_is=as_is, timeout=timeout)


# Faults of typed bodies.


class ContentTypeDropped(Rewriting):
    """No message has a content type."""

    def change(self, message: Message) -> None:
        message.content_type = None


class BodyWrittenAnew(Rewriting):
    """A body of JSON is read and written again, with the same meaning and other bytes."""

    def change(self, message: Message) -> None:
        if message.content_type == "application/json" and message.body.startswith(b"{"):
            message.body = msgspec.json.format(message.body, indent=1)


class UndecodableDropped(Mutant):
    """What cannot be decoded is acked, and its dead letter is not stored."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        dropped = [entry for entry in entries if entry.message.headers.get(REASON) == UNDECODABLE]
        sender.real.submit([entry for entry in entries if entry not in dropped])
        sender.stored(dropped)


class PoisonComesAgain(Mutant):
    """What nobody could decode is delivered once more after its copy is in the dead letters."""

    def ack(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        has_codec = getattr(receiver.portable, "codec", None) is not None
        for delivery in deliveries:
            if has_codec and delivery.decoded is msgspec.UNSET and delivery.attempt == 1:
                receiver.real.nack(delivery, 0.0)
            else:
                receiver.real.ack((delivery,))


# Faults of holding and sending on.


class RoomOnlyWhenEmpty(Mutant):
    """A consumer gets nothing more until everything that it holds is settled."""

    def __init__(self) -> None:
        self.out: set[int] = set()
        self.waiting: list[Delivery] = []
        self.lock = threading.RLock()

    def deliver(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        with self.lock:
            self.waiting += deliveries
            self.hand_out(receiver)

    def hand_out(self, receiver: FaultyReceiver) -> None:
        if not self.out:
            given, self.waiting = self.waiting, []
            self.out.update(map(id, given))
            receiver.portable.deliver(given)

    def ack(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        receiver.real.ack(deliveries)
        with self.lock:
            self.out.difference_update(map(id, deliveries))
            self.hand_out(receiver)


class InternalHeadersLeak(Mutant):
    """A delivery has a header that only the library may set."""

    def deliver(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            delivery.message.headers = {**delivery.message.headers, "unimq-sent-at": "0"}
        receiver.portable.deliver(deliveries)


class AttemptSticksToMessage(Mutant):
    """What was delivered twice counts on wherever it is sent to."""

    def deliver(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            delivery.attempt = self.state["attempts"][delivery.id] = self.state["attempts"].get(delivery.id, 0) + 1
        receiver.portable.deliver(deliveries)


# Faults of request and reply.


class CorrelationIdDropped(Rewriting):
    """No message has a correlation id."""

    def change(self, message: Message) -> None:
        message.correlation_id = None


class RepliesSwapped(Mutant):
    """Of two replies each goes to the request of the other."""

    def __init__(self) -> None:
        self.odd: Delivery | None = None

    def deliver(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        if not queue_of(receiver.source).name.startswith(REPLY_PREFIX):
            receiver.portable.deliver(deliveries)
            return
        for delivery in deliveries:
            other, self.odd = self.odd, delivery
            if other is not None:
                self.odd = None
                one, two = other.message, delivery.message
                one.correlation_id, two.correlation_id = two.correlation_id, one.correlation_id
                receiver.portable.deliver((other, delivery))


class LateReplyDelivered(Mutant):
    """Whatever reply comes is given to the request that was sent last."""

    def __init__(self) -> None:
        self.last: str | None = None

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        for entry in entries:
            if entry.message.reply_to is not None:
                self.last = entry.message.correlation_id
        sender.real.submit(entries)

    def deliver(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        if queue_of(receiver.source).name.startswith(REPLY_PREFIX):
            for delivery in deliveries:
                delivery.message.correlation_id = self.last
        receiver.portable.deliver(deliveries)


class ReplyQueueLeftBehind(Mutant):
    """A reply queue cannot be deleted."""

    def delete(self, driver: Driver, destination: Queue | Topic | Subscription, timeout: float) -> None:
        if not (isinstance(destination, Queue) and destination.name.startswith(REPLY_PREFIX)):
            driver.delete(destination, timeout=timeout)


# Faults of redriving.


class RedriveLosesOne(Mutant):
    """One redriven message of each batch is confirmed and not stored."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        lost = [entry for entry in entries if REDRIVES in entry.message.headers][:1]
        sender.real.submit([entry for entry in entries if entry not in lost])
        sender.stored(lost)


class RedriveMakesNewIds(Rewriting):
    """A redriven message has another id than it had."""

    def change(self, message: Message) -> None:
        if REDRIVES in message.headers:
            message.id += "-again"


class RedriveReachesAllSubscriptions(Mutant):
    """What is redriven to a subscription goes to its topic."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        topic, separator, _ = sender.target.name.partition("--")
        if not separator or not any(REDRIVES in entry.message.headers for entry in entries):
            sender.real.submit(entries)
            return
        sender.driver.open_sender(Topic(topic), sender, timeout=1).submit(entries)


class DeadLettersAckedAtDelivery(Mutant):
    """A dead letter is settled as soon as somebody reads it, before any copy of it is stored."""

    def deliver(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        receiver.portable.deliver(deliveries)
        if queue_of(receiver.source).name.endswith("-dead"):
            receiver.real.ack(deliveries)


class MissingQueuesAreFound(Mutant):
    """Whatever is asked for is said to exist."""

    def check(self, driver: Driver, destination: Queue | Topic | Subscription, timeout: float) -> None:
        driver.declare(destination, as_is=True, timeout=timeout)


# Faults of administration and closing.


class MaxLengthIgnored(Mutant):
    """A bounded queue takes everything."""

    def declare(
        self, driver: Driver, destination: Queue | Topic | Subscription, as_is: bool, timeout: float
    ) -> Queue | Topic | Subscription:
        if isinstance(destination, Queue) and destination.max_length is not None:
            driver.declare(replace(destination, max_length=None), as_is=as_is, timeout=timeout)
            return destination
        return driver.declare(destination, as_is=as_is, timeout=timeout)


class StatsStale(Mutant):
    """The first numbers are given for ever."""

    def stats(self, driver: Driver, source: Source, timeout: float) -> Stats:
        first: dict[str, Stats] = self.state["first"]
        name = queue_of(source).name
        if name not in first:
            first[name] = driver.stats(source, timeout=timeout)
        return first[name]


class DeliversAfterClose(Mutant):
    """A closed consumer stays subscribed, and messages vanish into it."""

    def close_receiver(self, receiver: FaultyReceiver, timeout: float) -> None:
        pass


class ThreadLeftBehind(Mutant):
    """Each connection leaves a thread behind."""

    def opened(self, driver: Driver) -> None:
        threading.Thread(target=threading.Event().wait, name="left-behind", daemon=True).start()


def mutants() -> dict[str, type[Mutant]]:
    """Return every mutant by name."""
    found = {kind.name: kind for kind in globals().values() if isinstance(kind, type) and issubclass(kind, Mutant)}
    return {name: kind for name, kind in found.items() if kind not in {Mutant, Rewriting}}


# The plugin.

_verdicts = pytest.StashKey[dict[tuple[str, str], str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("unimq").addoption(
        "--unimq-mutants", default="", metavar="LIST", help="run the tests that must fail on these mutants, or on all"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    option = session.config.option
    known = mutants()
    wanted = list(known) if option.unimq_mutants == "all" else option.unimq_mutants.split(",")
    unknown = set(wanted) - known.keys()
    if unknown:
        raise pytest.UsageError(f"--unimq-mutants: unknown {sorted(unknown)}; known: all, {', '.join(known)}")
    memory = load_adapter("memory")
    for name in wanted:
        register_adapter(cast("Adapter", FaultyAdapter(known[name], memory)))
    option.unimq_url = [f"memory+{name}://mutant?max_message_bytes=1000000" for name in wanted]
    option.unimq_stress = STRESS
    session.config.stash[_verdicts] = {}


def _claims(item: pytest.Item) -> Iterator[str]:
    """Yield the mutant on which the item runs, if it claims to kill it."""
    mark = item.get_closest_marker("guarantee")
    tested = getattr(item, "callspec", None)
    if mark is None or tested is None or tested.params.get("front", "sync") != "sync":
        return
    name = tested.params["backend"].scheme.removeprefix("memory+")
    if name in mark.kwargs["kills"]:
        yield name


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    known = mutants()
    for item in items:
        mark = item.get_closest_marker("guarantee")
        unknown = set(mark.kwargs["kills"]) - known.keys() if mark is not None else ()
        if unknown:
            raise pytest.UsageError(f"{item.nodeid} claims to kill {sorted(unknown)}, which do not exist")
    chosen = [item for item in items if any(_claims(item))]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = cast("pytest.TestReport", (yield))
    verdicts = item.config.stash[_verdicts]
    key = (next(_claims(item)), cast("pytest.Function", item).originalname)
    if report.skipped:
        verdicts[key] = "skipped"
    elif call.excinfo is None:
        verdicts.setdefault(key, "survived")
    elif verdicts.get(key) != "killed":
        # At teardown too: leaks are judged there. An error that is no assertion says nothing about the guarantee.
        by_assertion = call.excinfo.errisinstance((AssertionError, pytest.fail.Exception))
        verdicts[key] = "killed" if by_assertion else f"killed by accident: {call.excinfo.exconly()[:100]}"
    return cast("None", report)


def pytest_sessionfinish(session: pytest.Session) -> None:
    verdicts = session.config.stash[_verdicts]
    if session.exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        is_proven = not _unclaimed(session.config) and all(verdict == "killed" for verdict in verdicts.values())
        session.exitstatus = pytest.ExitCode.OK if is_proven else pytest.ExitCode.TESTS_FAILED


def _unclaimed(config: pytest.Config) -> list[str]:
    wanted = [url.partition("://")[0].removeprefix("memory+") for url in config.option.unimq_url]
    return sorted(set(wanted) - {name for name, _ in config.stash[_verdicts]})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    verdicts = config.stash[_verdicts]
    terminalreporter.section("mutants")
    for (name, test), verdict in sorted(verdicts.items()):
        terminalreporter.write_line(f"{name}: {test}: {verdict}")
    for name in _unclaimed(config):
        terminalreporter.write_line(f"{name}: no test claims to kill it")
    killed = len({name for (name, _), verdict in verdicts.items() if verdict == "killed"})
    terminalreporter.write_line(f"{killed} of {len(config.option.unimq_url)} mutants killed")
