"""The tutorial `docs/writing-an-adapter.md`: what it builds passes what it says, and what it says of sizes is so."""

import ast
import io
import os
import re
import shlex
import subprocess
import sys
import tokenize
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "writing-an-adapter.md").read_text(encoding="utf-8")
SQLITE = ROOT / "examples" / "sqlite-adapter" / "unimq_sqlite"
MOST_LINES = 600
"""The promise: a durable adapter with every feature stays below this many lines of code."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def lines_of_code(source: str) -> int:
    """Count the lines that are neither blank nor comment nor docstring."""
    docstrings = {
        number
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    nothing = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    code = {
        number
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in nothing
        for number in range(token.start[0], token.end[0] + 1)
    }
    return len(code - docstrings)


def run(*command: str | Path, cwd: Path, timeout: float = 60, path: str = "") -> None:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_lines_of_code_leaves_out_what_it_says() -> None:
    assert lines_of_code('"""Doc.\n\nMore."""\n\n# Comment.\nx = 1  # one\ny = """two\nlines"""\n') == 3


def test_the_sizes_in_the_table_are_those_of_the_adapter() -> None:
    told = {name: int(lines) for name, lines in re.findall(r"^\| `(\w+\.py)` \| (\d+) \|", PAGE, re.MULTILINE)}
    counted = {path.name: lines_of_code(path.read_text(encoding="utf-8")) for path in SQLITE.glob("*.py")}
    assert told == counted
    total, schema = sum(counted.values()), len((SQLITE / "schema.sql").read_text(encoding="utf-8").splitlines())
    assert total < MOST_LINES
    assert f"in {total} lines of code" in PAGE
    assert f"a schema of {schema} lines of SQL" in PAGE


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", PAGE)
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_adapter_of_the_page_passes_the_suite(tmp_path: Path) -> None:
    """Its blocks are put together, installed by its own pyproject, found by the entry point, and verified."""
    *parts, own_tests = blocks("python")
    (project,) = blocks("toml")
    source, site = tmp_path / "unimq-shelf", tmp_path / "site"
    source.mkdir()
    (source / "unimq_shelf.py").write_text("\n\n".join(parts), encoding="utf-8")
    (source / "pyproject.toml").write_text(project, encoding="utf-8")
    install = ("-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", site)
    run(sys.executable, *install, source, cwd=tmp_path)
    pytest_alone = ("-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--timeout", "60")
    report = tmp_path / "report.xml"
    (told,) = re.findall(r"^\$ pytest (-p unimq_contract.plugin .*)$", PAGE, re.MULTILINE)
    suite: list[str | Path] = [*shlex.split(told), "--junitxml", report]
    run(sys.executable, *pytest_alone, *suite, cwd=tmp_path, timeout=500, path=str(site))
    (counts,) = ET.parse(report).getroot().iter("testsuite")  # noqa: S314 - written by the line above
    assert (counts.attrib["failures"], counts.attrib["errors"]) == ("0", "0")
    passed = {
        case.attrib["classname"].rpartition(".")[2] for case in counts.iter("testcase") if case.find("skipped") is None
    }
    families = {f"{name}Contract" for name in re.findall(r"`(\w+)Contract`", PAGE)}
    assert len(families) > 5
    assert families <= passed

    (tmp_path / "test_shelf.py").write_text(own_tests, encoding="utf-8")
    own = ("-p", "unimq_contract.plugin", "test_shelf.py")
    run(sys.executable, *pytest_alone, *own, cwd=tmp_path, timeout=100, path=str(site))
