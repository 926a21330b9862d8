"""Raw row ``pika-select``: pika's `SelectConnection` in a thread, confirms pipelined in a window, cumulative acks.

Persistent messages to a quorum queue, mandatory. One wake-up of the I/O thread publishes everything that has gathered.
"""

import platform
from collections.abc import Mapping
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from unimq_bench.rows.assembled import Assembled, checked
from unimq_bench.rows.pika_publisher import Publisher
from unimq_bench.rows.pika_thread import PikaThread
from unimq_bench.rows.protocol import Batch, Connection, Description


class _Receiver:
    def __init__(self, link: PikaThread, queue: str, prefetch: int) -> None:
        self._link, self._queue = link, queue
        self._arrived: SimpleQueue[tuple[int, bytes]] = SimpleQueue()
        link.ask(lambda answered: link.channel.basic_qos(prefetch_count=prefetch, callback=answered))
        link.ask(lambda answered: link.channel.basic_consume(queue, self._on_message, callback=answered))

    def _on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self._arrived.put((method.delivery_tag, body))

    def receive(self, max_messages: int, timeout: float) -> Batch:
        bodies: list[bytes] = []
        tag, get = 0, self._arrived.get_nowait
        try:
            tag, body = self._arrived.get(timeout=timeout)
            bodies.append(body)
            while len(bodies) < max_messages:
                tag, body = get()
                bodies.append(body)
        except Empty:
            pass
        return Batch(bodies, tag)

    def ack(self, batch: Batch) -> None:
        # Batches are acked in the order in which they came.
        if batch.token:
            self._link.post(lambda: self._link.channel.basic_ack(batch.token, multiple=True))

    def settle(self) -> None:
        # The broker answers after it has read the acks; there is no stronger proof in AMQP 0.9.1.
        declare = self._link.channel.queue_declare
        self._link.ask(lambda answered: declare(self._queue, passive=True, callback=answered))

    def close(self) -> None:
        self._link.close()


def connect(url: str, options: Mapping[str, str]) -> Connection:
    """Return a connection; see `unimq_bench.rows.protocol`."""
    from pika import URLParameters, __version__

    checked("pika-select", options, {})
    parameters = URLParameters(urlunsplit((*urlsplit(url)[:3], "heartbeat=30", "")))
    admin = PikaThread(parameters, "admin")

    def delete(queue: str) -> None:
        admin.ask(lambda answered: admin.channel.queue_delete(queue, callback=answered))

    def make(queue: str) -> None:
        delete(queue)
        asked = {"durable": True, "arguments": {"x-queue-type": "quorum"}}
        admin.ask(lambda answered: admin.channel.queue_declare(queue, **asked, callback=answered))

    return Assembled(
        describe=lambda: Description(
            durability="fsync",
            client_settings={"delivery_mode": "2", "mandatory": "true", "confirms": "pipelined", "acks": "multiple"},
            broker_settings={"x-queue-type": "quorum"},
            versions={"pika": __version__, "python": platform.python_version()},
        ),
        make=make,
        delete=delete,
        sender=lambda queue, window: Publisher(PikaThread(parameters, "sender"), queue, window),
        receiver=lambda queue, prefetch: _Receiver(PikaThread(parameters, "receiver"), queue, prefetch),
        release=admin.close,
    )
