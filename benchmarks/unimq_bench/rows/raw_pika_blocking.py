"""Raw row ``pika-blocking``: pika's `BlockingConnection`, the program of its tutorial with the guarantees switched on.

Persistent messages to a quorum queue, mandatory, publisher confirms. A blocking channel waits for the confirm of each
message, so that its window is 1 whatever the workload asks for. A batch is acked by one cumulative ack.
"""

import platform
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from unimq_bench.rows.assembled import Assembled, checked
from unimq_bench.rows.protocol import Batch, Connection, Description

if TYPE_CHECKING:
    from pika import BlockingConnection
    from pika.adapters.blocking_connection import BlockingChannel
    from pika.spec import Basic, BasicProperties


class _Sender:
    def __init__(self, connection: "BlockingConnection", queue: str) -> None:
        from pika import BasicProperties

        self._connection = connection
        self._channel = connection.channel()
        self._channel.confirm_delivery()
        self._queue = queue
        self._properties = BasicProperties(delivery_mode=2)
        self._failed: list[bytes] = []

    def send(self, body: bytes) -> None:
        from pika.exceptions import AMQPError

        try:
            self._channel.basic_publish("", self._queue, body, self._properties, mandatory=True)
        except AMQPError:
            self._failed.append(body)

    def flush(self) -> Sequence[bytes]:
        failed, self._failed = self._failed, []
        return failed

    def close(self) -> None:
        if self._connection.is_open:
            self._connection.close()


class _Receiver:
    def __init__(self, connection: "BlockingConnection", queue: str, prefetch: int) -> None:
        self._connection = connection
        self._channel = connection.channel()
        self._channel.basic_qos(prefetch_count=prefetch)
        self._queue = queue
        self._arrived: deque[tuple[int, bytes]] = deque()
        self._channel.basic_consume(queue, self._on_message)

    def _on_message(
        self, channel: "BlockingChannel", method: "Basic.Deliver", properties: "BasicProperties", body: bytes
    ) -> None:
        self._arrived.append((method.delivery_tag or 0, body))

    def receive(self, max_messages: int, timeout: float) -> Batch:
        if not self._arrived:
            self._connection.process_data_events(timeout)
        arrived = [self._arrived.popleft() for _ in range(min(max_messages, len(self._arrived)))]
        return Batch([body for _, body in arrived], arrived[-1][0] if arrived else 0)

    def ack(self, batch: Batch) -> None:
        # Batches are acked in the order in which they came.
        if batch.token:
            self._channel.basic_ack(batch.token, multiple=True)

    def settle(self) -> None:
        # The broker answers after it has read the acks; there is no stronger proof in AMQP 0.9.1.
        self._channel.queue_declare(self._queue, passive=True)

    def close(self) -> None:
        if self._connection.is_open:
            self._connection.close()


def connect(url: str, options: Mapping[str, str]) -> Connection:
    """Return a connection; see `unimq_bench.rows.protocol`."""
    from pika import BlockingConnection, URLParameters, __version__

    checked("pika-blocking", options, {})
    parameters = URLParameters(urlunsplit((*urlsplit(url)[:3], "heartbeat=600", "")))
    admin = BlockingConnection(parameters)
    channel = admin.channel()

    def delete(queue: str) -> None:
        channel.queue_delete(queue)

    def make(queue: str) -> None:
        delete(queue)
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})

    return Assembled(
        describe=lambda: Description(
            durability="fsync",
            client_settings={"window": "1", "delivery_mode": "2", "mandatory": "true", "acks": "multiple"},
            broker_settings={"x-queue-type": "quorum"},
            versions={"pika": __version__, "python": platform.python_version()},
        ),
        make=make,
        delete=delete,
        sender=lambda queue, window: _Sender(BlockingConnection(parameters), queue),
        receiver=lambda queue, prefetch: _Receiver(BlockingConnection(parameters), queue, prefetch),
        release=lambda: admin.close() if admin.is_open else None,
    )
