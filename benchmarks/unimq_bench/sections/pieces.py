"""What several sections are made of: pills, table heads, figures with their units, cells of numbers."""

from collections.abc import Callable, Iterable, Iterator

from unimq_bench import notation
from unimq_bench.markup import shown
from unimq_bench.results import Figure, Ratio, Verdict
from unimq_bench.view import View

_VERDICTS: dict[Verdict, str] = {"faster": "good", "no difference": "good", "slower": "half", "cannot tell": ""}


def pill(text: str, kind: str = "") -> str:
    """Return a word that stands out."""
    return f'<span class="pill {kind}">{shown(text)}</span>'


def verdict(ratio: Ratio) -> str:
    """Return a ratio's verdict."""
    return pill(ratio.verdict, _VERDICTS[ratio.verdict])


def swatch(view: View, row: str) -> str:
    """Return a row's colour as a small square, for tables that belong to a chart."""
    return f'<span class="swatch b-{view.colour(row)}"></span>'


def head(*columns: str) -> str:
    """Return a table's head: a name that ends in `#` is a column of numbers."""
    cells = (
        f'<th scope="col" class="n">{shown(name[:-1])}</th>'
        if name.endswith("#")
        else f'<th scope="col">{shown(name)}</th>'
        for name in columns
    )
    return f"<thead><tr>{''.join(cells)}</tr></thead>"


def numbers(cells: Iterable[str]) -> str:
    """Return cells of numbers; they are text, not markup."""
    return "".join(f'<td class="n">{shown(cell)}</td>' for cell in cells)


def table(columns: Iterable[str], body: Iterable[str]) -> Iterator[str]:
    """Yield a table that scrolls by itself on a narrow screen; each of `body` is a row."""
    yield f'<div class="wide">{bare_table(columns, body)}</div>'


def bare_table(columns: Iterable[str], body: Iterable[str]) -> str:
    """Return a table for the inside of something that has a frame."""
    return f"<table>{head(*columns)}<tbody>\n{chr(10).join(body)}\n</tbody></table>"


def folded(title: str, inner: str, *, opened: bool = False) -> str:
    """Return something under a title that can be opened, without JavaScript; `inner` is markup."""
    return f"<details{' open' if opened else ''}><summary>{shown(title)}</summary><div>{inner}</div></details>"


def figure(chart: str, title: str, text: str = "", above: str = "") -> str:
    """Return a chart with its caption."""
    return f"<figure><figcaption><strong>{shown(title)}</strong> {shown(text)}</figcaption>{above}{chart}</figure>"


def writer(unit: str) -> Callable[[float | None], str]:
    """Return how figures of a unit are written."""
    nanoseconds = {"s": 1e9, "ms": 1e6, "µs": 1e3, "ns": 1.0}.get(unit.removesuffix("/msg"))
    if nanoseconds is not None:
        return lambda value: notation.duration(None if value is None else value * nanoseconds)
    if unit == "msg/s":
        return notation.rate
    if unit.startswith("$"):
        return lambda value: notation.money(value) + unit.removeprefix("$")
    return lambda value: f"{notation.number(value)} {unit}".strip()


def per_message(unit: str) -> str:
    """Return what a figure's name lacks if its unit says that it is of one message."""
    return " per message" if unit.endswith("/msg") else ""


def with_interval(each: Figure) -> str:
    """Return a figure and, small, its interval, as markup."""
    write = writer(each.unit)
    told = shown(write(each.value))
    if each.low is None or each.high is None:
        return told
    return f"{told}<br><small>{shown(write(each.low))} … {shown(write(each.high))}</small>"


def ratio_written(ratio: float | None) -> str:
    """Write a ratio as a change in percent, or as a factor where that is easier to grasp."""
    if ratio is None:
        return "–"
    return notation.percent(ratio) if 0.5 <= ratio < 2 else notation.times(ratio)


def factor_tick(ratio: float | None) -> str:
    """Write a ratio at an axis of factors."""
    return "equal" if ratio == 1 else notation.times(ratio)


def ratio_tick(ratio: float | None) -> str:
    """Write a ratio at an axis."""
    return "equal" if ratio == 1 else ratio_written(ratio).replace(".0 %", " %")
