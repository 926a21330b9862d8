"""Charts as static inline SVG, written by us: no script, no font, no file.

Colours are classes of the page's style sheet, so that a chart follows light and dark. What a chart shows is also in a
table beside it; hovering tells the exact figures by SVG's own `<title>`.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from unimq_bench.markup import element, shown

HALF, WHOLE = 600, 1080
"""Widths of charts that stand beside each other and of one that stands alone, in CSS pixels; a page scales both."""
_LABELS, _WIDE_LABELS = 176, 330
_FIGURES = 110
_NAMES_HIGH = 4
_ROW = 28
_HEADING = 34
_AXIS = 26

Kind = Literal["linear", "log", "percentile"]


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to positions, on an axis that is linear, logarithmic, or of percentiles as HDR plots have it."""

    low: float
    high: float
    start: float
    end: float
    kind: Kind = "linear"

    def at(self, value: float) -> float:
        """Return the position of a value; what lies outside is put on the border."""
        low, high, place = (self._linear(each) for each in (self.low, self.high, value))
        part = 0.5 if high == low else (place - low) / (high - low)
        return self.start + min(1.0, max(0.0, part)) * (self.end - self.start)

    def _linear(self, value: float) -> float:
        if self.kind == "log":
            return math.log10(max(value, 1e-12))
        if self.kind == "percentile":
            return -math.log10(max(1 - value / 100, 1e-9))
        return value

    def ticks(self) -> list[float]:
        """Return where the axis is labelled."""
        if self.kind == "percentile":
            return [each for each in (0, 50, 90, 99, 99.9, 99.99, 99.999) if self.low <= each <= self.high]
        return _decades(self.low, self.high) if self.kind == "log" else _round_numbers(self.low, self.high)


def _round_numbers(low: float, high: float) -> list[float]:
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 5)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1,) if high / low > 150 else (1, 2, 5)
    ticks = [10.0**power * step for power in range(first, last + 1) for step in steps]
    return [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]


def from_zero(values: Iterable[float], start: float, end: float) -> Scale:
    """Return a linear axis from 0 to a round number above all values."""
    high = max(values, default=0.0) or 1.0
    step = _round_numbers(0, high)[1] if len(_round_numbers(0, high)) > 1 else high
    return Scale(0, math.ceil(high / step - 1e-9) * step, start, end)


def around(values: Iterable[float], start: float, end: float) -> Scale:
    """Return a logarithmic axis that has room on both sides of all values, which must be positive."""
    kept = [value for value in values if value > 0 and math.isfinite(value)] or [1.0]
    low, high = min(kept), max(kept)
    room = max(1.1, (high / low) ** 0.06)
    return Scale(low / room, high * room, start, end, "log")


# ------------------------------------------------------------------------------------------------------------ one value


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure with its interval; without a figure, the reason why there is none."""

    label: str
    colour: str
    value: float | None
    low: float | None = None
    high: float | None = None
    group: str = ""
    hatched: bool = False
    reason: str = ""
    spread: str = "95 % interval"
    """What its whiskers are."""


def bars(shown_bars: Sequence[Bar], write: Callable[[float | None], str], *, about: str) -> str:
    """Draw horizontal bars from zero, whiskers for intervals; hatched ones are not to be ranked with the others."""
    reach = [each for bar in shown_bars if bar.value is not None for each in (bar.value, bar.high or bar.value)]
    scale = from_zero(reach, _LABELS, HALF - _FIGURES)
    rows, height = _rows([bar.group for bar in shown_bars])
    # Reasons alone need no axis.
    parts = list(_vertical_grid(scale, write, height)) if reach else []
    for bar, (top, heading) in zip(shown_bars, rows, strict=True):
        parts += _row_label(bar.label, top, heading, _LABELS)
        middle = top + _ROW / 2
        if bar.value is None:
            parts.append(_text(bar.reason, scale.start + 6, middle, "reason", room=HALF - _LABELS))
            continue
        end = scale.at(bar.value)
        told = f"{bar.label}: {write(bar.value)}"
        if bar.low is not None and bar.high is not None:
            told += f", {bar.spread}: {write(bar.low)} to {write(bar.high)}"
        colour = f"fill {bar.colour}"
        shape = {"x": scale.start, "y": top + 6, "width": max(end - scale.start, 1), "height": _ROW - 12, "rx": 2}
        inner = element("rect", **shape, class_=colour)
        if bar.hatched:
            inner += element("rect", **shape, fill="url(#hatch)")
        right = end
        if bar.low is not None and bar.high is not None:
            right = max(end, scale.at(bar.high))
            inner += _whisker(scale.at(bar.low), scale.at(bar.high), middle, "over")
        parts.append(element("g", element("title", shown(told)) + inner))
        parts.append(_text(write(bar.value), right + 8, middle, "value"))
    return _svg(parts, HALF, height + (_AXIS if reach else 0), about)


def _rows(groups: Sequence[str]) -> tuple[list[tuple[float, str]], float]:
    """Return each row's top and the heading above it, and the height of all."""
    top, before = 0.0, ""
    rows: list[tuple[float, str]] = []
    for group in groups:
        heading = group if group != before else ""
        top += _HEADING if heading else 0
        rows.append((top, heading))
        top, before = top + _ROW, group
    return rows, top + 4


