"""Faults of delays, leases and expiry."""

import time
from collections.abc import Sequence

from unimq.adapter import (
    Delivery,
    Message,
)
from unimq_contract.mutants.seam import FaultyReceiver, Mutant, Rewriting


class DelayIgnored(Rewriting):
    """A delayed message comes at once."""

    def change(self, message: Message) -> None:
        message.delay = 0.0


class TtlIgnored(Mutant):
    """What expired is delivered all the same."""

    def deliver(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            delivery.message.expires_at = None
            delivery.message.sent_at = time.time()
        receiver.portable.deliver(deliveries)


class NackDelayIgnored(Mutant):
    """A nacked message comes again at once, whatever its delay."""

    def nack(self, receiver: FaultyReceiver, delivery: Delivery, delay: float) -> None:
        receiver.real.nack(delivery, 0.0)


class ExtendIgnored(Mutant):
    """A lease ends when it was to end, whatever is asked."""

    def extend(self, receiver: FaultyReceiver, delivery: Delivery, duration: float) -> None:
        pass
