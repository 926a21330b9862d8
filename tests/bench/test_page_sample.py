"""The sample in the documentation is a real result, and its page is what this version makes of it."""

from pathlib import Path

import pytest
from unimq_bench import page, results, tables, workloads
from unimq_bench.results import Result

DOCS = Path(__file__).parents[2] / "docs"
AGAIN = "unimq bench page docs/benchmark-sample.json docs/benchmark-sample.html"


@pytest.fixture(scope="module")
def sample() -> Result:
    return results.read(DOCS / "benchmark-sample.json")


def test_page_of_the_sample_is_of_this_version(sample: Result) -> None:
    html = (DOCS / "benchmark-sample.html").read_text(encoding="utf-8")
    assert html == page.page(sample), f"the page is stale: {AGAIN}"


def test_command_that_makes_the_sample_and_its_page_is_in_the_documentation(sample: Result) -> None:
    text = (DOCS / "benchmark.md").read_text(encoding="utf-8")
    assert AGAIN in text
    (command,) = (
        line for line in text.splitlines() if line.startswith("$") and "--out docs/benchmark-sample.json" in line
    )
    assert f"--seed {sample.seed}" in command
    asked = set(command.partition("unimq bench ")[2].partition(" --on")[0].split())
    if "all" in asked:
        asked = asked - {"all"} | set(workloads.names()) - {"publish_max", "consume_max", "peers"} | asked & {"peers"}
    assert set(sample.workloads) == asked
    places = command.partition("--on ")[2].partition(" ")[0].split(",")
    assert sorted(places) == sorted({row.backend for row in sample.rows})


def test_sample_is_whole_and_loses_nothing(sample: Result) -> None:
    failed = [run.row for run in sample.runs if any(reason.startswith("the row failed") for reason in run.invalid)]
    assert sample.partial == bool(failed)
    # A failure of another client is told on the page; one of ours would have to be mended.
    assert not [row for row in failed if row.startswith("unimq")]
    assert sample.profile == "standard"
    assert sum(run.accounting.sent for run in sample.runs) > 100_000
    assert all(run.accounting.lost == run.accounting.corrupted == 0 for run in sample.runs)


@pytest.mark.parametrize("document", ["README.md", "docs/benchmark.md"])
def test_every_figure_in_a_document_is_of_the_sample(sample: Result, document: str) -> None:
    text = (DOCS.parent / document).read_text(encoding="utf-8")
    again = "python -m unimq_bench.tables docs/benchmark-sample.json README.md docs/benchmark.md"
    assert text == tables.with_figures(text, sample), f"the figures are stale: {again}"


def test_duplicates_are_of_faults_alone(sample: Result) -> None:
    assert all(run.invalid or not run.accounting.duplicated for run in sample.runs if run.workload != "fault")
