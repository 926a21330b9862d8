"""Figures are written with three digits that count, the right unit, and never an exponent."""

import math

import pytest
from unimq_bench import notation


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"),
        (0.004236, "0.00424"),
        (9.996, "10"),
        (12.34, "12.3"),
        (999.4, "999"),
        (999.6, "1 k"),
        (28_123, "28.1 k"),
        (999_700, "1 M"),
        (2_150_000, "2.15 M"),
        (-1234, "-1.23 k"),
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "–"),
    ],
)
def test_numbers(value: float | None, written: str) -> None:
    assert notation.number(value) == written


@pytest.mark.parametrize(
    ("nanoseconds", "written"),
    [(0, "0"), (43, "43 ns"), (999.8, "1 µs"), (1_600_000, "1.6 ms"), (3.3e9, "3.3 s"), (125e9, "125 s"), (None, "–")],
)
def test_durations(nanoseconds: float | None, written: str) -> None:
    assert notation.duration(nanoseconds) == written


@pytest.mark.parametrize(
    ("ratio", "written"),
    [
        (1.0342, "+3.4 %"),
        (0.981, "\N{MINUS SIGN}1.9 %"),
        (1.0, "±0.0 %"),
        (0.9999, "±0.0 %"),
        (3.0, "+200 %"),
        (None, "–"),
    ],
)
def test_changes(ratio: float | None, written: str) -> None:
    assert notation.percent(ratio) == written


def test_other_units() -> None:
    assert notation.count(1_603_041) == "1\N{NARROW NO-BREAK SPACE}603\N{NARROW NO-BREAK SPACE}041"
    assert notation.rate(26_400) == "26.4 k/s"
    assert [notation.size(each) for each in (100, 1024, 65_536, 3 * 2**20)] == ["100 B", "1 KiB", "64 KiB", "3 MiB"]
    assert notation.times(0.0586) == "0.0586×"
    assert [notation.money(each) for each in (0, 0.0000004, 0.12, 141.5)] == ["$0.00", "$0.0000004", "$0.12", "$141.50"]
