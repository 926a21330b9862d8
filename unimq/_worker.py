"""Workers: handlers in threads, and everything about them that both fronts share.

What a handler's outcome means is decided in `Worker`; who calls it is the business of `ThreadWorkers` here and of
`unimq._async_worker`. Each of the `concurrency` workers takes its next delivery itself, so there is no queue between
receiving and handling, and nothing to hand over.
"""

import functools
import inspect
import logging
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Literal

from unimq._clock import Clock
from unimq._delivery import Delivery
from unimq._destinations import Seconds, count, seconds
from unimq._errors import AlreadySettled, Closed, ConfigError, ConnectionLost, LeaseLost, UnimqError, Unsupported
from unimq._events import log, say
from unimq._idle import Idle
from unimq._middleware import Nack, Reject, say_failed
from unimq._receiving import EXHAUSTED, ConsumerCore, confirm
from unimq._replies import Replier
from unimq._retry import BATCH_WAIT, DRAIN_TIMEOUT, Retry
from unimq._signals import DrainOver, watched
from unimq._waiting import Waiters, block_until, remaining

if TYPE_CHECKING:
    from unimq._broker import BrokerCore

ACKS_AT_ONCE = 100
ACK_WITHIN = 0.02
"""Acks of plain handlers go to the driver at this number, or after this many seconds, or when nothing else is there."""
REPLY = "reply"
"""Reason of a dead letter whose reply can never be sent."""
LASTING = 60.0
"""Seconds that a consumer must have lived for its next failure to count as the first again."""
_REOPEN = Retry(base=0.5, factor=2.0, cap=30.0)
_NOTHING: AbstractContextManager[None] = nullcontext()