def _row_label(label: str, top: float, heading: str, room: float) -> Iterator[str]:
    if heading:
        yield _text(heading, 0, top - _HEADING / 2 + 4, "group", room=HALF)
    yield _text(label, room - 12, top + _ROW / 2, "label end", room=room - 12)


def _whisker(low: float, high: float, middle: float, colour: str) -> str:
    path = f"M{low:.1f} {middle - 5}V{middle + 5}M{low:.1f} {middle}H{high:.1f}M{high:.1f} {middle - 5}V{middle + 5}"
    return element("path", d=path, class_=f"whisker {colour}")


# --------------------------------------------------------------------------------------------------------------- ratios


@dataclass(frozen=True, slots=True)
class Estimate:
    """A ratio with its interval, and the band in which nothing can be told from noise."""

    label: str
    colour: str
    value: float | None
    low: float | None = None
    high: float | None = None
    floor: tuple[float, float] | None = None
    group: str = ""
    hatched: bool = False
    reason: str = ""


_RATIO_TICKS = (
    0.001,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.3,
    0.5,
    0.7,
    1.0,
    1.5,
    2.0,
    3.0,
    5.0,
    10.0,
    20.0,
    50.0,
    100.0,
    1000.0,
)
_NARROW_RATIO_TICKS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.4, 1.7, 2.0)


def estimates(
    ratios: Sequence[Estimate],
    write: Callable[[float | None], str],
    write_tick: Callable[[float | None], str],
    *,
    about: str,
    axis: str,
) -> str:
    """Draw each ratio as a point with its interval on a logarithmic axis around 1, over its noise floor."""
    reach = [1.0]
    for ratio in ratios:
        reach += [each for each in (ratio.value, ratio.low, ratio.high, *(ratio.floor or ())) if each is not None]
    scale = around([*reach, 0.95, 1.05], _WIDE_LABELS, WHOLE - _FIGURES)
    rows, height = _rows([ratio.group for ratio in ratios])
    ticks = _NARROW_RATIO_TICKS if scale.low > 0.5 and scale.high < 2 else _RATIO_TICKS
    inside = _apart([tick for tick in ticks if scale.low <= tick <= scale.high], scale)
    parts = list(_vertical_grid(scale, write_tick, height, ticks=inside))
    one = scale.at(1.0)
    parts.append(element("line", x1=one, x2=one, y1=0, y2=height, class_="reference"))
    for ratio, (top, heading) in zip(ratios, rows, strict=True):
        parts += _row_label(ratio.label, top, heading, _WIDE_LABELS)
        middle = top + _ROW / 2
        if ratio.value is None:
            parts.append(_text(ratio.reason, scale.start + 6, middle, "reason", room=WHOLE - _WIDE_LABELS))
            continue
        told = f"{ratio.label}: {write(ratio.value)}"
        inner = ""
        if ratio.floor is not None:
            left, right = scale.at(ratio.floor[0]), scale.at(ratio.floor[1])
            told += f"; noise floor {write(ratio.floor[0])} to {write(ratio.floor[1])}"
            inner += element("rect", x=left, y=top + 3, width=max(right - left, 1), height=_ROW - 6, class_="floor")
        right = scale.at(ratio.value)
        if ratio.low is not None and ratio.high is not None:
            told += f"; 95 % interval {write(ratio.low)} to {write(ratio.high)}"
            inner += _whisker(scale.at(ratio.low), scale.at(ratio.high), middle, f"stroke {ratio.colour}")
            right = max(right, scale.at(ratio.high))
        hollow = "hollow stroke" if ratio.hatched else "fill"
        inner += element("circle", cx=scale.at(ratio.value), cy=middle, r=5, class_=f"{hollow} {ratio.colour}")
        parts.append(element("g", element("title", shown(told)) + inner))
        parts.append(_text(write(ratio.value), right + 10, middle, "value"))
    parts.append(_axis_name(axis, scale, height))
    return _svg(parts, WHOLE, height + _AXIS + 16, about)


