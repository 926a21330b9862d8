"""The one thread that owns the connection. It does all that was posted meanwhile in one transaction: group commit."""

import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from unimq import Closed, ConnectionLost, UnimqError
from unimq.adapter import Mailbox
from unimq_sqlite._database import is_busy, open_database, typed

if TYPE_CHECKING:
    from unimq_sqlite._receiver import SQLiteReceiver

log = logging.getLogger("unimq.sqlite")
T = TypeVar("T")
Report = Callable[[], object]
"""What is to be told once the transaction is committed."""

FOREVER = float("inf")
_GRACE = 2.0
"""Seconds that a caller waits past its deadline for the owner to say so."""


@dataclass(slots=True)
class Job:
    """Something to do once in the next transaction; the owner calls `apply`, or `fail` with the reason why not."""

    apply: Callable[[sqlite3.Connection, float], Report | None]
    fail: Callable[[UnimqError], object]
    deadline: Callable[[], float] = lambda: FOREVER
    """The `time.monotonic` until which it may wait for a locked file."""


class Owner:
    """The thread with its connection. `using` is held while `db` is used; all else is the thread's own."""

    def __init__(self, path: Path, synchronous: str, poll: float, timeout: float) -> None:
        self.path = path
        self.synchronous = synchronous
        self.poll = poll
        self.receivers: list[SQLiteReceiver] = []
        self.using = threading.Lock()
        self.burying = threading.Lock()
        self.dead: UnimqError | None = None
        self._stopping = False
        self._jobs: list[Job] = []
        self._next_due = FOREVER
        self._seen: int = -1
        self._bell = threading.Event()
        self._mailbox: Mailbox[Job] = Mailbox(self._bell.set)
        self._thread = threading.Thread(target=self._run, name=f"unimq-sqlite-{path.name}", daemon=True)
        with _forking:
            try:
                self.db: sqlite3.Connection | None = open_database(path, synchronous, timeout)
            except sqlite3.Error as error:
                raise typed(error, path) from error
            _owners.add(self)
        self._thread.start()

    # Any thread.

    def post(self, job: Job) -> None:
        """Hand a job over without waiting."""
        self._mailbox.post(job)
        if self.dead is not None:
            self._bury(self.dead)

    def call(self, action: Callable[[sqlite3.Connection], T], timeout: float) -> T:
        """Do something after all that was posted before, and wait for it. It raises only before it changes anything."""
        outcome: list[T | UnimqError] = []
        done = threading.Event()
        deadline = time.monotonic() + timeout

        def finish(result: T | UnimqError) -> None:
            outcome.append(result)
            done.set()

        def apply(db: sqlite3.Connection, now: float) -> Report:
            try:
                return partial(finish, action(db))
            except UnimqError as error:
                return partial(finish, error)

        self.post(Job(apply, finish, lambda: deadline))
        done.wait(timeout + _GRACE)
        result = outcome[0] if outcome else ConnectionLost("the disk does not answer; this may have been done")
        if isinstance(result, UnimqError):
            raise result
        return result

    def close(self, timeout: float) -> None:
        """End the thread and close the connection."""
        self._stopping = True
        self._bell.set()
        self._thread.join(timeout + _GRACE)

    def _bury(self, error: UnimqError) -> None:
        with self.burying:
            late, self._jobs = self._jobs + self._mailbox.drain(), []
        for job in late:
            job.fail(error)

    # The thread.

    def _run(self) -> None:
        dead: UnimqError = Closed(f"the connection to {self.path} is closed")
        try:
            self._serve()
        except Exception as error:
            log.exception("the thread of %s ends", self.path)
            dead = ConnectionLost(f"{self.path}: {error!r}")
            dead.__cause__ = error
        with self.using:
            if self.db is not None:
                self.db.close()
        self.dead = dead
        for receiver in self.receivers:
            receiver.fail(dead)
        self._bury(dead)

    def _serve(self) -> None:
        pause = 0.0
        while not self._stopping or len(self._mailbox):
            self._bell.wait(pause if pause < FOREVER else None)
            self._bell.clear()
            self._jobs += self._mailbox.drain()
            with self.using:
                reports = self._turn()
            for job in [job for job in self._jobs if job.deadline() <= time.monotonic()]:
                self._jobs.remove(job)
                reports.append(partial(job.fail, ConnectionLost(f"{self.path} stays locked by another process")))
            for report in reports:
                try:
                    report()
                except Exception:
                    # The fault of one listener; the others still wait to be told.
                    log.exception("an outcome could not be told")
            # Not at once if it was due already: what is left is another's share, or the file is locked.
            pause = max(0.0, self._next_due - time.time()) or self.poll
            if self._jobs or any(receiver.has_room() for receiver in self.receivers):
                pause = min(pause, self.poll)

    def _turn(self) -> list[Report]:
        """Do all that there is to do in one transaction; return what is to be told of it."""
        reports: list[Report] = []
        jobs, has_begun = self._jobs, False
        try:
            if self.db is None:
                # Closed for a fork.
                self.db, self._seen = open_database(self.path, self.synchronous, 0.0), -1
            # This number changes with the commits of other connections.
            (version,) = self.db.execute("PRAGMA data_version").fetchone()
            if version != self._seen:
                self._seen, self._next_due = version, self._soonest(self.db)
            if not jobs and self._next_due > time.time():
                return reports
            self.db.execute("BEGIN IMMEDIATE")
            has_begun, now = True, time.time()
            told = [job.apply(self.db, now) for job in jobs]
            told += [receiver.apply(self.db, time.time()) for receiver in list(self.receivers)]
            self.db.execute("COMMIT")
            self._jobs = jobs = []
            reports = [report for report in told if report is not None]
            self._next_due = self._soonest(self.db)
        except sqlite3.Error as error:
            if self.db is not None and self.db.in_transaction:
                self.db.execute("ROLLBACK")
            if has_begun or not is_busy(error):
                failure = typed(error, self.path)
                reports += [partial(job.fail, failure) for job in jobs]
                reports += [partial(receiver.fail, failure) for receiver in self.receivers]
                self._jobs = []
        return reports

    def _soonest(self, db: sqlite3.Connection) -> float:
        return min((receiver.due(db) for receiver in self.receivers), default=FOREVER)


# SQLite must not be carried through a fork: the child would believe in locks that only the parent holds. So connections
# are closed before one and opened again in the parent, and the child opens its own.
_owners: weakref.WeakSet[Owner] = weakref.WeakSet()
_suspended: list[Owner] = []
_forking = threading.Lock()


def _before_fork() -> None:
    _forking.acquire()
    for owner in list(_owners):
        owner.using.acquire()
        _suspended.append(owner)
        if owner.db is not None:
            owner.db.close()
            owner.db = None


def _in_parent() -> None:
    while _suspended:
        _suspended.pop().using.release()
    _forking.release()


def _in_child() -> None:
    for owner in _suspended:
        owner.burying = threading.Lock()
        owner.dead = Closed(f"it was opened by the parent process {os.getppid()}; connect again in this process")
    _suspended.clear()
    _owners.clear()
    _forking.release()


os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)
