"""Topics of delays: made for senders at the first delayed message, and served for receivers as soon as they exist.

Both need requests that may take a while, and a receiver hears of a topic that another connection made by asking. So one
thread of the connection does it, started when it is needed first.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from unimq import ConnectionLost, NotFound, UnimqError
from unimq_kafka._administration import Administration
from unimq_kafka._delayed_sends import OnFailure, OnPartitions
from unimq_kafka._forwarder import Forwarder
from unimq_kafka._tiers import LONGEST, TIERS, delay_topic

log = logging.getLogger("unimq.kafka")

_LOOK_INTERVAL = 1.0
"""Seconds between looks for topics of delays that others may have made; one request for all that are missing."""
_STEP = 2.0
"""Seconds of one request; the thread can end after it."""
_RETRY = 0.25
_REST = 30.0
"""Seconds until a forwarder that failed is replaced: for want of a right, it would fail again."""
_TRIM_INTERVAL = 60.0
"""Seconds between deletions of what is done: it would stay for the 30 days of the longest delay."""


class _Wanted(msgspec.Struct, eq=False):
    topic: str
    deadline: float
    found: OnPartitions
    failed: OnFailure


class OpenForwarder(Protocol):
    """How a forwarder for a topic is opened, whose topic of delays has so many partitions."""

    def __call__(self, topic: str, partitions: int) -> Forwarder: ...


class Share:
    """The part of one receiver in the forwarding for its topic."""

    def __init__(self, leave: Callable[[], Forwarder | None]) -> None:
        self._leave: Callable[[], Forwarder | None] | None = leave
        self._ending: Forwarder | None = None
        self._lock = threading.Lock()

    def end(self, close_by: float) -> None:
        """Have the forwarder end if this was its last receiver. Idempotent, does not block."""
        with self._lock:
            if self._leave is not None:
                self._ending = self._leave()
                self._leave = None
        if self._ending is not None:
            self._ending.begin_close(close_by)

    def wait(self, timeout: float) -> None:
        """Wait until it has ended."""
        if self._ending is not None:
            self._ending.join(timeout)


class Delays:
    """What a connection does about topics of delays. `_lock` guards everything that is not the thread's alone."""

    def __init__(self, administration: Administration, open_forwarder: OpenForwarder) -> None:
        self._admin = administration
        self._open_forwarder = open_forwarder
        self._lock = threading.Lock()
        self._wakeup = threading.Event()
        self._is_closing = False
        self._thread: threading.Thread | None = None
        self._wanted: list[_Wanted] = []
        self._receivers: Counter[str] = Counter()
        """Receivers by topic."""
        self._forwarders: dict[str, Forwarder] = {}
        self._rests: dict[str, float] = {}  # the thread's
        """Until when no forwarder is opened for a topic."""
        self._trimmed: dict[str, tuple[str, dict[int, int]]] = {}  # the thread's
        """What was deleted: as `Forwarder.finished` says it."""
        self._trim_at = time.monotonic() + _TRIM_INTERVAL

    # Senders.

    def provide(self, topic: str, deadline: float, found: OnPartitions, failed: OnFailure) -> None:
        """See `_delayed_sends.Provider`."""
        with self._lock:
            self._wanted.append(_Wanted(topic, deadline, found, failed))
            self._start()

    # Receivers.

    def join(self, topic: str) -> Share:
        """Have the delayed messages of a topic forwarded from now on, until the share has ended."""
        with self._lock:
            self._receivers[topic] += 1
            self._start()
        return Share(lambda: self._leave(topic))

    def _leave(self, topic: str) -> Forwarder | None:
        with self._lock:
            self._receivers[topic] -= 1
            if self._receivers[topic]:
                return None
            del self._receivers[topic]
            return self._forwarders.pop(topic, None)

    def forget_waiting(self, topic: str, ends: Mapping[int, int]) -> None:
        """Forget what waits in this process below these offsets of the topic of delays, as it was purged."""
        with self._lock:
            forwarder = self._forwarders.get(topic)
        if forwarder is not None:
            forwarder.forget_waiting(ends)

    def end(self, topic: str, timeout: float) -> None:
        """End the forwarding because the topic is being deleted."""
        with self._lock:
            forwarder = self._forwarders.get(topic)
        if forwarder is not None:
            forwarder.end(NotFound(f"{topic!r} was deleted"), timeout)

    def close(self, deadline: float) -> None:
        """End the thread, and what is left of forwarders, until `deadline` of the monotonic clock (L4)."""
        with self._lock:
            self._is_closing = True
            forwarders = list(self._forwarders.values())
            thread = self._thread
        self._wakeup.set()
        for forwarder in forwarders:
            forwarder.begin_close(deadline)
        for forwarder in forwarders:
            forwarder.join(max(0.0, deadline - time.monotonic()))
        if thread is not None:
            # It ends after the request under way, whose limit may be a little later.
            thread.join(max(_STEP, deadline - time.monotonic()))

    def _start(self) -> None:
        """Have the thread look; called under the lock."""
        self._wakeup.set()
        if self._thread is None and not self._is_closing:
            self._thread = threading.Thread(target=self._run, name="unimq-kafka-delays", daemon=True)
            self._thread.start()

    # The thread.

    def _run(self) -> None:
        while True:
            self._wakeup.clear()
            # Looked at after that, as the word of it is a wake-up.
            if self._is_closing:
                break
            try:
                pause = self._work()
            except Exception:
                # Nobody else does this: go on, for the next ones.
                log.exception("serving topics of delays failed")
                pause = _LOOK_INTERVAL
            self._wakeup.wait(pause)
        for request in self._wanted:
            self._provide(request)

    def _work(self) -> float | None:
        """Do what is to be done; return the seconds until there may be more, `None` if that comes with a wake-up."""
        with self._lock:
            wanted, self._wanted = self._wanted, []
        for request in wanted:
            self._provide(request)
        self._serve()
        if time.monotonic() >= self._trim_at:
            self._trim_at = time.monotonic() + _TRIM_INTERVAL
            self._trim()
        if self._wanted:
            return _RETRY
        return _LOOK_INTERVAL if self._receivers else None

    def _provide(self, request: _Wanted) -> None:
        if self._is_closing:
            request.failed(ConnectionLost("the connection is being closed"))
            return
        try:
            partitions = self._make(request.topic)
        except ConnectionLost as error:
            if time.monotonic() >= request.deadline:
                request.failed(error)
                return
            with self._lock:
                self._wanted.append(request)
        except UnimqError as error:
            request.failed(error)
        else:
            request.found(partitions)

    def _make(self, topic: str) -> int:
        name = delay_topic(topic)
        found = self._admin.find_partitions(name, _STEP)
        if found is None:
            settings = self._admin.topic_settings(topic, _STEP)
            # What waits is as safe as what does not, and the time of waiting is not counted as the age of a message.
            kept = {key: settings[key] for key in ("max.message.bytes", "min.insync.replicas") if key in settings}
            retention = int(settings.get("retention.ms", -1))
            kept["retention.ms"] = str(retention if retention < 0 else retention + int(LONGEST * 1000))
            # One clock, that of the broker, says since when a message waits in its tier.
            kept |= {"message.timestamp.type": "LogAppendTime", "cleanup.policy": "delete"}
            self._admin.create_topic(name, TIERS, self._admin.copies(topic, _STEP), kept, _STEP)
            found = self._admin.find_partitions(name, _STEP)
            if found is None:
                raise ConnectionLost(f"topic {name!r} is not known yet to everybody on {self._admin.where}")
        # An answer shows that the leaders know that they lead; see `KafkaDriver.open_sender`.
        self._admin.offsets(name, end=True, timeout=_STEP)
        return len(found)

    def _serve(self) -> None:
        """Open the forwarders that are missing, as far as their topics exist."""
        now = time.monotonic()
        with self._lock:
            # One that ended by itself, as its topic was deleted, is opened again if that is made again.
            for topic in [topic for topic, forwarder in self._forwarders.items() if forwarder.is_over]:
                failure = self._forwarders.pop(topic).failure
                if failure is not None:
                    log.warning("%s; tried again in %g s", failure, _REST)
                    self._rests[topic] = now + _REST
            self._rests = {topic: until for topic, until in self._rests.items() if until > now}
            unserved = self._receivers.keys() - self._forwarders.keys() - self._rests.keys()
            missing = {delay_topic(topic): topic for topic in unserved}
        if not missing:
            return
        try:
            existing = self._admin.existing(list(missing), _STEP)
            for name, partitions in existing.items():
                self._open(missing[name], partitions)
        except UnimqError as error:
            log.debug("looking for topics of delays: %s", error)

    def _trim(self) -> None:
        """Delete what is done. Whoever may not do that keeps it until the retention ends."""
        with self._lock:
            forwarders = dict(self._forwarders)
        self._trimmed = {topic: done for topic, done in self._trimmed.items() if topic in forwarders}
        for topic, forwarder in forwarders.items():
            topic_id, done = forwarder.finished()
            before_id, before = self._trimmed.get(topic, ("", {}))
            more = {p: end for p, end in done.items() if topic_id != before_id or end > before.get(p, 0)}
            name = delay_topic(topic)
            # Offsets of one that was deleted mean other messages in one of the same name.
            if more and topic_id and self._admin.topic_id(name, _STEP) == topic_id:
                self._trimmed[topic] = topic_id, done
                try:
                    self._admin.delete_records(name, more, _STEP)
                except UnimqError as error:
                    log.debug("deleting what is done in %r: %s", name, error)

    def _open(self, topic: str, partitions: int) -> None:
        forwarder = self._open_forwarder(topic, partitions)
        with self._lock:
            if topic in self._receivers and not self._is_closing:
                self._forwarders[topic] = forwarder
                return
        forwarder.begin_close(time.monotonic() + _STEP)
        forwarder.join(_STEP)
