"""Moving the messages of one topic of delays on when their time has come: a thread of each connection that consumes.

The forwarders of a topic of delays are a group, so that each tier has one owner. A message is finished in its tier when
the broker has confirmed it at the next place, which is its destination, or a lower tier if there is no room here to
keep it for the rest of its delay. So none is lost; one that was moved and not yet committed when its forwarder died, or
lost the partition, is moved again, with the same id.
"""

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import cast

import msgspec
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import Message as Record

from unimq import ConnectionLost, NotFound, UnimqError
from unimq.adapter import Mailbox, Message, Outgoing
from unimq_kafka._errors import describe, is_final, native_of, request_error
from unimq_kafka._member import AskOwned, Member
from unimq_kafka._options import Settings
from unimq_kafka._producer import Job, SharedProducer
from unimq_kafka._progress import SPAN_LIMIT, PartitionProgress
from unimq_kafka._tiers import SHORTEST, delay_topic, tier_for, waiting_time
from unimq_kafka._wire import due_time, end_of_delay

log = logging.getLogger("unimq.kafka")

_SLICE = 0.1
"""Seconds of one poll while nothing falls due: so long a command waits at most."""
_GLANCE = 0.05
"""Seconds to wait for confirmations when there is no room for more to be under way, before the client is polled."""
_LARGEST_FETCH = 500
"""Messages that are read at once."""
_MOST_IN_LINE = 2_000
_MOST_BYTES_IN_LINE = 1_000_000
"""Of one tier, read and waiting for their time in it, beyond which it is not fetched (L5)."""
_MOST_PARKED = 10_000
_MOST_PARKED_BYTES = 16_000_000
"""Of all tiers, kept here for the rest of their delay; beyond it they go to a lower tier (L5)."""
_MOST_UNDER_WAY = 5_000
_MOST_BYTES_UNDER_WAY = 16_000_000
"""Being moved at a time (L5)."""
_MOST_REFUSED = 5_000
"""Messages that wait to be moved again, beyond which no others are tried (L5)."""
_SHORTEST_RETRY, _LONGEST_RETRY = 0.5, 30.0
"""Seconds after which a refused message is moved again, doubled each time."""
_COMPLAINT_INTERVAL = 10.0
"""Seconds between lines of the log about messages that were refused."""
_DRAIN = 1.0
"""Seconds for what is being moved to be confirmed before its tier is given up, so that it is not moved twice."""


class Waiting(msgspec.Struct, eq=False):
    """One message of a topic of delays. Times are Unix times in seconds."""

    progress: PartitionProgress["Waiting"]
    offset: int
    record: Record
    headers: Sequence[tuple[str, bytes | None]]
    due: float
    leaves: float
    """When its time in this tier is over."""
    size: int
    is_parked: bool = False
    refusals: int = 0


class _Tier:
    """What was read of one partition and waits there for its time in it to be over, in the order of the partition."""

    __slots__ = ("line", "progress", "size", "waiting_time")

    def __init__(self, progress: PartitionProgress[Waiting]) -> None:
        self.progress = progress
        self.waiting_time = waiting_time(progress.partition)
        self.line: deque[Waiting] = deque()
        self.size = 0

    def is_full(self, *, was_stopped: bool) -> bool:
        """Tell whether to fetch no more; one that is stopped is so until half of it is free, as stopping costs."""
        share = 2 if was_stopped else 1
        return (
            len(self.line) * share >= _MOST_IN_LINE
            or self.size * share >= _MOST_BYTES_IN_LINE
            or self.progress.span >= SPAN_LIMIT
        )


