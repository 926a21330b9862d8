"""How a history is judged: what the destination promises, what a fault excuses, how much must have happened."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

import unimq


@dataclass(frozen=True, slots=True, kw_only=True)
class Floors:
    """How often each thing must have happened; a run that did less proved nothing.

    The figures are where suites began to catch every broken queue: with a tenth of these acks one mutant of twenty
    survived. ``overlaps`` are deliveries that came while another consumer of the group held one.
    """

    acks: int = 200
    nacks: int = 20
    redeliveries: int = 20
    out_of_order_acks: int = 10
    overlaps: int = 10
    faults: Mapping[str, int] = field(default_factory=dict[str, int])
    """Faults by the name under which they are recorded: a fault test sets 1 for each that it is about."""


NO_FLOORS = Floors(acks=0, nacks=0, redeliveries=0, out_of_order_acks=0, overlaps=0)
"""For histories that were made by hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What holds in this run. Times are seconds."""

    ordering: Literal["none", "key"] = "none"
    max_deliveries: int | None = None
    attempts: Literal["exact", "skipping", "restarting"] = "exact"
    """``exact``: 1, 2, 3 and so on; only an end or a fault between may have used up a number unseen. ``skipping``:
    deliveries that nobody saw are counted too (A9), or leases end in the consumer's buffer. ``restarting``: the count
    may also begin again after an end or a fault (A7)."""
    shutdown_counts: bool = True
    """Whether a close or a lost connection counts as a delivery (A9); where not, the same number comes again."""
    acks_undone_by: frozenset[str] = frozenset()
    """Names of the faults that may undo confirmed acks (``Capabilities.acks_at_risk``); no broken connection may."""
    rebalance: float | None = None
    """For how long after a consumer joined or left deliveries of the others may be revoked; ``None`` for not at all."""
    shadow: float = 1.0
    """For how long after a fault its consequences are excused: a broken connection is noticed late."""
    tolerance: float = 0.05
    """By how much clocks disagree and threads are late."""
    drained: bool = True
    """Whether the run went on until nothing more came; otherwise nothing can be called lost."""
    most_excused: int | None = None
    """Duplicates that faults may cause at most: for each fault, what was in flight and what was not yet confirmed."""
    resumes_within: float | None = None
    """By when after the last fault a message is delivered (L3)."""
    settles_within: float | None = None
    """By when after the last fault and the last send every message is settled."""
    floors: Floors = field(default_factory=Floors)

    @classmethod
    def of(cls, capabilities: unimq.Capabilities, queue: unimq.Queue, *, floors: Floors | None = None) -> Self:
        """Return the rules for a queue on a backend; a subscription's queue is its ``.queue``."""
        return cls(
            ordering=queue.ordering,
            max_deliveries=queue.max_deliveries,
            attempts="restarting"
            if not capabilities.attempts_exact or (queue.ordering == "key" and capabilities.ordered_attempts)
            else "skipping"
            if capabilities.shutdown_counts or queue.lease is not None
            else "exact",
            shutdown_counts=capabilities.shutdown_counts,
            acks_undone_by=frozenset({"broker killed"} if capabilities.acks_at_risk else ()),
            floors=floors or Floors(),
        )
