"""The client library's producer, shared by the senders of a connection, and the thread that serves its reports."""

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as Record

from unimq.adapter import Outgoing
from unimq_kafka._errors import describe, native_of
from unimq_kafka._handles import forget, keep
from unimq_kafka._options import Settings

log = logging.getLogger("unimq.kafka")

_POLL = 0.1
"""Seconds that the thread waits for reports at a time; deadlines are looked at as often."""
_PURGE_PATIENCE = 5.0
"""Seconds within which everything purged has long been reported."""


class Position(msgspec.Struct, frozen=True):
    """Where a message is stored: the position in its `Receipt`. A delayed one is in the topic of delays at first."""

    partition: int
    offset: int
    topic: str = ""


class ReportTaker(Protocol):
    """What the producer needs of a sender."""

    @property
    def outstanding(self) -> Mapping[Outgoing, object]:
        """What the sender still waits for."""
        ...

    def take_reports(self, stored: list[Outgoing], failed: list[tuple[Outgoing, KafkaError]]) -> None: ...
    def fail_all(self, text: str) -> None: ...
    def fail_overdue(self, now: float) -> None: ...


class Job(msgspec.Struct, eq=False):
    """One message, encoded, on its way to the client."""

    sender: ReportTaker
    entry: Outgoing
    topic: str
    key: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    timestamp: int
    partition: int = -1
    """By default the one of the key."""