class Forwarder:
    """The forwarder of one connection for one topic. Everything without a remark belongs to its thread."""

    def __init__(
        self,
        settings: Settings,
        topic: str,
        producer: SharedProducer,
        *,
        partitions: int,
        find_topic_id: Callable[[], str],
        is_topic_missing: Callable[[], bool],
        ask_owned: AskOwned | None = None,
    ) -> None:
        self._topic = topic
        self._delay_topic = delay_topic(topic)
        self._producer = producer
        self._partitions = partitions
        self._wakeup = threading.Event()
        self._mail: Mailbox[Callable[[], None]] = Mailbox(self._wakeup.set)
        self._is_closing = False  # any thread
        self._close_by = 0.0  # set before `_is_closing`
        self.failure: UnimqError | None = None  # set by the thread before `is_over`
        """Why it ended by itself, if that was not because its topic was deleted."""
        self.is_over = False  # set by the thread as its last act
        self.outstanding: dict[Outgoing, Waiting] = {}  # changed by the thread alone
        """What is being moved; see `_producer.ReportTaker`."""
        self._bytes_under_way = 0
        self._tiers: dict[PartitionProgress[Waiting], _Tier] = {}
        self._parked: list[tuple[float, int, Waiting]] = []
        """A heap of what is kept here until it is due, or to be tried again; not `is_parked` means void."""
        self._parked_count = 0
        self._parked_bytes = 0
        self._refused_count = 0
        """Of the parked ones, those that are to be tried again."""
        self._complain_at = 0.0
        self._finished: tuple[str, dict[int, int]] = "", {}  # replaced by the thread as a whole
        self._numbers = itertools.count()
        self._member: Member[Waiting] = Member(
            settings,
            self._delay_topic,
            self,
            find_topic_id=find_topic_id,
            is_topic_missing=is_topic_missing,
            ask_owned=ask_owned,
        )
        producer.attach(self)
        self._thread = threading.Thread(target=self._run, name=f"unimq-kafka-delays-{topic}", daemon=True)
        self._thread.start()

    # Any thread.

    def begin_close(self, close_by: float) -> None:
        """Have it end, until `close_by` of the monotonic clock at the latest; what is being moved is waited for."""
        if not self._is_closing:
            self._close_by = close_by
            self._is_closing = True
            self._wakeup.set()

    def join(self, timeout: float) -> None:
        """Wait until it has ended."""
        self._thread.join(timeout)
        if self._thread.is_alive():
            log.warning("the forwarder of %r did not leave its group within %g s", self._delay_topic, timeout)

    def end(self, error: UnimqError, timeout: float) -> None:
        """End because the topic is being deleted; nothing is committed."""
        self._mail.post(lambda: setattr(self._member, "end", error))
        self._thread.join(timeout)

    def finished(self) -> tuple[str, dict[int, int]]:
        """Return the id of the topic of delays, and below which offset of each tier all is done for certain."""
        return self._finished

    def forget_waiting(self, ends: Mapping[int, int]) -> None:
        """Forget what waits here of what is below these offsets of the topic of delays, as it was purged."""
        self._mail.post(lambda: self._forget_waiting(ends))

    # `_producer.ReportTaker`, from the thread that serves the reports.

    def take_reports(self, stored: list[Outgoing], failed: list[tuple[Outgoing, KafkaError]]) -> None:
        """See `_producer.ReportTaker`."""
        self._mail.post(lambda: self._take_reports(stored, failed))

    def fail_all(self, text: str) -> None:
        """Move everything again whose report may be missing."""
        fault = KafkaError(KafkaError._FAIL, text)
        self._mail.post(lambda: self._take_reports([], [(entry, fault) for entry in list(self.outstanding)]))

    def fail_overdue(self, now: float) -> None:
        """Nothing is overdue here: the client gives every message up by itself, after `message_timeout`."""

    # The thread.

    def _run(self) -> None:
        try:
            self._member.join()
            while not self._is_closing and self._member.end is None:
                self._read_mail()
                self._step()
            if self._member.end is None:
                self._wait_for_confirmations(self._tiers.keys(), self._close_by)
                self._member.leave(self._close_by)
        except Exception as fault:
            log.exception("the forwarder of %r ended", self._delay_topic)
            self._member.end = ConnectionLost(
                f"the forwarder of {self._topic!r} ended by an unexpected error: {fault!r}"
            )
        finally:
            if not isinstance(self._member.end, NotFound):
                self.failure = self._member.end
            self._member.drop(list(self._member.partitions.values()))
            self._producer.detach(self)
            self._member.close()
            self.is_over = True

    def _step(self) -> None:
        now = time.time()
        for tier in self._tiers.values():
            self._end_time_in_tier(tier, now)
        # Also when there are so many refused ones that nothing else is tried: they would wait for themselves.
        while self._parked and self._parked[0][0] <= now and self._has_room_under_way():
            waiting = heapq.heappop(self._parked)[2]
            if waiting.is_parked:
                self._unpark(waiting)
                self._decide(waiting, now)
        self._producer.wake()
        self._member.commit_if_due()
        self._member.look_if_in_doubt()
        self._apply_stops()
        if self._may_move():
            self._member.poll(_LARGEST_FETCH, self._until_next(), self._take_record)
        else:
            self._wakeup.wait(_GLANCE)
            self._wakeup.clear()
            self._member.poll(1, 0, self._take_record)

    def _read_mail(self) -> None:
        for command in self._mail.drain():
            command()

    def _has_room_under_way(self) -> bool:
        return len(self.outstanding) < _MOST_UNDER_WAY and self._bytes_under_way < _MOST_BYTES_UNDER_WAY

    def _may_move(self) -> bool:
        return self._has_room_under_way() and self._refused_count < _MOST_REFUSED

    def _until_next(self) -> float:
        """Return the seconds until something may have to be done, unless something comes before."""
        if self._is_closing:
            return 0.0
        now = time.time()
        heads = [tier.line[0] for tier in self._tiers.values() if tier.line]
        # A head whose time in its tier is over, and that is still there, waits for its whole delay.
        times = [head.leaves if head.leaves > now else head.due for head in heads]
        if self._parked:
            times.append(self._parked[0][0])
        return min(_SLICE, max(0.0, min(times) - now)) if times else _SLICE

    def _take_record(self, record: Record) -> None:
        partition, offset = record.partition(), record.offset()
        if partition is None or offset is None:
            return
        progress = self._member.progress_at(partition, offset)
        if progress is None or not progress.receive(offset):
            return
        tier = self._tiers.get(progress)
        if tier is None:
            tier = self._tiers[progress] = _Tier(progress)
        # On receipt they are a list, whose values are bytes.
        headers = cast("list[tuple[str, bytes | None]]", record.headers() or [])
        due = due_time(headers)
        size = len(record.value() or b"") + len(record.key() or b"")
        size += sum([len(name) + len(value or b"") for name, value in headers])
        # The time of the broker, which appended it here, as the topic is made so; clocks of senders would differ.
        leaves = min(due, record.timestamp()[1] / 1000 + tier.waiting_time)
        tier.line.append(Waiting(progress, offset, record, headers, due, leaves, size))
        tier.size += size

    def _apply_stops(self) -> None:
        stopped = self._member.stopped
        wanted = {
            progress.partition
            for progress, tier in self._tiers.items()
            if tier.is_full(was_stopped=progress.partition in stopped)
        }
        if wanted != stopped:
            self._member.stop_fetching(wanted)

    # Deciding.

    def _end_time_in_tier(self, tier: _Tier, now: float) -> None:
        """Take those out of the line whose time in this tier is over, as far as there is somewhere to take them."""
        line = tier.line
        while line and line[0].leaves <= now and self._may_move():
            if not tier.waiting_time and 0 < line[0].due - now < SHORTEST and not self._has_room_to_park(line[0], now):
                # No tier is short enough for the rest: it stays where it is, and those behind it are late by that.
                break
            waiting = line.popleft()
            tier.size -= waiting.size
            self._decide(waiting, now)
        if tier.progress.span > SPAN_LIMIT // 2:
            self._make_way(tier)

    def _make_way(self, tier: _Tier) -> None:
        """Send the oldest ones that are parked on, as the commit cannot pass them, and the tier would stop for them."""
        parked, head = tier.progress.held, tier.progress.head
        for offset in sorted(offset for offset in parked if offset < head + SPAN_LIMIT // 4):
            if not self._may_move():
                break
            waiting = parked[offset]
            self._unpark(waiting)
            self._move_to_tier(waiting, waiting.due - time.time())
        if len(self._parked) > 2 * _MOST_PARKED:
            self._parked = [item for item in self._parked if item[2].is_parked]
            heapq.heapify(self._parked)

    def _decide(self, waiting: Waiting, now: float) -> None:
        left = waiting.due - now
        if left <= 0:
            self._move_to_destination(waiting)
        elif self._has_room_to_park(waiting, now):
            self._park(waiting, waiting.due)
        else:
            self._move_to_tier(waiting, left)

    def _has_room_to_park(self, waiting: Waiting, now: float) -> bool:
        """Tell whether there is room; half of it is for those that no tier is short enough for."""
        count, size = self._parked_count, self._parked_bytes + waiting.size
        share = 1 if waiting.due - now < SHORTEST else 2
        return count * share < _MOST_PARKED and size * share <= _MOST_PARKED_BYTES

    def _park(self, waiting: Waiting, until: float) -> None:
        waiting.is_parked = True
        waiting.progress.held[waiting.offset] = waiting
        self._parked_count += 1
        self._parked_bytes += waiting.size
        self._refused_count += waiting.refusals > 0
        heapq.heappush(self._parked, (until, next(self._numbers), waiting))

    def _unpark(self, waiting: Waiting) -> None:
        waiting.is_parked = False
        del waiting.progress.held[waiting.offset]
        self._parked_count -= 1
        self._parked_bytes -= waiting.size
        self._refused_count -= waiting.refusals > 0

    # Moving.

    def _move_to_destination(self, waiting: Waiting) -> None:
        headers, timestamp = end_of_delay(waiting.headers)
        self._move(waiting, self._topic, -1, headers, timestamp)

    def _move_to_tier(self, waiting: Waiting, left: float) -> None:
        self._move(
            waiting, self._delay_topic, tier_for(left, self._partitions), waiting.headers, int(time.time() * 1000)
        )

    def _move(
        self,
        waiting: Waiting,
        topic: str,
        partition: int,
        headers: Sequence[tuple[str, bytes | None]],
        timestamp: int,
    ) -> None:
        record = waiting.record
        entry = Outgoing(Message(record.value() or b""), 0.0, waiting.size)
        self.outstanding[entry] = waiting
        self._bytes_under_way += waiting.size
        try:
            self._producer.produce(Job(self, entry, topic, record.key(), headers, timestamp, partition))
        except KafkaException as refused:
            self._take_reports([], [(entry, native_of(refused))])

    def _take_reports(self, stored: list[Outgoing], failed: list[tuple[Outgoing, KafkaError]]) -> None:
        for entry in stored:
            waiting = self._take_out(entry)
            if waiting is not None:
                waiting.progress.ack(waiting.offset)
        for entry, error in failed:
            waiting = self._take_out(entry)
            if waiting is not None:
                self._try_again_later(waiting, error)
                if is_final(error):
                    # Another forwarder may have the right to write there, and gets the tiers of this one.
                    self._member.end = request_error(error, f"forwarding delayed messages to {self._topic!r}")

    def _take_out(self, entry: Outgoing) -> Waiting | None:
        """Return what a report is about; `None` if its partition has gone, or if it was reported before."""
        waiting = self.outstanding.pop(entry, None)
        if waiting is None:
            return None
        self._bytes_under_way -= waiting.size
        return None if waiting.progress.over else waiting

    def _try_again_later(self, waiting: Waiting, error: KafkaError) -> None:
        """Keep what was refused, or may not be stored: it must not be lost, and blocks nobody in the meantime."""
        pause = min(_LONGEST_RETRY, _SHORTEST_RETRY * 2 ** min(waiting.refusals, 10))
        now = time.time()
        if now >= self._complain_at:
            self._complain_at = now + _COMPLAINT_INTERVAL
            log.warning("delayed messages for %r are refused, and tried again: %s", self._topic, describe(error))
        waiting.refusals += 1
        self._park(waiting, now + pause)

    def _wait_for_confirmations(self, progresses: Collection[PartitionProgress[Waiting]], deadline: float) -> None:
        until = min(time.monotonic() + _DRAIN, deadline)
        self._read_mail()
        while any(waiting.progress in progresses for waiting in self.outstanding.values()):
            left = until - time.monotonic()
            if left <= 0 or self._member.end is not None:
                break
            self._wakeup.wait(left)
            self._wakeup.clear()
            self._read_mail()

    def _forget_waiting(self, ends: Mapping[int, int]) -> None:
        for progress, tier in self._tiers.items():
            end = ends.get(progress.partition, 0)
            while tier.line and tier.line[0].offset < end:
                waiting = tier.line.popleft()
                tier.size -= waiting.size
                progress.finish(waiting.offset)
            for waiting in [waiting for offset, waiting in progress.held.items() if offset < end]:
                self._unpark(waiting)
                progress.finish(waiting.offset)
        self._parked = [item for item in self._parked if item[2].is_parked]
        heapq.heapify(self._parked)
        self._member.forget_prefetched()
        self._apply_stops()

    # `_member.Owner`, called in the thread.

    def assigned(self) -> None:
        """See `_member.Owner.assigned`."""
        self._apply_stops()

    def revoking(self, leaving: Sequence[PartitionProgress[Waiting]]) -> None:
        """See `_member.Owner.revoking`."""
        deadline = self._close_by if self._is_closing else time.monotonic() + _DRAIN
        self._wait_for_confirmations(leaving, deadline)

    def dropped(self, gone: Sequence[PartitionProgress[Waiting]]) -> None:
        """See `_member.Owner.dropped`: the next owner reads what waits."""
        for progress in gone:
            for waiting in list(progress.held.values()):
                self._unpark(waiting)
            self._tiers.pop(progress, None)
        self._parked = [item for item in self._parked if item[2].is_parked]
        heapq.heapify(self._parked)
        self.committed()

    def committed(self) -> None:
        """See `_member.Owner.committed`."""
        done = [progress for progress in self._member.partitions.values() if progress.base]
        if done:
            topic_id = done[0].topic_id
            self._finished = topic_id, {each.partition: each.base for each in done if each.topic_id == topic_id}
        else:
            self._finished = "", {}

    def is_closing(self) -> bool:
        """See `_member.Owner.is_closing`."""
        return self._is_closing
