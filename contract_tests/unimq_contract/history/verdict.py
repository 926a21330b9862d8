"""What a history proves: what was broken, with the events that show it, and how much happened at all."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from unimq_contract.guarantees import GUARANTEES
from unimq_contract.history.events import Event, shown

QUOTED_FINDINGS = 5
"""Findings of one kind that are kept with their story; the others are counted."""
QUOTED_EVENTS = 25
"""Events of one story."""


class Kind(Enum):
    """What can be wrong, and the guarantees that it breaks."""

    LOST = ("lost", "R1", "S1")
    UNEXPECTED = ("unexpected", "R5")
    ABORTED = ("aborted", "S2")
    LEASED_TWICE = ("leased twice", "R1", "G1")
    ACKED_YET_REDELIVERED = ("acked yet redelivered", "A1")
    DUPLICATED = ("duplicated", "R1")
    STALE_ACK = ("stale settlement accepted", "A6")
    SETTLED_TWICE = ("settled twice", "A6")
    REORDERED = ("reordered", "O1")
    KEY_OVERLAP = ("key not one at a time", "O1")
    CHANGED = ("changed", "R2")
    ATTEMPTS = ("wrong attempt", "A7")
    EARLY = ("too early", "T2", "A3")
    EXPIRED = ("delivered after expiry", "T1")
    CONSERVATION = ("does not add up", "T4", "R1")
    LATE = ("too late", "L3")
    MALFORMED = ("not a history",)

    def __init__(self, title: str, *guarantees: str) -> None:
        self.title = title
        self.guarantees = guarantees


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    kind: Kind
    text: str
    at: int
    message: str = ""
    other: str = ""
    """A second message that it is about."""
    story: tuple[Event, ...] = ()
    """The events that show it, shortened if there are many."""


@dataclass(slots=True)
class Counts:
    """What happened. `excused` counts the legal duplicates by their cause."""

    events: int = 0
    sent: int = 0
    not_sent: int = 0
    maybe_sent: int = 0
    recovered: int = 0
    """Messages that came although their send ended unknown: legal."""
    uncertain: int = 0
    """Messages that were not seen again after an ack whose fate is unknown: legal."""
    expired: int = 0
    """Messages that were not seen before their time was over: legal."""
    deliveries: int = 0
    redeliveries: int = 0
    acks: int = 0
    """Confirmed ones."""
    nacks: int = 0
    rejects: int = 0
    out_of_order_acks: int = 0
    stale: int = 0
    again: int = 0
    overlaps: int = 0
    closes: int = 0
    crashes: int = 0
    excused: Counter[str] = field(default_factory=Counter[str])
    faults: Counter[str] = field(default_factory=Counter[str])

    def lines(self) -> Iterable[str]:
        """Yield what a person wants to see."""
        yield f"{self.events} events: {self.sent} sent, {self.not_sent} not sent, {self.maybe_sent} unknown"
        yield (
            f"{self.deliveries} deliveries ({self.redeliveries} again), {self.acks} acks confirmed "
            f"({self.out_of_order_acks} out of order), {self.nacks} nacks, {self.rejects} rejects, {self.overlaps} "
            f"overlaps; {self.stale} settlements came too late, {self.again} were second ones"
        )
        yield f"{self.recovered} recovered, {self.uncertain} uncertain, {self.expired} expired"
        yield f"{self.closes} consumers closed, {self.crashes} crashed; faults: {_listed(self.faults)}"
        yield f"duplicates excused: {_listed(self.excused)}"


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in sorted(counter.items())) or "none"


class ContractBroken(AssertionError):
    """The history breaks the contract; the text is the report."""


class ProvedNothing(AssertionError):
    """Nothing is broken, but too little happened for that to mean anything; the text is the report."""


@dataclass(slots=True)
class Verdict:
    """The judgement of one history."""

    start: int
    """Time of the first event; the report counts from there."""
    counts: Counts
    found: Counter[Kind]
    findings: list[Finding]
    """The first few of each kind."""
    missing: list[str]
    """What happened too rarely, in words."""

    @property
    def clean(self) -> bool:
        """Whether nothing is broken."""
        return not self.found

    @property
    def proved(self) -> bool:
        """Whether nothing is broken and enough happened."""
        return not self.found and not self.missing

    def report(self) -> str:
        """Return the verdict for people: per kind the guarantees, the number, and the first stories."""
        lines = ["history: " + ("proved" if self.proved else "broken" if self.found else "proved nothing")]
        lines += [f"  {line}" for line in self.counts.lines()]
        lines += [f"  too few: {missing}" for missing in self.missing]
        for kind, count in sorted(self.found.items(), key=lambda item: item[0].name):
            lines.append(f"\n{count} x {kind.title}")
            lines += [f"  {number}: {GUARANTEES[number]}" for number in kind.guarantees]
            for finding in self.findings:
                if finding.kind is kind:
                    lines.append(f"  * {finding.text}")
                    lines += [f"      {shown(event, self.start)}" for event in finding.story]
        return "\n".join(lines)

    def raise_if_broken(self) -> None:
        """Raise unless the run proved what it is about.

        Raises:
            ContractBroken: a guarantee was broken.
            ProvedNothing: too little happened.

        """
        if self.found:
            raise ContractBroken(self.report())
        if self.missing:
            raise ProvedNothing(self.report())
