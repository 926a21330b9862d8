"""Which runs of a consumer go on, and how they are stopped."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol


class Stoppable(Protocol):
    """One run; `stop` never blocks."""

    def stop(self) -> None: ...


class Runs:
    """The runs of one consumer. No lock: `stop` is called by handlers of signals, too; every step is atomic."""

    def __init__(self) -> None:
        self._going_on: set[Stoppable] = set()
        self._stopped_early = False
        """Somebody stopped when no run went on: the next one, which was about to begin, ends at once."""

    @contextmanager
    def going_on(self, run: Stoppable) -> Generator[None, None, None]:
        """Have `stop` reach a run from now on; it is stopped here if that was called too early for it."""
        self._going_on.add(run)
        try:
            if self._stopped_early:
                self._stopped_early = False
                run.stop()
            yield
        finally:
            self._going_on.discard(run)

    def stop(self) -> None:
        """Stop every run that goes on, or else the next one."""
        # First the mark: a run that begins at this moment sees it or is seen.
        self._stopped_early = True
        going_on = list(self._going_on)
        for run in going_on:
            run.stop()
        if going_on:
            self._stopped_early = False
