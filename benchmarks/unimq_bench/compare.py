"""Before and after: two results, each figure with the interval of its change, a verdict only where one can be given.

Two results were not measured side by side, and a machine is faster at one hour than at another. So a verdict needs more
than an interval that leaves 1 out:

* A ratio of two clients is compared as a ratio. Both clients were under the same weather, and its noise floor is that
  of both results together.
* Rates, CPU and latencies are compared with how much the rows that did *not* change (raw clients and peers of the same
  versions) seem to have changed: that is what the weather did. Without such a row the floor is what identical code was
  seen to drift, and on another machine there is no verdict at all.

The process is the sample: intervals are of a bootstrap that draws whole processes, of either side.
"""

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Literal

from unimq_bench import page as pages
from unimq_bench.percentiles import BATCHES_NEEDED, NEEDED, merged
from unimq_bench.results import Ratio, Result, Row, Run, contents, decoded
from unimq_bench.statistics import FEWEST_PROCESSES, MARGIN
from unimq_bench.view import Key, key_of, point_label, valid

Verdict = Literal["better", "worse", "no difference", "cannot tell", "unchanged row"]

TIME_DRIFT = 0.22
"""How far the median of identical code moved within a quarter of an hour, on the machine where the method was tried."""
CPU_DRIFT = 0.07
"""The same of CPU per message, which moves less: three times the spread of one program's runs."""
_RESAMPLES = 2000


