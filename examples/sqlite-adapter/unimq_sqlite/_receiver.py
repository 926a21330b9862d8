"""Receiving: claims, leases and settlements of one consumer."""

import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import msgspec

from unimq import LeaseLost, NotFound, Queue, UnimqError
from unimq.adapter import NO_HEADERS, Delivery, DeliverySink, Message
from unimq_sqlite._database import find
from unimq_sqlite._owner import FOREVER, Job, Owner, Report

# The fence: another delivery of the message has another receiver or another number (A6).
_ACK = "DELETE FROM unimq_messages WHERE (position, receiver, attempts) = (?1, ?2, ?3)"
_NACK = "UPDATE unimq_messages SET receiver = NULL, ready_at = ?4 WHERE (position, receiver, attempts) = (?1, ?2, ?3)"
_EXTEND = "UPDATE unimq_messages SET lease_until = ?4 WHERE (position, receiver, attempts) = (?1, ?2, ?3)"
_END_LEASES = "UPDATE unimq_messages SET receiver = NULL WHERE queue = ? AND receiver IS NOT NULL AND lease_until <= ?"
_GIVE_BACK = "UPDATE unimq_messages SET receiver = NULL, attempts = attempts - ? WHERE receiver = ?"
# Of what is ready, so that each consumer gets work (G1); what the others leave is taken at the next look.
_SHARE = """
WITH receivers (number) AS (SELECT max(1, count(*)) FROM unimq_receivers WHERE queue = ?1),
    ready (number) AS (SELECT count(*) FROM (SELECT 1 FROM unimq_messages WHERE queue = ?1 AND receiver IS NULL
        AND waits = 0 AND ready_at <= ?2 LIMIT ?3 * (SELECT number FROM receivers)))
SELECT min(?3, (ready.number + receivers.number - 1) / receivers.number) FROM ready, receivers
"""
_FIND = """
SELECT position, attempts + 1, lane, body, key, headers, id, content_type, correlation_id, reply_to, 0.0, NULL,
    sent_at, expires_at
FROM unimq_messages WHERE queue = ? AND receiver IS NULL AND waits = 0 AND ready_at <= ?
ORDER BY ready_at, position LIMIT ?
"""
_TAKE = "UPDATE unimq_messages SET receiver = ?, lease_until = ?, attempts = attempts + 1 WHERE position = ?"
_JOIN_LANE = """
UPDATE unimq_messages SET lane = ?1, waits = EXISTS (SELECT 1 FROM unimq_messages WHERE queue = ?2 AND lane = ?1)
WHERE position = ?3
"""
_DUE = """
SELECT min(at) FROM (
    SELECT min(ready_at) AS at FROM unimq_messages WHERE ?2 AND queue = ?1 AND receiver IS NULL AND waits = 0
    UNION ALL SELECT min(lease_until) FROM unimq_messages WHERE queue = ?1 AND receiver IS NOT NULL
    UNION ALL SELECT min(alive_until) FROM unimq_receivers WHERE queue = ?1
    UNION ALL SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM unimq_receivers WHERE id = ?3))
"""
_MISSED_HEARTBEATS = 3
_KEPT_ERRORS = 1000


