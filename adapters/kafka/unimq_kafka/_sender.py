"""Sending to one topic through the shared producer."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException

from unimq import AuthError, InvalidMessage, MessageTooLarge, NotFound, SendRejected, SendUnknown, UnimqError
from unimq.adapter import Message, OutcomeSink, Outgoing
from unimq_kafka._delayed_sends import DelayedSends, Provider
from unimq_kafka._errors import is_missing, native_of, send_error
from unimq_kafka._producer import SERVE_EVERY, Job, SharedProducer
from unimq_kafka._tiers import delay_topic
from unimq_kafka._wire import (
    OLD,
    WireHeaders,
    encode_delay,
    encode_headers,
    encode_key,
    encode_timestamp,
    has_id_only,
    record_size,
)

T = TypeVar("T")

_SHORT = 100
_ROOM = 1000
"""Bytes that suffice for the framing of a record, and an id and a key of so many characters."""


class KafkaSender:
    """The sender of one producer; `outstanding` says what was not reported yet.

    `outstanding` is changed by operations that are atomic in CPython.
    """

    is_immediate = False

    def __init__(self, producer: SharedProducer, topic: str, limit: int, sink: OutcomeSink, provider: Provider) -> None:
        self.outstanding: dict[Outgoing, None] = {}
        self._producer = producer
        self._topic = topic
        self._limit = limit
        self._small = limit - _ROOM
        self._sink = sink
        self._drained = threading.Event()
        self._is_closing = False
        self._delay_topic = delay_topic(topic)
        self._delayed = DelayedSends(producer, topic, provider, self._refuse)
        producer.attach(self)

    def submit(self, entries: Sequence[Outgoing]) -> None:
        """See `unimq.adapter.Sender.submit`."""
        self._submit(entries)
        self._producer.wake()

    def submit_quietly(self, entries: Sequence[Outgoing]) -> None:
        """See `unimq.adapter.ServedSender.submit_quietly`."""
        self._submit(entries)
        if entries[0].group is not None:
            producer = self._producer
            producer.unserved += len(entries)
            if producer.unserved >= SERVE_EVERY or producer.is_resting:
                producer.look()

    def serve(self, attempt: Callable[[], T | None], deadline: float) -> T | None:
        """See `unimq.adapter.ServedSender.serve`."""
        return self._producer.serve(attempt, deadline)

    def _submit(self, entries: Sequence[Outgoing]) -> None:
        outstanding, produce, topic, small = self.outstanding, self._producer.produce, self._topic, self._small
        refused: list[tuple[Outgoing, UnimqError]] = []
        now = time.time()
        for entry in entries:
            message = entry.message
            try:
                sent_at = message.sent_at
                if (
                    has_id_only(message)
                    and not message.delay
                    and -OLD < now - sent_at < OLD
                    and len(message.body) <= small
                    and len(message.id) <= _SHORT
                    and ((name := message.key) is None or len(name) <= _SHORT)
                ):
                    # What the rest comes to for most messages.
                    key = None if name is None else encode_key(name)
                    outstanding[entry] = None
                    produce(Job(self, entry, topic, key, None, int(sent_at * 1000)))
                    continue
                key = encode_key(message.key)
                headers = encode_headers(message)
                if message.delay:
                    due = encode_delay(message, headers)
                    self._check_size(message, key, headers)
                    outstanding[entry] = None
                    self._delayed.send(Job(self, entry, self._delay_topic, key, headers, int(now * 1000)), due)
                    continue
                timestamp = encode_timestamp(message, headers)
                self._check_size(message, key, headers)
                outstanding[entry] = None
                produce(Job(self, entry, topic, key, headers, timestamp))
            except KafkaException as error:
                refused.append((entry, self._error(entry, native_of(error))))
            except UnimqError as error:
                refused.append((entry, error))
            except (TypeError, ValueError) as error:
                invalid = InvalidMessage(f"message {message.id} cannot be encoded: {error}", message_id=message.id)
                invalid.__cause__ = error
                refused.append((entry, invalid))
        for entry, refusal in refused:
            outstanding.pop(entry, None)
            self._sink.failed((entry,), refusal)

    def _check_size(self, message: Message, key: bytes | None, headers: WireHeaders) -> None:
        size = record_size(message.body, key, headers)
        if size > self._limit:
            text = f"message {message.id} to {self._topic!r} is {size} bytes with headers and framing"
            raise MessageTooLarge(f"{text}; the topic takes {self._limit}", message_id=message.id)

    def flush(self) -> None:
        """See `unimq.adapter.Sender.flush`: what lingers goes out when its time is over, and none does by default."""

    def close(self, timeout: float) -> None:
        """See `unimq.adapter.Sender.close`."""
        self._is_closing = True
        if self.outstanding:
            self._producer.wake()
            self._drained.wait(timeout)
        self.fail_all(f"the producer to {self._topic!r} was closed before the answer came")
        self._producer.detach(self)

    # From the thread that serves the reports.

    def take_reports(self, stored: list[Outgoing], failed: list[tuple[Outgoing, KafkaError]]) -> None:
        """Report outcomes; those of entries that were reported before, as overdue, are dropped.

        An entry is taken out of `outstanding` when it has been reported: see `SharedProducer` about interruptions.
        """
        outstanding = self.outstanding
        stored = [entry for entry in stored if entry in outstanding]
        if stored:
            self._sink.stored(stored)
            for entry in stored:
                outstanding.pop(entry, None)
        for entry, error in failed:
            if entry.message.delay and is_missing(error):
                self._delayed.forget()
            if self._claim(entry):
                self._sink.failed((entry,), self._error(entry, error))
        if self._is_closing and not self.outstanding:
            self._drained.set()

    def fail_overdue(self, now: float) -> None:
        """Report what its deadline found without an outcome; the client may go on to try it (S2)."""
        for entry in list(self.outstanding):
            if entry.deadline <= now and self._claim(entry):
                trouble = self._producer.trouble
                hint = f" (the broker: {trouble})" if trouble else ""
                text = (
                    f"no confirmation of message {entry.message.id} to {self._topic!r} in time; it may be stored{hint}"
                )
                self._sink.failed((entry,), SendUnknown(text, message_id=entry.message.id))

    def fail_all(self, text: str) -> None:
        """Report everything outstanding as unknown."""
        entries = [entry for entry in list(self.outstanding) if self._claim(entry)]
        if entries:
            self._sink.failed(entries, SendUnknown(f"{text}; it may be stored"))

    def _claim(self, entry: Outgoing) -> bool:
        try:
            del self.outstanding[entry]
        except KeyError:
            return False
        return True

    def _refuse(self, entry: Outgoing, error: UnimqError | KafkaException) -> None:
        """Report a delayed message that was not sent at all."""
        if not self._claim(entry):
            return
        refusal: UnimqError
        if isinstance(error, KafkaException):
            refusal = self._error(entry, native_of(error))
        elif isinstance(error, AuthError | NotFound):
            refusal = error
        else:
            text = f"message {entry.message.id} to {self._topic!r} was not sent; no topic of delays: {error}"
            refusal = SendRejected(text, message_id=entry.message.id)
            refusal.__cause__ = error
        self._sink.failed((entry,), refusal)
        if self._is_closing and not self.outstanding:
            self._drained.set()

    def _error(self, entry: Outgoing, native: KafkaError) -> UnimqError:
        return send_error(native, self._topic, entry.message.id, self._producer.trouble)
