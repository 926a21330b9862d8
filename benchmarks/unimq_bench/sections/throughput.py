"""Overhead as ratios over their noise floor, and throughput as bars or, where a parameter is swept, as curves."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from unimq_bench import charts, notation
from unimq_bench.markup import shown
from unimq_bench.results import Figure, Ratio
from unimq_bench.sections.costs import WORKLOAD as COSTS
from unimq_bench.sections.pieces import (
    bare_table,
    factor_tick,
    figure,
    folded,
    per_message,
    ratio_tick,
    ratio_written,
    swatch,
    table,
    verdict,
    with_interval,
    writer,
)
from unimq_bench.view import Point, View, invalidity, key_of, point_label, told_once, varying

_DRAWN = 2
"""How many metrics of a workload are drawn; the table has all."""


def overhead(view: View) -> Iterator[str]:
    """Yield the ratios."""
    ratios = view.result.ratios
    if not ratios:
        return
    yield '<section><h2 id="overhead">Overhead</h2>'
    yield (
        "<p>Two clients side by side: short slices in random order, in fresh processes. A point right of <em>equal</em>"
        " took more per message than the client it is compared with. The bar is the 95 % interval over processes, the"
        " shaded band the noise floor: the other client compared with itself in the same run. Only what lies outside"
        " both the band and ±2 % gets a verdict.</p>"
    )
    near = [ratio for ratio in ratios if _is_near(ratio)]
    far = [ratio for ratio in ratios if not _is_near(ratio)]
    for these, title in ((near, "Cost per message relative to the other client."), (far, "Far apart: by a factor.")):
        if these:
            drawn = [_estimate(view, ratio) for ratio in these]
            about = "Ratios with intervals and noise floors"
            axis = "time or CPU per message, relative to the other client"
            ticks = ratio_tick if these is near else factor_tick
            chart = charts.estimates(drawn, ratio_written, ticks, about=about, axis=axis)
            yield figure(chart, title, "Left is better.")
    columns = (
        "Rows",
        "Of",
        "Median#",
        "95 %, bootstrap#",
        "95 %, t#",
        "Noise floor#",
        "Processes#",
        "Pairs#",
        "Verdict",
    )
    body: list[str] = []
    before = None
    for ratio in ratios:
        row = view.row(ratio.a)
        told = [
            f"{ratio_written(ratio.low)} … {ratio_written(ratio.high)}",
            f"{ratio_written(ratio.t_low)} … {ratio_written(ratio.t_high)}",
            f"{ratio_written(ratio.floor_low)} … {ratio_written(ratio.floor_high)}",
            str(ratio.processes),
            str(ratio.pairs),
        ]
        why = f"<br><small>{shown(ratio.why)}</small>" if ratio.why else ""
        if row.backend != before:
            heading = shown(view.heading(row.backend))
            body.append(f'<tr class="group"><th colspan="{len(columns)}" scope="rowgroup">{heading}</th></tr>')
        before = row.backend
        body.append(
            f'<tr class="{"apart" if row.emulated else ""}"><th scope="row">{swatch(view, ratio.a)}'
            f"{shown(view.label(ratio.a))} <small>against</small> {shown(view.label(ratio.b))}</th>"
            f"<td>{shown(ratio.metric)}</td>"
            f'<td class="n"><strong>{shown(ratio_written(ratio.median))}</strong></td>'
            + "".join(f'<td class="n">{shown(each)}</td>' for each in told)
            + f'<td class="verdict">{verdict(ratio)}{why}</td></tr>'
        )
    yield from table(columns, body)
    yield "</section>"


def _is_near(ratio: Ratio) -> bool:
    """Tell whether a ratio can stand on an axis on which a few percent can be seen."""
    return ratio.low > 0.5 and ratio.high < 2


def _estimate(view: View, ratio: Ratio) -> charts.Estimate:
    return charts.Estimate(
        label=f"{view.label(ratio.a)} ÷ {view.label(ratio.b)}, {ratio.metric}",
        colour=view.colour(ratio.a),
        value=ratio.median,
        low=ratio.low,
        high=ratio.high,
        floor=(ratio.floor_low, ratio.floor_high),
        group=view.heading(view.row(ratio.a).backend),
        hatched=bool(view.row(ratio.a).emulated),
    )


def throughput(view: View) -> Iterator[str]:
    """Yield the figures of each workload that has any, and its invalid rows with their reason."""
    workloads = [
        name
        for name in view.workloads
        if name != COSTS and any(_is_speed(each) and each.workload == name for each in view.result.figures)
    ]
    if not workloads:
        return
    yield '<section><h2 id="throughput">Throughput</h2>'
    yield (
        "<p>Whiskers tell the spread; two rows closer than theirs are not apart. Hatched rows are emulated or were run"
        " in another way, and are not ranked. Absolute rates belong to this machine and this hour: compare rows within"
        " the page, never with another page.</p>"
    )
    for workload in workloads:
        yield f"<h3>{shown(workload)}</h3>"
        yield from _workload(view, workload)
    yield "</section>"


def _is_speed(each: Figure) -> bool:
    return "response" not in each.metric and "service" not in each.metric and "lateness" not in each.metric


def _workload(view: View, workload: str) -> Iterator[str]:
    figures = [each for each in view.result.figures if each.workload == workload and _is_speed(each)]
    metrics = list(dict.fromkeys((each.metric, each.unit) for each in figures))
    points = view.points(workload)
    swept = _swept(points)
    drawn: list[tuple[str, str]] = []
    for metric, unit in _drawn(metrics, points)[:_DRAWN]:
        these = [each for each in figures if (each.metric, each.unit) == (metric, unit)]
        if swept is not None and len({key_of(each.point) for each in these}) > 2:
            drawn += _curves(view, workload, these, swept)
        else:
            drawn += [(backend, _bars(view, workload, backend, these, points)) for backend in view.backends]
    # Beside each other what is of one backend.
    drawn = [each for backend in view.backends for each in drawn if each[0] == backend and each[1]]
    yield '<div class="pair">' + "\n".join(chart for _, chart in drawn) + "</div>"
    yield from _figures_table(view, workload, figures, metrics, points)


def _drawn(metrics: Sequence[tuple[str, str]], points: Sequence[Point]) -> list[tuple[str, str]]:
    """Return the metrics worth a chart, the most telling first."""
    if any(isinstance(point.get("rate"), int | float) for point in points):
        # At an offered rate, the rate is the schedule's and says nothing.
        return [pair for pair in metrics if "CPU" in pair[0] and "rate" not in pair[0]][:1]
    rates = [pair for pair in metrics if pair[0].endswith(("rate", "throughput"))]
    others = [pair for pair in metrics if pair not in rates]
    # Of others, that which belongs to the first rate: it stands beside it.
    return rates + sorted(others, key=lambda pair: not (rates and pair[0].startswith(rates[0][0])))


def _swept(points: Sequence[Point]) -> str | None:
    """Return the one parameter that a workload sweeps: a number with at least three values, nothing else varying."""
    names = varying(points)
    if len(names) != 1:
        return None
    values = {point.get(names[0]) for point in points}
    numeric = all(isinstance(value, int | float) and value > 0 for value in values)
    return names[0] if numeric and len(values) > 2 else None


def _bars(view: View, workload: str, backend: str, figures: Sequence[Figure], points: Sequence[Point]) -> str:
    """Return bars of one backend's rows: others have another durability or place, and often quite another scale."""
    names = varying(points)
    metric, unit = figures[0].metric, figures[0].unit
    more_is_better = unit.endswith("/s")
    found: list[tuple[tuple[int, bool, float], charts.Bar]] = []
    for index, point in enumerate(points):
        for row in view.result.rows:
            if row.backend != backend:
                continue
            bar = charts.Bar(
                label=view.label(row.name),
                colour=view.colour(row.name),
                value=None,
                group=point_label(point, names),
                hatched=bool(row.emulated),
            )
            here = [each for each in figures if each.row == row.name and key_of(each.point) == key_of(point)]
            runs = view.runs(row.name, workload, point)
            if reason := invalidity(runs):
                found.append(((index, True, 0.0), replace(bar, reason=reason)))
            elif here:
                value, hatched = here[0].value, bool(row.emulated) or not here[0].ranked
                drawn = replace(
                    bar, value=value, low=here[0].low, high=here[0].high, spread=here[0].spread, hatched=hatched
                )
                found.append(((index, hatched, -value if more_is_better else value), drawn))
    if not found:
        return ""
    found.sort(key=lambda pair: pair[0])
    better = "More is better." if more_is_better else "Less is better."
    spreads = dict.fromkeys(bar.spread for _, bar in found if bar.low is not None and bar.spread)
    better += f" Whiskers: {' or '.join(spreads)}." if spreads else ""
    chart = charts.bars([bar for _, bar in found], writer(unit), about=f"{metric} in {workload} on {backend}")
    return figure(chart, f"{view.heading(backend)}: {metric}{per_message(unit)}.", better)


