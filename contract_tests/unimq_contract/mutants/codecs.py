"""Faults of typed bodies."""

from collections.abc import Sequence

import msgspec

from unimq._dead_letters import REASON
from unimq._receiving import UNDECODABLE
from unimq.adapter import (
    Delivery,
    Message,
    Outgoing,
)
from unimq_contract.mutants.seam import FaultyReceiver, FaultySender, Mutant, Rewriting


class ContentTypeDropped(Rewriting):
    """No message has a content type."""

    def change(self, message: Message) -> None:
        message.content_type = None


class BodyWrittenAnew(Rewriting):
    """A body of JSON is read and written again, with the same meaning and other bytes."""

    def change(self, message: Message) -> None:
        if message.content_type == "application/json" and message.body.startswith(b"{"):
            message.body = msgspec.json.format(message.body, indent=1)


class UndecodableDropped(Mutant):
    """What cannot be decoded is acked, and its dead letter is not stored."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        dropped = [entry for entry in entries if entry.message.headers.get(REASON) == UNDECODABLE]
        sender.real.submit([entry for entry in entries if entry not in dropped])
        sender.stored(dropped)


class PoisonComesAgain(Mutant):
    """What nobody could decode is delivered once more after its copy is in the dead letters."""

    def ack(self, receiver: FaultyReceiver, deliveries: Sequence[Delivery]) -> None:
        has_codec = getattr(receiver.portable, "codec", None) is not None
        for delivery in deliveries:
            if has_codec and delivery.decoded is msgspec.UNSET and delivery.attempt == 1:
                receiver.real.nack(delivery, 0.0)
            else:
                receiver.real.ack((delivery,))
