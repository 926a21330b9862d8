"""One `Producer` and `Consumer` for Amazon SQS, Apache Kafka, RabbitMQ and an in-memory broker."""

import importlib
from typing import TYPE_CHECKING

from unimq._capabilities import Capabilities, Feature, Stats, Support
from unimq._codec import Codec, Encoded
from unimq._delivery import Delivery
from unimq._destinations import Queue, Subscription, Topic
from unimq._errors import (
    AlreadySettled,
    AuthError,
    BufferFull,
    Closed,
    ConfigError,
    ConnectionLost,
    DeclarationConflict,
    DecodeError,
    InvalidMessage,
    LeaseLost,
    MessageTooLarge,
    MissingDependency,
    NotFound,
    QueueFull,
    RequestFailed,
    RequestTimeout,
    SendRejected,
    SendUnknown,
    UnimqError,
    Unroutable,
    Unsupported,
)
from unimq._instruments import ConnectionView, Instrument
from unimq._message import Message
from unimq._middleware import Middleware, Nack, Reject
from unimq._receipt import Receipt
from unimq._redrive import Redriven
from unimq._retry import Retry
from unimq._sync import Broker, Consumer, Producer, connect

if TYPE_CHECKING:
    from unimq._asyncio import AsyncBroker, AsyncConsumer, AsyncProducer, connect_async
    from unimq._cloudevents import CloudEvent, CloudEvents
    from unimq._codecs import JSON, MessagePack
    from unimq._compression import Compressed
    from unimq._deduplication import HandledMessages, deduplication

__all__ = [  # noqa: RUF022 - JSON is no constant
    "AlreadySettled",
    "AsyncBroker",
    "AsyncConsumer",
    "AsyncProducer",
    "AuthError",
    "Broker",
    "BufferFull",
    "Capabilities",
    "Closed",
    "CloudEvent",
    "CloudEvents",
    "Codec",
    "Compressed",
    "ConfigError",
    "ConnectionLost",
    "ConnectionView",
    "Consumer",
    "DeclarationConflict",
    "DecodeError",
    "Delivery",
    "Encoded",
    "Feature",
    "HandledMessages",
    "Instrument",
    "InvalidMessage",
    "JSON",
    "LeaseLost",
    "Message",
    "MessagePack",
    "MessageTooLarge",
    "Middleware",
    "MissingDependency",
    "Nack",
    "NotFound",
    "Producer",
    "Queue",
    "QueueFull",
    "Receipt",
    "Redriven",
    "Reject",
    "RequestFailed",
    "RequestTimeout",
    "Retry",
    "SendRejected",
    "SendUnknown",
    "Stats",
    "Subscription",
    "Support",
    "Topic",
    "UnimqError",
    "Unroutable",
    "Unsupported",
    "connect",
    "connect_async",
    "deduplication",
]

# asyncio costs as much to import as all the rest, and codecs load compression; who uses neither does not pay.
_LATER = {
    "_asyncio": ("AsyncBroker", "AsyncConsumer", "AsyncProducer", "connect_async"),
    "_cloudevents": ("CloudEvent", "CloudEvents"),
    "_codecs": ("JSON", "MessagePack"),
    "_compression": ("Compressed",),
    "_deduplication": ("HandledMessages", "deduplication"),
}


def __getattr__(name: str) -> object:
    for module, names in _LATER.items():
        if name in names:
            loaded = importlib.import_module(f"unimq.{module}")
            for each in names:
                found = globals()[each] = getattr(loaded, each)
                found.__module__ = __name__
            return globals()[name]
    raise AttributeError(f"module 'unimq' has no attribute {name!r}")


# Tracebacks, pickles and documentation name things where users find them: unimq.QueueFull, not unimq._errors.QueueFull.
for _public in {*__all__}.difference(*_LATER.values()):
    globals()[_public].__module__ = __name__
