"""What a benchmark has found so far: runs that have passed the gates or say why not, and the figures made of them."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from unimq_bench import gates
from unimq_bench.recording import count_of, percentile
from unimq_bench.results import Figure, Ratio, Row, Run
from unimq_bench.slices import TWIN, log_ratios
from unimq_bench.statistics import Estimate, ratio_of, spread, verdict_on

Point = Mapping[str, int | float | str]
COSTS: tuple[Literal["time", "CPU"], ...] = ("time", "CPU")
METRICS = ("publish", "consume")
_LARGE = 1024
"""Bytes from which on bytes per second are of interest."""


class Collection:
    """Belongs to the harness's thread."""

    def __init__(self, foreign_cores: float, generator: random.Random) -> None:
        self.foreign_cores = foreign_cores
        self.generator = generator
        self.rows: dict[str, Row] = {}
        self.runs: list[Run] = []
        self.figures: list[Figure] = []
        self.ratios: list[Ratio] = []
        self.notes: list[str] = []

    def take(
        self,
        run: Run,
        row: Row,
        *,
        latencies: bool = False,
        excused: bool = False,
        processes: int = 1,
        reasons: Sequence[str] = (),
    ) -> Run:
        """Judge a run by the gates and keep it; return it with what was found."""
        found = gates.broken(run, latencies=latencies, foreign_cores=self.foreign_cores, excused=excused)
        note = gates.bottleneck(run, processes)
        run = msgspec.structs.replace(
            run,
            invalid=(*run.invalid, *reasons, *(reason for reason in found if not run.invalid or run.accounting.sent)),
            notes=(*run.notes, *((note,) if note else ())),
        )
        if not run.row.endswith(TWIN):
            self._keep_row(row)
            self.runs.append(run)
        return run

    def _keep_row(self, row: Row) -> None:
        known = self.rows.get(row.name)
        # One that could not connect says nothing about itself; a later one may.
        if known is None or (row.durability and not known.durability):
            self.rows[row.name] = row

    def figure(
        self,
        runs: Sequence[Run],
        metric: str,
        unit: str,
        value: float,
        *,
        low: float | None = None,
        high: float | None = None,
        spread_: str = "",
        samples: int = 0,
        why: str = "",
    ) -> None:
        """Keep one number made of these runs, unranked if one of them is invalid or its row may not be ranked."""
        run = runs[0]
        row = self.rows[run.row]
        reasons = list(dict.fromkeys(reason for each in runs for reason in each.invalid if _is_own(reason)))
        disturbed = [each.foreign_cpu for each in runs if not all(_is_own(reason) for reason in each.invalid)]
        if disturbed:
            # One reason for all, so that ten disturbed runs are not ten reasons.
            reasons.append(f"others used more than {self.foreign_cores:g} cores meanwhile")
        if why:
            reasons.append(why)
        if row.emulated:
            reasons.append(f"{row.emulated} is an emulator: this measures the client library")
        self.figures.append(
            Figure(
                row=run.row,
                workload=run.workload,
                metric=metric,
                unit=unit,
                value=value,
                low=low,
                high=high,
                spread=spread_,
                point=run.point,
                samples=samples,
                ranked=not reasons,
                why_unranked="; ".join(dict.fromkeys(reasons)),
            )
        )

    # Figures of slices.

    def slices(self, runs: Sequence[Run]) -> None:
        """Keep what the slices of one row at one point say: rates, and CPU for each message."""
        for metric in METRICS:
            parts = [part for run in runs for part in run.slices if part.metric == metric]
            if not parts:
                continue
            self._rate(runs, f"{metric} rate", [part.messages / part.seconds for part in parts])
            size = int(runs[0].point.get("size", 0))
            if size >= _LARGE:
                megabytes = [part.messages * size / part.seconds / 1e6 for part in parts]
                self._spread(runs, f"{metric} throughput", "MB/s", megabytes)
            busy = [part for part in parts if part.client_cpu > 0]
            if busy:
                per_second = [part.messages / part.client_cpu for part in busy]
                self._spread(runs, f"{metric} rate per CPU second", "msg/s", per_second)
                self._spread(
                    runs, f"{metric} client CPU", "µs/msg", [part.client_cpu / part.messages * 1e6 for part in busy]
                )
            brokers = [part for part in parts if part.broker_cpu is not None]
            if brokers:
                micros = [(part.broker_cpu or 0.0) / part.messages * 1e6 for part in brokers]
                self._spread(runs, f"{metric} broker CPU", "µs/msg", micros)

    def _rate(self, runs: Sequence[Run], metric: str, values: Sequence[float]) -> None:
        self._spread(runs, metric, "msg/s", values)

    def _spread(self, runs: Sequence[Run], metric: str, unit: str, values: Sequence[float]) -> None:
        middle, deviation = spread(values)
        self.figure(
            runs,
            metric,
            unit,
            middle,
            low=middle - deviation,
            high=middle + deviation,
            spread_="median absolute deviation",
            samples=len(values),
        )

    # Figures of a stream.

    def stream(self, run: Run) -> None:
        """Keep what a stream says: its rate, its latencies, its CPU."""
        one = [run]
        if not run.slices or not run.accounting.sent:
            return
        received = run.slices[-1]
        self.figure(one, "end-to-end rate", "msg/s", received.messages / received.seconds, samples=received.messages)
        for what in ("response", "service"):
            histogram = run.histograms.get(what)
            if histogram is None:
                continue
            count = count_of(histogram)
            few = ""
            if count < gates.FEWEST_MESSAGES_FOR_P99 or run.counters.batches < gates.FEWEST_BATCHES_FOR_P99:
                few = f"{count} messages in {run.counters.batches} batches are too few for a p99"
            for percent in (50.0, 99.0):
                low, high = _interval(histogram, count, percent)
                self.figure(
                    one,
                    f"{what} p{percent:g}",
                    "ms",
                    percentile(histogram, percent) * 1e3,
                    low=low,
                    high=high,
                    spread_="95 % by order statistics",
                    samples=count,
                    why=few if percent > 50 else "",
                )
        messages = run.accounting.sent
        self.figure(one, "client CPU", "µs/msg", run.cpu_seconds / messages * 1e6, samples=messages)
        if run.broker_cpu_seconds is not None:
            self.figure(one, "broker CPU", "µs/msg", run.broker_cpu_seconds / messages * 1e6, samples=messages)

    # Ratios.

    def compare(self, runs: Sequence[Run], names: Sequence[str], workload: str) -> None:
        """Compare the first row with each other, beside the last one against its twin."""
        first, reference = names[0], names[-1]
        for metric in METRICS:
            for cost in COSTS:
                twin = log_ratios(runs, reference + TWIN, reference, metric, cost)
                if not twin:
                    continue
                floor = ratio_of(twin, self.generator)
                if first == reference:
                    self._keep(first, reference, workload, f"{metric} {cost}", twin, floor, floor)
                for other in names[1:]:
                    logarithms = log_ratios(runs, first, other, metric, cost)
                    if logarithms:
                        found = ratio_of(logarithms, self.generator)
                        self._keep(first, other, workload, f"{metric} {cost}", logarithms, found, floor)

    def _keep(
        self,
        a: str,
        b: str,
        workload: str,
        metric: str,
        logarithms: Sequence[Sequence[float]],
        found: Estimate,
        floor: Estimate,
    ) -> None:
        verdict, why = verdict_on(found, floor, processes=len(logarithms))
        refused = gates.unequal([self.rows[a], self.rows[b]])
        faulty = {
            reason
            for run in self.runs
            if run.row in {a, b} and run.workload == workload
            for reason in run.invalid
            # The load of others meets both rows alike, slice by slice, and the floor shows what is left of it.
            if _is_own(reason) and "stationary" not in reason
        }
        if refused or faulty:
            verdict, why = "cannot tell", "; ".join([*([refused] if refused else []), *sorted(faulty)])
        self.ratios.append(
            Ratio(
                a=a,
                b=b,
                workload=workload,
                metric=metric,
                median=found.value,
                low=found.low,
                high=found.high,
                t_low=found.t_low,
                t_high=_finite(found.t_high),
                floor_low=floor.low,
                floor_high=floor.high,
                processes=len(logarithms),
                pairs=sum(len(pairs) for pairs in logarithms),
                verdict=verdict,
                by_process=found.by_process,
                why=why,
            )
        )


def _is_own(reason: str) -> bool:
    """Whether a reason is of the run itself, and not of what others did on the machine."""
    return gates.DISTURBED not in reason


def _finite(value: float) -> float:
    """JSON has no infinity."""
    return value if math.isfinite(value) else 1e300


def _interval(histogram: str, count: int, percent: float) -> tuple[float, float]:
    """Return the 95 % interval of a percentile in milliseconds, by the ranks of order statistics."""
    if not count:
        return 0.0, 0.0
    share = percent / 100
    half = 1.96 * math.sqrt(count * share * (1 - share)) / count
    low, high = max(0.0, share - half), min(1.0, share + half)
    return percentile(histogram, low * 100) * 1e3, percentile(histogram, high * 100) * 1e3
