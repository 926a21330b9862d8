"""The proof that the benchmark can fail: each kind of faulty row is caught, by a run in real processes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from unimq_bench.measuring import Bench, measure
from unimq_bench.results import Run
from unimq_bench.rows.catalogue import CATALOGUE, Entry
from unimq_bench.targets import Candidate, Place
from unimq_bench.workloads import Workload, load

import unimq

FAULTY = str(Path(__file__).parent / "faulty")


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench(FAULTY)


def place(fault: str = "") -> Place:
    with unimq.connect("memory://") as broker:
        return Place("memory", "memory", f"memory://{'#' if fault else ''}{fault}", broker.capabilities)


def faulty(fault: str, backend: Place | None = None) -> Candidate:
    entry = Entry(library=fault, kind="peer", module="bench_faulty", backends=None)
    return Candidate(entry, backend or place(fault))


def runs_of(bench: Bench, workload: Workload, *rows: Candidate, **settings: object) -> list[Run]:
    parameters = workload.parameters_for("memory", "smoke", dict(settings))
    measure(bench, workload, rows[0].place, rows, parameters)
    return bench.collection.runs


STREAM = {"rate": 500.0, "seconds": 1.0, "warm_up": 0.1, "patience": 1.0}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("lossy", "10 of 500 acked messages were lost"),
        ("duplicating", "10 deliveries were duplicates without a cause"),
        ("corrupting", "10 messages were corrupted"),
    ],
)
def test_a_faulty_row_is_caught_in_a_stream(bench: Bench, fault: str, reason: str) -> None:
    (run,) = runs_of(bench, load("fault"), faulty(fault), **STREAM, fault_at=900.0)
    if fault == "duplicating":
        # Under a fault duplicates are excused, and still counted.
        assert (run.accounting.duplicated, run.invalid) == (10, ())
        (*_, run) = runs_of(bench, replace_percentiles(load("e2e_low")), faulty(fault), **STREAM)
    assert reason in run.invalid
    figures = [figure for figure in bench.collection.figures if figure.workload == run.workload]
    assert figures
    assert not any(figure.ranked for figure in figures)
    assert all(reason in figure.why_unranked for figure in figures)


def replace_percentiles(workload: Workload) -> Workload:
    """Return the workload without its need of ten thousand messages."""
    import msgspec

    return msgspec.structs.replace(workload, needs_percentiles=False)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("lossy", "acked messages were lost"),
        ("duplicating", "were duplicates without a cause"),
        ("corrupting", "messages were corrupted"),
    ],
)
def test_a_faulty_row_is_caught_in_slices(bench: Bench, fault: str, reason: str) -> None:
    found = runs_of(bench, load("publish_max"), faulty(fault), messages=1000, rounds=1, patience=1.0)
    assert any(reason in why for run in found for why in run.invalid), found[0].accounting


def test_a_faulty_row_loses_its_ratio(bench: Bench) -> None:
    healthy = Candidate(CATALOGUE["unimq"], place())
    rows = (faulty("duplicating"), healthy)
    runs_of(bench, load("overhead"), *rows, processes=5, rounds=1, messages=1000, patience=1.0)
    ratios = bench.collection.ratios
    assert {ratio.metric for ratio in ratios} >= {"publish time", "consume time"}
    assert {ratio.verdict for ratio in ratios} == {"cannot tell"}
    assert all("duplicates without a cause" in ratio.why for ratio in ratios)


def test_rows_of_unequal_durability_are_not_ranked(bench: Bench) -> None:
    rows = (faulty("careless"), Candidate(CATALOGUE["unimq"], place()))
    runs_of(bench, load("overhead"), *rows, processes=5, rounds=1, messages=1000)
    assert bench.collection.ratios
    for ratio in bench.collection.ratios:
        assert ratio.verdict == "cannot tell"
        assert "durability differs" in ratio.why
        assert "at-most-once" in ratio.why


def test_a_late_load_generator_is_caught(bench: Bench) -> None:
    (run,) = runs_of(bench, load("e2e_low"), faulty("slow-generator"), rate=200.0, seconds=2.0)
    assert any(why.startswith("the load generator was late") for why in run.invalid), run.invalid


def test_reordering_is_counted(bench: Bench) -> None:
    (run,) = runs_of(bench, load("publish_max"), faulty("reordering"), messages=1000, rounds=1)
    assert run.accounting.reordered > 0
    assert run.accounting.lost == 0


@pytest.mark.parametrize("fault", ["dying", "unable"])
@pytest.mark.parametrize("workload", ["publish_max", "e2e_low"])
def test_a_row_that_fails_is_told_and_spares_the_others(bench: Bench, fault: str, workload: str) -> None:
    rows = (faulty(fault), Candidate(CATALOGUE["unimq"], place()))
    found = runs_of(bench, load(workload), *rows, rounds=1, seconds=0.5, rate=200.0)
    failed = [run for run in found if run.row.startswith(fault)]
    others = [run for run in found if run.row.startswith("unimq")]
    expected = "code 3" if fault == "dying" else "no queues today"
    assert any(expected in why for run in failed for why in run.invalid), failed
    assert others
    assert all(run.accounting.received > 0 and run.accounting.lost == 0 for run in others)
    assert not any("failed" in why for run in others for why in run.invalid)


def test_few_messages_give_no_p99(bench: Bench) -> None:
    (run,) = runs_of(bench, load("e2e_low"), Candidate(CATALOGUE["unimq"], place()), rate=200.0, seconds=1.0)
    assert any("too few for a p99" in why for why in run.invalid)


def test_the_load_of_others_is_seen(bench: Bench) -> None:
    bench.collection.foreign_cores = 0.000001
    (run,) = runs_of(bench, load("publish_max"), Candidate(CATALOGUE["unimq"], place()), messages=20_000, rounds=2)
    assert run.foreign_cpu == 0 or any("busy with something else" in why for why in run.invalid)


def test_nacks_come_again_and_poison_is_counted_exactly(bench: Bench) -> None:
    (run,) = runs_of(bench, load("redeliver"), Candidate(CATALOGUE["unimq"], place()), rate=500.0, seconds=1.0)
    assert run.invalid == ()
    assert run.accounting.redelivered_on_purpose == 25
    assert run.accounting.dead_lettered == 5
    assert run.accounting.received == 495


def test_a_closed_consumer_loses_nothing(bench: Bench) -> None:
    (run,) = runs_of(
        bench, load("fault"), Candidate(CATALOGUE["unimq"], place()), rate=500.0, seconds=1.0, fault_at=0.4
    )
    assert run.invalid == ()
    assert [event.what for event in run.events] == [run.events[0].what, "consumer opened"]
    assert run.accounting.received - run.accounting.duplicated == run.accounting.acked == 500


def test_a_candidate_is_named_by_library_and_place() -> None:
    assert replace(faulty("lossy")).name == "lossy on memory"
