"""The client library's producer, shared by the senders of a connection, and who serves its delivery reports.

Reports come to whoever polls the client, one call and one change of the interpreter's lock for each. A thread that did
nothing else would contend for that lock with the thread that sends. So senders poll themselves: now and then while they
hand messages over, and when they wait. Our own thread does it for those who do neither, and what must not be done in a
user's thread: it calls back, ends what is overdue, replaces a broken producer.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Protocol, TypeVar

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as Record

from unimq.adapter import Outgoing
from unimq_kafka._errors import describe, is_final, native_of
from unimq_kafka._handles import forget, keep
from unimq_kafka._options import Settings
from unimq_kafka._wire import ID

log = logging.getLogger("unimq.kafka")

T = TypeVar("T")

_POLL = 0.1
"""Seconds that the thread waits for reports at a time; deadlines are looked at as often."""
_SLICE = 0.02
"""Seconds that a waiting sender waits for reports at a time: what the thread reports meanwhile wakes nobody there."""
_PATIENCE = 0.5
"""Seconds that a waiting sender serves reports. What takes longer is left to the thread, which can do more about it."""
SERVE_EVERY = 500
"""Messages that are handed over between two looks for reports."""
_TICK = 0.005
"""Seconds that the thread leaves the reports of enqueued messages to those who enqueue more."""
_BRISK = 50
"""Messages enqueued in that time, from which on they look for the reports soon enough."""
_LINGER = 0.2
"""Seconds that the thread goes on to look by itself when nothing is left, so that nobody need wake it soon again."""
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


class Job(msgspec.Struct, eq=False, gc=False):
    """One message, encoded, on its way to the client. It is also the client's callback for it."""

    sender: ReportTaker
    entry: Outgoing
    topic: str
    key: bytes | None
    headers: Sequence[tuple[str, bytes | None]] | None
    """`None` if the id is the only one; then they are made when they are needed, as many messages may wait."""
    timestamp: int
    partition: int = -1
    """By default the one of the key."""
    report: Callable[["Job"], None] | None = None
    """Takes it when its report is there; set when it is handed over."""
    error: KafkaError | None = None
    """Of the report."""

    def __call__(self, error: KafkaError | None, record: Record) -> None:
        """Take the client's report, from within `poll`: short, and never raising."""
        if error is None:
            offset = record.offset()
            if offset is not None:
                self.entry.position = Position(record.partition() or 0, offset, self.topic)
        else:
            self.error = error
        if self.report is not None:
            self.report(self)


