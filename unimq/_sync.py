"""The synchronous front: waits on locks; every rule is in the cores it shares with the asyncio front."""

import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from types import TracebackType
from typing import Any, Generic, Literal, Self, overload

from unimq._broker import (
    CLOSE_TIMEOUT,
    DEFAULT_PREFETCH,
    DEFAULT_TIMEOUT,
    DEFAULT_WINDOW,
    DEFAULT_WINDOW_BYTES,
    BrokerCore,
)
from unimq._capabilities import Capabilities, Stats
from unimq._codec import Codec, Sent_contra, T, Value_co, encode
from unimq._delivery import Delivery
from unimq._destinations import Queue, Seconds, Source, Subscription, Target, Topic, count, seconds
from unimq._errors import Closed, UnimqError
from unimq._instruments import Instrument
from unimq._message import Headers, Message, compose
from unimq._middleware import Middleware
from unimq._outgoing import OnOutcome, Outgoing
from unimq._positions import Position
from unimq._receipt import Receipt
from unimq._receiving import ConsumerCore, confirm, raise_unconfirmed
from unimq._redrive import Redrive, Redriven
from unimq._requests import Request
from unimq._retry import BATCH_WAIT, DRAIN_TIMEOUT, Retry
from unimq._runs import Runs
from unimq._sending import GRACE, ManySends, OutcomeWaiters, ProducerCore, name_message, raise_failures
from unimq._waiting import Registry, block_until, deadline_after, remaining


def connect(
    url: str | None = None,
    *,
    timeout: float | timedelta = DEFAULT_TIMEOUT,
    middleware: Iterable[Middleware | Instrument] = (),
    config: str | os.PathLike[str] | None = None,
) -> "Broker":
    """Connect to a broker: ``memory://``, ``amqp://…``, ``kafka://…``, ``sqs://…``, or a name from ``unimq.toml``.

    Args:
        url: scheme, hosts, credentials and options, or the name of a broker in the configuration; without it the
            environment variable ``UNIMQ_URL``, else the name in ``UNIMQ_BROKER``, else the configuration's default.
        timeout: seconds for connecting and for every administrative call.
        middleware: hooks for every producer and consumer of the connection.
        config: the configuration file; without it the one that ``UNIMQ_CONFIG`` names, else the nearest ``unimq.toml``
            or ``pyproject.toml`` with ``[tool.unimq]`` from the working directory upwards. Destinations that are named
            by a bare string have the policies that it gives them, whatever chose the broker.

    Raises:
        ConfigError: the URL, an option or the configuration is wrong; the error names what is valid.
        MissingDependency: the backend's client library is not installed; the error holds the pip line.
        AuthError: the credentials were refused; not retried (E2).
        ConnectionLost: the broker did not answer in time.

    """
    return Broker(BrokerCore(url, timeout=timeout, middleware=middleware, config=config))


