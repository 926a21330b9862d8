"""Faults at the edge of limits."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from unimq import (
    MessageTooLarge,
    Queue,
    Subscription,
    Topic,
)
from unimq.adapter import (
    Delivery,
    Driver,
    Message,
    Outgoing,
)
from unimq_contract.mutants.seam import Deaf, FaultyReceiver, FaultySender, Mutant, Rewriting

LONG = 3600.0
"""Seconds beyond which some faults set in."""


class RefusesAtTheLimit(Mutant):
    """A message of exactly the largest size is refused as too large."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        largest = cast("int", sender.largest)
        at_limit = [entry for entry in entries if entry.size == largest]
        for entry in at_limit:
            sender.failed((entry,), MessageTooLarge(f"{entry.size} bytes; less than {largest} are taken"))
        sender.real.submit([entry for entry in entries if entry not in at_limit])


class RefusalSpoilsNeighbours(Mutant):
    """What follows a message that is too large in its batch is confirmed and not stored."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        largest = cast("int", sender.largest)
        first = next((index for index, entry in enumerate(entries) if entry.size > largest), len(entries))
        sender.real.submit(entries[: first + 1])
        sender.stored(entries[first + 1 :])


class LongHeadersCut(Rewriting):
    """The value of a header ends at 64 KiB."""

    def change(self, message: Message) -> None:
        if message.headers:
            message.headers = {name: value[:65536] for name, value in message.headers.items()}


class HeadersCountedOff(Rewriting):
    """Of very many headers a hundred arrive."""

    def change(self, message: Message) -> None:
        if len(message.headers) > 100:
            message.headers = dict(itertools.islice(message.headers.items(), 100))


class LongFieldsCut(Rewriting):
    """Content type, correlation id and reply queue end after 255 characters."""

    def change(self, message: Message) -> None:
        for field in ("content_type", "correlation_id", "reply_to"):
            value = getattr(message, field)
            setattr(message, field, value and value[:255])


class LongNamesAreOne(Mutant):
    """Of a name of 80 characters the last one does not count."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        name = sender.target.name
        if len(name) < 80:
            sender.real.submit(entries)
            return
        taken = self.state["names"].setdefault(name[:79], name)
        sender.driver.open_sender(Queue(taken, dead_letter=False), Deaf(), timeout=1.0).submit(entries)
        sender.stored(entries)


class DeadLettersOfLongNamesLost(Mutant):
    """A dead-letter queue with a very long name stores nothing."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        if sender.target.name.endswith("-dead") and len(sender.target.name) > 78:
            sender.stored(entries)
        else:
            sender.real.submit(entries)


class LongDelaysComeAtOnce(Rewriting):
    """A delay that is very long is none."""

    def change(self, message: Message) -> None:
        message.delay = message.delay if message.delay < LONG else 0.0


class LongNackDelaysComeAtOnce(Mutant):
    """A nack with a very long delay has none."""

    def nack(self, receiver: FaultyReceiver, delivery: Delivery, delay: float) -> None:
        receiver.real.nack(delivery, delay if delay < LONG else 0.0)


class LongLeasesEndAtOnce(Mutant):
    """A very long lease, declared or asked for by `extend`, ends at once."""

    def declare(
        self, driver: Driver, destination: Queue | Topic | Subscription, as_is: bool, timeout: float
    ) -> Queue | Topic | Subscription:
        if isinstance(destination, Queue) and (destination.lease_seconds or 0.0) > LONG:
            destination = replace(destination, lease=0.001)
        return driver.declare(destination, as_is=as_is, timeout=timeout)

    def extend(self, receiver: FaultyReceiver, delivery: Delivery, duration: float) -> None:
        receiver.real.extend(delivery, duration if duration < LONG else 0.01)
