"""What SQS and SNS, or an emulator of them, can do."""

import botocore

from unimq.adapter import Capabilities, emulated, native, unsupported
from unimq_sqs._options import LONGEST_VISIBILITY

SQS_LIMIT = 1024 * 1024
SNS_LIMIT = 256 * 1024
LONGEST_DELAY = 30 * 24 * 3600


def capabilities_of(emulator: str, *, has_sns: bool) -> Capabilities:
    """Return what SQS can do, or the emulator of this name."""
    no_length = ("SQS queues have no limit of length", "watch stats(), or RabbitMQ")
    return Capabilities(
        backend="sqs",
        broker_version="",
        client_version=botocore.__version__,
        emulator=emulator,
        durable=unsupported("the emulator keeps everything in memory", "real SQS") if emulator else native(),
        topics=native("SNS; no delay")
        if has_sns
        else unsupported("the endpoint has no SNS", "real AWS, or an emulator with SNS such as ministack"),
        start_earliest=unsupported("SNS keeps no history", "declare the subscription before sending, or Kafka"),
        require_subscription=unsupported("SNS takes a message without telling who gets it", "RabbitMQ"),
        ordering_key=native(
            "FIFO queues and topics, without delay; what waits behind a message of its key counts a delivery when the"
            " consumer of both closes, crashes or loses that one's lease"
        ),
        delay=native(
            'whole seconds, rounded up; to queues only, and not with ordering="key"; beyond 900 s sent on by the'
            " consumers of the queue, by their clock"
        ),
        ttl=emulated("checked at delivery; SQS itself drops everything after 14 days"),
        nack_delay=native("whole seconds, rounded up; at most 12 hours after the receipt"),
        lease=native(
            "whole seconds, rounded up; at most 12 hours; begins when the message arrives in the buffer; what a dead"
            " consumer held returns up to one long poll later (5 s; 20 s after a minute without messages)"
        ),
        extend=native("whole seconds, rounded up; at most 12 hours after the receipt"),
        max_length=unsupported(*no_length),
        drop_oldest=unsupported(*no_length),
        dead_letter=native("explicit copies; a redrive policy well above max_deliveries is a net for crashes"),
        redrive_subscription=native("straight to its queue"),
        stats=native("approximate; right about a minute after the senders stopped"),
        purge=native("takes up to 60 s on AWS, and may take messages sent meanwhile; once a minute"),
        pause=native("what a running long poll still brings goes back at once, which counts as a delivery"),
        attempts_exact=False,
        shutdown_counts=True,
        max_message_bytes=SQS_LIMIT,
        max_topic_message_bytes=SNS_LIMIT,
        max_delay=LONGEST_DELAY,
        max_nack_delay=LONGEST_VISIBILITY,
        max_lease=LONGEST_VISIBILITY,
    )
