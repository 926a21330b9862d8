"""Producers and consumers that record what happens to them. They wrap unimq's own and change nothing."""

import contextlib
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

import unimq
from unimq_contract.history.body import marked_body, read_mark
from unimq_contract.history.events import (
    Closed,
    Closing,
    Confirmed,
    Delivered,
    Depth,
    Extended,
    How,
    MaybeSent,
    NotSent,
    Opened,
    Refused,
    Sending,
    Sent,
    Settling,
    Subscribed,
    Topic,
    Unconfirmed,
    content_of,
)
from unimq_contract.history.log import History

SECOND = 1_000_000_000

NOT_SENT = (unimq.SendRejected, unimq.BufferFull, unimq.Closed, unimq.ConfigError, unimq.Unsupported)
"""Errors of a send after which the message is certainly not stored (S2); after all others it may be."""


class Recording:
    """Makes recording producers and consumers with names that no other process of the run has. Thread-safe."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._prefix = f"{os.getpid():x}{os.urandom(2).hex()}"
        self._names = map("{}{}".format, itertools.repeat(self._prefix), itertools.count(1))

    def producer(
        self,
        broker: unimq.Broker,
        target: str | unimq.Queue | unimq.Topic,
        *,
        timeout: float = 10.0,
        window: int = 1000,
    ) -> "RecordingProducer":
        """Open a producer that records."""
        opened = broker.producer(target, timeout=timeout, window=window)
        return RecordingProducer(self.history, opened, self._announce(target), f"p{next(self._names)}")

    def consumer(
        self, broker: unimq.Broker, source: str | unimq.Queue | unimq.Subscription, *, prefetch: int = 100
    ) -> "RecordingConsumer":
        """Open a consumer that records. A subscription gets what is sent from now on: it may be new."""
        opened = broker.consumer(source, prefetch=prefetch)
        return RecordingConsumer(self.history, opened, self._announce(source), f"c{next(self._names)}")

    def declare(self, broker: unimq.Broker, *destinations: unimq.Queue | unimq.Topic | unimq.Subscription) -> None:
        """Declare destinations: a subscription gets what is sent from now on (G2)."""
        for destination in destinations:
            broker.declare(destination)
            self._announce(destination)

    def dead_letters(
        self, broker: unimq.Broker, source: unimq.Queue | unimq.Subscription, *, prefetch: int = 100
    ) -> "RecordingConsumer":
        """Open a recording consumer of the dead-letter queue of `source`: only what was given up may come, all of it.

        Raises:
            ValueError: the source has no dead-letter queue.

        """
        queue = source if isinstance(source, unimq.Queue) else source.queue
        dead = queue.dead_letters
        if dead is None:
            raise ValueError(f"{queue.name!r} has no dead-letter queue")
        opened = broker.consumer(dead, prefetch=prefetch)
        self.history.record(Subscribed(time.monotonic_ns(), queue.name, dead.name, dead_letters=True))
        return RecordingConsumer(self.history, opened, dead.name, f"c{next(self._names)}")

    def depth(self, broker: unimq.Broker, source: unimq.Queue | unimq.Subscription) -> unimq.Stats:
        """Record what the broker says is left, if it says so exactly; for moments in which nobody does anything."""
        queue = source if isinstance(source, unimq.Queue) else source.queue
        stats = broker.stats(source)
        if stats.exact and stats.ready is not None:
            self.history.record(
                Depth(time.monotonic_ns(), queue.name, stats.ready, stats.in_flight or 0, stats.delayed or 0)
            )
        return stats

    def _announce(self, destination: str | unimq.Queue | unimq.Topic | unimq.Subscription) -> str:
        now = time.monotonic_ns()
        if isinstance(destination, unimq.Subscription):
            self.history.record(Subscribed(now, destination.topic.name, destination.queue.name))
            return destination.queue.name
        if isinstance(destination, unimq.Topic):
            self.history.record(Topic(now, destination.name))
            return destination.name
        return destination if isinstance(destination, str) else destination.name


class RecordingProducer:
    """A producer that records each send and its outcome. Thread-safe; each thread's messages have an order (O1)."""

    def __init__(self, history: History, producer: unimq.Producer, target: str, name: str) -> None:
        self.producer = producer
        self.name = name
        self._history = history
        self._target = target
        self._lane = _Lane(name, itertools.count(1))

    def send(
        self,
        body: bytes | None = None,
        *,
        size: int = 0,
        key: str | None = None,
        headers: dict[str, str | bytes] | None = None,
        content_type: str | None = None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        delay: float = 0.0,
        ttl: float | None = None,
    ) -> unimq.Receipt:
        """Send one message as `unimq.Producer.send` does; without `body` a marked one of `size` bytes.

        Raises:
            UnimqError: as `unimq.Producer.send` does.

        """
        message = self._message(body, size, key, headers, content_type, correlation_id, reply_to, delay, ttl)
        try:
            receipt = self.producer.send(message)
        except BaseException as error:
            self._failed(message.id, error)
            raise
        self._history.record(Sent(time.monotonic_ns(), message.id))
        return receipt

    def send_many(
        self, count: int, *, size: int = 0, key: Callable[[int], str | None] | None = None
    ) -> list[unimq.Receipt | unimq.UnimqError]:
        """Send `count` marked messages in one go, with ``key(index)``; return each one's own outcome (S3)."""
        messages = [self._message(None, size, key and key(index)) for index in range(count)]
        try:
            outcomes = self.producer.send_many(messages, return_errors=True)
        except BaseException as error:
            for message in messages:
                self._failed(message.id, error)
            raise
        for message, outcome in zip(messages, outcomes, strict=True):
            self._ended(message.id, outcome)
        return outcomes

    def enqueue(self, body: bytes | None = None, *, size: int = 0, key: str | None = None, delay: float = 0.0) -> str:
        """Start to send one message; its outcome is recorded when it comes, and not raised by `flush`.

        Raises:
            UnimqError: as `unimq.Producer.enqueue` does.

        """
        message = self._message(body, size, key, delay=delay)
        try:
            return self.producer.enqueue(message, on_outcome=lambda outcome: self._ended(message.id, outcome))
        except BaseException as error:
            self._failed(message.id, error)
            raise

    def flush(self, timeout: float | None = None) -> None:
        """Wait until everything enqueued has its outcome."""
        self.producer.flush(timeout)

    def close(self) -> None:
        """Close; every outcome is recorded when it returns."""
        self.producer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _message(
        self,
        body: bytes | None,
        size: int,
        key: str | None = None,
        headers: dict[str, str | bytes] | None = None,
        content_type: str | None = None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        delay: float = 0.0,
        ttl: float | None = None,
    ) -> unimq.Message:
        lane = self._lane
        sequence = next(lane.numbers)
        message_id = f"{lane.name}-{sequence}"
        if body is None:
            body = marked_body(message_id, sequence, size)
        message = unimq.Message(
            body, key, headers or {}, message_id, content_type, correlation_id, reply_to, delay, ttl
        )
        content = content_of(message_id, body, key, headers, content_type, correlation_id, reply_to)
        now = time.monotonic_ns()
        self._history.record(
            Sending(
                now,
                message_id,
                self._target,
                lane.name,
                sequence,
                content,
                now + int(delay * SECOND) if delay else 0,
                0 if ttl is None else now + int(ttl * SECOND),
            )
        )
        return message

    def _ended(self, message_id: str, outcome: unimq.Receipt | unimq.UnimqError) -> None:
        if isinstance(outcome, unimq.Receipt):
            self._history.record(Sent(time.monotonic_ns(), message_id))
        else:
            self._failed(message_id, outcome)

    def _failed(self, message_id: str, error: BaseException) -> None:
        kind = NotSent if isinstance(error, NOT_SENT) else MaybeSent
        self._history.record(kind(time.monotonic_ns(), message_id, f"{type(error).__name__}: {error}"))


