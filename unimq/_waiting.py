"""Waiting without polling: whoever waits leaves a wake-up, whoever changes the state wakes.

The policy code never blocks and knows no event loop. It keeps a `Waiters` per condition; the sync front waits on a lock
(`block_until`), the asyncio front on a future (`unimq._asyncio`), and both look at the state through the same attempt.
"""

import _thread
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeVar

from unimq._destinations import Seconds, seconds

T = TypeVar("T")

Wake = Callable[[], None]
"""Called once, from any thread; never blocks."""


def deadline_after(timeout: Seconds) -> float:
    """Return the `time.monotonic` at which the timeout, 0 or more, is over, or raise `ConfigError`."""
    return time.monotonic() + seconds(timeout, "timeout", zero=True)


def remaining(deadline: float) -> float:
    """Return the seconds until a deadline; 0 if it is over."""
    return max(0.0, deadline - time.monotonic())


class Waiters:
    """The wake-ups of those who wait for one condition, in the order in which they came.

    A wake-up is taken out before it is called, so each is called at most once. Nobody is missed: the waiter registers
    before it looks at the state, the other side changes the state before it looks for waiters.
    """

    __slots__ = ("wakes",)

    def __init__(self) -> None:
        self.wakes: deque[Wake] = deque()
        """Read by hot paths, which call `wake` only if somebody waits."""

    def add(self, wake: Wake) -> None:
        self.wakes.append(wake)

    def discard(self, wake: Wake) -> bool:
        """Take the wake-up back; false if it was called already."""
        try:
            self.wakes.remove(wake)
        except ValueError:
            return False
        return True

    def wake(self, count: int = 1) -> None:
        for _ in range(count):
            try:
                wake = self.wakes.popleft()
            except IndexError:
                return
            wake()

    def wake_all(self) -> None:
        self.wake(len(self.wakes))


class Registry(Protocol):
    """Where a waiter leaves its wake-up: `Waiters`, or the single place of one outcome."""

    def add(self, wake: Wake) -> None: ...
    def discard(self, wake: Wake) -> bool: ...
    def wake(self) -> None: ...


def block_until(waiters: Registry, attempt: Callable[[], T | None], deadline: float | None) -> T | None:
    """Block the calling thread until `attempt` returns something, or until `deadline` (`time.monotonic`)."""
    while True:
        found = attempt()
        if found is not None:
            return found
        remaining = _thread.TIMEOUT_MAX if deadline is None else deadline - time.monotonic()
        if remaining <= 0:
            return None
        lock = _thread.allocate_lock()
        lock.acquire()
        waiters.add(lock.release)
        try:
            found = attempt()
            if found is None:
                lock.acquire(timeout=min(remaining, _thread.TIMEOUT_MAX))
        except BaseException:
            # Interrupted, perhaps after having been woken for a change that only another waiter can use now.
            if not waiters.discard(lock.release):
                waiters.wake()
            raise
        taken_back = waiters.discard(lock.release)
        if found is not None:
            if not taken_back:
                waiters.wake()
            return found
