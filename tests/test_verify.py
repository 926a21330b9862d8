"""`unimq verify` as a user runs it, and what docs/verify.md says about it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from unimq_contract import report
from unimq_contract.guarantees import GUARANTEES

UNIMQ = Path(sys.executable).with_name("unimq")
PAGE = (Path(__file__).parent.parent / "docs" / "verify.md").read_text(encoding="utf-8")
SCRIPTS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
BROKEN = '''
"""A program's own classes of the suite, and what happens to them."""
import pytest

class Breaking:
    def pytest_runtest_call(self, item):
        if "test_a_full_queue_refuses" in item.nodeid and "two" in item.nodeid:
            raise AssertionError("it took one more")
        if "test_purge" in item.nodeid:
            pytest.skip("nothing to purge")

def pytest_configure(config):
    config.pluginmanager.register(Breaking())
'''


def verify(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UNIMQ_")}
    return subprocess.run(
        [str(UNIMQ), "verify", *arguments],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=100,
        env={**kept, "PYTHONPATH": str(folder), "NO_COLOR": "1"},
    )


def test_json_is_all_that_standard_output_gets(tmp_path: Path) -> None:
    done = verify(tmp_path, "memory://one", "memory://two", "--json", "--", "-k", "CapabilitiesContract")
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stderr
    (line,) = done.stdout.splitlines()
    document: Any = json.loads(line)
    assert document["schema"] == report.SCHEMA
    assert document["complete"] is False
    assert [backend["name"] for backend in document["backends"]] == ["memory://one", "memory://two"]
    for backend in document["backends"]:
        assert backend["guarantees"]["P2"]["status"] == "holds"
        assert backend["guarantees"]["P2"]["run"] == len(backend["guarantees"]["P2"]["tests"]) > 0
        assert backend["capabilities"]["topics"]["support"] == "native"


def test_the_table_says_holds_with_a_count_for_each_broker(tmp_path: Path) -> None:
    done = verify(tmp_path, "memory://one", "memory://two", "--", "-q", "-k", "TimingContract")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^ *T1 +an expired message .* +holds 6 +holds 6$", done.stdout, re.MULTILINE)
    assert re.search(r"^ *D2 +redrive .* +no test +no test$", done.stdout, re.MULTILINE)
    assert all(re.search(rf"^ *{number} +\S", done.stdout, re.MULTILINE) for number in GUARANTEES)
    assert "not the whole suite" in done.stdout
    assert done.stdout.count("0 failed") == 2
    # The summary of the plugin would be the same thing once more.
    assert "= unimq contract =" not in done.stdout


def test_what_is_broken_is_named_and_ends_with_1(tmp_path: Path) -> None:
    (tmp_path / "breaking.py").write_text(BROKEN)
    options = ("--", "-p", "breaking", "-q", "-k", "full_queue_refuses or purge")
    done = verify(tmp_path, "memory://one", "memory://two", "--html", "page.html", *options)
    assert done.returncode == 1, done.stdout
    assert re.search(r"^ *T3 +\S.* +holds 2 +BROKEN 2 of 2$", done.stdout, re.MULTILINE)
    assert re.search(r"^ *R5 +\S.* +not proven +not proven$", done.stdout, re.MULTILINE)
    named = [line for line in done.stdout.splitlines() if line.startswith("BROKEN on memory://two: T3 S4: ")]
    assert len(named) == 2
    assert named[0].endswith(": AssertionError: it took one more")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "it took one more" in text
    assert "✗ BROKEN" in text


def test_nothing_proven_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "breaking.py").write_text(BROKEN)
    done = verify(tmp_path, "memory://", "--json", "--", "-p", "breaking", "-q", "-k", "purge")
    assert done.returncode == 1
    assert done.stderr.endswith("error: nothing was proven\n")


@pytest.mark.parametrize("name", ["nowhere/page.html", "."])
def test_a_page_that_cannot_be_written_is_told_before_testing(tmp_path: Path, name: str) -> None:
    done = verify(tmp_path, "memory://", "--html", name)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: --html: {name} cannot be written\n"


def test_every_url_is_tried_before_testing(tmp_path: Path) -> None:
    done = verify(tmp_path, "memory://", "memory://?nonsense=1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: unknown option 'nonsense'")


# The page.


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_of_the_page_runs(script: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-ec", script],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=590,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = report.read(tmp_path / "result.json")
    assert {backend.total.status for backend in result.backends} == {"holds"}
    made = {file.name for file in tmp_path.iterdir() if not file.name.startswith(".")}
    assert made in ({"page.html", "result.json"}, {"result.json", "results.json", "table.md"})
    if "table.md" in made:
        assert "| **Send** S1" in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_the_page_explains_every_field_and_status() -> None:
    structures = (report.Report, report.Verified, report.Tally, report.Test, report.Missing)
    names = {field.encode_name for struct in structures for field in msgspec.structs.fields(struct)}
    for name in names | {*get_args(report.Status), *get_args(report.Outcome)}:
        assert f"`{name}`" in PAGE, name
    assert f"`{report.SCHEMA}`" in PAGE
