"""The tables of guarantees in documents: made from a small data file, which is made from a report.

    python -m unimq_contract.tables --data docs/contract-results.json [--report REPORT] README.md docs/guarantees.md

With ``--report`` the backends of that report replace those of the same name in the data file. A document has its table
between ``<!-- guarantees:begin brief -->`` (or ``full``) and ``<!-- guarantees:end -->``. The data file holds neither
times nor addresses, so that it changes only when a result, a capability or a version does.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Literal, TypeAlias, cast

import msgspec

import unimq
from unimq_contract.guarantees import FAMILIES, GUARANTEES
from unimq_contract.report import Report, Status, Verified, read

SCHEMA = "unimq-contract-results/1"
_ORDER = ("memory", "rabbitmq", "kafka", "sqs")
_BLOCK = re.compile(r"(<!-- guarantees:begin (\w+) -->\n).*?(<!-- guarantees:end -->)", re.DOTALL)
_LINE = 110

Kind: TypeAlias = Literal["brief", "full"]


class Verdict(msgspec.Struct, frozen=True, array_like=True):
    """What the suite found out about one guarantee."""

    status: Status
    run: int
    """Tests that ran to a verdict."""


class Result(msgspec.Struct, frozen=True):
    """One backend: what it declares and what it was found to hold."""

    product: str
    version: str
    emulator: bool
    capabilities: unimq.Capabilities
    guarantees: dict[str, Verdict]


class Results(msgspec.Struct, frozen=True):
    """The data file."""

    schema: str
    backends: dict[str, Result]


# The data file.


def load(path: Path) -> Results:
    """Return the data file; `ValueError` when it is none, or one that an older unimq wrote."""
    results = msgspec.json.decode(path.read_bytes(), type=Results)
    if results.schema != SCHEMA:
        raise ValueError(f"{path} has schema {results.schema!r}, not {SCHEMA!r}")
    for name, result in results.backends.items():
        if list(result.guarantees) != list(GUARANTEES):
            other = sorted(result.guarantees.keys() ^ GUARANTEES.keys())
            raise ValueError(f"{path} is of another contract: {', '.join(other) or 'the order'} on {name}")
    return results


def merged(old: Results | None, report: Report) -> Results:
    """Return the results with those of a report; only a complete run of the suite counts."""
    if not report.complete:
        raise ValueError("the report is of a part of the suite; a table needs all of it")
    backends = {} if old is None else dict(old.backends)
    found: dict[str, str] = {}
    for backend in report.backends:
        capabilities = backend.capabilities
        if capabilities is None:
            raise ValueError(f"the capabilities of {backend.name} are not known: {backend.unreachable}")
        if (status := backend.total.status) != "holds":
            raise ValueError(f"{backend.name} is {status}: nothing to be proud of in a table")
        if (other := found.setdefault(capabilities.backend, backend.name)) != backend.name:
            raise ValueError(f"{other} and {backend.name} are both {capabilities.backend}, which has one column")
        backends[capabilities.backend] = _result(backend, capabilities)
    rank = {name: number for number, name in enumerate(_ORDER)}
    ordered = sorted(backends, key=lambda name: (rank.get(name, len(rank)), name))
    return Results(SCHEMA, {name: backends[name] for name in ordered})


def _result(backend: Verified, capabilities: unimq.Capabilities) -> Result:
    verdicts = {number: Verdict(tally.status, tally.run) for number, tally in backend.guarantees.items()}
    return Result(backend.product, backend.version, backend.emulator, capabilities, verdicts)


def dump(results: Results) -> str:
    """Return the data file's text: what fits on a line is on one, so that a change is one line."""
    return _laid_out(msgspec.to_builtins(results), 0) + "\n"


def _laid_out(value: object, depth: int) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict) or len(text) + depth < _LINE:
        return text
    entries = cast("dict[str, object]", value)
    inside = ",\n".join(
        f"{' ' * (depth + 1)}{json.dumps(name)}: {_laid_out(entry, depth + 1)}" for name, entry in entries.items()
    )
    return f"{{\n{inside}\n{' ' * depth}}}"


