"""Before and after: what is compared, what is refused, and that a verdict is neither given by chance nor withheld."""

import random
from pathlib import Path

import msgspec
import pytest
from unimq_bench import compare, page, results
from unimq_bench.compare import Comparison, Incomparable
from unimq_bench.results import Accounting, Result, ResultError, Row, Run, Slice
from unimq_bench.sections import changes

from .made_result import HERE, OURS, QUEUE, RAW, made_result


@pytest.fixture(scope="module")
def before() -> Result:
    return made_result(seed=1)


def _verdicts(comparison: Comparison, subject: str) -> dict[str, str]:
    return {change.metric: change.verdict for change in comparison.changes if change.subject == subject}


def test_identical_code_measured_twice_has_no_verdict_for_the_worse_or_the_better(before: Result) -> None:
    for seed in (2, 3):
        comparison = compare.compare(before, made_result(seed=seed))
        assert {change.verdict for change in comparison.changes} <= {"no difference", "cannot tell", "unchanged row"}


def test_slower_code_is_worse_by_ratio_and_by_rate(before: Result) -> None:
    comparison = compare.compare(before, made_result(seed=2, speed=0.7))
    assert _verdicts(comparison, f"{OURS} ÷ {RAW}") == {"publish time": "worse", "consume time": "worse"}
    assert _verdicts(comparison, OURS)["publish rate"] == "worse"
    assert {change.subject for change in comparison.worse} >= {OURS, f"{OURS} ÷ {RAW}"}
    change = next(each for each in comparison.changes if each.subject == f"{OURS} ÷ {RAW}")
    assert change.low < 1 / 0.7 < change.high


def test_faster_code_is_better_by_ratio_and_by_rate(before: Result) -> None:
    comparison = compare.compare(before, made_result(seed=2, speed=1.4))
    assert _verdicts(comparison, f"{OURS} ÷ {RAW}") == {"publish time": "better", "consume time": "better"}
    assert _verdicts(comparison, OURS)["publish rate"] == "better"
    assert comparison.worse == ()


def _published(seed: int, row: str, rate: float, *, processes: int = 8, noise: float = 0.04) -> list[Run]:
    chance = random.Random(f"{seed} {row}")
    return [
        Run(
            row=row,
            workload="publish_max",
            process=process,
            slices=(Slice(metric="publish", messages=round(rate * chance.lognormvariate(0, noise)), seconds=1.0),),
            accounting=Accounting(sent=1, acked=1, received=1),
        )
        for process in range(processes)
    ]


def _result(runs: list[Run], *, rows: tuple[Row, ...] | None = None) -> Result:
    own = Row(name=OURS, library="unimq", kind="unimq", backend="rabbitmq", durability="fsync")
    raw = Row(name=RAW, library="pika", kind="raw", backend="rabbitmq", durability="fsync", versions={"pika": "1.4.4"})
    return Result(rows=rows or (own, raw), runs=tuple(runs))


def test_weather_that_moves_all_rows_is_not_taken_for_a_change() -> None:
    # Everything is a third slower, the raw client as well: a slow hour, not slower code.
    one = _result([*_published(1, OURS, 20_000), *_published(1, RAW, 22_000)])
    other = _result([*_published(2, OURS, 13_000), *_published(2, RAW, 14_300)])
    comparison = compare.compare(one, other)
    assert _verdicts(comparison, OURS) == {"publish rate": "cannot tell"}
    assert _verdicts(comparison, RAW) == {"publish rate": "unchanged row"}
    change = next(each for each in comparison.changes if each.subject == OURS)
    assert "pika" in change.why
    assert change.floor_low < 0.7


def test_without_an_unchanged_row_only_more_than_drift_is_a_change() -> None:
    one = _result(_published(1, OURS, 20_000))
    assert _verdicts(compare.compare(one, _result(_published(2, OURS, 17_500))), OURS) == {
        "publish rate": "cannot tell"
    }
    assert _verdicts(compare.compare(one, _result(_published(2, OURS, 10_000))), OURS) == {"publish rate": "worse"}