class SharedProducer:
    """One idempotent producer. `produce` may be called from any thread.

    Whoever holds `_baton` polls, and owns `_reports` and `_backlog`'s head; nobody waits for it but the thread. A
    producer whose idempotence broke down for good is replaced; what it had not confirmed is unknown.

    Serving in a user's thread may be interrupted by a signal's handler anywhere. So a report is forgotten only when its
    sender has been told, and telling twice changes nothing; the one whose callback was interrupted is found missing
    when the client has nothing left.
    """

    def __init__(self, settings: Settings) -> None:
        self.trouble = ""
        """What the client last said about the broker; empty since the last success."""
        self._settings = settings
        self._producer = self._open()
        self._senders: set[ReportTaker] = set()
        self._baton = threading.Lock()
        self._reports: deque[Job] = deque()
        self._take_report = self._reports.append
        self._for_thread: deque[Job] = deque()
        """Reports whose callbacks the thread is to call."""
        self._backlog: deque[Job] = deque()
        """What the client's queue had no room for; while there is any, all goes through it, to keep the order."""
        self._is_fatal = False
        self._refusal: KafkaError | None = None
        """Why it broke down, if that was for a right that is missing."""
        self._is_wanted = False
        """Somebody waits who does not poll: the thread is to poll without a pause."""
        self._has_followers = False
        """Somebody waits who would have polled, but found the baton taken."""
        self._is_contended = False
        """Somebody who enqueues found the baton taken by the thread."""
        self._fault: Exception | None = None
        """Of ours, in a user's thread."""
        self._interrupted: list[tuple[ReportTaker, Outgoing]] = []
        """What was outstanding when serving was interrupted."""
        self.unserved = 0
        """Enqueued since somebody who enqueues last polled; a hint, counted by the senders without a lock."""
        self._looks = 0
        """How often somebody who enqueues polled."""
        self.is_resting = False
        """The thread sleeps until it is woken."""
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
        job.report = self._take_report
        headers = job.headers
        if headers is None:
            headers = [(ID, job.entry.message.id.encode())]
        try:
            self._producer.produce(
                job.topic,
                job.entry.message.body,
                job.key,
                job.partition,
                on_delivery=job,
                timestamp=job.timestamp,
                headers=headers,  # type: ignore[arg-type] # the parameter wants a wider, invariant list
            )
        except BufferError:
            return False
        except KafkaException as refused:
            if self._broke_down(native_of(refused)):
                return False
            raise
        return True

    # Who serves the reports of what was handed over: any thread.

    def wake(self) -> None:
        """Have the thread serve them at once."""
        if not self._is_wanted:
            self._is_wanted = True
            self._wake.set()

    def look(self) -> None:
        """Serve them if there are many, as somebody who enqueues, and have the thread serve the last ones."""
        if self.unserved >= SERVE_EVERY:
            self.unserved = 0
            if self._baton.acquire(blocking=False):
                try:
                    self._serve_here(0.0)
                finally:
                    self._release()
                self._looks += 1
            else:
                self._is_contended = True
        if self.is_resting:
            self._wake.set()

    def serve(self, attempt: Callable[[], T | None], deadline: float) -> T | None:
        """See `unimq.adapter.ServedSender.serve`."""
        if not self._baton.acquire(blocking=False):
            self._has_followers = True
            # Again, as the one who had it may have looked for followers before that.
            if not self._baton.acquire(blocking=False):
                return None
        found = None
        try:
            until = min(deadline, time.monotonic() + _PATIENCE)
            while (found := attempt()) is None and not (self._for_thread or self._needs_thread()):
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._serve_here(min(left, _SLICE))
                self._looks += 1
        finally:
            self._release()
            if found is None:
                self.wake()
            elif self.is_resting and self._is_busy():
                self._wake.set()
        return found

    def _release(self) -> None:
        self._baton.release()
        if self._has_followers or self._needs_thread():
            self.wake()
        elif self._for_thread:
            self._wake.set()

    def _needs_thread(self) -> bool:
        return bool(self._backlog or self._is_fatal or self._fault or self._stopping)

    def _serve_here(self, patience: float) -> None:
        """Poll in a user's thread; with the baton."""
        try:
            self._poll(patience)
            self._settle(in_thread=False)
        except Exception as fault:  # noqa: BLE001 - the thread raises it
            self._fault = fault
        except BaseException:
            # A signal's handler raised, perhaps in the callback of a report, which is lost then.
            self._interrupted = [
                (sender, entry) for sender in list(self._senders) for entry in list(sender.outstanding)
            ]
            raise

    def close(self, deadline: float) -> None:
        """Flush until `deadline`, purge the rest, and release the client with its threads (L1, L4)."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        with self._baton:
            # A client that broke down raises that once more, such as that of a user who may not write anywhere.
            with suppress(KafkaException):
                self._producer.flush(max(0.0, deadline - time.monotonic()))
            _discard(self._producer)
            self._settle(in_thread=True)

    def _on_error(self, error: KafkaError) -> None:
        """Take the client's word about the broker, from within `poll`: short, and never raising."""
        self.trouble = describe(error)
        log.debug("producer: %s", self.trouble)
        self._broke_down(error)

    def _broke_down(self, error: KafkaError) -> bool:
        if error.fatal() or error.code() == KafkaError._FATAL:
            self._is_fatal = True
            if is_final(error):
                self._refusal = error
            self.wake()
            return True
        return False

    def _poll(self, patience: float) -> int:
        """Serve what the client has to say; that it broke down, it raises as well."""
        try:
            return self._producer.poll(patience)
        except KafkaException as broken:
            if not self._broke_down(native_of(broken)):
                raise
            return 0

    # The thread.

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._watch()
            except Exception as fault:
                # Tell everybody who waits, and go on for the next ones.
                log.exception("serving delivery reports failed")
                self._wake.wait(_POLL)
                with self._baton:
                    self._reports.clear()
                self._for_thread.clear()
                for sender in list(self._senders):
                    sender.fail_all(f"serving delivery reports failed: {fault!r}")

    def _watch(self) -> None:
        """Serve when somebody waits, or when those who enqueue do not do it."""
        idle_since = 0.0
        while not self._stopping:
            self._wake.clear()
            if self._fault is not None:
                fault, self._fault = self._fault, None
                raise fault
            self._tell_handed()
            looks, unserved = self._looks, self.unserved
            if self._is_asked():
                self._serve()
                idle_since = 0.0
            elif self._is_busy():
                self._expire()
                is_left = not self._wake.wait(_TICK) and looks == self._looks
                if is_left and self.unserved - unserved < _BRISK:
                    self._is_wanted = True
            elif not idle_since or time.monotonic() - idle_since < _LINGER:
                idle_since = idle_since or time.monotonic()
                self._wake.wait(_TICK * 5)
            else:
                self.is_resting = True
                # Looked at again after the flag: who hands over now either is seen here or sets the event.
                if not (self._is_busy() or self._is_asked() or self._for_thread):
                    self._wake.wait()
                self.is_resting = False
                idle_since = 0.0

    def _is_asked(self) -> bool:
        return self._is_wanted or self._needs_thread()

    def _serve(self) -> None:
        """Poll until nothing is left, or until those who enqueue want to do it themselves."""
        if not self._baton.acquire(timeout=_TICK):
            return
        try:
            while not self._stopping:
                served = self._poll(_POLL)
                self._settle(in_thread=True)
                self._tell_handed()
                if self._is_fatal:
                    self._replace()
                if self._backlog:
                    self._retry_backlog()
                self._expire()
                self._find_lost_reports()
                if self._is_contended and not self._has_followers:
                    self._is_contended = self._is_wanted = False
                    return
                # It wakes at the first report. One empty poll more than needed spares a sender who waits without
                # polling, and sends again soon, the time to wake this thread.
                if not self._is_busy() and (not served or self._has_followers):
                    self._is_wanted = self._has_followers = False
                    if self._is_busy():
                        self._is_wanted = True
                    return
        finally:
            self._baton.release()

    def _is_busy(self) -> bool:
        return bool(self._is_fatal or self._backlog or len(self._producer)) or any(
            sender.outstanding for sender in list(self._senders)
        )

    def _settle(self, *, in_thread: bool) -> None:
        """Take the reports that were served to their senders; with the baton."""
        reports = self._reports
        count = len(reports)
        if not count:
            return
        tellable: list[Job] = []
        for job in islice(reports, count):
            if (job.error is None and job.entry.position is None) or (
                job.error is not None and job.error.code() == KafkaError._DESTROY and not self._stopping
            ):
                # The broker took it for a duplicate, which the client reports as success. It need not be one: when the
                # leader of a partition is new (one topic in eight, just after its creation), it may refuse the first
                # batch and store the second, after which it takes the repeated first one for old. Or the client gave
                # up what was under way to a broker that left the cluster, or to a topic that was just deleted. Hence
                # once more.
                if job.entry in job.sender.outstanding:
                    log.debug("message %s to %r is sent again: %s", job.entry.message.id, job.topic, job.error)
                    job.error = None
                    self._backlog.append(job)
            elif in_thread or job.entry.on_outcome is None:
                tellable.append(job)
            else:
                self._for_thread.append(job)
        self._tell(tellable)
        for _ in range(count):
            reports.popleft()

    def _tell_handed(self) -> None:
        handed = self._for_thread
        count = len(handed)
        if count:
            self._tell(list(islice(handed, count)))
            for _ in range(count):
                handed.popleft()

    def _tell(self, jobs: Sequence[Job]) -> None:
        outcomes: dict[ReportTaker, tuple[list[Outgoing], list[tuple[Outgoing, KafkaError]]]] = {}
        sender: ReportTaker | None = None
        stored: list[Outgoing] = []
        failed: list[tuple[Outgoing, KafkaError]] = []
        for job in jobs:
            if job.sender is not sender:
                sender = job.sender
                stored, failed = outcomes.setdefault(sender, ([], []))
            if job.error is None:
                stored.append(job.entry)
            else:
                failed.append((job.entry, job.error))
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

    def _find_lost_reports(self) -> None:
        """Report as unknown what the client has no more and nobody was told of, after an interruption."""
        if self._interrupted and not (len(self._producer) or self._backlog or self._reports or self._for_thread):
            interrupted, self._interrupted = self._interrupted, []
            lost = KafkaError(KafkaError._FAIL, "serving its report was interrupted")
            for sender, entry in interrupted:
                if entry in sender.outstanding:
                    sender.take_reports([], [(entry, lost)])

    def _retry_backlog(self) -> None:
        backlog = self._backlog
        while backlog:
            job = backlog[0]
            if job.entry in job.sender.outstanding:
                try:
                    if not self._hand_over(job):
                        return
                except KafkaException as refused:
                    job.error = native_of(refused)
                    self._reports.append(job)
            # Only now, as senders look whether it is empty.
            backlog.popleft()

    def _replace(self) -> None:
        """Open a new producer for what comes, and end the broken one, whose messages are reported as purged."""
        broken, self._producer = self._producer, self._open()
        self._is_fatal = False
        refusal, self._refusal = self._refusal, None
        log.error("the idempotent producer broke down and was replaced: %s", self.trouble)
        _discard(broken)
        if refusal is not None:
            # Nothing of it was stored, and the next producer would be refused as well (E2).
            for job in self._reports:
                job.error = refusal if job.error is not None else None
            while self._backlog:
                job = self._backlog.popleft()
                job.error = refusal
                self._reports.append(job)
        self._settle(in_thread=True)


def _discard(producer: Producer) -> None:
    """Have everything that is left reported as purged, and free the client."""
    if len(producer):
        producer.purge()
        patience = time.monotonic() + _PURGE_PATIENCE
        while len(producer) and time.monotonic() < patience:
            with suppress(KafkaException):
                producer.poll(_POLL)
    with suppress(KafkaException):
        producer.close()
    forget(producer)
