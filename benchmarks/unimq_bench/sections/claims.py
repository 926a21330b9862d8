"""The table that is often copied: claimed, measured here and published, each with its own set-up."""

from collections.abc import Iterator

from unimq_bench import articles
from unimq_bench.markup import shown
from unimq_bench.sections.pieces import pill, swatch, table, writer
from unimq_bench.view import View, invalidity


def claims(view: View) -> Iterator[str]:
    """Yield the table, if the workload of that name was run."""
    if articles.WORKLOAD not in view.workloads:
        return
    yield '<section><h2 id="claims">The table that is often copied</h2>'
    yield (
        "<p>Claims, figures of this machine and published records stand beside each other with the set-up of each. None"
        " of them stands for another: this is one machine, the claims are of clusters.</p>"
    )
    columns = ("Backend", "Claimed", "What is right about it", "Here", "Published")
    yield from table(columns, (_row(view, line) for line in articles.table(view.result)))
    yield "</section>"


def _row(view: View, line: articles.Line) -> str:
    claim = line.claim
    here = "<br>".join(_here(view, each) for each in line.here) or "–"
    published = "<br>".join(
        f"{shown(record.figure)} <small>{shown(record.setup)}; {shown(record.source)}</small>"
        for record in line.records
    )
    return (
        f'<tr><th scope="row">{shown(claim.backend)}</th>'
        f"<td>{shown(claim.claimed)}<br><small>{shown(claim.claimed_setup)}</small></td>"
        f'<td class="remark">{shown(claim.verdict)}</td><td class="remark">{here}</td>'
        f'<td class="remark">{published or "–"}</td></tr>'
    )


def _here(view: View, each: articles.Here) -> str:
    reason = invalidity(view.runs(each.row, articles.WORKLOAD, each.figure.point))
    told = reason or writer(each.figure.unit)(each.figure.value)
    emulated = " " + pill(f"emulated by {each.emulated}: not ranked", "half") if each.emulated else ""
    small = f"<small>{shown(each.durability)}; {shown(each.setup)}</small>"
    return f"{swatch(view, each.row)}{shown(told)}{emulated} {small}"
