"""Medians, intervals and verdicts. The process is the sample: slices inside one process are correlated."""

import math
import random
from collections.abc import Sequence
from statistics import fmean, median, stdev
from typing import NamedTuple

from unimq_bench.results import Verdict

MARGIN = 0.02
"""Differences below this are of no interest, whatever their certainty."""
FEWEST_PROCESSES = 5
_RESAMPLES = 2000
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""97.5 % quantiles for 1, 2, … degrees of freedom."""
_NORMAL = 1.96
_NORMAL_FROM = 30


class Estimate(NamedTuple):
    """A ratio with two 95 % intervals, and the median of each process."""

    value: float
    low: float
    high: float
    t_low: float
    t_high: float
    by_process: tuple[float, ...]


def ratio_of(logarithms: Sequence[Sequence[float]], generator: random.Random) -> Estimate:
    """Estimate a ratio from the logarithms of the ratios of pairs, by process.

    The value is the median over processes of the median over pairs; the first interval is of a bootstrap that draws
    whole processes.

    Raises:
        ValueError: there is no pair.

    """
    of_processes = [median(pairs) for pairs in logarithms if pairs]
    if not of_processes:
        raise ValueError("a ratio needs at least one pair")
    drawn = sorted(median(generator.choices(of_processes, k=len(of_processes))) for _ in range(_RESAMPLES))
    low, high = drawn[int(_RESAMPLES * 0.025)], drawn[int(_RESAMPLES * 0.975) - 1]
    middle, half = fmean(of_processes), _half_width(of_processes)
    return Estimate(
        math.exp(median(of_processes)),
        math.exp(low),
        math.exp(high),
        math.exp(middle - half),
        math.exp(min(middle + half, 700.0)),
        tuple(math.exp(value) for value in of_processes),
    )


def _half_width(values: Sequence[float]) -> float:
    if len(values) < 2:
        # One process says nothing about others.
        return math.inf
    return student(len(values) - 1) * stdev(values) / math.sqrt(len(values))


def student(degrees: int) -> float:
    """Return the 97.5 % quantile of Student's t; rounded up between the entries of the table."""
    if degrees <= len(_STUDENT):
        return _STUDENT[degrees - 1]
    return _STUDENT[-1] if degrees < _NORMAL_FROM else _NORMAL


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the median and the median absolute deviation from it.

    Raises:
        ValueError: there is no value.

    """
    if not values:
        raise ValueError("a median needs at least one value")
    middle = median(values)
    return middle, median(abs(value - middle) for value in values)


def verdict_on(estimate: Estimate, floor: Estimate, *, processes: int) -> tuple[Verdict, str]:
    """Judge a ratio of times: above 1 the first row is slower. Returns the verdict and its reason."""
    if processes < FEWEST_PROCESSES:
        return "cannot tell", f"{processes} processes; a verdict needs {FEWEST_PROCESSES}"
    low, high = estimate.low, estimate.high
    outside = f"the interval is outside ±{MARGIN:.0%} and outside the noise floor"
    if low > 1 + MARGIN and low > floor.high:
        return "slower", outside
    if high < 1 - MARGIN and high < floor.low:
        return "faster", outside
    if low >= 1 - MARGIN and high <= 1 + MARGIN:
        return "no difference", f"the whole interval is within ±{MARGIN:.0%}"
    if low > 1 + MARGIN or high < 1 - MARGIN:
        return "cannot tell", "the interval reaches into the noise floor of this run"
    return "cannot tell", f"the interval reaches into ±{MARGIN:.0%} without being within"


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the least-squares line through points; 0 if they do not define one."""
    if len(points) < 2:
        return 0.0
    middle_x, middle_y = fmean(x for x, _ in points), fmean(y for _, y in points)
    below = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / below if below else 0.0
