"""Receiving from one topic as a member of one group: one thread owns the client's consumer, as it wants to be owned.

The thread polls in slices, since nothing can wake a poll. Settlements come to it through a mailbox and change the
`PartitionProgress` of their partition, which its `Member` of the group commits, at every barrier among other times.
"""

import heapq
import itertools
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from confluent_kafka import Message as Record

from unimq import ConnectionLost, LeaseLost, UnimqError
from unimq.adapter import Delivery, DeliverySink, Lanes, Mailbox
from unimq_kafka._delays import Share
from unimq_kafka._member import AskOwned, Member
from unimq_kafka._options import Settings
from unimq_kafka._postponed import SHORTEST as LONG_NACK
from unimq_kafka._postponed import Postponed
from unimq_kafka._progress import SPAN_LIMIT, PartitionProgress
from unimq_kafka._wire import delivery_of

log = logging.getLogger("unimq.kafka")

Progress = PartitionProgress[Delivery]
Barrier = Callable[[Sequence[UnimqError]], None]

_SLICE = 0.02
"""Seconds of one poll: so long a command waits at most (an idle consumer costs 0.6 % of a core)."""
_LARGEST_FETCH = 500
"""Messages that are decoded and delivered at once."""
_PATIENCE_FOR_MAIL = 0.2
"""Seconds to wait for settlements before the client is polled again, while there is no room for messages."""
_PATIENCE_WHEN_FULL = 0.5
"""Seconds to wait for settlements before fetching is paused, so that polling can go on. Pausing drops what the client
has prefetched, hence rarely; not polling holds up the rebalances of the group, hence not for long."""
_GLANCE = 0.01
"""Seconds between looks for the answer of a commit while there is no room for messages."""
_MOST_AHEAD = 100
"""Messages that such looks may bring before there is room for them (L5)."""
_MOST_PARKED = 10_000
"""Nacked messages that wait here for their delay, beyond which no new ones are fetched (L5)."""
_MOVES = 5.0
"""Seconds that a consumer that closes waits for nacked messages to be stored where they wait for a long delay."""
_DRAIN = 1.0
"""Seconds that a revoked partition is held for its messages in work to be settled, so that nobody does them twice."""


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
        ask_owned: AskOwned | None = None,
        share: Share | None = None,
        postponed: Postponed | None = None,
    ) -> None:
        self._topic = topic
        self._share = share
        """Its part in the forwarding of delayed messages."""
        self._postponed = postponed
        """For long delays of nacks, if they may wait elsewhere."""
        self._moving: dict[tuple[Progress, int], int] = {}
        """Nacked messages whose copies are being sent there, numbered in that order; they count as parked."""
        self._behind_moves: deque[tuple[int, Barrier]] = deque()
        """Barriers, and up to which number of those they wait."""
        self._sink = sink
        self._prefetch = prefetch
        self._enough = prefetch // 2
        """Acks that wake the owner though nobody waits for messages."""
        self._is_ordered = is_ordered
        self._lanes: dict[Progress, Lanes] = {}
        """Of each partition, if messages of one key are to be in work one at a time (O1)."""
        self._wakeup = threading.Event()
        self._mail: Mailbox[Callable[[], None]] = Mailbox(self._wakeup.set)
        self._acked: deque[Sequence[Delivery]] = deque()
        """Acks, which wake nobody while there is no hurry."""
        self._is_wanted = True
        """Somebody waits for messages; set by any thread, cleared when there are some."""
        self._sleeps = False
        """The owner waits for settlements."""
        self._is_paused = False  # any thread
        self._is_closing = False  # any thread
        self._close_by = 0.0  # set before `_is_closing`
        self._is_settled = False
        """No settlement can be confirmed any more, and who asks is answered at once, though leaving the group may take
        a while yet. Set by the owner, which touches `_late`, `_barriers` and the mail under the lock from then on."""
        self.is_over = False  # set by the owner as its last act
        self._late_lock = threading.Lock()
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
        self._barriers: list[tuple[Barrier, dict[Progress, int]]] = []
        self._late = 0
        """Settlements that came after their partition had gone, and were told to no barrier yet."""
        self._member: Member[Delivery] = Member(
            settings,
            topic,
            self,
            find_topic_id=find_topic_id,
            is_topic_missing=is_topic_missing,
            ask_owned=ask_owned,
        )
        self._thread = threading.Thread(target=self._run, name=f"unimq-kafka-{topic}", daemon=True)
        self._thread.start()

    # Any thread: `unimq.adapter.Receiver`.

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See `unimq.adapter.Receiver.ack`."""
        self._acked.append(deliveries)
        if self._sleeps and (self._is_wanted or len(self._acked) > self._enough):
            self._sleeps = False
            self._wakeup.set()

    def wanted(self) -> None:
        """See `unimq.adapter.HurriedReceiver.wanted`."""
        self._is_wanted = True
        if self._sleeps and self._acked:
            self._sleeps = False
            self._wakeup.set()

    def nack(self, delivery: Delivery, delay: float) -> None:
        """See `unimq.adapter.Receiver.nack`."""
        self._mail.post(partial(self._nacked, delivery, delay, time.time() + delay))

    def extend(self, delivery: Delivery, duration: float) -> None:
        """See `unimq.adapter.Receiver.extend`: there is no lease, the capabilities say so."""

    def barrier(self, done: Barrier) -> None:
        """See `unimq.adapter.Receiver.barrier`."""
        self._mail.post(partial(self._add_barrier, done))
        if self._is_settled:
            self._answer_late_mail()

    def pause(self) -> None:
        """See `unimq.adapter.Receiver.pause`."""
        self._is_paused = True

    def resume(self) -> None:
        """See `unimq.adapter.Receiver.resume`."""
        self._is_paused = False
        self._mail.post(lambda: None)

    def forget_waiting(self, ends: Mapping[int, int]) -> None:
        """Forget what waits here of what is below these offsets, as it was purged."""
        self._mail.post(partial(self._forget_waiting, ends))

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
        if self._share is not None:
            # Both leave their groups at the same time.
            self._share.end(self._close_by)
        self._thread.join(timeout)
        if self._thread.is_alive():
            log.warning("the consumer of %r did not leave its group within %g s", self._topic, timeout)
        if self._share is not None:
            self._share.wait(max(0.0, self._close_by - time.monotonic()))

    # The owner thread.

    def _run(self) -> None:
        error: UnimqError | None = None
        try:
            self._member.join()
            while not self._is_closing and self._member.end is None:
                self._read_mail()
                self._step()
            error = self._member.end
            if error is None:
                self._read_mail()
                self._wait_while(lambda: bool(self._moving), min(self._close_by, time.monotonic() + _MOVES))
                self._member.leave(self._close_by)
        except Exception as fault:
            log.exception("the consumer of %r ended", self._topic)
            error = ConnectionLost(f"the consumer of {self._topic!r} ended by an unexpected error: {fault!r}")
            error.__cause__ = fault
        finally:
            self._member.drop(list(self._member.partitions.values()))
            self._moving.clear()
            for _, done in self._behind_moves:
                done(self._late_errors())
            self._behind_moves.clear()
            if error is not None:
                self._sink.failed(error)
            self._is_settled = True
            self._answer_late_mail()
            if self._postponed is not None:
                self._postponed.close()
            self._member.close()
            self.is_over = True
            self._answer_late_mail()

    def _step(self) -> None:
        """Deliver what there is room for, and commit when it is time."""
        now = time.monotonic()
        while self._parked and self._parked[0][0] <= now:
            self._ready.append(heapq.heappop(self._parked)[2])
        parked = len(self._parked) + len(self._moving)
        room = 0 if self._is_paused or parked >= _MOST_PARKED else self._prefetch - self._unsettled
        if room > 0:
            self._full_since = 0.0
            if self._waits_paused:
                self._waits_paused = False
                self._apply_stops()
            self._fill(room)
        else:
            self._wait_for_room(now)
        if self._member.commit_if_due() and self._member.stopped and not self._waits_paused:
            self._apply_stops()
        self._member.look_if_in_doubt()

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
            token: tuple[Progress, int] = delivery.token  # type: ignore[assignment] # as in `_token`, without its call
            token[0].held[token[1]] = delivery
        self._unsettled += len(batch)
        self._is_wanted = False
        self._sink.deliver(batch)

    def _wait_for_room(self, now: float) -> None:
        """Wait for settlements. Polling must go on for the client's callbacks, but would bring more messages."""
        self._full_since = self._full_since or now
        if self._waits_paused:
            self._poll(1, _SLICE)
        elif now - self._full_since >= _PATIENCE_WHEN_FULL:
            self._waits_paused = True
            self._apply_stops()
        elif self._member.commits_under_way and len(self._fresh) < _MOST_AHEAD:
            self._sleep(_GLANCE)
            self._poll(1, 0)
        else:
            self._sleep(_PATIENCE_FOR_MAIL)

    def _sleep(self, seconds: float) -> None:
        """Wait for settlements that matter now, or anything else that wakes."""
        self._sleeps = True
        # Looked at after the mark: an ack that comes now either is seen here or wakes.
        if not (self._acked and (self._is_wanted or len(self._acked) > self._enough)):
            self._wakeup.wait(seconds)
        self._sleeps = False
        self._wakeup.clear()

    def _poll(self, most: int, timeout: float) -> None:
        """Let the client call back, and take at most so many new messages."""
        self._member.poll_batches(most, timeout, self._take_records)

    def _take_records(self, records: list[Record]) -> None:
        member, sink, fresh = self._member, self._sink, self._fresh
        partitions = member.partitions
        for record in records:
            partition, offset = record.partition(), record.offset()
            if partition is None or offset is None:
                continue
            progress = partitions.get(partition)
            if progress is None or offset < progress.next:
                progress = member.progress_at(partition, offset)
                if progress is None:
                    continue
            if progress.receive(offset):
                delivery = delivery_of(record, (progress, offset), sink)
                if not self._is_ordered or self._lanes.setdefault(progress, Lanes()).admit(delivery):
                    fresh.append(delivery)
        if any(progress.span >= SPAN_LIMIT and p not in member.stopped for p, progress in partitions.items()):
            self._apply_stops()

    def _apply_stops(self) -> None:
        """Have the client fetch what it may: nothing while all waits, and no partition too far ahead of its head."""
        self._member.stop_fetching(
            {
                partition
                for partition, progress in self._member.partitions.items()
                if self._waits_paused or progress.span >= SPAN_LIMIT
            }
        )

    def _forget_waiting(self, ends: Mapping[int, int]) -> None:
        if self._is_settled:
            return

        def is_purged(delivery: Delivery) -> bool:
            progress, offset = _token(delivery)
            return offset < ends.get(progress.partition, 0)

        behind = [delivery for lanes in self._lanes.values() for delivery in lanes.forget_waiting()]
        waiting = [*self._fresh, *self._ready, *(item[2] for item in self._parked)]
        for delivery in filter(is_purged, (*behind, *waiting)):
            progress, offset = _token(delivery)
            progress.finish(offset)
        if self._is_ordered:
            for delivery in filter(is_purged, waiting):
                self._lanes[_token(delivery)[0]].follow(delivery)
        self._drop_waiting(is_purged)
        # What came after the purge waits behind its head again, if that is still there.
        self._fresh += [d for d in behind if not is_purged(d) and self._lanes[_token(d)[0]].admit(d)]
        self._member.forget_prefetched()
        self._apply_stops()

    def _drop_waiting(self, is_void: Callable[[Delivery], bool]) -> None:
        # In place: this is also called from within a poll, by code that goes on to work with them.
        for waiting in (self._fresh, self._ready):
            kept = [delivery for delivery in waiting if not is_void(delivery)]
            waiting.clear()
            waiting.extend(kept)
        self._parked[:] = [item for item in self._parked if not is_void(item[2])]
        heapq.heapify(self._parked)

    # Settlements.

    def _read_mail(self) -> None:
        # The commands are taken out before the acks, so that a barrier finds all that were handed over before it.
        commands = self._mail.drain()
        acked = self._acked
        for _ in range(len(acked)):
            self._ack_all(acked.popleft())
        for command in commands:
            command()

    def _ack_all(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            token: tuple[Progress, int] = delivery.token  # type: ignore[assignment] # as in `_token`, without its call
            progress, offset = token
            if progress.over:
                self._late += 1
                continue
            del progress.held[offset]
            self._unsettled -= 1
            progress.ack(offset)
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

    def _nacked(self, delivery: Delivery, delay: float, due: float) -> None:
        if self._release(delivery) is None:
            return
        if self._postponed is None or delay < LONG_NACK:
            self._repeat(delivery, due - time.time() if delay else 0.0)
            return
        self._moving[_token(delivery)] = next(self._numbers)
        self._postponed.send(delivery, due, lambda error: self._mail.post(partial(self._moved, delivery, due, error)))

    def _repeat(self, delivery: Delivery, left: float) -> None:
        """Have a nacked message wait here for the seconds that are left of its delay."""
        again = Delivery(delivery.message, delivery.attempt + 1, delivery.token, self._sink, delivery.native)
        if left > 0:
            heapq.heappush(self._parked, (time.monotonic() + left, next(self._numbers), again))
        else:
            self._ready.append(again)

    def _moved(self, delivery: Delivery, due: float, error: UnimqError | None) -> None:
        progress, offset = _token(delivery)
        self._moving.pop((progress, offset), None)
        if not progress.over:
            if error is None:
                progress.ack(offset)
            else:
                log.debug("a message of %r waits for its delay in its consumer: %s", self._topic, error)
                self._repeat(delivery, due - time.time())
        while self._behind_moves and self._behind_moves[0][0] < next(iter(self._moving.values()), sys.maxsize):
            self._start_barrier(self._behind_moves.popleft()[1])

    def _add_barrier(self, done: Barrier) -> None:
        if self._moving:
            self._behind_moves.append((next(reversed(self._moving.values())), done))
        else:
            self._start_barrier(done)

    def _start_barrier(self, done: Barrier) -> None:
        # Only what is acked and not in a confirmed commit is waited for; the rest is certain already.
        partitions = () if self._is_settled else self._member.partitions.values()
        wanted = {p: p.acked for p in partitions if p.acked > p.proven}
        self._barriers.append((done, wanted))
        self._member.commit_soon()
        self._answer_barriers()

    def _answer_barriers(self) -> None:
        """Answer those whose acks are in a confirmed commit, or are lost."""
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
            commands = self._mail.drain()
            while self._acked:
                self._late += len(self._acked.popleft())
            for command in commands:
                command()

    # `_member.Owner`, called in the owner thread.

    def committed(self) -> None:
        """See `_member.Owner.committed`."""
        if not self._is_settled:
            self._answer_barriers()

    def assigned(self) -> None:
        """See `_member.Owner.assigned`."""
        self._apply_stops()

    def is_closing(self) -> bool:
        """See `_member.Owner.is_closing`."""
        return self._is_closing

    def revoking(self, leaving: Sequence[Progress]) -> None:
        """See `_member.Owner.revoking`: nothing is delivered meanwhile, as this is the thread that delivers."""

        def is_in_work() -> bool:
            if self._is_closing:
                return False
            return any(progress.held for progress in leaving) or any(token[0] in leaving for token in self._moving)

        if self._is_settled:
            return
        self._read_mail()
        self._wait_while(is_in_work, time.monotonic() + _DRAIN)

    def _wait_while(self, condition: Callable[[], bool], until: float) -> None:
        while condition() and self._member.end is None:
            left = until - time.monotonic()
            if left <= 0:
                break
            # Every ack may be the last one that is waited for.
            self._is_wanted = True
            self._sleep(left)
            self._read_mail()

    def dropped(self, gone: Sequence[Progress]) -> None:
        """See `_member.Owner.dropped`: what is held of them is lost, what waits here is forgotten (A6)."""
        if self._is_settled:
            # All were dropped before.
            return
        lost: list[Delivery] = []
        for progress in gone:
            self._late += progress.acked - progress.proven
            lost += progress.held.values()
            self._unsettled -= len(progress.held)
            progress.held.clear()
            self._lanes.pop(progress, None)
        self._drop_waiting(lambda delivery: _token(delivery)[0].over)
        if lost:
            self._sink.lost(lost)
        self._answer_barriers()

    # The end.

    def _end_with(self, error: UnimqError) -> None:
        self._member.end = error


def _token(delivery: Delivery) -> tuple[Progress, int]:
    """Return partition and offset of a delivery; every token of this driver is such a pair."""
    return delivery.token  # type: ignore[return-value]