def _curves(view: View, workload: str, figures: Sequence[Figure], swept: str) -> Iterator[tuple[str, str]]:
    metric, unit = figures[0].metric, figures[0].unit
    for backend in view.backends:
        lines: list[charts.Line] = []
        for row in view.result.rows:
            these = [each for each in figures if each.row == row.name and row.backend == backend]
            these = [each for each in these if not invalidity(view.runs(row.name, workload, each.point))]
            points = sorted((float(each.point[swept]), each.value) for each in these)
            if points:
                dashed = bool(row.emulated) or any(not each.ranked for each in these)
                lines.append(charts.Line(view.label(row.name), view.colour(row.name), points, dashed=dashed, dots=True))
        if not lines:
            continue
        write = notation.size if swept == "size" else notation.number
        ticks = sorted({x for line in lines for x, _ in line.points})
        across = charts.Axis(swept, write, "log" if ticks[-1] > 20 * ticks[0] else "linear", ticks=ticks)
        up = charts.Axis(metric, writer(unit), low=0)
        chart = charts.lines(lines, across, up, about=f"{metric} by {swept} on {backend}", height=280)
        keys = charts.legend(
            [(line.name, line.colour) for line in lines], dashed=[line.name for line in lines if line.dashed]
        )
        yield backend, figure(chart, f"{view.heading(backend)}: {metric} by {swept}.", above=keys)


