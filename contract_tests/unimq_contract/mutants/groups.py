"""Faults of competing consumers and of subscriptions."""

from collections.abc import Sequence

from unimq import (
    Subscription,
)
from unimq.adapter import (
    Delivery,
)
from unimq_contract.mutants.seam import FaultyReceiver, Mutant


class EverybodyGetsAll(Mutant):
    """Consumers of one queue do not compete: each gets a copy of everything."""

    def deliver(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        receivers: list[FaultyReceiver] = self.state[receiver.portable.source_name].setdefault("receivers", [])
        if receiver not in receivers:
            receivers.append(receiver)
        for other in receivers:
            if other is receiver:
                other.portable.deliver(deliveries)
            else:
                copies = [Delivery(each.message, each.attempt, None, other.portable) for each in deliveries]
                other.portable.deliver(copies)

    def ack(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        receiver.real.ack([delivery for delivery in deliveries if delivery.token is not None])


class SubscriptionsCompete(Mutant):
    """The subscriptions of a topic share its messages."""

    def deliver(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        if not isinstance(receiver.source, Subscription):
            receiver.portable.deliver(deliveries)
            return
        taken: dict[str, str] = self.state[receiver.source.topic.name]
        me = receiver.source.name
        mine = [each for each in deliveries if taken.setdefault(each.id, me) == me]
        receiver.real.ack([each for each in deliveries if each not in mine])
        receiver.portable.deliver(mine)
