"""Threads that make batches without a timer: each takes up to ten of what has gathered and does one request with it."""

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")
_TIMEOUT = 30.0
_MOST = 10


class Batches(Generic[T]):
    """At most `window` items are taken and not done; `do` reports failures itself and raises nothing."""

    def __init__(self, threads: int, window: int, do: Callable[[list[T]], None], *, at_most: int = _MOST) -> None:
        self._do = do
        self._at_most = at_most
        self._window = window
        self._items: SimpleQueue[T | None] = SimpleQueue()
        self._changed = threading.Condition()
        self._open = 0
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def put(self, item: T) -> bool:
        """Hand over an item; False if the window stayed full."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._open < self._window, _TIMEOUT):
                return False
            self._open += 1
        self._items.put(item)
        return True

    def join(self) -> bool:
        """Wait until everything is done; False if it takes too long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, _TIMEOUT)

    def close(self) -> None:
        """End the threads after what was put before. Idempotent."""
        for _ in self._threads:
            self._items.put(None)
        for thread in self._threads:
            thread.join(_TIMEOUT)
        self._threads = []

    def _run(self) -> None:
        while (item := self._items.get()) is not None:
            items = [item]
            try:
                while len(items) < self._at_most:
                    another = self._items.get_nowait()
                    if another is None:
                        self._items.put(None)
                        break
                    items.append(another)
            except Empty:
                pass
            self._do(items)
            with self._changed:
                self._open -= len(items)
                self._changed.notify_all()