def _apart(ticks: list[float], scale: Scale) -> list[float]:
    """Leave out the ticks whose labels would touch, those near 1 last."""
    kept: list[float] = []
    for tick in sorted(ticks, key=lambda value: abs(math.log(value))):
        if all(abs(scale.at(tick) - scale.at(other)) >= 44 for other in kept):
            kept.append(tick)
    return sorted(kept)


# ---------------------------------------------------------------------------------------------------------------- lines


@dataclass(frozen=True, slots=True)
class Line:
    """A curve; each point may tell more than its position when hovered."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment on the horizontal axis at which something happened to the run."""

    at: float
    name: str


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis: what it shows, how its figures are written, and its form."""

    name: str
    write: Callable[[float | None], str]
    kind: Kind = "linear"
    low: float | None = None
    high: float | None = None
    ticks: Sequence[float] | None = None


def lines(
    curves: Sequence[Line],
    across: Axis,
    up: Axis,
    *,
    about: str,
    height: float = 300,
    marks: Sequence[Mark] = (),
    named: bool = True,
    levels: Sequence[tuple[float, str]] = (),
) -> str:
    """Draw curves over a common axis; `levels` are horizontal lines with a name, such as an objective.

    `marks` are vertical lines; not `named` where a chart above has told their names.
    """
    strip = 15.0 * min(len(marks), _NAMES_HIGH) if named else 0.0
    left, top, right, bottom = 66.0, 24.0 + strip, HALF - 28.0, height + strip - (38.0 if across.name else 30.0)
    horizontal = _axis_scale(across, [x for curve in curves for x, _ in curve.points], left, right)
    heights = [y for curve in curves for _, y in curve.points]
    vertical = _axis_scale(up, [*heights, *(level for level, _ in levels)], bottom, top)
    parts: list[str] = []
    for index, mark in enumerate(marks):
        x = horizontal.at(mark.at)
        line = element("line", x1=x, x2=x, y1=top, y2=bottom, class_="event")
        parts.append(element("g", element("title", shown(f"{mark.name} at {across.write(mark.at)}")) + line))
        if named:
            # In a strip above the curves, beside its line on the side that has room, below its neighbour's name.
            left_of = x > (left + right) / 2
            place, side = (x - 5, "end") if left_of else (x + 5, "start")
            parts.append(_text(mark.name, place, 26 + 15.0 * (index % _NAMES_HIGH), f"event-name {side}", room=280))
            parts.append(element("line", x1=x, x2=x, y1=20 + 15.0 * (index % _NAMES_HIGH), y2=top, class_="event"))
    for tick in vertical.ticks():
        y = vertical.at(tick)
        parts.append(element("line", x1=left, x2=right, y1=y, y2=y, class_="grid"))
        parts.append(_text(up.write(tick), left - 8, y, "tick end"))
    for tick in horizontal.ticks() if across.ticks is None else across.ticks:
        x = horizontal.at(tick)
        parts.append(element("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="mark"))
        parts.append(_text(across.write(tick), x, bottom + 15, "tick middle"))
    parts.append(element("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="mark"))
    for level, name in levels:
        y = vertical.at(level)
        parts.append(element("line", x1=left, x2=right, y1=y, y2=y, class_="level"))
        parts.append(_text(name, right, y - 8, "tick end"))
    for curve in curves:
        parts += _curve(curve, horizontal, vertical, across, up)
    parts.append(_text(up.name, 0, 8, "axis"))
    parts.append(_text(across.name, right, bottom + 30, "axis end"))
    return _svg(parts, HALF, height + strip, about)


def _axis_scale(axis: Axis, values: Sequence[float], start: float, end: float) -> Scale:
    if axis.kind == "log":
        scale = around(values, start, end)
    elif axis.kind == "percentile":
        scale = Scale(0, max(values, default=99.0), start, end, "percentile")
    else:
        scale = from_zero(values, start, end)
    low = scale.low if axis.low is None else axis.low
    return Scale(low, scale.high if axis.high is None else axis.high, start, end, axis.kind)


def _curve(curve: Line, across: Scale, up: Scale, write_x: Axis, write_y: Axis) -> Iterator[str]:
    places = [(across.at(x), up.at(y)) for x, y in curve.points]
    if not places:
        return
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    dashes = " dashed" if curve.dashed else ""
    title = element("title", shown(curve.name))
    yield element("g", title + element("path", d=path, class_=f"curve stroke {curve.colour}{dashes}"))
    if not (curve.dots or len(places) == 1):
        return
    for (x, y), (value_x, value_y) in zip(places, curve.points, strict=True):
        told = f"{curve.name}: {write_y.write(value_y)} at {write_x.write(value_x)}"
        dot = element("circle", cx=x, cy=y, r=4, class_=f"dot fill {curve.colour}")
        yield element("g", element("title", shown(told)) + dot)


def legend(names: Iterable[tuple[str, str]], *, dashed: Iterable[str] = ()) -> str:
    """Return the key to colours, as text with a swatch each: (name, colour)."""
    broken = set(dashed)
    items = (
        f'<li><svg class="key" viewBox="0 0 22 10" aria-hidden="true">'
        f"{element('path', d='M1 5H21', class_=f'curve stroke {colour}' + (' dashed' if name in broken else ''))}</svg>"
        f"{shown(name)}</li>"
        for name, colour in names
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


# ---------------------------------------------------------------------------------------------------------------- parts


def hatching() -> str:
    """Return the pattern of emulated rows; once on a page, before the first chart."""
    line = element("path", d="M0 7L7 0M-1.5 1.5L1.5 -1.5M5.5 8.5L8.5 5.5", class_="hatch")
    pattern = element("pattern", line, id="hatch", width=7, height=7, patternUnits="userSpaceOnUse")
    return f'<svg width="0" height="0" aria-hidden="true" class="defs"><defs>{pattern}</defs></svg>'


def _vertical_grid(
    scale: Scale, write: Callable[[float | None], str], height: float, *, ticks: Sequence[float] | None = None
) -> Iterator[str]:
    for tick in scale.ticks() if ticks is None else ticks:
        x = scale.at(tick)
        yield element("line", x1=x, x2=x, y1=0, y2=height, class_="grid")
        yield _text(write(tick), x, height + 12, "tick middle")


def _axis_name(name: str, scale: Scale, height: float) -> str:
    return _text(name, (scale.start + scale.end) / 2, height + 30, "axis middle")


def _text(text: str, x: float, y: float, class_: str, *, room: float | None = None) -> str:
    """Return one line of text around a height; SVG does not wrap, so what exceeds its room ends in dots."""
    fitting = text
    if room is not None:
        fits = max(4, int(room / 6.9))
        fitting = text if len(text) <= fits else text[: fits - 1] + "…"
    inner = shown(fitting) if fitting == text else element("title", shown(text)) + shown(fitting)
    return element("text", inner, x=x, y=y, dy="0.35em", class_=class_)


def _svg(parts: Iterable[str], width: float, height: float, about: str) -> str:
    inner = "\n".join(part for part in parts if part)
    box = f"0 0 {width:.0f} {height:.0f}"
    kind = "chart whole" if width > HALF else "chart"
    return f'<svg class="{kind}" viewBox="{box}" role="img" aria-label="{shown(about)}">\n{inner}\n</svg>'
