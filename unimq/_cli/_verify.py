"""The contract suite: run by pytest in this process, told as tables, JSON or an HTML page.

Like an adapter, `unimq_contract` is found by name; what it found out is plain data to this module.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimq._cli._output import UsageError, fail, write_line, write_renderable
from unimq._cli._tap import plug_in
from unimq._errors import MissingDependency

if TYPE_CHECKING:
    from rich.text import Text

_WORDS = {
    "holds": ("holds", "green"),
    "broken": ("BROKEN", "bold red"),
    "unsupported": ("unsupported", "yellow"),
    "unproven": ("not proven", "yellow"),
    "untested": ("no test", "dim"),
}
"""How a status is told, and in which style."""


def verify(urls: Sequence[str], arguments: Sequence[str], *, json: bool, html: Path | None) -> int:
    """Run the suite; return 0 if every guarantee that was tested holds, 1 if not, else what pytest returned."""
    try:
        import pytest
    except ModuleNotFoundError:
        raise MissingDependency(
            "the contract suite needs pytest, which is not installed: pip install 'unimq[cli,test]'"
        ) from None
    reports, pages = plug_in("unimq_contract.report"), plug_in("unimq_contract.page")
    if html is not None and (html.is_dir() or not html.parent.is_dir()):
        # Told now, not after minutes of testing.
        raise UsageError(f"--html: {html} cannot be written")
    with tempfile.TemporaryDirectory(prefix="unimq-verify-") as folder:
        file = Path(folder) / "report.json"
        # In this process, so that the passwords in the URLs are on no further command line. No cache: the suite's
        # folder may not be writable.
        options = ["-p", "unimq_contract.plugin", "-p", "no:cacheprovider", "--pyargs", "unimq_contract"]
        options += [f"--unimq-url={url}" for url in urls]
        options += ["--unimq-no-summary", f"--unimq-report={file}"]
        with _standard_output_is_error_output() if json else contextlib.nullcontext():
            code = int(pytest.main([*options, *arguments]))
        report = reports.read(file) if file.exists() else None
        if report is None or not any(backend.tests for backend in report.backends):
            return code
    if html is not None:
        html.write_text(pages.page(report), encoding="utf-8")
    if json:
        write_line(reports.encoded(report))
    else:
        _tell(report)
    if code in {0, 1} and all(not backend.total.run for backend in report.backends):
        # Skipped from the first to the last: pytest may be content, the contract is not.
        return fail("nothing was proven")
    if code == 0 and any(backend.total.status != "holds" for backend in report.backends):
        return fail("broken")
    return code


@contextlib.contextmanager
def _standard_output_is_error_output() -> Generator[None]:
    """Keep standard output for the document: what anybody else prints, child processes too, goes elsewhere."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _tell(report: Any) -> None:
    """Print a table with a row for each guarantee and a column for each backend, and below it what failed."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    table.add_column("guarantee", overflow="fold", min_width=20)
    for backend in report.backends:
        table.add_column(backend.name, overflow="fold")
    for letter, family in report.families.items():
        numbers = [number for number in report.guarantees if number[0] == letter]
        counts = [backend.families.get(letter) for backend in report.backends]
        table.add_row("", _styled(family, "bold"), *("" if count is None else f"{count.run} run" for count in counts))
        for number in numbers:
            verdicts = (_verdict(backend.guarantees[number]) for backend in report.backends)
            table.add_row(number, report.guarantees[number], *verdicts)
        table.add_section()
    write_renderable(table)
    if not report.complete:
        write_line(b"not the whole suite: some tests did not run")
    for backend in report.backends:
        for test in backend.tests:
            if test.outcome == "failed":
                reason = test.reason.partition("\n")[0]
                write_line(f"BROKEN on {backend.name}: {' '.join(test.guarantees)}: {test.id}: {reason}".encode())
    for backend in report.backends:
        statuses = [tally.status for tally in backend.guarantees.values()]
        words = ((statuses.count(name), "hold" if name == "holds" else word) for name, (word, _) in _WORDS.items())
        found = ", ".join(f"{number} {word}" for number, word in words if number)
        total = backend.total
        apart = total.unsupported + total.skipped
        write_line(
            f"{backend.described}: {found}; {total.passed} tests passed, {total.failed} failed, {apart} did not apply,"
            f" in {total.duration:.0f} s".encode()
        )


def _verdict(tally: Any) -> "Text":
    word, style = _WORDS[tally.status]
    count = f" {tally.failed} of {tally.run}" if tally.failed else f" {tally.run}" if tally.run else ""
    return _styled(word + count, style)


def _styled(text: str, style: str) -> "Text":
    from rich.text import Text

    return Text(text, style)
