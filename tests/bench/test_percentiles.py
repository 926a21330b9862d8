"""Percentiles of merged histograms are those of all values together, to HDR's precision."""

import random

import pytest
from unimq_bench.percentiles import Distribution, merged
from unimq_bench.recording import folded
from unimq_bench.results import ResultError


def _exact(values: list[int], percentile: float) -> int:
    ordered = sorted(values)
    return ordered[max(0, -(-int(percentile * 1000) * len(ordered) // 100_000) - 1)]


@pytest.mark.parametrize("percentile", [50.0, 90.0, 99.0, 99.9, 99.99, 100.0])
def test_percentiles_of_merged_histograms_are_those_of_all_values(percentile: float) -> None:
    chance = random.Random(3)
    parts = [[int(chance.lognormvariate(13 + part, 0.8)) for _ in range(20_000)] for part in range(3)]
    found = merged(folded(part) for part in parts)
    assert found.total == 60_000
    exact = _exact([value for part in parts for value in part], percentile)
    assert found.at(percentile) == pytest.approx(exact, rel=0.001)


def test_interval_by_order_statistics_is_that_of_the_ranks() -> None:
    values = list(range(1, 10_001))
    found = merged([folded([value * 1000 for value in values])])
    interval = found.interval(99.0)
    assert interval is not None
    # n = 10 000: p99 lies in the ranks 9 880 to 9 920.
    assert interval[0] == pytest.approx(9_880_000, rel=0.001)
    assert interval[1] == pytest.approx(9_920_000, rel=0.001)


def test_curve_rises_ends_at_the_highest_and_stays_small() -> None:
    chance = random.Random(4)
    found = merged([folded([int(chance.expovariate(1e-6)) + 1 for _ in range(50_000)])])
    curve = found.curve()
    assert curve == sorted(curve)
    assert curve[-1][1] == found.highest
    assert 20 < len(curve) < 200


def test_nothing_recorded_is_no_figure() -> None:
    for found in (Distribution(), merged([]), merged([folded([])])):
        assert (found.total, found.at(99.0), found.interval(99.0), found.curve(), found.highest) == (
            0,
            None,
            None,
            [],
            None,
        )


@pytest.mark.parametrize("text", ["", "x", "AAAA", "bm90IGEgaGlzdG9ncmFt", "é"])
def test_what_is_no_histogram_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(ResultError, match="cannot be decoded"):
        merged([text])