def differences(results: Results, declared: unimq.Capabilities) -> list[str]:
    """Say where the data file no longer says what a backend declares, versions apart.

    `LookupError` if it is of another emulator or another generation of the broker, which may declare other things.
    """
    result = results.backends.get(declared.backend)
    if result is None:
        return [f"there is no column for {declared.backend}"]
    recorded = result.capabilities
    if _kind(recorded) != _kind(declared):
        raise LookupError(f"the data file is of {_kind(recorded)}, not of {_kind(declared)}")
    names = [field.name for field in fields(declared) if field.name not in _VERSIONS]
    pairs = [(name, getattr(recorded, name), getattr(declared, name)) for name in names]
    return [f"{name}: {there} there, {now} now" for name, there, now in pairs if there != now]


def _kind(able: unimq.Capabilities) -> str:
    return f"{able.backend} {able.emulator or able.broker_version.partition('.')[0]}".strip()


# Documents.


def with_table(document: str, results: Results) -> str:
    """Return a document with its table renewed; `ValueError` without a place for one."""
    renewed, count = _BLOCK.subn(lambda found: found[1] + table(results, found[2]) + found[3], document)
    if not count:
        raise ValueError("no <!-- guarantees:begin brief --> … <!-- guarantees:end --> in it")
    return renewed


def table(results: Results, kind: str) -> str:
    """Return the table of this kind as Markdown."""
    match kind:
        case "brief":
            return "\n".join((*_brief(results), ""))
        case "full":
            return "\n".join((*_full(results), ""))
        case _:
            raise ValueError(f"there is no table {kind!r}; there are brief and full")


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _head(results: Results, first: str) -> Iterator[str]:
    yield _row(first, *(_title(result) for result in results.backends.values()))
    yield _row(*["---"] * (len(results.backends) + 1))


def _title(result: Result) -> str:
    named = f"{result.product} {result.version}".strip()
    if result.emulator:
        # The user's column is the service; the emulator is who answered.
        return f"{result.capabilities.backend.upper()} ({named}, an emulator)"
    return named


_MARKS = {unimq.Support.NATIVE: "●", unimq.Support.EMULATED: "◐", unimq.Support.UNSUPPORTED: "–"}
_STATUSES: dict[Status, str] = {
    "holds": "✓",
    "broken": "✗ **broken**",
    "unsupported": "unsupported",
    "unproven": "n/a",
    "untested": "no test",
}


def _brief(results: Results) -> Iterator[str]:
    """Yield families and features by backends, with a numbered note for each limit and reason."""
    notes: dict[tuple[str, str], list[str]] = {}
    yield from _head(results, "")
    tested = _tested(results)
    for letter, family in FAMILIES.items():
        numbers = [number for number in tested if number[0] == letter]
        if numbers:
            verdicts = (_family(result, numbers) for result in results.backends.values())
            yield _row(f"**{family}** {_span(numbers)}", *verdicts)
    for name in _features():
        cells: list[str] = []
        for backend, result in results.backends.items():
            feature: unimq.Feature = getattr(result.capabilities, name)
            mark = _MARKS[feature.support]
            if feature.support is not unimq.Support.NATIVE:
                noted = notes.setdefault((backend, _explained(feature)), [])
                noted.append(name)
                mark += f"<sup>{list(notes).index((backend, _explained(feature))) + 1}</sup>"
            cells.append(mark)
        yield _row(f"`{name}`", *cells)
    yield ""
    yield "✓ every test of these guarantees passes; n/a: there is nothing to test there · ● native ·"
    yield "◐ emulated by unimq · – unsupported: asking for it raises `Unsupported` before any I/O."
    if untested := [number for number in GUARANTEES if number not in tested]:
        yield f"No test yet: {', '.join(untested)}."
    yield ""
    yield "<details><summary>Limits, reasons, and what to use instead</summary>"
    yield ""
    for number, ((backend, text), names) in enumerate(notes.items(), 1):
        shown = ", ".join(f"`{name}`" for name in names)
        yield f"{number}. {_title_of(results, backend)}, {shown}: {text}"
    yield ""
    yield "</details>"


