"""The report of the suite, from a run whose outcomes are made up, to the page and the tables."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from unimq_contract import report, tables
from unimq_contract.guarantees import GUARANTEES
from unimq_contract.harness import backend_at
from unimq_contract.page import page

import unimq

MADE_UP = """
import pytest
from unimq_contract.contract import Contract
from unimq_contract.guarantees import guarantee, needs

class TestMadeUp(Contract):
    url = "memory://made-up"

    @guarantee("S1", "A1")
    def test_passes(self, broker): assert broker.capabilities
    @guarantee("S1")
    def test_fails(self, connect): raise AssertionError("no <b>answer</b> from amqp://somebody:s3cret@host:1/")
    @guarantee("S2")
    def test_has_nothing_to_test(self, broker): pytest.skip("this broker cannot be frozen")
    @needs("durable")
    @guarantee("S3")
    def test_needs_what_there_is_not(self, harness): raise AssertionError
    @guarantee("S4")
    def test_breaks_at_its_end(self, broker, breaking): pass
    @guarantee("S5")
    def test_fails_in_a_part(self, broker, subtests):
        for number in range(3):
            with subtests.test(number=number): assert number != 1
    @pytest.mark.xfail(reason="known", strict=True)
    @guarantee("S6")
    def test_is_expected_to_fail(self, broker): assert not broker
    @pytest.mark.fronts("sync")
    @guarantee("R1")
    def test_is_of_one_front(self, broker): pass

@pytest.fixture
def breaking():
    yield
    raise RuntimeError("left something")