def _figures_table(
    view: View, workload: str, figures: Sequence[Figure], metrics: Sequence[tuple[str, str]], points: Sequence[Point]
) -> Iterator[str]:
    names = varying(points)
    body: list[str] = []
    for row in view.result.rows:
        for point in points:
            these = {
                each.metric: each for each in figures if each.row == row.name and key_of(each.point) == key_of(point)
            }
            runs = view.runs(row.name, workload, point)
            if not these and not runs:
                continue
            broken = invalidity(runs)
            cells = "".join(
                f'<td class="n">{"–" if broken or metric not in these else with_interval(these[metric])}</td>'
                for metric, _ in metrics
            )
            why = [each.why_unranked for each in these.values() if not each.ranked and each.why_unranked]
            told = broken or "; ".join(["not ranked", *told_once(why)] if why else [])
            number = max((each.samples for each in these.values()), default=0)
            body.append(
                f'<tr class="{"apart" if told else ""}"><th scope="row">{swatch(view, row.name)}{shown(row.name)}</th>'
                + (f"<td>{shown(point_label(point, names))}</td>" if names else "")
                + f'<td>{shown(row.durability or "–")}</td>{cells}<td class="n">{number or "–"}</td>'
                + f'<td class="remark">{shown(told)}</td></tr>'
            )
    columns = [
        "Row",
        *(["At"] if names else []),
        "Durability",
        *(f"{metric}{per_message(unit)}#" for metric, unit in metrics),
        "Samples#",
        "Remark",
    ]
    yield folded(f"Figures of {workload} as a table", bare_table(columns, body), opened=len(body) <= 8)
