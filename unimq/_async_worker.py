"""Workers whose handlers are `async`, and the asyncio front's workers with either kind of handler."""

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from unimq._asyncio import _Loop
from unimq._delivery import Delivery
from unimq._errors import Closed, UnimqError
from unimq._receiving import ConsumerCore
from unimq._signals import watched
from unimq._waiting import block_until
from unimq._worker import (
    ACKS_AT_ONCE,
    LASTING,
    ThreadWorkers,
    Worker,
    entered,
    report,
    say_abandoned,
    wait_before_reopening,
)

GIVE_WAY_AFTER = 32
GIVE_WAY_WITHIN = 0.0001
"""Messages and seconds after both of which a task lets the others run, as its handler may never suspend."""
CANCELLED_WITHIN = 1.0
"""Seconds that cancelled handlers have to end."""


class LoopWorkers:
    """`concurrency` tasks in one event loop, each of which takes and handles one delivery or batch after the other."""

    def __init__(self, worker: Worker, loop: _Loop) -> None:
        self.worker = worker
        self.loop = loop
        self.tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> float:
        """Handle until the worker stops and its handlers ended or are cancelled; return the end of the drain."""
        worker, loop = self.worker, self.loop
        self.tasks = {asyncio.create_task(self._work(), name="unimq-worker") for _ in range(worker.concurrency)}
        try:
            await loop.suspend_until(worker.changed, worker.is_stopping, None)
            deadline = time.monotonic() + worker.drain_timeout
            await asyncio.wait(self.tasks, timeout=worker.drain_timeout)
        except asyncio.CancelledError:
            # Who cancels `run` wants its handlers cancelled; only one that does not end is worth a word.
            await self._cancel()
            say_abandoned(worker, len(self._at_work()))
            raise
        overdue = len(self._at_work())
        await self._cancel()
        say_abandoned(worker, overdue)
        return deadline

    def _at_work(self) -> list[asyncio.Task[None]]:
        return [task for task in self.tasks if not task.done()]

    async def _cancel(self) -> None:
        left = self._at_work()
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=CANCELLED_WITHIN)

    async def _work(self) -> None:
        worker = self.worker
        try:
            await self._serve()
        except Closed:
            worker.stop()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - `run` raises it
            # SystemExit and KeyboardInterrupt of a handler too: they end the run, not just the loop under it.
            worker.fail(error)

    async def _serve(self) -> None:
        worker = self.worker
        if worker.batch is None:
            await self._serve_each()
            return
        handled, began = 0, time.monotonic()
        while taken := worker.take() or await self._wait():
            await self._serve_batch(taken)
            handled += len(taken)
            if handled >= GIVE_WAY_AFTER:
                handled, began = 0, await _give_way(began)

    async def _wait(self) -> list[Delivery[Any]] | None:
        """Wait for what one worker handles next; nothing if the worker stops."""
        worker = self.worker
        worker.flush_unless_under_way()
        taken = await self.loop.suspend_until(worker.idle, worker.take, None)
        worker.idle.wake()
        return taken

    async def _serve_each(self) -> None:
        """Handle one after the other, see `ThreadWorkers._serve_simply`."""
        worker = self.worker
        core, acks = worker.core, worker.acks
        held, is_plain = core.held, core.is_plain
        pop, note = core.buffer.popleft, acks.append
        is_simple = worker.timeout is None and not worker.handling_hooks
        handler: Any = worker.handler if is_simple else self._handle_one
        handled, began = 0, time.monotonic()
        while True:
            if handled >= GIVE_WAY_AFTER:
                handled, began = 0, await _give_way(began)
            handled += 1
            if worker.stopping or core.closed:
                return
            try:
                delivery = pop()
            except IndexError:
                taken = await self._wait()
                if not taken:
                    return
                (delivery,) = taken
                message = delivery.message
            else:
                message = delivery.message
                if (not is_plain or delivery.lost or message.expires_at is not None) and not core.is_live(delivery):
                    continue
            try:
                try:
                    result = await handler(delivery)
                except Exception as error:  # noqa: BLE001 - the user's, passed to the policy
                    worker.failed(delivery, error)
                except asyncio.CancelledError as error:
                    if _is_cancelled():
                        raise
                    # The handler's own affair, such as awaiting a task that somebody cancelled.
                    worker.failed(delivery, error)
                else:
                    if result is None and message.reply_to is None and delivery in held:
                        # `Worker.ack` without its call.
                        note(delivery)
                        if not worker.flush_is_due:
                            worker.flush_soon()
                        if len(acks) >= ACKS_AT_ONCE:
                            worker.flush_unless_under_way()
                    else:
                        worker.done(delivery, result)
            except BaseException:
                worker.put_back((delivery,))
                raise

    async def _handle_one(self, delivery: Delivery[Any]) -> object:
        return await self._handle((delivery,), delivery)

    async def _serve_batch(self, taken: list[Delivery[Any]]) -> None:
        worker = self.worker
        deadline = time.monotonic() + worker.batch_wait
        try:
            while len(taken) < (worker.batch or 0):
                more = await self.loop.suspend_until(
                    worker.core.arrived, functools.partial(worker.take_more, taken), deadline
                )
                if not more:
                    break
                taken += more
            if worker.stopping:
                worker.put_back(taken)
                return
            error: BaseException | None = None
            result: object = None
            try:
                result = await self._handle(taken, taken)
            except Exception as failed:  # noqa: BLE001 - the user's, passed to the policy
                error = failed
            except asyncio.CancelledError as failed:
                if _is_cancelled():
                    raise
                error = failed
        except BaseException:
            worker.put_back(taken)
            raise
        report(worker, taken, result, error)

    async def _handle(self, deliveries: Sequence[Delivery[Any]], argument: object) -> object:
        worker = self.worker
        handler: Any = worker.handler
        with entered(worker, deliveries):
            if worker.timeout is None:
                return await handler(argument)
            limit = asyncio.timeout(worker.timeout)
            try:
                async with limit:
                    return await handler(argument)
            except TimeoutError as error:
                if limit.expired():
                    raise worker.overdue() from error
                raise


