"""From recorded times to histograms that can be merged, and what recording itself costs.

On the hot path a time is appended to an ``array('q')``; only afterwards are the times folded into an HDR histogram,
whose own recording costs thirty times as much.
"""

import importlib
import math
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

_LOWEST, _HIGHEST, _DIGITS = 1, 3_600_000_000_000, 3
"""Nanoseconds up to an hour, to a thousandth."""
PERCENT = 100.0


class NoHistograms(ImportError):
    """The library of HDR histograms is not installed; the message holds the pip line."""


def folded(times: Iterable[int]) -> str:
    """Return the times, in nanoseconds, as an HDR histogram in its V2 encoding; times below 1 count as 1."""
    histogram = _new()
    for moment, count in Counter(times).items():
        histogram.record_value(min(max(moment, _LOWEST), _HIGHEST), count)
    encoded: bytes = histogram.encode()
    return encoded.decode("ascii")


def merged(histograms: Sequence[str]) -> str:
    """Return one histogram of all: that, and not an average of percentiles, is their percentile."""
    total = _new()
    for encoded in histograms:
        total.add(_decoded(encoded))
    result: bytes = total.encode()
    return result.decode("ascii")


def count_of(histogram: str) -> int:
    """Return how many times it holds."""
    return int(_decoded(histogram).get_total_count())


def percentile(histogram: str, percent: float) -> float:
    """Return a percentile in seconds; 0 of an empty one."""
    return float(_decoded(histogram).get_value_at_percentile(percent)) / 1e9


def percentile_interval(times: Sequence[int], percent: float) -> tuple[float, float]:
    """Return the 95 % interval of a percentile by order statistics, in seconds, for sorted times."""
    if not times:
        return 0.0, 0.0
    share, count = percent / PERCENT, len(times)
    half = 1.96 * math.sqrt(count * share * (1 - share))
    low = max(0, math.floor(count * share - half) - 1)
    high = min(count - 1, math.ceil(count * share + half) - 1)
    return times[low] / 1e9, times[high] / 1e9


def cost_per_sample(samples: int = 200_000) -> float:
    """Return the nanoseconds that recording one time costs on this machine, beyond the loop around it.

    Each loop's best of five counts: what disturbs one of them, in a pair with the other, would be taken for the cost.
    """
    append = array("q").append
    recorded = empty = math.inf
    for _ in range(5):
        start = time.thread_time_ns()
        for number in range(samples):
            append(number)
        middle = time.thread_time_ns()
        for _number in range(samples):
            pass
        recorded, empty = min(recorded, middle - start), min(empty, time.thread_time_ns() - middle)
    return (recorded - empty) / samples


def _histogram_class() -> Any:
    # By name: the library has no type hints, and `unimq bench --help` shall not need it.
    try:
        return importlib.import_module("hdrh.histogram").HdrHistogram
    except ModuleNotFoundError as error:
        raise NoHistograms(
            "the benchmark needs hdrhistogram, which is not installed: pip install 'unimq[bench]'"
        ) from error


def _new() -> Any:
    return _histogram_class()(_LOWEST, _HIGHEST, _DIGITS)


def _decoded(histogram: str) -> Any:
    return _histogram_class().decode(histogram)
