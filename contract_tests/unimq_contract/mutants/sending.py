"""Faults of sending."""

import itertools
from collections.abc import Sequence
from typing import cast

import msgspec

from unimq import (
    MessageTooLarge,
    NotFound,
    Queue,
    Subscription,
    Topic,
    UnimqError,
    Unroutable,
)
from unimq.adapter import (
    Driver,
    OutcomeSink,
    Outgoing,
)
from unimq_contract.mutants.seam import FaultySender, Mutant


class ConfirmedAtOnce(Mutant):
    """A message is confirmed before the broker has it."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        sender.stored(entries)
        # What becomes of them is reported a second time, which the portable layer does not heed.
        sender.real.submit(entries)


class LoseSome(Mutant):
    """Every fifth message is confirmed and not stored."""

    def __init__(self) -> None:
        self.count = itertools.count(1)

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        lost = [entry for entry in entries if next(self.count) % 5 == 0]
        sender.real.submit([entry for entry in entries if entry not in lost])
        sender.stored(lost)


class StoreTwice(Mutant):
    """Every message is stored twice."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        sender.real.submit(entries)
        sender.real.submit(entries)


class BatchLosesOne(Mutant):
    """The fourth entry of a batch is confirmed and not stored."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        sender.real.submit([*entries[:3], *entries[4:]])
        sender.stored(entries[3:4])


class SharedVerdict(Mutant):
    """One failed entry fails all entries of its batch."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        largest = cast("int", sender.largest)
        if any(entry.size > largest for entry in entries):
            sender.failed(entries, MessageTooLarge(f"some of {len(entries)} messages exceed {largest} bytes"))
        else:
            sender.real.submit(entries)


class TooLargeAccepted(Mutant):
    """A message that is too large is confirmed and not stored."""

    def failed(self, sink: OutcomeSink, entries: Sequence[Outgoing], error: UnimqError) -> None:
        sink.stored(entries) if isinstance(error, MessageTooLarge) else sink.failed(entries, error)


class LostDestinationAccepted(Mutant):
    """What no queue takes is confirmed."""

    def check(self, driver: Driver, destination: Queue | Topic | Subscription, timeout: float) -> None:
        pass

    def failed(self, sink: OutcomeSink, entries: Sequence[Outgoing], error: UnimqError) -> None:
        sink.stored(entries) if isinstance(error, NotFound | Unroutable) else sink.failed(entries, error)


class LingersForEver(Mutant):
    """An enqueued message leaves with the next flush only."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        sender.held += [entry for entry in entries if entry.group is not None]
        sender.real.submit([entry for entry in entries if entry.group is None])

    def flush(self, sender: FaultySender) -> None:
        held, sender.held = sender.held, []
        sender.real.submit(held)


class FlushDropsPending(LingersForEver):
    """What waits for a flush or a close is confirmed by it and not stored."""

    def flush(self, sender: FaultySender) -> None:
        held, sender.held = sender.held, []
        sender.stored(held)


class Phantom(Mutant):
    """Every seventh message brings along one that nobody sent."""

    def __init__(self) -> None:
        self.count = itertools.count(1)

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        sender.real.submit(entries)
        for entry in entries:
            if next(self.count) % 7 == 0:
                made_up = msgspec.structs.replace(entry.message, body=b"phantom", id=f"phantom of {entry.message.id}")
                sender.real.submit([Outgoing(made_up, entry.deadline, entry.size, done=True)])


class FirstLost(Mutant):
    """The first message that a destination gets is confirmed and not stored."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        is_first = entries and self.state["seen"].setdefault(sender.target.name, True)
        self.state["seen"][sender.target.name] = not entries and is_first
        sender.real.submit(entries[1:] if is_first else entries)
        if is_first:
            sender.stored(entries[:1])
