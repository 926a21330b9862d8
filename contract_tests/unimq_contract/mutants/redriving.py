"""Faults of redriving."""

from collections.abc import Sequence

from unimq import (
    Queue,
    Subscription,
    Topic,
)
from unimq._dead_letters import REDRIVES
from unimq.adapter import (
    Delivery,
    Driver,
    Message,
    Outgoing,
    queue_of,
)
from unimq_contract.mutants.seam import FaultyReceiver, FaultySender, Mutant, Rewriting


class RedriveLosesOne(Mutant):
    """One redriven message of each batch is confirmed and not stored."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        lost = [entry for entry in entries if REDRIVES in entry.message.headers][:1]
        sender.real.submit([entry for entry in entries if entry not in lost])
        sender.stored(lost)


class RedriveMakesNewIds(Rewriting):
    """A redriven message has another id than it had."""

    def change(self, message: Message) -> None:
        if REDRIVES in message.headers:
            message.id += "-again"


class RedriveReachesAllSubscriptions(Mutant):
    """What is redriven to a subscription goes to its topic."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        topic, separator, _ = sender.target.name.partition("--")
        if not separator or not any(REDRIVES in entry.message.headers for entry in entries):
            sender.real.submit(entries)
            return
        sender.driver.open_sender(Topic(topic), sender, timeout=1).submit(entries)


class DeadLettersAckedAtDelivery(Mutant):
    """A dead letter is settled as soon as somebody reads it, before any copy of it is stored."""

    def deliver(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        receiver.portable.deliver(deliveries)
        if queue_of(receiver.source).name.endswith("-dead"):
            receiver.real.ack(deliveries)


class MissingQueuesAreFound(Mutant):
    """Whatever is asked for is said to exist."""

    def check(self, driver: Driver, destination: Queue | Topic | Subscription, timeout: float) -> None:
        driver.declare(destination, as_is=True, timeout=timeout)
