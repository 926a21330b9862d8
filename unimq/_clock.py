"""One thread that does what is due later: it sleeps until the next appointment, and is woken for an earlier one."""

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

from unimq._events import say


class Clock:
    """Appointments of one run of a worker. `_changed` guards everything; calls run in the clock's thread, without it.

    The thread begins with the first appointment and ends with `close`.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def call_later(self, delay: float, call: Callable[[], None]) -> None:
        """Call `call`, which must not block, in `delay` seconds."""
        due = time.monotonic() + delay
        with self._changed:
            if self._closed:
                return
            heapq.heappush(self._due, (due, next(self._sequence), call))
            if self._thread is None:
                self.start()
            elif self._due[0][0] == due:
                self._changed.notify()

    def start(self) -> None:
        """Start the thread now: afterwards a signal's handler may call `call_later`, as the lock is reentrant."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="unimq-worker-clock", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Forget all appointments and end the thread."""
        with self._changed:
            self._closed = True
            self._due.clear()
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (not self._due or self._due[0][0] > time.monotonic()):
                    self._changed.wait(max(0.0, self._due[0][0] - time.monotonic()) if self._due else None)
                if self._closed:
                    return
                call = heapq.heappop(self._due)[2]
            try:
                call()
            except Exception as error:  # noqa: BLE001 - a fault of ours, which must not end the clock
                say("internal-error", "an appointment of the worker failed", level=logging.ERROR, error=error)
