"""What a confirmed send returns."""

import msgspec


class Receipt(msgspec.Struct, frozen=True):
    """What a confirmed send returns (S1)."""

    message_id: str
    position: object = None
    """The backend's own position: partition and offset on Kafka, the message id on SQS, else ``None``."""
