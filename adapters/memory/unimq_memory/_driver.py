"""The driver of the in-memory broker: everything happens in the calling thread, under the lock of the store."""

import itertools
import time
from collections.abc import Callable, Sequence
from typing import ClassVar

import msgspec

from unimq import (
    ConfigError,
    DeclarationConflict,
    MessageTooLarge,
    Queue,
    Stats,
    Subscription,
    Topic,
    UnimqError,
)
from unimq.adapter import (
    BrokerURL,
    Capabilities,
    Delivery,
    DeliverySink,
    OutcomeSink,
    Outgoing,
    Source,
    Target,
    native,
    queue_of,
    unsupported,
)
from unimq_memory._store import MemoryQueue, MemoryReceiver, MemoryTopic, Store, shared_store

_private_numbers = itertools.count(1)


class MemoryOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Options of a ``memory://`` URL."""

    private: bool = False
    """A broker of its own, which ends with this connection."""
    max_message_bytes: int = 128 * 1024 * 1024
    """Largest body with key and headers; the limit of RabbitMQ 3 unless a test wants another."""


class MemoryAdapter:
    """``memory://`` for the brokers of this process."""

    schemes: ClassVar[Sequence[str]] = ("memory",)
    options: ClassVar[type[msgspec.Struct]] = MemoryOptions

    def connect(self, url: BrokerURL, options: MemoryOptions, *, timeout: float) -> "MemoryDriver":
        """Connect to the broker of this name; nothing can be refused and nothing waits."""
        name = _name_in(url)
        store = Store(f"private-{next(_private_numbers)}") if options.private else shared_store(name)
        return MemoryDriver(store, options.max_message_bytes)

    def offline_capabilities(self, url: BrokerURL, options: MemoryOptions) -> Capabilities:
        """See `unimq.adapter.OfflineAdapter`; what is in this process is known for certain."""
        _name_in(url)
        return _capabilities(options.max_message_bytes)


def _name_in(url: BrokerURL) -> str:
    if url.path or len(url.hosts) > 1 or any(port is not None for _, port in url.hosts):
        raise ConfigError(f"{url}: expected memory:// or memory://NAME")
    if url.user is not None:
        raise ConfigError(f"{url}: memory:// takes no credentials")
    return url.hosts[0][0] if url.hosts else ""


def _capabilities(max_message_bytes: int) -> Capabilities:
    return Capabilities(
        backend="memory",
        broker_version="",
        client_version="",
        durable=unsupported("the messages live in this process", "any other backend"),
        topics=native(),
        start_earliest=unsupported("no history is kept", "declare the subscription before sending"),
        require_subscription=native(),
        ordering_key=native(),
        delay=native(),
        ttl=native("checked at delivery"),
        nack_delay=native(),
        lease=native(),
        extend=native("where a lease is declared"),
        max_length=native("counts what no consumer holds"),
        drop_oldest=native("counts what no consumer holds"),
        dead_letter=native(),
        redrive_subscription=native(),
        stats=native("exact"),
        purge=native(),
        pause=native(),
        attempts_exact=True,
        shutdown_counts=False,
        max_message_bytes=max_message_bytes,
    )


class MemoryDriver:
    """One connection to a store."""

    def __init__(self, store: Store, max_message_bytes: int) -> None:
        self.store = store
        self.max_message_bytes = max_message_bytes
        self.closed = False
        self.capabilities = _capabilities(max_message_bytes)
        store.attach()

    @property
    def native(self) -> object:
        """The store itself."""
        return self.store

    def declare(
        self, destination: Queue | Topic | Subscription, *, as_is: bool, timeout: float
    ) -> Queue | Topic | Subscription:
        """See `unimq.adapter.Driver.declare`."""
        store = self.store
        with store.lock:
            if isinstance(destination, Topic):
                topic = store.topics.setdefault(destination.name, MemoryTopic(destination))
                if topic.policy != destination and not as_is:
                    raise DeclarationConflict(f"topic {destination.name!r} exists as {topic.policy!r}")
                return topic.policy
            policy = queue_of(destination)
            queue = store.queues.get(policy.name)
            if queue is None:
                queue = store.queues[policy.name] = MemoryQueue(store, policy)
                if isinstance(destination, Subscription):
                    store.find_topic(destination.topic.name).queues[destination.name] = queue
            elif queue.policy != policy and not as_is:
                differences = ", ".join(
                    f"{name} is {there!r}, not {here!r}"
                    for name, (there, here) in queue.policy.differences(policy).items()
                )
                raise DeclarationConflict(f"queue {policy.name!r} exists: {differences}")
            return destination if isinstance(destination, Subscription) else queue.policy

    def check(self, destination: Queue | Topic | Subscription, *, timeout: float) -> None:
        """See `unimq.adapter.Driver.check`."""
        with self.store.lock:
            if isinstance(destination, Topic):
                self.store.find_topic(destination.name)
            else:
                self.store.find_queue(queue_of(destination).name)

    def delete(self, destination: Queue | Topic | Subscription, *, timeout: float) -> None:
        """See `unimq.adapter.Driver.delete`."""
        store = self.store
        with store.lock:
            if isinstance(destination, Topic):
                topic = store.topics.pop(destination.name, None)
                if topic is not None:
                    topic.deleted = True
                    for queue in topic.queues.values():
                        store.delete_queue(queue.policy.name)
                return
            if isinstance(destination, Subscription) and destination.topic.name in store.topics:
                store.topics[destination.topic.name].queues.pop(destination.name, None)
            store.delete_queue(queue_of(destination).name)

    def purge(self, source: Source, *, timeout: float) -> int | None:
        """See `unimq.adapter.Driver.purge`."""
        with self.store.lock:
            return self.store.find_queue(queue_of(source).name).purge()

    def stats(self, source: Source, *, timeout: float) -> Stats:
        """See `unimq.adapter.Driver.stats`."""
        with self.store.lock:
            queue = self.store.find_queue(queue_of(source).name)
            oldest = min((message.sent_at for message in queue.messages()), default=None)
            return Stats(
                ready=queue.waiting() - queue.delayed,
                in_flight=sum(len(receiver.held) for receiver in queue.receivers),
                delayed=queue.delayed,
                oldest_age=None if oldest is None else max(0.0, time.time() - oldest),
                consumers=len(queue.receivers),
            )

    def open_sender(self, target: Target, sink: OutcomeSink, *, timeout: float) -> "MemorySender":
        """See `unimq.adapter.Driver.open_sender`."""
        return MemorySender(self, target, sink)

    def open_receiver(
        self, source: Source, sink: DeliverySink, *, prefetch: int, timeout: float
    ) -> "MemoryReceiverDriver":
        """See `unimq.adapter.Driver.open_receiver`."""
        with self.store.lock:
            queue = self.store.find_queue(queue_of(source).name)
            receiver = MemoryReceiver(queue, sink, prefetch)
            queue.receivers.append(receiver)
            queue.dispatch()
        return MemoryReceiverDriver(self.store, receiver)

    def close(self, timeout: float) -> None:
        """See `unimq.adapter.Driver.close`."""
        if not self.closed:
            self.closed = True
            self.store.detach()


