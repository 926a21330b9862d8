"""Members that join and leave a group all the time: every join and leave is a rebalance for the others."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

Leave = Callable[[], None]
"""Ends one member: a clean close, a kill; whatever the storm is about."""

ENDS_WITHIN = 60.0
"""Seconds that a join or a leave under way may take at the end."""


class Churn:
    """Inside its block a member joins, and leaves again one `interval` (seconds) later, over and over.

    At most `at_once` members are there at a time, the oldest leaves first; at the end of the block all leave. What a
    join or leave raises ends the storm and is raised at the end of the block.
    """

    def __init__(self, join: Callable[[], Leave], *, interval: float = 2.0, at_once: int = 1) -> None:
        self.joins = 0
        self.leaves = 0
        self._join = join
        self._interval = interval
        self._at_once = at_once
        self._members: list[Leave] = []
        self._over = threading.Event()
        self._turned = threading.Condition()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="churn", daemon=True)

    def wait_for(self, leaves: int, timeout: float) -> None:
        """Wait until so many members have left.

        Raises:
            TimeoutError: they did not.

        """
        with self._turned:
            if not self._turned.wait_for(lambda: self.leaves >= leaves or self._error is not None, timeout):
                raise TimeoutError(f"{self.leaves} of {leaves} members left within {timeout} s")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(ENDS_WITHIN)
        if self._thread.is_alive():
            raise TimeoutError(f"a member did not join or leave within {ENDS_WITHIN} s")
        if self._error is not None and error is None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                self._members.append(self._join())
                self.joins += 1
                self._over.wait(self._interval)
                if len(self._members) >= self._at_once:
                    self._let_go()
        except BaseException as error:
            self._fail(error)
        while self._members:
            try:
                self._let_go()
            except BaseException as error:
                self._fail(error)

    def _let_go(self) -> None:
        self._members.pop(0)()
        with self._turned:
            self.leaves += 1
            self._turned.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._turned:
            self._error = self._error or error
            self._turned.notify_all()
