"""How FastStream's messages reach a thread that receives, and how its acks go back."""

import asyncio
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from unimq_bench.rows.loop_thread import GaplessTags, LoopThread
from unimq_bench.rows.protocol import Batch


async def whole(message: Any) -> Any:
    """Decode nothing: the handler gets the message as it came."""
    return message


@dataclass(slots=True, eq=False)
class _Fetched:
    """Records of one fetch, which are committed when none is left."""

    left: int
    acked: asyncio.Event = field(default_factory=asyncio.Event)
    committed: asyncio.Event = field(default_factory=asyncio.Event)

    async def commit(self) -> None:
        """Let the handler commit, and wait for it."""
        self.acked.set()
        await self.committed.wait()


class Receiver:
    """A `unimq_bench.rows.protocol.Receiver`, of which one of the handlers is subscribed before the broker starts."""

    def __init__(self, loop: LoopThread, broker: Any) -> None:
        self._loop, self._broker = loop, broker
        self._arrived: SimpleQueue[tuple[bytes, Any]] = SimpleQueue()
        self._tags = GaplessTags()

    async def on_message(self, message: Any) -> None:
        """Handle a message of RabbitMQ."""
        self._arrived.put((message.body, message))

    async def on_records(self, message: Any) -> None:
        """Handle a fetch of Kafka: it ends when all its records are acked."""
        fetched = _Fetched(len(message.raw_message))
        for record in message.raw_message:
            self._arrived.put((record.value() or b"", fetched))
        await fetched.acked.wait()
        await message.ack()
        fetched.committed.set()

    def receive(self, max_messages: int, timeout: float) -> Batch:
        """See the protocol, here and below."""
        arrived: list[tuple[bytes, Any]] = []
        try:
            arrived.append(self._arrived.get(timeout=timeout))
            while len(arrived) < max_messages:
                arrived.append(self._arrived.get_nowait())
        except Empty:
            pass
        return Batch([body for body, _ in arrived], [message for _, message in arrived])

    def ack(self, batch: Batch) -> None:
        """Settle a batch."""
        for message in batch.token:
            if not isinstance(message, _Fetched):
                self._tags.add(message.raw_message.channel, message.raw_message.delivery_tag, message)
                continue
            message.left -= 1
            if not message.left:
                self._loop.post(message.commit())
        last = self._tags.last()
        if last is not None:
            self._loop.post(last.ack(multiple=True))

    def settle(self) -> None:
        """Wait for the acks."""
        # An ack is written to RabbitMQ then, and a commit on its way to Kafka: of either the library tells no more.
        self._loop.join()

    def close(self) -> None:
        """Release the connection."""
        self._loop.wait(self._broker.stop())
