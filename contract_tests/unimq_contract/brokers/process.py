"""Broker processes that live exactly as long as their owner: folder, ports, start, ready-check, faults, stop.

A child carries a parent-death signal (``setpriv --pdeathsig KILL``), so that not even ``kill -9`` of the owner leaves
it behind. The kernel ties that signal to the *thread* that started the child, hence one keeper thread per broker which
lives until the broker is stopped. Linux only.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

from .tap import BrokerUnavailable

PREFIX = "unimq-tap-"
LOG_TAIL = 4000
CHECK_PAUSE = 0.02


def find_program(name: str, why: str, how: str) -> str:
    """Absolute path of a program, or a :class:`BrokerUnavailable` that says what it is for."""
    path = shutil.which(name)
    if path is None:
        raise BrokerUnavailable(name, f"the program is not installed, and {why}", how)
    return path


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on, all different.

    They lie below the range from which the kernel takes ports for outgoing connections. A port in that range may be
    taken by any client while its broker is down for a restart; worse, a client that keeps dialling it may connect to
    itself.
    """
    lowest_outgoing = 32768
    with contextlib.suppress(OSError, ValueError, IndexError):
        lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    candidates = range(10_000, lowest_outgoing)
    chosen: list[socket.socket] = []
    try:
        for _ in range(1000):
            if len(chosen) == count:
                break
            port = secrets.choice(candidates) if len(candidates) > 1000 else 0
            with contextlib.suppress(OSError):
                # Held until all are found, so that no port is given twice.
                chosen.append(socket.create_server(("127.0.0.1", port)))
        else:
            raise BrokerUnavailable("a free port", "1000 attempts found none on 127.0.0.1", "Stop what occupies them.")
        return [int(held.getsockname()[1]) for held in chosen]
    finally:
        for held in chosen:
            held.close()


