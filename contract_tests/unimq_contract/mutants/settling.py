"""Faults of settling."""

import itertools
from collections.abc import Callable, Sequence

from unimq import (
    AlreadySettled,
    LeaseLost,
    UnimqError,
)
from unimq.adapter import (
    Delivery,
)
from unimq_contract.mutants.seam import FaultyReceiver, Mutant


class AckDropped(Mutant):
    """An ack does not reach the broker."""

    def ack(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        pass


class AcksLostAtClose(Mutant):
    """Acks wait for the next barrier, and a close forgets them."""

    def __init__(self) -> None:
        self.waiting: list[Delivery] = []

    def ack(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        self.waiting += deliveries

    def barrier(self, receiver: FaultyReceiver, done: Callable[[Sequence[UnimqError]], None]) -> None:
        waiting, self.waiting = self.waiting, []
        receiver.real.ack(waiting)
        receiver.real.barrier(done)


class RedeliversAcked(Mutant):
    """Every fifth acked message comes again."""

    def __init__(self) -> None:
        self.count = itertools.count(1)

    def ack(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            if next(self.count) % 5 == 0:
                receiver.real.nack(delivery, 0.0)
            else:
                receiver.real.ack((delivery,))


class CumulativeAck(Mutant):
    """An ack settles everything that was delivered before."""

    def ack(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        last = max(receiver.delivered.index(delivery) for delivery in deliveries)
        receiver.real.ack(receiver.delivered[: last + 1])


class NackAcks(Mutant):
    """A nack settles the message for good."""

    def nack(self, receiver: FaultyReceiver, delivery: Delivery, delay: float) -> None:
        receiver.real.ack((delivery,))


class NackOnlyAtRestart(Mutant):
    """A nacked message returns when its consumer is closed, and not before."""

    def nack(self, receiver: FaultyReceiver, delivery: Delivery, delay: float) -> None:
        pass


class NackedGoesFirst(Mutant):
    """A nacked message comes again at once to whoever nacked it, before everything that waits."""

    def nack(self, receiver: FaultyReceiver, delivery: Delivery, delay: float) -> None:
        delivery.attempt += 1
        receiver.portable.deliver((delivery,))


class NackReturnsAll(Mutant):
    """A nack gives back everything that the consumer holds."""

    def nack(self, receiver: FaultyReceiver, delivery: Delivery, delay: float) -> None:
        for held in receiver.delivered[:]:
            receiver.real.nack(held, 0.0)


class NacksLostAtClose(Mutant):
    """A nack waits in the memory of the client, and a close forgets it."""

    def __init__(self) -> None:
        self.nacked: list[Delivery] = []

    def nack(self, receiver: FaultyReceiver, delivery: Delivery, delay: float) -> None:
        self.nacked.append(delivery)

    def close_receiver(self, receiver: FaultyReceiver, timeout: float) -> None:
        receiver.real.ack(self.nacked)
        receiver.real.close(timeout)


class SecondSettlementAccepted(Mutant):
    """A second settlement is no error."""

    def settle(self, settlement: Callable[[], None]) -> None:
        try:
            settlement()
        except AlreadySettled:
            return


class StaleSettlementAccepted(Mutant):
    """The settlement of a delivery that is not held any more is no error."""

    def settle(self, settlement: Callable[[], None]) -> None:
        try:
            settlement()
        except LeaseLost:
            return