class _Lane(threading.local):
    """The name and the count of one thread's messages: the order of several threads is nobody's promise."""

    def __init__(self, producer: str, lanes: Iterator[int]) -> None:
        self.name = f"{producer}.{next(lanes)}"
        self.numbers = itertools.count(1)


class RecordedDelivery:
    """A delivery whose settlement is recorded. The fields of `unimq.Delivery` are those of ``delivery``.

    A lock makes the settlement and its record one step, because which of two came first decides who may succeed.
    """

    __slots__ = ("_lock", "_recorder", "_settled", "delivery", "message", "number")

    def __init__(self, recorder: "RecordingConsumer", delivery: unimq.Delivery, message: str, number: int) -> None:
        self.delivery = delivery
        self.message = message
        """Id by the mark in the body, or else by the delivery."""
        self.number = number
        self._recorder = recorder
        self._settled = False
        self._lock = threading.Lock()

    @property
    def attempt(self) -> int:
        """See `unimq.Delivery.attempt`."""
        return self.delivery.attempt

    @property
    def body(self) -> bytes:
        """See `unimq.Delivery.body`."""
        return self.delivery.body

    @property
    def key(self) -> str | None:
        """See `unimq.Delivery.key`."""
        return self.delivery.key

    def ack(self) -> None:
        """See `unimq.Delivery.ack`."""
        self._settle("ack", 0.0, self.delivery.ack)

    def nack(self, delay: float = 0.0) -> None:
        """See `unimq.Delivery.nack`."""
        self._settle("nack", delay, lambda: self.delivery.nack(delay))

    def reject(self, reason: str = "rejected") -> None:
        """See `unimq.Delivery.reject`."""
        self._settle("reject", 0.0, lambda: self.delivery.reject(reason))

    def extend(self, duration: float) -> None:
        """See `unimq.Delivery.extend`."""
        self.delivery.extend(duration)
        recorder, now = self._recorder, time.monotonic_ns()
        until = now + int(duration * SECOND)
        recorder.history.record(Extended(now, self.message, recorder.group, recorder.name, self.number, until))

    def _settle(self, how: How, delay: float, settle: Callable[[], None]) -> None:
        recorder = self._recorder
        where = (self.message, recorder.group, recorder.name, self.number)
        event = Settling(time.monotonic_ns(), *where, how, int(delay * SECOND))
        with self._lock:
            first, self._settled = not self._settled, True
            if first:
                recorder.history.record(event)
            try:
                settle()
            except unimq.LeaseLost:
                recorder.history.record(Refused(time.monotonic_ns(), *where, "stale"))
                raise
            except unimq.AlreadySettled:
                recorder.history.record(Refused(time.monotonic_ns(), *where, "again"))
                raise
            except (unimq.Closed, unimq.ConfigError, unimq.Unsupported):
                recorder.history.record(Refused(time.monotonic_ns(), *where, "invalid"))
                self._settled = not first
                raise
            if first:
                recorder.unproven.append(self.number)
            else:
                recorder.history.record(event)


