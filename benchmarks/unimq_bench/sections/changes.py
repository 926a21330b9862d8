"""A comparison of two results, as a text for terminals and as a page."""

import math
from collections.abc import Iterator, Sequence

from unimq_bench import charts, notation
from unimq_bench.compare import Change, Comparison, Verdict, ordered
from unimq_bench.markup import shown
from unimq_bench.page import document
from unimq_bench.results import Result
from unimq_bench.sections.pieces import (
    factor_tick,
    figure,
    numbers,
    per_message,
    pill,
    ratio_tick,
    ratio_written,
    table,
    writer,
)

_VERDICTS: dict[Verdict, str] = {
    "better": "good",
    "worse": "bad",
    "no difference": "good",
    "cannot tell": "",
    "unchanged row": "",
}
_COLOURS: dict[Verdict, str] = {
    "better": "c4",
    "worse": "c3",
    "no difference": "c0",
    "cannot tell": "c1",
    "unchanged row": "c2",
}


def _value(change: Change, value: float) -> str:
    return writer(change.unit)(value) if change.unit else ratio_written(value)


def _dated(result: Result) -> str:
    told = (
        result.started_at[:16].replace("T", " ") + (" UTC" if result.started_at else ""),
        f"unimq {result.unimq}" if result.unimq else "",
        f"profile {result.profile}" if result.profile else "",
    )
    return ", ".join(each for each in told if each) or "of unknown date"


def _tallied(comparison: Comparison) -> str:
    counts: dict[str, int] = {}
    for change in comparison.changes:
        counts[change.verdict] = counts.get(change.verdict, 0) + 1
    told = [f"{counts[verdict]} {verdict}" for verdict in ("worse", "better", "no difference") if verdict in counts]
    if "cannot tell" in counts:
        told.append(f"{counts['cannot tell']} that cannot be told")
    return f"{len(comparison.changes)} figures: " + (", ".join(told) or "unchanged rows alone")


def text(comparison: Comparison) -> str:
    """Return the comparison for a terminal or a log: no colours, aligned."""
    return "\n".join(_lines(comparison)) + "\n"


def _lines(comparison: Comparison) -> Iterator[str]:
    yield f"before: {_dated(comparison.before)}"
    yield f"after:  {_dated(comparison.after)}"
    yield from (f"differs: {what}: {one} → {other}" for what, one, other in comparison.differences)
    yield from (f"note: {each}" for each in comparison.missing)
    for row, first, second in comparison.losses:
        yield f"LOST: {row}: {first} messages before, {second} after"
    columns = ("", "before", "after", "change", "95 % interval", "noise floor", "verdict")
    rows = [(change, _cells(change)) for change in ordered(comparison.changes)]
    widths = [max(len(cells[index]) for _, cells in [(None, columns), *rows]) for index in range(len(columns))]
    yield ""
    yield _aligned(columns, widths)
    above = ""
    for change, cells in rows:
        heading = f"{change.subject}, {change.workload}" + (f" at {change.point}" if change.point else "")
        if heading != above:
            yield heading
        above = heading
        yield _aligned(cells, widths)
    yield ""
    yield _tallied(comparison)


def _has_interval(change: Change) -> bool:
    return change.low > 0 and change.high < math.inf


def _cells(change: Change) -> tuple[str, ...]:
    return (
        f"  {change.metric}{per_message(change.unit)}",
        _value(change, change.before),
        _value(change, change.after),
        ratio_written(change.ratio),
        f"{ratio_written(change.low)} … {ratio_written(change.high)}" if _has_interval(change) else "–",
        f"{ratio_written(change.floor_low)} … {ratio_written(change.floor_high)}",
        change.verdict,
    )


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *numeric, last = cells
    inner = (cell.rjust(width) for cell, width in zip(numeric, widths[1:-1], strict=True))
    return "  ".join((first.ljust(widths[0]), *inner, last)).rstrip()


def page(comparison: Comparison) -> str:
    """Return the comparison as one self-contained page, like that of a result."""
    return document("unimq bench: before and after", _inner(comparison))


def _inner(comparison: Comparison) -> Iterator[str]:
    yield "<header><h1>Before and after</h1>"
    yield f'<p class="soft">before: {shown(_dated(comparison.before))}<br>'
    yield f"after: {shown(_dated(comparison.after))}</p>"
    for row, first, second in comparison.losses:
        yield (
            f'<p class="notice bad"><strong>{shown(row)} lost messages:</strong> {shown(notation.count(first))} before,'
            f" {shown(notation.count(second))} after.</p>"
        )
    for each in comparison.missing:
        yield f'<p class="notice">{shown(each)}</p>'
    yield f"<p><strong>{shown(_tallied(comparison))}.</strong> Two results were not measured side by side. So a change"
    yield (
        " has a verdict only outside ±2 % and outside its noise floor: for ratios the floor of both results, for the"
        " rest what the clients that did not change seem to have changed meanwhile.</p></header>"
    )
    yield "<section><h2>Changes</h2>"
    changes = ordered(comparison.changes)
    # What cannot have a verdict is in the table.
    drawable = [change for change in changes if _has_interval(change) and change.verdict != "unchanged row"]
    near = [change for change in drawable if _is_near(change)]
    far = [change for change in drawable if not _is_near(change)]
    for these, title, ticks in ((near, "After relative to before.", ratio_tick), (far, "By a factor.", factor_tick)):
        if these:
            drawn = [_drawn(change) for change in these]
            chart = charts.estimates(drawn, ratio_written, ticks, about="Changes", axis="after ÷ before")
            yield figure(chart, title, "Whether more is better depends on the figure; the colour and the table say it.")
    columns = ("Figure", "Before#", "After#", "Change#", "95 % interval#", "Noise floor#", "Processes#", "Verdict")
    yield from table(columns, _table_rows(changes, len(columns)))
    yield "</section>"
    if comparison.differences:
        yield "<section><h2>What else is not the same</h2>"
        body = (
            f'<tr><th scope="row">{shown(what)}</th><td>{shown(one)}</td><td>{shown(other)}</td></tr>'
            for what, one, other in comparison.differences
        )
        yield from table(("What", "Before", "After"), body)
        yield "</section>"


def _is_near(change: Change) -> bool:
    return change.low > 0.5 and change.high < 2


def _group(change: Change) -> str:
    return f"{change.subject} · {change.workload}" + (f" · {change.point}" if change.point else "")


def _drawn(change: Change) -> charts.Estimate:
    return charts.Estimate(
        label=f"{change.metric}: {change.verdict}",
        colour=_COLOURS[change.verdict],
        value=change.ratio,
        low=change.low,
        high=change.high,
        floor=(change.floor_low, change.floor_high),
        group=_group(change),
    )


def _table_rows(changes: Sequence[Change], columns: int) -> Iterator[str]:
    above = ""
    for change in changes:
        if _group(change) != above:
            above = _group(change)
            yield f'<tr class="group"><th colspan="{columns}" scope="rowgroup">{shown(above)}</th></tr>'
        _, before, after, ratio, interval, floor, verdict = _cells(change)
        processes = f"{change.processes[0]} · {change.processes[1]}"
        apart = "apart" if change.verdict == "unchanged row" else ""
        yield (
            f'<tr class="{apart}"><th scope="row">{shown(change.metric)}</th>'
            f"{numbers((before, after, ratio, interval, floor, processes))}"
            f"<td>{pill(verdict, _VERDICTS[change.verdict])}<br><small>{shown(change.why)}</small></td></tr>"
        )
