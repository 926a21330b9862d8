"""How a benchmark is shown: live on a terminal, and as tables when it is done."""

import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from unimq_bench.results import Figure, Ratio, Result


class Plain:
    """One line per step, for logs."""

    def plan(self, seconds: float) -> None:
        """See `bench.Reporter`."""
        self.note(f"this takes about {_duration(seconds)}")

    def step(self, text: str, seconds: float) -> None:
        """See `bench.Reporter`."""
        self.note(text)

    def live(self, text: str, rate: float, p99: float | None) -> None:
        """Nothing: a log has no place that changes."""

    def note(self, text: str) -> None:
        """See `bench.Reporter`."""
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - that is its purpose


class Live:
    """A bar with what is measured, how long is left, and the rate and p99 of this moment."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._task = progress.add_task("starting", total=None, rate="", p99="")
        self._text = "starting"
        self._done = 0.0
        self._step = 0.0
        self._since = time.monotonic()

    def plan(self, seconds: float) -> None:
        """See `bench.Reporter`."""
        self._progress.update(self._task, total=max(seconds, 1.0))

    def step(self, text: str, seconds: float) -> None:
        """See `bench.Reporter`."""
        self._done += self._step
        self._step, self._since, self._text = seconds, time.monotonic(), text
        self._progress.update(self._task, completed=self._done, description=text, rate="", p99="")

    def live(self, text: str, rate: float, p99: float | None) -> None:
        """See `bench.Reporter`."""
        # Never more than what the step was to take: a slow step must not pretend to have done the next.
        passed = min(time.monotonic() - self._since, self._step)
        fields = {"rate": f"{rate:,.0f} msg/s" if rate else "", "p99": "" if p99 is None else f"p99 {p99 * 1e3:.2f} ms"}
        shown = f"{self._text}: {text}" if text else self._text
        self._progress.update(self._task, completed=self._done + passed, description=shown, **fields)

    def note(self, text: str) -> None:
        """See `bench.Reporter`."""
        self._progress.console.print(text, markup=False, highlight=False)


@contextmanager
def reporter() -> Generator[Plain | Live]:
    """Give the reporter that fits standard error: live on a terminal, lines elsewhere."""
    if not sys.stderr.isatty():
        yield Plain()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[rate]}", markup=False),
        TextColumn("{task.fields[p99]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Live(progress)


COLUMNS_OF_RATIOS = ("verdict", "rows", "metric", "ratio", "95 %", "noise floor", "processes", "why")
COLUMNS_OF_FIGURES = ("workload", "row", "point", "metric", "value", "spread", "samples", "not ranked because")


def ratio_rows(result: Result) -> list[tuple[str, ...]]:
    """Return the ratios as rows of a table."""
    return [_ratio_row(ratio) for ratio in result.ratios]


def _ratio_row(ratio: Ratio) -> tuple[str, ...]:
    return (
        ratio.verdict,
        f"{ratio.a} / {ratio.b}",
        f"{ratio.workload}: {ratio.metric}",
        f"{ratio.median:.3f}",
        f"{ratio.low:.3f} to {ratio.high:.3f}",
        f"{ratio.floor_low:.3f} to {ratio.floor_high:.3f}",
        str(ratio.processes),
        ratio.why,
    )


def figure_rows(result: Result) -> list[tuple[str, ...]]:
    """Return the figures as rows of a table; one that is not ranked is in parentheses, with its `reasons` by number."""
    numbers = {reason: str(number) for number, reason in enumerate(reasons(result), 1)}
    return [_figure_row(figure, numbers) for figure in result.figures]


def reasons(result: Result) -> list[str]:
    """Return why figures are not ranked, each reason once; the table names them by number, from 1."""
    return list(dict.fromkeys(each for figure in result.figures for each in _reasons_of(figure)))


def _reasons_of(figure: Figure) -> list[str]:
    return [each for each in figure.why_unranked.split("; ") if each]


def _figure_row(figure: Figure, numbers: Mapping[str, str]) -> tuple[str, ...]:
    point = ", ".join(f"{name} {value}" for name, value in figure.point.items())
    spread = "" if figure.low is None or figure.high is None else f"{_number(figure.low)} to {_number(figure.high)}"
    value = f"{_number(figure.value)} {figure.unit}"
    return (
        figure.workload,
        figure.row,
        point,
        figure.metric,
        value if figure.ranked else f"({value})",
        spread,
        str(figure.samples or ""),
        " ".join(numbers[each] for each in _reasons_of(figure)),
    )


def summary(result: Result) -> list[str]:
    """Return the lines that stand above the tables: how it went, and what was lost."""
    invalid = sum(bool(run.invalid) for run in result.runs)
    counts = [run.accounting for run in result.runs]
    total = {name: sum(getattr(each, name) for each in counts) for name in ("sent", "acked", "lost", "duplicated")}
    partial = " (PARTIAL)" if result.partial else ""
    lines = [
        f"{len(result.runs)} runs in {_duration(result.seconds)}, profile {result.profile}, seed {result.seed}"
        + partial,
        (
            f"{total['sent']:,} messages sent, {total['acked']:,} acked, {total['lost']:,} of those lost,"
            f" {total['duplicated']:,} duplicates"
        ),
    ]
    if invalid:
        lines.append(f"{invalid} runs are invalid and their figures, in parentheses, are not ranked")
    return [*lines, *result.notes]


def _number(value: float) -> str:
    if value == 0 or 0.01 <= abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2e}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
