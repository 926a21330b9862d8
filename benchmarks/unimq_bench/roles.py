"""The process of a role: it connects one row, is told on standard input what to do, and answers on standard output.

``python -m unimq_bench.roles``, one JSON document per line. Several tasks at a time run in threads, which is how
``memory://`` is measured; a single one is done in the main thread. The process ends with its parent: when standard
input ends, so does it.
"""

import importlib
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from unimq_bench.consuming import consume
from unimq_bench.producing import produce
from unimq_bench.progress import Progress
from unimq_bench.rows.protocol import Connection
from unimq_bench.tasks import Receiving, Report, Sending, Task, task_of

_STEP = 0.05
"""Seconds between two looks at the tasks that run."""
_STEPS_PER_PROGRESS = 5


class Role:
    """One process. Standard output belongs to `_tell`, under its lock."""

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        self._tell_unlocked = tell
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._running: list[Progress] = []
        self._orders: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def tell(self, what: str, **fields: object) -> None:
        """Tell the harness."""
        with self._lock:
            self._tell_unlocked({"what": what, **fields})

    def hear(self, order: dict[str, Any] | None) -> None:
        """Take an order, in the thread that reads; those that concern running tasks take effect at once."""
        if order is None:
            self._orders.put(None)
        elif order["order"] == "go":
            for progress in self._running:
                progress.go(order["start"])
        elif order["order"] == "stop":
            for progress in self._running:
                progress.stop()
        elif order["order"] == "work":
            # Made here, so that a "go" that follows at once finds it.
            self._running = [Progress() for _ in order["tasks"]]
            for progress, document in zip(self._running, order["tasks"], strict=True):
                progress.receives = document["task"] == Receiving.__name__
            self._orders.put(order)
        else:
            self._orders.put(order)

    def obey(self) -> None:
        """Do what is told, until there is nothing more."""
        while (order := self._orders.get()) is not None:
            try:
                if not self._do(order):
                    return
            except Exception as error:  # noqa: BLE001 - told to the harness, whatever it is
                self.tell("failed", error=f"{type(error).__name__}: {error}", trace=traceback.format_exc())

    def _do(self, order: dict[str, Any]) -> bool:
        name = order["order"]
        if name == "connect":
            module = importlib.import_module(order["module"])
            self._connection = module.connect(order["url"], order["options"])
            self.tell("done", result=None)
        elif name == "prepare":
            self._connected.prepare(order["queue"])
            # Only now is it known how the queue really is.
            self.tell("done", result=asdict(self._connected.description))
        elif name == "remove":
            self._connected.remove(order["queue"])
            self.tell("done", result=None)
        elif name == "count":
            self.tell("done", result=dict(self._connected.counters()))
        elif name == "work":
            self._work([task_of(document) for document in order["tasks"]])
        elif name == "close":
            if self._connection is not None:
                self._connection.close()
            self.tell("done", result=None)
            return False
        else:
            raise ValueError(f"no such order: {name!r}")
        return True

    @property
    def _connected(self) -> Connection:
        if self._connection is None:
            raise RuntimeError("not connected yet")
        return self._connection

    def _work(self, tasks: list[Task]) -> None:
        over = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(over,), name="progress", daemon=True)
        ticker.start()
        outcomes: list[Report | Exception] = [Report()] * len(tasks)
        connection = self._connected

        def do(index: int) -> None:
            progress = self._running[index]
            try:
                report = outcomes[index] = perform(connection, tasks[index], progress, f"{os.getpid()}-{index}")
                self.tell("finished", task=index, stored=report.sent - len(report.failed))
            except Exception as error:  # noqa: BLE001 - raised in the main thread
                outcomes[index] = error
                progress.ready.set()
                for other in self._running:
                    other.stop()

        try:
            if len(tasks) == 1:
                do(0)
            else:
                threads = [threading.Thread(target=do, args=(index,)) for index in range(len(tasks))]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
        finally:
            over.set()
            ticker.join()
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        self.tell("done", result=[asdict(outcome) for outcome in outcomes if isinstance(outcome, Report)])

    def _tick(self, over: threading.Event) -> None:
        """Tell when all tasks are prepared, then how they stand."""
        for progress in self._running:
            progress.ready.wait()
        self.tell("ready")
        joining = [progress for progress in self._running if progress.receives]
        ticks = 0
        while True:
            is_over = over.wait(_STEP)
            ticks += 1
            if joining and all(progress.joined for progress in joining):
                self.tell("joined", at=max(progress.joined for progress in joining))
                joining = []
            if is_over or ticks % _STEPS_PER_PROGRESS == 0:
                self._tell_progress()
            if is_over:
                return

    def _tell_progress(self) -> None:
        times = [p99 for progress in self._running if (p99 := progress.p99()) is not None]
        self.tell(
            "progress",
            sent=sum(progress.sent for progress in self._running),
            received=sum(progress.received for progress in self._running),
            p99=max(times, default=None),
        )


def perform(connection: Connection, task: Task, progress: Progress, name: str) -> Report:
    """Do one task."""
    if isinstance(task, Sending):
        return produce(connection, task, progress)
    return consume(connection, task, progress, name)


def main() -> None:
    """Serve one harness."""
    # What a client library prints must not get between the lines.
    out = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    role = Role(lambda document: print(json.dumps(document), file=out, flush=True))

    def read() -> None:
        for line in sys.stdin:
            role.hear(json.loads(line))
        # The harness is gone, and nobody is left who could use the rest.
        os._exit(1)

    threading.Thread(target=read, name="orders", daemon=True).start()
    role.obey()
    out.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