class Incomparable(ValueError):
    """The two results cannot be compared; the message says why, and what could be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One figure before and after."""

    subject: str
    """A row, or two with ``÷`` between them."""
    backend: str
    workload: str
    metric: str
    unit: str
    """Empty for a ratio."""
    point: str = ""
    before: float
    after: float
    ratio: float
    """After ÷ before."""
    low: float
    high: float
    """95 %, by bootstrap over the processes of both sides; 0 and infinity if these are too few."""
    floor_low: float
    floor_high: float
    floor_of: str
    """Where the floor comes from."""
    more_is_better: bool = False
    processes: tuple[int, int] = (0, 0)
    verdict: Verdict = "cannot tell"
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All that two results say together."""

    before: Result
    after: Result
    changes: tuple[Change, ...]
    differences: tuple[tuple[str, str, str], ...] = ()
    """What else is not the same: (what, before, after). It may be the cause of a change, or its point."""
    losses: tuple[tuple[str, int, int], ...] = ()
    """Rows that lost messages on either side: (row, before, after)."""
    missing: tuple[str, ...] = ()
    """What only one of the two has."""

    @property
    def worse(self) -> tuple[Change, ...]:
        """Changes for the worse that are outside their noise floor."""
        return tuple(change for change in self.changes if change.verdict == "worse")

    @property
    def worse_ratios(self) -> tuple[Change, ...]:
        """Those of them that are ratios of two clients: all that a test of every commit can rely on."""
        return tuple(change for change in self.worse if not change.unit)

    @property
    def loses(self) -> bool:
        """Whether a row loses messages that did not before."""
        return any(after > 0 and not before for _, before, after in self.losses)


def read(path: Path) -> Result:
    """Read a result from its JSON file, or from the page that was made of it.

    Raises:
        ResultError: it cannot be read, or holds no result of this schema.

    """
    document = contents(path)
    if document.lstrip()[:1] == b"<":
        return pages.data_of(document.decode("utf-8", errors="replace"))
    return decoded(document, named=str(path))


def compare(before: Result, after: Result, *, seed: int = 0) -> Comparison:
    """Compare two results.

    Raises:
        Incomparable: they have no workload or no row in common, a row of both has another durability, broker or place,
            both are the same result, or nothing valid is left of one of them.

    """
    common = _comparable(before, after)
    generator = random.Random(seed)
    same_machine = _machine(before) == _machine(after)
    changes = [*_ratio_changes(before, after, common, generator)]
    changes += _absolute_changes(before, after, common, generator, same_machine=same_machine)
    if not changes:
        raise Incomparable(
            "the two results have rows and workloads in common, but no figure: all runs of one side are invalid, or the"
            " workloads were run at other points"
        )
    return Comparison(
        before=before,
        after=after,
        changes=tuple(changes),
        differences=tuple(_differences(before, after, common)),
        losses=tuple(_losses(before, after)),
        missing=tuple(_missing(before, after)),
    )


# ------------------------------------------------------------------------------------------------------- may they be


def _workloads(result: Result) -> set[str]:
    return {run.workload for run in result.runs} | {ratio.workload for ratio in result.ratios}


def _comparable(before: Result, after: Result) -> dict[str, tuple[Row, Row]]:
    """Return the rows of both."""
    if before == after:
        raise Incomparable("both are the same result")
    if not _workloads(before) & _workloads(after):
        raise Incomparable(
            "the two results have no workload in common: before there is"
            f" {_listed(_workloads(before))}, after {_listed(_workloads(after))}"
        )
    later = {row.name: row for row in after.rows}
    common = {row.name: (row, later[row.name]) for row in before.rows if row.name in later}
    if not common:
        raise Incomparable(
            "the two results have no row in common: before there is"
            f" {_listed(row.name for row in before.rows)}, after {_listed(later)}"
        )
    for name, (first, second) in common.items():
        for what, one, other in (
            ("durability", first.durability, second.durability),
            ("broker", _broker(first), _broker(second)),
            ("place of producer and consumer", _place(first), _place(second)),
        ):
            if one != other:
                raise Incomparable(
                    f"{name}: the {what} was {one or 'not told'!r} before and is {other or 'not told'!r} after; figures"
                    " of the two are of different things"
                )
    return common


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _broker(row: Row) -> str:
    return f"{row.backend} emulated by {row.emulated}" if row.emulated else row.backend


def _place(row: Row) -> str:
    return "one process" if row.in_process else "processes of their own"


def _machine(result: Result) -> tuple[str, str, int]:
    found = result.environment
    return found.machine, found.cpu, found.cores


def _differences(before: Result, after: Result, common: dict[str, tuple[Row, Row]]) -> Iterator[tuple[str, str, str]]:
    told: list[tuple[str, object, object]] = [
        ("unimq", before.unimq, after.unimq),
        ("profile", before.profile, after.profile),
    ]
    told += [
        (name.replace("_", " "), getattr(before.environment, name), getattr(after.environment, name))
        for name in ("cpu", "cores", "kernel", "python", "implementation", "switch_interval", "virtual")
    ]
    for name, (first, second) in common.items():
        for what in ("client_settings", "broker_settings", "versions"):
            one, other = getattr(first, what), getattr(second, what)
            told += [
                (f"{name}: {key}", one.get(key, "–"), other.get(key, "–")) for key in dict.fromkeys([*one, *other])
            ]
    yield from ((what, str(one), str(other)) for what, one, other in told if one != other)


def _losses(before: Result, after: Result) -> Iterator[tuple[str, int, int]]:
    names = dict.fromkeys(run.row for run in (*before.runs, *after.runs))
    for name in names:
        first, second = (sum(run.accounting.lost for run in side.runs if run.row == name) for side in (before, after))
        if first or second:
            yield name, first, second


def _missing(before: Result, after: Result) -> Iterator[str]:
    rows = [{row.name for row in side.rows} for side in (before, after)]
    for what, (first, second) in (("row", rows), ("workload", [_workloads(before), _workloads(after)])):
        yield from (f"{what} {name}: only before" for name in sorted(first - second))
        yield from (f"{what} {name}: only after" for name in sorted(second - first))
    for side, result in (("before", before), ("after", after)):
        if broken := sum(1 for run in result.runs if run.invalid):
            yield f"{broken} of {len(result.runs)} runs {side} are invalid and left out"
        if result.partial:
            yield f"the result {side} is not the whole benchmark: it was interrupted"


# ---------------------------------------------------------------------------------------------------------- estimates


@dataclass(frozen=True, slots=True)
class _Samples:
    """One figure of each process, of one side."""

    values: tuple[float, ...]

    def logarithms(self) -> list[float]:
        return [math.log(value) for value in self.values]


def _estimate(before: _Samples, after: _Samples, generator: random.Random) -> tuple[float, float, float]:
    """Return after ÷ before and its interval, which so few processes that they carry no verdict do not have either."""
    first, second = before.logarithms(), after.logarithms()
    if min(len(first), len(second)) < FEWEST_PROCESSES:
        return math.exp(median(second) - median(first)), 0.0, math.inf
    drawn = sorted(
        median(generator.choices(second, k=len(second))) - median(generator.choices(first, k=len(first)))
        for _ in range(_RESAMPLES)
    )
    middle = median(second) - median(first)
    low, high = drawn[int(_RESAMPLES * 0.025)], drawn[int(_RESAMPLES * 0.975) - 1]
    return math.exp(middle), math.exp(low), math.exp(high)


def judged(change: Change) -> Change:
    """Return the change with its verdict."""
    if min(change.processes) < FEWEST_PROCESSES:
        number = f"{change.processes[0]} and {change.processes[1]}"
        return replace(change, why=f"{number} processes; a verdict needs {FEWEST_PROCESSES} on either side")
    above = change.low > 1 + MARGIN and change.low > change.floor_high
    below = change.high < 1 / (1 + MARGIN) and change.high < change.floor_low
    if above or below:
        verdict: Verdict = "better" if above == change.more_is_better else "worse"
        return replace(change, verdict=verdict, why=f"outside ±{MARGIN:.0%} and outside {change.floor_of}")
    if change.low >= 1 - MARGIN and change.high <= 1 + MARGIN:
        return replace(change, verdict="no difference", why=f"the whole interval is within ±{MARGIN:.0%}")
    if change.low > 1 + MARGIN or change.high < 1 / (1 + MARGIN):
        return replace(change, why=f"the interval reaches into {change.floor_of}")
    return replace(change, why=f"the interval reaches into ±{MARGIN:.0%} without being within")


def _ratio_changes(
    before: Result, after: Result, common: dict[str, tuple[Row, Row]], generator: random.Random
) -> Iterator[Change]:
    later = {(each.workload, each.a, each.b, each.metric): each for each in after.ratios}
    for first in before.ratios:
        second = later.get((first.workload, first.a, first.b, first.metric))
        if second is None or first.a not in common or not (first.by_process and second.by_process):
            continue
        ratio, low, high = _estimate(_Samples(first.by_process), _Samples(second.by_process), generator)
        half = math.hypot(_half(first), _half(second))
        yield judged(
            Change(
                subject=f"{first.a} ÷ {first.b}",
                backend=common[first.a][0].backend,
                workload=first.workload,
                metric=first.metric,
                unit="",
                before=first.median,
                after=second.median,
                ratio=ratio,
                low=low,
                high=high,
                floor_low=math.exp(-half),
                floor_high=math.exp(half),
                floor_of="the noise floor of both results",
                processes=(len(first.by_process), len(second.by_process)),
            )
        )


def _half(ratio: Ratio) -> float:
    """Return how far from equal a client seemed to be from itself."""
    ends = (ratio.floor_low, ratio.floor_high)
    return max(abs(math.log(end)) if end > 0 else math.inf for end in ends)


# --------------------------------------------------------------------------------------------------- absolute figures

_Place = tuple[str, Key, str]
"""Workload, point and metric."""


@dataclass(frozen=True, slots=True)
class _Metric:
    unit: str
    more_is_better: bool
    drift: float


_RATE = _Metric("msg/s", more_is_better=True, drift=TIME_DRIFT)
_CPU = _Metric("µs/msg", more_is_better=False, drift=CPU_DRIFT)
_LATENCY = _Metric("ns", more_is_better=False, drift=TIME_DRIFT)
_METRICS = {
    "publish rate": _RATE,
    "consume rate": _RATE,
    "end-to-end rate": _RATE,
    "publish client CPU": _CPU,
    "consume client CPU": _CPU,
    "client CPU": _CPU,
    "broker CPU": _CPU,
    "response p50": _LATENCY,
    "response p99": _LATENCY,
}


def _figures_of(run: Run) -> Iterator[tuple[str, float]]:
    """Yield what one run says, each metric at most once, by the names that the result's own figures have."""
    paced = isinstance(run.point.get("rate"), int | float)
    for of, name in (("publish", "publish"), ("consume", "consume"), ("both", "end-to-end")):
        slices = [each for each in run.slices if each.metric == of and each.messages and each.seconds > 0]
        if slices and not paced:
            # At an offered rate the rate is the schedule's.
            yield f"{name} rate", median(each.messages / each.seconds for each in slices)
        cpu = [each.client_cpu / each.messages for each in slices if each.client_cpu > 0]
        if cpu and of != "both" and not run.histograms:
            yield f"{name} client CPU", median(cpu) * 1e6
    messages = max(run.accounting.acked, run.accounting.received)
    if messages and run.cpu_seconds > 0 and run.histograms:
        yield "client CPU", run.cpu_seconds / messages * 1e6
    if messages and run.broker_cpu_seconds:
        yield "broker CPU", run.broker_cpu_seconds / messages * 1e6
    if "response" in run.histograms:
        found = merged([run.histograms["response"]])
        for percentile in (50.0, 99.0):
            enough = percentile < 99 or run.counters.batches >= BATCHES_NEEDED
            value = found.at(percentile)
            if value and enough and found.total >= NEEDED[percentile]:
                yield f"response p{percentile:g}", float(value)