class Worker:
    """One call of `run`: the handler, its rules, and what becomes of each delivery. Any thread may call any method.

    `stopping`, `forced` and `fatal` are set once and then only read; `stop` and what it calls take no lock, because
    a signal's handler may have interrupted the one who holds it.
    """

    def __init__(
        self,
        broker: "BrokerCore",
        core: ConsumerCore,
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
        self.handler = handler
        self.is_async: bool = check_handler(handler, "a list of deliveries" if batch else "one delivery")
        self.concurrency: int = count(concurrency, "concurrency")
        self.batch: int | None = None if batch is None else count(batch, "batch")
        self.batch_wait: float = seconds(batch_wait, "batch_wait", zero=True)
        self.timeout: float | None = None if timeout is None else seconds(timeout, "timeout")
        self.drain_timeout: float = seconds(drain_timeout, "drain_timeout", zero=True)
        if retry is not None and not isinstance(retry, Retry):
            raise ConfigError(f"retry must be a unimq.Retry, not {type(retry).__name__}")
        self.retry: Retry = Retry() if retry is None else retry
        self.signals = signals
        self.supervise = supervise
        self.broker = broker
        if self.concurrency > core.prefetch:
            raise ConfigError(
                f"concurrency={concurrency} needs a consumer that holds as many messages; its prefetch is"
                f" {core.prefetch}"
            )
        if self.batch is not None and self.batch > core.prefetch:
            raise ConfigError(f"batch={batch} needs a consumer that holds as many; its prefetch is {core.prefetch}")
        self.stopping = False
        self.interrupt: Callable[[], None] | None = None
        """Ends the handler in the main thread when the time to drain is over."""
        self.drain_over = False
        self.fatal: BaseException | None = None
        self.changed: Waiters = Waiters()
        """Of `stopping` and of the end of a worker."""
        self.clock: Clock = Clock()
        self.use(core)

    def use(self, core: ConsumerCore) -> None:
        """Work for this consumer from now on."""
        self.core: ConsumerCore = core
        self.acks: deque[Delivery[Any]] = deque()
        self.flush_is_due = False
        self.flushing: threading.RLock = threading.RLock()
        """Held while acks are handed over: who finds nothing to do meanwhile waits for what comes for them."""
        self.held_back: set[Delivery[Any]] = set()
        """Failed deliveries that wait here, where the backend cannot delay them."""
        self.replier: Replier | None = None
        self.replier_lock: threading.Lock = threading.Lock()
        self.error_hooks = [each.error for each in core.middleware if each.error is not None]
        self.handling_hooks = [each.handling for each in core.middleware if each.handling is not None]
        self.idle: Idle = Idle(core)
        core.closing.add(self.on_close)
        lease = core.queue.lease_seconds
        if lease is not None and core.capabilities.extend:
            self.clock.call_later(lease / 3, functools.partial(self._beat, core, lease))

    # Stopping.

    def stop(self) -> None:
        """Take nothing any more; what is in hand is finished. Never blocks."""
        if not self.stopping and self.interrupt is not None:
            self.clock.call_later(self.drain_timeout, self.interrupt)
        self.stopping = True
        self.wake()

    def wake(self) -> None:
        """Have everybody who waits for a change or a delivery look again."""
        self.changed.wake_all()
        self.idle.wake_all()
        self.core.arrived.wake_all()

    def fail(self, error: BaseException) -> None:
        """Stop, and have `run` raise `error`; the first one counts."""
        if self.fatal is None:
            self.fatal = error
        self.stop()

    def on_close(self) -> None:
        """Hand over the acks of what is done: the consumer is about to be closed."""
        self.stop()
        self.flush()

    def is_stopping(self) -> Literal[True] | None:
        """Attempt for the fronts."""
        return True if self.stopping else None

    # Taking.

    def take(self) -> list[Delivery[Any]] | None:
        """Attempt to take what one worker handles next; an empty list once the worker stops."""
        return [] if self.stopping else self.core.take(self.batch or 1)

    def take_more(self, found: Sequence[Delivery[Any]]) -> list[Delivery[Any]] | None:
        """Attempt to take what a batch has room for."""
        return [] if self.stopping else self.core.take((self.batch or 0) - len(found))

    def put_back(self, deliveries: Iterable[Delivery[Any]]) -> None:
        """Have deliveries that were not handled go first to whoever receives next, or back when the consumer closes."""
        # First, for one that was interrupted while its ack was noted.
        self.flush()
        mine = [delivery for delivery in deliveries if delivery in self.core.held]
        self.core.buffer.extendleft(reversed(mine))
        if mine:
            self.core.arrived.wake(len(mine))

    # Outcomes.

    def done(self, delivery: Delivery[Any], result: object = None) -> None:
        """Settle as the handler's return value says; not if the handler settled it itself."""
        if delivery not in self.core.held:
            if delivery.lost:
                self._say_lost(
                    f"message {delivery.id} of {self.core.source_name!r} was handled, but is no longer held here; it"
                    " comes or came again"
                )
            return
        if isinstance(result, BaseException):
            self.failed(delivery, result)
        elif isinstance(result, Nack):
            self._settle(self._nack, delivery, float(result.delay), None)  # type: ignore[arg-type] # seconds already
        elif isinstance(result, Reject):
            self._reject(delivery, result.reason, None)
        elif delivery.message.reply_to is not None:
            self._replies().submit(delivery, result, self.core.codec, functools.partial(self._replied, delivery))
        else:
            self.ack(delivery)

    def batch_done(self, deliveries: Sequence[Delivery[Any]], results: object) -> None:
        """Settle each delivery of a batch by what the handler returned."""
        try:
            each = _results(deliveries, results)
        except ConfigError as error:
            self.core.seldom.say(
                "bad-result",
                "the handler of %r: %s",
                self.core.source_name,
                error,
                level=logging.ERROR,
                source=self.core.source_name,
            )
            self.batch_failed(deliveries, error)
            return
        for delivery, result in zip(deliveries, each, strict=True):
            self.done(delivery, result)

    def batch_failed(self, deliveries: Iterable[Delivery[Any]], error: BaseException) -> None:
        """Settle every delivery of a batch whose handler raised."""
        for delivery in deliveries:
            self.failed(delivery, error)

    def ack(self, delivery: Delivery[Any]) -> None:
        """Ack, soon and with others."""
        self.acks.append(delivery)
        if not self.flush_is_due:
            self.flush_soon()
        if len(self.acks) >= ACKS_AT_ONCE:
            self.flush_unless_under_way()

    def flush_soon(self) -> None:
        """Have what is in `acks` handed over in time."""
        self.flush_is_due = True
        self.clock.call_later(ACK_WITHIN, self._flush_due)

    def _flush_due(self) -> None:
        self.flush_is_due = False
        self.flush()

    def flush(self) -> None:
        """Hand the acks over that wait for company, after those that another thread is handing over."""
        if self.core.abandoned:
            # In a forked child, where the lock may be held for ever.
            return
        with self.flushing:
            self._flush()

    def flush_unless_under_way(self) -> None:
        """Hand over the acks, which are enough for it, but do not wait for another thread that is about to do it."""
        if self.flushing.acquire(blocking=False):
            try:
                self._flush()
            finally:
                self.flushing.release()

    def _flush(self) -> None:
        mine: list[Delivery[Any]] = []
        # The error is the end of the deque; what was taken before it is in the list.
        with suppress(IndexError):
            mine.extend(iter(self.acks.popleft, None))
        if mine:
            self._settle(self.core.ack_all, mine)

    def failed(self, delivery: Delivery[Any], error: BaseException) -> None:
        """Have it come again or not, as the error hooks or else the policy decide; not if the handler settled it."""
        if delivery not in self.core.held:
            log.debug("handler of message %s raised after settling it", delivery.id, exc_info=error)
            return
        decision = self._decide(delivery, error)
        if isinstance(decision, Reject):
            self._reject(delivery, decision.reason, error)
            return
        limit = self.core.max_deliveries
        if limit is not None and delivery.attempt >= limit:
            self._reject(delivery, EXHAUSTED, error)
            return
        longest = self.core.capabilities.max_nack_delay
        delay = float(decision.delay)  # type: ignore[arg-type] # Nack made it seconds
        delay = delay if longest is None else min(delay, longest)
        self._settle(self._nack, delivery, delay, error)

    def _decide(self, delivery: Delivery[Any], error: BaseException) -> Nack | Reject:
        for hook in self.error_hooks:
            try:
                decision = hook(delivery, error)
            except Exception as failure:  # noqa: BLE001 - the user's
                say_failed(self.core.seldom, hook, failure)
                continue
            if decision is not None:
                return decision
        return self.retry(delivery, error)

    def _nack(self, delivery: Delivery[Any], delay: float, error: BaseException | None) -> None:
        core = self.core
        if delay and not core.capabilities.nack_delay:
            # It stays held, and so counts towards `prefetch`, which bounds what waits here.
            self.held_back.add(delivery)
            self.clock.call_later(delay, functools.partial(self._nack_now, delivery))
            return
        core.nack(delivery, delay, error)

    def _nack_now(self, delivery: Delivery[Any]) -> None:
        if delivery in self.held_back:
            self.held_back.discard(delivery)
            self._settle(self.core.nack, delivery, 0.0)

    def _reject(self, delivery: Delivery[Any], reason: str, error: BaseException | None) -> None:
        def reject(failure: UnimqError | None = None) -> None:
            if failure is not None:
                self.core.seldom.say(
                    "reply-failed",
                    "the requester of message %s was not told that it failed: %s",
                    delivery.id,
                    failure,
                    source=self.core.source_name,
                    message_id=delivery.id,
                )
            self._settle(self.core.reject, delivery, reason, error)

        if delivery.message.reply_to is not None:
            # The requester need not wait for its timeout.
            self._replies().fail(delivery, reason, error, reject)
        else:
            reject()

    def _replied(self, delivery: Delivery[Any], error: UnimqError | None) -> None:
        if error is None:
            # At once: this may be the last outcome before the end, and comes from a thread of the driver.
            self._settle(self.core.ack, delivery)
        elif error.retryable or isinstance(error, Closed):
            self.failed(delivery, error)
        else:
            self._reject(delivery, REPLY, error)

    def _replies(self) -> Replier:
        with self.replier_lock:
            if self.replier is None:
                self.replier = Replier(self.broker)
            return self.replier

    def _settle(self, settlement: Callable[..., None], *args: Any) -> None:
        """Settle what may be settled or lost meanwhile: by the handler, by the end of a lease, by a close."""
        try:
            settlement(*args)
        except AlreadySettled:
            pass
        except (LeaseLost, Closed) as error:
            self._say_lost(str(error))

    def _say_lost(self, text: str) -> None:
        self.core.seldom.say("handled-again", "a handled message comes again: %s", text, source=self.core.source_name)

    # The lease.

    def _beat(self, core: ConsumerCore, lease: float) -> None:
        """Prolong every lease that is a third over: of what is handled, waits for it, or is held back (A10)."""
        if core is not self.core or core.closed:
            return
        self.clock.call_later(lease / 3, functools.partial(self._beat, core, lease))
        soon = time.monotonic() + lease * 0.75
        # A copy in one step: `list(set)` is atomic.
        for delivery in list(core.held):
            if 0 < delivery.lease_until < soon:
                try:
                    core.extend(delivery, lease)
                except (AlreadySettled, LeaseLost, Unsupported):
                    # The last: SQS keeps a message no longer than twelve hours after its receipt.
                    continue

    # The end of a run.

    def release(self) -> None:
        """Give up what waits here, and hand every settlement over."""
        for delivery in list(self.held_back):
            self._nack_now(delivery)
        self.flush()
        self.core.closing.discard(self.on_close)

    def finish(self, deadline: float) -> None:
        """Wait for replies and, until `deadline`, for the confirmation of every settlement. Blocks."""
        if self.replier is not None:
            self.replier.close(remaining(deadline))
        self.release()
        core = self.core
        if core.closed or core.error is not None:
            return
        try:
            errors = confirm(core, deadline).errors
        except Closed:
            return
        except ConnectionLost as overdue:
            say("settlements-overdue", "%s", overdue, source=core.source_name)
            return
        if errors:
            say(
                "settlements-failed",
                "%d settlements of %r failed; their messages come again: %s",
                len(errors),
                core.source_name,
                errors[0],
                source=core.source_name,
            )

    def reopens_after(self, error: BaseException | None) -> bool:
        """Tell whether a run that ended so goes on with a new consumer."""
        return self.supervise and isinstance(error, UnimqError) and error.retryable

    def reopen(self) -> ConsumerCore:
        """Open the consumer anew, closing the one that failed; blocks.

        Raises:
            UnimqError: it cannot be opened.

        """
        old = self.core
        self.broker.close_consumer(old, 0.0)
        own = old.middleware[len(self.broker.middleware) :]
        new = self.broker.open_consumer(old.source, prefetch=old.prefetch, codec=old.codec, middleware=own)
        self.use(new)
        return new

    def reset(self) -> None:
        """Forget the failure that stopped the worker: it goes on, unless the user stops it now."""
        self.stopping, self.fatal = False, None

    def overdue(self) -> TimeoutError:
        """Return the error of a handler that took too long."""
        return TimeoutError(f"the handler took longer than its timeout of {self.timeout} s")


def wait_before_reopening(failures: int, error: BaseException | None) -> float:
    """Return the seconds, at random, until the next attempt to open a consumer that failed, and say so."""
    wait = random.uniform(0.0, _REOPEN.longest_wait(failures))
    say("consumer-reopens", "the consumer ended and is opened again in %.1f s: %s", wait, error)
    return wait


def check_handler(handler: Callable[[Any], object], takes: str) -> bool:
    """Tell whether a handler is ``async``.

    Raises:
        ConfigError: it cannot be called with one argument.

    """
    if not callable(handler):
        raise ConfigError(f"a handler is a function that takes {takes}, not {type(handler).__name__}")
    function: Any = handler
    is_plain = inspect.isroutine(handler) or isinstance(handler, functools.partial)
    call: Any = function if is_plain else type(function).__call__
    if inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call):
        raise ConfigError(
            f"handler {handler!r} is a generator; a handler returns, and may be async, but does not yield"
        )
    try:
        signature = inspect.signature(function)
    except ValueError:
        # Of a builtin, which does not tell.
        return False
    try:
        signature.bind(None)
    except TypeError as error:
        raise ConfigError(f"handler {handler!r} must take {takes} as its only required argument: {error}") from error
    return inspect.iscoroutinefunction(call)


