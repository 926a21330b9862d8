"""One run in which messages flow: producers and consumers side by side, each in its own process, and watched."""

import contextlib
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import msgspec

from unimq_bench.accounting import account
from unimq_bench.counting import Usage, resident_bytes
from unimq_bench.ledger import read_times
from unimq_bench.processes import Crew, Role, RoleFailed
from unimq_bench.recording import folded
from unimq_bench.results import Accounting, Counters, Event, Row, Run, Sample, Slice
from unimq_bench.targets import Candidate
from unimq_bench.tasks import Receiving, Report, Sending, Task

_JOIN_WITHIN = 60.0
_READY_WITHIN = 60.0
_END_WITHIN = 10.0
_QUIET = 0.5
"""Seconds without a delivery after which nothing more is expected once every message has come."""
_AHEAD = 100_000_000
"""Nanoseconds between the word to start and the start."""

Watch = Callable[[str, float, float | None], None]
"""Told four times a second: what goes on, messages per second, p99 of the response times."""


def unwatched(what: str, rate: float, p99: float | None) -> None:
    """Nobody looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """What flows, and how."""

    rate: float = 0.0
    """Messages per second of all producers together; 0: as many as the windows allow."""
    seconds: float = 5.0
    warm_up: float = 0.5
    size: int = 100
    content: str = "random"
    window: int = 1000
    prefetch: int = 500
    batch: int = 500
    producers: int = 1
    consumers: int = 1
    threads: int = 1
    """Producers, and consumers, in one process."""
    queues: int = 1
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    patience: float = 10.0
    backlog: int = 0
    """Messages that wait before the consumers come."""
    pause_at: float = 0.0
    pause: float = 0.0
    reopen_at: float = 0.0
    nack_every: int = 0
    reject_every: int = 0
    fault_at: float = 0.0
    url: str = ""
    """Another way to the broker; empty: that of the place."""
    timed: bool = True
    """Whether the times of messages are kept."""


@dataclass(slots=True)
class _Hand:
    """A process with its tasks."""

    role: Role
    tasks: list[Task]
    reports: list[Report] = field(default_factory=list[Report])


def flow(
    candidate: Candidate,
    stream: Stream,
    *,
    workload: str,
    point: Mapping[str, int | float | str],
    generator: random.Random,
    watch: Watch = unwatched,
    fault: Callable[[], str] | None = None,
    paths: Sequence[str] = (),
) -> tuple[Run, Row]:
    """Let messages flow, wait until every one has come, and say what became of them.

    Raises:
        RoleFailed: a role could not do its part.

    """
    run = generator.getrandbits(32)
    with Crew(paths) as crew:
        flowing = _Flow(crew, candidate, stream, run, watch, fault)
        return flowing.whole(workload, dict(point))


class _Flow:
    """Belongs to one thread."""

    def __init__(
        self,
        crew: Crew,
        candidate: Candidate,
        stream: Stream,
        run: int,
        watch: Watch,
        fault: Callable[[], str] | None,
    ) -> None:
        self.crew = crew
        self.candidate = candidate
        self.stream = stream
        self.run = run
        self.watch = watch
        self.fault = fault
        self.queues = [f"bench-{run:08x}-{number}" for number in range(stream.queues)]
        self.samples: list[Sample] = []
        self.events: list[Event] = []
        self.notes: list[str] = []
        self.invalid: list[str] = []
        self.start = 0
        self.usage = Usage((), ())
        self._watched: list[_Hand] = []
        self._last: tuple[float, int, float, float | None] = (0.0, 0, 0.0, None)
        self.backlog_built = 0.0

    # Who does what.

    def _receiving(self, number: int) -> Receiving:
        stream = self.stream
        return Receiving(
            run=self.run,
            queue=self.queues[number % len(self.queues)],
            prefetch=stream.prefetch,
            at_most=stream.batch,
            pause_at=stream.pause_at,
            pause=stream.pause,
            # One of them is enough, and the others show that the messages find another way.
            reopen_at=stream.reopen_at if number == 0 else 0.0,
            waits=bool(stream.backlog),
            nack_every=stream.nack_every,
            reject_every=stream.reject_every,
            folder=str(self.crew.folder),
        )

    def _sending(self, number: int) -> Sending:
        stream = self.stream
        return Sending(
            run=self.run,
            producer=number,
            queue=self.queues[number % len(self.queues)],
            window=stream.window,
            size=stream.size,
            content=stream.content,
            first=stream.backlog if number == 0 else 0,
            seconds=stream.seconds,
            rate=stream.rate / stream.producers,
            warm_up=stream.warm_up,
            # One for each queue, so that every consumer gets some.
            probing=number < len(self.queues) and not stream.backlog,
            folder=str(self.crew.folder),
        )

    def _hands(self) -> tuple[list[_Hand], list[_Hand]]:
        """Return producers and consumers; in one process both are the same hand."""
        sendings: list[Task] = [self._sending(number) for number in range(self.stream.producers)]
        receivings: list[Task] = [self._receiving(number) for number in range(self.stream.consumers)]
        if self.candidate.place.in_process:
            hand = _Hand(self._role(), [*sendings, *receivings])
            return [hand], [hand]
        return self._spread(sendings), self._spread(receivings)

    def _spread(self, tasks: list[Task]) -> list[_Hand]:
        threads = self.stream.threads
        return [_Hand(self._role(), tasks[at : at + threads]) for at in range(0, len(tasks), threads)]

    def _role(self) -> Role:
        return self.crew.start(self.candidate.python)

    # What happens.

    def whole(self, workload: str, point: dict[str, int | float | str]) -> tuple[Run, Row]:
        """Do all of it."""
        producers, consumers = self._hands()
        hands = producers if producers == consumers else [*producers, *consumers]
        url = self.stream.url or self.candidate.place.url
        module, first = self.candidate.entry.module, hands[0].role
        for hand in hands:
            hand.role.begin_connect(module, url, self.stream.options)
        for hand in hands:
            hand.role.end_connect()
        descriptions = [first.prepare(queue) for queue in self.queues]
        row = self.candidate.row(descriptions[0])
        try:
            before = _counted(hands)
            built = self._build(first) if self.stream.backlog else None
            join_time = self._begin(producers, consumers, hands)
            self._watch_until_sent(producers)
            judged = self._watch_until_received(producers, consumers, built)
            for hand in hands:
                hand.role.stop()
            self.crew.wait_for(lambda: all(hand.role.has_answered for hand in hands), _READY_WITHIN)
            for hand in hands:
                hand.reports = hand.role.reports()
            client_cpu, broker_cpu = self.usage.client_cpu(), self.usage.broker_cpu()
            foreign, lasted = self.usage.foreign_cpu(), time.monotonic_ns() - self.start
            counted = _difference(_counted(hands), before)
            dead = self._dead_letters(first) if self.stream.reject_every else None
        except BaseException:
            # Interrupted, or one of them failed: the others come to an end before the queue goes.
            for hand in hands:
                hand.role.stop()
            self.crew.wait_for(lambda: all(hand.role.has_answered for hand in hands), _END_WITHIN)
            for hand in hands:
                hand.role.forget()
            raise
        finally:
            with contextlib.suppress(RoleFailed):
                for queue in self.queues:
                    first.ask("remove", timeout=_END_WITHIN, queue=queue)
        run = self._run(workload, point, hands, built, dead, counted, judged=judged)
        return (
            msgspec.structs.replace(
                run,
                join_time=join_time,
                cpu_seconds=client_cpu,
                broker_cpu_seconds=broker_cpu,
                foreign_cpu=foreign / (lasted / 1e9),
            ),
            row,
        )

    def _build(self, role: Role) -> Report:
        """Send the backlog, before any consumer is there."""
        began = time.monotonic()
        task = replace(self._sending(0), first=0, count=self.stream.backlog, rate=0.0, seconds=0.0, folder="")
        (report,) = role.work([task], timeout=300.0)
        self.backlog_built = time.monotonic() - began
        return report

    def _begin(self, producers: list[_Hand], consumers: list[_Hand], hands: list[_Hand]) -> float | None:
        opened = time.monotonic_ns()
        waited = hands if self.stream.backlog else [*consumers, *(hand for hand in producers if hand not in consumers)]
        for hand in waited:
            hand.role.begin(hand.tasks)
            self._wait(partial(getattr, hand.role, "is_ready"), "a role was not ready in time", _READY_WITHIN)
        joined: float | None = None
        if not self.stream.backlog:
            if self._wait(lambda: all(hand.role.joined for hand in consumers), "", _JOIN_WITHIN):
                joined = (max(hand.role.joined for hand in consumers) - opened) / 1e9
            else:
                self.notes.append(f"not every consumer received a probe within {_JOIN_WITHIN:g} s")
        self.usage = Usage([hand.role.pid for hand in hands], self.candidate.place.pids())
        self.start = time.monotonic_ns() + _AHEAD
        self._last = (time.monotonic(), 0, 0.0, 0.0)
        for hand in hands:
            hand.role.go(self.start)
        self._watched = hands
        return joined

    def _wait(self, condition: Callable[[], bool], complaint: str, timeout: float) -> bool:
        """Wait for a condition, or for a role that ends before its time, which is raised."""
        roles = self.crew.roles
        self.crew.wait_for(lambda: condition() or any(role.has_answered for role in roles), timeout)
        if condition():
            return True
        for role in roles:
            if role.has_answered:
                role.result()
        if complaint:
            raise RoleFailed(complaint)
        return False

    def _watch_until_sent(self, producers: list[_Hand]) -> None:
        stream, pending = self.stream, self.fault
        timeout = stream.seconds * 3 + 60.0
        deadline = time.monotonic() + timeout

        def done() -> bool:
            return all(
                number in hand.role.finished
                for hand in producers
                for number, task in enumerate(hand.tasks)
                if isinstance(task, Sending)
            )

        while not done():
            if pending is not None:
                left = self.start / 1e9 + stream.fault_at - time.monotonic()
                if left <= 0:
                    self._event(pending())
                    pending = None
                    continue
                wait = min(left, 0.25)
            else:
                wait = 0.25
            self.crew.wait_for(lambda: done() or self._somebody_failed(), wait, tick=self._sample)
            self._raise_failure()
            if time.monotonic() > deadline:
                raise RoleFailed(f"the producers were not done within {timeout:g} s")

    def _watch_until_received(self, producers: list[_Hand], consumers: list[_Hand], built: Report | None) -> bool:
        """Wait for what is in flight; return whether it came to an end, which is needed to speak of a loss."""
        stored = sum(sum(hand.role.finished.values()) for hand in producers)
        stored -= sum(
            hand.role.finished.get(number, 0)
            for hand in producers
            for number, task in enumerate(hand.tasks)
            if isinstance(task, Receiving)
        )
        wanted = stored + (built.sent - len(built.failed) if built is not None else 0)
        if self.stream.reject_every:
            # What goes to the dead letters is not received here.
            wanted -= math.ceil(wanted / self.stream.reject_every)
        seen, last = -1, time.monotonic()
        while True:
            self.crew.wait_for(self._somebody_failed, 0.1)
            self._raise_failure()
            self._sample()
            received, now = sum(hand.role.received for hand in consumers), time.monotonic()
            if received != seen:
                seen, last = received, now
            quiet = now - last
            if quiet >= (_QUIET if received >= wanted else self.stream.patience):
                return True

    def _somebody_failed(self) -> bool:
        return any(hand.role.has_answered for hand in self._watched)

    def _raise_failure(self) -> None:
        """A role answers early only if it failed, or if it is a producer that is done."""
        for hand in self._watched:
            if hand.role.has_answered and len(hand.role.finished) < len(hand.tasks):
                hand.role.result()

    def _event(self, what: str) -> None:
        self.events.append(Event(t=(time.monotonic_ns() - self.start) / 1e9, what=what))

    def _sample(self) -> None:
        now = time.monotonic()
        before, received_before, client_before, broker_before = self._last
        passed = now - before
        if passed < 0.2:
            return
        roles = [hand.role for hand in self._watched]
        sent, received = sum(role.sent for role in roles), sum(role.received for role in roles)
        client, broker = self.usage.client_cpu(), self.usage.broker_cpu()
        p99 = max((role.p99 for role in roles if role.p99 is not None), default=None)
        self.samples.append(
            Sample(
                t=now - self.start / 1e9,
                sent=sent,
                received=received,
                backlog=max(0, sent + self.stream.backlog - received),
                p99=p99,
                client_cpu=max(0.0, client - client_before) / passed,
                broker_cpu=None if broker is None else max(0.0, broker - (broker_before or 0.0)) / passed,
                client_rss=resident_bytes(self.usage.clients),
                broker_rss=resident_bytes(self.usage.brokers) if self.usage.brokers else None,
            )
        )
        self.watch("", (received - received_before) / passed, p99)
        self._last = (now, received, client, broker)

    def _dead_letters(self, role: Role) -> list[Report]:
        """Receive what was dead-lettered, until no more comes."""
        found: list[Report] = []
        for queue in self.queues:
            task = Receiving(
                run=self.run,
                queue=f"{queue}-dead",
                prefetch=self.stream.prefetch,
                at_most=self.stream.batch,
                expected=2**31,
                patience=3.0,
                folder=str(self.crew.folder),
            )
            found += role.work([task], timeout=120.0)
        return found

    def _run(
        self,
        workload: str,
        point: dict[str, int | float | str],
        hands: list[_Hand],
        built: Report | None,
        dead: list[Report] | None,
        counted: Mapping[str, int],
        *,
        judged: bool,
    ) -> Run:
        pairs = [pair for hand in hands for pair in zip(hand.tasks, hand.reports, strict=True)]
        sent = [(task, report) for task, report in pairs if isinstance(task, Sending)]
        came = [report for task, report in pairs if isinstance(task, Receiving)]
        producers = [(task.producer, task.first, report) for task, report in sent]
        if built is not None:
            # The first producer sent the backlog, too, with the numbers below its first.
            number, first, report = producers[0]
            whole = Report(sent=built.sent + report.sent, failed=[*built.failed, *report.failed])
            producers[0] = (number, 0, whole) if built.sent == first else producers[0]
        counts: Accounting = account(producers, came, dead=dead, judged=judged)
        for report in came:
            self.events += [Event(t=(at - self.start) / 1e9, what=what) for at, what in report.events]
        self.events.sort(key=lambda event: event.t)
        ends = [report.sending_ended for _, report in sent]
        sending = (max(ends) - self.start) / 1e9
        last = max((report.last for report in came), default=self.start)
        receiving = (max(last, self.start + 1) - self.start) / 1e9
        for error in dict.fromkeys(error for _, report in pairs for error in report.errors):
            self.invalid.append(f"the row failed: {error}")
        not_taken = sum(report.not_taken for _, report in sent)
        if not_taken:
            self.notes.append(f"{not_taken} messages were not taken: the window stayed full")
        size = self.stream.size
        total = sum(report.sent for _, report in sent)
        return Run(
            row=self.candidate.name,
            workload=workload,
            point=point,
            seconds=max(sending, receiving),
            slices=(
                Slice(metric="publish", messages=total, seconds=sending),
                Slice(metric="both", messages=counts.received, seconds=receiving),
            ),
            histograms=self._histograms(pairs),
            accounting=counts,
            counters=Counters(
                requests=counted.get("requests"),
                billed_requests=counted.get("billed_requests"),
                empty_receives=counted.get("empty_receives"),
                bytes_sent=counted.get("bytes_sent", counts.sent * size),
                bytes_received=counted.get("bytes_received", counts.received * size),
                batches=sum(report.batches for report in came),
                largest_batch=max((report.largest for report in came), default=0),
            ),
            timeline=tuple(self.samples),
            events=tuple(self.events),
            invalid=tuple(self.invalid),
            notes=tuple(self.notes),
        )

    def _histograms(self, pairs: Sequence[tuple[Task, Report]]) -> dict[str, str]:
        if not self.stream.timed:
            return {}
        found: dict[str, str] = {}
        for what in ("response", "service", "blocked", "lateness"):
            paths = [report.files[what] for _, report in pairs if what in report.files]
            times = read_times(paths)
            if len(times):
                found[what] = folded(times)
        return found


def _counted(hands: Sequence[_Hand]) -> dict[str, int]:
    total: dict[str, int] = {}
    for hand in hands:
        for name, count in hand.role.counters().items():
            total[name] = total.get(name, 0) + count
    return total


def _difference(after: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in after.items()}
