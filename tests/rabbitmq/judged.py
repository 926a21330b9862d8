"""A load on a real broker with faults in its middle, judged by its history: what the fault tests of RabbitMQ share."""

import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import uuid4

from unimq_contract.history import (
    NO_FLOORS,
    Counts,
    Floors,
    History,
    Load,
    Recording,
    RecordingConsumer,
    Rules,
    judge,
    run,
)
from unimq_contract.history.events import Delivered, Event
from unimq_contract.history.recovery import recoveries

import unimq

log = logging.getLogger("unimq.contract")

PATIENCE = 60.0
"""Seconds that anything may take on a busy machine; no result is better for coming sooner."""
WINDOW = 1000
"""Unconfirmed messages of one producer of a `Recording`."""


def awaited(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait for what nobody announces."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"not within {patience} s: {what}"
        time.sleep(0.05)


@dataclass
class JudgedRun:
    """One load on a queue of its own. Workers connect to `urls` in turn."""

    urls: Sequence[str]
    queue: unimq.Queue = field(default_factory=lambda: unimq.Queue(f"judged-{uuid4().hex[:8]}"))
    history: History = field(default_factory=History)
    recording: Recording = field(init=False)

    def __post_init__(self) -> None:
        self.recording = Recording(self.history)
        # `next` of such an iterator is one step: workers in several threads may share it.
        self._turns = itertools.cycle(self.urls)

    def connect(self) -> unimq.Broker:
        """Open a connection of one worker."""
        return unimq.connect(next(self._turns), timeout=PATIENCE)

    def flows(self, count: int) -> None:
        """Wait until so many more deliveries came: the load is on, or on again (L3)."""
        seen = len(self.history.events)
        awaited(
            lambda: sum(isinstance(event, Delivered) for event in self.history.events[seen:]) >= count,
            f"{count} more deliveries (L3)",
        )

    def under_load(
        self,
        load: Load,
        fault: Callable[[], None],
        *,
        faults: Mapping[str, int],
        undoing: frozenset[str] = frozenset(),
        shadow: float = Rules().shadow,
        elsewhere: Callable[[], Sequence[Event]] = tuple,
    ) -> Counts:
        """Run the load with `fault` in its middle and judge it; the figures go to the log.

        Args:
            load: how much of what.
            fault: what happens in the middle, and is over when it returns.
            faults: how often each fault must have happened at least.
            undoing: which of them may undo confirmed acks (``Capabilities.acks_at_risk``).
            shadow: for how long after a fault its consequences may come.
            elsewhere: gives what other processes recorded.

        """
        began = time.monotonic()
        run(load, self.recording, self.connect, self.queue, meanwhile=fault, elsewhere=elsewhere)
        # What was not confirmed is sent again, what was not settled comes again, and as much may have been settled and
        # not yet proven.
        at_risk = load.producers * WINDOW + 2 * load.consumers * load.prefetch
        counts = self.judge(
            faults=faults,
            undoing=undoing,
            floors=Floors(acks=load.messages // 2),
            most_excused=at_risk * max(1, sum(faults.values())),
            shadow=shadow,
            elsewhere=elsewhere,
        )
        log.info("%.1f s", time.monotonic() - began)
        return counts

    def judge(
        self,
        *,
        faults: Mapping[str, int],
        undoing: frozenset[str] = frozenset(),
        floors: Floors = NO_FLOORS,
        most_excused: int | None = None,
        shadow: float = Rules().shadow,
        elsewhere: Callable[[], Sequence[Event]] = tuple,
    ) -> Counts:
        """Judge what was recorded; see `under_load`."""
        with self.connect() as broker:
            rules = Rules.of(broker.capabilities, self.queue, floors=replace(floors, faults=faults))
        rules = replace(
            rules,
            acks_undone_by=undoing,
            resumes_within=PATIENCE if faults else None,
            most_excused=most_excused,
            shadow=shadow,
        )
        events = [*self.history.events, *elsewhere()]
        verdict = judge(events, rules)
        log.info("%s", "; ".join(verdict.counts.lines()))
        for recovery in recoveries(events):
            log.info("%s", recovery)
        verdict.raise_if_broken()
        return verdict.counts

    def count(self, kind: type[Event]) -> int:
        """Return how many events of a kind were recorded up to now."""
        return sum(isinstance(event, kind) for event in self.history.events)

    def take(self, consumer: RecordingConsumer, count: int) -> None:
        """Receive and ack until so many different messages came, and settle."""
        seen: set[str] = set()
        while len(seen) < count:
            received = consumer.receive(100, timeout=PATIENCE)
            assert received, f"{count - len(seen)} of {count} messages did not come (R1)"
            consumer.ack(received)
            seen.update(delivery.message for delivery in received)
        consumer.settle(PATIENCE)
