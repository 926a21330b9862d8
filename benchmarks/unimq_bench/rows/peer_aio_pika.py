"""Peer ``aio-pika``: a channel with confirms, as many publishes in flight as the window allows, acks for each batch.

Persistent messages to a quorum queue, mandatory. The library is for asyncio: its loop runs in a thread, with a task for
each message that is on its way.
"""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from queue import Empty, SimpleQueue
from typing import Any

from unimq_bench.rows.assembled import Assembled, checked
from unimq_bench.rows.loop_thread import GaplessTags, LoopThread, TaskSender
from unimq_bench.rows.protocol import Batch, Connection, Description

_TIMEOUT = 30.0


async def _channel(url: str) -> tuple[Any, Any]:
    """Open a connection that recovers, and a channel with confirms."""
    connection = await import_module("aio_pika").connect_robust(url)
    return connection, await connection.channel(publisher_confirms=True)


class _Receiver:
    def __init__(self, loop: LoopThread, url: str, queue: str, prefetch: int) -> None:
        self._loop = loop
        self._arrived: SimpleQueue[Any] = SimpleQueue()
        self._connection: Any = None
        self._tags = GaplessTags()
        loop.wait(self._open(url, queue, prefetch))

    async def _open(self, url: str, queue: str, prefetch: int) -> None:
        self._connection, channel = await _channel(url)
        await channel.set_qos(prefetch_count=prefetch)
        self._queue = await channel.get_queue(queue)
        await self._queue.consume(self._on_message)

    async def _on_message(self, message: Any) -> None:
        self._arrived.put(message)

    def receive(self, max_messages: int, timeout: float) -> Batch:
        messages: list[Any] = []
        try:
            messages.append(self._arrived.get(timeout=timeout))
            while len(messages) < max_messages:
                messages.append(self._arrived.get_nowait())
        except Empty:
            pass
        return Batch([message.body for message in messages], messages)

    def ack(self, batch: Batch) -> None:
        for message in batch.token:
            self._tags.add(message.channel, message.delivery_tag, message)
        last = self._tags.last()
        if last is not None:
            self._loop.post(last.channel.basic_ack(last.delivery_tag, multiple=True))

    def settle(self) -> None:
        # The broker answers after it has read the acks; there is no stronger proof in AMQP 0.9.1.
        self._loop.join()
        self._loop.wait(self._queue.declare())

    def close(self) -> None:
        self._loop.wait(self._connection.close())


def connect(url: str, options: Mapping[str, str]) -> Connection:
    """Return a connection; see `unimq_bench.rows.protocol`."""
    checked("aio-pika", options, {})
    aio_pika: Any = import_module("aio_pika")
    loop = LoopThread()
    admin, channel = loop.wait(_channel(url))

    def delete(queue: str) -> None:
        loop.wait(channel.queue_delete(queue))

    def make(queue: str) -> None:
        delete(queue)
        loop.wait(channel.declare_queue(queue, durable=True, arguments={"x-queue-type": "quorum"}))

    def sender(queue: str, window: int) -> TaskSender:
        connection, channel = loop.wait(_channel(url))
        exchange = channel.default_exchange

        async def publish(body: bytes) -> None:
            message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await exchange.publish(message, queue, mandatory=True, timeout=_TIMEOUT)

        return TaskSender(loop, window, publish, connection.close)

    def release() -> None:
        if loop.is_open:
            loop.wait(admin.close())
            loop.close()

    return Assembled(
        describe=lambda: Description(
            durability="fsync",
            client_settings={"delivery_mode": "2", "mandatory": "true", "confirms": "in tasks", "acks": "multiple"},
            broker_settings={"x-queue-type": "quorum"},
            versions={"aio-pika": version("aio-pika"), "aiormq": version("aiormq")},
        ),
        make=make,
        delete=delete,
        sender=sender,
        receiver=lambda queue, prefetch: _Receiver(loop, url, queue, prefetch),
        release=release,
    )
