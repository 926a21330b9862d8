"""Faults of dead letters and of the limit of deliveries."""

from collections.abc import Sequence
from dataclasses import replace

from unimq import (
    Queue,
    Subscription,
    Topic,
)
from unimq.adapter import (
    Delivery,
    DeliverySink,
    Driver,
    Outgoing,
)
from unimq_contract.mutants.seam import FaultyReceiver, FaultySender, Mutant


class DeadLetterLost(Mutant):
    """A dead-letter copy is confirmed and not stored."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        if sender.target.name.endswith("-dead"):
            sender.stored(entries)
        else:
            sender.real.submit(entries)


class RejectRequeues(Mutant):
    """A rejected message comes again."""

    def reject(self, portable: DeliverySink, delivery: Delivery, reason: str) -> None:
        portable.nack(delivery, 0.0)


class ShutdownCounts(Mutant):
    """A close counts as a failed delivery of everything held."""

    def close_receiver(self, receiver: FaultyReceiver, timeout: float) -> None:
        receiver.real.pause()
        for delivery in receiver.delivered:
            receiver.real.nack(delivery, 0.0)
        receiver.real.close(timeout)


class LimitOffByOne(Mutant):
    """A message fails once more than ``max_deliveries`` before it is dead-lettered."""

    def declare(
        self, driver: Driver, destination: Queue | Topic | Subscription, as_is: bool, timeout: float
    ) -> Queue | Topic | Subscription:
        found = driver.declare(destination, as_is=as_is, timeout=timeout)
        if isinstance(found, Queue) and found.max_deliveries is not None:
            return replace(found, max_deliveries=found.max_deliveries + 1)
        return found


class LimitTooEarly(LimitOffByOne):
    """A message fails once less than ``max_deliveries`` before it is dead-lettered."""

    def declare(
        self, driver: Driver, destination: Queue | Topic | Subscription, as_is: bool, timeout: float
    ) -> Queue | Topic | Subscription:
        found = driver.declare(destination, as_is=as_is, timeout=timeout)
        if isinstance(found, Queue) and found.max_deliveries is not None:
            return replace(found, max_deliveries=found.max_deliveries - 1)
        return found
