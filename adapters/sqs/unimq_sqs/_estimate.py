"""How many requests a load takes, as sender and poller decide where messages come one by one and at random.

A test holds what is computed here against the decisions of the sender. Who sends in bulk needs fewer.
"""

import math
import random
from collections.abc import Mapping

from unimq import ConfigError
from unimq.adapter import Load, Message
from unimq_sqs._batching import LARGEST_BATCH, SOFT_BATCH_BYTES, WITHOUT_WAITING
from unimq_sqs._capabilities import SQS_LIMIT
from unimq_sqs._counting import CHUNK, RECEIVE
from unimq_sqs._options import SQSOptions
from unimq_sqs._pacing import Idleness, Pace
from unimq_sqs._receiver import ACK_LINGER, FIFO_ACK_LINGER
from unimq_sqs._sender import LINGER
from unimq_sqs._wire import encode

SEND, DELETE = "SQS.SendMessageBatch", "SQS.DeleteMessageBatch"
_SIMULATED = 5_000
ROUND_TRIP = 0.02
"""Seconds that a request is assumed to take."""
_OVERHEAD = encode(Message(b"x", id="0" * 24, sent_at=1.7e9)).size - 1
"""Bytes that each message has beside body and headers."""


def billed_requests(options: SQSOptions, load: Load) -> Mapping[str, float]:
    """Return the requests that SQS bills per second, by action.

    Raises:
        ConfigError: SQS takes no messages of this size.

    """
    size = load.size + _OVERHEAD
    if size > SQS_LIMIT:
        raise ConfigError(f"SQS takes {SQS_LIMIT} bytes with {_OVERHEAD} of unimq's own, not {size}")
    window = 0.0 if load.is_ordered else options.collect_ms / 1000
    produced, consumed = load.rate / load.producers, load.rate / load.consumers
    fits = min(LARGEST_BATCH, max(1, SOFT_BATCH_BYTES // size))
    sent = 1.0 if load.is_awaited else min(fits, _enqueued(produced, window))
    received = _received(consumed, window)
    deleted = _between(1.0, 1.0 + consumed * (FIFO_ACK_LINGER if load.is_ordered else ACK_LINGER), LARGEST_BATCH)
    return {
        SEND: load.rate / sent * _chunks(sent * size),
        RECEIVE: load.rate / received * _chunks(received * size) + load.consumers * _empty(options, consumed),
        DELETE: load.rate / deleted,
    }


def _between(least: float, value: float, most: float) -> float:
    return min(max(least, value), most)


def _enqueued(rate: float, window: float) -> float:
    """Return the messages of a request that a producer makes."""
    if not window:
        return max(1.0, rate * LINGER)
    # Those of one window, or the first after it; and where none came in its second half, the next few go at once.
    collected = rate * window + math.exp(-rate * window)
    at_once = WITHOUT_WAITING * math.exp(-rate * window / 2)
    return (collected + at_once) / (1 + at_once)


def _received(rate: float, window: float) -> float:
    """Return the messages of an answer that a consumer gets: what its pace makes of some thousands."""
    if not rate:
        return 1.0
    source, pace = random.Random(1), Pace(window)
    now, coming, waiting, taken, requests = 0.0, source.expovariate(rate), 0, 0, 0
    while taken < _SIMULATED:
        # A long poll waits for the first.
        now = max(now + ROUND_TRIP, 0.0 if waiting else coming)
        while coming <= now and waiting < LARGEST_BATCH:
            waiting, coming = waiting + 1, coming + source.expovariate(rate)
        requests, taken = requests + 1, taken + waiting
        now += pace.pause_after(waiting, LARGEST_BATCH)
        waiting = 0
    return taken / requests


def _chunks(size: float) -> int:
    return max(1, math.ceil(size / CHUNK))


def _empty(options: SQSOptions, rate: float) -> float:
    """Return the polls per second that bring nothing to one consumer, to which messages come at random."""
    wait, idle_wait = options.wait, max(options.wait, options.idle_wait)
    if not rate:
        return 1 / idle_wait
    # A pause between two messages is longer than t with the probability exp(-rate t).
    before_idle = math.ceil(Idleness.AFTER / wait)
    in_a_pause = sum(math.exp(-rate * wait * number) for number in range(1, before_idle + 1))
    in_a_pause += math.exp(-rate * (before_idle * wait + idle_wait)) / -math.expm1(-rate * idle_wait)
    return rate * in_a_pause
