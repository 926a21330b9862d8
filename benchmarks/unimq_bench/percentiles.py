"""Percentiles from kept histograms: histograms are merged, percentiles never are."""

import bisect
import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass

from unimq_bench.recording import NoHistograms, _decoded
from unimq_bench.results import ResultError

NEEDED = {50.0: 100, 90.0: 500, 99.0: 10_000, 99.9: 100_000, 99.99: 1_000_000}
"""How many messages each percentile needs before it says anything about the next run."""
BATCHES_NEEDED = 100
"""For percentiles from 99 up: the messages of one receive have waited together, and are one observation."""
_CURVE_POINTS = 160


@dataclass(frozen=True, slots=True)
class Distribution:
    """Recorded values in rising order, each with the number of those up to it."""

    values: tuple[int, ...] = ()
    upto: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        """Number of recorded values."""
        return self.upto[-1] if self.upto else 0

    @property
    def highest(self) -> int | None:
        """The largest value."""
        return self.values[-1] if self.values else None

    def at(self, percentile: float) -> int | None:
        """Return the smallest value that at least this part of all does not exceed; ``None`` if nothing is recorded."""
        # Half a millionth less, since 0.999 * 200 000 is a little more than 199 800.
        return self._of_rank(math.ceil(percentile / 100 * self.total - 5e-7))

    def interval(self, percentile: float) -> tuple[int, int] | None:
        """Return between which values it lies with 95 %, by order statistics, as if values were independent."""
        part = percentile / 100
        half = 1.96 * math.sqrt(self.total * part * (1 - part))
        first = self._of_rank(math.floor(part * self.total - half))
        last = self._of_rank(math.ceil(part * self.total + half))
        return None if first is None or last is None else (first, last)

    def _of_rank(self, rank: int) -> int | None:
        if not self.values:
            return None
        return self.values[bisect.bisect_left(self.upto, min(max(rank, 1), self.total))]

    def curve(self) -> list[tuple[float, float]]:
        """Return (percentile, value) at even steps on an axis of percentiles, up to what the number carries."""
        if self.total < 2:
            return []
        reach = math.log10(self.total)
        steps = (100 * (1 - 10 ** -(reach * index / _CURVE_POINTS)) for index in range(_CURVE_POINTS + 1))
        points = [(percentile, float(self.at(percentile) or 0)) for percentile in steps]
        # 100 % is infinitely far to the right: the highest value is shown where its like begin.
        points[-1] = (points[-1][0], float(self.values[-1]))
        # A run of equal values is a step: its two ends are enough.
        return [
            point
            for index, point in enumerate(points)
            if index in {0, len(points) - 1} or not points[index - 1][1] == point[1] == points[index + 1][1]
        ]


def merged(encoded: Iterable[str]) -> Distribution:
    """Merge histograms in HDR's V2 encoding.

    Raises:
        ResultError: one of them is none.

    """
    counts: dict[int, int] = {}
    for text in encoded:
        for value, number in _recorded(text):
            counts[value] = counts.get(value, 0) + number
    values = tuple(sorted(counts))
    upto: list[int] = []
    for value in values:
        upto.append((upto[-1] if upto else 0) + counts[value])
    return Distribution(values, tuple(upto))


# A page asks for the same histogram several times: for a curve, a table, a knee.
@functools.lru_cache(maxsize=512)
def _recorded(text: str) -> tuple[tuple[int, int], ...]:
    """Return each recorded value, rounded up to the end of its bucket, and how often it was recorded."""
    try:
        histogram = _decoded(text)
        # The library's own iterators take ten times as long.
        return tuple(
            (int(histogram.get_highest_equivalent_value(histogram.get_value_from_index(index))), int(count))
            for index, count in enumerate(histogram.counts)
            if count
        )
    except NoHistograms:
        raise
    # The codec's errors share no class, and zlib, base64 and ctypes have their own.
    except Exception as error:
        raise ResultError(f"a histogram of the result cannot be decoded: {error}") from error
