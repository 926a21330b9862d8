"""Intervals that hold what they promise, verdicts that need certainty, percentiles from whole histograms."""

import math
import random

import pytest
from unimq_bench import recording
from unimq_bench.statistics import Estimate, ratio_of, slope, spread, student, verdict_on

QUIET = Estimate(1.0, 0.995, 1.005, 0.995, 1.005, (1.0,) * 8)


def estimate(low: float, high: float) -> Estimate:
    middle = math.sqrt(low * high)
    return Estimate(middle, low, high, low, high, (middle,) * 8)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    generator = random.Random(7)
    held = 0
    for _ in range(200):
        processes: list[list[float]] = []
        for _ in range(8):
            shift = generator.gauss(0, 0.05)
            processes.append([math.log(1.3) + shift + generator.gauss(0, 0.1) for _ in range(6)])
        found = ratio_of(processes, generator)
        held += found.low <= 1.3 <= found.high
    # A bootstrap over eight processes is a little too narrow; slices taken for samples would hold it half the time.
    assert held >= 170


def test_the_process_is_the_sample() -> None:
    generator = random.Random(1)
    agreeing = [[math.log(1.2)] * 6 for _ in range(8)]
    assert ratio_of(agreeing, generator).low == pytest.approx(1.2)
    # Six equal slices in each process do not make up for processes that disagree.
    split = [[math.log(1.0)] * 6] * 4 + [[math.log(1.5)] * 6] * 4
    found = ratio_of(split, generator)
    assert found.low == pytest.approx(1.0)
    assert found.high == pytest.approx(1.5)
    assert found.by_process == pytest.approx((1.0,) * 4 + (1.5,) * 4)


def test_one_process_has_no_interval() -> None:
    found = ratio_of([[0.1, 0.2]], random.Random(1))
    assert found.t_low == 0.0
    assert found.t_high > 1e100


def test_nothing_has_no_ratio() -> None:
    with pytest.raises(ValueError, match="at least one pair"):
        ratio_of([[], []], random.Random(1))
    with pytest.raises(ValueError, match="at least one value"):
        spread([])


@pytest.mark.parametrize(
    ("found", "floor", "processes", "verdict"),
    [
        (estimate(1.10, 1.20), QUIET, 8, "slower"),
        (estimate(0.70, 0.80), QUIET, 8, "faster"),
        (estimate(0.99, 1.01), QUIET, 8, "no difference"),
        (estimate(1.01, 1.10), QUIET, 8, "cannot tell"),
        (estimate(1.005, 1.019), QUIET, 8, "no difference"),
        (estimate(1.10, 1.20), estimate(0.85, 1.15), 8, "cannot tell"),
        (estimate(0.70, 0.80), estimate(0.75, 1.30), 8, "cannot tell"),
        (estimate(1.10, 1.20), QUIET, 4, "cannot tell"),
    ],
)
def test_a_verdict_needs_to_be_outside_of_margin_and_noise(
    found: Estimate, floor: Estimate, processes: int, verdict: str
) -> None:
    told, why = verdict_on(found, floor, processes=processes)
    assert told == verdict
    assert why


def test_students_quantiles_only_err_on_the_wide_side() -> None:
    assert student(1) == pytest.approx(12.706)
    assert student(7) == pytest.approx(2.365)
    assert student(20) >= 2.086
    assert student(1000) == pytest.approx(1.96)


def test_a_slope_is_not_a_level() -> None:
    assert slope([(0, 5000), (1, 5000), (2, 5000)]) == 0
    assert slope([(0, 0), (1, 100), (2, 200)]) == pytest.approx(100)
    assert slope([(1, 1)]) == 0


def test_median_and_its_deviation() -> None:
    assert spread([1, 2, 3, 4, 100]) == (3, 1)


def test_percentiles_come_from_the_whole_histogram() -> None:
    fast = recording.folded([1_000_000] * 980)
    slow = recording.folded([50_000_000] * 20)
    both = recording.merged([fast, slow])
    assert recording.count_of(both) == 1000
    assert recording.percentile(both, 50) == pytest.approx(0.001, rel=0.002)
    # The mean of both 99th percentiles would be 25 ms.
    assert recording.percentile(both, 99) == pytest.approx(0.050, rel=0.002)


def test_times_of_zero_and_below_are_kept() -> None:
    # Tools that drop them make short latencies look longer.
    assert recording.count_of(recording.folded([0, -5, 10])) == 3


def test_the_interval_of_a_percentile_is_by_ranks() -> None:
    low, high = recording.percentile_interval([number * 1_000_000_000 for number in range(10_000)], 99)
    assert low == pytest.approx(9_880, abs=2)
    assert high == pytest.approx(9_919, abs=2)


def test_recording_a_sample_costs_something_and_is_measured() -> None:
    assert 0 < recording.cost_per_sample(20_000) < 100_000
