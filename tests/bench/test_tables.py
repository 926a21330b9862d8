"""The figures in documents are made from a result, and say what may not be ranked."""

import msgspec
import pytest
from unimq_bench import tables
from unimq_bench.results import Figure, Result

from .made_result import OURS, PEER, RAW, made_result

DOCUMENT = "before\n<!-- benchmark:begin {} -->\nformer\n<!-- benchmark:end -->\nafter\n"


@pytest.fixture(scope="module")
def result() -> Result:
    return made_result()


def lines_of(kind: str, result: Result) -> list[str]:
    return tables.with_figures(DOCUMENT.format(kind), result).splitlines()


def test_a_block_is_replaced_and_the_rest_stays(result: Result) -> None:
    lines = lines_of("brief", result)
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "former" not in lines
    again = "\n".join(lines) + "\n"
    assert tables.with_figures(again, result) == again


def test_a_document_without_a_block_or_with_another_is_refused(result: Result) -> None:
    with pytest.raises(ValueError, match="no <!-- benchmark:begin brief -->"):
        tables.with_figures("nothing\n", result)
    with pytest.raises(ValueError, match="one of brief, full, not 'long'"):
        tables.with_figures(DOCUMENT.format("long"), result)


def test_every_ratio_is_there_with_its_floor(result: Result) -> None:
    lines = lines_of("full", result)
    for ratio in result.ratios:
        (line,) = (each for each in lines if f"| {ratio.metric} | {ratio.median:.2f} | " in each)
        assert f"| {ratio.floor_low:.2f} … {ratio.floor_high:.2f} | {ratio.verdict} |" in line


def test_a_pair_is_a_line_with_the_metrics_that_there_are(result: Result) -> None:
    publish, consume = (
        next(each for each in result.ratios if (each.a, each.b, each.metric) == (OURS, RAW, metric))
        for metric in ("publish time", "consume time")
    )
    (line,) = (each for each in lines_of("brief", result) if each.startswith("| rabbitmq | pika-select |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2].startswith(f"{publish.median:.2f} ({publish.low:.2f}–{publish.high:.2f})")
    assert cells[4].startswith(f"{consume.median:.2f} (")
    assert cells[3] == cells[5] == "–"


def test_of_two_workloads_that_with_more_processes_counts(result: Result) -> None:
    (ratio,) = (each for each in result.ratios if (each.a, each.b, each.metric) == (OURS, RAW, "publish time"))
    fewer = msgspec.structs.replace(ratio, workload="peers", median=7.77, processes=5)
    for ratios in ((ratio, fewer), (fewer, ratio)):
        lines = lines_of("brief", msgspec.structs.replace(result, ratios=ratios))
        (line,) = (each for each in lines if each.startswith("| rabbitmq | pika-select |"))
        assert f"| {ratio.median:.2f} (" in line


def billed(row: str, workload: str, each: float) -> Figure:
    point: dict[str, int | float | str] = {"of": workload, "size": 100}
    return Figure(row=row, workload="cost", metric="billed requests", unit="per message", value=each, point=point)


def test_requests_are_compared_in_the_workload_of_the_ratio(result: Result) -> None:
    (ratio,) = (each for each in result.ratios if (each.a, each.b, each.metric) == (OURS, RAW, "publish time"))
    ratio = msgspec.structs.replace(ratio, b=PEER, workload="peers")
    figures = (billed(OURS, "peers", 0.3), billed(PEER, "peers", 2.4), billed(OURS, "overhead", 9.0))
    lines = lines_of("brief", msgspec.structs.replace(result, ratios=(ratio,), figures=figures))
    assert "| rabbitmq | kombu | 2.40 | 0.30 | 0.12 |" in lines
    for some in (figures[:1], figures[1:]):
        lines = lines_of("brief", msgspec.structs.replace(result, ratios=(ratio,), figures=some))
        assert not [line for line in lines if "bills" in line], "both must be counted"


def test_weaker_durability_is_told_and_not_ranked(result: Result) -> None:
    rows = tuple(
        msgspec.structs.replace(row, durability="at-most-once") if row.name == PEER else row for row in result.rows
    )
    ratios = tuple(
        msgspec.structs.replace(each, verdict="cannot tell", why="their durability differs (…)")
        if each.b == PEER
        else each
        for each in result.ratios
    )
    lines = lines_of("brief", msgspec.structs.replace(result, rows=rows, ratios=ratios))
    (line,) = (each for each in lines if each.startswith("| rabbitmq | kombu"))
    assert line.startswith("| rabbitmq | kombu (at-most-once) |")
    assert "not ranked" in line


def test_what_is_not_ranked_is_in_parentheses(result: Result) -> None:
    figures = [each for each in result.figures if (each.row, each.metric) == (RAW, "publish rate")]
    assert figures
    ranked = msgspec.structs.replace(figures[0], workload="overhead", ranked=True, value=12_345.0)
    for figure, shown in ((ranked, "12.3 k/s"), (msgspec.structs.replace(ranked, ranked=False), "(12.3 k/s)")):
        lines = lines_of("brief", msgspec.structs.replace(result, figures=(figure,)))
        assert f"| {RAW} | fsync | {shown} | – | – | – |" in lines


def test_losses_and_invalid_runs_are_counted(result: Result) -> None:
    runs = [msgspec.structs.replace(run, invalid=()) for run in result.runs]
    lost = sum(run.accounting.lost for run in runs)
    counts = msgspec.structs.replace(runs[0].accounting, lost=runs[0].accounting.lost + 3)
    runs[0] = msgspec.structs.replace(runs[0], accounting=counts, invalid=("3 messages were lost",))
    text = "\n".join(lines_of("full", msgspec.structs.replace(result, runs=tuple(runs))))
    assert f" and {lost + 3} lost;" in text
    assert f"1 of {len(runs)} runs are invalid" in text