def _place_of(point: Mapping[str, int | float | str]) -> Key:
    # A rate that is a part of what the row could do is another one in each result; the part is the same.
    return key_of({name: value for name, value in point.items() if name != "rate" or "fraction" not in point})


def _samples(result: Result, row: str) -> dict[_Place, _Samples]:
    """Return the figures of a row's valid runs; several of one process are one sample, their median."""
    found: dict[_Place, dict[int, list[float]]] = {}
    for run in valid(run for run in result.runs if run.row == row):
        for metric, value in _figures_of(run):
            place = (run.workload, _place_of(run.point), metric)
            found.setdefault(place, {}).setdefault(run.process, []).append(value)
    return {
        place: _Samples(tuple(median(values) for values in by_process.values())) for place, by_process in found.items()
    }


@dataclass(slots=True)
class _Weather:
    """How much rows that did not change seem to have changed, at one place on one backend."""

    rows: list[str] = field(default_factory=list[str])
    low: float = 1.0
    high: float = 1.0


def _absolute_changes(
    before: Result,
    after: Result,
    common: dict[str, tuple[Row, Row]],
    generator: random.Random,
    *,
    same_machine: bool,
) -> list[Change]:
    found: list[tuple[Row, _Place, Change, bool]] = []
    weather: dict[tuple[str, _Place], _Weather] = {}
    for name, (first, second) in common.items():
        unchanged = first.kind != "unimq" and first.versions == second.versions and bool(first.versions)
        unchanged = unchanged and first.client_settings == second.client_settings
        later = _samples(after, name)
        for place, samples in _samples(before, name).items():
            if place not in later:
                continue
            change = _absolute(name, first, place, samples, later[place], generator)
            found.append((first, place, change, unchanged))
            if unchanged and min(change.processes) >= FEWEST_PROCESSES:
                seen = weather.setdefault((first.backend, place), _Weather())
                seen.rows.append(first.library)
                seen.low, seen.high = min(seen.low, change.low), max(seen.high, change.high)
    changes: list[Change] = []
    for row, place, change, unchanged in found:
        if unchanged:
            why = "a client that did not change: what it seems to have changed is the weather"
            changes.append(replace(change, verdict="unchanged row", why=why))
        elif not same_machine:
            changes.append(replace(change, why="measured on another machine: only ratios can be compared"))
        else:
            changes.append(judged(_with_floor(change, weather.get((row.backend, place)))))
    return changes


