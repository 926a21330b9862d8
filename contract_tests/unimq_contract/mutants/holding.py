"""Faults of holding and sending on."""

import threading
from collections.abc import Sequence

from unimq.adapter import (
    Delivery,
)
from unimq_contract.mutants.seam import FaultyReceiver, Mutant


class RoomOnlyWhenEmpty(Mutant):
    """A consumer gets nothing more until everything that it holds is settled."""

    def __init__(self) -> None:
        self.out: set[int] = set()
        self.waiting: list[Delivery] = []
        self.lock = threading.RLock()

    def deliver(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        with self.lock:
            self.waiting += deliveries
            self.hand_out(receiver)

    def hand_out(self, receiver: FaultyReceiver) -> None:
        if not self.out:
            given, self.waiting = self.waiting, []
            self.out.update(map(id, given))
            receiver.portable.deliver(given)

    def ack(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        receiver.real.ack(deliveries)
        with self.lock:
            self.out.difference_update(map(id, deliveries))
            self.hand_out(receiver)


class InternalHeadersLeak(Mutant):
    """A delivery has a header that only the library may set."""

    def deliver(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            delivery.message.headers = {**delivery.message.headers, "unimq-sent-at": "0"}
        receiver.portable.deliver(deliveries)


class AttemptSticksToMessage(Mutant):
    """What was delivered twice counts on wherever it is sent to."""

    def deliver(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            delivery.attempt = self.state["attempts"][delivery.id] = self.state["attempts"].get(delivery.id, 0) + 1
        receiver.portable.deliver(deliveries)
