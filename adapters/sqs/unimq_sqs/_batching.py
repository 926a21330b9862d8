"""Batches of up to ten: who waits for company and who goes at once, and what becomes of each entry of a request."""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any, Generic, Protocol, TypeVar

from unimq import AuthError, ConnectionLost, NotFound, UnimqError
from unimq_sqs._errors import NATIVE_ERRORS, kind_of, refusal, translate

T = TypeVar("T")

LARGEST_BATCH = 10
SOFT_BATCH_BYTES = 64 * 1024
"""A request is billed by started 64 KiB: two small ones cost no more than one that exceeds it, and arrive earlier."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
WITHOUT_WAITING = 4
"""Batches before it is tried again whether waiting brings company, after it did not."""

log = logging.getLogger("unimq.sqs")


def pause_before(attempt: int) -> float:
    """Return the seconds to wait before attempt number `attempt` (1 is the first repetition), with full jitter."""
    return random.uniform(0.0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**attempt))


class Batcher(Generic[T]):
    """Hands items in batches to a few threads, which start on demand and stay until `close`.

    A batch goes when it is full, when its first item has waited for `linger` seconds, when somebody hurries, and with
    `eager` also when no other is under way: then nothing lingers at low rates, and batches fill by themselves at high
    ones. Items for which `is_patient` says that nobody waits also collect for `window` seconds after the batch before:
    the first after a quiet time goes at once, and those of a steady stream share requests. `lock` guards everything;
    `process` and `crashed` are called without it.
    """

    def __init__(
        self,
        name: str,
        process: Callable[[list[T]], None],
        crashed: Callable[[list[T], Exception], None],
        *,
        threads: int,
        linger: float,
        eager: bool,
        size: Callable[[T], int] | None = None,
        window: float = 0.0,
        is_patient: Callable[[T], bool] | None = None,
    ) -> None:
        self.stopping = threading.Event()
        """Set when `close` runs out of time: retries end."""
        self._name = name
        self._process = process
        self._crashed = crashed
        self._limit = threads
        self._linger = linger
        self._eager = eager
        self._size = size
        self._window = window
        self._is_patient = is_patient if window else None
        self._lock = threading.Condition()
        self._waiting: deque[tuple[T, float, int, bool]] = deque()
        """Each with the time at which it came, its size, and whether it is patient."""
        self._impatient = 0
        """Of those that wait."""
        self._taken_at = -inf
        self._without_waiting = 0
        """Batches that go at once, because waiting brought the last one no company."""
        self._waiting_bytes = 0
        self._hurried = 0
        self._active = 0
        self._idle = 0
        self._running = 0
        self._threads: list[threading.Thread] = []
        self._closing = False
        self._ended = False

    def add(self, items: Sequence[T]) -> bool:
        """Queue items without waiting; false, and nothing queued, once `close` has ended."""
        now = time.monotonic()
        size = self._size
        with self._lock:
            if self._ended:
                return False
            for item in items:
                weight = 0 if size is None else size(item)
                is_patient = self._is_patient is not None and self._is_patient(item)
                self._waiting.append((item, now, weight, is_patient))
                self._waiting_bytes += weight
                self._impatient += not is_patient
            batches = -(-len(self._waiting) // LARGEST_BATCH)
            self._lock.notify(batches)
            for _ in range(min(batches - self._idle, self._limit - self._running)):
                self._running += 1
                number = len(self._threads) + 1
                thread = threading.Thread(target=self._run, name=f"unimq-sqs-{self._name}-{number}", daemon=True)
                self._threads.append(thread)
                thread.start()
        return True

    def hurry(self) -> None:
        """Send what waits now without lingering."""
        with self._lock:
            self._hurried = len(self._waiting)
            if self._hurried:
                self._lock.notify_all()

    def close(self, timeout: float) -> list[T]:
        """Process what waits, end the threads, and return what was not begun within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._lock:
            self._closing = True
            self._lock.notify_all()
        # The list may still grow: an item that comes while closing may need a thread.
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self.stopping.set()
        with self._lock:
            self._ended = True
            left = [item for item, _, _, _ in self._waiting]
            self._waiting.clear()
            self._impatient = 0
            self._lock.notify_all()
        return left

    def _run(self) -> None:
        batch: list[T] | None = []
        while True:
            with self._lock:
                batch = self._next()
                if batch is None:
                    self._running -= 1
                    return
                self._active += 1
            try:
                self._process(batch)
            except Exception as error:  # noqa: BLE001 - the thread must go on, and its batch needs an outcome
                self._crash(batch, error)
            with self._lock:
                self._active -= 1

    def _crash(self, batch: list[T], error: Exception) -> None:
        log.error("unexpected failure in a thread of unimq", exc_info=error)
        try:
            self._crashed(batch, error)
        except Exception:
            log.exception("the outcome of a batch could not be reported")

    def _next(self) -> list[T] | None:
        """Wait for the next batch; `None` ends the thread. Under the lock."""
        while True:
            if self._waiting:
                due = self._due_in()
                if due <= 0.0:
                    return self._take()
            elif self._closing:
                return None
            else:
                due = None
            self._idle += 1
            self._lock.wait(due)
            self._idle -= 1

    def _due_in(self) -> float:
        if (
            self._hurried
            or self._closing
            or len(self._waiting) >= LARGEST_BATCH
            or self._waiting_bytes >= SOFT_BATCH_BYTES
        ):
            return 0.0
        now = time.monotonic()
        if not self._impatient and not self._without_waiting:
            return self._taken_at + self._window - now
        if self._eager and not self._active:
            return 0.0
        return self._waiting[0][1] + self._linger - now

    def _take(self) -> list[T]:
        batch: list[T] = []
        total = 0
        self._judge_waiting()
        while self._waiting and len(batch) < LARGEST_BATCH:
            item, _, weight, is_patient = self._waiting[0]
            if batch and total + weight > SOFT_BATCH_BYTES:
                break
            self._waiting.popleft()
            self._impatient -= not is_patient
            batch.append(item)
            total += weight
        self._waiting_bytes -= total
        self._hurried = max(0, self._hurried - len(batch))
        if self._waiting and self._idle:
            self._lock.notify()
        return batch

    def _judge_waiting(self) -> None:
        """Stop waiting for a while if it was in vain: whoever sends may wait for room, or for these outcomes."""
        now = time.monotonic()
        began, self._taken_at = self._taken_at, now
        if self._without_waiting:
            self._without_waiting -= 1
        elif not self._impatient and len(self._waiting) < LARGEST_BATCH and now >= began + self._window:
            newest = self._waiting[-1][1]
            if newest < now - self._window / 2:
                self._without_waiting = WITHOUT_WAITING


