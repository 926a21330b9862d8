"""A report as one HTML page that needs nothing else: no request to anywhere, no JavaScript, light and dark."""

from collections.abc import Iterator
from dataclasses import fields
from html import escape
from pathlib import Path

import unimq
from unimq_contract.report import Report, Status, Tally, Test, Verified

_WORDS: dict[Status, str] = {
    "holds": "✓ holds",
    "broken": "✗ BROKEN",
    "unsupported": "unsupported",
    "unproven": "not proven",
    "untested": "no test",
}
_POLICY = """<meta http-equiv="Content-Security-Policy" \
content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">"""
_LEGEND: tuple[tuple[Status, str], ...] = (
    ("holds", "every test that ran passed; the figure is their number"),
    ("broken", "at least one test failed"),
    ("unsupported", "it is about a feature that is declared unsupported and refused before any I/O"),
    ("unproven", "its tests have nothing to test on this backend"),
    ("untested", "no test ran for it"),
)


def page(report: Report) -> str:
    """Return the page."""
    title = "unimq contract: " + ", ".join(backend.name for backend in report.backends)
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
            f"<title>{escape(title)}</title>",
            f"<style>\n{Path(__file__).with_name('page.css').read_text(encoding='utf-8')}</style>",
            "</head>",
            "<body>",
            *_head(report),
            *_failures(report),
            *_matrix(report),
            *_capabilities(report),
            *_tests(report),
            *_environment(report),
            "</body>",
            "</html>",
            "",
        )
    )


def _head(report: Report) -> Iterator[str]:
    yield "<header><h1>The contract of unimq</h1>"
    yield f'<p class="soft">{escape(report.created)}, {report.duration:.0f} s. What each backend was found to hold.</p>'
    if not report.complete:
        yield "<p><strong>Not the whole suite:</strong> some of its tests did not run.</p>"
    for missing in report.missing:
        yield f"<p><strong>Not tested: {escape(missing.what)}.</strong> {escape(missing.why)}</p>"
    yield '<div class="cards">'
    for backend in report.backends:
        statuses = [tally.status for tally in backend.guarantees.values()]
        status = backend.total.status
        yield f'<section class="card {status if status in {"broken", "untested"} else ""}">'
        yield f"<h3>{escape(backend.name)}</h3><small>{escape(_product(backend))}</small>"
        figure = f"{statuses.count('holds')} hold"
        if broken := statuses.count("broken"):
            figure = f"{broken} broken, {figure}"
        yield f'<p class="figure">{figure}</p>'
        others = ((statuses.count(name), _WORDS[name]) for name in ("unsupported", "unproven", "untested"))
        yield f"<small>{escape(', '.join(f'{number} {word}' for number, word in others if number))}<br>"
        total = backend.total
        yield (
            f"{total.passed} tests passed, {total.failed} failed,"
            f" {total.unsupported + total.skipped} did not apply, {total.duration:.0f} s</small>"
        )
        if backend.unreachable:
            yield f"<pre>{escape(backend.unreachable)}</pre>"
        yield "</section>"
    yield "</div></header>"


def _product(backend: Verified) -> str:
    return f"{backend.product} {backend.version}".strip() + f" · {backend.label}"


def _failures(report: Report) -> Iterator[str]:
    failed = [(backend, test) for backend in report.backends for test in backend.tests if test.outcome == "failed"]
    if not failed:
        return
    yield '<section><h2 id="failures">What failed</h2>'
    for backend, test in failed:
        yield f"<details open><summary>{_pill('failed', ' '.join(test.guarantees))} "
        yield f"<code>{escape(test.id)}</code> <small>on {escape(backend.name)}</small></summary>"
        yield f"<div><pre>{escape(test.reason)}</pre></div></details>"
    yield "</section>"


