"""How runs went over time: those in which something was done to the broker, the consumers or the connection."""

import itertools
from collections.abc import Callable, Iterator, Sequence

from unimq_bench import charts, notation
from unimq_bench.markup import shown
from unimq_bench.results import Run, Sample
from unimq_bench.sections.pieces import bare_table, figure, folded
from unimq_bench.view import View, point_label

_SAMPLES_NEEDED = 6
_TOLD = {"stall", "fault", "backlog"}
"""Workloads whose course is what they are about; of others, runs in which something happened are drawn as well."""
_PANEL = 134.0


def timelines(view: View) -> Iterator[str]:
    """Yield one run of each row in each such workload: the first that is valid, else the first."""
    chosen = list(_chosen(view))
    if not chosen:
        return
    yield '<section><h2 id="timelines">Over time</h2>'
    yield "<p>One run of each row. What was done to it, and what followed, is marked and listed.</p>"
    yield '<div class="pair">'
    for run in chosen:
        yield _drawn(view, run)
    yield "</div></section>"


def _chosen(view: View) -> Iterator[Run]:
    for workload in view.workloads:
        for row in view.result.rows:
            runs = [
                run
                for run in view.runs(row.name, workload)
                if len(run.timeline) >= _SAMPLES_NEEDED and (workload in _TOLD or run.events)
            ]
            runs.sort(key=lambda run: (bool(run.invalid), run.process))
            yield from runs[:1]


def _drawn(view: View, run: Run) -> str:
    samples = run.timeline
    end = samples[-1].t
    marks = [charts.Mark(event.t, event.what) for event in run.events]
    panels: list[str] = []

    def panel(name: str, write: Callable[[float | None], str], *lines: charts.Line, log: bool = False) -> None:
        kept = [line for line in lines if line.points]
        if not kept:
            return
        across = charts.Axis("seconds" if name == "cores" else "", notation.number, low=0, high=end)
        up = charts.Axis(name, write, "log" if log else "linear")
        keys = charts.legend([(line.name, line.colour) for line in kept]) if len(kept) > 1 else ""
        chart = charts.lines(kept, across, up, about=f"{name} over time", height=_PANEL, marks=marks, named=not panels)
        panels.append(keys + chart)

    ours = view.colour(run.row)
    other = "c3" if ours != "c3" else "c0"
    panel(
        "messages per second",
        notation.number,
        charts.Line("sent", other, _speeds(samples, lambda sample: sample.sent)),
        charts.Line("received", ours, _speeds(samples, lambda sample: sample.received)),
    )
    panel("backlog, messages", notation.number, charts.Line("backlog", ours, _values(samples, lambda s: s.backlog)))
    response = _values(samples, lambda s: None if s.p99 is None else s.p99 * 1e9)
    panel("response p99", notation.duration, charts.Line("p99", ours, [(t, y) for t, y in response if y > 0]), log=True)
    panel(
        "cores",
        notation.number,
        charts.Line("client", ours, _values(samples, lambda s: s.client_cpu)),
        charts.Line("broker", other, _values(samples, lambda s: s.broker_cpu)),
    )
    told = f"invalid: {'; '.join(run.invalid)}. " if run.invalid else ""
    told += point_label(run.point)
    events = "".join(f"<tr><td class='n'>{event.t:.2f} s</td><td>{shown(event.what)}</td></tr>" for event in run.events)
    below = f'<table class="events"><tbody>{events}</tbody></table>' if events else ""
    return figure("\n".join(panels) + below + _as_table(samples), f"{run.workload}: {run.row}.", told)


def _speeds(samples: Sequence[Sample], what: Callable[[Sample], int]) -> list[tuple[float, float]]:
    """Return how fast a counter rose, at the end of each stretch."""
    return [
        (after.t, max(0.0, (what(after) - what(before)) / (after.t - before.t)))
        for before, after in itertools.pairwise(samples)
        if after.t > before.t
    ]


def _values(samples: Sequence[Sample], what: Callable[[Sample], float | None]) -> list[tuple[float, float]]:
    found = ((sample.t, what(sample)) for sample in samples)
    return [(t, float(value)) for t, value in found if value is not None]


def _as_table(samples: Sequence[Sample]) -> str:
    body = [
        "<tr>"
        + "".join(
            f'<td class="n">{shown(cell)}</td>'
            for cell in (
                f"{sample.t:.2f} s",
                notation.count(sample.sent),
                notation.count(sample.received),
                notation.count(sample.backlog),
                notation.duration(None if sample.p99 is None else sample.p99 * 1e9),
                notation.number(sample.client_cpu),
                notation.number(sample.broker_cpu),
                notation.size(sample.client_rss),
                notation.size(sample.broker_rss),
            )
        )
        + "</tr>"
        for sample in samples[:: max(1, len(samples) // 60)]
    ]
    columns = (
        "At#",
        "Sent#",
        "Received#",
        "Backlog#",
        "p99#",
        "Client cores#",
        "Broker cores#",
        "Client memory#",
        "Broker memory#",
    )
    return folded("As a table", bare_table(columns, body))
