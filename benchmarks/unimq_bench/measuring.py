"""How each kind of workload is measured on the rows of one place."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import msgspec

from unimq_bench import gates, redoing
from unimq_bench.collection import Collection
from unimq_bench.processes import RoleFailed
from unimq_bench.recording import percentile
from unimq_bench.redoing import Redos, never
from unimq_bench.results import Row, Run, Slice
from unimq_bench.rows.protocol import Description
from unimq_bench.slices import Contest, compete
from unimq_bench.statistics import slope
from unimq_bench.streams import Stream, flow
from unimq_bench.targets import Candidate, Place, proxied
from unimq_bench.workloads import Parameters, Workload

Point = dict[str, int | float | str]
_START = 1.6
"""Seconds that processes need to start, connect and end; only for saying how long it takes, as the next."""
_BETWEEN = 0.4
"""Seconds between slices: bodies are made and looked at, clients opened and closed."""
_FLAT_OUT = 2.0
_KEPT_UP = 0.99
_GROWTH = 0.01
_STEP_DOWN = 0.85
_QUIET_SHARE = 0.8


class Reporter(Protocol):
    """Shows what goes on."""

    def step(self, text: str, seconds: float) -> None:
        """Something begins that takes about so long."""
        ...

    def live(self, text: str, rate: float, p99: float | None) -> None:
        """How it goes."""
        ...


@dataclass(slots=True)
class Bench:
    """What measuring needs. Belongs to one thread."""

    collection: Collection
    generator: random.Random
    reporter: Reporter
    paths: tuple[str, ...] = ()
    """Where the processes of roles look for modules first."""
    redos: Redos = field(default_factory=never)
    rates: dict[tuple[object, ...], float] = field(default_factory=dict[tuple[object, ...], float])
    """What rows can do flat out, as far as it was measured."""


def measure(bench: Bench, workload: Workload, place: Place, rows: Sequence[Candidate], parameters: Parameters) -> None:
    """Measure one workload on the rows of one place.

    A row that fails is told by an invalid run, and the others go on.
    """
    if workload.kind in {"slices", "calibrate"}:
        _slices(bench, workload, place, rows, parameters)
        return
    kinds: dict[str, Callable[[Bench, Workload, Candidate, Parameters], None]] = {
        "stream": _stream,
        "rates": _rates,
        "sustainable": _sustainable,
        "article": _sustainable,
        "fan": _fan,
        "fault": _fault,
        "redeliver": _redeliver,
        "backlog": _backlog,
    }
    for candidate in rows:
        bench.reporter.step(f"{workload.name}: {candidate.name}", estimate_each(workload, parameters))
        kinds[workload.kind](bench, workload, candidate, parameters)


# How long it takes.


def estimate(workload: Workload, rows: int, parameters: Parameters) -> float:
    """Return about how many seconds a workload takes on one place."""
    if workload.kind not in {"slices", "calibrate"}:
        return rows * estimate_each(workload, parameters)
    lanes = rows + parameters.twin
    # Drains take about as long as the publishing before them, and the warm-up as one slice.
    each = (2 * parameters.seconds + _BETWEEN) * (parameters.rounds + 1)
    return len(_slice_points(parameters)) * parameters.processes * lanes * (each + _START / lanes)


def estimate_each(workload: Workload, parameters: Parameters) -> float:
    """Return about how many seconds a workload that is no contest takes for one row."""
    stream = parameters.seconds + _START
    if workload.kind == "rates":
        return len(parameters.fractions) * stream + _FLAT_OUT + _START
    if workload.kind in {"sustainable", "article"}:
        return (parameters.trials + parameters.confirmations) * stream + _FLAT_OUT + _START
    if workload.kind == "fan":
        return len(parameters.shapes) * stream
    return stream + (0.0 if parameters.rate else _FLAT_OUT + _START)


# Contests of slices.


def _slice_points(parameters: Parameters) -> list[tuple[Point, dict[str, Any]]]:
    """Return what is swept: the point as the result shows it, and the fields of the contest that it sets."""
    if parameters.sizes:
        contents = parameters.contents or (parameters.content,)
        points = [{"size": size, "content": content} for size in parameters.sizes for content in contents]
        return [(dict(point), dict(point)) for point in points]
    if parameters.windows:
        return [({"window": window, "size": parameters.size}, {"window": window}) for window in parameters.windows]
    return [({"size": parameters.size, "window": parameters.window}, {})]


def _options(place: Place, partitions: int) -> Mapping[str, str]:
    return {"partitions": str(partitions)} if partitions and place.backend == "kafka" else {}


def _slices(bench: Bench, workload: Workload, place: Place, rows: Sequence[Candidate], parameters: Parameters) -> None:
    contest = Contest(
        processes=parameters.processes,
        rounds=parameters.rounds,
        seconds=parameters.seconds,
        messages=parameters.messages,
        size=parameters.size,
        content=parameters.content,
        window=parameters.window,
        prefetch=parameters.prefetch,
        batch=parameters.batch,
        patience=parameters.patience,
        options=_options(place, parameters.partitions),
        twin=parameters.twin,
        redos=bench.redos,
    )
    points = _slice_points(parameters)
    share = estimate(workload, len(rows), parameters) / len(points)
    for point, changes in points:
        shown = ", ".join(f"{name} {value}" for name, value in point.items())
        bench.reporter.step(f"{workload.name} on {place.name}: {shown}", share)
        found: list[Run] = []

        def collect(run: Run, row: Row, found: list[Run] = found) -> None:
            found.append(bench.collection.take(run, row))

        try:
            compete(
                rows,
                replace(contest, **changes),
                workload=workload.name,
                point=point,
                generator=bench.generator,
                collect=collect,
                watch=bench.reporter.live,
                paths=bench.paths,
            )
        finally:
            # What is there when somebody interrupts is worth showing.
            for candidate in rows:
                mine = [run for run in found if run.row == candidate.name]
                if mine:
                    bench.collection.slices(mine)
            if parameters.twin and found:
                bench.collection.compare(found, [candidate.name for candidate in rows], workload.name)


# Streams.


def _stream_of(parameters: Parameters, candidate: Candidate, **changes: Any) -> Stream:
    stream = Stream(
        rate=parameters.rate,
        seconds=parameters.seconds,
        warm_up=min(parameters.warm_up, parameters.seconds / 2),
        size=parameters.size,
        content=parameters.content,
        window=parameters.window,
        prefetch=parameters.prefetch,
        batch=parameters.batch,
        producers=parameters.producers,
        consumers=parameters.consumers,
        threads=parameters.threads,
        queues=parameters.queues,
        options=_options(candidate.place, parameters.partitions),
        patience=parameters.patience,
    )
    return replace(stream, **changes)


def _run(
    bench: Bench,
    workload: Workload,
    candidate: Candidate,
    stream: Stream,
    point: Point,
    *,
    fault: Callable[[], str] | None = None,
    excused: bool = False,
    percentiles: bool | None = None,
    judge: Callable[[Run], Sequence[str]] = lambda _: (),
) -> Run | None:
    """Let a stream flow and keep what it says; `None` if the row failed, which is kept as well."""
    discarded: list[Slice] = []

    def flowed() -> tuple[Run, Row]:
        return flow(
            candidate,
            stream,
            workload=workload.name,
            point=point,
            generator=bench.generator,
            watch=bench.reporter.live,
            fault=fault,
            paths=bench.paths,
        )

    try:
        run, row = flowed()
        for _ in range(redoing.MOST):
            if gates.faults(run.accounting, excused=excused):
                break
            if not bench.redos.wants(run.foreign_cpu, stream.seconds + _START):
                break
            discarded += run.slices
            run, row = flowed()
        run = msgspec.structs.replace(run, discarded=tuple(discarded))
    except RoleFailed as error:
        reason = f"the row failed: {error}"
        run = Run(row=candidate.name, workload=workload.name, point=point, invalid=(reason,))
        bench.collection.take(run, candidate.row(Description(durability="")))
        return None
    needs = workload.needs_percentiles if percentiles is None else percentiles
    return bench.collection.take(
        run,
        row,
        latencies=needs,
        excused=excused,
        processes=-(-stream.producers // stream.threads) + -(-stream.consumers // stream.threads),
        reasons=tuple(judge(run)),
    )


def _flat_out(bench: Bench, workload: Workload, candidate: Candidate, parameters: Parameters) -> float | None:
    """Return the messages per second that come through when nothing holds the producers back."""
    key = (
        candidate.name,
        parameters.size,
        parameters.producers,
        parameters.consumers,
        parameters.queues,
        parameters.partitions,
    )
    if key not in bench.rates:
        seconds = min(_FLAT_OUT, parameters.seconds)
        stream = _stream_of(parameters, candidate, rate=0.0, seconds=seconds, timed=False)
        run = _run(bench, workload, candidate, stream, {"rate": "flat out"}, percentiles=False)
        if run is None:
            return None
        bench.rates[key] = min(part.messages / part.seconds for part in run.slices)
    rate = bench.rates[key]
    return min(rate, parameters.max_rate) if parameters.max_rate else rate


def _rate_of(bench: Bench, workload: Workload, candidate: Candidate, parameters: Parameters) -> float | None:
    if parameters.rate:
        return parameters.rate
    most = _flat_out(bench, workload, candidate, replace_parameters(parameters, max_rate=0.0))
    if most is None:
        return None
    rate = most * parameters.load
    return min(rate, parameters.max_rate) if parameters.max_rate else rate


def replace_parameters(parameters: Parameters, **changes: Any) -> Parameters:
    """Return the parameters with some changed."""
    return msgspec.structs.replace(parameters, **changes)


def _stream(bench: Bench, workload: Workload, candidate: Candidate, parameters: Parameters) -> None:
    rate = _rate_of(bench, workload, candidate, parameters)
    if rate is None:
        return
    point: Point = {"rate": round(rate, 1), "size": parameters.size}
    changes: dict[str, Any] = {}
    if parameters.pause:
        point["pause"] = parameters.pause
        changes = {"pause_at": parameters.pause_at, "pause": parameters.pause}
    run = _run(bench, workload, candidate, _stream_of(parameters, candidate, rate=rate, **changes), point)
    if run is None:
        return
    bench.collection.stream(run)
    if parameters.pause:
        _tell_recovery(bench, run, parameters.pause_at, parameters.pause_at + parameters.pause)


def _tell_recovery(bench: Bench, run: Run, before: float, after: float) -> None:
    """Keep the peak of the backlog, and how long it took after the trouble until the latency was as before."""
    if not run.timeline:
        return
    peak = max(sample.backlog for sample in run.timeline)
    bench.collection.figure([run], "peak backlog", "messages", float(peak))
    quiet = sorted(sample.p99 for sample in run.timeline if sample.p99 is not None and sample.t < before)
    if not quiet:
        return
    former = quiet[len(quiet) // 2]
    later = ((sample.t, sample.p99) for sample in run.timeline if sample.t >= after and sample.p99 is not None)
    back = next((t for t, p99 in later if p99 <= 2 * former), None)
    why = "" if back is not None else "the latency was not as before at the end of the run"
    value = (back if back is not None else run.timeline[-1].t) - after
    bench.collection.figure([run], "time until the p99 was at most twice the former", "s", value, why=why)


def _rates(bench: Bench, workload: Workload, candidate: Candidate, parameters: Parameters) -> None:
    most = _flat_out(bench, workload, candidate, parameters)
    for fraction in parameters.fractions if most is not None else ():
        rate = (most or 0.0) * fraction
        point: Point = {"rate": round(rate, 1), "fraction": fraction, "size": parameters.size}
        run = _run(bench, workload, candidate, _stream_of(parameters, candidate, rate=rate), point)
        if run is not None:
            bench.collection.stream(run)


def kept_up(run: Run, rate: float, seconds: float, slo: float) -> str:
    """Return why a rate was not kept up, or nothing if it was."""
    counts = run.accounting
    if counts.failed or counts.lost:
        return f"{counts.failed} sends failed and {counts.lost} messages were lost"
    published = run.slices[0]
    achieved = published.messages / max(published.seconds, seconds)
    if achieved < _KEPT_UP * rate:
        return f"{achieved:.0f} of {rate:.0f} messages per second were sent"
    # A slope and not a level: a broker that works in large batches has a backlog, and no less of a rate.
    growth = slope([(s.t, float(s.backlog)) for s in run.timeline if seconds / 3 <= s.t <= seconds])
    if growth > _GROWTH * rate:
        return f"the backlog grew by {growth:.0f} messages per second"
    response = run.histograms.get("response")
    late = percentile(response, 99) if response else float("inf")
    return f"the response p99 was {late * 1e3:.0f} ms" if late > slo else ""


def _sustainable(bench: Bench, workload: Workload, candidate: Candidate, parameters: Parameters) -> None:
    most = _flat_out(bench, workload, candidate, parameters)
    if most is None:
        return
    tried: list[Run] = []
    shape = _shape(parameters, candidate.place)

    def accepts(rate: float, purpose: str) -> bool:
        point: Point = {"rate": round(rate, 1), "size": parameters.size, **shape, "purpose": purpose}
        run = _run(bench, workload, candidate, _stream_of(parameters, candidate, rate=rate), point)
        if run is None:
            return False
        tried.append(run)
        bench.collection.stream(run)
        why = kept_up(run, rate, parameters.seconds, parameters.slo)
        bench.collection.notes.append(
            f"{workload.name}, {candidate.name}: {rate:.0f} msg/s {'were kept up' if not why else f'were not: {why}'}"
        )
        return not why

    low, high = 0.0, most
    for number in range(parameters.trials):
        # The first trial is near the top, where most rows end.
        rate = high * _STEP_DOWN if number == 0 else (low + high) / 2
        if accepts(rate, "trial"):
            low = rate
        else:
            high = rate
    # The trial that was accepted is the first of the runs that must keep the rate up.
    wanted = parameters.confirmations - 1
    while low > 0 and not all(accepts(low, "confirmation") for _ in range(wanted)):
        high, low = low, low * _STEP_DOWN if low > most / 50 else 0.0
        wanted = parameters.confirmations
    if not tried:
        return
    last = tried[-1:]
    if low <= 0:
        bench.collection.figure(last, "sustainable rate", "msg/s", 0.0, high=high, why="no rate was kept up")
        return
    bench.collection.figure(last, "sustainable rate", "msg/s", low, low=low, high=high, spread_="kept up, not kept up")
    accepts(low * _QUIET_SHARE, "80 % of the sustainable rate")


def _shape(parameters: Parameters, place: Place) -> Point:
    """Return how many there are of what there may be several of."""
    partitions = parameters.partitions if place.backend == "kafka" else 0
    counts = {
        "producers": parameters.producers,
        "consumers": parameters.consumers,
        "queues": parameters.queues,
        "partitions": partitions,
    }
    return {name: count for name, count in counts.items() if count > 1}


def _fan(bench: Bench, workload: Workload, candidate: Candidate, parameters: Parameters) -> None:
    single = 0.0
    kafka = candidate.place.backend == "kafka"
    for producers, consumers, parts in parameters.shapes:
        stream = _stream_of(
            parameters,
            candidate,
            rate=0.0,
            producers=producers,
            consumers=consumers,
            queues=1 if kafka else parts,
            options=_options(candidate.place, parts),
            timed=False,
        )
        if stream.queues > stream.consumers:
            # Each consumer has one queue; those without a consumer would only fill up.
            stream = replace(stream, queues=stream.consumers)
        if stream.queues > stream.producers:
            stream = replace(stream, queues=stream.producers)
        shape = f"{producers}×{consumers}"
        point: Point = {"producers": producers, "consumers": consumers, "shape": shape}
        point["partitions" if kafka else "queues"] = parts if kafka else stream.queues
        run = _run(bench, workload, candidate, stream, point)
        if run is None:
            continue
        bench.collection.stream(run)
        rate = min(part.messages / part.seconds for part in run.slices)
        single = single or rate
        bench.collection.figure([run], "rate against 1×1", "times", rate / single)


def _fault(bench: Bench, workload: Workload, candidate: Candidate, parameters: Parameters) -> None:
    rate = _rate_of(bench, workload, candidate, parameters)
    if rate is None:
        return
    point: Point = {"rate": round(rate, 1), "size": parameters.size, "fault_at": parameters.fault_at}
    stream = _stream_of(parameters, candidate, rate=rate)
    if candidate.place.in_process:
        point["fault"] = "a consumer is closed with messages unsettled"
        run = _run(bench, workload, candidate, replace(stream, reopen_at=parameters.fault_at), point, excused=True)
    else:
        with proxied(candidate.place) as door:
            if door is None:
                bench.collection.notes.append(
                    f"{workload.name}: no proxy can stand in for {candidate.place.name}; use a broker on tap"
                )
                return
            proxy, url = door

            def cut() -> str:
                proxy.cut()
                return "every connection was reset"

            point["fault"] = "every connection is reset"
            changed = replace(stream, url=url, fault_at=parameters.fault_at)
            run = _run(bench, workload, candidate, changed, point, fault=cut, excused=True, judge=_happened)
    if run is not None:
        bench.collection.stream(run)
        _tell_recovery(bench, run, parameters.fault_at, parameters.fault_at + 0.25)


def _happened(run: Run) -> Sequence[str]:
    return () if any("reset" in event.what for event in run.events) else ("the fault did not happen",)


def _redeliver(bench: Bench, workload: Workload, candidate: Candidate, parameters: Parameters) -> None:
    rate = _rate_of(bench, workload, candidate, parameters)
    if rate is None:
        return
    nack_every, reject_every = parameters.nack_every, parameters.reject_every
    point: Point = {"rate": round(rate, 1), "nack_every": nack_every, "reject_every": reject_every}
    stream = _stream_of(parameters, candidate, rate=rate, nack_every=nack_every, reject_every=reject_every)

    def judge(run: Run) -> Sequence[str]:
        reasons: list[str] = []
        wanted = sum(number % reject_every == 1 for number in range(run.accounting.sent)) if reject_every else 0
        if (run.accounting.dead_lettered or 0) != wanted:
            reasons.append(f"{run.accounting.dead_lettered} messages were dead-lettered, not {wanted}")
        if nack_every and not run.accounting.redelivered_on_purpose:
            reasons.append("nothing was given back: the run proves nothing")
        return reasons

    run = _run(bench, workload, candidate, stream, point, judge=judge)
    if run is not None:
        bench.collection.stream(run)
        bench.collection.figure([run], "dead letters", "messages", float(run.accounting.dead_lettered or 0))


def _backlog(bench: Bench, workload: Workload, candidate: Candidate, parameters: Parameters) -> None:
    rate = _rate_of(bench, workload, candidate, parameters)
    if rate is None:
        return
    point: Point = {"rate": round(rate, 1), "build": parameters.build, "size": parameters.size}
    stream = _stream_of(parameters, candidate, rate=rate, backlog=parameters.build)
    run = _run(bench, workload, candidate, stream, point)
    if run is None or not run.timeline:
        return
    bench.collection.stream(run)
    empty = next((s.t for s in run.timeline if s.t > 0 and s.backlog <= 0.01 * parameters.build), None)
    why = "" if empty is not None else "the backlog was not drained"
    until = empty or run.timeline[-1].t
    bench.collection.figure([run], "time to drain the backlog", "s", until, why=why)
    drained = next((s.received for s in run.timeline if s.t >= until), run.timeline[-1].received)
    bench.collection.figure([run], "drain rate", "msg/s", drained / max(until, 0.25), why=why)
    peak = max(sample.client_rss for sample in run.timeline)
    bench.collection.figure([run], "peak memory of the client", "MB", peak / 1e6)
