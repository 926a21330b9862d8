"""What others disturb is measured again as often as its time allows, and nothing that lost a message ever is."""

from collections.abc import Callable
from typing import Any

import pytest
from unimq_bench import slices, streams
from unimq_bench.measuring import Bench, measure
from unimq_bench.redoing import Redos, never
from unimq_bench.results import Run
from unimq_bench.rows.catalogue import CATALOGUE
from unimq_bench.targets import Candidate, Place
from unimq_bench.workloads import load

import unimq


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


@pytest.fixture
def candidate() -> Candidate:
    with unimq.connect("memory://") as broker:
        return Candidate(CATALOGUE["unimq"], Place("memory", "memory", "memory://", broker.capabilities))


def disturb(monkeypatch: pytest.MonkeyPatch, module: Any, times: int) -> None:
    """Let the first `times` looks at the load of others see a core that is busy, and the rest none."""
    looks: list[None] = []

    def foreign_cpu(_: object) -> float:
        looks.append(None)
        return 1000.0 if len(looks) <= times else 0.0

    monkeypatch.setattr(module.Usage, "foreign_cpu", foreign_cpu)


def runs_of(bench: Bench, workload: str, candidate: Candidate, **settings: object) -> list[Run]:
    chosen = load(workload)
    measure(bench, chosen, candidate.place, [candidate], chosen.parameters_for("memory", "smoke", dict(settings)))
    return bench.collection.runs


def test_time_is_taken_for_what_was_disturbed_and_no_other() -> None:
    redos = Redos(0.2, 5.0)
    assert not redos.wants(0.2, 1.0)
    assert redos.wants(0.3, 4.0)
    assert not redos.wants(0.3, 1.5)
    assert redos.wants(0.3, 1.0)
    assert redos.seconds == 0
    assert not never().wants(1000.0, 0.0001)


def test_a_disturbed_stream_is_measured_again(
    bench: Bench, candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.redos = Redos(0.2, 60.0)
    disturb(monkeypatch, streams, 1)
    (run,) = runs_of(bench, "e2e_low", candidate, rate=200.0, seconds=0.5)
    assert run.foreign_cpu == 0
    assert [part.metric for part in run.discarded] == [part.metric for part in run.slices]
    assert bench.redos.seconds < 60


def test_a_machine_that_stays_busy_ends_the_attempts(
    bench: Bench, candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.redos = Redos(0.2, 60.0)
    disturb(monkeypatch, streams, 1_000_000)
    (run,) = runs_of(bench, "e2e_low", candidate, rate=200.0, seconds=0.5)
    assert run.foreign_cpu > 0.2
    assert len(run.discarded) == len(run.slices)


def test_a_disturbed_slice_is_measured_again_and_its_messages_are_counted(
    bench: Bench, candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.redos = Redos(0.2, 1e9)
    disturb(monkeypatch, slices, 1_000_000)
    (run,) = runs_of(bench, "publish_max", candidate, messages=500, rounds=2)
    for kept in (run.slices, run.discarded):
        # A drain that was a single batch has no slice.
        assert [part.pair for part in kept if part.metric == "publish"] == [0, 1]
    assert run.accounting.sent == run.accounting.received == 2 * 2 * 500
    assert run.accounting.lost == 0
