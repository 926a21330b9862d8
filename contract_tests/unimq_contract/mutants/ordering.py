"""Faults of order."""

import time
from collections.abc import Sequence

import msgspec

from unimq.adapter import (
    Delivery,
    Outgoing,
    queue_of,
)
from unimq_contract.mutants.seam import Deaf, FaultyReceiver, FaultySender, Mutant


class Shuffled(Mutant):
    """The messages of a batch are stored in reverse order."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        sender.real.submit(entries[::-1])


class NackedHeadBehind(Mutant):
    """A nacked message goes behind the others of its key."""

    def nack(self, receiver: FaultyReceiver, delivery: Delivery, delay: float) -> None:
        again = msgspec.structs.replace(delivery.message, delay=delay)
        sender = receiver.driver.open_sender(queue_of(receiver.source), Deaf(), timeout=1.0)
        sender.submit([Outgoing(again, time.monotonic() + 1.0, 0)])
        receiver.real.ack((delivery,))
