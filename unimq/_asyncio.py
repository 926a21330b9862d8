"""The asyncio front: waits on futures; every rule is in the cores it shares with the synchronous front.

Sending, receiving and settling happen in the event loop's thread and the driver's own; a driver's thread wakes the loop
once per batch. Only administration, opening and closing, which are blocking round trips, run in a worker thread.
"""

import asyncio
import functools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import TracebackType
from typing import Any, Generic, Literal, ParamSpec, Protocol, Self, TypeVar, overload

from unimq._broker import (
    CLOSE_TIMEOUT,
    DEFAULT_PREFETCH,
    DEFAULT_TIMEOUT,
    DEFAULT_WINDOW,
    DEFAULT_WINDOW_BYTES,
    BrokerCore,
)
from unimq._capabilities import Capabilities, Stats
from unimq._codec import Codec, Sent_contra, Value_co, encode
from unimq._delivery import Delivery
from unimq._destinations import Queue, Seconds, Source, Subscription, Target, Topic, count, seconds
from unimq._errors import Closed, UnimqError
from unimq._instruments import Instrument
from unimq._mailbox import Mailbox
from unimq._message import Headers, Message, compose
from unimq._middleware import Middleware
from unimq._outgoing import OnOutcome, Outgoing
from unimq._positions import Position
from unimq._receipt import Receipt
from unimq._receiving import ConsumerCore, raise_unconfirmed
from unimq._redrive import Redrive, Redriven
from unimq._requests import Request
from unimq._retry import BATCH_WAIT, DRAIN_TIMEOUT, Retry
from unimq._runs import Runs
from unimq._sending import GRACE, ManySends, OutcomeWaiters, ProducerCore, name_message, raise_failures
from unimq._waiting import Registry, deadline_after, remaining

T = TypeVar("T")
P = ParamSpec("P")


class _Closing(Protocol):
    async def close(self) -> None: ...


C = TypeVar("C", bound=_Closing)


class _Loop:
    """One event loop, as the other threads see it."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._woken: Mailbox[asyncio.Future[None]] = Mailbox(self._wake)
        self._workers: ThreadPoolExecutor | None = None
        self._closed = False

    def _wake(self) -> None:
        try:
            self.loop.call_soon_threadsafe(self._resume)
        except RuntimeError:
            # The loop is closed, and with it everybody who waited in it.
            return

    def _resume(self) -> None:
        for future in self._woken.drain():
            if not future.done():
                future.set_result(None)

    async def suspend_until(
        self, waiters: Registry, attempt: Callable[[], T | None], deadline: float | None
    ) -> T | None:
        """Suspend the task until `attempt` returns something, or until `deadline` (`time.monotonic`)."""
        while True:
            found = attempt()
            if found is not None:
                return found
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                return None
            future: asyncio.Future[None] = self.loop.create_future()
            wake = functools.partial(self._woken.post, future)
            timer = None if remaining is None else self.loop.call_later(remaining, _expire, future)
            waiters.add(wake)
            try:
                found = attempt()
                if found is None:
                    await future
            except BaseException:
                # Cancelled, perhaps after having been woken for a change that only another waiter can use now.
                if not waiters.discard(wake):
                    waiters.wake()
                raise
            finally:
                if timer is not None:
                    timer.cancel()
            taken_back = waiters.discard(wake)
            if found is not None:
                if not taken_back:
                    waiters.wake()
                return found

    async def in_worker(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking administrative call beside the loop."""
        if self._closed:
            # The broker is closed, and the call says so at once; it must not bring the worker threads back (L4).
            return call(*args, **kwargs)
        if self._workers is None:
            self._workers = ThreadPoolExecutor(4, "unimq-administration")
        return await self.loop.run_in_executor(self._workers, functools.partial(call, *args, **kwargs))

    def close(self) -> None:
        """End the worker threads."""
        self._closed = True
        if self._workers is not None:
            self._workers.shutdown(wait=True)
            self._workers = None


