"""One `Producer` and `Consumer` for Amazon SQS, Apache Kafka, RabbitMQ and an in-memory broker."""

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
from unimq._message import Message
from unimq._middleware import Middleware, Nack, Reject
from unimq._receipt import Receipt
from unimq._redrive import Redriven
from unimq._sync import Broker, Consumer, Producer, connect

if TYPE_CHECKING:
    from unimq._asyncio import AsyncBroker, AsyncConsumer, AsyncProducer, connect_async

__all__ = [
    "AlreadySettled",
    "AsyncBroker",
    "AsyncConsumer",
    "AsyncProducer",
    "AuthError",
    "Broker",
    "BufferFull",
    "Capabilities",
    "Closed",
    "Codec",
    "ConfigError",
    "ConnectionLost",
    "Consumer",
    "DeclarationConflict",
    "DecodeError",
    "Delivery",
    "Encoded",
    "Feature",
    "InvalidMessage",
    "LeaseLost",
    "Message",
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
]

_ASYNC = {"AsyncBroker", "AsyncConsumer", "AsyncProducer", "connect_async"}


def __getattr__(name: str) -> object:
    # asyncio costs as much to import as all the rest; programs that do not use it do not pay for it.
    if name in _ASYNC:
        from unimq import _asyncio

        for each in _ASYNC:
            found = globals()[each] = getattr(_asyncio, each)
            found.__module__ = __name__
        return globals()[name]
    raise AttributeError(f"module 'unimq' has no attribute {name!r}")


# Tracebacks, pickles and documentation name things where users find them: unimq.QueueFull, not unimq._errors.QueueFull.
for _public in {*__all__} - _ASYNC:
    globals()[_public].__module__ = __name__
