"""The driver: capabilities, declarations, depths, and the opening of senders and receivers."""

import json
import platform
import sqlite3
import time
from dataclasses import asdict, fields
from typing import Annotated, Literal

import msgspec

from unimq import DeclarationConflict, NotFound, Queue, Stats, Subscription, Topic
from unimq.adapter import Capabilities, DeliverySink, OutcomeSink, Source, Target, native, queue_of, unsupported
from unimq_sqlite._database import find, kind_and_name
from unimq_sqlite._owner import Owner
from unimq_sqlite._receiver import SQLiteReceiver
from unimq_sqlite._sender import SQLiteSender

Destination = Queue | Topic | Subscription

_STATS = """
SELECT coalesce(sum(receiver IS NULL AND ready_at <= ?2), 0), coalesce(sum(receiver IS NOT NULL), 0),
    coalesce(sum(receiver IS NULL AND ready_at > ?2), 0),
    max(0.0, ?2 - min(CASE WHEN receiver IS NULL AND ready_at <= ?2 THEN sent_at END)),
    (SELECT count(*) FROM unimq_receivers WHERE queue = ?1 AND alive_until > ?2)
FROM unimq_messages WHERE queue = ?1
"""


class SQLiteOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Options of a ``sqlite:`` URL."""

    synchronous: Literal["full", "normal"] = "full"
    """``full``: what was confirmed survives a power failure. ``normal``: it survives the end of every process, but a
    power failure may undo the last confirmations; several times as fast on a disk."""
    poll: Annotated[float, msgspec.Meta(ge=0.001, le=1)] = 0.02
    """Seconds between two looks for what other processes sent. Only a consumer with room looks."""
    heartbeat: Annotated[float, msgspec.Meta(ge=0.1, le=300)] = 5.0
    """Seconds between two signs of life; after three without one the messages of a consumer return (A5)."""
    max_message_bytes: Annotated[int, msgspec.Meta(ge=1024, le=2**29)] = 16 * 1024 * 1024
    """Largest body with key and headers (S4)."""


def capabilities_of(options: SQLiteOptions) -> Capabilities:
    """Return what a file can do: the library that reads it is in this process, so that nothing is assumed."""
    at_risk = "" if options.synchronous == "full" else "synchronous=normal: a power failure may undo the last ones"
    return Capabilities(
        backend="sqlite",
        broker_version=sqlite3.sqlite_version,
        client_version=platform.python_version(),
        durable=native(at_risk),
        topics=native(),
        start_earliest=unsupported("no history is kept", "declare the subscription before sending"),
        require_subscription=native(),
        ordering_key=native(),
        delay=native("by the clock of the machine"),
        ttl=native("checked at delivery"),
        nack_delay=native(),
        lease=native("by the clock of the machine"),
        extend=native("where a lease is declared; without one a living consumer keeps what it holds"),
        max_length=native("counts what no consumer holds"),
        drop_oldest=native("counts what no consumer holds"),
        dead_letter=native(),
        redrive_subscription=native(),
        stats=native("exact"),
        purge=native(),
        pause=native(),
        attempts_exact=True,
        shutdown_counts=False,
        acks_at_risk=at_risk,
        max_message_bytes=options.max_message_bytes,
    )


class SQLiteDriver:
    """One connection to one file; see `unimq.adapter.Driver`."""

    def __init__(self, owner: Owner, options: SQLiteOptions) -> None:
        self.owner = owner
        self.options = options
        self.capabilities = capabilities_of(options)

    @property
    def native(self) -> object:
        """The path of the file, to open a connection of one's own."""
        return self.owner.path

    def declare(self, destination: Destination, *, as_is: bool, timeout: float) -> Destination:
        def action(db: sqlite3.Connection) -> Destination:
            here = destination if isinstance(destination, Topic) else queue_of(destination)
            kind, name = kind_and_name(destination)
            try:
                _, there = find(db, destination)
            except NotFound:
                topic = destination.topic.name if isinstance(destination, Subscription) else None
                row = (kind, name, json.dumps(asdict(here)), topic)
                db.execute("INSERT INTO unimq_destinations (kind, name, policy, topic) VALUES (?, ?, ?, ?)", row)
                return destination
            pairs = [(field.name, getattr(there, field.name), getattr(here, field.name)) for field in fields(here)]
            differences = [f"{policy} is {old!r}, not {new!r}" for policy, old, new in pairs if old != new]
            if differences and not as_is:
                raise DeclarationConflict(f"{kind} {name!r} exists: {', '.join(differences)}")
            return destination if isinstance(destination, Subscription) else there

        return self.owner.call(action, timeout)

    def check(self, destination: Destination, *, timeout: float) -> None:
        self.owner.call(lambda db: find(db, destination), timeout)

    def delete(self, destination: Destination, *, timeout: float) -> None:
        def action(db: sqlite3.Connection) -> None:
            topic = destination.name if isinstance(destination, Topic) else None
            which = "SELECT id FROM unimq_destinations WHERE (kind = ? AND name = ?) OR topic = ?"
            for number in db.execute(which, (*kind_and_name(destination), topic)).fetchall():
                # Those behind a head first, or else each head that goes makes the next.
                db.execute("DELETE FROM unimq_messages WHERE queue = ? AND waits = 1", number)
                db.execute("DELETE FROM unimq_messages WHERE queue = ?", number)
                db.execute("DELETE FROM unimq_receivers WHERE queue = ?", number)
                db.execute("DELETE FROM unimq_destinations WHERE id = ?", number)

        self.owner.call(action, timeout)

    def purge(self, source: Source, *, timeout: float) -> int | None:
        def action(db: sqlite3.Connection) -> int:
            waiting = "DELETE FROM unimq_messages WHERE queue = ? AND receiver IS NULL AND waits = ?"
            return sum(db.execute(waiting, (find(db, source)[0], waits)).rowcount for waits in (1, 0))

        return self.owner.call(action, timeout)

    def stats(self, source: Source, *, timeout: float) -> Stats:
        def action(db: sqlite3.Connection) -> Stats:
            row = db.execute(_STATS, (find(db, source)[0], time.time())).fetchone()
            return Stats(**dict(zip(("ready", "in_flight", "delayed", "oldest_age", "consumers"), row, strict=True)))

        return self.owner.call(action, timeout)

    def open_sender(self, target: Target, sink: OutcomeSink, *, timeout: float) -> SQLiteSender:
        return SQLiteSender(self.owner, target, sink, self.options.max_message_bytes)

    def open_receiver(self, source: Source, sink: DeliverySink, *, prefetch: int, timeout: float) -> SQLiteReceiver:
        receiver = SQLiteReceiver(self.owner, queue_of(source), sink, prefetch, self.options.heartbeat)
        self.owner.call(receiver.join, timeout)
        return receiver

    def close(self, timeout: float) -> None:
        self.owner.close(timeout)
