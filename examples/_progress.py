"""Progress of a run: counted by its threads, awaited by the main one, shown as bars by rich on a terminal."""

import contextlib
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future


class Progress:
    """Counts what several threads have done. The condition guards the counts."""

    def __init__(self, show: Callable[[str, int], None]) -> None:
        self._show = show
        self._counts: Counter[str] = Counter()
        self._changed = threading.Condition()

    def add(self, name: str, number: int) -> None:
        """Count, and wake whoever waits."""
        if number:
            with self._changed:
                self._counts[name] += number
                self._changed.notify_all()
            self._show(name, number)

    def wait(self, name: str, total: int, threads: Sequence[Future[None]], patience: float) -> None:
        """Wait for a total; give up when nothing changes for `patience` seconds, or when a thread ends before."""
        for thread in threads:
            thread.add_done_callback(self._wake)
        with self._changed:
            while self._counts[name] < total and not any(thread.done() for thread in threads):
                if not self._changed.wait(patience):
                    return

    def _wake(self, _ended: Future[None]) -> None:
        with self._changed:
            self._changed.notify_all()


@contextlib.contextmanager
def progress(totals: Mapping[str, int]) -> Generator[Progress]:
    """Yield a progress with one bar per name; silent where stdout is no terminal or rich is not installed."""
    with contextlib.ExitStack() as stack:
        show: Callable[[str, int], None] = _silent
        if sys.stdout.isatty():
            with contextlib.suppress(ImportError):
                show = stack.enter_context(_bars(totals))
        yield Progress(show)


@contextlib.contextmanager
def _bars(totals: Mapping[str, int]) -> Generator[Callable[[str, int], None]]:
    from rich import progress as rich

    columns = rich.TextColumn("{task.description:>12}"), rich.BarColumn(), rich.MofNCompleteColumn()
    with rich.Progress(*columns, rich.TimeElapsedColumn()) as shown:
        tasks = {name: shown.add_task(name, total=total) for name, total in totals.items()}
        yield lambda name, number: shown.advance(tasks[name], number)


def _silent(_name: str, _number: int) -> None:
    return
