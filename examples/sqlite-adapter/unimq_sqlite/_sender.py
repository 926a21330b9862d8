"""Sending: rows are made in the caller's thread and stored by the owner, together with those of everybody else."""

import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import msgspec

from unimq import MessageTooLarge, Queue, QueueFull, SendRejected, SendUnknown, Topic, UnimqError, Unroutable
from unimq.adapter import OutcomeSink, Outgoing, Target
from unimq_sqlite._database import declared, find
from unimq_sqlite._owner import FOREVER, Job, Owner, Report

_INSERT = """
INSERT INTO unimq_messages (queue, lane, waits, ready_at, key, headers, id, content_type, correlation_id, reply_to,
    sent_at, expires_at, body)
VALUES (?1, ?2, EXISTS (SELECT 1 FROM unimq_messages WHERE queue = ?1 AND lane = ?2), ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10,
    ?11, ?12)
"""
_WAITING = "SELECT count(*) FROM unimq_messages WHERE queue = ? AND receiver IS NULL"
_DROP_OLDEST = """
DELETE FROM unimq_messages WHERE position IN (
    SELECT position FROM unimq_messages WHERE queue = ?1 AND receiver IS NULL ORDER BY position
    LIMIT max(0, (SELECT count(*) FROM unimq_messages WHERE queue = ?1 AND receiver IS NULL) - ?2))
"""


class SQLiteSender:
    """Sends to one queue or topic; see `unimq.adapter.Sender`."""

    is_immediate = False

    def __init__(self, owner: Owner, target: Target, sink: OutcomeSink, max_message_bytes: int) -> None:
        self.owner = owner
        self.target = target
        self.sink = sink
        self.limit = max_message_bytes
        self.closes_at = FOREVER

    def submit(self, entries: Sequence[Outgoing]) -> None:
        rows: dict[Outgoing, tuple[object, ...]] = {}
        for entry in entries:
            m = entry.message
            headers = msgspec.msgpack.encode(dict(m.headers)) if m.headers else None
            size = len(m.body) + len((m.key or "").encode()) + len(headers or b"")
            if size > self.limit:
                text = f"{size} bytes with key and headers; max_message_bytes is {self.limit}"
                self.sink.failed((entry,), MessageTooLarge(text, message_id=m.id))
                continue
            rest = (m.content_type, m.correlation_id, m.reply_to, m.sent_at, m.expires_at, m.body)
            rows[entry] = (m.key, headers, m.id, *rest)
        if rows:
            first = min(entry.deadline for entry in rows)
            store, fail = partial(self._store, rows), partial(self._fail, list(rows))
            self.owner.post(Job(store, fail, lambda: min(first, self.closes_at)))

    def flush(self) -> None:
        """Nothing lingers."""

    def close(self, timeout: float) -> None:
        self.closes_at = min(self.closes_at, time.monotonic() + timeout)
        with suppress(UnimqError):  # Every entry was told the same.
            self.owner.call(lambda db: None, timeout)

    # The owner's thread.

    def _queues(self, db: sqlite3.Connection) -> list[tuple[int, Queue | Topic]]:
        number, target = find(db, self.target)
        if isinstance(target, Queue):
            return [(number, target)]
        rows = db.execute("SELECT id, policy FROM unimq_destinations WHERE topic = ?", (target.name,)).fetchall()
        if not rows and target.require_subscription:
            raise Unroutable(f"topic {target.name!r} has no subscription, and require_subscription is set")
        return [(number, declared("queue", policy)) for number, policy in rows]

    def _store(self, rows: dict[Outgoing, tuple[object, ...]], db: sqlite3.Connection, now: float) -> Report:
        """Store each message in every queue or, if one of them is full, in none (T3, G2)."""
        entries = list(rows)
        try:
            queues = [(number, queue) for number, queue in self._queues(db) if isinstance(queue, Queue)]
        except UnimqError as error:
            return partial(self.sink.failed, entries, error)
        room, full = len(entries), ""
        for number, queue in queues:
            if queue.max_length is not None and queue.overflow == "reject":
                free = max(0, queue.max_length - db.execute(_WAITING, (number,)).fetchone()[0])
                if free < room:
                    room, full = free, f"{queue.name!r} holds its max_length of {queue.max_length} messages"
        for entry, row in zip(entries[:room], rows.values(), strict=False):
            key, delay = entry.message.key, entry.message.delay
            for number, queue in queues:
                # A delayed message joins the lane of its key when it is due (T2).
                lane = key if queue.ordering == "key" and not delay else None
                position = db.execute(_INSERT, (number, lane, now + delay, *row)).lastrowid
                entry.position = position if isinstance(self.target, Queue) else None
        for number, queue in queues:
            if queue.max_length is not None and queue.overflow == "drop_oldest":
                db.execute(_DROP_OLDEST, (number, min(queue.max_length, 2**62)))
        return partial(self._tell, entries[:room], entries[room:], QueueFull(full))

    def _tell(self, stored: list[Outgoing], refused: list[Outgoing], why: QueueFull) -> None:
        self.sink.stored(stored)
        self.sink.failed(refused, why)

    def _fail(self, entries: list[Outgoing], error: UnimqError) -> None:
        if error.retryable:
            # SQLite failed amid the transaction, or else the file was locked and nothing was begun (S2).
            kind = SendUnknown if isinstance(error.__cause__, sqlite3.Error) else SendRejected
            cause, error = error, kind(str(error))
            error.__cause__ = cause
        self.sink.failed(entries, error)
