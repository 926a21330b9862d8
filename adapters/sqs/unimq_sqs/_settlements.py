"""Which settlements are confirmed, and what a barrier waits for (A1)."""

import threading
from collections import deque
from collections.abc import Callable, Sequence

from unimq import UnimqError

Done = Callable[[Sequence[UnimqError]], None]
_KEPT_ERRORS = 1000
"""Errors kept for the next barrier; a program that never asks for one must not collect them for ever."""


class Generation:
    """The settlements between two barriers."""

    __slots__ = ("done", "errors", "unconfirmed")

    def __init__(self) -> None:
        self.unconfirmed = 0
        self.errors: list[UnimqError] = []
        self.done: Done | None = None


class Settlements:
    """Counts them per generation. Its own lock guards everything; `done` is called without it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._generations = deque([Generation()])
        self.unconfirmed = 0
        """Of all generations; read without the lock as a bound on what may pile up (L5)."""

    def start(self, count: int) -> Generation:
        """Count `count` new settlements; each is finished once, with the generation that is returned."""
        with self._lock:
            generation = self._generations[-1]
            generation.unconfirmed += count
            self.unconfirmed += count
            return generation

    def finish(self, generation: Generation, error: UnimqError | None = None) -> None:
        """One settlement of the generation is confirmed, or failed for good."""
        with self._lock:
            generation.unconfirmed -= 1
            self.unconfirmed -= 1
            if error is not None and len(generation.errors) < _KEPT_ERRORS:
                generation.errors.append(error)
            ready = self._take_ready()
        _call(ready)

    def barrier(self, done: Done) -> None:
        """Call `done` with the errors once everything started before is finished."""
        with self._lock:
            self._generations[-1].done = done
            self._generations.append(Generation())
            ready = self._take_ready()
        _call(ready)

    def _take_ready(self) -> list[Generation]:
        ready: list[Generation] = []
        while self._generations[0].done is not None and not self._generations[0].unconfirmed:
            ready.append(self._generations.popleft())
        return ready


def _call(ready: list[Generation]) -> None:
    for generation in ready:
        if generation.done is not None:
            generation.done(generation.errors)