class RecordingConsumer:
    """A consumer that records what it gets and how that is settled. Thread-safe."""

    def __init__(self, history: History, consumer: unimq.Consumer, group: str, name: str) -> None:
        self.history = history
        self.consumer = consumer
        self.group = group
        self.name = name
        self.unproven: deque[int] = deque()
        """Numbers of the deliveries whose settlement was handed over and not yet confirmed."""
        self._numbers = itertools.count(1)
        history.record(Opened(time.monotonic_ns(), group, name))

    def receive(self, max_messages: int = 1, timeout: float | None = None) -> list[RecordedDelivery]:
        """Receive as `unimq.Consumer.receive` does."""
        deliveries = self.consumer.receive(max_messages, timeout)
        now = time.monotonic_ns()
        events: list[Delivered] = []
        recorded: list[RecordedDelivery] = []
        for delivery in deliveries:
            number = next(self._numbers)
            mark = read_mark(delivery.body)
            message = delivery.id if mark is None else mark.message
            content = content_of(
                delivery.id,
                delivery.body,
                delivery.key,
                delivery.headers,
                delivery.content_type,
                delivery.correlation_id,
                delivery.reply_to,
            )
            lease_until = int(delivery.lease_until * SECOND)
            events.append(
                Delivered(now, message, self.group, self.name, number, delivery.attempt, content, 0, lease_until)
            )
            recorded.append(RecordedDelivery(self, delivery, message, number))
        self.history.record_all(events)
        return recorded

    def ack(self, deliveries: Iterable[RecordedDelivery]) -> None:
        """Ack many, each by itself."""
        for delivery in deliveries:
            delivery.ack()

    def settle(self, timeout: float = 10.0) -> None:
        """Wait as `unimq.Consumer.settle` does; it speaks for the settlements that were handed over before.

        Raises:
            UnimqError: as `unimq.Consumer.settle` does; then none of them counts as confirmed.

        """
        numbers = self._take_unproven()
        try:
            self.consumer.settle(timeout)
        except BaseException as error:
            self.history.record(
                Unconfirmed(time.monotonic_ns(), self.name, numbers, f"{type(error).__name__}: {error}")
            )
            raise
        self.history.record(Confirmed(time.monotonic_ns(), self.name, numbers))

    def close(self, timeout: float = 10.0) -> None:
        """Close; a clean close confirms every settlement before it (L1)."""
        self.history.record(Closing(time.monotonic_ns(), self.group, self.name))
        clean = False
        try:
            self.consumer.close(timeout)
            clean = True
        finally:
            self.history.record(Closed(time.monotonic_ns(), self.group, self.name, clean))

    def drain(self, quiet: float, *, limit: float = 60.0) -> int:
        """Ack everything until nothing came for `quiet` seconds, settle, and return how many came.

        Raises:
            TimeoutError: messages still came after `limit` seconds.

        """
        count = 0
        deadline = time.monotonic() + limit
        while deliveries := self.receive(100, timeout=quiet):
            for delivery in deliveries:
                with contextlib.suppress(unimq.LeaseLost):
                    delivery.ack()
            count += len(deliveries)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.group!r} was not empty after {limit} s and {count} messages")
        self.settle()
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take_unproven(self) -> list[int]:
        numbers: list[int] = []
        while self.unproven:
            try:
                numbers.append(self.unproven.popleft())
            except IndexError:
                # Another thread settles too and took the last one.
                break
        return numbers