class MemorySender:
    """Stores in the calling thread; every outcome is known when `submit` returns."""

    is_immediate = True

    def __init__(self, driver: MemoryDriver, target: Target, sink: OutcomeSink) -> None:
        self.store = driver.store
        self.limit = driver.max_message_bytes
        self.target = target
        self.sink = sink
        self.queue: MemoryQueue | None = None

    def submit(self, entries: Sequence[Outgoing]) -> None:
        """See `unimq.adapter.Sender.submit`."""
        limit = self.limit
        for entry in entries:
            if entry.size > limit:
                self._refuse_too_large(entries)
                return
        try:
            with self.store.lock:
                queue = self.queue
                if queue is not None and queue.is_unlimited and not queue.deleted:
                    queue.put_unlimited(entries)
                    errors = None
                else:
                    errors = self._put(entries)
        except UnimqError as error:
            self.sink.failed(entries, error)
            return
        if not errors:
            self.sink.stored(entries)
            return
        for index, entry in enumerate(entries):
            if index in errors:
                self.sink.failed((entry,), errors[index])
            else:
                self.sink.stored((entry,))

    def _refuse_too_large(self, entries: Sequence[Outgoing]) -> None:
        good = [entry for entry in entries if entry.size <= self.limit]
        if good:
            self.submit(good)
        for entry in entries:
            if entry.size > self.limit:
                text = f"{entry.size} bytes with key and headers; memory:// takes {self.limit}"
                self.sink.failed((entry,), MessageTooLarge(text, message_id=entry.message.id))

    def _put(self, entries: Sequence[Outgoing]) -> dict[int, UnimqError]:
        """Find the queues and store in them; return the errors by position."""
        messages = [entry.message for entry in entries]
        if isinstance(self.target, Queue):
            self.queue = self.store.find_queue(self.target.name)
            return self.store.put_all((self.queue,), messages)
        queues = self.store.subscribers(self.store.find_topic(self.target.name))
        return self.store.put_all(queues, messages) if queues else {}

    def flush(self) -> None:
        """Nothing lingers."""

    def close(self, timeout: float) -> None:
        """Nothing is outstanding."""


class MemoryReceiverDriver:
    """The calls of one consumer; each is done when it returns."""

    def __init__(self, store: Store, receiver: MemoryReceiver) -> None:
        self.store = store
        self.receiver = receiver

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See `unimq.adapter.Receiver.ack`."""
        receiver = self.receiver
        with self.store.lock:
            receiver.queue.settle(receiver, deliveries)
            if receiver.queue.ready:
                receiver.queue.dispatch()

    def nack(self, delivery: Delivery, delay: float) -> None:
        """See `unimq.adapter.Receiver.nack`."""
        receiver = self.receiver
        with self.store.lock:
            receiver.queue.give_back(receiver, delivery, delay)
            receiver.queue.dispatch()

    def extend(self, delivery: Delivery, duration: float) -> None:
        """See `unimq.adapter.Receiver.extend`."""
        receiver = self.receiver
        with self.store.lock:
            receiver.queue.extend(receiver, delivery, duration)

    def barrier(self, done: Callable[[Sequence[UnimqError]], None]) -> None:
        """See `unimq.adapter.Receiver.barrier`: every settlement was done in its own call."""
        done(())

    def pause(self) -> None:
        """See `unimq.adapter.Receiver.pause`."""
        with self.store.lock:
            self.receiver.paused = True

    def resume(self) -> None:
        """See `unimq.adapter.Receiver.resume`."""
        with self.store.lock:
            self.receiver.paused = False
            self.receiver.queue.dispatch()

    def close(self, timeout: float) -> None:
        """See `unimq.adapter.Receiver.close`."""
        receiver = self.receiver
        with self.store.lock:
            if receiver.closed:
                return
            receiver.closed = True
            queue = receiver.queue
            if receiver in queue.receivers:
                queue.receivers.remove(receiver)
            queue.return_held(receiver, list(receiver.held), counts=False)
            queue.dispatch()
