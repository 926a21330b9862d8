"""What this process holds: threads and descriptors, to see that nothing outlives ``close`` (L4)."""

import gc
import os
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_WATCHED = ("socket:", "pipe:", "anon_inode:")
"""Descriptors that a client library opens to talk or to wake a thread; plain files are the interpreter's business."""

_BEFORE_COLLECTING = 0.1
"""Seconds that threads get to end before the garbage collector is run."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """A snapshot. Threads of the client libraries that Python does not know are counted in `native_threads`."""

    threads: frozenset[threading.Thread]
    native_threads: int
    descriptors: Counter[str]

    @classmethod
    def now(cls) -> "Holdings":
        """Look at this process; outside Linux only its Python threads can be seen."""
        threads = frozenset(threading.enumerate())
        if sys.platform != "linux":
            return cls(threads, len(threads), Counter())
        return cls(threads, len(os.listdir("/proc/self/task")), Counter(_descriptors()))  # noqa: PTH208

    @property
    def count(self) -> int:
        """Threads and descriptors together."""
        return self.native_threads + self.descriptors.total()

    def gained(self, before: "Holdings") -> list[str]:
        """Return what is held now and was not `before`, in words."""
        threads = [f"thread {thread.name!r}" for thread in self.threads - before.threads]
        if not threads and self.native_threads > before.native_threads:
            threads = [f"{self.native_threads - before.native_threads} threads of a client library"]
        new = self.descriptors - before.descriptors
        return threads + [f"{count} x {kind}" for kind, count in new.items()]


def _descriptors() -> list[str]:
    kinds: list[str] = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            link = str(entry.readlink())
        except OSError:
            # The descriptor of this very listing, or one that another thread just closed.
            continue
        if link.startswith(_WATCHED):
            kinds.append(link.partition(":")[0] if not link.startswith("anon_inode") else link)
    return kinds


def wait_until_released(before: Holdings, within: float) -> list[str]:
    """Return what is still held more than `before` after `within` seconds; threads that are ending get so long.

    What only waits for the garbage collector is not held by anybody: the collector is run before the verdict.
    """
    deadline = time.monotonic() + within
    collect_at: float | None = time.monotonic() + _BEFORE_COLLECTING
    while (gained := Holdings.now().gained(before)) and time.monotonic() < deadline:
        if collect_at is not None and time.monotonic() >= collect_at:
            gc.collect()
            collect_at = None
        time.sleep(0.01)
    return gained
