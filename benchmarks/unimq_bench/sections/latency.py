"""Latency: percentiles of kept histograms, and latency against rate where a workload sweeps the rate."""

from collections.abc import Iterator, Sequence

from unimq_bench import charts, notation
from unimq_bench.markup import shown
from unimq_bench.percentiles import BATCHES_NEEDED, NEEDED, Distribution, merged
from unimq_bench.results import Row, Run
from unimq_bench.sections.pieces import bare_table, figure, folded, swatch
from unimq_bench.view import Point, View, key_of, point_label, reasons, valid, varying

_VIEWS = {
    "response": "from the intended send to the delivery",
    "service": "from the actual send to the delivery",
    "blocked": "inside the call of send",
    "lateness": "of the load generator itself",
}
_RESPONSE = charts.Axis("response time", notation.duration, "log")
_SHOWN = (50.0, 90.0, 99.0, 99.9, 99.99)


def latency(view: View) -> Iterator[str]:
    """Yield the curves and the table of each workload that kept response times."""
    workloads = [name for name in view.workloads if any(_measured(run, name) for run in view.result.runs)]
    if not workloads:
        return
    yield '<section><h2 id="latency">Latency</h2>'
    yield (
        "<p>Response time counts from the moment at which a message <em>should</em> have been sent, so that a stall of"
        " the sender is not forgiven (no coordinated omission). Histograms of all valid runs are merged; percentiles"
        " are never averaged. The tables leave out what has too few messages or too few receives behind it.</p>"
    )
    for workload in workloads:
        yield f"<h3>{shown(workload)}</h3>"
        rates = _rates(view, workload)
        if rates:
            yield from _knee(view, workload)
        else:
            yield from _curves(view, workload)
        yield from _table(view, workload)
    yield "</section>"


def _measured(run: Run, workload: str) -> bool:
    return run.workload == workload and "response" in run.histograms


def _rates(view: View, workload: str) -> list[float]:
    """Return the offered rates of a workload that has at least three."""
    found = {float(point["rate"]) for point in view.points(workload) if isinstance(point.get("rate"), int | float)}
    return sorted(found) if len(found) > 2 else []


def _merged(runs: Sequence[Run], name: str) -> Distribution:
    return merged(run.histograms[name] for run in valid(runs) if name in run.histograms)


def _curves(view: View, workload: str) -> Iterator[str]:
    """Yield a chart of percentiles for each backend and point; what ran within one process stands apart."""
    points = [point for point in view.points(workload) if _at(view, workload, point)]
    names = varying(points)
    drawn: list[str] = []
    for point in points[:6]:
        for backend in view.backends:
            for in_process in (False, True):
                rows = [row for row in view.result.rows if (row.backend, row.in_process) == (backend, in_process)]
                chart = _percentile_chart(view, workload, point, rows)
                if chart:
                    told = point_label(point, names) if names else point_label(point)
                    drawn.append(figure(chart, f"{view.heading(backend)}.", told and f"Response time at {told}."))
    yield '<div class="pair">' + "\n".join(drawn) + "</div>"


def _at(view: View, workload: str, point: Point) -> bool:
    return any(_measured(run, workload) and key_of(run.point) == key_of(point) for run in view.result.runs)


def _percentile_chart(view: View, workload: str, point: Point, rows: Sequence[Row]) -> str:
    lines: list[charts.Line] = []
    broken: list[str] = []
    for row in rows:
        runs = view.runs(row.name, workload, point)
        curve = _merged(runs, "response").curve()
        if curve:
            lines.append(charts.Line(view.label(row.name), view.colour(row.name), curve, dashed=bool(row.emulated)))
        elif runs and not valid(runs):
            broken.append(f"{view.label(row.name)}: invalid: {'; '.join(reasons(runs))}")
    if not lines and not broken:
        return ""
    said = "".join(f'<p class="soft">{shown(each)}</p>' for each in broken)
    if not lines:
        return said
    across = charts.Axis("percentile", _percentile, "percentile")
    chart = charts.lines(
        lines,
        across,
        charts.Axis("response time", notation.duration, "log"),
        about=f"Latency percentiles in {workload}",
    )
    return _legend(lines) + chart + said


def _percentile(value: float | None) -> str:
    return "–" if value is None else f"{value:g} %"


def _legend(lines: Sequence[charts.Line]) -> str:
    return charts.legend(
        [(line.name, line.colour) for line in lines], dashed=[line.name for line in lines if line.dashed]
    )


