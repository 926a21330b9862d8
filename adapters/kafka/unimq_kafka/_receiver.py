"""Receiving from one topic as a member of one group: one thread owns the client's consumer, as it wants to be owned.

The thread polls in slices, since nothing can wake a poll. Settlements come to it through a mailbox and change the
`PartitionProgress` of their partition; what is done is committed a few times a second, at every barrier, before a
partition is given up, and at the end.
"""

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as Record

from unimq import ConnectionLost, LeaseLost, NotFound, UnimqError
from unimq.adapter import Delivery, DeliverySink, Lanes, Mailbox
from unimq_kafka._errors import describe, is_final, native_of, request_error
from unimq_kafka._handles import forget, keep
from unimq_kafka._options import Settings
from unimq_kafka._progress import SPAN_LIMIT, PartitionProgress, decode_metadata
from unimq_kafka._wire import decode

log = logging.getLogger("unimq.kafka")

Progress = PartitionProgress[Delivery]
Barrier = Callable[[Sequence[UnimqError]], None]

_SLICE = 0.02
"""Seconds of one poll: so long a command waits at most (an idle consumer costs 0.6 % of a core)."""
_LARGEST_FETCH = 500
"""Messages that are decoded and delivered at once."""
_COMMIT_INTERVAL = 0.2
"""Seconds between commits, if no barrier asks for one."""
_PATIENCE_WHEN_FULL = 0.5
"""Seconds to wait for settlements before fetching is paused, so that polling can go on. Pausing drops what the client
has prefetched, hence rarely; not polling holds up the rebalances of the group, hence not for long."""
_GLANCE = 0.01
"""Seconds between looks for the answer of a commit while there is no room for messages."""
_MOST_AHEAD = 100
"""Messages that such looks may bring before there is room for them (L5)."""
_MOST_PARKED = 10_000
"""Nacked messages that wait here for their delay, beyond which no new ones are fetched (L5)."""
_DRAIN = 1.0
"""Seconds that a revoked partition is held for its messages in work to be settled, so that nobody does them twice."""
_PROOF = 5.0
"""Seconds within which the commit of a partition that is given up is confirmed."""
_READ_COMMITTED = 30.0
"""Seconds to try to read what was done in a new partition."""