class SharedProducer:
    """One idempotent producer. `produce` may be called from any thread; reports are served by one thread of ours.

    A producer whose idempotence broke down for good is replaced by a new one; what it had not confirmed is unknown.
    """

    def __init__(self, settings: Settings) -> None:
        self.trouble = ""
        """What the client last said about the broker; empty since the last success."""
        self._settings = settings
        self._producer = self._open()
        self._senders: set[ReportTaker] = set()
        self._reports: deque[tuple[Job, KafkaError | None]] = deque()
        self._backlog: deque[Job] = deque()
        """What the client's queue had no room for; while there is any, all goes through it, to keep the order."""
        self._is_fatal = False
        self._is_polling = False
        self._stopping = False
        self._next_expiry = 0.0
        self._wake = threading.Event()
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def native(self) -> Producer:
        """The client library's producer."""
        return self._producer

    def _open(self) -> Producer:
        producer = Producer({**self._settings, "error_cb": self._on_error})
        keep(producer)
        return producer

    def attach(self, sender: ReportTaker) -> None:
        """Take reports to this sender."""
        with self._start_lock:
            self._senders.add(sender)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="unimq-kafka-reports", daemon=True)
                self._thread.start()

    def detach(self, sender: ReportTaker) -> None:
        """Forget a sender; reports that come later are dropped."""
        with self._start_lock:
            self._senders.discard(sender)

    def produce(self, job: "Job") -> None:
        """Hand one message over; its report comes to the sender.

        Raises:
            KafkaException: the client refused it; no report comes.

        """
        if self._backlog or not self._hand_over(job):
            self._backlog.append(job)

    def _hand_over(self, job: "Job") -> bool:
        """Give a message to the client; false if it takes none now."""
        try:
            self._producer.produce(
                job.topic,
                job.entry.message.body,
                job.key,
                job.partition,
                on_delivery=partial(self._on_report, job),
                timestamp=job.timestamp,
                headers=job.headers,  # type: ignore[arg-type] # the parameter wants a wider, invariant list
            )
        except BufferError:
            return False
        except KafkaException as refused:
            if self._broke_down(native_of(refused)):
                return False
            raise
        return True

    def wake(self) -> None:
        """Have the reports of what was handed over served."""
        if not self._is_polling:
            self._wake.set()

    def close(self, deadline: float) -> None:
        """Flush until `deadline`, purge the rest, and release the client with its threads (L1, L4)."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self._producer.flush(max(0.0, deadline - time.monotonic()))
        _discard(self._producer)
        self._settle()

    # Called by the client from within `poll`: short, and never raising.

    def _on_report(self, job: Job, error: KafkaError | None, record: Record) -> None:
        if error is None:
            offset = record.offset()
            job.entry.position = None if offset is None else Position(record.partition() or 0, offset, job.topic)
        self._reports.append((job, error))

    def _on_error(self, error: KafkaError) -> None:
        self.trouble = describe(error)
        log.debug("producer: %s", self.trouble)
        self._broke_down(error)

    def _broke_down(self, error: KafkaError) -> bool:
        if error.fatal() or error.code() == KafkaError._FATAL:
            self._is_fatal = True
            self._wake.set()
            return True
        return False

    # The thread.

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._serve()
            except Exception as fault:
                # Nobody else serves the reports: tell everybody who waits, and go on for the next ones.
                log.exception("serving delivery reports failed")
                for sender in list(self._senders):
                    sender.fail_all(f"serving delivery reports failed: {fault!r}")

    def _serve(self) -> None:
        self._is_polling = True
        while not self._stopping:
            # It wakes at the first report. One empty poll more than needed spares a waiting sender, who sends again
            # soon, the time to wake this thread.
            served = self._producer.poll(_POLL)
            self._settle()
            if self._is_fatal:
                self._replace()
            if self._backlog:
                self._retry_backlog()
            self._expire()
            if not served and not self._is_busy():
                self._is_polling = False
                # Looked at again after the flag: who hands over now either is seen here or sets the event.
                if not self._is_busy():
                    self._wake.wait()
                    self._wake.clear()
                self._is_polling = True

    def _is_busy(self) -> bool:
        return bool(self._is_fatal or self._backlog or len(self._producer)) or any(
            sender.outstanding for sender in list(self._senders)
        )

    def _settle(self) -> None:
        """Take the reports that were served to their senders."""
        outcomes: dict[ReportTaker, tuple[list[Outgoing], list[tuple[Outgoing, KafkaError]]]] = {}
        take = self._reports.popleft
        for _ in range(len(self._reports)):
            job, error = take()
            outcome = outcomes.get(job.sender)
            if outcome is None:
                outcome = outcomes[job.sender] = ([], [])
            if error is not None:
                outcome[1].append((job.entry, error))
            elif job.entry.position is not None:
                outcome[0].append(job.entry)
            elif job.entry in job.sender.outstanding:
                # The broker took it for a duplicate, which the client reports as success. It need not be one: when the
                # leader of a partition is new (one topic in eight, just after its creation), it may refuse the first
                # batch and store the second, after which it takes the repeated first one for old. Hence once more.
                log.debug("message %s to %r reported as a duplicate: sent again", job.entry.message.id, job.topic)
                self._backlog.append(job)
        for sender, (stored, failed) in outcomes.items():
            if stored:
                self.trouble = ""
            sender.take_reports(stored, failed)

    def _expire(self) -> None:
        now = time.monotonic()
        if now < self._next_expiry:
            return
        self._next_expiry = now + _POLL
        for sender in list(self._senders):
            sender.fail_overdue(now)

    def _retry_backlog(self) -> None:
        backlog = self._backlog
        while backlog:
            job = backlog[0]
            if job.entry in job.sender.outstanding:
                try:
                    if not self._hand_over(job):
                        return
                except KafkaException as refused:
                    self._reports.append((job, native_of(refused)))
            # Only now, as senders look whether it is empty.
            backlog.popleft()

    def _replace(self) -> None:
        """Open a new producer for what comes, and end the broken one, whose messages are reported as purged."""
        broken, self._producer = self._producer, self._open()
        self._is_fatal = False
        log.error("the idempotent producer broke down and was replaced: %s", self.trouble)
        _discard(broken)
        self._settle()


def _discard(producer: Producer) -> None:
    """Have everything that is left reported as purged, and free the client."""
    if len(producer):
        producer.purge()
        patience = time.monotonic() + _PURGE_PATIENCE
        while len(producer) and time.monotonic() < patience:
            producer.poll(_POLL)
    producer.close()
    forget(producer)