def _knee(view: View, workload: str) -> Iterator[str]:
    """Yield latency against the offered rate: where the curve bends, the row is at its end."""
    drawn: list[str] = []
    for backend in view.backends:
        lines: list[charts.Line] = []
        for row in view.result.rows:
            if row.backend != backend:
                continue
            for percentile, dashed in ((99.0, False), (50.0, True)):
                points = _by_rate(view, row.name, workload, percentile)
                if points:
                    name = f"{view.label(row.name)}, p{percentile:g}"
                    lines.append(charts.Line(name, view.colour(row.name), points, dashed=dashed, dots=True))
        if lines:
            across = charts.Axis("offered rate, messages per second", notation.number, low=0)
            chart = charts.lines(
                lines,
                across,
                _RESPONSE,
                about=f"Latency against rate on {backend}",
            )
            text = (
                "Response time against the offered rate: left of the bend a row keeps up, right of it it queues."
                f" A rate has a p99 if {notation.count(NEEDED[99.0])} messages in {BATCHES_NEEDED} receives say so;"
                " the p50 of fewer is shown alone."
            )
            drawn.append(figure(chart, f"{view.heading(backend)}.", text, above=_legend(lines)))
    yield '<div class="pair">' + "\n".join(drawn) + "</div>"


def _by_rate(view: View, row: str, workload: str, percentile: float) -> list[tuple[float, float]]:
    found: dict[float, list[Run]] = {}
    for run in valid(view.runs(row, workload)):
        rate = run.point.get("rate")
        if isinstance(rate, int | float) and "response" in run.histograms:
            found.setdefault(float(rate), []).append(run)
    values = [(rate, _merged(runs, "response").at(percentile)) for rate, runs in sorted(found.items())]
    return [(rate, float(value)) for rate, value in values if value and _is_enough(found[rate], percentile)]


def _is_enough(runs: Sequence[Run], percentile: float) -> bool:
    """Whether the messages and receives of these runs say anything about a percentile."""
    batches = sum(run.counters.batches for run in runs)
    return _merged(runs, "response").total >= NEEDED[percentile] and (percentile < 99 or batches >= BATCHES_NEEDED)


def _table(view: View, workload: str) -> Iterator[str]:
    points = view.points(workload)
    names = varying(points)
    body: list[str] = []
    for in_process in (False, True):
        rows = [row for row in view.result.rows if row.in_process == in_process]
        for row in rows:
            for point in points:
                body += _table_rows(view, workload, row, point, names)
    columns = ["Row", *(["At"] if names else []), "Time", "Messages#", *(f"p{each:g}#" for each in _SHOWN), "Highest#"]
    yield folded(f"Latencies of {workload} as a table", bare_table(columns, body), opened=len(body) <= 16)


def _table_rows(view: View, workload: str, row: Row, point: Point, names: Sequence[str]) -> Iterator[str]:
    runs = view.runs(row.name, workload, point)
    if not runs:
        return
    at = f"<td>{shown(point_label(point, names))}</td>" if names else ""
    name = f'<th scope="row">{swatch(view, row.name)}{shown(row.name)}</th>'
    if not valid(runs):
        told = f"invalid: {'; '.join(reasons(runs))}"
        yield f'<tr class="apart">{name}{at}<td colspan="{len(_SHOWN) + 3}">{shown(told)}</td></tr>'
        return
    batches = sum(run.counters.batches for run in valid(runs))
    for kind, meaning in _VIEWS.items():
        found = _merged(runs, kind)
        if not found.total:
            continue
        # The messages of one receive have waited together; nothing of the kind binds what happens in send.
        enough = batches >= BATCHES_NEEDED or kind in {"blocked", "lateness"}
        cells = "".join(f'<td class="n">{_cell(found, each, enough=enough)}</td>' for each in _SHOWN)
        yield (
            f'<tr class="{"apart" if row.emulated else ""}">{name}{at}<td title="{shown(meaning)}">{kind}</td>'
            f'<td class="n">{shown(notation.count(found.total))}</td>{cells}'
            f'<td class="n">{shown(notation.duration(found.highest))}</td></tr>'
        )


def _cell(found: Distribution, percentile: float, *, enough: bool) -> str:
    if found.total < NEEDED[percentile]:
        why = f"needs {notation.count(NEEDED[percentile])} messages"
    elif percentile >= 99 and not enough:
        why = f"needs {BATCHES_NEEDED} receives"
    else:
        between = found.interval(percentile)
        told = "" if between is None else f"95 %: {notation.duration(between[0])} … {notation.duration(between[1])}"
        return f'<span title="{shown(told)}">{shown(notation.duration(found.at(percentile)))}</span>'
    return f'<span title="{shown(why)}">–</span>'
