"""A process that sends and receives as it is told, records what happens, and can be killed or frozen.

Its history is a file that is complete up to the moment of a ``kill -9``. It ends with its standard input, so also with
its parent.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

import unimq
from unimq_contract.faults.orders import Answer, Close, Consume, Order, Receive, Rest, Send, Settle, Where, Work
from unimq_contract.faults.proxy import FaultLog
from unimq_contract.history.events import Crashed, Event, Lapsed
from unimq_contract.history.log import History, read

ANSWER_WITHIN = 60.0
"""Seconds until a client that does not answer is given up and killed."""


class ClientFailed(AssertionError):
    """The client process reported an error, or ended."""


class ClientProcess:
    """The parent's side. Methods wait for the answer, save `kill`, `freeze` and `thaw`. One thread at a time.

    Raises:
        ClientFailed: by every method, with the client's own error.

    """

    def __init__(self, url: str, history: Path, log: FaultLog | None = None) -> None:
        self.path = history
        self._log = log
        self._frozen = False
        self._group = ""
        self._consumer = ""
        self._process = subprocess.Popen(
            # The URL may hold a password, which other users must not see in the list of processes.
            [sys.executable, "-m", "unimq_contract.faults.client_main", str(history)],
            env={**os.environ, "UNIMQ_URL": url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def consume(self, source: unimq.Queue | unimq.Subscription, *, prefetch: int = 100) -> None:
        """Open its consumer."""
        answer = self._order(Consume(Where.of(source), prefetch))
        self._group, self._consumer = answer.group, answer.consumer

    def send(
        self, target: unimq.Queue | unimq.Topic, count: int = 1, *, keys: tuple[str, ...] = (), size: int = 0
    ) -> int:
        """Send messages; return how many were confirmed."""
        return self._order(Send(Where.of(target), count, list(keys), size)).count

    def receive(self, count: int, *, timeout: float) -> int:
        """Receive until it holds `count` or nothing came for `timeout` seconds; return how many it holds."""
        return self._order(Receive(count, timeout)).count

    def settle(self, count: int, *, nack: bool = False, confirm: bool = True) -> int:
        """Ack, or nack, its `count` oldest; return how many were settled: those that it lost are not."""
        return self._order(Settle(count, nack, confirm)).count

    def work(self, *, nack: int = 0, hold: float = 0.0) -> None:
        """Let it receive and ack in the background."""
        self._order(Work(nack, hold))

    def rest(self) -> int:
        """End the background work; return how many deliveries it settled."""
        return self._order(Rest()).count

    def kill(self) -> None:
        """``kill -9``, with what it holds; returns when it is gone."""
        self._crashed()
        self._process.kill()
        self._process.wait()
        self._close_pipes()

    def freeze(self) -> None:
        """SIGSTOP; returns when it stands still, with its connections open. A fault until `thaw`."""
        if self._log is not None:
            self._log.down("client frozen")
        self._frozen = True
        self._process.send_signal(signal.SIGSTOP)
        # Looked at and not taken, so that its end can still be waited for.
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)
        if self._frozen and self._log is not None:
            self._log.up("client frozen")
        self._frozen = False

    def lapsed(self) -> None:
        """Record that its group gave it up while it was frozen; call this once the group's state shows it."""
        if isinstance(self._log, History):
            self._log.record(Lapsed(time.monotonic_ns(), self._group, self._consumer))

    def close(self) -> None:
        """Close its consumer and connection in good order, and end it. Idempotent, also after `kill`."""
        if self._process.poll() is None:
            if self._frozen:
                self.thaw()
            try:
                self._order(Close())
            finally:
                self._end()
        self._close_pipes()

    def events(self) -> list[Event]:
        """Return what it recorded; complete once it has ended, by whatever means."""
        return read(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except ClientFailed:
            if error is None:
                raise

    def _order(self, order: Order) -> Answer:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        # A client that hangs must not hang the test: its end ends the reading.
        alarm = threading.Timer(ANSWER_WITHIN, self._process.kill)
        alarm.daemon = True
        alarm.start()
        try:
            stdin.write(msgspec.json.encode(order) + b"\n")
            stdin.flush()
            line = stdout.readline()
        except (BrokenPipeError, ValueError):
            line = b""
        finally:
            alarm.cancel()
            alarm.join()
        if not line:
            raise ClientFailed(f"the client process ended with {self._process.wait()} at {order}")
        answer = msgspec.json.decode(line, type=Answer)
        if answer.error:
            raise ClientFailed(f"{order}: {answer.error}")
        return answer

    def _crashed(self) -> None:
        if self._consumer and isinstance(self._log, History):
            self._log.record(Crashed(time.monotonic_ns(), self._group, self._consumer))

    def _end(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(ANSWER_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
