"""How a role stands, as its harness sees it while the role works: a start, a stop, and a few numbers."""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from unimq_bench.pacing import wait_until

if TYPE_CHECKING:
    from array import array

_MEANWHILE = 0.05
"""Seconds between two probes."""
_SAMPLED = 500
"""Times of which the live percentile is made; more would take time from the role."""


class Progress:
    """Of one task. The numbers are written by the task's thread alone; others who read them may see them a bit old."""

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0
        self.receives = False
        """Whether it is a consumer, which joins."""
        self.joined = 0
        """When the first probe came, or 0."""
        self.ready = threading.Event()
        self.stopped = threading.Event()
        self.is_stopped = False
        self._go = threading.Event()
        self._start = 0
        self._times: array[int] | None = None
        self._shown = 0

    @property
    def start(self) -> int:
        """The moment at which everything starts, in nanoseconds, or 0 while nobody has said so."""
        return self._start

    def wait_for_start(self, meanwhile: Callable[[], None] | None = None) -> int:
        """Say that all is prepared, wait for the word, then for the moment it names; return that moment.

        `meanwhile` is called twenty times a second until the word comes.
        """
        self.ready.set()
        while not self._go.wait(_MEANWHILE):
            if self.is_stopped:
                return time.monotonic_ns()
            if meanwhile is not None:
                meanwhile()
        wait_until(self._start)
        return self._start

    def go(self, start: int) -> None:
        """Let the task start at this moment."""
        self._start = start
        self._go.set()

    def stop(self) -> None:
        """Let the task end in good order."""
        self.is_stopped = True
        self.stopped.set()

    def note(self, times: "array[int]") -> None:
        """Say where the times are, which only grow."""
        self._times = times

    def p99(self) -> float | None:
        """Return the 99th percentile of the times since the call before, in seconds, or `None` if there are none."""
        times = self._times
        if times is None:
            return None
        end = len(times)
        new = times[self._shown : end : max(1, (end - self._shown) // _SAMPLED)]
        self._shown = end
        return sorted(new)[len(new) * 99 // 100] / 1e9 if new else None
