"""Faults of receiving."""

import threading
from collections.abc import Sequence

from unimq.adapter import (
    Delivery,
    Message,
)
from unimq_contract.mutants.seam import FaultyReceiver, Mutant


class PrefetchIgnored(Mutant):
    """The consumer gets everything at once."""

    def prefetch(self, wanted: int) -> int:
        return 1_000_000


class SlowWake(Mutant):
    """A message that arrives is noticed only half a second later."""

    def deliver(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        timer = threading.Timer(0.5, receiver.portable.deliver, [deliveries])
        timer.daemon = True
        timer.start()


class AttemptStuck(Mutant):
    """Every delivery is the first."""

    def deliver(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            delivery.attempt = 1
        receiver.portable.deliver(deliveries)


class AckedAtDelivery(Mutant):
    """A message is settled when it is handed out, and what its consumer does with it later changes nothing."""

    def deliver(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        receiver.portable.deliver(deliveries)
        receiver.real.ack(deliveries)

    def ack(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        pass

    def nack(self, receiver: FaultyReceiver, delivery: Delivery, delay: float) -> None:
        pass


class GreetsConsumers(Mutant):
    """Each consumer gets at first a message that nobody sent."""

    def receiving(self, receiver: FaultyReceiver) -> None:
        greeting = Message(b"welcome", id="nobody's")
        receiver.portable.deliver([Delivery(greeting, 1, None, receiver.portable)])

    def ack(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        receiver.real.ack([delivery for delivery in deliveries if delivery.token is not None])


class PauseIgnored(Mutant):
    """A paused consumer fetches on."""

    def pause(self, receiver: FaultyReceiver) -> None:
        pass
