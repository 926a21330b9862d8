"""Sending to one topic through the shared producer."""

import threading
from collections.abc import Sequence

from confluent_kafka import KafkaError, KafkaException

from unimq import InvalidMessage, MessageTooLarge, SendUnknown, UnimqError
from unimq.adapter import OutcomeSink, Outgoing
from unimq_kafka._errors import native_of, send_error
from unimq_kafka._producer import Job, SharedProducer
from unimq_kafka._wire import encode_headers, encode_key, encode_timestamp, record_size


class KafkaSender:
    """The sender of one producer. Whoever takes an entry out of `outstanding` reports it, so that it is done once.

    `outstanding` is changed by operations that are atomic in CPython.
    """

    is_immediate = False

    def __init__(self, producer: SharedProducer, topic: str, limit: int, sink: OutcomeSink) -> None:
        self.outstanding: dict[Outgoing, None] = {}
        self._producer = producer
        self._topic = topic
        self._limit = limit
        self._sink = sink
        self._drained = threading.Event()
        self._is_closing = False
        producer.attach(self)

    def submit(self, entries: Sequence[Outgoing]) -> None:
        """See `unimq.adapter.Sender.submit`."""
        outstanding = self.outstanding
        refused: list[tuple[Outgoing, UnimqError]] = []
        for entry in entries:
            message = entry.message
            try:
                key = encode_key(message.key)
                headers = encode_headers(message)
                timestamp = encode_timestamp(message, headers)
                size = record_size(message.body, key, headers)
                if size > self._limit:
                    text = f"message {message.id} to {self._topic!r} is {size} bytes with headers and framing"
                    raise MessageTooLarge(f"{text}; the topic takes {self._limit}", message_id=message.id)
                outstanding[entry] = None
                self._producer.produce(Job(self, entry, self._topic, key, headers, timestamp))
            except KafkaException as error:
                refused.append((entry, self._error(entry, native_of(error))))
            except UnimqError as error:
                refused.append((entry, error))
            except (TypeError, ValueError) as error:
                invalid = InvalidMessage(f"message {message.id} cannot be encoded: {error}", message_id=message.id)
                invalid.__cause__ = error
                refused.append((entry, invalid))
        self._producer.wake()
        for entry, refusal in refused:
            outstanding.pop(entry, None)
            self._sink.failed((entry,), refusal)

    def flush(self) -> None:
        """See `unimq.adapter.Sender.flush`: what lingers goes out when its time is over, and none does by default."""

    def close(self, timeout: float) -> None:
        """See `unimq.adapter.Sender.close`."""
        self._is_closing = True
        if self.outstanding:
            self._drained.wait(timeout)
        self.fail_all(f"the producer to {self._topic!r} was closed before the answer came")
        self._producer.detach(self)

    # From the thread that serves the reports.

    def take_reports(self, stored: list[Outgoing], failed: list[tuple[Outgoing, KafkaError]]) -> None:
        """Report outcomes; those of entries that were reported before, as overdue, are dropped."""
        stored = [entry for entry in stored if self._claim(entry)]
        if stored:
            self._sink.stored(stored)
        for entry, error in failed:
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

    def _error(self, entry: Outgoing, native: KafkaError) -> UnimqError:
        return send_error(native, self._topic, entry.message.id, self._producer.trouble)