class KafkaReceiver:
    """The receiver of one consumer. Everything without a remark belongs to the owner thread."""

    def __init__(
        self,
        settings: Settings,
        topic: str,
        sink: DeliverySink,
        prefetch: int,
        *,
        is_ordered: bool,
        find_topic_id: Callable[[], str],
        is_topic_missing: Callable[[], bool],
    ) -> None:
        self._topic = topic
        self._sink = sink
        self._prefetch = prefetch
        self._is_ordered = is_ordered
        self._lanes: dict[Progress, Lanes] = {}
        """Of each partition, if messages of one key are to be in work one at a time (O1)."""
        self._find_topic_id = find_topic_id
        self._is_topic_missing = is_topic_missing
        self._is_topic_in_doubt = False
        self._is_classic = settings["group.protocol"] == "classic"
        self._wakeup = threading.Event()
        self._mail: Mailbox[Sequence[Delivery] | Callable[[], None]] = Mailbox(self._wakeup.set)
        self._is_paused = False  # any thread
        self._is_closing = False  # any thread
        self._close_by = 0.0  # set before `_is_closing`
        self.is_over = False  # set by the owner as its last act
        self._late_lock = threading.Lock()
        self._end: UnimqError | None = None
        self._partitions: dict[int, Progress] = {}
        self._stopped: set[int] = set()
        """Partitions that the client is told not to fetch."""
        self._unsettled = 0
        self._full_since = 0.0
        self._waits_paused = False
        self._fresh: deque[Delivery] = deque()
        """New messages that wait for room, or for the end of `pause`."""
        self._ready: deque[Delivery] = deque()
        """Nacked messages whose delay is over."""
        self._parked: list[tuple[float, int, Delivery]] = []
        self._numbers = itertools.count()
        self._ready_first = False
        self._commits_under_way = 0
        self._next_commit = 0.0
        self._barriers: list[tuple[Barrier, dict[Progress, int]]] = []
        self._late = 0
        """Settlements that came after their partition had gone, and were told to no barrier yet."""
        self._consumer = Consumer({**settings, "error_cb": self._on_error, "on_commit": self._on_commit})
        keep(self._consumer)
        self._thread = threading.Thread(target=self._run, name=f"unimq-kafka-{topic}", daemon=True)
        self._thread.start()

    # Any thread: `unimq.adapter.Receiver`.

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See `unimq.adapter.Receiver.ack`."""
        self._mail.post(deliveries)

    def nack(self, delivery: Delivery, delay: float) -> None:
        """See `unimq.adapter.Receiver.nack`."""
        self._mail.post(partial(self._nacked, delivery, time.monotonic() + delay if delay else 0.0))

    def extend(self, delivery: Delivery, duration: float) -> None:
        """See `unimq.adapter.Receiver.extend`: there is no lease, the capabilities say so."""

    def barrier(self, done: Barrier) -> None:
        """See `unimq.adapter.Receiver.barrier`."""
        self._mail.post(partial(self._add_barrier, done))
        if self.is_over:
            self._answer_late_mail()

    def pause(self) -> None:
        """See `unimq.adapter.Receiver.pause`."""
        self._is_paused = True

    def resume(self) -> None:
        """See `unimq.adapter.Receiver.resume`."""
        self._is_paused = False
        self._mail.post(())

    def forget_waiting(self) -> None:
        """Forget what waits here, as the topic was purged."""
        self._mail.post(self._forget_waiting)

    def end(self, error: UnimqError, timeout: float) -> None:
        """End the consumer because its source was deleted; nothing is committed."""
        self._mail.post(partial(self._end_with, error))
        self._thread.join(timeout)

    def close(self, timeout: float) -> None:
        """See `unimq.adapter.Receiver.close`."""
        if not self._is_closing:
            self._close_by = time.monotonic() + timeout
            self._is_closing = True
            self._wakeup.set()
        self._thread.join(timeout)
        if self._thread.is_alive():
            log.warning("the consumer of %r did not leave its group within %g s", self._topic, timeout)

    # The owner thread.

    def _run(self) -> None:
        error: UnimqError | None = None
        try:
            self._consumer.subscribe(
                [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            while not self._is_closing and self._end is None:
                self._read_mail()
                self._step()
            if self._end is None:
                self._leave()
            else:
                error = self._end
        except Exception as fault:
            log.exception("the consumer of %r ended", self._topic)
            error = ConnectionLost(f"the consumer of {self._topic!r} ended by an unexpected error: {fault!r}")
            error.__cause__ = fault
        finally:
            self._drop(list(self._partitions.values()))
            if error is not None:
                self._sink.failed(error)
            self._consumer.close()
            forget(self._consumer)
            self.is_over = True
            self._answer_late_mail()

    def _step(self) -> None:
        """Deliver what there is room for, and commit when it is time."""
        now = time.monotonic()
        while self._parked and self._parked[0][0] <= now:
            self._ready.append(heapq.heappop(self._parked)[2])
        room = 0 if self._is_paused or len(self._parked) >= _MOST_PARKED else self._prefetch - self._unsettled
        if room > 0:
            self._full_since = 0.0
            if self._waits_paused:
                self._waits_paused = False
                self._apply_stops()
            self._fill(room)
        else:
            self._wait_for_room(now)
        self._commit_if_due()
        if self._is_topic_in_doubt:
            self._look_for_topic()

    def _fill(self, room: int) -> None:
        """Deliver new messages and those to be redelivered in turn, so that neither kind starves the other (D1)."""
        fresh, ready = self._fresh, self._ready
        if len(fresh) < room:
            self._poll(min(room - len(fresh), _LARGEST_FETCH), 0 if fresh or ready else _SLICE)
        first, second = (ready, fresh) if self._ready_first else (fresh, ready)
        self._ready_first = not self._ready_first
        share = room - min(room // 2, len(second))
        batch = [first.popleft() for _ in range(min(share, len(first)))]
        batch += [second.popleft() for _ in range(min(room - len(batch), len(second)))]
        if not batch or self._is_closing:
            return
        if self._is_paused:
            # Since the room was counted; they are the next ones when it is resumed.
            fresh.extendleft(reversed(batch))
            return
        for delivery in batch:
            progress, offset = _token(delivery)
            progress.held[offset] = delivery
        self._unsettled += len(batch)
        self._sink.deliver(batch)

    def _wait_for_room(self, now: float) -> None:
        """Wait for settlements. Polling must go on for the client's callbacks, but would bring more messages."""
        self._full_since = self._full_since or now
        if self._waits_paused:
            self._poll(1, _SLICE)
        elif now - self._full_since >= _PATIENCE_WHEN_FULL:
            self._waits_paused = True
            self._apply_stops()
        elif self._commits_under_way and len(self._fresh) < _MOST_AHEAD:
            self._wakeup.wait(_GLANCE)
            self._wakeup.clear()
            self._poll(1, 0)
        else:
            self._wakeup.wait(_COMMIT_INTERVAL)
            self._wakeup.clear()

    def _poll(self, most: int, timeout: float) -> None:
        """Let the client call back, and take at most so many new messages."""
        first = self._consumer.poll(timeout)
        if first is None:
            return
        self._take_record(first)
        if most > 1:
            for record in self._consumer.consume(most - 1, 0):
                self._take_record(record)

    def _take_record(self, record: Record) -> None:
        error = record.error()
        if error is not None:
            self._on_record_error(error)
            return
        partition, offset = record.partition(), record.offset()
        if partition is None or offset is None:
            return
        progress = self._partitions.get(partition)
        if progress is None:
            return
        if offset < progress.next:
            # The topic was made again, or lost its end: what we know of the partition is about other messages.
            self._drop([progress])
            progress = self._partitions[partition] = Progress(partition, self._find_topic_id(), offset, set())
        if progress.receive(offset):
            delivery = Delivery(decode(record), 1, (progress, offset), self._sink, record)
            if not self._is_ordered or self._lanes.setdefault(progress, Lanes()).admit(delivery):
                self._fresh.append(delivery)
        if progress.span >= SPAN_LIMIT and partition not in self._stopped:
            self._apply_stops()

    def _apply_stops(self) -> None:
        """Have the client fetch what it may: nothing while all waits, and no partition too far ahead of its head."""
        wanted = {
            partition
            for partition, progress in self._partitions.items()
            if self._waits_paused or progress.span >= SPAN_LIMIT
        }
        stop, go = wanted - self._stopped, (self._stopped & self._partitions.keys()) - wanted
        if stop:
            self._consumer.pause([TopicPartition(self._topic, partition) for partition in stop])
        if go:
            self._consumer.resume([TopicPartition(self._topic, partition) for partition in go])
        self._stopped = wanted

    def _forget_waiting(self) -> None:
        for delivery in (behind for lanes in self._lanes.values() for behind in lanes.forget_waiting()):
            progress, offset = _token(delivery)
            progress.finish(offset)
        for delivery in (*self._fresh, *self._ready, *(item[2] for item in self._parked)):
            progress, offset = _token(delivery)
            progress.finish(offset)
            if self._is_ordered:
                self._lanes[progress].follow(delivery)
        self._fresh.clear()
        self._ready.clear()
        self._parked.clear()
        # The client drops what it has prefetched of a partition that is paused.
        self._consumer.pause([TopicPartition(self._topic, partition) for partition in self._partitions])
        self._stopped = set(self._partitions)
        self._apply_stops()

    # Settlements.

    def _read_mail(self) -> None:
        for item in self._mail.drain():
            if callable(item):
                item()
                continue
            for delivery in item:
                progress = self._release(delivery)
                if progress is not None:
                    progress.ack(_token(delivery)[1])
                    if self._is_ordered and (follower := self._lanes[progress].follow(delivery)) is not None:
                        self._fresh.append(follower)

    def _release(self, delivery: Delivery) -> Progress | None:
        """Take a delivery out of what is held; `None` if its partition has gone (A6)."""
        progress, offset = _token(delivery)
        if progress.over:
            self._late += 1
            return None
        del progress.held[offset]
        self._unsettled -= 1
        return progress

    def _nacked(self, delivery: Delivery, due: float) -> None:
        if self._release(delivery) is None:
            return
        again = Delivery(delivery.message, delivery.attempt + 1, delivery.token, self._sink, delivery.native)
        if due:
            heapq.heappush(self._parked, (due, next(self._numbers), again))
        else:
            self._ready.append(again)

    def _add_barrier(self, done: Barrier) -> None:
        # Only what is acked and not in a confirmed commit is waited for; the rest is certain already.
        wanted = {p: p.acked for p in self._partitions.values() if p.acked > p.proven}
        self._barriers.append((done, wanted))
        self._next_commit = 0.0
        self._lift_barriers()

    def _lift_barriers(self) -> None:
        waiting: list[tuple[Barrier, dict[Progress, int]]] = []
        for done, wanted in self._barriers:
            if all(progress.over or progress.proven >= acked for progress, acked in wanted.items()):
                errors = self._late_errors()
                done(errors)
            else:
                waiting.append((done, wanted))
        self._barriers = waiting

    def _late_errors(self) -> list[UnimqError]:
        late, self._late = self._late, 0
        if not late:
            return []
        text = f"{late} settlements of {self._topic!r} came after their partition had gone to another consumer"
        return [LeaseLost(f"{text}; those messages come or came again")]

    def _answer_late_mail(self) -> None:
        """Answer barriers that came after the end, when nothing can be committed any more; in any thread."""
        with self._late_lock:
            for item in self._mail.drain():
                if callable(item):
                    item()
                else:
                    self._late += len(item)

    # Commits.

    def _commit_if_due(self) -> None:
        now = time.monotonic()
        if self._commits_under_way or now < self._next_commit:
            return
        changed = [progress for progress in self._partitions.values() if progress.dirty]
        if changed:
            self._next_commit = now + _COMMIT_INTERVAL
            self._commit(changed)
            if self._stopped and not self._waits_paused:
                self._apply_stops()

    def _commit(self, changed: Iterable[Progress]) -> list[TopicPartition]:
        """Start one commit; its answer comes to `_on_commit`."""
        offsets: list[TopicPartition] = []
        for progress in changed:
            offset, metadata = progress.commit_point()
            offsets.append(TopicPartition(self._topic, progress.partition, offset, metadata))
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
            self._commits_under_way += 1
        except KafkaException as failed:
            self._commit_failed(native_of(failed), offsets)
        return offsets

    def _on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        """The client's callback, from within `poll`, `consume` and `close`."""
        self._commits_under_way -= 1
        for committed in offsets:
            failure = error or committed.error
            progress = self._partitions.get(committed.partition)
            if failure:
                self._commit_failed(failure, [committed])
            elif progress is not None:
                progress.committed(committed.offset, committed.metadata)
        self._lift_barriers()

    def _commit_failed(self, error: KafkaError, offsets: list[TopicPartition]) -> None:
        """Try again later: a commit that crosses a rebalance or a lost coordinator fails as a matter of course."""
        log.debug("commit of %r failed: %s", self._topic, describe(error))
        for failed in offsets:
            progress = self._partitions.get(failed.partition)
            if progress is not None:
                progress.dirty = True
                if error.code() == KafkaError.OFFSET_METADATA_TOO_LARGE:
                    progress.with_map = False
                elif error.code() in _MISSING:
                    self._is_topic_in_doubt = True
        self._next_commit = time.monotonic() + _COMMIT_INTERVAL

    def _prove(self, unproven: list[Progress], deadline: float) -> None:
        """Commit, and read it back on the same connection, so that it is certain before anything else happens (A1)."""
        while unproven:
            offsets = self._commit(unproven)
            found: dict[int, TopicPartition] = {}
            try:
                left = max(0.01, deadline - time.monotonic())
                for committed in self._consumer.committed(offsets, timeout=min(left, 1.0)):
                    found[committed.partition] = committed
            except KafkaException as failed:
                log.debug("reading the commit of %r failed: %s", self._topic, failed)
            missing: list[Progress] = []
            for progress in unproven:
                answer = found.get(progress.partition)
                if answer is None or not progress.committed(answer.offset, answer.metadata):
                    progress.dirty = True
                    missing.append(progress)
            if missing:
                # The answers to the commits, which would say it, are not seen here.
                self._look_for_topic()
                if self._end is not None or time.monotonic() >= deadline:
                    break
                time.sleep(_SLICE)
            unproven = missing
        self._lift_barriers()

    # Assignments. The client calls these from within `poll`, `consume` and `close`, in the owner thread.

    def _on_assign(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        if not assigned:
            return
        # It may have been deleted and made again since the last time.
        topic_id = self._find_topic_id()
        start: list[TopicPartition] = []
        for new in self._read_committed(assigned):
            offset, done = new.offset, set[int]()
            if offset >= 0:
                is_ours, done = decode_metadata(new.metadata, topic_id, offset)
                if not is_ours:
                    # Of a topic of the same name that was deleted.
                    offset = 0
            self._partitions[new.partition] = Progress(new.partition, topic_id, max(offset, -1), done)
            start.append(TopicPartition(self._topic, new.partition, offset))
        # All at once: a fetch that is under way for some of them keeps the others waiting.
        consumer.incremental_assign(start)
        self._stopped -= self._partitions.keys() & {new.partition for new in assigned}
        self._apply_stops()

    def _read_committed(self, assigned: list[TopicPartition]) -> list[TopicPartition]:
        """Return where the group is in new partitions; without an answer the client reads the offsets alone."""
        wanted = [TopicPartition(self._topic, new.partition) for new in assigned]
        deadline = time.monotonic() + _READ_COMMITTED
        while time.monotonic() < deadline and not self._is_closing:
            try:
                found = self._consumer.committed(wanted, timeout=2.0)
            except KafkaException as failed:
                log.debug("reading the commits of %r failed: %s", self._topic, failed)
            else:
                if not any(committed.error for committed in found):
                    for committed in found:
                        # Where nothing is committed the topic is read from its beginning; without asking where that
                        # is, which takes as long as a fetch, since offset 0 is that or leads there.
                        committed.offset = max(committed.offset, 0)
                    return found
            time.sleep(_SLICE)
        if not self._is_closing:
            log.warning("could not read what is done in %r; some of it may come again", self._topic)
        return wanted

    def _on_revoke(self, consumer: Consumer, revoked: list[TopicPartition]) -> None:
        leaving = self._known(revoked)
        if not leaving:
            return
        # Nothing new is delivered meanwhile, as this is the thread that delivers.
        until = time.monotonic() + _DRAIN
        self._read_mail()
        while any(progress.held for progress in leaving) and not self._is_closing and self._end is None:
            left = until - time.monotonic()
            if left <= 0:
                break
            self._wakeup.wait(left)
            self._wakeup.clear()
            self._read_mail()
        self._prove([p for p in leaving if p.dirty or p.acked > p.proven], time.monotonic() + _PROOF)
        self._drop(leaving)
        self._is_topic_in_doubt = not self._partitions

    def _on_lost(self, consumer: Consumer, lost: list[TopicPartition]) -> None:
        self._drop(self._known(lost))
        self._is_topic_in_doubt = not self._partitions

    def _known(self, partitions: list[TopicPartition]) -> list[Progress]:
        return [self._partitions[gone.partition] for gone in partitions if gone.partition in self._partitions]

    def _drop(self, gone: list[Progress]) -> None:
        """End the epoch of partitions: what is held of them is lost, what waits here is forgotten (A6)."""
        lost: list[Delivery] = []
        for progress in gone:
            progress.over = True
            self._late += progress.acked - progress.proven
            lost += progress.held.values()
            self._unsettled -= len(progress.held)
            progress.held.clear()
            del self._partitions[progress.partition]
            self._lanes.pop(progress, None)
            self._stopped.discard(progress.partition)
        # In place: this is also called from within a poll, by code that goes on to work with them.
        for waiting in (self._fresh, self._ready):
            kept = [delivery for delivery in waiting if not _token(delivery)[0].over]
            waiting.clear()
            waiting.extend(kept)
        self._parked[:] = [item for item in self._parked if not _token(item[2])[0].over]
        heapq.heapify(self._parked)
        if lost:
            self._sink.lost(lost)
        self._lift_barriers()

    # The end.

    def _leave(self) -> None:
        """Commit what was settled, bounded by the time to close."""
        self._read_mail()
        deadline = min(time.monotonic() + _PROOF, self._close_by)
        self._prove([p for p in self._partitions.values() if p.dirty or p.acked > p.proven], deadline)
        if self._is_classic:
            # The coordinator answers nothing to a member that waits for the others to join, and the leave of a client
            # that ends meanwhile is lost: its group would stand still for the session timeout. An answer is proof.
            try:
                self._consumer.committed(
                    [TopicPartition(self._topic, 0)], timeout=max(0.1, deadline - time.monotonic())
                )
            except KafkaException as failed:
                log.debug("leaving the group of %r without an answer: %s", self._topic, failed)

    def _end_with(self, error: UnimqError) -> None:
        self._end = error

    def _on_error(self, error: KafkaError) -> None:
        """The client's callback for what concerns no message. It repairs connections itself."""
        log.debug("consumer of %r: %s", self._topic, describe(error))
        if error.fatal() or is_final(error):
            self._end = request_error(error, f"the consumer of {self._topic!r} ended")

    def _on_record_error(self, error: KafkaError) -> None:
        if error.code() in _MISSING:
            self._is_topic_in_doubt = True
        else:
            self._on_error(error)

    def _look_for_topic(self) -> None:
        """End if the topic was deleted, which the client does not say: it only has no partitions any more."""
        self._is_topic_in_doubt = False
        if self._is_topic_missing():
            self._end = self._end or NotFound(f"the topic {self._topic!r} does not exist any more")


_MISSING = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_ID}


def _token(delivery: Delivery) -> tuple[Progress, int]:
    """Return partition and offset of a delivery; every token of this driver is such a pair."""
    return delivery.token  # type: ignore[return-value]
