"""Peer ``mq-bridge``: `send_batch` by one thread with what has gathered, `poll_batch` and an ack for each batch.

The library is Rust with a synchronous front; a batch is confirmed when the call returns, and one that fails leaves the
fate of each of its messages unknown. On RabbitMQ it needs a classic queue, which does not sync what it confirms. Queues
are made by pika, confluent-kafka and boto3 beside it, which is not measured.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any

from unimq_bench.rows.assembled import Assembled, checked, number_of
from unimq_bench.rows.batch_threads import Batches
from unimq_bench.rows.mq_bridge_places import place_of
from unimq_bench.rows.protocol import Batch, Connection, Description, NotTaken

_LARGEST_BATCH = 500


class _Sender:
    def __init__(self, publisher: Any, window: int) -> None:
        self._send = publisher.send_batch
        self._failed: list[bytes] = []
        self._batches = Batches(1, window, self._store, at_most=_LARGEST_BATCH)

    def _store(self, bodies: list[bytes]) -> None:
        try:
            self._send(bodies)
        except Exception:  # noqa: BLE001 - whatever it raises, nothing is known of the batch
            self._failed += bodies

    def send(self, body: bytes) -> None:
        if not self._batches.put(body):
            raise NotTaken("the window stayed full")

    def flush(self) -> Sequence[bytes]:
        if not self._batches.join():
            raise TimeoutError("mq-bridge did not confirm in time")
        failed, self._failed = self._failed, []
        return failed

    def close(self) -> None:
        self._batches.close()


class _Receiver:
    def __init__(self, consumer: Any, patience: float) -> None:
        self._consumer, self._patience = consumer, patience

    def receive(self, max_messages: int, timeout: float) -> Batch:
        messages, token = self._consumer.poll_batch(max_messages, int(max(timeout, self._patience) * 1000))
        return Batch([message.payload for message in messages], token)

    def ack(self, batch: Batch) -> None:
        if batch.token is not None:
            self._consumer.ack(batch.token)

    def settle(self) -> None:
        """An ack returns when the library has settled it, and it tells no more."""

    def close(self) -> None:
        self._consumer.close()


def connect(url: str, options: Mapping[str, str]) -> Connection:
    """Return a connection; see `unimq_bench.rows.protocol`."""
    partitions = number_of("mq-bridge", checked("mq-bridge", options, {"partitions": "4"}), "partitions", least=1)
    mq_bridge: Any = import_module("mq_bridge")
    place = place_of(url, partitions)

    def make_empty(queue: str) -> None:
        place.delete(queue)
        place.make(queue)

    return Assembled(
        describe=lambda: Description(versions={"mq-bridge": version("mq-bridge")}, **place.describe()),
        make=make_empty,
        delete=place.delete,
        sender=lambda queue, window: _Sender(mq_bridge.Publisher.from_config(place.publishes(queue)), window),
        receiver=lambda queue, prefetch: _Receiver(
            mq_bridge.Consumer.from_config(place.consumes(queue, prefetch)), place.patience
        ),
        release=place.release,
    )