def _results(deliveries: Sequence[Delivery[Any]], results: object) -> Iterable[object]:
    """Return one result per delivery, or raise `ConfigError`."""
    if results is None:
        return [None] * len(deliveries)
    if isinstance(results, Mapping):
        known = {key for delivery in deliveries for key in (delivery, delivery.id)}
        unknown = [key for key in results if key not in known]  # pyright: ignore[reportUnknownVariableType]
        if unknown:
            raise ConfigError(f"a batch handler returned a result for {unknown[0]!r}, which is not in the batch")
        return [results.get(delivery, results.get(delivery.id)) for delivery in deliveries]  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if isinstance(results, Sequence) and not isinstance(results, str | bytes):
        found: Sequence[object] = results  # pyright: ignore[reportUnknownVariableType]
        if len(found) == len(deliveries):
            return found
        raise ConfigError(f"a batch handler returned {len(found)} results for {len(deliveries)} messages")
    raise ConfigError(
        "a batch handler returns None, a sequence with one result per message or a mapping of deliveries or ids, not"
        f" {type(results).__name__}"
    )


class _Slot:
    """One worker thread, and what it handles; `ThreadWorkers.lock` guards it where there is a timeout."""

    __slots__ = ("deadline", "deliveries", "is_watched", "thread")

    def __init__(self) -> None:
        self.deliveries: Sequence[Delivery[Any]] | None = None
        self.deadline: float = 0.0
        """`time.monotonic` at which the handler that is called now has overrun its timeout."""
        self.is_watched: bool = False
        """The clock looks at the deadline later: once per timeout, not once per call."""
        self.thread: threading.Thread


