"""The processes of the roles, as the harness holds them: it gives orders, waits for answers, and ends them.

One lock, that of the crew, guards what the readers of their answers write; the harness waits on its condition.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from unimq_bench.rows.protocol import Description
from unimq_bench.tasks import Report, Task, document_of, report_of

_ANSWER_WITHIN = 60.0
_LOG_LINES = 5
_ROLE = "unimq_bench.roles"


class RoleFailed(Exception):
    """A role could not do what it was told, or its process ended; the message says what it said."""


class Role:
    """One process. Used by the harness's thread; its reader only writes under the crew's lock."""

    def __init__(self, crew: "Crew", python: str, paths: Sequence[str]) -> None:
        self._crew = crew
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [environment.get("PYTHONPATH")])])
        # In a session of its own: Ctrl-C is for the harness, which ends the roles in good order.
        self._process = subprocess.Popen(
            [python, "-m", _ROLE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
            encoding="utf-8",
            bufsize=1,
            start_new_session=True,
        )
        self.is_ready = False
        self.joined = 0
        self.sent = 0
        self.received = 0
        self.p99: float | None = None
        self.finished: dict[int, int] = {}
        """By number of the task: the messages that it sent and that are stored."""
        self._answer: dict[str, Any] | None = None
        self._gone = False
        self._reader = threading.Thread(target=self._read, name="role", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it was made with a pipe
        with contextlib.suppress(ValueError, OSError):
            for line in self._process.stdout:
                document = json.loads(line)
                with self._crew.changed:
                    self._take(document)
                    self._crew.changed.notify_all()
        with self._crew.changed:
            self._gone = True
            self._crew.changed.notify_all()

    def _take(self, document: dict[str, Any]) -> None:
        what = document["what"]
        if what == "progress":
            self.sent, self.received = document["sent"], document["received"]
            self.p99 = document["p99"]
        elif what == "ready":
            self.is_ready = True
        elif what == "finished":
            self.finished[document["task"]] = document["stored"]
        elif what == "joined":
            self.joined = document["at"]
        else:
            self._answer = document

    def _order(self, order: str, **fields: object) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it was made with a pipe
        try:
            self._process.stdin.write(json.dumps({"order": order, **fields}) + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError) as error:
            raise self._failure() from error

    def _failure(self) -> RoleFailed:
        """Return what the process said at its end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()[-_LOG_LINES:]
        code = self._process.poll()
        return RoleFailed(f"a role ended with code {code}: {' / '.join(lines) or 'without a word'}")

    @property
    def has_answered(self) -> bool:
        """Whether the last order is done, has failed, or will never be."""
        return self._answer is not None or self._gone

    def result(self) -> Any:
        """Return the result of the last order, which has answered.

        Raises:
            RoleFailed: it could not do it.

        """
        with self._crew.changed:
            answer, self._answer = self._answer, None
        if answer is None:
            raise self._failure()
        if answer["what"] == "failed":
            error = RoleFailed(answer["error"])
            error.add_note(answer["trace"])
            raise error
        return answer["result"]

    def forget(self) -> None:
        """Drop the answer to the last order: nobody asks for it any more."""
        with self._crew.changed:
            self._answer = None

    def ask(self, order: str, *, timeout: float = _ANSWER_WITHIN, **fields: object) -> Any:
        """Give an order and wait for its result.

        Raises:
            RoleFailed: it could not do it, or did not answer in time.

        """
        self._order(order, **fields)
        return self._answer_to(order, timeout)

    def _answer_to(self, order: str, timeout: float) -> Any:
        if not self._crew.wait_for(lambda: self.has_answered, timeout):
            raise RoleFailed(f"a role did not answer {order!r} within {timeout:g} s")
        return self.result()

    def begin_connect(self, module: str, url: str, options: Mapping[str, str]) -> None:
        """Let it connect the row of a module, and do not wait for that."""
        self._order("connect", module=module, url=url, options=dict(options))

    def end_connect(self) -> None:
        """Wait until it is connected."""
        self._answer_to("connect", _ANSWER_WITHIN)

    def connect(self, module: str, url: str, options: Mapping[str, str]) -> None:
        """Connect the row of a module."""
        self.begin_connect(module, url, options)
        self.end_connect()

    def prepare(self, queue: str) -> Description:
        """Make a queue, empty, and return the settings in force."""
        return Description(**self.ask("prepare", queue=queue))

    def counters(self) -> dict[str, int]:
        """Return what its client has counted."""
        counts: dict[str, int] = self.ask("count")
        return counts

    def begin(self, tasks: Sequence[Task]) -> None:
        """Start to prepare tasks; they start to work on `go`."""
        with self._crew.changed:
            self.is_ready, self.joined, self.sent, self.received, self.p99 = False, 0, 0, 0, None
            self.finished = {}
            self._answer = None
        self._order("work", tasks=[document_of(task) for task in tasks])

    def go(self, start: int = 0) -> None:
        """Let the tasks start at this moment of the monotonic clock, in nanoseconds; now, if none is given."""
        self._order("go", start=start or time.monotonic_ns())

    def stop(self) -> None:
        """Let the tasks end."""
        with contextlib.suppress(RoleFailed):
            self._order("stop")

    def reports(self) -> list[Report]:
        """Return the reports of the tasks, which have answered."""
        return [report_of(document) for document in self.result()]

    def work(self, tasks: Sequence[Task], *, timeout: float) -> list[Report]:
        """Do tasks from start to end."""
        self.begin(tasks)
        self._crew.wait_for(lambda: self.is_ready or self.has_answered, _ANSWER_WITHIN)
        self.go()
        if not self._crew.wait_for(lambda: self.has_answered, timeout):
            self.stop()
            raise RoleFailed(f"a role was not done within {timeout:g} s")
        return self.reports()

    def close(self, timeout: float) -> None:
        """End the process: in good order if it can within `timeout` seconds."""
        with contextlib.suppress(RoleFailed):
            self.stop()
            self.ask("close", timeout=timeout)
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(timeout)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()


class Crew:
    """The roles of one run. Leaving the ``with`` block ends them all."""

    def __init__(self, paths: Sequence[str] = ()) -> None:
        self.changed = threading.Condition()
        self.roles: list[Role] = []
        self._folder = tempfile.TemporaryDirectory(prefix="unimq-bench-")
        self.folder = Path(self._folder.name)
        """Where roles leave what is too much for a line."""
        # A peer's interpreter finds this package and nothing else of ours.
        package = self.folder / "path"
        package.mkdir()
        (package / "unimq_bench").symlink_to(Path(__file__).parent.resolve(), target_is_directory=True)
        self._paths = [str(package), *paths]

    def start(self, python: str = sys.executable) -> Role:
        """Start one more process."""
        role = Role(self, python, self._paths)
        self.roles.append(role)
        return role

    def wait_for(
        self, condition: Callable[[], bool], timeout: float, *, tick: Callable[[], None] | None = None
    ) -> bool:
        """Wait until the condition holds; return whether it does. `tick` is called four times a second."""
        deadline = time.monotonic() + timeout
        while True:
            until = min(deadline, time.monotonic() + 0.25)
            with self.changed:
                while not (holds := condition()) and (left := until - time.monotonic()) > 0:
                    self.changed.wait(left)
            if tick is not None:
                tick()
            if holds or time.monotonic() >= deadline:
                return holds

    def close(self, timeout: float = 10.0) -> None:
        """End every process."""
        roles, self.roles = self.roles, []
        enders = [threading.Thread(target=role.close, args=(timeout,)) for role in roles]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(1.0 if isinstance(error, KeyboardInterrupt) else 10.0)
