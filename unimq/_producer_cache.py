"""Producers that the library keeps open for itself, by destination: those of requests and those of replies."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import msgspec

from unimq._errors import Closed
from unimq._sending import ProducerCore
from unimq._waiting import remaining

MOST = 100
"""Producers that stay open; those in use are not counted out (L5)."""
_CLOSE_TIMEOUT = 1.0
"""Seconds that a producer gets which nobody uses any more: it has nothing outstanding."""


class Kept(msgspec.Struct, eq=False):
    """A producer of the cache, lent to `users` messages under way. `users` is guarded by the cache's lock."""

    key: Hashable
    producer: ProducerCore
    users: int = 0


class ProducerCache:
    """Opens a producer at the first message to a destination, and closes the least recently used idle one beyond
    `MOST`. `lock` guards everything; no call of a driver is made under it.
    """

    def __init__(self) -> None:
        self.lock: threading.Lock = threading.Lock()
        self._opening = threading.Lock()
        """Held while one is opened, so that two threads do not open the same one."""
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()
        self._dropped: list[Kept] = []
        self._closed = ""

    def take(self, key: Hashable) -> Kept | None:
        """Borrow an open producer; `None` if there is none. Never blocks."""
        with self.lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
                kept.users += 1
        return kept

    def open(self, key: Hashable, make: Callable[[], ProducerCore]) -> Kept:
        """Borrow a producer, which `make` opens if there is none. Blocks, and raises what `make` raises."""
        with self._opening:
            kept = self.take(key)
            if kept is not None:
                return kept
            self._close_surplus()
            kept = Kept(key, make(), 1)
            with self.lock:
                closed = self._closed
                if not closed:
                    self._kept[key] = kept
        if closed:
            kept.producer.sender.close(_CLOSE_TIMEOUT)
            raise Closed(closed)
        return kept

    def share(self, kept: Kept) -> None:
        """Lend what is lent already once more."""
        with self.lock:
            kept.users += 1

    def give_back(self, kept: Kept) -> None:
        """Return what was borrowed."""
        with self.lock:
            kept.users -= 1

    def drop(self, kept: Kept) -> None:
        """Lend it no more: its destination is gone. It is closed by the next call that may block."""
        with self.lock:
            if self._kept.get(kept.key) is kept:
                del self._kept[kept.key]
                self._dropped.append(kept)

    def _close_surplus(self) -> None:
        with self.lock:
            idle = [kept for kept in self._dropped if not kept.users]
            self._dropped = [kept for kept in self._dropped if kept.users]
            for key, kept in list(self._kept.items()):
                if len(self._kept) < MOST:
                    break
                if not kept.users:
                    idle.append(self._kept.pop(key))
        for kept in idle:
            kept.producer.sender.close(_CLOSE_TIMEOUT)

    def close(self, reason: str, deadline: float) -> None:
        """Wait for what is outstanding and close every producer, until `deadline` (`time.monotonic`). Idempotent."""
        with self.lock:
            self._closed = self._closed or reason
            kept = [*self._kept.values(), *self._dropped]
            self._kept.clear()
            self._dropped.clear()
        for each in kept:
            each.producer.sender.close(remaining(deadline))