def test_client_of_another_version_is_no_measure_of_the_weather() -> None:
    one = _result([*_published(1, OURS, 20_000), *_published(1, RAW, 22_000)])
    rows = (one.rows[0], msgspec.structs.replace(one.rows[1], versions={"pika": "2.0"}))
    other = _result([*_published(2, OURS, 20_000), *_published(2, RAW, 9_000)], rows=rows)
    comparison = compare.compare(one, other)
    assert _verdicts(comparison, RAW) == {"publish rate": "worse"}
    assert (f"{RAW}: pika", "1.4.4", "2.0") in comparison.differences


def test_few_processes_give_no_verdict() -> None:
    one = _result(_published(1, OURS, 20_000, processes=4))
    comparison = compare.compare(one, _result(_published(2, OURS, 5_000)))
    (change,) = comparison.changes
    assert change.verdict == "cannot tell"
    assert "a verdict needs 5" in change.why


def test_runs_of_one_process_are_one_sample() -> None:
    runs = _published(1, OURS, 20_000)
    repeated = [msgspec.structs.replace(run, process=run.process % 4) for run in runs]
    (change,) = compare.compare(_result(repeated), _result(_published(2, OURS, 5_000))).changes
    assert change.processes == (4, 8)


def test_false_alarms_are_rare_and_half_the_speed_is_always_seen() -> None:
    alarms = seen = 0
    for seed in range(60):
        one = _result([*_published(seed, OURS, 20_000), *_published(seed, RAW, 22_000)])
        same = _result([*_published(seed + 1000, OURS, 20_000), *_published(seed + 1000, RAW, 22_000)])
        half = _result([*_published(seed + 1000, OURS, 10_000), *_published(seed + 1000, RAW, 22_000)])
        alarms += _verdicts(compare.compare(one, same), OURS)["publish rate"] in {"better", "worse"}
        seen += _verdicts(compare.compare(one, half), OURS)["publish rate"] == "worse"
    assert alarms <= 3
    assert seen == 60


def test_on_another_machine_only_ratios_are_judged(before: Result) -> None:
    after = made_result(seed=2, speed=0.5)
    after = msgspec.structs.replace(
        after, environment=msgspec.structs.replace(after.environment, cpu="Another processor")
    )
    comparison = compare.compare(before, after)
    assert set(_verdicts(comparison, OURS).values()) == {"cannot tell"}
    assert set(_verdicts(comparison, f"{OURS} ÷ {RAW}").values()) == {"worse"}
    assert ("cpu", "A made-up processor", "Another processor") in comparison.differences


def test_offered_rate_is_not_compared_as_if_it_had_been_reached(before: Result) -> None:
    runs = [msgspec.structs.replace(run, point={"rate": 1000}) for run in _published(1, OURS, 1000)]
    with pytest.raises(Incomparable, match="no figure"):
        compare.compare(_result(runs), _result([*runs, *runs]))
    assert {change.metric for change in compare.compare(before, made_result(seed=2)).changes} >= {
        "publish rate",
        "client CPU",
        "publish client CPU",
        "response p50",
        "response p99",
        "publish time",
    }


def test_invalid_runs_count_on_neither_side() -> None:
    one = _result(_published(1, OURS, 20_000))
    broken = [msgspec.structs.replace(run, invalid=("late",)) for run in _published(3, OURS, 1)]
    (change,) = compare.compare(one, _result([*_published(2, OURS, 20_100), *broken])).changes
    assert change.after > 15_000
    comparison = compare.compare(one, _result([*_published(2, OURS, 20_100), *broken]))
    assert "8 of 16 runs after are invalid and left out" in comparison.missing
    with pytest.raises(Incomparable, match="invalid"):
        compare.compare(one, _result(broken))


