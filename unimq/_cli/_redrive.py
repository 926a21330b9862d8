"""Redriving from the command line, with its progress in the terminal."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

from unimq._cli._output import fail, write_json, write_line, write_table
from unimq._destinations import Queue, Subscription
from unimq._redrive import Redrive, Redriven
from unimq._sync import Broker


def redrive(
    broker: Broker,
    source: Queue | Subscription,
    *,
    limit: int | None,
    reason: str | None,
    rate: float | None,
    dry_run: bool,
    timeout: float,
    json: bool,
) -> int:
    """Redrive and print the figures, also those of an interrupted one; 1 if some could not be sent."""
    with _progress() as show:
        run = Redrive(
            broker._core,
            source,
            limit=limit,
            reason=reason,
            rate=rate,
            dry_run=dry_run,
            timeout=timeout,
            on_progress=show,
        )
        try:
            done = run.run()
        except (KeyboardInterrupt, SystemExit):
            fail(f"interrupted: {_figures(run.result())}; start it again to go on")
            raise
    if json:
        write_json(done)
    else:
        write_line(f"{done.source}: {_figures(done)}".encode())
        if done.reasons:
            counts = sorted(done.reasons.items(), key=lambda item: (-item[1], item[0]))
            write_table(("reason", "dead letters"), [(name or "(none)", str(number)) for name, number in counts])
    if done.error is not None:
        return fail(f"{done.failed} could not be sent; the first: {type(done.error).__name__}: {done.error}")
    return 0


def _figures(done: Redriven) -> str:
    moved = "would move" if done.dry_run else "moved"
    return f"{done.moved} {moved}, {done.skipped} skipped, {done.failed} failed, {done.remaining} remaining"


@contextmanager
def _progress() -> Generator[Callable[[Redriven], None] | None]:
    """Give what shows the figures as they grow; nothing, unless a person sees standard error."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True, markup=False), transient=True) as bar:
        task = bar.add_task("redriving", total=None, figures="")

        def show(done: Redriven) -> None:
            looked_at = done.moved + done.skipped + done.failed
            total = looked_at if done.complete else done.remaining + (0 if done.dry_run else done.moved)
            bar.update(task, completed=looked_at, total=total, figures=_figures(done))

        yield show