class BatchRequest(Protocol[T]):
    """One kind of batch request, and where its entries report to. Each item is reported exactly once."""

    doing: str
    """For errors: what was tried, and on which queue."""
    default_error: type[UnimqError]
    """For refusals without a class of their own."""

    def call(self, entries: list[Any]) -> Mapping[str, Any]: ...
    def entry(self, item: T) -> Mapping[str, Any]: ...
    def deadline(self, item: T) -> float: ...
    def succeeded(self, results: list[tuple[T, Mapping[str, Any]]], started: float) -> None: ...
    def refused(self, items: list[T], error: UnimqError) -> None:
        """Certainly not done, and another attempt cannot help."""
        ...

    def expired(self, items: list[T], cause: UnimqError | None) -> None:
        """Not known to be done at the deadline; without a cause it was never tried."""
        ...


def run_batch(request: BatchRequest[T], items: list[T], stopping: threading.Event, *, doubtful: bool = False) -> None:
    """Carry out one batch and repeat, for each item until its deadline, what failed by no fault of the item.

    Ids are positions: the same message may be in a request twice, and message ids have other characters. `doubtful`
    says that an earlier attempt may have succeeded unseen: a refusal now is no proof that nothing was done (S2).
    """
    cause: UnimqError | None = None
    attempt = 0
    while True:
        now = time.monotonic()
        late = [item for item in items if request.deadline(item) <= now]
        if late:
            request.expired(late, cause)
            items = [item for item in items if request.deadline(item) > now]
        if not items:
            return
        if attempt:
            pause = min(pause_before(attempt), min(map(request.deadline, items)) - now)
            if stopping.wait(pause):
                request.expired(items, cause)
                return
        attempt += 1
        started = time.monotonic()
        try:
            response = request.call([{"Id": str(number), **request.entry(item)} for number, item in enumerate(items)])
        except NATIVE_ERRORS as error:
            cause = translate(error, request.doing, request.default_error)
            if kind_of(error) is ConnectionLost:
                doubtful = True
            elif len(items) == 1 or isinstance(cause, AuthError | NotFound):
                _report_refusal(request, items, cause, doubtful=doubtful)
                return
            else:
                # One of them makes the whole request invalid, and nothing of it was done: each on its own (S3).
                for item in items:
                    run_batch(request, [item], stopping, doubtful=doubtful)
                return
        else:
            items, cause = _sort_out(request, items, response, started, doubtful=doubtful)
            doubtful = True


def _report_refusal(request: BatchRequest[T], items: list[T], error: UnimqError, *, doubtful: bool) -> None:
    if doubtful:
        request.expired(items, error)
    else:
        request.refused(items, error)


def _sort_out(
    request: BatchRequest[T], items: list[T], response: Mapping[str, Any], started: float, *, doubtful: bool
) -> tuple[list[T], UnimqError | None]:
    """Report the entries whose fate is known; return those to try again, and why."""
    succeeded = {result["Id"]: result for result in response.get("Successful") or ()}
    failed = {result["Id"]: result for result in response.get("Failed") or ()}
    again: list[T] = []
    cause: UnimqError | None = None
    done: list[tuple[T, Mapping[str, Any]]] = []
    for number, item in enumerate(items):
        result = succeeded.get(str(number))
        if result is not None:
            done.append((item, result))
            continue
        failure = failed.get(str(number), {"Code": "no result"})
        if failure.get("SenderFault"):
            error = refusal(failure, request.doing, request.default_error)
            _report_refusal(request, [item], error, doubtful=doubtful)
        else:
            again.append(item)
            cause = refusal(failure, request.doing, ConnectionLost)
    if done:
        request.succeeded(done, started)
    return again, cause
