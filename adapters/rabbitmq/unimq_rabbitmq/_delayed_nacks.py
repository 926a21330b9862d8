"""Delayed redelivery: a copy waits in a queue of delays; the original is settled when the copy is confirmed (A3)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from unimq import Queue, UnimqError
from unimq.adapter import Delivery, Outgoing
from unimq_rabbitmq import _wire
from unimq_rabbitmq._link import Link
from unimq_rabbitmq._sender import RabbitMQSender

_TIMEOUT = 10.0
"""Seconds until a copy that the broker does not confirm is given up, and the original comes again at once."""

Done = Callable[[UnimqError | None], None]


@dataclass(slots=True)
class DelayedNacks:
    """The delayed nacks of one consumer, and the `unimq.adapter.OutcomeSink` of their copies. For the I/O thread."""

    link: Link
    queue: str
    limits: _wire.Limits
    made: set[str]
    """Names of the queues of delays that this connection has declared for the queue."""
    under_way: dict[Outgoing, Done] = field(default_factory=dict[Outgoing, Done])
    """What to do at the outcome of each copy. Bounded by the prefetch."""
    _sender: RabbitMQSender | None = None
    """Opened by the first delayed nack; most consumers never need it."""

    def send(self, delivery: Delivery, delay: float, done: Done) -> None:
        """Send a copy that comes after `delay` seconds; `done` gets `None` once the broker has confirmed it."""
        if self._sender is None:
            target = Queue(self.queue, dead_letter=False, portable_name=False)
            self._sender = RabbitMQSender(self.link, target, self, self.limits, self.made)
            self._sender.attach(None)
        message = delivery.message
        entry = Outgoing(message, time.monotonic() + _TIMEOUT, len(message.body))
        self.under_way[entry] = done
        self._sender.accept([_wire.again(entry, delivery, delay)])

    def stored(self, entries: Sequence[Outgoing]) -> None:
        """See `unimq.adapter.OutcomeSink.stored`."""
        self._finish(entries, None)

    def failed(self, entries: Sequence[Outgoing], error: UnimqError) -> None:
        """See `unimq.adapter.OutcomeSink.failed`."""
        self._finish(entries, error)

    def _finish(self, entries: Sequence[Outgoing], error: UnimqError | None) -> None:
        for entry in entries:
            done = self.under_way.pop(entry, None)
            if done is not None:
                done(error)

    def release(self) -> None:
        """Give the channel back."""
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.release(None)