class WorkFolder:
    """A broker's folder under the temporary directory, named after its owner's pid and swept when the owner is gone.

    The owner holds a lock on a file inside. Unlike a pid, a lock is released by ``kill -9``, is never reused, and means
    the same in every pid namespace that shares the temporary directory.
    """

    def __init__(self, backend: str) -> None:
        sweep()
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-{backend}-"))
        self._lock = os.open(self.path / "owner.lock", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        """Write a small file, making folders as needed."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        path.chmod(mode)
        return path

    def remove(self) -> None:
        """Delete everything, unless UNIMQ_TAP_KEEP is set; keeps nothing locked. Idempotent."""
        if self._lock < 0:
            return
        if not os.environ.get("UNIMQ_TAP_KEEP"):
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)
        self._lock = -1


def sweep() -> list[Path]:
    """Delete the folders that killed owners left, and say which."""
    swept: list[Path] = []
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody else's, gone already, or its owner has not locked it yet
            lock = os.open(folder / "owner.lock", os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                swept.append(folder)
            finally:
                os.close(lock)
    return swept


class _Keeper:
    """The thread that starts children. They get SIGKILL when it ends: when the owner dies or calls ``close()``."""

    def __init__(self, name: str) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (job := self._work.get()) is not None:
            job()

    def popen(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> "subprocess.Popen[bytes]":
        started: Future[subprocess.Popen[bytes]] = Future()

        def job() -> None:
            try:
                with log.open("ab") as out:
                    started.set_result(
                        subprocess.Popen(
                            ["setpriv", "--pdeathsig", "KILL", *argv],
                            env=dict(env),
                            cwd=cwd,
                            stdin=subprocess.DEVNULL,
                            stdout=out,
                            stderr=out,
                            # A Ctrl-C in the terminal is for the owner, which then stops its broker in good order.
                            start_new_session=True,
                        )
                    )
            except BaseException as error:  # handed to the caller, whose thread it belongs to
                started.set_exception(error)

        self._work.put(job)
        return started.result()

    def close(self) -> None:
        self._work.put(None)
        self._thread.join()


@dataclass(slots=True, kw_only=True)
class Node:
    """One broker process: how to start it and how to know that it answers."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    ready: Callable[[], bool]
    grace: float = 5.0
    """Seconds that a clean stop may take."""
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def tail(self) -> str:
        """The end of the log."""
        try:
            return self.log.read_text("utf-8", errors="replace")[-LOG_TAIL:].strip()
        except OSError:
            return ""


class PrivateBroker:
    """The processes, the folder and the keeper thread of one private broker. Implements ``Control``.

    ``_lock`` guards the processes: ``stop()`` may come from another thread than the one that plays with faults.
    """

    def __init__(self, what: str, *, timeout: float) -> None:
        """``what`` is product and version, such as "Apache Kafka 4.3.1"; ``timeout`` (seconds) bounds each start."""
        find_program(
            "setpriv", "a broker must die with the program that started it", "It is part of util-linux (Linux)."
        )
        self.what = what
        self.folder = WorkFolder(what.split()[-2].lower())
        self.nodes: list[Node] = []
        self._timeout = timeout
        self._keeper = _Keeper(f"unimq-tap {self.folder.path.name}")
        self._companions: list[Node] = []
        self._tool: Callable[[str, Sequence[str]], tuple[Sequence[str], Mapping[str, str]]] | None = None
        self._lock = threading.Lock()
        self._stopped = False

    @contextlib.contextmanager
    def starting(self) -> Generator[None]:
        """Whatever fails inside stops everything and removes the folder."""
        try:
            yield
        except BaseException:
            self.stop()
            raise

    @property
    def pids(self) -> tuple[int, ...]:
        """Processes of the nodes, dead or alive."""
        return tuple(node.process.pid for node in self.nodes if node.process is not None)

    def provide_tool(self, command: Callable[[str, Sequence[str]], tuple[Sequence[str], Mapping[str, str]]]) -> None:
        """``command(name, arguments)`` gives argv and environment of an administration program."""
        self._tool = command

    def launch(self, *nodes: Node) -> None:
        """Start nodes together and return when all answer."""
        with self._lock:
            for node in nodes:
                self.nodes.append(node)
                self._spawn(node)
            for node in nodes:
                self._wait(node)

    def launch_companion(self, node: Node) -> None:
        """Start a process that the nodes need, such as Erlang's port mapper. It is killed after them."""
        with self._lock:
            self._companions.append(node)
            self._spawn(node)
            self._wait(node)

    def run(self, argv: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        """Run a preparing program to its end; its failure is a failed start."""
        process = self._keeper.popen(argv, env=env, cwd=self.folder.path, log=log)
        try:
            code = process.wait(self._timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = -signal.SIGKILL
        if code != 0:
            raise self._failure(f"{Path(argv[0]).name} ended with {code}", log)

    def stop(self) -> None:
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            for node in reversed(self.nodes):
                self._signal(node, signal.SIGTERM)
                self._signal(node, signal.SIGCONT)  # a suspended process must wake up to end
            for node in self.nodes:
                self._reap(node)
            for companion in self._companions:
                self._kill(companion)
            self._keeper.close()
            self.folder.remove()

    def kill(self, node: int) -> None:
        with self._lock:
            self._kill(self._usable(node))

    def restart(self, node: int) -> None:
        with self._lock:
            target = self._usable(node)
            self._signal(target, signal.SIGTERM)
            self._signal(target, signal.SIGCONT)
            self._reap(target)
            self._spawn(target)
            self._wait(target)

    def suspend(self, node: int) -> None:
        with self._lock:
            stopping = self._usable(node)
            self._signal(stopping, signal.SIGSTOP)
            if stopping.running and stopping.process is not None:
                # The signal is only on its way: wait until all threads stand still, or the process has ended.
                os.waitid(os.P_PID, stopping.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self, node: int) -> None:
        with self._lock:
            self._signal(self._usable(node), signal.SIGCONT)

    def tool(self, name: str, arguments: Sequence[str]) -> str:
        if self._tool is None:
            raise BrokerUnavailable(name, f"{self.what} has no administration programs", "Use its API.")
        argv, env = self._tool(name, arguments)
        done = subprocess.run(
            argv,
            env=dict(env),
            cwd=self.folder.path,
            capture_output=True,
            text=True,
            timeout=self._timeout,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(
                f"{name} ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-LOG_TAIL:]}"
            )
        return done.stdout

    def log(self) -> str:
        return "\n".join(f"--- {node.name}\n{node.tail()}" for node in self.nodes)

    def _usable(self, node: int) -> Node:
        if self._stopped:
            raise BrokerUnavailable(self.what, "it was stopped", "Start a new one.")
        return self.nodes[node]

    def _spawn(self, node: Node) -> None:
        node.process = self._keeper.popen(node.argv, env=node.env, cwd=self.folder.path, log=node.log)

    def _wait(self, node: Node) -> None:
        end = time.monotonic() + self._timeout
        # Nothing announces that a foreign process listens, so its port is asked, closely enough not to be felt.
        while not node.ready():
            if not node.running:
                code = node.process.returncode if node.process is not None else None
                raise self._failure(f"{node.name} ended with {code} while starting", node.log)
            if time.monotonic() > end:
                raise self._failure(f"{node.name} did not answer within {self._timeout:g} s", node.log)
            time.sleep(CHECK_PAUSE)

    def _reap(self, node: Node) -> None:
        if node.process is None:
            return
        try:
            node.process.wait(node.grace)
        except subprocess.TimeoutExpired:
            self._kill(node)

    @classmethod
    def _kill(cls, node: Node) -> None:
        cls._signal(node, signal.SIGKILL)
        if node.process is not None:
            node.process.wait()

    @staticmethod
    def _signal(node: Node, number: signal.Signals) -> None:
        if node.process is not None and node.process.poll() is None:
            node.process.send_signal(number)

    def _failure(self, why: str, log: Path) -> BrokerUnavailable:
        tail = Node(name="", argv=(), env={}, log=log, ready=bool).tail()
        return BrokerUnavailable(
            self.what, why, f"Its last words (set UNIMQ_TAP_KEEP=1 to keep its folder):\n{tail or '(none)'}"
        )


def minimal_environment(home: Path | str) -> dict[str, str]:
    """What a broker inherits: nothing of the user's settings, so that every machine runs the same broker."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(home),
    }
