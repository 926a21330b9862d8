"""Long delays of nacks: a copy waits in the topic of delays, so that the wait and the attempts outlive the consumer.

The original is done when the copy is confirmed. That takes the message out of its place, and a copy goes to everybody
who reads the topic: hence for queues without an order only.
"""

import time
from collections.abc import Callable
from typing import cast

from confluent_kafka import KafkaError, KafkaException

from unimq import ConnectionLost, UnimqError
from unimq.adapter import Delivery, Message, Outgoing
from unimq_kafka._delayed_sends import DelayedSends, Provider
from unimq_kafka._errors import is_missing, native_of, send_error
from unimq_kafka._producer import Job, SharedProducer
from unimq_kafka._tiers import delay_topic
from unimq_kafka._wire import Record, encode_again

SHORTEST = 60.0
"""Seconds of a nack's delay from which on a copy waits; shorter ones are not worth the way."""
_TIMEOUT = 10.0
"""Seconds until a copy that is not confirmed is given up."""

Done = Callable[[UnimqError | None], None]


class Postponed:
    """The copies of one consumer. `outstanding` is changed by operations that are atomic in CPython."""

    def __init__(self, producer: SharedProducer, topic: str, provider: Provider) -> None:
        self.outstanding: dict[Outgoing, Done] = {}
        """What to call at the outcome; the consumer bounds it."""
        self._producer = producer
        self._topic = topic
        self._delay_topic = delay_topic(topic)
        self._sends = DelayedSends(producer, topic, provider, self._refuse)

    def send(self, delivery: Delivery, due: float, done: Done) -> None:
        """Send a copy that comes at a Unix time in seconds, as the next attempt; `done` gets `None` once the broker has
        confirmed it, or why that is not certain. From any thread, to any thread.
        """
        record = cast("Record", delivery.native)
        wire = cast("list[tuple[str, bytes | None]] | None", record.headers())
        headers = encode_again(wire or (), delivery.message, delivery.attempt, due)
        entry = Outgoing(Message(delivery.body, id=delivery.id), time.monotonic() + _TIMEOUT, len(delivery.body))
        self._producer.attach(self)
        self.outstanding[entry] = done
        try:
            self._sends.send(
                Job(self, entry, self._delay_topic, record.key(), headers, int(time.time() * 1000)),
                due,
            )
        except KafkaException as refused:
            self._refuse(entry, refused)
        self._producer.wake()

    def close(self) -> None:
        """Give up what has no outcome."""
        self.fail_all("the consumer was closed")
        self._producer.detach(self)

    # `_producer.ReportTaker`.

    def take_reports(self, stored: list[Outgoing], failed: list[tuple[Outgoing, KafkaError]]) -> None:
        """See `_producer.ReportTaker`."""
        for entry in stored:
            self._finish(entry, None)
        for entry, error in failed:
            if is_missing(error):
                self._sends.forget()
            self._refuse(entry, KafkaException(error))

    def fail_all(self, text: str) -> None:
        """See `_producer.ReportTaker`."""
        for entry in list(self.outstanding):
            self._finish(entry, ConnectionLost(text))

    def fail_overdue(self, now: float) -> None:
        """See `_producer.ReportTaker`."""
        for entry in list(self.outstanding):
            if entry.deadline <= now:
                self._finish(entry, ConnectionLost(f"no confirmation within {_TIMEOUT:g} s"))

    def _refuse(self, entry: Outgoing, error: UnimqError | KafkaException) -> None:
        if isinstance(error, KafkaException):
            error = send_error(native_of(error), self._topic, entry.message.id, self._producer.trouble)
        self._finish(entry, error)

    def _finish(self, entry: Outgoing, error: UnimqError | None) -> None:
        done = self.outstanding.pop(entry, None)
        if done is not None:
            done(error)
