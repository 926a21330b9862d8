"""What the result says, first: a card for each backend, and what a reader must know before believing any of it."""

from collections.abc import Iterator

from unimq_bench import notation
from unimq_bench.markup import shown
from unimq_bench.results import Ratio, Row
from unimq_bench.sections.pieces import pill, ratio_written, verdict, writer
from unimq_bench.view import View, valid


def headline(ratio: Ratio, view: View) -> str:
    """Return a ratio in words: what it is of, and against which row."""
    return f"{ratio.metric} per message, against {view.label(ratio.b)}"


def notices(view: View) -> Iterator[str]:
    """Yield what limits the whole result."""
    result = view.result
    if result.partial:
        yield (
            '<p class="notice"><strong>Not the whole benchmark:</strong> it was interrupted, or a broker died. What is'
            " here was measured and judged as always; the rest is missing.</p>"
        )
    lost = sum(run.accounting.lost for run in result.runs)
    if lost:
        yield (
            f'<p class="notice bad"><strong>{shown(notation.count(lost))} messages were lost</strong> after the client'
            " had said that they are stored. See the accounting before any speed.</p>"
        )
    broken = [run for run in result.runs if run.invalid]
    if broken:
        yield (
            f'<p class="notice"><strong>{len(broken)} of {len(result.runs)} runs are invalid</strong> and count in no'
            ' figure. <a href="#invalid">Their reasons</a> are below.</p>'
        )
    for note in result.notes:
        yield f'<p class="soft">{shown(note)}</p>'


def cards(view: View) -> Iterator[str]:
    """Yield a card for each backend."""
    if not view.backends:
        return
    yield '<div class="cards">'
    for backend in view.backends:
        rows = [row for row in view.result.rows if row.backend == backend]
        yield from _card(view, backend, rows)
    yield "</div>"


def _card(view: View, backend: str, rows: list[Row]) -> Iterator[str]:
    names = {row.name for row in rows}
    main = next((row for row in rows if row.kind == "unimq"), rows[0])
    runs = [run for run in view.result.runs if run.row in names]
    ratios = [ratio for ratio in view.result.ratios if ratio.a in names]
    ratios.sort(key=lambda ratio: (ratio.a != main.name, view.row(ratio.b).kind != "raw"))
    lost = any(run.accounting.lost for run in runs)
    kind = "lost" if lost else "unranked" if main.emulated else ""
    yield f'<section class="card {kind}"><h3>{shown(backend)}</h3>'
    about = [f"emulated by {main.emulated}: not ranked"] if main.emulated else []
    about += [f"in one process ({main.durability})" if main.in_process else main.durability]
    yield f"<small>{shown(' · '.join(each for each in about if each))}</small>"
    yield from _largest(view, main, ratios)
    yield "<ul>"
    for ratio in ratios[1:5]:
        whose = "" if ratio.a == main.name else f"{view.label(ratio.a)}: "
        told = f"{whose}{ratio_written(ratio.median)} {headline(ratio, view)}"
        yield f"<li>{shown(told)} {verdict(ratio)}</li>"
    yield f"<li>{_accounting(view, rows)}</li>"
    if runs:
        yield f"<li>{len(valid(runs))} of {len(runs)} runs valid</li>"
    yield "</ul></section>"


def _largest(view: View, main: Row, ratios: list[Ratio]) -> Iterator[str]:
    """Yield the one figure that says most: the overhead, else the throughput, else whatever there is of this row."""
    if ratios:
        first = ratios[0]
        yield f'<p class="figure">{shown(ratio_written(first.median))} {verdict(first)}</p>'
        interval = f"95 %: {ratio_written(first.low)} … {ratio_written(first.high)}"
        whose = view.label(first.a)
        yield f"<p>{shown(whose)}: {shown(headline(first, view))}<br><small>{shown(interval)}</small></p>"
        return
    figures = [figure for figure in view.result.figures if figure.row == main.name]
    figures.sort(key=lambda figure: (not figure.ranked, not figure.metric.endswith(("rate", "throughput"))))
    if not figures:
        yield '<p class="figure">–</p><p>no valid figure</p>'
        return
    first_figure = figures[0]
    yield f'<p class="figure">{shown(writer(first_figure.unit)(first_figure.value))}</p>'
    yield f"<p>{shown(view.label(main.name))}: {shown(first_figure.metric)} in {shown(first_figure.workload)}</p>"


def _accounting(view: View, rows: list[Row]) -> str:
    """Return what became of the messages of all rows, those of a loser by name."""
    names = {row.name for row in rows}
    counts = [run.accounting for run in view.result.runs if run.row in names]
    acked, lost = sum(each.acked for each in counts), sum(each.lost for each in counts)
    told = f"{notation.count(acked)} messages acknowledged, "
    if not lost:
        return shown(told) + pill("none lost", "good") if acked else "no message was acknowledged"
    losers = [
        view.label(name) for name in names if any(run.accounting.lost for run in view.result.runs if run.row == name)
    ]
    return shown(told) + pill(f"{notation.count(lost)} lost", "bad") + shown(f" by {', '.join(sorted(losers))}")