async def _give_way(began: float) -> float:
    """Let the others run if a task's turn that `began` then is long enough; return when its turn began."""
    if time.monotonic() - began < GIVE_WAY_WITHIN:
        return began
    await asyncio.sleep(0)
    return time.monotonic()


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def run_in_thread(worker: Worker) -> float:
    """Run `async` handlers of the synchronous front in an event loop of its own thread; blocks until they ended."""
    ended: list[float] = []
    loops: list[asyncio.AbstractEventLoop] = []

    async def work() -> float:
        loops.append(asyncio.get_running_loop())
        return await LoopWorkers(worker, _Loop()).run()

    def main() -> None:
        deadline = time.monotonic()
        try:
            deadline = asyncio.run(work())
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - `run` raises it in its own thread
            worker.fail(error)
        ended.append(deadline)
        worker.changed.wake_all()

    def is_over() -> float | None:
        return ended[0] if ended else None

    thread = threading.Thread(target=main, name="unimq-worker-loop", daemon=True)
    thread.start()
    try:
        block_until(worker.changed, lambda: worker.is_stopping() or is_over(), None)
        last = time.monotonic() + worker.drain_timeout + 2 * CANCELLED_WITHIN
        deadline = block_until(worker.changed, is_over, last)
    except BaseException:
        # The second signal: nothing is waited for.
        for loop in loops:
            # It may have ended at this moment, and is closed then.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_cancel_all, loop)
        raise
    if deadline is None:
        return last
    thread.join()
    return deadline


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()


async def run(worker: Worker, loop: _Loop, use: Callable[[ConsumerCore], None]) -> None:
    """Run a worker of the asyncio front until it is stopped; see `unimq._worker.run`."""
    failures = 0
    with ExitStack() as stack:
        stack.callback(worker.clock.close)
        if worker.signals:
            stack.enter_context(watched(worker.stop, lambda: None, worker.wake))
        while True:
            began = time.monotonic()
            await _run_once(worker, loop)
            error = worker.fatal
            if not worker.reopens_after(error):
                break
            failures = 1 if time.monotonic() - began > LASTING else failures + 1
            new = await _reopened(worker, loop, failures, error)
            if new is None:
                return
            use(new)
    if worker.fatal is not None:
        raise worker.fatal


async def _reopened(worker: Worker, loop: _Loop, failures: int, error: BaseException | None) -> ConsumerCore | None:
    worker.reset()
    while True:
        deadline = time.monotonic() + wait_before_reopening(failures, error)
        if await loop.suspend_until(worker.changed, worker.is_stopping, deadline):
            return None
        try:
            return await loop.in_worker(worker.reopen)
        except UnimqError as failed:
            if not failed.retryable:
                raise
            error = failed
            failures += 1


async def _run_once(worker: Worker, loop: _Loop) -> None:
    deadline = time.monotonic()
    try:
        if worker.is_async:
            deadline = await LoopWorkers(worker, loop).run()
        else:
            workers = ThreadWorkers(worker)
            workers.start()
            await loop.suspend_until(worker.changed, worker.is_stopping, None)
            deadline = time.monotonic() + worker.drain_timeout
            await loop.suspend_until(worker.changed, workers.is_over, deadline)
            say_abandoned(worker, workers.abandoned())
    finally:
        worker.stop()
        await loop.in_worker(worker.finish, deadline)
