"""The file: how it is opened, what its errors mean, and which destinations are in it."""

import json
import sqlite3
import time
from functools import lru_cache
from pathlib import Path

from unimq import AuthError, ConfigError, ConnectionLost, NotFound, Queue, Subscription, Topic, UnimqError
from unimq.adapter import queue_of

_SCHEMA = Path(__file__).with_name("schema.sql")
_FORMAT = 1
_BUSY_SLICE = 0.1
"""Seconds that SQLite itself waits for a lock; in between, the owner looks at deadlines."""


def is_busy(error: BaseException) -> bool:
    """Tell whether another connection held the lock, so that the same may work later."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def typed(error: sqlite3.Error, path: Path) -> UnimqError:
    """Return the error of unimq for one of SQLite, which is its cause (E1)."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    kind: type[UnimqError] = ConnectionLost
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}:
        kind = AuthError
    elif code in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
        kind = ConfigError
    found = kind(f"{path}: {error}")
    found.__cause__ = error
    return found


def open_database(path: Path, synchronous: str, timeout: float) -> sqlite3.Connection:
    """Open the file and make its tables; wait up to `timeout` seconds for others that keep it locked.

    Raises:
        sqlite3.Error: see `typed`.
        ConfigError: the file is of another format, or its file system cannot keep a write-ahead log.

    """
    deadline = time.monotonic() + timeout
    while True:
        # One thread uses it at a time; that this is so is the business of the owner.
        db = sqlite3.connect(path, timeout=_BUSY_SLICE, isolation_level=None, check_same_thread=False)
        try:
            db.executescript(f"PRAGMA synchronous = {synchronous}; PRAGMA fullfsync = 1")
            if db.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
                raise ConfigError(f"{path}: no write-ahead log is possible here; is this a network file system?")
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'unimq_next_of_lane'").fetchone():
                # Others may do the same at the same time, which is why it makes only what is missing.
                db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA.read_text(encoding='utf-8')} COMMIT")
            (version,) = db.execute("SELECT version FROM unimq_format").fetchone()
            if version != _FORMAT:
                raise ConfigError(f"{path} has format {version}; this unimq-sqlite reads format {_FORMAT}")
            return db
        except BaseException as error:
            db.close()
            # Two that switch a new file to WAL at once get this without SQLite's own wait.
            if not is_busy(error) or time.monotonic() >= deadline:
                raise
        time.sleep(0.01)


def kind_and_name(destination: Queue | Topic | Subscription) -> tuple[str, str]:
    """Return the key of a destination."""
    return ("topic", destination.name) if isinstance(destination, Topic) else ("queue", queue_of(destination).name)


def find(db: sqlite3.Connection, destination: Queue | Topic | Subscription) -> tuple[int, Queue | Topic]:
    """Return id and policies of a destination as it was declared, or raise `NotFound` (S4)."""
    kind, name = kind_and_name(destination)
    found = db.execute("SELECT id, policy FROM unimq_destinations WHERE kind = ? AND name = ?", (kind, name)).fetchone()
    if found is None:
        raise NotFound(f"{kind} {name!r} does not exist in this file; declare it first")
    return found[0], declared(kind, found[1])


@lru_cache(maxsize=1000)
def declared(kind: str, policy: str) -> Queue | Topic:
    """Return the destination of a stored policy."""
    return (Topic if kind == "topic" else Queue)(**json.loads(policy))
