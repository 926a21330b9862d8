"""How a figure is written for a person: three digits that count, and the unit that keeps it short."""

import math

_NO_FIGURE = "–"
_LARGE = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_TIMES = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"))
_SIZES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def number(value: float | None) -> str:
    """Write a number: `12.3 k`, `987`, `0.0042`; a dash for none and for what is not finite."""
    if value is None or not math.isfinite(value):
        return _NO_FIGURE
    for factor, prefix in _LARGE:
        # What would be rounded up to 1000 belongs to the next prefix.
        if abs(value) >= factor * 0.9995:
            return f"{_digits(value / factor)} {prefix}"
    return _digits(value)


def count(value: float | None) -> str:
    """Write a number of things in full, with thin spaces between the thousands."""
    if value is None or not math.isfinite(value):
        return _NO_FIGURE
    return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def rate(value: float | None) -> str:
    """Write messages per second."""
    return _NO_FIGURE if value is None or not math.isfinite(value) else f"{number(value)}/s"


def duration(nanoseconds: float | None) -> str:
    """Write a time that is given in nanoseconds."""
    if nanoseconds is None or not math.isfinite(nanoseconds):
        return _NO_FIGURE
    for factor, unit in _TIMES:
        if abs(nanoseconds) >= factor * 0.9995:
            return f"{_digits(nanoseconds / factor)} {unit}"
    return f"{_digits(nanoseconds)} ns" if nanoseconds else "0"


def size(octets: float | None) -> str:
    """Write a number of bytes."""
    if octets is None or not math.isfinite(octets):
        return _NO_FIGURE
    for factor, unit in _SIZES:
        if abs(octets) >= factor:
            return f"{_digits(octets / factor)} {unit}"
    return f"{_digits(octets)} B"


def percent(ratio: float | None) -> str:
    """Write a ratio as the change that it is: 1.034 is `+3.4 %`."""
    if ratio is None or not math.isfinite(ratio):
        return _NO_FIGURE
    change = (ratio - 1) * 100
    figure = f"{abs(change):.0f}" if abs(change) >= 99.5 else f"{abs(change):.1f}"
    if figure == "0.0":
        return "±0.0 %"
    sign = "+" if change > 0 else "\N{MINUS SIGN}"
    return f"{sign}{figure} %"


def times(ratio: float | None) -> str:
    """Write a ratio as it is: `0.97×`."""
    return _NO_FIGURE if ratio is None or not math.isfinite(ratio) else f"{_digits(ratio)}×"


def money(dollars: float | None) -> str:
    """Write dollars, with as many digits as a small price needs."""
    if dollars is None or not math.isfinite(dollars):
        return _NO_FIGURE
    if dollars == 0 or abs(dollars) >= 1:
        return f"${dollars:,.2f}"
    return f"${_digits(dollars)}"


def _digits(value: float) -> str:
    """Write three digits that count, and never an exponent."""
    if value == 0:
        return "0"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    rounded = round(value, places)
    # Rounding may have added a digit: 9.996 is 10.0.
    places = max(0, 2 - math.floor(math.log10(abs(rounded)))) if rounded else places
    text = f"{rounded:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