class SQLiteReceiver:
    """One consumer; see `unimq.adapter.Receiver`. What it holds is marked in the file with its row `number`, and stays
    its own while heartbeats keep that row alive. `number`, `held`, `errors` and `beat_at` are the owner's thread's.
    """

    def __init__(self, owner: Owner, queue: Queue, sink: DeliverySink, prefetch: int, heartbeat: float) -> None:
        self.owner = owner
        self.queue = queue
        self.sink = sink
        self.prefetch = min(prefetch, 2**31)
        self.heartbeat = heartbeat
        self.paused = self.ended = False
        self.number = self.queue_number = 0
        self.beat_at = 0.0
        self.held: dict[int, Delivery] = {}
        self.errors: deque[UnimqError] = deque(maxlen=_KEPT_ERRORS)

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        self._settle(_ACK, deliveries)

    def nack(self, delivery: Delivery, delay: float) -> None:
        self._settle(_NACK, (delivery,), delay)

    def extend(self, delivery: Delivery, duration: float) -> None:
        if self.queue.lease is not None:
            delivery.lease_until = time.monotonic() + duration
            self._settle(_EXTEND, (delivery,), duration)

    def _settle(self, statement: str, deliveries: Sequence[Delivery], after: float | None = None) -> None:
        def apply(db: sqlite3.Connection, now: float) -> None:
            until = () if after is None else (now + after,)
            for delivery in deliveries:
                position = cast("int", delivery.token)
                is_held = self.held.get(position) is delivery
                if is_held and statement is not _EXTEND:
                    del self.held[position]
                if not is_held or not db.execute(statement, (position, self.number, delivery.attempt, *until)).rowcount:
                    self.errors.append(LeaseLost(f"message {delivery.id} is not held here any more"))

        self.owner.post(Job(apply, self.errors.append))

    def barrier(self, done: Callable[[Sequence[UnimqError]], None]) -> None:
        def tell(*failure: UnimqError) -> None:
            errors = [*self.errors, *failure]
            self.errors.clear()
            done(errors)

        ask: Callable[[], object] = partial(self.owner.post, Job(lambda db, now: tell, tell))
        # What the close could not wait for, nobody waits for.
        (tell if self.ended else ask)()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        self.owner.post(Job(lambda db, now: None, self.errors.append))

    def close(self, timeout: float) -> None:
        self.ended = True
        try:
            self.owner.call(self._leave, timeout)
        except UnimqError as error:
            # Without further heartbeats what it held returns all the same.
            self.errors.append(error)

    # The owner's thread.

    def join(self, db: sqlite3.Connection) -> None:
        """Enter the file as a consumer, or raise `NotFound`."""
        self.queue_number, queue = find(db, self.queue)
        self.queue = cast("Queue", queue)
        self._beat(db, time.time(), None)
        self.owner.receivers.append(self)

    def _leave(self, db: sqlite3.Connection) -> None:
        self.owner.receivers = [receiver for receiver in self.owner.receivers if receiver is not self]
        self._give_back(db, self.number, uncounted=1)  # A close is no failed delivery (A9).

    def _beat(self, db: sqlite3.Connection, now: float, number: int | None) -> None:
        """Give a sign of life under this number, or enter under a new one."""
        row = (number, self.queue_number, now + self.heartbeat * _MISSED_HEARTBEATS)
        self.number = db.execute("INSERT OR REPLACE INTO unimq_receivers VALUES (?, ?, ?)", row).lastrowid or 0
        self.beat_at = now + self.heartbeat

    def _give_back(self, db: sqlite3.Connection, number: int, *, uncounted: int) -> None:
        db.execute(_GIVE_BACK, (uncounted, number))
        db.execute("DELETE FROM unimq_receivers WHERE id = ?", (number,))

    def has_room(self) -> bool:
        """Tell whether it would take a message (R3)."""
        return not self.ended and not self.paused and len(self.held) < self.prefetch

    def due(self, db: sqlite3.Connection) -> float:
        """Return the Unix time at which there is something to do."""
        if self.ended:
            return FOREVER
        at: float = db.execute(_DUE, (self.queue_number, self.has_room(), self.number)).fetchone()[0]
        return min(self.beat_at, at)

    def fail(self, error: UnimqError) -> None:
        """Tell that the consumer has ended."""
        if not self.ended:
            self.ended = True
            self.sink.lost(list(self.held.values()))
            self.sink.failed(error)

    def apply(self, db: sqlite3.Connection, now: float) -> Report | None:
        """See that what is held elsewhere without right returns, and claim messages; in every transaction."""
        if self.ended:
            return None
        lost = list(self.held.values())
        if db.execute("SELECT 1 FROM unimq_receivers WHERE id = ?", (self.number,)).fetchone():
            lost = [delivery for delivery in lost if 0 < delivery.lease_until <= time.monotonic()]
            if now >= self.beat_at:
                self._beat(db, now, self.number)
        elif db.execute("SELECT 1 FROM unimq_destinations WHERE id = ?", (self.queue_number,)).fetchone():
            # This process stood still so long that another took it for dead.
            self._beat(db, now, None)
        else:
            return partial(self.fail, NotFound(f"queue {self.queue.name!r} was deleted"))
        for delivery in lost:
            del self.held[cast("int", delivery.token)]
        db.execute(_END_LEASES, (self.queue_number, now))
        dead = "SELECT id FROM unimq_receivers WHERE queue = ? AND alive_until <= ?"
        for (number,) in db.execute(dead, (self.queue_number, now)).fetchall():
            self._give_back(db, number, uncounted=0)
        found = self._claim(db, now) if self.has_room() else []
        return partial(self._tell, lost, found)

    def _claim(self, db: sqlite3.Connection, now: float) -> list[Delivery]:
        (share,) = db.execute(_SHARE, (self.queue_number, now, self.prefetch - len(self.held))).fetchone()
        lease = self.queue.lease_seconds
        # The lease here ends no later than the one in the file, so that it is known to be lost before it is given away.
        held_until = time.monotonic() + lease if lease else 0.0
        lease_until = time.time() + lease if lease else None
        found: list[Delivery] = []
        for position, attempt, lane, *fields in db.execute(_FIND, (self.queue_number, now, share)).fetchall():
            message = Message(*fields)
            message.headers = msgspec.msgpack.decode(fields[2]) if fields[2] else NO_HEADERS
            if self.queue.ordering == "key" and lane != message.key:
                # It was delayed until now, and is the head only if its lane is empty (O1).
                db.execute(_JOIN_LANE, (message.key, self.queue_number, position))
                if db.execute("SELECT waits FROM unimq_messages WHERE position = ?", (position,)).fetchone()[0]:
                    continue
            db.execute(_TAKE, (self.number, lease_until, position))
            self.held[position] = delivery = Delivery(message, attempt, position, self.sink, None, held_until)
            found.append(delivery)
        return found

    def _tell(self, lost: list[Delivery], found: list[Delivery]) -> None:
        self.sink.lost(lost)
        if not self.ended:
            # Else its close, which comes next, gives them back.
            self.sink.deliver(found)
