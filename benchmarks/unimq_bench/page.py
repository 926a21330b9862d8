"""A result as one HTML page that needs nothing else: no request to anywhere, no JavaScript, light and dark.

The data is in it as JSON, so that the page alone is enough to check or to compare: `data_of` gets it out again.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from unimq_bench import charts, notation
from unimq_bench.markup import embedded, shown
from unimq_bench.results import Result, ResultError, decoded, encoded
from unimq_bench.sections import claims, costs, counts, environment, latency, summary, throughput, timelines
from unimq_bench.view import View, view_of

_POLICY = """<meta http-equiv="Content-Security-Policy" \
content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">"""
_DATA = '<script type="application/json" id="result">'
_SECTIONS: tuple[Callable[[View], Iterator[str]], ...] = (
    throughput.overhead,
    throughput.throughput,
    claims.claims,
    latency.latency,
    timelines.timelines,
    counts.accounting,
    counts.resources,
    costs.costs,
    counts.invalid,
    environment.rows,
    environment.environment,
)


def page(result: Result) -> str:
    """Return the page.

    Raises:
        ResultError: a histogram of the result cannot be decoded.

    """
    view = view_of(result)
    sections = [line for section in _SECTIONS for line in section(view)]
    title = f"unimq bench: {', '.join(view.workloads) or 'nothing measured'}"
    inner = (*_head(view), *summary.notices(view), *summary.cards(view), _contents(sections), "</header>", *sections)
    return document(title, inner, data=_DATA + embedded(encoded(result)) + "</script>")


def document(title: str, inner: Iterable[str], *, data: str = "") -> str:
    """Return a whole page in the house's style around what is in it."""
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            # The page keeps its own promise: a browser that reads this asks nobody for anything.
            _POLICY,
            '<link rel="icon" href="data:,">',
            f"<title>{shown(title)}</title>",
            f"<style>\n{Path(__file__).with_name('page.css').read_text(encoding='utf-8')}</style>",
            "</head>",
            "<body>",
            charts.hatching(),
            *inner,
            *([data] if data else []),
            "</body>",
            "</html>",
            "",
        )
    )


def data_of(text: str) -> Result:
    """Return the result that a page was made from.

    Raises:
        ResultError: there is none in it.

    """
    _, found, rest = text.partition(_DATA)
    if not found:
        raise ResultError("the page holds no result of unimq bench")
    return decoded(rest.partition("</script>")[0].encode(), named="the page's data")


def _head(view: View) -> Iterator[str]:
    result = view.result
    machine = result.environment
    told = [
        result.started_at[:16].replace("T", " ") + (" UTC" if result.started_at else ""),
        f"profile {result.profile}" if result.profile else "",
        f"{notation.number(result.seconds)} s" if result.seconds else "",
        f"{len(result.runs)} runs" if result.runs else "",
        f"unimq {result.unimq}" if result.unimq else "",
        machine.cpu,
        f"{machine.cores} cores" if machine.cores else "",
        f"Python {machine.python}" if machine.python else "",
    ]
    yield "<header><h1>unimq bench</h1>"
    yield f'<p class="soft">{shown(" · ".join(each for each in told if each))}</p>'


def _contents(sections: Iterable[str]) -> str:
    found = [(each.partition('id="')[2], each) for each in sections if '<h2 id="' in each]
    links = (
        f'<a href="#{rest.partition(chr(34))[0]}">{rest.partition(">")[2].partition("<")[0]}</a>' for rest, _ in found
    )
    return f"<nav>{''.join(links)}</nav>"
