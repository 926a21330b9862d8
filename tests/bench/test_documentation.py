"""docs/benchmark.md says what is there."""

import re
from pathlib import Path

from unimq_bench import workloads
from unimq_bench.results import Result

PAGE = (Path(__file__).parents[2] / "docs" / "benchmark.md").read_text(encoding="utf-8")


def test_every_workload_is_in_the_table() -> None:
    table = PAGE[PAGE.index("## Workloads") : PAGE.index("## Rows")]
    shown = set(
        re.findall(r"`([a-z0-9_]+)`", "\n".join(line.split("|")[1] for line in table.splitlines() if "|" in line))
    )
    assert shown == set(workloads.names())


def test_the_workload_that_is_shown_is_sound() -> None:
    (example,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert workloads.parsed("example", example).parameters_for("sqs", "standard").rate == 50


def test_every_field_of_the_result_is_described() -> None:
    table = PAGE[PAGE.index("## The result") :]
    for name in Result.__struct_fields__:
        assert f"`{name}`" in table, name