class Broker:
    """A connection to one broker. Thread-safe; close it, or use it as a context manager."""

    def __init__(self, core: BrokerCore) -> None:
        self._core = core

    @property
    def capabilities(self) -> Capabilities:
        """What this broker can do."""
        return self._core.capabilities

    @property
    def native(self) -> object:
        """The client library's own connection, for what is not portable."""
        return self._core.driver.native

    @overload
    def producer(
        self,
        target: str | Target,
        *,
        timeout: Seconds = DEFAULT_TIMEOUT,
        window: int = DEFAULT_WINDOW,
        window_bytes: int = DEFAULT_WINDOW_BYTES,
        codec: None = None,
        middleware: Iterable[Middleware] = (),
    ) -> "Producer": ...
    @overload
    def producer(
        self,
        target: str | Target,
        *,
        timeout: Seconds = DEFAULT_TIMEOUT,
        window: int = DEFAULT_WINDOW,
        window_bytes: int = DEFAULT_WINDOW_BYTES,
        codec: Codec[T],
        middleware: Iterable[Middleware] = (),
    ) -> "Producer[T]": ...
    def producer(
        self,
        target: str | Target,
        *,
        timeout: Seconds = DEFAULT_TIMEOUT,
        window: int = DEFAULT_WINDOW,
        window_bytes: int = DEFAULT_WINDOW_BYTES,
        codec: Codec[Any] | None = None,
        middleware: Iterable[Middleware] = (),
    ) -> "Producer[Any]":
        """Open a producer; the target is declared if it is missing, unless the URL says ``declare=false``.

        Args:
            target: a queue by name, a `Queue` or a `Topic`; a name in the configuration is what that says.
            timeout: seconds within which a send is confirmed or fails (S2), and that `enqueue` waits for room (S5).
            window: unconfirmed messages beyond which `enqueue` and `send` wait (S5).
            window_bytes: the same in bytes.
            codec: makes the bodies from what is sent; without one, what is sent is bytes.
            middleware: hooks of this producer, called after those of the connection.

        Raises:
            NotFound: the target does not exist and is not to be declared (S4).
            DeclarationConflict: it exists with other policies.
            Unsupported: the backend lacks one of its policies; raised before any I/O.

        """
        return Producer(
            self._core,
            self._core.open_producer(
                target,
                timeout=timeout,
                window=window,
                window_bytes=window_bytes,
                codec=codec,
                middleware=middleware,
            ),
        )

    @overload
    def consumer(
        self,
        source: str | Source,
        *,
        prefetch: int = DEFAULT_PREFETCH,
        codec: None = None,
        middleware: Iterable[Middleware] = (),
    ) -> "Consumer": ...
    @overload
    def consumer(
        self,
        source: str | Source,
        *,
        prefetch: int = DEFAULT_PREFETCH,
        codec: Codec[T],
        middleware: Iterable[Middleware] = (),
    ) -> "Consumer[T]": ...
    def consumer(
        self,
        source: str | Source,
        *,
        prefetch: int = DEFAULT_PREFETCH,
        codec: Codec[Any] | None = None,
        middleware: Iterable[Middleware] = (),
    ) -> "Consumer[Any]":
        """Open a consumer of a queue or subscription; the source is declared if it is missing.

        Args:
            source: a queue by name, a `Queue` or a `Subscription`; a name in the configuration is what that says, a
                subscription's is ``TOPIC--NAME``.
            prefetch: unsettled messages that it holds at most (R3).
            codec: makes `Delivery.value` from the bodies; what it cannot decode goes to the dead letters (D3).
            middleware: hooks of this consumer, called after those of the connection.

        Raises:
            NotFound: the source does not exist and is not to be declared.
            DeclarationConflict: it exists with other policies.
            Unsupported: the backend lacks one of its policies; raised before any I/O.

        """
        return Consumer(
            self._core, self._core.open_consumer(source, prefetch=prefetch, codec=codec, middleware=middleware)
        )

    @overload
    def request(
        self,
        queue: str | Queue,
        body: bytes | bytearray | memoryview | Message,
        *,
        timeout: Seconds,
        codec: None = None,
        reply_codec: None = None,
        key: str | None = None,
        headers: Headers | None = None,
        message_id: str = "",
        content_type: str | None = None,
        ttl: Seconds | None = None,
    ) -> Delivery: ...
    @overload
    def request(
        self,
        queue: str | Queue,
        body: T | Message,
        *,
        timeout: Seconds,
        codec: Codec[T],
        reply_codec: None = None,
        key: str | None = None,
        headers: Headers | None = None,
        message_id: str = "",
        content_type: str | None = None,
        ttl: Seconds | None = None,
    ) -> Delivery[T]: ...
    @overload
    def request(
        self,
        queue: str | Queue,
        body: object,
        *,
        timeout: Seconds,
        codec: Codec[Any] | None = None,
        reply_codec: Codec[T],
        key: str | None = None,
        headers: Headers | None = None,
        message_id: str = "",
        content_type: str | None = None,
        ttl: Seconds | None = None,
    ) -> Delivery[T]: ...
    def request(
        self,
        queue: str | Queue,
        body: object,
        *,
        timeout: Seconds,
        codec: Codec[Any] | None = None,
        reply_codec: Codec[Any] | None = None,
        key: str | None = None,
        headers: Headers | None = None,
        message_id: str = "",
        content_type: str | None = None,
        ttl: Seconds | None = None,
    ) -> Delivery[Any]:
        """Send a request and return its reply (Q1). Any number of threads may ask at the same time.

        The replies of a connection come to one queue of its own, which the first request makes and `close` deletes. The
        reply is settled already. A request is delivered at least once, like every message: after an error it may have
        been handled, or be handled later.

        Args:
            queue: where the responders are, by name or as a `Queue`; declared if it is missing, as by `producer`.
            body: the bytes, or with a codec the value; or a whole `Message` without correlation id and reply queue.
            timeout: seconds from the send to the reply.
            codec: makes the body, and `Delivery.value` of the reply unless `reply_codec` does.
            reply_codec: makes `Delivery.value` of the reply.
            key: as in `Producer.send`.
            headers: names to `str` or `bytes`.
            message_id: made by the library if empty. Give the same again to have a repeated request recognised.
            content_type: carried.
            ttl: seconds after which the request is not delivered to a responder any more (T1).

        Raises:
            RequestTimeout: no reply came in time; one that comes later is dropped (Q2).
            RequestFailed: the responder rejected the request, or failed for the last time.
            SendRejected: the request is certainly not stored.
            SendUnknown: the request may be stored, but the library knows before the timeout that it cannot tell.
            DecodeError: the reply is not what the codec reads.
            BufferFull: too many requests of this connection wait for replies.
            NotFound, ConnectionLost, AuthError: the queue or the reply queue cannot be opened, or the latter ended.
            Closed: the broker was closed, also while this call waited (L1).

        """
        request = Request(
            self._core,
            queue,
            body,
            timeout,
            codec=codec,
            reply_codec=reply_codec,
            key=key,
            headers=headers,
            message_id=message_id,
            content_type=content_type,
            ttl=ttl,
        )
        with request:
            if not request.is_ready():
                request.prepare()
            deadline = request.start()
            if block_until(request.room, request.admit, deadline) is None:
                raise request.still_full()
            request.send()
            block_until(request.arrived, request.is_answered, deadline)
            return request.result()

    def declare(self, *destinations: str | Queue | Topic | Subscription) -> None:
        """Create what is missing, dead-letter queues included. Idempotent.

        Raises:
            DeclarationConflict: a destination exists with other policies; nothing was changed.
            Unsupported: the backend lacks a policy; raised before any I/O.

        """
        for destination in destinations:
            self._core.declare(destination)

    def delete(self, *destinations: str | Queue | Topic | Subscription) -> None:
        """Delete destinations with their messages, but not their dead-letter queues. A missing one is no error."""
        for destination in destinations:
            self._core.delete(destination)

    def purge(self, source: str | Source) -> int | None:
        """Drop all waiting messages; return how many, or `None` where the backend does not say."""
        return self._core.purge(source)

    def seek(self, source: str | Source, to: Position) -> None:
        """Let the next consumer of a queue or subscription begin elsewhere, whatever was settled before.

        Only while it has no consumers, on any connection. What was acked comes again, at attempt 1; what is skipped
        does not come at all. Dead letters and delayed messages stay where they are.

        Args:
            source: the queue or subscription.
            to: the first message sent then or later; ``"earliest"``, the first one that is kept; ``"now"``, behind the
                last one; or positions by partition, while partitions that are not named stay where they are.

        Raises:
            Unsupported: the backend keeps no settled messages; raised before any I/O.
            ConfigError: a time without time zone, or a partition or position that there is not; nothing was changed.
            DeclarationConflict: the source has consumers; nothing was changed.
            NotFound: the source does not exist.

        """
        self._core.seek(source, to)

    def stats(self, source: str | Source) -> Stats:
        """Return the depth of a queue or subscription, as exact as the backend allows (T4)."""
        return self._core.stats(source)

    def redrive(
        self,
        source: str | Source,
        *,
        limit: int | None = None,
        reason: str | None = None,
        rate: float | None = None,
        dry_run: bool = False,
        timeout: Seconds = DEFAULT_TIMEOUT,
    ) -> Redriven:
        """Return dead letters to the queue, or to the one subscription, that they come from (D2).

        Each is confirmed at the source before it leaves the dead letters, so none is lost, whatever interrupts this
        call; start it again to go on. Of the last 200 some may then be there twice, with the same id. They come
        without their provenance, as sent now, and at attempt 1; ``docs/dead-letters.md`` says more.

        Args:
            source: the queue or subscription itself, not its dead-letter queue.
            limit: move at most so many.
            reason: move only those that died of it; the others stay.
            rate: messages per second at most.
            dry_run: move nothing, and count by reason.
            timeout: seconds to wait for dead letters that the broker says are there and somebody else holds.

        Raises:
            ConfigError: the source has no dead-letter queue, or an argument is wrong.
            Unsupported: a subscription, where the backend cannot send to one alone; raised before any I/O.
            NotFound: the source or its dead-letter queue does not exist; nothing was moved.
            ConnectionLost, AuthError, Closed: the dead letters cannot be read any more; a note tells how many moved.

        """
        return Redrive(
            self._core, source, limit=limit, reason=reason, rate=rate, dry_run=dry_run, timeout=timeout
        ).run()

    def close(self, timeout: Seconds = CLOSE_TIMEOUT) -> None:
        """Close every producer and consumer, then the connection, within `timeout` seconds (L1). Idempotent.

        Raises:
            SendRejected, SendUnknown: enqueued messages failed and nobody was told (S6).
            LeaseLost, ConnectionLost: see `Consumer.close`.

        """
        deadline = deadline_after(timeout)
        failures: list[UnimqError] = []
        self._core.stop_requests()
        for core in list(self._core.producers):
            failures += _finish_producer(self._core, core, deadline)
        unconfirmed = self._core.close(remaining(deadline))
        raise_failures(failures)
        raise_unconfirmed(unconfirmed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _close_at_exit(self.close, error)

    def __repr__(self) -> str:
        return f"<Broker {self._core.url}{' closed' if self._core.closed else ''}>"


class Producer(Generic[Sent_contra]):
    """Sends to one queue or topic. Thread-safe (L2)."""

    def __init__(self, broker: BrokerCore, core: ProducerCore) -> None:
        self._broker = broker
        self._core = core
        self._submit = core.submit_quietly

    def send(
        self,
        body: Sent_contra | Message,
        *,
        key: str | None = None,
        headers: Headers | None = None,
        message_id: str = "",
        content_type: str | None = None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        delay: Seconds = 0.0,
        ttl: Seconds | None = None,
    ) -> Receipt:
        """Send one message and return once the broker has confirmed that it is stored (S1).

        Args:
            body: the bytes, or with a codec the value; or a whole `Message`, which then carries all that the other
                arguments would say, and bytes as its body.
            key: messages of one key keep their order under ``ordering="key"`` (O1).
            headers: names to `str` or `bytes`.
            message_id: made by the library if empty; the same in every retry (S2).
            content_type: carried.
            correlation_id: carried.
            reply_to: carried.
            delay: seconds before which it is not delivered (T2).
            ttl: seconds after which it is not delivered any more (T1).

        Raises:
            SendRejected: it is certainly not stored; `InvalidMessage`, `MessageTooLarge`, `QueueFull` and `Unroutable`
                say why (S2, S4).
            SendUnknown: it may be stored; the library retried with the same id until the timeout (S2).
            Unsupported: the backend has no delay or no ttl; raised before any I/O.
            BufferFull: the window stayed full for the whole timeout (S5).
            Closed: the producer is closed.

        """
        core = self._core
        payload: object = body
        if core.codec is not None and not isinstance(body, Message):
            payload, headers, content_type = encode(core.codec, body, headers, content_type)
        message = compose(payload, key, headers, message_id, content_type, correlation_id, reply_to, delay, ttl)
        deadline = time.monotonic() + core.timeout
        entry = core.entry(message, deadline)
        if not core.admits_freely and core.admit(1, entry.size) is None:
            _wait_for_room(core, functools.partial(core.admit, 1, entry.size), deadline)
        self._submit((entry,))
        if not entry.done:
            _wait_for_outcome(core, entry)
        if entry.error is not None:
            raise name_message(entry.error, entry.message.id)
        return Receipt(entry.message.id, entry.position)

    @overload
    def send_many(self, messages: Iterable[Message | Sent_contra]) -> list[Receipt]: ...
    @overload
    def send_many(
        self, messages: Iterable[Message | Sent_contra], *, return_errors: Literal[True]
    ) -> list[Receipt | UnimqError]: ...
    def send_many(
        self, messages: Iterable[Message | Sent_contra], *, return_errors: bool = False
    ) -> list[Receipt] | list[Receipt | UnimqError]:
        """Send many messages in one go; each has its own outcome, good ones are stored even when others fail (S3).

        Args:
            messages: bodies, or whole messages; of any number, the window bounds what is outstanding.
            return_errors: give errors in place of receipts instead of raising.

        Returns:
            One receipt per message, in order.

        Raises:
            SendRejected: some messages are not stored; ``outcomes`` has one receipt or error per message, in order.
            SendUnknown: the same, and some may be stored.
            Closed: the producer is closed; nothing was sent.

        """
        core = self._core
        deadline = time.monotonic() + core.timeout
        sending = ManySends(core, messages, deadline)
        for part, size in sending.parts():
            if not core.admits_freely and core.admit(len(part), size) is None:
                _wait_for_room(core, functools.partial(core.admit, len(part), size), deadline)
            self._submit(part)
        for entry in sending.entries:
            if not entry.done:
                _wait_for(core, OutcomeWaiters(core, entry), entry.is_done, deadline + GRACE)
        return sending.finish(return_errors=return_errors)

    def enqueue(
        self,
        body: Sent_contra | Message,
        *,
        key: str | None = None,
        headers: Headers | None = None,
        message_id: str = "",
        content_type: str | None = None,
        correlation_id: str | None = None,
        reply_to: str | None = None,
        delay: Seconds = 0.0,
        ttl: Seconds | None = None,
        on_outcome: OnOutcome | None = None,
    ) -> str:
        """Start to send one message without waiting for its confirmation; return its id.

        The outcome goes to `on_outcome` (a receipt or an error; called in a thread of the driver, must not block), or
        failures are raised by the next `flush` or `close` (S6). Waits while the window is full (S5).

        Raises:
            InvalidMessage: the message is wrong; nothing was taken (S4).
            Unsupported: the backend has no delay or no ttl; raised before any I/O.
            BufferFull: the window stayed full for the whole timeout; nothing was taken (S5).
            Closed: the producer is closed.

        """
        core = self._core
        payload: object = body
        if core.codec is not None and not isinstance(body, Message):
            payload, headers, content_type = encode(core.codec, body, headers, content_type)
        message = compose(payload, key, headers, message_id, content_type, correlation_id, reply_to, delay, ttl)
        deadline = time.monotonic() + core.timeout
        entry = core.entry(message, deadline)
        if core.admits_freely:
            core.join_pipeline(entry, on_outcome)
        else:
            entry.on_outcome = on_outcome
            if core.admit_to_pipeline(entry) is None:
                _wait_for_room(core, functools.partial(core.admit_to_pipeline, entry), deadline)
        self._submit((entry,))
        return entry.message.id

    def flush(self, timeout: Seconds | None = None) -> None:
        """Wait until everything enqueued so far has its outcome (S6).

        Args:
            timeout: seconds; without it the producer's own timeout, after which no outcome can be missing.

        Raises:
            SendRejected: some messages are not stored and nobody was told; ``outcomes`` holds their errors.
            SendUnknown: the same, and some may be stored or have no outcome yet.
            Closed: the producer was closed, which waited for all outcomes.

        """
        core = self._core
        core.check_open()
        deadline = core.flush_deadline(timeout)
        group = core.start_flush()
        _wait_for(core, group.finished, group.is_finished, deadline)
        raise_failures(core.failures(group))

    def close(self, timeout: Seconds = CLOSE_TIMEOUT) -> None:
        """Refuse new messages, wait for every outcome, release everything, within `timeout` seconds (L1). Idempotent.

        Raises:
            SendRejected, SendUnknown: enqueued messages failed and nobody was told (S6).

        """
        deadline = deadline_after(timeout)
        raise_failures(_finish_producer(self._broker, self._core, deadline))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _close_at_exit(self.close, error)

    def __repr__(self) -> str:
        return f"<Producer to {self._core.target.name!r}{' closed' if self._core.closed else ''}>"


class Consumer(Generic[Value_co]):
    """Receives from one queue or subscription. Thread-safe: several threads may receive from it (L2)."""

    def __init__(self, broker: BrokerCore, core: ConsumerCore) -> None:
        self._broker = broker
        self._core = core
        self._runs = Runs()

    def receive(self, max_messages: int = 1, timeout: Seconds | None = None) -> list[Delivery[Value_co]]:
        """Return 1 to `max_messages` messages as soon as any is there, or none when `timeout` is over (R4).

        Args:
            max_messages: at most so many; never waits to fill up.
            timeout: seconds; `None` waits without limit, 0 takes what is there.

        Raises:
            Closed: the consumer was closed, also while this call waited (L1).
            ConnectionLost, AuthError, NotFound: the consumer ended; it cannot receive any more.

        """
        core = self._core
        if type(max_messages) is not int or max_messages < 1:
            count(max_messages, "max_messages")
        taken = core.take(max_messages)
        if taken is not None:
            return taken
        deadline = None if timeout is None else deadline_after(timeout)
        return block_until(core.arrived, lambda: core.take(max_messages), deadline) or []

    def __iter__(self) -> Iterator[Delivery[Value_co]]:
        """Yield messages as they come, until the consumer is closed."""
        core = self._core
        try:
            while True:
                delivery = core.take_one()
                if delivery is None:
                    delivery = block_until(core.arrived, core.take_one, None)
                if delivery is not None:
                    yield delivery
        except Closed:
            return

    def ack(self, deliveries: Iterable[Delivery[Any]]) -> None:
        """Ack many deliveries at once: the same as calling `Delivery.ack` on each, cheaper.

        Raises:
            AlreadySettled, LeaseLost: as soon as one is not held any more; the others were acked.

        """
        self._core.ack_all(deliveries)

    def settle(self, timeout: Seconds = DEFAULT_TIMEOUT) -> None:
        """Wait until every ack, nack and reject so far is confirmed by the strongest proof the backend gives (A1).

        Raises:
            LeaseLost, ConnectionLost: some settlements came too late or did not arrive; those messages return.
            SendRejected, SendUnknown: a dead-letter copy was not confirmed; its message returns.
            Closed: the consumer was closed, which confirmed all settlements.

        """
        raise_unconfirmed(confirm(self._core, deadline_after(timeout)).errors)

    @overload
    def run(
        self,
        handler: Callable[[Delivery[Value_co]], object],
        *,
        concurrency: int = 1,
        retry: Retry | None = None,
        timeout: Seconds | None = None,
        batch: None = None,
        batch_wait: Seconds = BATCH_WAIT,
        drain_timeout: Seconds = DRAIN_TIMEOUT,
        signals: bool = True,
        supervise: bool = False,
    ) -> None: ...
    @overload
    def run(
        self,
        handler: Callable[[list[Delivery[Value_co]]], object],
        *,
        concurrency: int = 1,
        retry: Retry | None = None,
        timeout: Seconds | None = None,
        batch: int,
        batch_wait: Seconds = BATCH_WAIT,
        drain_timeout: Seconds = DRAIN_TIMEOUT,
        signals: bool = True,
        supervise: bool = False,
    ) -> None: ...
    def run(
        self,
        handler: Callable[[Any], object],
        *,
        concurrency: int = 1,
        retry: Retry | None = None,
        timeout: Seconds | None = None,
        batch: int | None = None,
        batch_wait: Seconds = BATCH_WAIT,
        drain_timeout: Seconds = DRAIN_TIMEOUT,
        signals: bool = True,
        supervise: bool = False,
    ) -> None:
        """Handle messages until `stop`, a signal or `close`: acked when the handler returns, retried when it raises.

        The handler gets a `Delivery` and is a plain or an ``async`` function. What it returns is the reply to a request
        (Q3); a returned `Nack` or `Reject` does what it says; one that settles its delivery itself is left alone. What
        it raises is decided by the first error hook of the middlewares with an answer, else by `retry`: the message
        comes again after a back-off (A3), or goes to the dead letters with the exception in its provenance, as it does
        after `max_deliveries` (A8). Leases are kept while it runs, and while messages wait for it (A10).

        Plain handlers run in threads, a single one without a timeout in the calling thread; ``async`` ones in one event
        loop in a thread. ``docs/workers.md`` has the details.

        Args:
            handler: takes one delivery, or with `batch` a list of them; it then returns `None`, a sequence with one
                result per message, or a mapping from deliveries or ids to results. A result is `None`, an exception, a
                `Nack`, a `Reject` or a reply. What it raises fails every message of the batch.
            concurrency: handlers at a time, at most the consumer's `prefetch`.
            retry: when failed messages come again; without one, `Retry()`.
            timeout: seconds after which a call of the handler has failed. ``async`` ones are cancelled; a thread cannot
                be, so its message fails, its later result is ignored, and at most `concurrency` such threads pile up.
            batch: messages per call at most.
            batch_wait: seconds that a batch waits for more messages after its first.
            drain_timeout: seconds that handlers have to end after `stop` or a signal, and settlements to be confirmed.
            signals: in the main thread, SIGTERM and SIGINT drain; a second one raises `SystemExit` or
                `KeyboardInterrupt` at once.
            supervise: open the consumer again, with jittered back-off, when it ends by an error that is `retryable`.

        Raises:
            ConfigError: the handler cannot be called so, or an argument is out of range; before anything is taken.
            UnimqError: the consumer ended, as `receive` raises it.
            KeyboardInterrupt, SystemExit: the handler raised it, or a second signal came. Its message goes back
                unsettled.

        """
        from unimq._worker import Worker, run

        worker = Worker(
            self._broker,
            self._core,
            handler,
            concurrency=concurrency,
            retry=retry,
            timeout=timeout,
            batch=batch,
            batch_wait=batch_wait,
            drain_timeout=drain_timeout,
            signals=signals,
            supervise=supervise,
        )
        with self._runs.going_on(worker):
            run(worker, self._use)

    def stop(self) -> None:
        """Have every `run` of this consumer drain and return; from any thread, handler or signal. Never blocks.

        What is not handled yet is not counted as failed: it goes to the next `run` or `receive`, or back at `close`.
        When no `run` goes on, the next one returns at once: one that a thread has not begun yet is stopped, too.
        """
        self._runs.stop()

    def _use(self, core: ConsumerCore) -> None:
        self._core = core

    def pause(self) -> None:
        """Stop fetching; what was fetched can still be received and settled.

        Raises:
            Unsupported: the backend cannot pause.

        """
        self._core.pause()

    def resume(self) -> None:
        """Fetch again."""
        self._core.resume()

    def close(self, timeout: Seconds = CLOSE_TIMEOUT) -> None:
        """Wake every waiting `receive`, confirm what was settled, give back what was not (L1, A5). Idempotent.

        What is unsettled goes back from the beginning on: settling it meanwhile raises `LeaseLost`. If this returns, no
        acked message comes again. If it raises, the consumer is closed all the same.

        Raises:
            LeaseLost, ConnectionLost: some settlements are not confirmed, and no `settle` has told; those messages come
                or came again.
            SendRejected, SendUnknown: a dead-letter copy was not confirmed; its message returns.

        """
        raise_unconfirmed(self._broker.close_consumer(self._core, seconds(timeout, "timeout", zero=True)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _close_at_exit(self.close, error)

    def __repr__(self) -> str:
        return f"<Consumer of {self._core.source_name!r}{' closed' if self._core.closed else ''}>"


def _wait_for(
    core: ProducerCore, registry: Registry, attempt: Callable[[], Literal[True] | None], deadline: float
) -> Literal[True] | None:
    if core.served is not None:
        found = core.served.serve(attempt, deadline)
        if found is not None:
            return found
    return block_until(registry, attempt, deadline)


def _wait_for_room(core: ProducerCore, attempt: Callable[[], Literal[True] | None], deadline: float) -> None:
    if _wait_for(core, core.room, attempt, deadline) is None:
        raise core.still_full()


def _wait_for_outcome(core: ProducerCore, entry: Outgoing) -> None:
    if _wait_for(core, OutcomeWaiters(core, entry), entry.is_done, entry.deadline + GRACE) is None:
        raise core.overdue(entry)


def _finish_producer(broker: BrokerCore, core: ProducerCore, deadline: float) -> list[UnimqError]:
    if not core.stop(f"the producer to {core.target.name!r} is closed"):
        return []
    group = core.start_flush()
    _wait_for(core, group.finished, group.is_finished, deadline)
    broker.close_producer(core, remaining(deadline))
    return core.failures(group) + core.failures(core.group)


def _close_at_exit(close: Callable[[], None], error: BaseException | None) -> None:
    """Close at the end of a ``with`` block, whose own exception comes first: a failing close becomes a note of it."""
    try:
        close()
    except UnimqError as failed:
        if error is None:
            raise
        error.add_note(f"while closing: {type(failed).__name__}: {failed}")
