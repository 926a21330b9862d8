"""Kinds of workloads: what counts as kept up, what a recovery is, and each kind from start to end in memory."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from unimq_bench.measuring import Bench, estimate, kept_up, measure
from unimq_bench.recording import folded
from unimq_bench.results import Accounting, Run, Sample, Slice
from unimq_bench.rows.catalogue import CATALOGUE
from unimq_bench.targets import Candidate, Place
from unimq_bench.workloads import load, names

import unimq

RATE, SECONDS, SLO = 1000.0, 3.0, 0.1


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


@pytest.fixture
def candidate() -> Candidate:
    with unimq.connect("memory://") as broker:
        place = Place("memory", "memory", "memory://", broker.capabilities)
    return Candidate(CATALOGUE["unimq"], place)


def a_run(
    *, sent: int = 3000, seconds: float = 3.0, backlog: float = 0.0, growth: float = 0.0, p99: int = 5, failed: int = 0
) -> Run:
    timeline = tuple(
        Sample(
            t=number / 4,
            sent=0,
            received=0,
            backlog=int(backlog + growth * number / 4),
            p99=0.001,
            client_cpu=0.1,
            broker_cpu=None,
            client_rss=1,
            broker_rss=None,
        )
        for number in range(12)
    )
    return Run(
        row="unimq on memory",
        workload="max_sustainable",
        slices=(Slice(metric="publish", messages=sent, seconds=seconds),),
        accounting=Accounting(sent=sent, acked=sent - failed, failed=failed, received=sent),
        histograms={"response": folded([p99 * 1_000_000] * 1000)},
        timeline=timeline,
    )


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (a_run(), ""),
        # A broker that works in large batches has a backlog, and no less of a rate.
        (a_run(backlog=50_000), ""),
        (a_run(growth=9), ""),
        (a_run(growth=15), "the backlog grew by 15"),
        (a_run(p99=101), "the response p99 was 101 ms"),
        (a_run(failed=1), "1 sends failed"),
        (a_run(sent=2900), "of 1000 messages per second were sent"),
        (a_run(seconds=3.1), "of 1000 messages per second were sent"),
    ],
)
def test_what_it_takes_to_keep_up(run: Run, why: str) -> None:
    told = kept_up(run, RATE, SECONDS, SLO)
    assert (why in told) if why else told == ""


def test_every_workload_says_how_long_it_takes() -> None:
    for name in names():
        workload = load(name)
        if workload.kind != "cost":
            for profile in ("smoke", "standard", "full"):
                assert 0 < estimate(workload, 2, workload.parameters_for("kafka", profile)) < 7200


def metrics(bench: Bench) -> set[str]:
    return {figure.metric for figure in bench.collection.figures}


def run_on_memory(bench: Bench, candidate: Candidate, name: str, **settings: object) -> list[Run]:
    workload = load(name)
    parameters = workload.parameters_for("memory", "smoke", {"max_rate": 500.0, "seconds": 1.0, **settings})
    measure(bench, workload, candidate.place, [candidate], parameters)
    for run in bench.collection.runs:
        assert run.accounting.sent == run.accounting.acked > 0
        assert run.accounting.lost == 0
    return bench.collection.runs


def test_rates_are_shares_of_what_comes_through(bench: Bench, candidate: Candidate) -> None:
    probe, *runs = run_on_memory(bench, candidate, "rate_sweep", fractions=[0.5, 1.0])
    assert probe.point == {"rate": "flat out"}
    assert [run.point["rate"] for run in runs] == [250.0, 500.0]
    assert {"response p50", "response p99", "service p99", "end-to-end rate"} <= metrics(bench)


def test_a_sustainable_rate_is_confirmed(bench: Bench, candidate: Candidate) -> None:
    runs = run_on_memory(bench, candidate, "max_sustainable", slo=3600, trials=1, confirmations=2)
    (figure,) = [figure for figure in bench.collection.figures if figure.metric == "sustainable rate"]
    tried = [run.point["purpose"] for run in runs[1:]]
    if figure.value:
        # The trial counts as the first of the two, unless a rate below it had to be found.
        assert tried[0] == "trial"
        assert tried[-2:] == ["confirmation", "80 % of the sustainable rate"]
        assert figure.high is not None
        assert figure.value < figure.high <= 500
    else:
        # On a machine this busy no rate may be kept up; then that is what is told.
        assert figure.why_unranked == "no rate was kept up"
    assert any("msg/s" in note for note in bench.collection.notes)


def test_a_backlog_waits_for_its_consumer(bench: Bench, candidate: Candidate) -> None:
    (run,) = run_on_memory(bench, candidate, "backlog", build=3000, rate=200.0)
    assert run.accounting.received == run.accounting.sent == 3200
    assert {"time to drain the backlog", "drain rate", "peak memory of the client"} <= metrics(bench)


def test_a_stall_shows_in_the_latency_and_the_events(bench: Bench, candidate: Candidate) -> None:
    settings = {"rate": 200.0, "seconds": 2.0, "pause_at": 0.5, "pause": 0.5}
    (run,) = run_on_memory(bench, candidate, "stall", **settings)
    assert [event.what for event in run.events] == ["consumers stand still", "consumers go on"]
    (p99,) = [figure for figure in bench.collection.figures if figure.metric == "response p99"]
    # A schedule that waits for nobody: what was due during the pause came late by most of it.
    assert p99.value >= 400
    assert "peak backlog" in metrics(bench)


def test_several_producers_and_consumers_account_for_all(bench: Bench, candidate: Candidate) -> None:
    one, several = run_on_memory(bench, candidate, "fan", shapes=[[1, 1, 1], [2, 3, 2]], seconds=0.3)
    assert (one.point["shape"], several.point["shape"]) == ("1×1", "2×3")
    assert several.point["queues"] == 2
    against = [figure.value for figure in bench.collection.figures if figure.metric == "rate against 1×1"]
    assert (against[0], len(against)) == (1, 2)


def test_sizes_and_windows_are_points(bench: Bench, candidate: Candidate) -> None:
    runs = run_on_memory(bench, candidate, "size_sweep", sizes=[100, 70_000], rounds=1, seconds=0.02)
    assert [run.point for run in runs] == [
        {"size": 100, "content": "random"},
        {"size": 70_000, "content": "random"},
    ]
    runs = run_on_memory(bench, candidate, "window_sweep", windows=[1, 50], rounds=1, seconds=0.02)
    assert [run.point["window"] for run in runs[2:]] == [1, 50]


def test_two_places_of_one_backend_have_names_of_their_own(candidate: Candidate) -> None:
    other = replace(candidate, place=replace(candidate.place, name="memory 2"))
    assert (candidate.name, other.name) == ("unimq on memory", "unimq on memory 2")
