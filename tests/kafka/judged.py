"""A load on a real broker with faults in its middle, judged by its history: what the fault tests of Kafka share."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from uuid import uuid4

from unimq_contract.history import Counts, Floors, History, Load, Recording, Rules, judge, run
from unimq_contract.history.events import Delivered, Event
from unimq_contract.history.recovery import recoveries

import unimq

log = logging.getLogger("unimq.contract")

PATIENCE = 120.0
"""Seconds that anything may take on a busy machine; no result is better for coming sooner."""


def awaited(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait for what nobody announces."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"not within {patience} s: {what}"
        time.sleep(0.05)


@dataclass
class JudgedRun:
    """One load on a queue of its own. `url` is what all its workers connect to."""

    url: str
    ordering: str = "key"
    queue: unimq.Queue = field(init=False)
    history: History = field(default_factory=History)
    recording: Recording = field(init=False)

    def __post_init__(self) -> None:
        self.queue = unimq.Queue(f"judged-{uuid4().hex[:8]}", ordering="key" if self.ordering == "key" else "none")
        self.recording = Recording(self.history)

    def connect(self) -> unimq.Broker:
        """Open a connection of one worker."""
        return unimq.connect(self.url, timeout=PATIENCE)

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
        floors: Floors,
        most_excused: int | None = None,
        rebalance: float | None = PATIENCE,
        shadow: float = Rules().shadow,
        elsewhere: Callable[[], Sequence[Event]] = tuple,
    ) -> Counts:
        """Run the load with `fault` in its middle and judge it; the figures go to the log.

        No confirmed ack may be undone, as the broker or cluster keeps its commits (A1).
        """
        began = time.monotonic()
        run(load, self.recording, self.connect, self.queue, meanwhile=fault, elsewhere=elsewhere)
        with self.connect() as broker:
            rules = Rules.of(broker.capabilities, self.queue, floors=floors)
        rules = replace(
            rules,
            acks_undone_by=frozenset(),
            rebalance=rebalance,
            shadow=shadow,
            resumes_within=PATIENCE if floors.faults else None,
            most_excused=most_excused,
        )
        events = [*self.history.events, *elsewhere()]
        verdict = judge(events, rules)
        log.info("%.1f s; %s", time.monotonic() - began, "; ".join(verdict.counts.lines()))
        for recovery in recoveries(events):
            log.info("%s", recovery)
        verdict.raise_if_broken()
        return verdict.counts
