"""Raw row ``confluent-kafka``: plain `produce` with a report for each message; `poll`, then `consume` to receive.

Idempotent, acks=all. Positions are committed in the background and at `settle`; an ack out of order is not kept apart,
as unimq does. The producer's ``linger`` (ms) and ``partitions`` are unimq's, unless the workload says otherwise.
"""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unimq_bench.rows.assembled import Assembled, checked, number_of
from unimq_bench.rows.kafka_topics import Topics, bootstrap_of
from unimq_bench.rows.protocol import Batch, Connection, Description, NotTaken

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message

_OPTIONS = {"partitions": "4", "replication": "-1", "linger": "0", "compression": "none", "group_protocol": "consumer"}
_SENDING = {"acks": "all", "enable.idempotence": True, "message.timeout.ms": 30_000}
_RECEIVING = {
    "auto.offset.reset": "earliest",
    "enable.auto.offset.store": False,
    "auto.commit.interval.ms": 1000,
    # Its default of 1000 stalls a consumer for a second whenever its local queue is full.
    "fetch.queue.backoff.ms": 10,
    "fetch.wait.max.ms": 100,
}
_TIMEOUT = 30.0


class _Sender:
    def __init__(self, settings: Mapping[str, Any], topic: str, window: int) -> None:
        from confluent_kafka import Producer

        self._failed: list[bytes] = []
        self._topic = topic
        self._count = 0
        self._every = max(1, min(1000, window // 4))
        reporting = {"queue.buffering.max.messages": window, "on_delivery": self._reported}
        self._producer = Producer({**settings, **reporting})
        self._producer.list_topics(topic, _TIMEOUT)

    def _reported(self, error: "KafkaError | None", message: "Message") -> None:
        if error is not None:
            self._failed.append(message.value() or b"")

    def send(self, body: bytes) -> None:
        deadline = 0.0
        while True:
            try:
                self._producer.produce(self._topic, body)
                break
            except BufferError:
                deadline = deadline or time.monotonic() + _TIMEOUT
                if time.monotonic() > deadline:
                    raise NotTaken(f"{self._topic}: the client's queue stayed full") from None
                self._producer.poll(0.01)
        self._count += 1
        if self._count % self._every == 0:
            self._producer.poll(0)

    def flush(self) -> Sequence[bytes]:
        if self._producer.flush(_TIMEOUT):
            self._producer.purge()
            self._producer.flush(_TIMEOUT)
        failed, self._failed = self._failed, []
        return failed

    def close(self) -> None:
        self.flush()


class _Receiver:
    def __init__(self, settings: Mapping[str, Any], topic: str) -> None:
        from confluent_kafka import Consumer

        self._consumer = Consumer(dict(settings))
        self._consumer.subscribe([topic])
        self._is_open = True
        self._is_stored = False

    def receive(self, max_messages: int, timeout: float) -> Batch:
        first = self._consumer.poll(timeout)
        if first is None or first.error() is not None:
            return Batch((), ())
        messages = [first, *self._consumer.consume(max_messages - 1, 0)] if max_messages > 1 else [first]
        return Batch([message.value() or b"" for message in messages if message.error() is None], messages)

    def ack(self, batch: Batch) -> None:
        # Batches are acked in the order in which they came: the last message of each partition stands for all.
        for message in {message.partition(): message for message in batch.token if message.error() is None}.values():
            self._consumer.store_offsets(message)
            self._is_stored = True

    def settle(self) -> None:
        from confluent_kafka import KafkaError, KafkaException

        if not self._is_stored:
            return
        self._is_stored = False
        try:
            self._consumer.commit(asynchronous=False)
        except KafkaException as refused:
            # The commit in the background was first, and there is nothing left to commit.
            if refused.args[0].code() != KafkaError._NO_OFFSET:
                raise

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._consumer.close()


def connect(url: str, options: Mapping[str, str]) -> Connection:
    """Return a connection; see `unimq_bench.rows.protocol`."""
    from confluent_kafka import libversion, version

    chosen = checked("confluent-kafka", options, _OPTIONS)
    topics = Topics(bootstrap_of(url))
    shared = {"bootstrap.servers": bootstrap_of(url), "log_level": 0}
    sending = {**_SENDING, "linger.ms": float(chosen["linger"]), "compression.type": chosen["compression"]}
    receiving = {**_RECEIVING, "group.protocol": chosen["group_protocol"]}
    partitions = number_of("confluent-kafka", chosen, "partitions", least=1)
    replication = number_of("confluent-kafka", chosen, "replication", least=-1)
    return Assembled(
        describe=lambda: Description(
            durability=topics.durability,
            client_settings={name: str(value) for name, value in (sending | receiving).items()},
            broker_settings={name: str(number) for name, number in topics.layout.items()},
            versions={"confluent-kafka": str(version()), "librdkafka": str(libversion()[0])},
        ),
        make=lambda queue: topics.make_empty(queue, partitions, replication),
        delete=topics.remove,
        sender=lambda queue, window: _Sender({**shared, **sending}, queue, window),
        receiver=lambda queue, prefetch: _Receiver({**shared, **receiving, "group.id": queue}, queue),
    )
