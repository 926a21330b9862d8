"""What a million messages cost, from what was counted: requests for a service, CPU for brokers of one's own."""

from collections.abc import Iterator

from unimq_bench import charts, notation
from unimq_bench.markup import shown
from unimq_bench.results import Figure
from unimq_bench.sections.pieces import figure, swatch, table, writer
from unimq_bench.view import View, point_label

WORKLOAD = "cost"
_MONEY = "$"


def costs(view: View) -> Iterator[str]:
    """Yield the figures of the workload `cost`, which the prices' date belongs to."""
    found = [each for each in view.result.figures if each.workload == WORKLOAD]
    if not found:
        return
    yield '<section><h2 id="cost">What a million messages cost</h2>'
    yield (
        "<p>Requests were counted and multiplied by a price with a date; brokers of one's own are paid by the machine,"
        " of which a message takes the CPU that was counted. The two are not alike: a service bills requests and"
        " nothing else, a machine is paid whether it works or not.</p>"
    )
    priced = [each for each in found if each.unit.startswith(_MONEY)]
    if priced:
        bars = [
            charts.Bar(
                label=f"{view.label(each.row)}, {each.point.get('of', '')}",
                colour=view.colour(each.row),
                value=each.value,
                group=view.heading(view.row(each.row).backend),
                hatched=not each.ranked,
            )
            for each in sorted(priced, key=lambda each: view.backends.index(view.row(each.row).backend))
        ]
        chart = charts.bars(bars, notation.money, about="Cost of a million messages")
        yield figure(chart, "Dollars for a million messages.", "Less is better.")
    yield from table(("Row", "In", "Figure", "Value#", "Remark"), (_row(view, each) for each in found))
    yield "</section>"


def _row(view: View, each: Figure) -> str:
    remark = "; ".join(told for told in (each.spread, each.why_unranked) if told)
    point = {name: value for name, value in each.point.items() if name != "of"}
    where = ", ".join(told for told in (str(each.point.get("of", "")), point_label(point)) if told)
    return (
        f'<tr class="{"" if each.ranked else "apart"}"><th scope="row">{swatch(view, each.row)}{shown(each.row)}</th>'
        f"<td>{shown(where)}</td><td>{shown(each.metric)}</td>"
        f'<td class="n">{shown(writer(each.unit)(each.value))}</td><td class="remark">{shown(remark)}</td></tr>'
    )