class ThreadWorkers:
    """Plain handlers in up to `concurrency` threads; without a timeout, a single one runs in the calling thread.

    A thread cannot be ended from outside. When a handler overruns its timeout, its deliveries fail, its later outcome
    is ignored, and another thread takes its place, as long as no more than `concurrency` of them overrun. Beyond that
    nothing is handled until one returns. Threads are daemons: they do not keep the process alive.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.lock = threading.Lock()
        self.working: set[_Slot] = set()
        self.overrun: set[_Slot] = set()

    # In the calling thread.

    def run_here(self) -> None:
        """Handle in this thread until the worker stops."""
        try:
            self._serve(_Slot())
        except Closed:
            self.worker.stop()
        except UnimqError as error:
            self.worker.fail(error)

    # In threads.

    def start(self) -> None:
        """Start the threads."""
        with self.lock:
            for _ in range(self.worker.concurrency):
                self._start_one()

    def is_over(self) -> Literal[True] | None:
        """Attempt for the fronts: true when no thread works that still has its time."""
        return None if self.working else True

    def abandoned(self) -> int:
        """Return the number of threads whose handlers have not returned."""
        return len(self.working) + len(self.overrun)

    def _start_one(self) -> None:
        slot = _Slot()
        slot.thread = threading.Thread(target=self._work, args=(slot,), name="unimq-worker", daemon=True)
        self.working.add(slot)
        slot.thread.start()

    def _work(self, slot: _Slot) -> None:
        worker = self.worker
        try:
            self._serve(slot)
        except Closed:
            worker.stop()
        except BaseException as error:  # noqa: BLE001 - `run` raises it in its own thread
            worker.fail(error)
        with self.lock:
            self.working.discard(slot)
            if slot in self.overrun:
                self.overrun.discard(slot)
                self._fill_up()
            is_last = not self.working
        if is_last:
            worker.changed.wake_all()

    def _fill_up(self) -> None:
        worker = self.worker
        while (
            not worker.stopping
            and len(self.working) < worker.concurrency
            and len(self.working) + len(self.overrun) < 2 * worker.concurrency
        ):
            self._start_one()

    def _serve(self, slot: _Slot) -> None:
        worker = self.worker
        if worker.batch is None and worker.timeout is None and not worker.handling_hooks:
            self._serve_simply()
            return
        while taken := worker.take() or self._wait():
            if worker.batch is not None and not self._fill_batch(taken):
                return
            if not self._handle(slot, taken, taken if worker.batch is not None else taken[0]):
                return

    def _wait(self) -> list[Delivery[Any]] | None:
        """Wait for what one worker handles next; nothing if the worker stops."""
        worker = self.worker
        worker.flush_unless_under_way()
        taken = block_until(worker.idle, worker.take, None)
        worker.idle.wake()
        return taken

    def _serve_simply(self) -> None:
        """Handle one after the other: the fast path, with no call but the handler's for a message that is done."""
        worker = self.worker
        core, handler, acks = worker.core, worker.handler, worker.acks
        held, is_plain = core.held, core.is_plain
        pop, note = core.buffer.popleft, acks.append
        # Not `while not ...`: CPython 3.11 specializes a loop that is entered once only if it ends in a plain jump.
        while True:
            # A forked child finds its copy of the consumer closed, and handles nothing more.
            if worker.stopping or core.closed:
                return
            try:
                delivery = pop()
            except IndexError:
                taken = self._wait()
                if not taken:
                    return
                (delivery,) = taken
                message = delivery.message
            else:
                # As `ConsumerCore.take` does.
                message = delivery.message
                if (not is_plain or delivery.lost or message.expires_at is not None) and not core.is_live(delivery):
                    continue
            try:
                try:
                    result = handler(delivery)
                except Exception as error:  # noqa: BLE001 - the user's, passed to the policy
                    worker.failed(delivery, error)
                    continue
                if result is None and message.reply_to is None and delivery in held:
                    # `Worker.ack` without its call.
                    note(delivery)
                    if not worker.flush_is_due:
                        worker.flush_soon()
                    if len(acks) >= ACKS_AT_ONCE:
                        worker.flush_unless_under_way()
                else:
                    worker.done(delivery, _no_awaitable(result))
            except BaseException:
                worker.put_back((delivery,))
                raise

    def _fill_batch(self, taken: list[Delivery[Any]]) -> bool:
        """Wait for more of a batch; false if the worker stops meanwhile."""
        worker = self.worker
        size = worker.batch or 0
        deadline = time.monotonic() + worker.batch_wait
        try:
            while len(taken) < size:
                more = block_until(worker.core.arrived, functools.partial(worker.take_more, taken), deadline)
                if not more:
                    break
                taken += more
        except BaseException:
            worker.put_back(taken)
            raise
        if worker.stopping:
            worker.put_back(taken)
            return False
        return True

    def _handle(self, slot: _Slot, deliveries: Sequence[Delivery[Any]], argument: object) -> bool:
        worker = self.worker
        if worker.timeout is not None:
            self._begin(slot, deliveries, worker.timeout)
        error: Exception | None = None
        result: object = None
        try:
            with entered(worker, deliveries):
                result = _no_awaitable(worker.handler(argument))
        except Exception as failed:  # noqa: BLE001 - the user's, passed to the policy
            error = failed
        except BaseException:
            if self._is_in_time(slot, deliveries):
                worker.put_back(deliveries)
            raise
        if not self._is_in_time(slot, deliveries):
            return False
        report(worker, deliveries, result, error)
        return True

    def _begin(self, slot: _Slot, deliveries: Sequence[Delivery[Any]], timeout: float) -> None:
        with self.lock:
            slot.deliveries = deliveries
            slot.deadline = time.monotonic() + timeout
            if slot.is_watched:
                return
            slot.is_watched = True
        self.worker.clock.call_later(timeout, functools.partial(self._look, slot))

    def _is_in_time(self, slot: _Slot, deliveries: Sequence[Delivery[Any]]) -> bool:
        if self.worker.timeout is None:
            return True
        with self.lock:
            if slot.deliveries is not deliveries:
                return False
            slot.deliveries = None
            return True

    def _look(self, slot: _Slot) -> None:
        """Look, in the clock's thread, if a handler has overrun its timeout."""
        with self.lock:
            deliveries = slot.deliveries
            left = slot.deadline - time.monotonic()
            if deliveries is None:
                slot.is_watched = False
                return
            if left <= 0:
                slot.deliveries = None
                self.working.discard(slot)
                self.overrun.add(slot)
                self._fill_up()
            is_stuck = not self.working
        worker = self.worker
        if left > 0:
            worker.clock.call_later(left, functools.partial(self._look, slot))
            return
        worker.changed.wake_all()
        if is_stuck and not worker.stopping:
            say(
                "handlers-stuck",
                "%d handlers of %r have overrun their timeout and not returned; nothing is handled until one does",
                len(self.overrun),
                worker.core.source_name,
                level=logging.ERROR,
                source=worker.core.source_name,
            )
        worker.batch_failed(deliveries, worker.overdue())


