"""The result document: written whole, read back equal, and refused with a reason when it is something else."""

from pathlib import Path

import msgspec
import pytest
from unimq_bench import results
from unimq_bench.results import Accounting, Ratio, Result, ResultError, Row, Run, Sample, Slice


def a_result() -> Result:
    return Result(
        unimq="0.1.0",
        workloads=("e2e_low",),
        rows=(Row(name="unimq on memory", library="unimq", kind="unimq", backend="memory", in_process=True),),
        runs=(
            Run(
                row="unimq on memory",
                workload="e2e_low",
                point={"rate": 1000.0, "size": 100, "content": "random"},
                slices=(Slice(metric="publish", messages=10, seconds=0.5),),
                accounting=Accounting(sent=10, acked=10, received=9, lost=1),
                timeline=(
                    Sample(
                        t=0.25,
                        sent=5,
                        received=4,
                        backlog=1,
                        p99=None,
                        client_cpu=0.1,
                        broker_cpu=None,
                        client_rss=1,
                        broker_rss=None,
                    ),
                ),
                invalid=("1 acked message was lost",),
            ),
        ),
        ratios=(
            Ratio(
                a="x",
                b="y",
                workload="overhead",
                metric="publish time",
                median=1.1,
                low=1.0,
                high=1.2,
                t_low=1.0,
                t_high=1.2,
                floor_low=0.99,
                floor_high=1.01,
                processes=8,
                pairs=48,
                verdict="cannot tell",
            ),
        ),
    )


def test_what_is_written_is_read_back_equal(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    results.write(a_result(), file)
    assert results.read(file) == a_result()
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_the_document_names_its_schema() -> None:
    assert msgspec.json.decode(results.encoded(a_result()))["schema"] == results.SCHEMA


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"{", "no result of unimq bench"),
        (b'{"schema": 99}', "has schema 99"),
        (b'{"rows": 1}', "no result of unimq bench"),
        (b'{"schema": 1, "rows": [{}]}', "no result of unimq bench"),
    ],
)
def test_something_else_is_refused_with_a_reason(document: bytes, reason: str) -> None:
    with pytest.raises(ResultError, match=reason):
        results.decoded(document)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="cannot be written"):
        results.write(a_result(), tmp_path / "missing" / "result.json")
    with pytest.raises(ResultError, match="cannot be read"):
        results.read(tmp_path / "result.json")


def test_a_row_is_found_by_its_name() -> None:
    assert a_result().row("unimq on memory").backend == "memory"
    with pytest.raises(KeyError):
        a_result().row("kombu on memory")
