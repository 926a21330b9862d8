"""Row ``unimq``: `Producer.enqueue` in a window; `Consumer.receive`, and the acks of a batch in one call."""

import contextlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from unimq_bench.rows.assembled import Assembled
from unimq_bench.rows.protocol import Batch, Connection, Description, NotTaken

if TYPE_CHECKING:
    import unimq
    from unimq.adapter import RequestCount

# A quorum queue of one node syncs each write; Kafka depends on the topic.
_DURABILITY = {"memory": "memory", "rabbitmq": "fsync", "sqs": "replicated(3)"}
_CLIENTS = {"rabbitmq": "pika", "kafka": "confluent-kafka", "sqs": "boto3"}
_TIMEOUT = 30.0


class _Sender:
    def __init__(self, producer: "unimq.Producer") -> None:
        self._producer = producer
        self._enqueue = producer.enqueue
        self._ids: list[str] = []
        self._bodies: list[bytes] = []

    def send(self, body: bytes) -> None:
        from unimq import UnimqError

        try:
            self._ids.append(self._enqueue(body))
        except UnimqError as error:
            raise NotTaken(str(error)) from error
        self._bodies.append(body)

    def flush(self) -> Sequence[bytes]:
        from unimq import UnimqError

        failed: list[bytes] = []
        try:
            self._producer.flush(_TIMEOUT)
        except UnimqError as error:
            bodies = dict(zip(self._ids, self._bodies, strict=True))
            outcomes: Sequence[object] = getattr(error, "outcomes", ())
            named = [bodies.get(getattr(outcome, "message_id", "")) for outcome in outcomes]
            failed = [body for body in named if body is not None]
            if not named or len(failed) < len(named):
                # Of many failures only the first are kept by name: then the fate of each is unknown.
                failed = list(self._bodies)
        self._ids, self._bodies = [], []
        return failed

    def close(self) -> None:
        self._producer.close()


class _Receiver:
    def __init__(self, consumer: "unimq.Consumer") -> None:
        self._consumer = consumer

    def receive(self, max_messages: int, timeout: float) -> Batch:
        deliveries = self._consumer.receive(max_messages, timeout)
        return Batch([delivery.body for delivery in deliveries], deliveries)

    def ack(self, batch: Batch) -> None:
        self._consumer.ack(batch.token)

    def settle_each(self, batch: Batch, nacked: Sequence[int], rejected: Sequence[int]) -> None:
        for index in nacked:
            batch.token[index].nack()
        for index in rejected:
            batch.token[index].reject("poison")
        others = sorted({*range(len(batch.token))}.difference(nacked, rejected))
        self._consumer.ack(batch.token[index] for index in others)

    def settle(self) -> None:
        from unimq import ConnectionLost, LeaseLost

        # What was settled too late comes again, which the accounting counts.
        with contextlib.suppress(ConnectionLost, LeaseLost):
            self._consumer.settle(_TIMEOUT)

    def close(self) -> None:
        self._consumer.close()


def durability_of_topic(admin: Any, topic: str) -> str:
    """Return what acks=all means for a topic of Kafka: without replicas it is the page cache of one broker."""
    partitions = admin.list_topics(topic, _TIMEOUT).topics[topic].partitions.values()
    replicas = min((len(partition.replicas) for partition in partitions), default=1)
    return f"replicated({replicas})" if replicas > 1 else "leader memory"


def requests_of_sqs(counted: Mapping[str, "RequestCount"]) -> Mapping[str, int]:
    """Return what unimq itself counted, as `protocol.Connection.counters` wants it.

    The events of botocore, by which other rows count, see nothing of the fast path.
    """
    ours = [count for action, count in counted.items() if action.startswith("SQS.")]
    return {
        "requests": sum(count.requests for count in ours),
        "billed_requests": sum(count.billed for count in ours),
        "empty_receives": sum(count.empty for count in ours),
        "bytes_sent": sum(count.bytes_sent for count in ours),
        "bytes_received": sum(count.bytes_received for count in ours),
    }


def connect(url: str, options: Mapping[str, str]) -> Connection:
    """Return a connection; see `unimq_bench.rows.protocol`. Options are those of the URL."""
    import unimq

    asked = "&".join(f"{name}={value}" for name, value in options.items())
    broker = unimq.connect(url + (("&" if "?" in url else "?") + asked if asked else ""))
    found = broker.capabilities
    clients: Any = broker.native

    durability = "memory" if found.emulator else _DURABILITY.get(found.backend, "unknown")

    def delete(queue: str) -> None:
        for name in (queue, f"{queue}-dead"):
            broker.delete(name)

    def make(queue: str) -> None:
        nonlocal durability
        delete(queue)
        broker.declare(queue)
        if found.backend == "kafka":
            durability = durability_of_topic(clients.admin, queue)

    return Assembled(
        describe=lambda: Description(
            durability=durability,
            emulated=found.emulator,
            client_settings={**options, "send": "enqueue", "ack": "batched"},
            broker_settings={"durable": found.durable.note} if found.durable.note else {},
            versions={name: version(name) for name in ("unimq", _CLIENTS.get(found.backend, "msgspec"))},
        ),
        make=make,
        delete=delete,
        sender=lambda queue, window: _Sender(broker.producer(queue, window=window, timeout=_TIMEOUT)),
        receiver=lambda queue, prefetch: _Receiver(broker.consumer(queue, prefetch=prefetch)),
        count=(lambda: requests_of_sqs(clients.requests())) if found.backend == "sqs" else dict,
        release=broker.close,
    )
