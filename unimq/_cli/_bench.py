"""The benchmark: it runs in this process and those it starts, and is told as tables, JSON or an HTML page.

Like an adapter, `unimq_bench` is found by name; what it found is plain data to this module.
"""

import importlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from unimq._cli._output import UsageError, fail, write_line, write_table
from unimq._errors import MissingDependency


def bench(
    names: Sequence[str],
    *,
    on: Sequence[str],
    rows: Sequence[str],
    profile: str,
    settings: Sequence[str],
    seed: int | None,
    foreign: float | None,
    out: Path | None,
    html: Path | None,
    json: bool,
) -> int:
    """Measure; return 0, 1 if a row lost, changed or invented messages or failed, or 130 after Ctrl-C."""
    benches, workloads, results = module("bench"), module("workloads"), module("results")
    catalogue, targets, recording = module("rows.catalogue"), module("targets"), module("recording")
    reporting, environments = module("reporting"), module("rows.environments")
    # Told now, not after minutes of measuring.
    _must_be_writable(html)
    page = module("page") if html is not None else None
    wanted = [each for text in on for each in text.split(",") if each]
    if not wanted:
        url = os.environ.get("UNIMQ_URL")
        wanted = [url] if url else list(benches.EVERYWHERE)
    try:
        request = benches.Request(
            workloads=tuple(names),
            on=tuple(dict.fromkeys(wanted)),
            rows=tuple(dict.fromkeys(each for text in rows for each in text.split(",") if each)),
            profile=profile,
            settings=workloads.settings_of(tuple(settings)),
            seed=seed,
            out=out,
            **({} if foreign is None else {"foreign_cores": foreign}),
        )
        with reporting.reporter() as reporter:
            result = benches.run(request, reporter)
    except (workloads.BadWorkload, targets.BadBench, catalogue.UnknownRow) as error:
        raise UsageError(str(error)) from error
    except recording.NoHistograms as error:
        raise MissingDependency(str(error)) from error
    except (results.ResultError, environments.NoEnvironment) as error:
        return fail(str(error))
    if page is not None and html is not None:
        html.write_text(page.page(result), encoding="utf-8")
    if json:
        write_line(results.encoded(result))
    else:
        for line in reporting.summary(result):
            write_line(line.encode())
        if result.ratios:
            write_table(reporting.COLUMNS_OF_RATIOS, reporting.ratio_rows(result))
        write_table(reporting.COLUMNS_OF_FIGURES, reporting.figure_rows(result))
        for number, reason in enumerate(reporting.reasons(result), 1):
            write_line(f"{number}  {reason}".encode())
    if any(note.startswith("interrupted") for note in result.notes):
        return 128 + signal.SIGINT
    broken = [(run.row, run.workload, reason) for run in result.runs for reason in run.invalid if _is_grave(reason)]
    for row, workload, reason in broken:
        fail(f"{row}, {workload}: {reason}")
    return 1 if broken else 0


def compare(before: Path, after: Path, *, html: Path | None, fail_if_worse: bool) -> int:
    """Print what changed; return 0, or 1 if `fail_if_worse` and a ratio got worse or a row began to lose messages."""
    results, comparing, changes = module("results"), module("compare"), module("sections.changes")
    _must_be_writable(html)
    try:
        comparison = comparing.compare(comparing.read(before), comparing.read(after))
    except comparing.Incomparable as error:
        raise UsageError(str(error)) from error
    except results.ResultError as error:
        return fail(str(error))
    if html is not None:
        html.write_text(changes.page(comparison), encoding="utf-8")
    write_line(changes.text(comparison).rstrip().encode())
    return 1 if fail_if_worse and (comparison.loses or comparison.worse_ratios) else 0


def page(result: Path, html: Path) -> int:
    """Write the page of a result file."""
    results, pages, comparing = module("results"), module("page"), module("compare")
    _must_be_writable(html)
    try:
        html.write_text(pages.page(comparing.read(result)), encoding="utf-8")
    except results.ResultError as error:
        return fail(str(error))
    return 0


def plan(*, rate: float, size: int, backend: str, result: Path | None, prices: Path | None, row: str) -> int:
    """Tell what a rate takes."""
    results, planning, pricing = module("results"), module("planning"), module("prices")
    try:
        found = results.read(result) if result is not None else planning.reference()
        paid = pricing.read_prices(prices)
        planned = planning.plan(found, paid, backend=backend, rate=rate, size=size, row=row)
    except (planning.BadPlan, pricing.BadPrices) as error:
        raise UsageError(str(error)) from error
    except results.ResultError as error:
        return fail(str(error))
    for line in planning.told(planned, planning.checks(found, backend, row)):
        write_line(line.encode())
    return 0


def _must_be_writable(html: Path | None) -> None:
    if html is not None and (html.is_dir() or not html.parent.is_dir() or not os.access(html.parent, os.W_OK)):
        raise UsageError(f"--html: {html} cannot be written")


def list_workloads() -> int:
    """Print what can be measured."""
    workloads = module("workloads")
    found = [workloads.load(name) for name in workloads.names()]
    write_table(("workload", "what"), [(each.name, each.title) for each in found])
    return 0


def _is_grave(reason: str) -> bool:
    """Whether a row is at fault, and not the machine on which it was measured."""
    words = ("lost", "corrupted", "nobody sent", "duplicates without", "the row", "dead-lettered", "proves nothing")
    return any(word in reason for word in words)


def module(name: str) -> ModuleType:
    """Return a module of `unimq_bench`, which is found by name."""
    try:
        return importlib.import_module(f"unimq_bench.{name}")
    except ModuleNotFoundError as error:
        if error.name != "unimq_bench":
            raise
        raise MissingDependency("unimq_bench is not installed; it is part of the distribution unimq") from None
