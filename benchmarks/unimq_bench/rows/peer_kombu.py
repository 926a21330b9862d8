"""Peer ``kombu``: one synchronous program on its transports pyamqp, SQS and confluentkafka.

It has no window: every publish waits for its own outcome, and on SQS each message and each delete is a request. On
Kafka it neither keys nor reports a record that the broker refused, and an ack commits all that was fetched, acked or
not: whatever the topic's replication, that is ``at-most-once``. Queues are made by other means; that is not measured.
"""

import platform
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any
from urllib.parse import quote, urlsplit

from unimq_bench.rows.assembled import Assembled, checked, number_of
from unimq_bench.rows.kafka_topics import Topics, bootstrap_of
from unimq_bench.rows.protocol import Batch, Connection, Description
from unimq_bench.rows.sqs_queues import Queues
from unimq_bench.rows.sqs_requests import RequestCounter

_BYTES = {"content_type": "application/octet-stream", "content_encoding": "binary", "delivery_mode": 2}
_QUORUM = {"x-queue-type": "quorum"}
# Where it has long polls, nothing else can wait; a timeout of less than a second would cut its first connection.
_POLLING: dict[str, Any] = {"wait_time_seconds": 1, "polling_interval": 0}
_TIMEOUT = 30


class _Sender:
    def __init__(self, connection: Any, queue: str, *, is_amqp: bool) -> None:
        self._connection, self._queue = connection, queue
        self._failed: list[bytes] = []
        self._producer = connection.Producer(on_return=self._returned if is_amqp else None)

    def _returned(self, *returned: Any) -> None:
        self._failed.append(returned[-1].body)

    def send(self, body: bytes) -> None:
        try:
            self._producer.publish(body, routing_key=self._queue, mandatory=True, timeout=_TIMEOUT, **_BYTES)
        except Exception:  # noqa: BLE001 - each transport raises its client's own
            self._failed.append(body)

    def flush(self) -> Sequence[bytes]:
        failed, self._failed = self._failed, []
        return failed

    def close(self) -> None:
        self._connection.release()


class _Receiver:
    def __init__(self, connection: Any, queue: Any, prefetch: int, *, is_amqp: bool) -> None:
        self._connection, self._is_amqp = connection, is_amqp
        self._arrived: deque[Any] = deque()
        arrived = self._arrived.append
        connection.Consumer([queue], auto_declare=False, on_message=arrived, prefetch_count=prefetch).consume()

    def receive(self, max_messages: int, timeout: float) -> Batch:
        try:
            if not self._arrived:
                self._connection.drain_events(timeout=timeout)
            # What is in the socket already; the other transports would poll, and wait.
            while self._is_amqp and len(self._arrived) < max_messages:
                self._connection.drain_events(timeout=0)
        except TimeoutError:
            pass
        messages = [self._arrived.popleft() for _ in range(min(max_messages, len(self._arrived)))]
        return Batch([message.body for message in messages], messages)

    def ack(self, batch: Batch) -> None:
        # Batches are acked in the order in which they came.
        for message in batch.token[-1:] if self._is_amqp else batch.token:
            message.ack(multiple=self._is_amqp)

    def settle(self) -> None:
        """Deletes of SQS are confirmed when they return; of the others kombu tells nothing."""

    def close(self) -> None:
        self._connection.release()


def connect(url: str, options: Mapping[str, str]) -> Connection:
    """Return a connection; see `unimq_bench.rows.protocol`."""
    partitions = number_of("kombu", checked("kombu", options, {"partitions": "4"}), "partitions", least=1)
    kombu: Any = import_module("kombu")
    scheme, parts = url.partition(":")[0], urlsplit(url)
    is_amqp = scheme.startswith("amqp")
    opened: list[Any] = []
    chosen: dict[str, Any]
    counter = RequestCounter()
    described: dict[str, Any] = {"durability": "fsync", "broker_settings": _QUORUM}
    clients = {"amqp": "amqp", "kafka": "confluent-kafka"}.get(scheme.rstrip("s"), "boto3")

    def opening(**changed: Any) -> Any:
        connection = kombu.Connection(place, transport_options={**chosen, **changed}, heartbeat=0)
        if place.startswith("sqs"):
            counter.watch(connection.default_channel.sqs())
        opened.append(connection)
        return connection

    if is_amqp:
        place, chosen = url, {"confirm_publish": True}
        channel = opening().default_channel
        make: Callable[[str], object] = lambda queue: channel.queue_declare(  # noqa: E731
            queue, durable=True, auto_delete=False, arguments=_QUORUM
        )
        delete: Callable[[str], object] = channel.queue_delete
    elif scheme == "kafka":
        topics = Topics(bootstrap_of(url))
        place = f"confluentkafka://{bootstrap_of(url)}"
        chosen = {**_POLLING, "kafka_producer_config": {"acks": "all", "enable.idempotence": True}}
        make, delete = lambda queue: topics.make_empty(queue, partitions, -1), topics.remove
        described = {"durability": "at-most-once", "broker_settings": {"partitions": str(partitions)}}
    else:
        queues = Queues(url, {})
        account = f"{quote(parts.username or '', '')}:{quote(parts.password or '', '')}@"
        place = f"sqs://{account}{parts.hostname}:{parts.port}" if queues.is_emulated else "sqs://"
        chosen = {**_POLLING, "region": queues.region, "is_secure": not queues.is_emulated}
        make, delete = queues.make, queues.delete
        described = {"durability": queues.durability, "emulated": queues.emulated}

    def make_empty(queue: str) -> None:
        delete(queue)
        make(queue)

    def receiver(queue: str, prefetch: int) -> _Receiver:
        connection = opening(kafka_consumer_config={"group.id": queue})
        return _Receiver(connection, kombu.Queue(queue, no_declare=True), prefetch, is_amqp=is_amqp)

    def release() -> None:
        for connection in opened:
            connection.release()

    return Assembled(
        describe=lambda: Description(
            client_settings={**{name: str(value) for name, value in chosen.items()}, "confirms": "each publish waits"},
            versions={"kombu": version("kombu"), clients: version(clients), "python": platform.python_version()},
            **described,
        ),
        make=make_empty,
        delete=delete,
        sender=lambda queue, window: _Sender(opening(), queue, is_amqp=is_amqp),
        receiver=receiver,
        count=counter.counts if place.startswith("sqs") else dict,
        release=release,
    )
