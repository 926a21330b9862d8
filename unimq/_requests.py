"""Requests: each waits for the reply with its own correlation id, on the one reply queue of its connection (Q1, Q2).

The queue of replies is read by no thread of ours: its deliveries are matched in the driver's thread and wake the one
caller that waits. Replies that nobody waits for, late ones and duplicates, are acked and dropped.
"""

import copy
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

from unimq._codec import Codec, bound, decode, encode
from unimq._dead_letters import ATTEMPTS, ERROR, ERROR_TYPE, REASON, SOURCE
from unimq._delivery import Delivery
from unimq._destinations import REPLY_PREFIX, Queue, Seconds, seconds
from unimq._errors import (
    AlreadySettled,
    BufferFull,
    Closed,
    ConfigError,
    InvalidMessage,
    NotFound,
    RequestFailed,
    RequestTimeout,
    SendUnknown,
    UnimqError,
    Unroutable,
)
from unimq._events import say
from unimq._message import Headers, Message, compose, new_id
from unimq._outgoing import Outcome, Outgoing
from unimq._producer_cache import Kept, ProducerCache
from unimq._sending import ProducerCore, name_message
from unimq._waiting import Waiters, remaining

if TYPE_CHECKING:
    from unimq._broker import BrokerCore
    from unimq.adapter import Receiver


MOST_REQUESTS = 5_000
MOST_BYTES = 64 * 1024 * 1024
"""Requests of one connection that may wait for their replies, and their bytes (S5, L5)."""
_PREFETCH = 500
"""Replies that are fetched and not acked yet; each is acked by the caller that it wakes."""