def report(worker: Worker, deliveries: Sequence[Delivery[Any]], result: object, error: BaseException | None) -> None:
    """Pass on what a handler returned or raised."""
    if error is not None:
        worker.batch_failed(deliveries, error)
    elif worker.batch is None:
        worker.done(deliveries[0], result)
    else:
        worker.batch_done(deliveries, result)


def entered(worker: Worker, deliveries: Sequence[Delivery[Any]]) -> AbstractContextManager[object]:
    """Return the contexts that the middlewares put around a call of the handler; one that fails is left out."""
    if not worker.handling_hooks:
        return _NOTHING
    stack = ExitStack()
    for hook in worker.handling_hooks:
        try:
            stack.enter_context(hook(deliveries))
        except Exception as error:  # noqa: BLE001 - the user's
            say_failed(worker.core.seldom, hook, error)
    return stack


def _no_awaitable(result: object) -> object:
    """Return the result, or an error instead of a coroutine that nobody would run."""
    if not inspect.iscoroutine(result):
        return result
    result.close()
    return ConfigError("the handler returned a coroutine; a handler that awaits must be an `async def` itself")


def run(worker: Worker, use: Callable[[ConsumerCore], None]) -> None:
    """Run a worker of the synchronous front until it is stopped; `use` gets the consumer of a supervised reopening."""
    failures = 0
    with ExitStack() as stack:
        is_watched = worker.signals and stack.enter_context(
            watched(worker.stop, lambda: _overdue_here(worker), worker.wake)
        )
        # Before the signals are given back: its last appointment may be a signal.
        stack.callback(worker.clock.close)
        while True:
            began = time.monotonic()
            _run_once(worker, is_watched=is_watched)
            error = worker.fatal
            if not worker.reopens_after(error):
                break
            failures = 1 if time.monotonic() - began > LASTING else failures + 1
            new = _reopened(worker, failures, error)
            if new is None:
                return
            use(new)
    if worker.fatal is not None:
        raise worker.fatal


