"""Replies: what a handler returned goes to the queue that the request names, and is confirmed before the ack (Q3)."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from unimq._codec import Codec, Encoded, encode
from unimq._dead_letters import ATTEMPTS, ORIGINAL_ID, REASON, SOURCE, error_headers
from unimq._delivery import Delivery
from unimq._destinations import Queue
from unimq._errors import Closed, ConfigError, InvalidMessage, NotFound, UnimqError, Unroutable
from unimq._events import say
from unimq._message import Headers, Message, compose
from unimq._outgoing import Outcome
from unimq._producer_cache import Kept, ProducerCache
from unimq._sending import ProducerCore, name_message
from unimq._waiting import deadline_after, remaining

if TYPE_CHECKING:
    from unimq._broker import BrokerCore


Done = Callable[[UnimqError | None], None]

_NOWHERE = (NotFound, Unroutable, ConfigError)
"""What says that a reply can never arrive: its queue is gone, or its name is none."""
_MOST_WARNED = 1000
"""Names of missing reply queues that are remembered, so that each is logged once."""


class _Job(msgspec.Struct, eq=False):
    """A reply that waits for the producer to its queue."""

    message: Message
    done: Done


class Replier:
    """Sends the replies of one consumer; owned and closed by it. `_lock` guards everything below it.

    What is under way is bounded by the consumer's `prefetch`: each reply belongs to a delivery that it holds. The reply
    queues are never declared, as each belongs to its requester: a reply that comes too late must not bring it back.
    """

    def __init__(self, broker: "BrokerCore") -> None:
        self._broker = broker
        self._producers = ProducerCache()
        self._lock = threading.Lock()
        self._waiting: OrderedDict[str, list[_Job]] = OrderedDict()
        """Replies by queue, for which a producer is to be opened."""
        self._opener: threading.Thread | None = None
        self._warned: OrderedDict[str, None] = OrderedDict()
        self._closed = ""

    def submit(self, delivery: Delivery[Any], value: object, codec: Codec[Any] | None, done: Done) -> None:
        """Send `value` as the reply to a delivery with a `reply_to`. Never blocks, never raises.

        Args:
            delivery: the request.
            value: a `Message`, of which all but the correlation id is sent as it is; bytes; an `Encoded`, which another
                codec made; or what `codec` encodes. Without a codec `None` is an empty reply.
            codec: the consumer's.
            done: called once, from any thread or at once. With `None`: settle the request, as the reply is confirmed,
                or can never arrive (its queue is gone, which is logged once per queue). With an error: do not ack, as
                the reply may be lost (`error.retryable`) or cannot be sent (`InvalidMessage`, `MessageTooLarge`).

        """
        try:
            message = _reply(delivery, value, codec)
        except UnimqError as error:
            done(error)
            return
        self._send(delivery.reply_to or "", message, done)

    def fail(self, delivery: Delivery[Any], reason: str, error: BaseException | None, done: Done) -> None:
        """Tell the requester that the request was given up, which raises `RequestFailed` there; see `submit`.

        The reply is empty and has the headers of dead letters that say why. To be called when a request is rejected or
        has failed for the last time, not at a failure after which it comes again.
        """
        headers: dict[str, str | bytes] = {
            REASON: reason,
            SOURCE: delivery.source,
            ATTEMPTS: str(delivery.attempt),
            ORIGINAL_ID: delivery.id,
        }
        if error is not None:
            headers |= error_headers(error)
        self.submit(delivery, Message(b"", headers=headers), None, done)

    def close(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for the outcomes of all replies, so that every `done` was called, and release
        everything (L4). The consumer must still be open: `done` may ack. Idempotent.
        """
        deadline = deadline_after(timeout)
        with self._lock:
            self._closed = "the consumer is closed"
            opener = self._opener
        if opener is not None:
            opener.join(remaining(deadline))
        self._producers.close(self._closed, deadline)

    # Sending.

    def _send(self, name: str, message: Message, done: Done) -> None:
        kept = None
        with self._lock:
            closed = self._closed
            if not closed and name not in self._waiting:
                kept = self._producers.take(name)
            if not closed and kept is None:
                self._waiting.setdefault(name, []).append(_Job(message, done))
                if self._opener is None:
                    # It ends when nothing waits any more: opening is what the first reply to each requester needs.
                    self._opener = threading.Thread(target=self._open_all, name="unimq-replies", daemon=True)
                    self._opener.start()
        if closed:
            done(Closed(closed))
        elif kept is not None:
            self._submit(name, kept, message, done)

    def _submit(self, name: str, kept: Kept, message: Message, done: Done) -> None:
        producer = kept.producer

        def report(outcome: Outcome) -> None:
            self._producers.give_back(kept)
            error = outcome if isinstance(outcome, UnimqError) else None
            if isinstance(error, _NOWHERE) and not isinstance(error, InvalidMessage):
                self._producers.drop(kept)
            self._finish(name, done, error if error is None else name_message(error, message.id))

        try:
            entry = producer.entry(message, deadline_after(producer.timeout))
            if not producer.admits_freely:
                producer.admit(1, entry.size)
        except UnimqError as error:
            report(error)
            return
        producer.join_pipeline(entry, report)
        producer.sender.submit((entry,))

    def _finish(self, name: str, done: Done, error: UnimqError | None) -> None:
        # InvalidMessage is a ValueError of the reply itself, which another reply may not have.
        if isinstance(error, _NOWHERE) and not isinstance(error, InvalidMessage):
            self._warn(name, error)
            error = None
        done(error)

    def _warn(self, name: str, error: UnimqError) -> None:
        with self._lock:
            if name in self._warned:
                return
            self._warned[name] = None
            if len(self._warned) > _MOST_WARNED:
                self._warned.popitem(last=False)
        say("replies-dropped", "replies to %r are dropped, and their requests acked: %s", name, error, target=name)

    # The opener's thread.

    def _open_all(self) -> None:
        while True:
            with self._lock:
                name = next(iter(self._waiting), None)
                if name is None:
                    self._opener = None
                    return
            kept: Kept | None = None
            error: UnimqError | None = None
            try:
                kept = self._producers.open(name, lambda name=name: self._open(name))  # type: ignore[misc]
            except UnimqError as failed:
                error = failed
            with self._lock:
                jobs = self._waiting.pop(name)
            for job in jobs:
                if kept is None:
                    self._finish(name, job.done, error)
                    continue
                self._producers.share(kept)
                self._submit(name, kept, job.message, job.done)
            if kept is not None:
                self._producers.give_back(kept)

    def _open(self, name: str) -> ProducerCore:
        broker = self._broker
        try:
            target = Queue(name, dead_letter=False)
        except ConfigError:
            # Some other program's, whose names only its backend knows.
            target = Queue(name, dead_letter=False, portable_name=False)
        broker.driver.check(target, timeout=broker.timeout)
        return broker.attach_producer(target, broker.middleware)


def _reply(delivery: Delivery[Any], value: object, codec: Codec[Any] | None) -> Message:
    """Return the checked message that answers a delivery.

    Raises:
        InvalidMessage: the value is neither bytes nor a message, and the codec cannot encode it or there is none.

    """
    content_type: str | None = None
    headers: Headers | None = None
    body: object = value
    if isinstance(value, Encoded):
        body, headers, content_type = value.body, value.headers, value.content_type
    elif not isinstance(value, Message | bytes | bytearray | memoryview):
        if codec is not None:
            body, headers, content_type = encode(codec, value, None, None)
        elif value is None:
            body = b""
        else:
            raise InvalidMessage(
                f"a handler's reply must be bytes, a Message or what a codec encoded, not {type(value).__name__},"
                " unless the consumer has a codec"
            )
    message = compose(body, headers=headers, content_type=content_type)
    message.correlation_id = delivery.correlation_id or delivery.id
    return message