def _title_of(results: Results, backend: str) -> str:
    result = results.backends[backend]
    return result.capabilities.backend.upper() if result.emulator else result.product


def _explained(feature: unimq.Feature) -> str:
    return feature.note + (f". Instead: {feature.alternative}" if feature.alternative else "")


def _tested(results: Results) -> list[str]:
    found = [result.guarantees for result in results.backends.values()]
    return [number for number in GUARANTEES if any(verdicts[number].status != "untested" for verdicts in found)]


def _family(result: Result, numbers: Sequence[str]) -> str:
    broken = [number for number in numbers if result.guarantees[number].status == "broken"]
    if broken:
        return f"✗ **{' '.join(broken)}**"
    apart = [(number, found) for number in numbers if (found := result.guarantees[number]).status != "holds"]
    others = [f"{number} {_STATUSES[found.status]}" for number, found in apart]
    if len(others) == len(numbers):
        return ", ".join(others)
    return f"✓ ({', '.join(others)})" if others else "✓"


def _span(numbers: Sequence[str]) -> str:
    """Return ``S1–S7``, or what there is if not all of that is."""
    in_between = [f"{numbers[0][0]}{count}" for count in range(int(numbers[0][1:]), int(numbers[-1][1:]) + 1)]
    return f"{numbers[0]}–{numbers[-1]}" if len(numbers) > 2 and in_between == list(numbers) else ", ".join(numbers)


def _features() -> list[str]:
    return [field.name for field in fields(unimq.Capabilities) if field.type is unimq.Feature]


def _full(results: Results) -> Iterator[str]:
    """Yield every guarantee by backends, then every capability of each backend."""
    yield "✓ 12: twelve tests of it ran, and passed · unsupported: it is about a feature that is unsupported there ·"
    yield "n/a: its tests have nothing to test there · no test: nothing proves it yet."
    yield ""
    yield from _head(results, "")
    for number in GUARANTEES:
        verdicts = (result.guarantees[number] for result in results.backends.values())
        yield _row(number, *(f"{_STATUSES[found.status]}{f' {found.run}' if found.run else ''}" for found in verdicts))
    for result in results.backends.values():
        yield ""
        yield f"### {_title(result)}"
        yield ""
        yield _row("feature", "support", "limits or reason", "instead")
        yield _row(*["---"] * 4)
        for name, feature in result.capabilities.features():
            yield _row(f"`{name}`", feature.support.value, feature.note, feature.alternative)
        yield ""
        limits = (field.name for field in fields(unimq.Capabilities) if field.name not in {*_features(), *_VERSIONS})
        for name in limits:
            yield f"- `{name}`: {_figure(getattr(result.capabilities, name))}"


_VERSIONS = {"backend", "broker_version", "client_version", "emulator"}


def _figure(value: object) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _old(path: Path) -> Results | None:
    try:
        return load(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        sys.stderr.write(f"{error}: only what the report has is kept\n")
        return None


def main() -> None:
    """Renew the data file, if a report is given, and the documents."""
    parser = argparse.ArgumentParser(prog="python -m unimq_contract.tables", description="Renew tables of guarantees.")
    parser.add_argument("--data", type=Path, required=True, help="the data file")
    parser.add_argument("--report", type=Path, help="report of a complete run, by --unimq-report")
    parser.add_argument("documents", type=Path, nargs="*", help="documents with the markers in them")
    given = parser.parse_args()
    try:
        if given.report is not None:
            results = merged(_old(given.data), read(given.report))
            given.data.write_text(dump(results), encoding="utf-8")
        results = load(given.data)
        for document in given.documents:
            document.write_text(with_table(document.read_text(encoding="utf-8"), results), encoding="utf-8")
    except (OSError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
