"""Peer ``faststream``: its brokers for RabbitMQ and for Kafka (confluent), without logging and without decoding.

Publishes are confirmed and in flight as the window allows, a task each. RabbitMQ: persistent, mandatory, and a return
is an error; acks are ``multiple``. Kafka: idempotent, acks=all; batches of records, of which the next is fetched when
all of one are acked, because an ack commits the position of the client. Queues are made by other means, not measured.
"""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Any

from unimq_bench.rows.assembled import Assembled, checked, number_of
from unimq_bench.rows.faststream_receiver import Receiver, whole
from unimq_bench.rows.kafka_topics import Topics, bootstrap_of
from unimq_bench.rows.loop_thread import LoopThread, TaskSender
from unimq_bench.rows.protocol import Connection, Description

_TIMEOUT = 30.0
_PLAIN: dict[str, Any] = {"logger": None, "apply_types": False, "graceful_timeout": 0.1}
_FETCHING: dict[str, Any] = {"batch": True, "max_records": 500, "auto_offset_reset": "earliest"}
_POLLING = 0.01
"""Seconds that a fetch from Kafka waits for more records: the default of 0.1 would be the latency of each."""


def connect(url: str, options: Mapping[str, str]) -> Connection:
    """Return a connection; see `unimq_bench.rows.protocol`."""
    partitions = number_of("faststream", checked("faststream", options, {"partitions": "4"}), "partitions", least=1)
    loop = LoopThread()
    return _on_kafka(url, partitions, loop) if url.startswith("kafka:") else _on_rabbitmq(url, loop)


def _on_kafka(url: str, partitions: int, loop: LoopThread) -> Connection:
    confluent, topics = import_module("faststream.confluent"), Topics(bootstrap_of(url))
    settings: dict[str, Any] = {"acks": "all", "enable_idempotence": True}

    def opened() -> Any:
        return confluent.KafkaBroker(bootstrap_of(url), **settings, **_PLAIN)

    def sender(queue: str, window: int) -> TaskSender:
        broker = loop.wait(_started(opened()))
        return TaskSender(loop, window, lambda body: broker.publish(body, queue), broker.stop)

    def receiver(queue: str, prefetch: int) -> Receiver:
        broker = opened()
        found = Receiver(loop, broker)
        manual = import_module("faststream").AckPolicy.MANUAL
        fetching = {**_FETCHING, "max_records": prefetch, "group_id": queue, "ack_policy": manual}
        broker.subscriber(queue, polling_interval=_POLLING, decoder=whole, **fetching)(found.on_records)
        loop.wait(_started(broker))
        return found

    return Assembled(
        describe=lambda: Description(
            durability=topics.durability,
            client_settings={name: str(value) for name, value in {**settings, **_FETCHING}.items()},
            broker_settings={name: str(number) for name, number in topics.layout.items()},
            versions={name: version(name) for name in ("faststream", "confluent-kafka")},
        ),
        make=lambda queue: topics.make_empty(queue, partitions, -1),
        delete=topics.remove,
        sender=sender,
        receiver=receiver,
        release=loop.close,
    )


async def _channel(connection: Any) -> Any:
    return await connection.channel()


async def _started(broker: Any) -> Any:
    await broker.start()
    return broker


def _on_rabbitmq(url: str, loop: LoopThread) -> Connection:
    rabbit = import_module("faststream.rabbit")
    admin = loop.wait(import_module("aio_pika").connect_robust(url))
    channel = loop.wait(_channel(admin))
    arguments = {"x-queue-type": "quorum"}

    def opened(prefetch: int = 0) -> Any:
        settings = rabbit.Channel(prefetch_count=prefetch or None, on_return_raises=True)
        return rabbit.RabbitBroker(url, default_channel=settings, **_PLAIN)

    def make(queue: str) -> None:
        loop.wait(channel.queue_delete(queue))
        loop.wait(channel.declare_queue(queue, durable=True, arguments=arguments))

    def sender(queue: str, window: int) -> TaskSender:
        broker = loop.wait(_started(opened()))
        sent = {"queue": queue, "persist": True, "mandatory": True, "timeout": _TIMEOUT}
        return TaskSender(loop, window, lambda body: broker.publish(body, **sent), broker.stop)

    def receiver(queue: str, prefetch: int) -> Receiver:
        broker = opened(prefetch)
        found = Receiver(loop, broker)
        manual = import_module("faststream").AckPolicy.MANUAL
        declared = rabbit.RabbitQueue(queue, declare=False)
        broker.subscriber(declared, decoder=whole, ack_policy=manual)(found.on_message)
        loop.wait(_started(broker))
        return found

    def release() -> None:
        if loop.is_open:
            loop.wait(admin.close())
            loop.close()

    return Assembled(
        describe=lambda: Description(
            durability="fsync",
            client_settings={"persist": "True", "mandatory": "True", "confirms": "in tasks", "acks": "multiple"},
            broker_settings=arguments,
            versions={name: version(name) for name in ("faststream", "aio-pika", "aiormq")},
        ),
        make=make,
        delete=lambda queue: loop.wait(channel.queue_delete(queue)),
        sender=sender,
        receiver=receiver,
        release=release,
    )
