"""A TCP proxy on 127.0.0.1 that does to a connection what networks do: cut it, swallow it, slow it down.

    with FaultProxy(("127.0.0.1", 5672)) as proxy:
        connect(f"amqp://127.0.0.1:{proxy.port}")
        proxy.stall("down")
        ...
        proxy.heal()
        assert proxy.counters().hits["stall"]

It runs in a thread, or in a process of its own (``process=True``, or ``python -m unimq_contract.faults.proxy HOST
PORT``, which prints its port and then reads commands and writes counters as JSON lines), where it takes no time from
the program under test. A program that is told by its server where to connect (Kafka) needs a server that tells the
proxy's port: choose it with ``port``.
"""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Generator
from concurrent.futures import Future
from types import TracebackType
from typing import Protocol, Self, TypeVar

import msgspec

from unimq_contract.faults.commands import (
    BOTH,
    Ask,
    Command,
    Counters,
    Cut,
    Delay,
    Direction,
    HalfOpen,
    Heal,
    Refuse,
    ResetAfter,
    Side,
    Stall,
    Throttle,
)
from unimq_contract.faults.relay import Relay

ANSWER_WITHIN = 10.0
"""Seconds within which the proxy obeys; longer means that it is broken."""


T = TypeVar("T")


class FaultLog(Protocol):
    """Where faults are noted: a `unimq_contract.history.History`, for one."""

    def down(self, what: str) -> None: ...
    def up(self, what: str) -> None: ...


class _Carrier(Protocol):
    """Where the proxy runs."""

    @property
    def port(self) -> int: ...
    def obey(self, command: Command) -> Counters: ...
    def close(self) -> None: ...


class FaultProxy:
    """The proxy. Faults add up until `heal`; each call returns when it is in effect. One thread at a time.

    With a `log` every fault is noted before it takes effect, and as over once it is: at once for `cut`, which is over
    when it is done, at `heal` for those that last.
    """

    def __init__(
        self, server: tuple[str, int], *, port: int = 0, process: bool = False, log: FaultLog | None = None
    ) -> None:
        self._carrier: _Carrier = _InProcess(server, port) if process else _InThread(server, port)
        self._log = log
        self._lasting: list[str] = []
        self.port = self._carrier.port
        """Where clients connect, on 127.0.0.1."""

    def cut(self) -> None:
        """Reset every connection (RST on both sides). New ones are accepted."""
        self._note("cut")
        self._carrier.obey(Cut())
        if self._log is not None:
            self._log.up("cut")

    def refuse(self) -> None:
        """Reset new connections; those that exist live on."""
        self._start("refuse", Refuse())

    def stall(self, *directions: Direction) -> None:
        """Move nothing in these directions, or at all: a black hole. What was swallowed flows after `heal`.

        While both directions stall, new connections are accepted and go nowhere.
        """
        self._start("stall", Stall(directions or BOTH))

    def half_open(self, side: Side = "client") -> None:
        """Reset the other side of every connection and let `side` believe that it lives, until `heal` resets it too."""
        self._start("half-open", HalfOpen(side))

    def delay(self, seconds: float, jitter: float = 0.0, *directions: Direction) -> None:
        """Deliver everything later, in order; the rate stays."""
        self._start("delay", Delay(seconds, jitter, directions or BOTH))

    def throttle(self, rate: float, *directions: Direction) -> None:
        """Move at most `rate` bytes per second, each connection and direction by itself."""
        self._start("throttle", Throttle(rate, directions or BOTH))

    def reset_after(self, count: int, direction: Direction = "up") -> None:
        """Reset each connection once exactly `count` more of its bytes went that way."""
        self._start("reset-after", ResetAfter(count, direction))

    def heal(self) -> None:
        """End every fault; half-open connections are reset."""
        self._carrier.obey(Heal())
        lasting, self._lasting = self._lasting, []
        for what in lasting:
            if self._log is not None:
                self._log.up(what)

    @contextlib.contextmanager
    def healing(self) -> Generator[Self]:
        """End every fault at the end of the block."""
        try:
            yield self
        finally:
            self.heal()

    def counters(self) -> Counters:
        """Return what was done so far: a fault that hit nothing proves nothing."""
        return self._carrier.obey(Ask())

    def close(self) -> None:
        """Reset every connection and end; no thread, process or socket is left. Idempotent."""
        self._carrier.close()
        lasting, self._lasting = self._lasting, []
        for what in lasting:
            if self._log is not None:
                self._log.up(what)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _note(self, what: str) -> None:
        if self._log is not None:
            self._log.down(what)

    def _start(self, what: str, command: Command) -> None:
        self._note(what)
        self._lasting.append(what)
        self._carrier.obey(command)


class _InThread:
    """An event loop in a thread of this process."""

    def __init__(self, server: tuple[str, int], port: int) -> None:
        started: Future[Relay] = Future()
        self._thread = threading.Thread(
            target=Relay.serve, args=(server, port, started), name="fault-proxy", daemon=True
        )
        self._thread.start()
        self._relay = started.result(ANSWER_WITHIN)
        self.port = self._relay.port

    def obey(self, command: Command) -> Counters:
        return self._relay.call(command).result(ANSWER_WITHIN)

    def close(self) -> None:
        self._relay.stop()
        self._thread.join(ANSWER_WITHIN)


class _InProcess:
    """A process of its own, which ends with its standard input, also when we are killed."""

    def __init__(self, server: tuple[str, int], port: int) -> None:
        host, server_port = server
        self._process = subprocess.Popen(
            [sys.executable, "-m", "unimq_contract.faults.proxy", host, str(server_port), str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A Ctrl-C in the terminal is for the test, which then closes its proxy.
            start_new_session=True,
        )
        self.port = self._read(int)

    def obey(self, command: Command) -> Counters:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")
        self._process.stdin.flush()
        return self._read(Counters)

    def close(self) -> None:
        process = self._process
        if process.stdin is None or process.stdin.closed:
            return
        process.stdin.close()
        try:
            process.wait(ANSWER_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def _read(self, kind: type[T]) -> T:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the proxy's process ended with {self._process.wait()}")
        return msgspec.json.decode(line, type=kind)


def main(arguments: list[str]) -> None:
    """Serve until standard input ends."""
    host, server_port, *rest = arguments
    decoder: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)
    carrier = _InThread((host, int(server_port)), int(rest[0]) if rest else 0)
    _answer(carrier.port)
    for line in sys.stdin.buffer:
        _answer(carrier.obey(decoder.decode(line)))
    carrier.close()


def _answer(value: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