def _with_row(result: Result, **changed: object) -> Result:
    rows = tuple(msgspec.structs.replace(row, **changed) if row.name == OURS else row for row in result.rows)
    return msgspec.structs.replace(result, rows=rows, seed=99)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"durability": "at-most-once"}, "durability was 'fsync' before and is 'at-most-once' after"),
        ({"emulated": "a mock"}, "'rabbitmq' before and is 'rabbitmq emulated by a mock' after"),
        ({"in_process": True}, "place of producer and consumer"),
    ],
)
def test_unequal_things_are_refused_and_the_row_is_named(before: Result, changed: dict[str, object], told: str) -> None:
    with pytest.raises(Incomparable, match=told) as caught:
        compare.compare(before, _with_row(before, **changed))
    assert OURS in str(caught.value)


def test_other_workloads_other_rows_and_the_same_result_are_refused(before: Result) -> None:
    published = _result(_published(1, OURS, 20_000))
    consumed = _result([msgspec.structs.replace(run, workload="consume_max") for run in published.runs])
    with pytest.raises(Incomparable, match="before there is publish_max, after consume_max"):
        compare.compare(published, consumed)
    other = Row(name=HERE, library="unimq", kind="unimq", backend="memory")
    with pytest.raises(Incomparable, match="no row in common"):
        compare.compare(published, _result(_published(1, HERE, 20_000), rows=(other,)))
    with pytest.raises(Incomparable, match="the same result"):
        compare.compare(before, before)


def test_new_loss_is_told_whatever_the_speed(before: Result) -> None:
    lossy = tuple(
        msgspec.structs.replace(run, accounting=msgspec.structs.replace(run.accounting, lost=3))
        if run.row == OURS and run.workload == "e2e_low"
        else run
        for run in before.runs
    )
    comparison = compare.compare(before, msgspec.structs.replace(before, runs=lossy))
    assert comparison.loses
    assert (OURS, 0, 3) in comparison.losses
    assert f"LOST: {OURS}: 0 messages before, 3 after" in changes.text(comparison)
    assert "lost messages" in changes.page(comparison)
    assert not compare.compare(before, made_result(seed=2)).loses


def test_result_is_read_from_its_file_or_from_its_page(before: Result, tmp_path: Path) -> None:
    results.write(before, tmp_path / "a.json")
    (tmp_path / "a.html").write_text(page.page(before), encoding="utf-8")
    assert compare.read(tmp_path / "a.json") == before
    assert compare.read(tmp_path / "a.html") == before
    (tmp_path / "b.json").write_text('{"schema": 99}', encoding="utf-8")
    with pytest.raises(ResultError, match="schema 99"):
        compare.read(tmp_path / "b.json")
    with pytest.raises(ResultError, match="cannot be read"):
        compare.read(tmp_path / "gone.json")


def test_text_is_aligned_and_tells_every_change(before: Result) -> None:
    comparison = compare.compare(before, made_result(seed=2, speed=0.7))
    lines = changes.text(comparison).splitlines()
    head = next(line for line in lines if "95 % interval" in line)
    table = lines[lines.index(head) + 1 : -2]
    figures = [line for line in table if line.startswith("  ")]
    assert len(figures) == len(comparison.changes)
    column = head.index("verdict")
    known = ("better", "worse", "no difference", "cannot tell", "unchanged row")
    assert all(line[column:] in known for line in figures)
    assert all(len(line) <= 120 for line in figures)
    assert lines[-1].startswith(f"{len(comparison.changes)} figures: ")


def test_page_of_a_comparison_asks_nobody_for_anything_and_tells_every_change(before: Result) -> None:
    comparison = compare.compare(before, made_result(seed=2, speed=0.7))
    html = changes.page(comparison)
    assert "<script" not in html
    assert "http" not in html.replace("http-equiv", "")
    assert html.count('class="pill') == len(comparison.changes)
    assert f"{HERE} ÷ {QUEUE}" in html
    assert "default-src 'none'" in html


def test_comparison_is_repeatable(before: Result) -> None:
    after = made_result(seed=2)
    assert compare.compare(before, after) == compare.compare(before, after)
