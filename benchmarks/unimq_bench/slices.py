"""Rows against each other: short slices side by side, in random order in each round, over fresh processes.

Each row has one process, which waits while another works. A slice publishes some messages until all have their outcome,
then drains them until all acks are confirmed: what one slice leaves behind would be paid by the next.
"""

import contextlib
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from unimq_bench import redoing
from unimq_bench.accounting import account, added
from unimq_bench.counting import Usage
from unimq_bench.gates import faults
from unimq_bench.processes import Crew, Role, RoleFailed
from unimq_bench.redoing import Redos, never
from unimq_bench.results import Accounting, Counters, Row, Run, Slice
from unimq_bench.streams import Watch, unwatched
from unimq_bench.targets import Candidate
from unimq_bench.tasks import Receiving, Report, Sending, Task

_MOST_BYTES = 48 * 1024 * 1024
_MOST_MESSAGES = 200_000
_FIRST = 200
"""Messages of the first burst, from which the length of a slice is found."""
_WARM_UP = 0.5
_FEWEST_BURSTS = 3
_MOST_BURSTS = 10
_SLICE_WITHIN = 120.0
TWIN = " again"
"""Ends the name of the second process of the reference, against which it is compared with itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """How rows compete."""

    processes: int = 8
    rounds: int = 6
    seconds: float = 1.0
    """Of publishing, in one slice."""
    messages: int = 0
    """In one slice; 0: as many as the row publishes in `seconds`."""
    size: int = 100
    content: str = "random"
    window: int = 1000
    prefetch: int = 500
    batch: int = 500
    patience: float = 20.0
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    twin: bool = False
    """Whether the last row runs twice, for the noise floor."""
    redos: Redos = field(default_factory=never)


@dataclass(slots=True)
class _Lane:
    """One row in one process with its queue."""

    name: str
    candidate: Candidate
    role: Role
    queue: str
    brokers: tuple[int, ...]
    row: Row
    count: int = _FIRST
    slices: list[Slice] = field(default_factory=list[Slice])
    discarded: list[Slice] = field(default_factory=list[Slice])
    accounts: list[Accounting] = field(default_factory=list[Accounting])
    batches: int = 0
    largest: int = 0
    cpu: float = 0.0
    broker_cpu: float | None = None
    foreign: float = 0.0
    busy: float = 0.0
    """Seconds in which this lane worked."""
    counted: dict[str, int] = field(default_factory=dict[str, int])
    """What the client had counted before the first slice."""
    failure: str = ""


Collect = Callable[[Run, Row], None]


def compete(
    rows: Sequence[Candidate],
    contest: Contest,
    *,
    workload: str,
    point: Mapping[str, int | float | str],
    generator: random.Random,
    collect: Collect,
    watch: Watch = unwatched,
    paths: Sequence[str] = (),
) -> None:
    """Let rows of one place compete; give `collect` a run of each row as soon as a set of processes is done.

    A row that fails is told by its run, and the others go on.
    """
    counts: dict[str, int] = {}
    """What makes a slice of each lane, found by the first set of processes."""
    for number in range(contest.processes):
        with Crew(paths) as crew:
            lanes, runs = _lanes(crew, rows, contest, workload, dict(point), number)
            for run, row in runs:
                collect(run, row)
            for lane in lanes:
                _guarded(lane, lambda lane=lane: _warm_up(crew, lane, contest, generator, watch, counts))  # type: ignore[misc]
            for round_ in range(contest.rounds):
                generator.shuffle(lanes)
                for lane in lanes:
                    if not lane.failure:
                        watch(f"{lane.name}, process {number + 1} of {contest.processes}", 0.0, None)
                        _guarded(lane, lambda lane=lane, at=round_: _slice(crew, lane, contest, generator, at, watch))  # type: ignore[misc]
            for lane in lanes:
                with contextlib.suppress(RoleFailed):
                    lane.role.ask("remove", queue=lane.queue)
                collect(_run(lane, workload, dict(point), number, contest), lane.row)


def _guarded(lane: _Lane, work: Callable[[], None]) -> None:
    try:
        work()
    except RoleFailed as error:
        lane.failure = str(error)


def _lanes(
    crew: Crew,
    rows: Sequence[Candidate],
    contest: Contest,
    workload: str,
    point: dict[str, int | float | str],
    number: int,
) -> tuple[list[_Lane], list[tuple[Run, Row]]]:
    """Connect every row; return the lanes, and a run for each row that could not connect."""
    from unimq_bench.rows.protocol import Description

    wanted = [(candidate.name, candidate) for candidate in rows]
    if contest.twin:
        wanted.append((rows[-1].name + TWIN, rows[-1]))
    lanes: list[_Lane] = []
    failed: list[tuple[Run, Row]] = []
    # Side by side: what they import takes longer than anything else here.
    roles = [crew.start(candidate.python) for _, candidate in wanted]
    for (_, candidate), role in zip(wanted, roles, strict=True):
        with contextlib.suppress(RoleFailed):
            role.begin_connect(candidate.entry.module, candidate.place.url, contest.options)
    for index, ((name, candidate), role) in enumerate(zip(wanted, roles, strict=True)):
        queue = f"bench-{number}-{index}-{time.monotonic_ns():x}"
        try:
            role.end_connect()
            row = candidate.row(role.prepare(queue))
        except RoleFailed as error:
            row = candidate.row(Description(durability=""))
            reason = f"the row could not start: {error}"
            failed.append((Run(row=name, workload=workload, point=point, process=number, invalid=(reason,)), row))
            continue
        lanes.append(_Lane(name, candidate, role, queue, candidate.place.pids(), row))
    return lanes, failed


def _warm_up(
    crew: Crew, lane: _Lane, contest: Contest, generator: random.Random, watch: Watch, counts: dict[str, int]
) -> None:
    """Publish and drain until both are warm, and find out how many messages make a slice. Nothing of it counts."""
    known = counts.get(lane.name)
    if known is None:
        _find_count(crew, lane, contest, generator, watch)
        counts[lane.name] = lane.count
    else:
        # A few messages open what is opened once, and one slice warms the rest.
        for lane.count in (min(_FIRST, known), known):
            _drain(crew, lane, contest, _publish(crew, lane, contest, generator.getrandbits(32), watch), watch)
    lane.counted = lane.role.counters()
    lane.slices.clear()
    lane.accounts.clear()
    lane.batches = lane.largest = 0
    lane.cpu = lane.foreign = lane.busy = 0.0
    lane.broker_cpu = None


def _find_count(crew: Crew, lane: _Lane, contest: Contest, generator: random.Random, watch: Watch) -> None:
    """Publish and drain ever more, until so many messages take as long as a slice must."""
    most = max(1, min(_MOST_MESSAGES, _MOST_BYTES // contest.size))
    deadline = time.monotonic() + _WARM_UP
    lane.count = min(_FIRST, most)
    for burst in range(_MOST_BURSTS):
        report = _publish(crew, lane, contest, generator.getrandbits(32), watch)
        rate = report.sent / max((report.ended - report.started) / 1e9, 1e-6)
        _drain(crew, lane, contest, report, watch)
        wanted = max(1, min(most, contest.messages or int(rate * contest.seconds)))
        # The first bursts are often slow, or fast, beyond measure: the length must be found by one like itself.
        is_like_itself = lane.count / 2 <= wanted <= lane.count * 2
        lane.count = min(most, max(wanted, lane.count // 10, 1), lane.count * 10)
        if burst >= _FEWEST_BURSTS - 1 and is_like_itself and time.monotonic() >= deadline:
            break


def _slice(crew: Crew, lane: _Lane, contest: Contest, generator: random.Random, round_: int, watch: Watch) -> None:
    for redone in range(redoing.MOST + 1):
        number, foreign, busy = len(lane.slices), lane.foreign, lane.busy
        report = _publish(crew, lane, contest, generator.getrandbits(32), watch, round_)
        _drain(crew, lane, contest, report, watch, round_)
        took = lane.busy - busy
        if redone == redoing.MOST or faults(lane.accounts[-1]):
            return
        if not contest.redos.wants((lane.foreign - foreign) / took, took):
            return
        lane.discarded += lane.slices[number:]
        del lane.slices[number:]
        lane.foreign, lane.busy = foreign, busy


def _publish(crew: Crew, lane: _Lane, contest: Contest, run: int, watch: Watch, round_: int = 0) -> Report:
    task = Sending(
        run=run,
        producer=0,
        queue=lane.queue,
        window=contest.window,
        size=contest.size,
        content=contest.content,
        count=lane.count,
        prebuilt=True,
    )
    report = _timed(crew, lane, task, "publish", round_, watch)
    report.files["run"] = str(run)
    return report


def _drain(crew: Crew, lane: _Lane, contest: Contest, published: Report, watch: Watch, round_: int = 0) -> None:
    stored = published.sent - len(published.failed)
    task = Receiving(
        run=int(published.files.pop("run")),
        queue=lane.queue,
        prefetch=contest.prefetch,
        at_most=contest.batch,
        # And the probe.
        expected=stored + 1,
        patience=contest.patience,
        deferred=True,
        folder=str(crew.folder),
    )
    report = _timed(crew, lane, task, "consume", round_, watch)
    lane.accounts.append(account([(0, 0, published)], [report]))
    lane.batches += report.batches
    lane.largest = max(lane.largest, report.largest)


def _timed(crew: Crew, lane: _Lane, task: Task, metric: str, round_: int, watch: Watch) -> Report:
    """Do one task and write down its slice, if it has one: a drain that was a single batch has no length."""
    role = lane.role
    role.begin([task])
    crew.wait_for(lambda: role.is_ready or role.has_answered, _SLICE_WITHIN)
    usage = Usage([role.pid], lane.brokers)
    start = time.monotonic()
    role.go()
    if not crew.wait_for(lambda: role.has_answered, _SLICE_WITHIN):
        raise RoleFailed(f"a slice was not over within {_SLICE_WITHIN:g} s")
    broker, foreign, passed = usage.broker_cpu(), usage.foreign_cpu(), time.monotonic() - start
    (report,) = role.reports()
    seconds = (report.ended - report.started) / 1e9
    lane.busy += passed
    lane.foreign += foreign
    if broker is not None:
        lane.broker_cpu = (lane.broker_cpu or 0.0) + broker
    if report.counted > 0 and seconds > 0 and report.started:
        lane.cpu += report.cpu
        lane.slices.append(
            Slice(
                metric=metric,
                messages=report.counted,
                seconds=seconds,
                client_cpu=report.cpu,
                broker_cpu=broker,
                foreign_cpu=foreign / passed,
                pair=round_,
            )
        )
        watch("", report.counted / seconds, None)
    return report


def _run(lane: _Lane, workload: str, point: dict[str, int | float | str], number: int, contest: Contest) -> Run:
    counts = added(lane.accounts) if lane.accounts else Accounting(judged=False)
    counted: dict[str, int] = {}
    with contextlib.suppress(RoleFailed):
        counted = {name: count - lane.counted.get(name, 0) for name, count in lane.role.counters().items()}
    return Run(
        row=lane.name,
        workload=workload,
        point=point,
        process=number,
        # The CPU is of all that was done, and so is the time.
        seconds=sum(part.seconds for part in (*lane.slices, *lane.discarded)),
        slices=tuple(lane.slices),
        discarded=tuple(lane.discarded),
        accounting=counts,
        counters=Counters(
            requests=counted.get("requests"),
            billed_requests=counted.get("billed_requests"),
            empty_receives=counted.get("empty_receives"),
            bytes_sent=counted.get("bytes_sent", counts.sent * contest.size),
            bytes_received=counted.get("bytes_received", counts.received * contest.size),
            batches=lane.batches,
            largest_batch=lane.largest,
        ),
        cpu_seconds=lane.cpu,
        broker_cpu_seconds=lane.broker_cpu,
        foreign_cpu=lane.foreign / lane.busy if lane.busy else 0.0,
        invalid=(f"the row failed: {lane.failure}",) if lane.failure else (),
    )


def log_ratios(runs: Sequence[Run], a: str, b: str, metric: str, cost: str) -> list[list[float]]:
    """Return, by process, the logarithms of what a message of row `a` took against one of row `b`, pair by pair.

    `metric` is ``publish`` or ``consume``, `cost` is ``time`` or ``CPU``.
    """
    found: list[list[float]] = []
    for process in sorted({run.process for run in runs}):
        of_a = _by_round(runs, a, process, metric, cost)
        of_b = _by_round(runs, b, process, metric, cost)
        pairs = [math.log(of_a[at] / of_b[at]) for at in of_a if at in of_b]
        if pairs:
            found.append(pairs)
    return found


def _by_round(runs: Sequence[Run], row: str, process: int, metric: str, cost: str) -> dict[int, float]:
    found: dict[int, float] = {}
    for run in runs:
        if run.row == row and run.process == process:
            for part in run.slices:
                spent = part.seconds if cost == "time" else part.client_cpu
                if part.metric == metric and spent > 0:
                    found[part.pair] = spent / part.messages
    return found
