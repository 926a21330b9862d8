"""Each gate by itself, on runs made up for it: it closes for what it is for, and for nothing else."""

import msgspec
import pytest
from unimq_bench import gates
from unimq_bench.recording import folded
from unimq_bench.results import Accounting, Counters, Row, Run, Slice

CLEAN = Run(
    row="unimq on rabbitmq",
    workload="e2e_low",
    seconds=10.0,
    slices=tuple(Slice(metric="publish", messages=1000, seconds=1.0) for _ in range(8)),
    histograms={"response": folded([5_000_000] * 20_000), "lateness": folded([50_000] * 20_000)},
    accounting=Accounting(sent=20_000, acked=20_000, received=20_000),
    counters=Counters(batches=500, largest_batch=60),
    cpu_seconds=3.0,
    foreign_cpu=0.1,
)


def changed(**changes: object) -> Run:
    return msgspec.structs.replace(CLEAN, **changes)


def counted(**changes: int) -> Run:
    return changed(accounting=msgspec.structs.replace(CLEAN.accounting, **changes))


def test_a_clean_run_passes_all() -> None:
    assert gates.broken(CLEAN, latencies=True) == ()


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (counted(lost=1), "1 of 20000 acked messages were lost"),
        (counted(corrupted=2), "2 messages were corrupted"),
        (counted(unknown=3), "3 messages came that nobody sent"),
        (counted(duplicated=4), "4 deliveries were duplicates without a cause"),
        (counted(sent=0, acked=0, received=0), "nothing was sent"),
        (counted(acked=0), "no send was confirmed"),
        (counted(received=0), "nothing was received"),
        (changed(foreign_cpu=0.21), "0.21 cores were busy with something else"),
        (changed(histograms={}), "no latency was recorded"),
        (changed(histograms={"response": folded([5_000_000] * 9_999)}), "9999 messages are too few for a p99"),
        (changed(counters=Counters(batches=99)), "99 batches are too few for a p99"),
        (
            changed(histograms={**CLEAN.histograms, "lateness": folded([600_000] * 20_000)}),
            "the load generator was late: p99 0.6 ms",
        ),
        (
            changed(
                slices=tuple(Slice(metric="consume", messages=1000, seconds=1.0 + (n > 3)) for n in range(8)),
            ),
            "consume: the second half was -50% against the first",
        ),
    ],
)
def test_each_gate_closes_for_its_fault_alone(run: Run, reason: str) -> None:
    (found,) = gates.broken(run, latencies=True)
    assert reason in found


def test_what_was_not_waited_for_is_not_missed() -> None:
    run = changed(accounting=Accounting(sent=10, acked=10, received=0, judged=False))
    assert gates.broken(run, latencies=False) == ()


def test_duplicates_have_an_excuse_under_a_fault() -> None:
    assert gates.broken(counted(duplicated=4), latencies=True, excused=True) == ()


def test_a_clock_is_not_taken_for_a_late_generator() -> None:
    # 0.2 ms are half of this p99, and nevertheless what a sleep ends late by.
    run = changed(histograms={"response": folded([400_000] * 20_000), "lateness": folded([200_000] * 20_000)})
    assert gates.broken(run, latencies=True) == ()


def test_a_client_that_is_the_bottleneck_is_told() -> None:
    assert gates.bottleneck(CLEAN, 1) is None
    note = gates.bottleneck(changed(cpu_seconds=19.5), 2)
    assert note is not None
    assert "0.97 cores for each process" in note


def test_rows_that_may_not_be_ranked_against_each_other() -> None:
    row = Row(name="a", library="unimq", kind="unimq", backend="kafka", durability="fsync")
    other = msgspec.structs.replace(row, name="b")
    assert gates.unequal([row, other]) is None
    careless = gates.unequal([row, msgspec.structs.replace(other, durability="at-most-once")])
    assert careless is not None
    assert "durability differs (a: fsync, b: at-most-once)" in careless
    emulated = gates.unequal([row, msgspec.structs.replace(other, emulated="ministack")])
    assert emulated is not None
    assert "emulator" in emulated
    near = gates.unequal([row, msgspec.structs.replace(other, in_process=True)])
    assert near is not None
    assert "in one process" in near