def _reopened(worker: Worker, failures: int, error: BaseException | None) -> ConsumerCore | None:
    """Open the consumer anew; `None` if the worker is stopped meanwhile."""
    worker.reset()
    while True:
        deadline = time.monotonic() + wait_before_reopening(failures, error)
        if block_until(worker.changed, worker.is_stopping, deadline):
            return None
        try:
            return worker.reopen()
        except UnimqError as failed:
            if not failed.retryable:
                raise
            error = failed
            failures += 1


def _run_once(worker: Worker, *, is_watched: bool) -> None:
    deadline = time.monotonic()
    try:
        if worker.is_async:
            # asyncio costs as much to import as all the rest.
            from unimq._async_worker import run_in_thread

            deadline = run_in_thread(worker)
        elif worker.concurrency == 1 and worker.timeout is None:
            deadline = _in_this_thread(worker, is_watched=is_watched)
        else:
            deadline = _in_threads(worker)
    finally:
        worker.stop()
        worker.finish(deadline)


def _overdue_here(worker: Worker) -> bool | None:
    return worker.interrupt is not None if worker.drain_over else None


def _in_this_thread(worker: Worker, *, is_watched: bool) -> float:
    main = threading.get_ident()

    def interrupt() -> None:
        worker.drain_over = True
        signal.pthread_kill(main, signal.SIGTERM)

    if is_watched:
        worker.interrupt = interrupt
        worker.clock.start()
    try:
        ThreadWorkers(worker).run_here()
    except DrainOver:
        say_abandoned(worker, 1)
    finally:
        worker.interrupt = None
    return time.monotonic() + worker.drain_timeout


def _in_threads(worker: Worker) -> float:
    workers = ThreadWorkers(worker)
    workers.start()
    block_until(worker.changed, worker.is_stopping, None)
    deadline = time.monotonic() + worker.drain_timeout
    block_until(worker.changed, workers.is_over, deadline)
    say_abandoned(worker, workers.abandoned())
    return deadline


def say_abandoned(worker: Worker, handlers: int) -> None:
    """Say that handlers did not end in time."""
    if handlers:
        say(
            "handlers-abandoned",
            "%d handlers of %r have not ended within their time; their messages come again",
            handlers,
            worker.core.source_name,
            source=worker.core.source_name,
        )
