"""An asyncio loop in a thread, for peers that have no other front, and a sender that keeps tasks in flight in it."""

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from unimq_bench.rows.protocol import NotTaken

T = TypeVar("T")
_TIMEOUT = 30.0


class LoopThread:
    """Runs coroutines for other threads."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="asyncio", daemon=True)
        self._thread.start()
        self._posted: set[asyncio.Task[Any]] = set()

    @property
    def is_open(self) -> bool:
        """Whether `close` was not called yet."""
        return not self.loop.is_closed()

    def wait(self, coroutine: Awaitable[T]) -> T:
        """Run it to its end and return what it returns."""

        async def run() -> T:
            return await coroutine

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(_TIMEOUT)

    def post(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run it without waiting."""
        self.loop.call_soon_threadsafe(self._start, coroutine)

    def _start(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        task = self.loop.create_task(coroutine)
        self._posted.add(task)
        task.add_done_callback(self._posted.discard)

    def join(self) -> None:
        """Wait for everything that was posted before."""

        async def run() -> None:
            if self._posted:
                await asyncio.wait(self._posted, timeout=_TIMEOUT)

        self.wait(run())

    def close(self) -> None:
        """End loop and thread. Idempotent."""
        if self.is_open:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(_TIMEOUT)
            self.loop.close()


class GaplessTags:
    """Which of a channel's messages one ack of ``multiple`` may cover: those up to the first that is not done.

    Libraries that call back in tasks promise no order, so that the last message that came says nothing of those before.
    Belongs to one thread.
    """

    def __init__(self) -> None:
        self._channel: object = None
        self._prefix = 0
        self._done: dict[int, Any] = {}

    def add(self, channel: object, tag: int, message: Any) -> None:
        """Take a message that is done; another channel than before starts anew."""
        if channel is not self._channel:
            self._channel, self._prefix, self._done = channel, 0, {}
        self._done[tag] = message

    def last(self) -> Any:
        """Return the message through which all are done, or `None` if it is the same as before."""
        found = None
        while self._prefix + 1 in self._done:
            self._prefix += 1
            found = self._done.pop(self._prefix)
        return found


class TaskSender:
    """A `unimq_bench.rows.protocol.Sender` of a library whose `publish` is confirmed when it returns.

    Each message in the window is a task. The loop's thread writes everything but `_sent`, `_goal` and the right end of
    `_waiting`, which are the caller's.
    """

    def __init__(
        self,
        loop: LoopThread,
        window: int,
        publish: Callable[[bytes], Awaitable[object]],
        release: Callable[[], Awaitable[object]],
    ) -> None:
        self._loop, self._window, self._publish, self._release = loop, window, publish, release
        self._waiting: deque[bytes] = deque()
        self._is_woken = self._is_closed = False
        self._sent = self._done = self._goal = 0
        self._running: set[asyncio.Task[None]] = set()
        self._failed: list[bytes] = []
        self._changed = threading.Condition()

    def send(self, body: bytes) -> None:
        """See the protocol."""
        if self._sent - self._done >= self._window and not self._wait(self._sent - self._window // 2):
            raise NotTaken("the window stayed full")
        self._waiting.append(body)
        self._sent += 1
        if not self._is_woken:
            self._is_woken = True
            self._loop.loop.call_soon_threadsafe(self._start)

    def _start(self) -> None:
        self._is_woken = False
        while self._waiting:
            task = self._loop.loop.create_task(self._one(self._waiting.popleft()))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _one(self, body: bytes) -> None:
        try:
            await self._publish(body)
        except Exception:  # noqa: BLE001 - whatever the peer raises, this message is not stored
            self._failed.append(body)
        self._done += 1
        if self._goal and self._done >= self._goal:
            with self._changed:
                self._changed.notify()

    def _wait(self, goal: int) -> bool:
        with self._changed:
            self._goal = goal
            is_reached = self._changed.wait_for(lambda: self._done >= goal, _TIMEOUT)
            self._goal = 0
        return is_reached

    def flush(self) -> Sequence[bytes]:
        """See the protocol."""
        if not self._wait(self._sent):
            raise TimeoutError(f"{self._sent - self._done} messages have no outcome after {_TIMEOUT:g} s")
        failed, self._failed = self._failed, []
        return failed

    def close(self) -> None:
        """See the protocol."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.wait(self._release())
