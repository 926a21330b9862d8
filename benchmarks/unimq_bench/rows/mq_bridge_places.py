"""Where mq-bridge is measured: the endpoints of each kind of broker, and how its queues are made beside it."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from unimq_bench.rows.kafka_topics import Topics, bootstrap_of
from unimq_bench.rows.sqs_queues import Queues

# Its consumer declares the queue again, as a classic one and with nothing else possible: a quorum queue refuses that.
_CLASSIC = {"x-queue-type": "classic"}
_RECEIVING = [["auto.offset.reset", "earliest"], ["fetch.wait.max.ms", "100"], ["fetch.queue.backoff.ms", "10"]]
_SENDING = [["acks", "all"], ["enable.idempotence", "true"], ["linger.ms", "0"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One kind of broker."""

    publishes: Callable[[str], Mapping[str, Any]]
    """To a queue: the endpoint."""
    consumes: Callable[[str, int], Mapping[str, Any]]
    """From a queue, with a prefetch: the endpoint."""
    make: Callable[[str], object]
    delete: Callable[[str], object]
    describe: Callable[[], Mapping[str, Any]]
    release: Callable[[], object] = lambda: None
    patience: float = 5.0
    """Seconds that a poll lasts at least: what one brings that has just timed out is lost until the consumer closes."""


def _on_memory(_: str, __: int) -> Place:
    made: Counter[str] = Counter()

    def topic(queue: str) -> dict[str, Any]:
        # A topic cannot be emptied, but another one taken. It must hold a slice: a full one blocks for ever.
        return {"topic": f"{queue}-{made[queue]}", "capacity": 1_000_000}

    return Place(
        publishes=lambda queue: {"memory": topic(queue)},
        consumes=lambda queue, _: {"memory": {**topic(queue), "enable_nack": True}},
        make=lambda queue: made.update([queue]),
        delete=lambda _: None,
        describe=lambda: {"durability": "memory", "client_settings": {"enable_nack": "True"}},
    )


def _on_rabbitmq(url: str, _: int) -> Place:
    pika: Any = import_module("pika")
    admin = pika.BlockingConnection(pika.URLParameters(url))
    channel = admin.channel()
    # It takes the path as it stands for the virtual host, of which no other library does.
    place = {"url": urlsplit(url)._replace(path=urlsplit(url).path.removesuffix("/") or "/%2f").geturl()}
    return Place(
        publishes=lambda queue: {"amqp": {**place, "queue": queue, "no_declare_queue": True}},
        consumes=lambda queue, prefetch: {"amqp": {**place, "queue": queue, "prefetch_count": min(prefetch, 65_535)}},
        make=lambda queue: channel.queue_declare(queue, durable=True, arguments=_CLASSIC),
        delete=channel.queue_delete,
        # RabbitMQ 4.0.5 synced nothing for 200 confirmed messages of a classic queue, and 201 times for a quorum queue.
        describe=lambda: {"durability": "leader memory", "broker_settings": _CLASSIC},
        release=lambda: admin.is_open and admin.close(),
    )


def _on_kafka(url: str, partitions: int) -> Place:
    topics = Topics(bootstrap_of(url))
    place = {"url": bootstrap_of(url), "create_topic": False}
    consumer = {**place, "consumer_options": _RECEIVING}
    return Place(
        publishes=lambda queue: {"kafka": {**place, "topic": queue, "producer_options": _SENDING}},
        consumes=lambda queue, _: {"kafka": {**consumer, "topic": queue, "group_id": queue}},
        make=lambda queue: topics.make_empty(queue, partitions, -1),
        delete=topics.remove,
        describe=lambda: {
            "durability": topics.durability,
            "client_settings": dict((*_SENDING, *_RECEIVING)),
            "broker_settings": {name: str(number) for name, number in topics.layout.items()},
        },
    )


def _on_sqs(url: str, _: int) -> Place:
    parts, queues = urlsplit(url), Queues(url, {})
    place: dict[str, Any] = {"region": queues.region, "binary_payload_mode": True}
    if queues.is_emulated:
        place["endpoint_url"] = f"http://{parts.hostname}:{parts.port}"
        place |= {"access_key": parts.username, "secret_key": parts.password}
    receiving = {"max_messages": 10, "wait_time_seconds": 2}
    return Place(
        publishes=lambda queue: {"aws": {**place, "queue_url": queues.url_of(queue)}},
        consumes=lambda queue, _: {"aws": {**place, **receiving, "queue_url": queues.url_of(queue)}},
        make=queues.make,
        delete=queues.delete,
        describe=lambda: {
            "durability": queues.durability,
            "emulated": queues.emulated,
            "client_settings": {name: str(value) for name, value in receiving.items()},
        },
    )


def place_of(url: str, partitions: int) -> Place:
    """Return the place to which a URL leads, where a topic of Kafka gets so many partitions."""
    kinds = {"memory": _on_memory, "kafka": _on_kafka, "sqs": _on_sqs}
    return kinds.get(url.partition(":")[0].partition("+")[0], _on_rabbitmq)(url, partitions)