class Requests:
    """The requests of one connection that wait, and its reply queue, whose `unimq.adapter.DeliverySink` this is.

    `lock` guards `pending`, `outstanding`, `outstanding_bytes` and `Request.reply`; no call of a driver is made under
    it, as `deliver` may be called under a lock of the driver.
    """

    def __init__(self, broker: "BrokerCore") -> None:
        """Make the reply queue and start to receive from it; blocks."""
        self.broker = broker
        self.queue: Queue = Queue(REPLY_PREFIX + os.urandom(12).hex(), dead_letter=False)
        self.source_name: str = self.queue.name
        self.producers: ProducerCache = ProducerCache()
        self.lock: threading.Lock = threading.Lock()
        self.pending: dict[str, Request] = {}
        self.outstanding: int = 0
        self.outstanding_bytes = 0
        self.room: Waiters = Waiters()
        self.held: set[Delivery] = set()
        """Replies that are not acked; whoever removes one acks it."""
        self.late: deque[Delivery] = deque()
        self.dropper: threading.Thread | None = None
        self.closed: str = ""
        self.error: UnimqError | None = None
        """Why no reply can come any more; the next request makes another reply queue."""
        driver = broker.driver
        driver.declare(self.queue, as_is=False, timeout=broker.timeout)
        try:
            self.receiver: Receiver = driver.open_receiver(self.queue, self, prefetch=_PREFETCH, timeout=broker.timeout)
        except BaseException:
            self._delete(broker.timeout)
            raise

    # Coming up: `DeliverySink`.

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Give each reply to the request that waits for it."""
        self.held.update(deliveries)
        now = time.time()
        answered: list[Request] = []
        with self.lock:
            for delivery in deliveries:
                message = delivery.message
                is_live = message.expires_at is None or message.expires_at > now
                request = self.pending.pop(message.correlation_id or "", None) if is_live else None
                if request is None:
                    self.late.append(delivery)
                else:
                    request.reply = delivery
                    answered.append(request)
            if self.late and self.dropper is None:
                # Acking calls the driver, which may have called this under its own lock. Late replies are rare enough
                # for a thread each, which ends at once.
                self.dropper = threading.Thread(target=self._drop_late, name="unimq-late-replies", daemon=True)
                self.dropper.start()
        for request in answered:
            request.arrived.wake_all()

    def lost(self, deliveries: Sequence[Delivery]) -> None:
        """Forget replies that come again, and are late then."""
        for delivery in deliveries:
            delivery.lost = True
        self.held.difference_update(deliveries)

    def failed(self, error: UnimqError) -> None:
        """End all requests: nothing is received any more."""
        self.error = error
        self._wake_all()

    def ack(self, delivery: Delivery) -> None:
        """Refuse: the request that was answered acks its reply."""
        self._refuse(delivery)

    def nack(self, delivery: Delivery, delay: Seconds) -> None:
        """Refuse, as `ack` does."""
        self._refuse(delivery)

    def reject(self, delivery: Delivery, reason: str) -> None:
        """Refuse, as `ack` does."""
        self._refuse(delivery)

    def extend(self, delivery: Delivery, duration: Seconds) -> None:
        """Refuse, as `ack` does."""
        self._refuse(delivery)

    def _refuse(self, delivery: Delivery) -> NoReturn:
        raise AlreadySettled(f"reply {delivery.id} was acked by the request that it answers")

    def _drop_late(self) -> None:
        while True:
            with self.lock:
                late = [delivery for delivery in self.late if delivery in self.held]
                self.late.clear()
                if not late:
                    self.dropper = None
                    return
            self.settle(late)

    def settle(self, replies: Sequence[Delivery]) -> None:
        """Ack those that are still held here."""
        mine: list[Delivery] = []
        for delivery in replies:
            try:
                self.held.remove(delivery)
            except KeyError:
                continue
            mine.append(delivery)
        if mine:
            self.receiver.ack(mine)

    # Closing.

    def stop(self, reason: str) -> bool:
        """Refuse new requests and wake those that wait; false if that was done before (L1)."""
        with self.lock:
            if self.closed:
                return False
            self.closed = reason
        self._wake_all()
        return True

    def _wake_all(self) -> None:
        with self.lock:
            waiting = list(self.pending.values())
        for request in waiting:
            request.arrived.wake_all()
        self.room.wake_all()

    def close(self, deadline: float) -> None:
        """After `stop`: release receiver and producers, and delete the reply queue (L4)."""
        dropper = self.dropper
        if dropper is not None:
            dropper.join(remaining(deadline))
        self.receiver.close(remaining(deadline))
        self.producers.close(self.closed, deadline)
        self._delete(remaining(deadline))

    def _delete(self, timeout: float) -> None:
        try:
            self.broker.driver.delete(self.queue, timeout=timeout)
        except UnimqError as error:
            say(
                "reply-queue-left",
                "reply queue %r could not be deleted and stays on the broker: %s",
                self.source_name,
                error,
                source=self.source_name,
            )

    def abandon(self, reason: str) -> None:
        """Close in a forked child, without touching anything that belongs to the parent (L2)."""
        self.lock = threading.Lock()
        self.closed = reason


class Request:
    """One request, from its checks to its reply. The fronts differ only in how they wait between its steps."""

    def __init__(
        self,
        broker: "BrokerCore",
        target: str | Queue,
        body: object,
        timeout: Seconds,
        *,
        codec: Codec[Any] | None,
        reply_codec: Codec[Any] | None,
        key: str | None,
        headers: Headers | None,
        message_id: str,
        content_type: str | None,
        ttl: Seconds | None,
    ) -> None:
        broker.check_open()
        if not isinstance(target, str | Queue):
            raise ConfigError(f"a request goes to a queue (a str or a Queue), not to a {type(target).__name__}")
        self.broker = broker
        self.target = target
        self.timeout: float = seconds(timeout, "timeout")
        codec = None if codec is None else bound(codec, broker.capabilities)
        self.codec = codec if reply_codec is None else bound(reply_codec, broker.capabilities)
        if codec is not None and not isinstance(body, Message):
            body, headers, content_type = encode(codec, body, headers, content_type)
        self.message = compose(body, key, headers, message_id, content_type, ttl=ttl)
        if self.message.correlation_id is not None or self.message.reply_to is not None:
            raise InvalidMessage("request() sets correlation_id and reply_to itself; leave them out of the message")
        self.correlation_id = new_id()
        """Not the message's id: who asks again under the same id must not get the late reply to the first request."""
        self.deadline = 0.0
        self.reply: Delivery | None = None
        self.error: UnimqError | None = None
        """Why it was not sent, or that this is not known."""
        self.is_stored = False
        self.arrived: Waiters = Waiters()
        self._is_admitted = False
        self._is_over = False
        self._requests: Requests
        self._kept: Kept | None = None
        self._entry: Outgoing

    # Before sending.

    def is_ready(self) -> bool:
        """Tell whether reply queue and producer are open, so that `prepare` has nothing to do."""
        requests = self.broker.requests
        if requests is None or requests.error is not None:
            return False
        self._requests = requests
        self._kept = requests.producers.take(self.target)
        return self._kept is not None

    def prepare(self) -> None:
        """Open what is missing; blocks, within the timeout of the connection."""
        requests = self._requests = self.broker.open_requests()
        self._kept = requests.producers.open(self.target, self._open_producer)
        if self._is_over:
            # The task that asked was cancelled meanwhile.
            requests.producers.give_back(self._kept)

    def _open_producer(self) -> ProducerCore:
        found = self.broker.resolve(self.target)
        if not isinstance(found, Queue):
            raise ConfigError(f"a request goes to a queue; {self.target!r} is a {type(found).__name__.lower()}")
        return self.broker.attach_producer(found, self.broker.middleware)

    def start(self) -> float:
        """Return the deadline (`time.monotonic`) until which it waits for room and for its reply."""
        kept = self._kept
        assert kept is not None  # noqa: S101 - the front called `is_ready` and `prepare`
        now = time.monotonic()
        self.deadline = now + self.timeout
        message = self.message
        message.correlation_id, message.reply_to = self.correlation_id, self._requests.source_name
        self._entry = kept.producer.entry(message, min(self.deadline, now + kept.producer.timeout))
        # Again, as a middleware may have sent another message in its place.
        sent = self._entry.message
        sent.correlation_id, sent.reply_to = self.correlation_id, self._requests.source_name
        return self.deadline

    @property
    def room(self) -> Waiters:
        """Wakes when other requests have ended."""
        return self._requests.room

    def admit(self) -> Literal[True] | None:
        """Attempt to become one of the requests that wait (S5).

        Raises:
            Closed: the connection was closed.

        """
        requests, size = self._requests, self._entry.size
        with requests.lock:
            if requests.closed:
                raise Closed(requests.closed)
            if requests.outstanding and (
                requests.outstanding >= MOST_REQUESTS or requests.outstanding_bytes + size > MOST_BYTES
            ):
                return None
            requests.outstanding += 1
            requests.outstanding_bytes += size
            requests.pending[self.correlation_id] = self
            self._is_admitted = True
        return True

    def still_full(self) -> BufferFull:
        """Return the error for a request that waited for room until its deadline (S5)."""
        return BufferFull(
            f"{self._requests.outstanding} requests of this connection wait for replies; after {self.timeout:g} s there"
            f" is no room for another (at most {MOST_REQUESTS} and {MOST_BYTES} bytes)"
        )

    # Sending and waiting.

    def send(self) -> None:
        """Send without waiting for the confirmation: a reply is a stronger one, and a failure wakes the caller."""
        kept, entry = self._kept, self._entry
        assert kept is not None  # noqa: S101 - see `start`
        producer = kept.producer
        if not producer.admits_freely:
            producer.admit(1, entry.size)
        producer.join_pipeline(entry, self._sent)
        producer.sender.submit((entry,))

    def _sent(self, outcome: Outcome) -> None:
        if isinstance(outcome, UnimqError):
            if isinstance(outcome, NotFound | Unroutable) and self._kept is not None:
                # The next request declares the queue again, or says that it is missing.
                self._requests.producers.drop(self._kept)
            self.error = name_message(outcome, self.message.id)
            self.arrived.wake_all()
        else:
            self.is_stored = True

    def is_answered(self) -> Literal[True] | None:
        """Attempt for the fronts: true when there is nothing more to wait for."""
        requests = self._requests
        over = self.reply is not None or self.error is not None or requests.closed or requests.error is not None
        return True if over else None

    def result(self) -> Delivery[Any]:
        """Return the reply, or raise why there is none."""
        reply, requests = self.reply, self._requests
        if reply is not None:
            if REASON in reply.headers:
                raise _failure(reply)
            if self.codec is not None:
                reply.decoded = decode(self.codec, reply.message)
            return reply
        error = self.error
        if error is not None and not (isinstance(error, SendUnknown) and time.monotonic() >= self.deadline):
            raise error
        if requests.closed:
            raise Closed(requests.closed)
        if requests.error is not None:
            raise copy.copy(requests.error) from requests.error
        where = self.target if isinstance(self.target, str) else self.target.name
        stored = "it is stored" if self.is_stored else "it is not confirmed as stored either"
        raise RequestTimeout(
            f"no reply to message {self.message.id} to {where!r} within {self.timeout:g} s; {stored}"
        ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        if self._kept is None:
            return
        requests = self._requests
        requests.producers.give_back(self._kept)
        if not self._is_admitted:
            return
        with requests.lock:
            requests.pending.pop(self.correlation_id, None)
            requests.outstanding -= 1
            requests.outstanding_bytes -= self._entry.size
        requests.room.wake()
        if self.reply is not None:
            requests.settle((self.reply,))


def _failure(reply: Delivery) -> RequestFailed:
    """Return the error for a reply that says why the request was given up; see `unimq._replies.Replier.fail`."""
    said = {name: value for name, value in reply.headers.items() if isinstance(value, str)}
    reason, kind = said.get(REASON, ""), said.get(ERROR_TYPE)
    why = "" if kind is None else f": {kind}: {said.get(ERROR, '')}"
    return RequestFailed(
        f"{said.get(SOURCE)!r} gave the request up at delivery {said.get(ATTEMPTS)} ({reason}){why}",
        reason=reason,
        error_type=kind,
    )
