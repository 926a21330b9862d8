"""The sample in the documentation is a real result, and its page is what this version makes of it."""

from pathlib import Path

import pytest
from unimq_bench import page, results
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
    for word in (*sample.workloads, f"--seed {sample.seed}"):
        assert word in command
    places = command.partition("--on ")[2].partition(" ")[0].split(",")
    assert sorted(places) == sorted({row.backend for row in sample.rows})


def test_sample_is_whole_and_loses_nothing(sample: Result) -> None:
    assert not sample.partial
    assert sample.profile == "standard"
    assert sum(run.accounting.sent for run in sample.runs) > 100_000
    assert all(run.accounting.lost == run.accounting.corrupted == 0 for run in sample.runs)


def test_every_number_that_the_documentation_quotes_is_in_the_sample(sample: Result) -> None:
    text = (DOCS / "benchmark.md").read_text(encoding="utf-8")
    quoted = text.partition("<!-- of the sample -->")[2].partition("<!-- end -->")[0]
    foreign = sum(run.foreign_cpu for run in sample.runs) / len(sample.runs)
    invalid = sum(1 for run in sample.runs if run.invalid)
    assert f"{foreign:.1f} of the two cores" in quoted
    assert f"{invalid} of {len(sample.runs)} runs are invalid" in quoted
    for ratio in sample.ratios:
        ends = f"{ratio.low:.2f} … {ratio.high:.2f} | {ratio.floor_low:.2f} … {ratio.floor_high:.2f}"
        row = f"| {sample.row(ratio.a).backend} | {ratio.metric} | {ratio.median:.2f} | {ends} | {ratio.verdict} |"
        assert row in quoted
    duplicated = sum(run.accounting.duplicated for run in sample.runs)
    assert f"{duplicated} duplicates" in quoted
    assert duplicated == sum(run.accounting.duplicated for run in sample.runs if run.workload == "fault")
