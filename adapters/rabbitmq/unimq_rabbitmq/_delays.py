"""Delays: a message waits in a queue whose messages expire into its target; there is one queue per length of delay.

One queue for all delays would not do: messages expire at its head only, so that a long delay would hold up a short one
behind it. Lengths are rounded up, so that arbitrary ones (back-off with jitter) make a bounded number of queues.
"""

import math
import time
from typing import Any

from pika.channel import Channel

LONGEST = 30 * 86_400.0
"""Seconds. The broker counts milliseconds in 32 bits, which is 49 days."""

_SHORTEST_MS = 16
_STEPS = 8
"""Lengths per doubling: a delay is at most an eighth longer than asked for."""
_RENEW_AFTER = 60.0
"""Seconds after which a queue in use is declared again. The broker deletes one with all its messages when it was not
declared for so long as ``x-expires`` says, whether something was published to it or not."""


def rounded_up(delay: float) -> int:
    """Return the milliseconds that a message with this delay (seconds) waits."""
    wanted = max(_SHORTEST_MS, math.ceil(delay * 1000))
    step = max(1, (1 << (wanted.bit_length() - 1)) // _STEPS)
    return -(-wanted // step) * step


class DelayQueues:
    """The queues that one channel has declared for one target: those before a message on a channel are there for it."""

    def __init__(self, exchange: str, routing_key: str, made: set[str]) -> None:
        self._exchange = exchange
        self._routing_key = routing_key
        self._target = ".".join(filter(None, (exchange, routing_key)))
        self._made = made
        """Names of all, for who deletes the target."""
        self._declared: dict[str, float] = {}

    def forget(self) -> None:
        """Declare all again: the channel is a new one, or one of them is missing."""
        self._declared.clear()

    def queue_for(self, channel: Channel, delay: float) -> str:
        """Return the queue in which a message waits for `delay` seconds, having declared it if need be."""
        milliseconds = rounded_up(delay)
        kind = "topic-delay" if self._exchange else "delay"
        # No portable name has a dot, so nobody else's queue is called so.
        name = f"{self._target}.{kind}.{milliseconds}"
        now = time.monotonic()
        if now - self._declared.get(name, -math.inf) >= _RENEW_AFTER:
            # Without waiting for the answer: the broker does what a channel asks for one after the other.
            channel.queue_declare(name, durable=True, arguments=self._arguments(milliseconds))
            self._declared[name] = now
            self._made.add(name)
        return name

    def _arguments(self, milliseconds: int) -> dict[str, Any]:
        return {
            "x-queue-type": "quorum",
            "x-message-ttl": milliseconds,
            "x-dead-letter-exchange": self._exchange,
            "x-dead-letter-routing-key": self._routing_key,
            # Otherwise a message is gone if the broker stops between the two queues, or if its target is full.
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-expires": milliseconds + round(2 * _RENEW_AFTER * 1000),
        }