"""


def run(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    (folder / "test_made_up.py").write_text(MADE_UP)
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-p", "unimq_contract.plugin", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> report.Report:
    folder = tmp_path_factory.mktemp("made-up")
    done = run(folder, "--unimq-report", "report.json")
    assert done.returncode == 1, done.stdout
    return report.read(folder / "report.json")


def test_each_outcome_is_told(made_up: report.Report) -> None:
    (backend,) = made_up.backends
    assert {(test.id, test.outcome) for test in backend.tests if test.front == "sync"} == {
        ("TestMadeUp::test_passes[sync]", "passed"),
        ("TestMadeUp::test_fails[sync]", "failed"),
        ("TestMadeUp::test_has_nothing_to_test[sync]", "skipped"),
        ("TestMadeUp::test_needs_what_there_is_not[sync]", "unsupported"),
        ("TestMadeUp::test_breaks_at_its_end[sync]", "failed"),
        ("TestMadeUp::test_fails_in_a_part[sync]", "failed"),
        ("TestMadeUp::test_is_expected_to_fail[sync]", "failed"),
        ("TestMadeUp::test_is_of_one_front[sync]", "passed"),
    }
    assert {test.front for test in backend.tests} == {"sync", "asyncio"}
    assert all(test.duration >= 0 for test in backend.tests)


def test_guarantees_are_judged_by_their_tests(made_up: report.Report) -> None:
    (backend,) = made_up.backends
    assert list(backend.guarantees) == list(GUARANTEES)
    status = {number: tally.status for number, tally in backend.guarantees.items() if tally.status != "untested"}
    assert status == {
        "S1": "broken",
        "S2": "unproven",
        "S3": "unsupported",
        "S4": "broken",
        "S5": "broken",
        "S6": "broken",
        "A1": "holds",
        "R1": "holds",
    }
    first = backend.guarantees["S1"]
    assert (first.run, first.passed, first.failed) == (4, 2, 2)
    assert first.tests == tuple(f"TestMadeUp::test_{name}[{front}]" for name, front in (
        ("fails", "asyncio"), ("fails", "sync"), ("passes", "asyncio"), ("passes", "sync")
    ))  # fmt: skip
    assert {letter: tally.status for letter, tally in backend.families.items()} == {
        "S": "broken",
        "A": "holds",
        "R": "holds",
    }
    sending = backend.families["S"]
    assert (sending.run, sending.passed, sending.unsupported, sending.skipped) == (10, 2, 2, 2)
    assert (backend.total.run, backend.total.passed, backend.total.failed) == (11, 3, 8)


def test_reasons_are_told_and_passwords_are_not(made_up: report.Report) -> None:
    reasons = {test.id.partition("[")[0].partition("test_")[2]: test.reason for test in made_up.backends[0].tests}
    assert "no <b>answer</b> from amqp://somebody:***@host:1/" in reasons["fails"]
    assert reasons["has_nothing_to_test"] == "this broker cannot be frozen"
    assert "memory declares durable unsupported: the messages live" in reasons["needs_what_there_is_not"]
    assert reasons["breaks_at_its_end"] == "at teardown: RuntimeError: left something"
    assert "assert 1 != 1" in reasons["fails_in_a_part"]
    assert reasons["is_expected_to_fail"].startswith("expected to fail: known")
    assert b"s3cret" not in report.encoded(made_up)
    assert "s3cret" not in page(made_up)


def test_a_password_is_hidden_without_its_url() -> None:
    backend = backend_at("amqp://somebody:se%2Fcret@host/", stress=1.0)
    assert report._masked("se/cret and se%2Fcret of somebody at host", backend) == "*** and *** of somebody at host"


def test_the_run_itself_is_told(made_up: report.Report) -> None:
    (backend,) = made_up.backends
    assert (made_up.exit_code, made_up.complete, made_up.missing) == (1, True, ())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", made_up.created)
    assert set(made_up.environment) == {"unimq", "python", "pytest", "system"}
    assert (backend.name, backend.label, backend.emulator) == ("memory://made-up", "in this process", False)
    with unimq.connect("memory://") as broker:
        # As they are for a user: without what the harness changes to make tests quick.
        assert backend.capabilities == broker.capabilities


def test_workers_make_the_same_report(tmp_path: Path, made_up: report.Report) -> None:
    pytest.importorskip("xdist")
    assert run(tmp_path, "--unimq-report=r.json", "-n2", "--dist=loadgroup").returncode == 1
    spread = report.read(tmp_path / "r.json")
    assert spread.complete

    def found(run: report.Report) -> list[tuple[object, ...]]:
        return [(test.id, test.front, test.guarantees, test.outcome) for test in run.backends[0].tests]

    assert found(spread) == found(made_up)
    assert spread.backends[0].capabilities == made_up.backends[0].capabilities
    assert {number: tally.status for number, tally in spread.backends[0].guarantees.items()} == {
        number: tally.status for number, tally in made_up.backends[0].guarantees.items()
    }


def test_a_part_of_the_suite_is_not_complete(tmp_path: Path) -> None:
    assert run(tmp_path, "--unimq-report=r.json", "-k", "test_passes").returncode == 0
    part = report.read(tmp_path / "r.json")
    assert (part.complete, part.backends[0].total.status) == (False, "holds")
    assert "Not the whole suite" in page(part)
    with pytest.raises(ValueError, match="part of the suite"):
        tables.merged(None, part)


def test_an_interrupted_run_is_not_complete(tmp_path: Path) -> None:
    assert run(tmp_path, "--unimq-report=r.json", "--maxfail=1").returncode == 1
    assert not report.read(tmp_path / "r.json").complete


def test_where_it_cannot_be_written_is_told_first(tmp_path: Path) -> None:
    done = run(tmp_path, "--unimq-report=nowhere/r.json")
    assert done.returncode == 4
    assert "--unimq-report: nowhere/r.json cannot be written" in done.stderr


def test_a_broker_that_does_not_answer_is_told(tmp_path: Path) -> None:
    text = MADE_UP.replace("memory://made-up", "memory://made-up?nonsense=1")
    (tmp_path / "test_other.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "unimq_contract.plugin", "--unimq-report=r.json", "test_other.py"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stdout
    (backend,) = report.read(tmp_path / "r.json").backends
    assert backend.capabilities is None
    assert backend.unreachable.startswith("ConfigError: unknown option 'nonsense'")


def test_only_a_report_of_this_schema_is_read(tmp_path: Path, made_up: report.Report) -> None:
    file = tmp_path / "report.json"
    file.write_bytes(report.encoded(msgspec.structs.replace(made_up, schema="unimq-contract-report/0")))
    with pytest.raises(ValueError, match=r"report/0'; this version reads 'unimq-contract-report/1'"):
        report.read(file)
    file.write_text("{}")
    with pytest.raises(ValueError, match="missing required field"):
        report.read(file)


# The page.


class Reader(HTMLParser):
    """What a browser would take from a page: its elements, whether they are closed, and what it would fetch."""

    EMPTY = frozenset({"meta", "link", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in self.EMPTY:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            elif name in {"href", "src", "srcset", "action"} and value:
                self.links.add(value)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_asks_nobody(made_up: report.Report) -> None:
    text = page(made_up)
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    inside = {link.removeprefix("#") for link in reader.links if link.startswith("#")}
    assert reader.links - {f"#{name}" for name in inside} == {"data:,"}
    assert inside <= reader.ids
    assert not {"script", "img", "iframe", "object"} & set(reader.seen)
    assert not re.search(r"url\(|@import|https?:", text)
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text


def test_the_page_says_what_the_report_says(made_up: report.Report) -> None:
    text = page(made_up)
    assert "no &lt;b&gt;answer&lt;/b&gt;" in text
    assert "4 broken, 2 hold" in text
    for number in GUARANTEES:
        assert f">{number}</" in text
    for name, feature in made_up.backends[0].capabilities.features():  # type: ignore[union-attr]
        assert f"<code>{name}</code>" in text
        assert feature.note in text
    assert text.count("✗ BROKEN") == 1 + 4


# Tables.


def whole(outcome: report.Outcome = "passed", number: str = "S1", url: str = "memory://") -> report.Report:
    """A complete run with one test."""
    with unimq.connect("memory://") as broker:
        capabilities = broker.capabilities
    test = report.Test("SendContract::test_x[sync]", "sync", (number,), outcome, "", 0.1)
    backend = report.verified(backend_at(url, stress=1.0), [test], capabilities)
    return report.Report(
        created="2026-01-01T00:00:00+00:00",
        duration=1.0,
        exit_code=0,
        complete=True,
        environment=report.environment(),
        families={},
        guarantees=GUARANTEES,
        backends=(backend,),
    )


def test_a_report_replaces_the_backends_it_has() -> None:
    old = tables.merged(None, whole(number="S2"))
    other = tables.Results(tables.SCHEMA, {"kafka": old.backends["memory"], "memory": old.backends["memory"]})
    new = tables.merged(other, whole(number="S1"))
    assert list(new.backends) == ["memory", "kafka"]
    assert new.backends["memory"].guarantees["S1"] == tables.Verdict("holds", 1)
    assert new.backends["memory"].guarantees["S2"] == tables.Verdict("untested", 0)
    assert new.backends["kafka"].guarantees["S2"] == tables.Verdict("holds", 1)


def test_two_of_a_kind_are_refused_for_their_one_column() -> None:
    both = whole()
    emulator = whole(url="memory://emulator").backends
    both = msgspec.structs.replace(both, backends=(*both.backends, *emulator))
    with pytest.raises(ValueError, match="memory:// and memory://emulator are both memory"):
        tables.merged(None, both)


@pytest.mark.parametrize(("outcome", "status"), [("failed", "broken"), ("skipped", "unproven")])
def test_a_table_is_made_from_what_holds(outcome: report.Outcome, status: str) -> None:
    with pytest.raises(ValueError, match=f"memory:// is {status}"):
        tables.merged(None, whole(outcome))


def test_the_data_file_is_read_back_and_has_no_addresses(tmp_path: Path) -> None:
    results = tables.merged(None, whole(url="memory://somewhere"))
    file = tmp_path / "results.json"
    file.write_text(tables.dump(results))
    assert tables.load(file) == results
    assert "somewhere" not in file.read_text()
    assert "2026" not in file.read_text()
    assert '   "guarantees": {\n    "S1": ["holds", 1],\n' in file.read_text()


def test_a_data_file_of_another_contract_is_refused(tmp_path: Path) -> None:
    results = json.loads(tables.dump(tables.merged(None, whole())))
    del results["backends"]["memory"]["guarantees"]["L4"]
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    with pytest.raises(ValueError, match="another contract: L4 on memory"):
        tables.load(file)


def test_the_command_renews_data_and_documents(tmp_path: Path) -> None:
    document, data, given = (tmp_path / name for name in ("README.md", "results.json", "report.json"))
    document.write_text("a\n<!-- guarantees:begin brief -->\nformer\n<!-- guarantees:end -->\nz\n")
    data.write_text("{}")
    given.write_bytes(report.encoded(whole()))
    command = [sys.executable, "-m", "unimq_contract.tables", "--data", str(data)]
    done = subprocess.run(
        [*command, "--report", str(given), str(document)], check=False, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert "only what the report has is kept" in done.stderr
    text = document.read_text()
    assert text.startswith("a\n<!-- guarantees:begin brief -->\n|  | memory |\n")
    assert text.endswith("</details>\n<!-- guarantees:end -->\nz\n")
    assert "former" not in text
    document.write_text("no place for it")
    done = subprocess.run([*command, str(document)], check=False, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no <!-- guarantees:begin brief -->")
