"""Queues and workers, live in the terminal."""

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from unimq._capabilities import Stats
from unimq._cli._messages import name_of
from unimq._cli._output import write_json, write_table
from unimq._cli._scraping import Endpoint, Look, Rates, rates_between
from unimq._destinations import Queue, Subscription
from unimq._errors import UnimqError
from unimq._sync import Broker

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("source", "ready", "±/s", "in flight", "delayed", "oldest", "consumers", "dead")
OF_WORKERS = ("sent/s", "done/s", "again/s", "dead/s", "latency p50", "p99", "handler p99", "held")
MILLISECOND = 0.001


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of one source: its depth or why that is not known, and what workers do with it."""

    name: str
    stats: Stats | None = None
    growth: float | None = None
    """Messages per second by which ``ready`` grows."""
    error: str = ""
    rates: Rates | None = None


@dataclass(frozen=True, slots=True)
class Screen:
    """Everything at one moment."""

    rows: Sequence[Row]
    reconnects: float | None = None
    error: str = ""
    """Why workers are not seen."""


class Watch:
    """Looks at the same sources again and again, and keeps what it needs of the last time."""

    def __init__(self, broker: Broker, sources: Sequence[Queue | Subscription], endpoint: Endpoint | None) -> None:
        self._broker = broker
        self._sources = sources
        self._endpoint = endpoint
        self._ready: dict[str, tuple[float, int]] = {}
        self._look: Look | None = None

    def screen(self) -> Screen:
        """Look once. Whatever cannot be seen is said in its place: it may be there again the next time."""
        rows = [self._row(source) for source in self._sources]
        if self._endpoint is None:
            return Screen(rows)
        try:
            look = self._endpoint.look()
        except UnimqError as error:
            self._look = None
            return Screen(rows, error=str(error))
        before, self._look = self._look, look
        rates = rates_between(before or look, look)
        return Screen([replace(row, rates=rates.get(row.name)) for row in rows], look.reconnects)

    def _row(self, source: Queue | Subscription) -> Row:
        name = name_of(source)
        try:
            stats = self._broker.stats(source)
        except UnimqError as error:
            self._ready.pop(name, None)
            return Row(name, error=f"{type(error).__name__}: {error}")
        now = time.monotonic()
        growth: float | None = None
        if stats.ready is not None:
            if name in self._ready:
                then, ready = self._ready[name]
                growth = (stats.ready - ready) / max(now - then, 1e-9)
            self._ready[name] = now, stats.ready
        return Row(name, stats, growth)


def top(
    broker: Broker,
    sources: Sequence[Queue | Subscription],
    *,
    metrics: str | None,
    interval: float,
    times: int | None,
    json: bool,
) -> None:
    """Show the sources until interrupted, or so many times."""
    watch = Watch(broker, sources, None if metrics is None else Endpoint(metrics, min(interval, 10.0)))
    title = str(broker._core.url)
    if json or not sys.stdout.isatty():
        for _ in _Ticks(interval, times):
            screen = watch.screen()
            if json:
                _write_json(screen)
            else:
                write_table(_columns(screen), _cells(screen), title=f"{title} {_status(screen)}")
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(markup=False, emoji=False, highlight=False), auto_refresh=False) as live:
        for _ in _Ticks(interval, times):
            screen = watch.screen()
            live.update(_table(screen, f"{title} {_status(screen)} · Ctrl-C ends"), refresh=True)


class _Ticks:
    """Numbers from 0, one per interval; a look that takes longer than that is followed by the next at once."""

    def __init__(self, interval: float, times: int | None) -> None:
        self._interval = interval
        self._times = times
        self._number = -1
        self._due = time.monotonic()
        self._never = threading.Event()

    def __iter__(self) -> "_Ticks":
        return self

    def __next__(self) -> int:
        self._number += 1
        if self._times is not None and self._number >= self._times:
            raise StopIteration
        if self._number:
            self._due = max(self._due + self._interval, time.monotonic())
            self._never.wait(self._due - time.monotonic())
        return self._number


def _status(screen: Screen) -> str:
    parts = [time.strftime("%H:%M:%S")]
    if screen.reconnects is not None:
        parts.append(f"{screen.reconnects:.0f} reconnects")
    if screen.error:
        parts.append(screen.error)
    return "· " + " · ".join(parts)


def _columns(screen: Screen) -> Sequence[str]:
    return (*COLUMNS, *(OF_WORKERS if any(row.rates for row in screen.rows) else ()), "error")


def _cells(screen: Screen) -> list[list[str]]:
    with_workers = any(row.rates for row in screen.rows)
    cells: list[list[str]] = []
    for row in screen.rows:
        stats = row.stats or Stats(ready=None)
        about = "" if stats.exact else "~"
        line = [
            row.name,
            f"{about}{_whole(stats.ready)}" if stats.ready is not None else "",
            "" if row.growth is None else f"{row.growth:+.0f}",
            _whole(stats.in_flight),
            _whole(stats.delayed),
            _duration(stats.oldest_age),
            _whole(stats.consumers),
            _whole(stats.dead_letters),
        ]
        if with_workers:
            line += _worker_cells(row.rates)
        cells.append([*line, row.error])
    return cells


def _worker_cells(rates: Rates | None) -> list[str]:
    if rates is None:
        return [""] * len(OF_WORKERS)
    return [
        f"{rates.sent:.0f}",
        f"{rates.done:.0f}",
        f"{rates.redelivered:.0f}",
        f"{rates.dead:.0f}",
        _duration(rates.latency_p50),
        _duration(rates.latency_p99),
        _duration(rates.handler_p99),
        _whole(int(rates.in_flight)),
    ]


def _whole(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _duration(value: float | None) -> str:
    if value is None:
        return ""
    if value < 1:
        return f"{value / MILLISECOND:.1f} ms"
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def _table(screen: Screen, title: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    columns, cells = _columns(screen), _cells(screen)
    used = [index for index in range(len(columns)) if index == 0 or any(line[index] for line in cells)]
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for index in used:
        # The name of a queue is left as it is, and figures stand below each other.
        table.add_column(columns[index], justify="left" if columns[index] in {"source", "error"} else "right")
    for line in cells:
        table.add_row(*(line[index] for index in used))
    return table


def _write_json(screen: Screen) -> None:
    for row in screen.rows:
        stats = row.stats or Stats(ready=None)
        rates = row.rates
        write_json(
            {
                "source": row.name,
                "at": time.time(),
                **{each.name: getattr(stats, each.name) for each in fields(stats)},
                "growth": row.growth,
                "workers": None if rates is None else {each.name: getattr(rates, each.name) for each in fields(rates)},
                "reconnects": screen.reconnects,
                "error": row.error or screen.error or None,
            }
        )