def _expire(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


class Opening(Generic[C]):
    """What opens when it is awaited, or for the length of an ``async with`` block."""

    def __init__(self, start: Callable[[], Awaitable[C]]) -> None:
        self._start = start
        self._opened: C

    async def _open(self) -> C:
        return await self._start()

    def __await__(self) -> Generator[object, None, C]:
        return self._open().__await__()

    async def __aenter__(self) -> C:
        self._opened = await self._start()
        return self._opened

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _close_at_exit(self._opened, error)


def connect_async(
    url: str | None = None,
    *,
    timeout: float | timedelta = DEFAULT_TIMEOUT,
    middleware: Iterable[Middleware | Instrument] = (),
    config: str | os.PathLike[str] | None = None,
) -> "Opening[AsyncBroker]":
    """Connect to a broker as `connect` does; await what it returns, or use it in ``async with``."""

    async def start() -> AsyncBroker:
        loop = _Loop()
        try:
            core = await loop.in_worker(BrokerCore, url, timeout=timeout, middleware=middleware, config=config)
        except BaseException:
            loop.close()
            raise
        return AsyncBroker(loop, core)

    return Opening(start)


class AsyncBroker:
    """A connection to one broker, for one event loop; see `Broker` for what every call guarantees."""

    def __init__(self, loop: _Loop, core: BrokerCore) -> None:
        self._loop = loop
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
    ) -> "Opening[AsyncProducer]": ...
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
    ) -> "Opening[AsyncProducer[T]]": ...
    def producer(
        self,
        target: str | Target,
        *,
        timeout: Seconds = DEFAULT_TIMEOUT,
        window: int = DEFAULT_WINDOW,
        window_bytes: int = DEFAULT_WINDOW_BYTES,
        codec: Codec[Any] | None = None,
        middleware: Iterable[Middleware] = (),
    ) -> "Opening[AsyncProducer[Any]]":
        """Open a producer; see `Broker.producer`."""

        async def start() -> AsyncProducer[Any]:
            core = await self._loop.in_worker(
                self._core.open_producer,
                target,
                timeout=timeout,
                window=window,
                window_bytes=window_bytes,
                codec=codec,
                middleware=middleware,
            )
            return AsyncProducer(self._loop, self._core, core)

        return Opening(start)

    @overload
    def consumer(
        self,
        source: str | Source,
        *,
        prefetch: int = DEFAULT_PREFETCH,
        codec: None = None,
        middleware: Iterable[Middleware] = (),
    ) -> "Opening[AsyncConsumer]": ...
    @overload
    def consumer(
        self,
        source: str | Source,
        *,
        prefetch: int = DEFAULT_PREFETCH,
        codec: Codec[T],
        middleware: Iterable[Middleware] = (),
    ) -> "Opening[AsyncConsumer[T]]": ...
    def consumer(
        self,
        source: str | Source,
        *,
        prefetch: int = DEFAULT_PREFETCH,
        codec: Codec[Any] | None = None,
        middleware: Iterable[Middleware] = (),
    ) -> "Opening[AsyncConsumer[Any]]":
        """Open a consumer; see `Broker.consumer`."""

        async def start() -> AsyncConsumer[Any]:
            core = await self._loop.in_worker(
                self._core.open_consumer, source, prefetch=prefetch, codec=codec, middleware=middleware
            )
            return AsyncConsumer(self._loop, self._core, core)

        return Opening(start)

    @overload
    async def request(
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
    async def request(
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
    async def request(
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
    async def request(
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
        """Send a request and return its reply; see `Broker.request` (Q1). Cancelling it drops the reply."""
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
                await self._loop.in_worker(request.prepare)
            deadline = request.start()
            if await self._loop.suspend_until(request.room, request.admit, deadline) is None:
                raise request.still_full()
            request.send()
            await self._loop.suspend_until(request.arrived, request.is_answered, deadline)
            return request.result()

    async def declare(self, *destinations: str | Queue | Topic | Subscription) -> None:
        """Create what is missing; see `Broker.declare`."""
        for destination in destinations:
            await self._loop.in_worker(self._core.declare, destination)

    async def delete(self, *destinations: str | Queue | Topic | Subscription) -> None:
        """Delete destinations with their messages; see `Broker.delete`."""
        for destination in destinations:
            await self._loop.in_worker(self._core.delete, destination)

    async def seek(self, source: str | Source, to: Position) -> None:
        """Let the next consumer begin elsewhere; see `Broker.seek`."""
        await self._loop.in_worker(self._core.seek, source, to)

    async def purge(self, source: str | Source) -> int | None:
        """Drop all waiting messages; see `Broker.purge`."""
        return await self._loop.in_worker(self._core.purge, source)

    async def stats(self, source: str | Source) -> Stats:
        """Return the depth of a queue or subscription; see `Broker.stats`."""
        return await self._loop.in_worker(self._core.stats, source)

    async def redrive(
        self,
        source: str | Source,
        *,
        limit: int | None = None,
        reason: str | None = None,
        rate: float | None = None,
        dry_run: bool = False,
        timeout: Seconds = DEFAULT_TIMEOUT,
    ) -> Redriven:
        """Return dead letters to their source; see `Broker.redrive` (D2). Cancelled, it ends with what is under way."""
        redrive = Redrive(self._core, source, limit=limit, reason=reason, rate=rate, dry_run=dry_run, timeout=timeout)
        running = asyncio.ensure_future(self._loop.in_worker(redrive.run))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            redrive.stop()
            await asyncio.wait((running,))
            raise

    async def close(self, timeout: Seconds = CLOSE_TIMEOUT) -> None:
        """Close everything within `timeout` seconds; see `Broker.close`."""
        deadline = deadline_after(timeout)
        failures: list[UnimqError] = []
        self._core.stop_requests()
        for core in list(self._core.producers):
            failures += await _finish_producer(self._loop, self._core, core, deadline)
        unconfirmed: Sequence[UnimqError] = ()
        if not self._core.closed:
            unconfirmed = await self._loop.in_worker(self._core.close, remaining(deadline))
            self._loop.close()
        raise_failures(failures)
        raise_unconfirmed(unconfirmed)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _close_at_exit(self, error)

    def __repr__(self) -> str:
        return f"<AsyncBroker {self._core.url}{' closed' if self._core.closed else ''}>"


class AsyncProducer(Generic[Sent_contra]):
    """Sends to one queue or topic; see `Producer` for what every call guarantees."""

    def __init__(self, loop: _Loop, broker: BrokerCore, core: ProducerCore) -> None:
        self._loop = loop
        self._broker = broker
        self._core = core

    async def send(
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
        """Send one message and return once it is confirmed; see `Producer.send` (S1, S2).

        A cancelled send may have been stored: it is a `SendUnknown` that nobody waits for.
        """
        core = self._core
        payload: object = body
        if core.codec is not None and not isinstance(body, Message):
            payload, headers, content_type = encode(core.codec, body, headers, content_type)
        message = compose(payload, key, headers, message_id, content_type, correlation_id, reply_to, delay, ttl)
        entry = core.entry(message, time.monotonic() + core.timeout)
        if not core.admits_freely:
            await self._admit(1, entry.size, entry.deadline)
        core.sender.submit((entry,))
        if not entry.done:
            await self._outcome(entry)
        if entry.error is not None:
            raise name_message(entry.error, entry.message.id)
        if not entry.done:
            raise core.overdue(entry)
        return Receipt(entry.message.id, entry.position)

    @overload
    async def send_many(self, messages: Iterable[Message | Sent_contra]) -> list[Receipt]: ...
    @overload
    async def send_many(
        self, messages: Iterable[Message | Sent_contra], *, return_errors: Literal[True]
    ) -> list[Receipt | UnimqError]: ...
    async def send_many(
        self, messages: Iterable[Message | Sent_contra], *, return_errors: bool = False
    ) -> list[Receipt] | list[Receipt | UnimqError]:
        """Send many messages in one go, each with its own outcome; see `Producer.send_many` (S3)."""
        core = self._core
        deadline = time.monotonic() + core.timeout
        sending = ManySends(core, messages, deadline)
        for part, size in sending.parts():
            if not core.admits_freely:
                await self._admit(len(part), size, deadline)
            core.sender.submit(part)
        for entry in sending.entries:
            if not entry.done:
                await self._outcome(entry)
        return sending.finish(return_errors=return_errors)

    async def enqueue(
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
        """Start to send one message without waiting for its confirmation; see `Producer.enqueue` (S5, S6)."""
        core = self._core
        payload: object = body
        if core.codec is not None and not isinstance(body, Message):
            payload, headers, content_type = encode(core.codec, body, headers, content_type)
        message = compose(payload, key, headers, message_id, content_type, correlation_id, reply_to, delay, ttl)
        entry = core.entry(message, time.monotonic() + core.timeout)
        if not core.admits_freely:
            await self._admit(1, entry.size, entry.deadline)
        core.join_pipeline(entry, on_outcome)
        core.submit_quietly((entry,))
        return entry.message.id

    async def flush(self, timeout: Seconds | None = None) -> None:
        """Wait until everything enqueued so far has its outcome; see `Producer.flush` (S6)."""
        core = self._core
        core.check_open()
        deadline = core.flush_deadline(timeout)
        group = core.start_flush()
        await self._loop.suspend_until(group.finished, group.is_finished, deadline)
        raise_failures(core.failures(group))

    async def close(self, timeout: Seconds = CLOSE_TIMEOUT) -> None:
        """Wait for every outcome and release everything; see `Producer.close` (S6, L1)."""
        deadline = deadline_after(timeout)
        raise_failures(await _finish_producer(self._loop, self._broker, self._core, deadline))

    async def _admit(self, messages: int, size: int, deadline: float) -> None:
        core = self._core
        if core.admit(messages, size) is not None:
            return
        if await self._loop.suspend_until(core.room, lambda: core.admit(messages, size), deadline) is None:
            raise core.still_full()

    async def _outcome(self, entry: Outgoing) -> None:
        waiters = OutcomeWaiters(self._core, entry)
        await self._loop.suspend_until(waiters, entry.is_done, entry.deadline + GRACE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _close_at_exit(self, error)

    def __repr__(self) -> str:
        return f"<AsyncProducer to {self._core.target.name!r}{' closed' if self._core.closed else ''}>"


class AsyncConsumer(Generic[Value_co]):
    """Receives from one queue or subscription; see `Consumer` for what every call guarantees."""

    def __init__(self, loop: _Loop, broker: BrokerCore, core: ConsumerCore) -> None:
        self._loop = loop
        self._broker = broker
        self._core = core
        self._runs = Runs()

    async def receive(self, max_messages: int = 1, timeout: Seconds | None = None) -> list[Delivery[Value_co]]:
        """Return 1 to `max_messages` messages as soon as any is there; see `Consumer.receive` (R4).

        Cancelling it loses no message.
        """
        core = self._core
        if type(max_messages) is not int or max_messages < 1:
            count(max_messages, "max_messages")
        deadline = None if timeout is None else deadline_after(timeout)
        return await self._loop.suspend_until(core.arrived, lambda: core.take(max_messages), deadline) or []

    async def __aiter__(self) -> AsyncIterator[Delivery[Value_co]]:
        """Yield messages as they come, until the consumer is closed."""
        core = self._core
        try:
            while True:
                delivery = core.take_one()
                if delivery is None:
                    delivery = await self._loop.suspend_until(core.arrived, core.take_one, None)
                if delivery is not None:
                    yield delivery
        except Closed:
            return

    def ack(self, deliveries: Iterable[Delivery[Any]]) -> None:
        """Ack many deliveries at once; see `Consumer.ack`."""
        self._core.ack_all(deliveries)

    async def settle(self, timeout: Seconds = DEFAULT_TIMEOUT) -> None:
        """Wait until every settlement so far is confirmed; see `Consumer.settle` (A1)."""
        core = self._core
        deadline = deadline_after(timeout)
        if await self._loop.suspend_until(core.moves_done, core.moves_finished, deadline):
            barrier = core.start_barrier()
            if await self._loop.suspend_until(barrier.finished, barrier.is_finished, deadline):
                raise_unconfirmed(barrier.errors)
                return
        raise core.settle_overdue()

    @overload
    async def run(
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
    async def run(
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
    async def run(
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
        """Handle messages until `stop`, a signal or `close`; see `Consumer.run`.

        ``async`` handlers run as tasks of this loop, plain ones in threads. Cancelling it cancels the former; their
        messages go back unsettled.
        """
        from unimq._async_worker import run
        from unimq._worker import Worker

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
            await run(worker, self._loop, self._use)

    def stop(self) -> None:
        """Have every `run` of this consumer drain and return; see `Consumer.stop`."""
        self._runs.stop()

    def _use(self, core: ConsumerCore) -> None:
        self._core = core

    async def pause(self) -> None:
        """Stop fetching; see `Consumer.pause`."""
        self._core.pause()

    async def resume(self) -> None:
        """Fetch again; see `Consumer.resume`."""
        self._core.resume()

    async def close(self, timeout: Seconds = CLOSE_TIMEOUT) -> None:
        """Wake every waiting `receive` and give back what is unsettled; see `Consumer.close` (L1, A5)."""
        if self._core.closed:
            return
        timeout = seconds(timeout, "timeout", zero=True)
        raise_unconfirmed(await self._loop.in_worker(self._broker.close_consumer, self._core, timeout))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _close_at_exit(self, error)

    def __repr__(self) -> str:
        return f"<AsyncConsumer of {self._core.source_name!r}{' closed' if self._core.closed else ''}>"


async def _finish_producer(loop: _Loop, broker: BrokerCore, core: ProducerCore, deadline: float) -> list[UnimqError]:
    if not core.stop(f"the producer to {core.target.name!r} is closed"):
        return []
    group = core.start_flush()
    await loop.suspend_until(group.finished, group.is_finished, deadline)
    await loop.in_worker(broker.close_producer, core, remaining(deadline))
    return core.failures(group) + core.failures(core.group)


async def _close_at_exit(opened: _Closing, error: BaseException | None) -> None:
    """Close at the end of an ``async with`` block, whose own exception comes first: a failing close becomes a note."""
    try:
        await opened.close()
    except UnimqError as failed:
        if error is None:
            raise
        error.add_note(f"while closing: {type(failed).__name__}: {failed}")