def _matrix(report: Report) -> Iterator[str]:
    yield "<section><h2>Guarantees</h2>"
    legend = (f"{_pill(status, _WORDS[status])} {escape(text)}" for status, text in _LEGEND)
    yield f'<p class="soft legend">{" · ".join(legend)}</p>'
    yield '<div class="wide"><table class="matrix"><thead><tr><th scope="col">No.</th>'
    yield '<th scope="col" class="text">Guarantee</th>'
    yield from _columns(report)
    yield "</tr></thead>"
    for letter, family in report.families.items():
        yield f'<tbody><tr class="family"><th colspan="{len(report.backends) + 2}" scope="rowgroup">'
        yield f"{escape(family)}</th></tr>"
        for number in _of_family(report, letter):
            tallies = [backend.guarantees[number] for backend in report.backends]
            tested = any(tally.status != "untested" for tally in tallies)
            shown = f'<a href="#tests-{number}">{number}</a>' if tested else number
            yield f'<tr><th scope="row">{shown}</th><td class="text">{escape(report.guarantees[number])}</td>'
            yield from (f"<td>{_verdict(tally)}</td>" for tally in tallies)
            yield "</tr>"
        yield "</tbody>"
    yield "</table></div></section>"


def _columns(report: Report) -> Iterator[str]:
    for backend in report.backends:
        yield f'<th scope="col">{escape(backend.name)}<br><small>{escape(backend.label)}</small></th>'


def _of_family(report: Report, letter: str) -> list[str]:
    return [number for number in report.guarantees if number[0] == letter]


def _verdict(tally: Tally) -> str:
    pill = _pill(tally.status, _WORDS[tally.status])
    if not tally.run:
        return pill
    count = f"{tally.failed} of {tally.run}" if tally.failed else str(tally.run)
    return f"{pill} <small>{count}</small>"


def _pill(kind: str, text: str) -> str:
    return f'<span class="pill {kind}">{escape(text)}</span>'


def _capabilities(report: Report) -> Iterator[str]:
    known = [(backend, able) for backend in report.backends if (able := backend.capabilities) is not None]
    if not known:
        return
    yield "<section><h2>Capabilities</h2>"
    yield "<p>What each backend declares. What is unsupported raises <code>Unsupported</code> before any I/O.</p>"
    yield '<div class="wide"><table><thead><tr><th scope="col">Feature</th>'
    yield from _columns(report)
    yield "</tr></thead><tbody>"
    for field in fields(unimq.Capabilities):
        yield f'<tr><th scope="row"><code>{field.name}</code></th>'
        for backend in report.backends:
            value = getattr(backend.capabilities, field.name, None)
            yield f"<td>{_feature(value) if isinstance(value, unimq.Feature) else escape(_figure(value))}</td>"
        yield "</tr>"
    yield "</tbody></table></div></section>"


def _feature(feature: unimq.Feature) -> str:
    notes = [feature.note] if feature.note else []
    if feature.alternative:
        notes.append(f"Instead: {feature.alternative}")
    return _pill(feature.support.value, feature.support.value) + "".join(
        f'<span class="note">{escape(note)}</span>' for note in notes
    )


def _figure(value: object) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _tests(report: Report) -> Iterator[str]:
    yield "<section><h2>Tests</h2>"
    for number, text in report.guarantees.items():
        by_id: dict[str, dict[str, Test]] = {}
        for backend in report.backends:
            for test in backend.tests:
                if number in test.guarantees:
                    by_id.setdefault(test.id, {})[backend.name] = test
        if not by_id:
            continue
        yield f"<details><summary><strong>{number}</strong> {escape(text)} "
        yield f"<small>{len(by_id)} tests</small></summary>"
        # Inside, so that a browser opens the details when a link leads here.
        yield f'<div id="tests-{number}"><table><thead><tr><th scope="col">Test</th>'
        yield from _columns(report)
        yield "</tr></thead><tbody>"
        for name, tests in by_id.items():
            yield f'<tr><th scope="row"><code>{escape(name)}</code></th>'
            yield from (f"<td>{_outcome(tests.get(backend.name))}</td>" for backend in report.backends)
            yield "</tr>"
        yield "</tbody></table></div></details>"
    yield "</section>"


def _outcome(test: Test | None) -> str:
    if test is None:
        return "–"
    if test.outcome in {"passed", "failed"}:
        return f"{_pill(test.outcome, test.outcome)} <small>{test.duration:.2f} s</small>"
    return f'{_pill(test.outcome, test.outcome)}<span class="note">{escape(test.reason)}</span>'


def _environment(report: Report) -> Iterator[str]:
    yield "<footer><h2>Environment</h2><dl>"
    shown = [*report.environment.items(), *((backend.name, backend.described) for backend in report.backends)]
    for name, value in shown:
        yield f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
    yield f'</dl><p class="soft">{escape(report.schema)}</p></footer>'