def _with_floor(change: Change, weather: _Weather | None) -> Change:
    if weather is None:
        return change
    return replace(
        change,
        floor_low=min(weather.low, 1 / (1 + MARGIN)),
        floor_high=max(weather.high, 1 + MARGIN),
        floor_of=f"what {' and '.join(weather.rows)} seems to have changed, and did not",
    )


def _absolute(
    name: str, row: Row, place: _Place, before: _Samples, after: _Samples, generator: random.Random
) -> Change:
    workload, key, metric = place
    of = _METRICS[metric]
    ratio, low, high = _estimate(before, after, generator)
    return Change(
        subject=name,
        backend=row.backend,
        workload=workload,
        metric=metric,
        unit=of.unit,
        point=point_label(dict(key)),
        before=median(before.values),
        after=median(after.values),
        ratio=ratio,
        low=low,
        high=high,
        floor_low=1 / (1 + of.drift),
        floor_high=1 + of.drift,
        floor_of=f"what identical code may drift between two results ({of.drift:.0%}); no unchanged row is in both",
        more_is_better=of.more_is_better,
        processes=(len(before.values), len(after.values)),
    )


def ordered(changes: Sequence[Change]) -> list[Change]:
    """Return ratios first, then each row's figures, in the order in which they came."""
    return sorted(changes, key=lambda change: bool(change.unit))
