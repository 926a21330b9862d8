"""Faults of request and reply."""

from collections.abc import Sequence

from unimq import (
    Queue,
    Subscription,
    Topic,
)
from unimq.adapter import (
    REPLY_PREFIX,
    Delivery,
    Driver,
    Message,
    Outgoing,
    queue_of,
)
from unimq_contract.mutants.seam import FaultyReceiver, FaultySender, Mutant, Rewriting


class CorrelationIdDropped(Rewriting):
    """No message has a correlation id."""

    def change(self, message: Message) -> None:
        message.correlation_id = None


class RepliesSwapped(Mutant):
    """Of two replies each goes to the request of the other."""

    def __init__(self) -> None:
        self.odd: Delivery | None = None

    def deliver(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        if not queue_of(receiver.source).name.startswith(REPLY_PREFIX):
            receiver.portable.deliver(deliveries)
            return
        for delivery in deliveries:
            other, self.odd = self.odd, delivery
            if other is not None:
                self.odd = None
                one, two = other.message, delivery.message
                one.correlation_id, two.correlation_id = two.correlation_id, one.correlation_id
                receiver.portable.deliver((other, delivery))


class LateReplyDelivered(Mutant):
    """Whatever reply comes is given to the request that was sent last."""

    def __init__(self) -> None:
        self.last: str | None = None

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        for entry in entries:
            if entry.message.reply_to is not None:
                self.last = entry.message.correlation_id
        sender.real.submit(entries)

    def deliver(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        if queue_of(receiver.source).name.startswith(REPLY_PREFIX):
            for delivery in deliveries:
                delivery.message.correlation_id = self.last
        receiver.portable.deliver(deliveries)


class ReplyQueueLeftBehind(Mutant):
    """A reply queue cannot be deleted."""

    def delete(self, driver: Driver, destination: Queue | Topic | Subscription, timeout: float) -> None:
        if not (isinstance(destination, Queue) and destination.name.startswith(REPLY_PREFIX)):
            driver.delete(destination, timeout=timeout)
