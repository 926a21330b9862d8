"""The adapter in `examples/sqlite-adapter`, installed as a third party would: the contract suite, several processes on
one file, and what only a file can do: be missing, foreign, locked, or carried through a fork.
"""

import os
import signal
import sqlite3
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import unimq

ROOT = Path(__file__).parent.parent
ADAPTER = ROOT / "examples" / "sqlite-adapter"
WORKER = Path(__file__).with_name("sqlite_worker.py")

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path, timeout: float = 60, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the folders ``unimq`` and ``adapter``, in which their wheels are installed."""
    site = tmp_path_factory.mktemp("site")
    for name, source in {"unimq": ROOT, "adapter": ADAPTER}.items():
        dist = tmp_path_factory.mktemp("dist")
        run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", dist, cwd=source)
        (wheel,) = dist.glob("*.whl")
        run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site / name, wheel, cwd=dist)
    return site


def path_of(installed: Path) -> str:
    """Return the PYTHONPATH of a program that has both installed and knows nothing of this checkout."""
    return os.pathsep.join([str(installed / "unimq"), str(installed / "adapter")])


@pytest.fixture
def connect(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., unimq.Broker]]:
    """Opens connections to one file, in this process; each is closed afterwards."""
    monkeypatch.setattr(sys, "path", [str(installed / "adapter"), *sys.path])
    opened: list[unimq.Broker] = []

    def connect(**options: object) -> unimq.Broker:
        query = "&".join(f"{name}={value}" for name, value in options.items())
        opened.append(unimq.connect(f"sqlite:///{tmp_path / 'orders.db'}?{query}", timeout=5))
        return opened[-1]

    yield connect
    for broker in opened:
        broker.close(timeout=5)


def test_the_wheel_asks_for_unimq_alone_and_holds_the_package_alone(installed: Path) -> None:
    (metadata,) = installed.glob("adapter/unimq_sqlite-*.dist-info")
    text = (metadata / "METADATA").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("Requires-Dist")] == ["Requires-Dist: unimq"]
    files = {path.name for path in (installed / "adapter" / "unimq_sqlite").iterdir() if path.is_file()}
    assert files == {path.name for path in (ADAPTER / "unimq_sqlite").iterdir() if path.is_file()}


@pytest.mark.timeout(900)
def test_the_suite_that_unimq_ships_passes(installed: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    url = f"sqlite:///{tmp_path / 'contract.db'}"
    suite = ("-p", "unimq_contract.plugin", "--pyargs", "unimq_contract", "--unimq-url", url)
    options = ("-q", "-W", "error", "-p", "no:cacheprovider", "--timeout", "120", "--junitxml", report)
    path = path_of(installed)
    where = run(sys.executable, "-c", "import unimq; print(unimq.__file__)", cwd=tmp_path, PYTHONPATH=path)
    assert Path(where.strip()).is_relative_to(installed)
    run(sys.executable, "-m", "pytest", *suite, *options, cwd=tmp_path, timeout=850, PYTHONPATH=path)
    (counts,) = ET.parse(report).getroot().iter("testsuite")  # noqa: S314 - written by the line above
    passed = int(counts.attrib["tests"]) - int(counts.attrib["skipped"])
    assert (counts.attrib["failures"], counts.attrib["errors"]) == ("0", "0")
    assert passed > 150
    assert list(tmp_path.glob("contract.db-*")) == [], "the write-ahead log outlived the last connection (L4)"


# Several processes.


class Processes:
    """Producers and consumers on one file, and what they wrote down."""

    def __init__(self, site: Path, folder: Path) -> None:
        self.folder = folder
        self.stop = folder / "stop"
        self.url = f"sqlite:///{folder / 'shared.db'}?heartbeat=0.3"
        self.environment = {**os.environ, "PYTHONPATH": path_of(site)}
        self.started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, what: str, name: str, *arguments: object) -> subprocess.Popen[bytes]:
        log = self.folder / f"{name}.log"
        command = [sys.executable, WORKER, what, self.url, log, *arguments]
        process = subprocess.Popen([str(part) for part in command], env=self.environment)
        self.started[name] = process
        return process

    def lines(self, word: str, *names: str) -> list[list[str]]:
        """Return the lines that begin with `word`, of these processes or of all."""
        logs = [self.folder / f"{name}.log" for name in names or self.started]
        text = "".join(log.read_text(encoding="utf-8") for log in logs if log.exists())
        # Whoever was killed amid a line wrote half of it.
        return [line.split() for line in text.splitlines() if line.startswith(word + " ") and len(line.split()) > 1]

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, f"not within 60 s: {what}"
            time.sleep(0.02)

    def end(self, names: Sequence[str]) -> None:
        """Have consumers close in good order."""
        self.stop.touch()
        for name in names:
            assert self.started[name].wait(30) == 0, name


@pytest.fixture
def processes(installed: Path, tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(installed, tmp_path)
    yield processes
    for process in processes.started.values():
        if process.poll() is None:
            process.kill()
        process.wait(10)


def test_processes_share_a_file_and_a_killed_one_loses_nothing(processes: Processes) -> None:
    """S1, R1, G1, A5, A7: what the killed one held comes again with attempt 2, and nothing else does."""
    consumers = ["consumer-1", "consumer-2"]
    for name in consumers:
        processes.start("consume", name, processes.stop)
    victim = processes.start("consume", "victim", processes.stop, 1, processes.folder / "never")
    processes.wait_for(lambda: len(processes.lines("open")) == 3, "three consumers are there")
    producers = [processes.start("produce", f"producer-{number}", 200) for number in (1, 2, 3)]
    processes.wait_for(lambda: bool(processes.lines("holding", "victim")), "the victim holds all it can")
    victim.send_signal(signal.SIGKILL)
    assert [producer.wait(60) for producer in producers] == [0, 0, 0]
    sent = {line[1] for line in processes.lines("sent")}
    assert len(sent) == 600
    processes.wait_for(lambda: {line[1] for line in processes.lines("acked")} >= sent, "all is acked")
    processes.end(consumers)

    acked = Counter(line[1] for line in processes.lines("acked"))
    assert acked == Counter(dict.fromkeys(sent, 1)), "each is acked once, and nothing is invented"
    in_flight = {line[1] for line in processes.lines("got", "victim")} - {
        line[1] for line in processes.lines("acked", "victim")
    }
    assert len(in_flight) == 10, "proved nothing"
    attempts = {line[1]: line[2] for line in processes.lines("got", *consumers)}
    assert {message for message, attempt in attempts.items() if attempt != "1"} == in_flight
    assert {attempts[message] for message in in_flight} == {"2"}
    assert all(processes.lines("acked", name) for name in consumers), "each got work (G1)"


def test_a_process_that_stood_still_too_long_settles_nothing(processes: Processes, tmp_path: Path) -> None:
    """A5, A6: its messages went to another, whose settlements stand."""
    release = processes.folder / "release"
    sleeper = processes.start("consume", "sleeper", processes.stop, 0, release)
    processes.start("produce", "producer", 10).wait(60)
    processes.wait_for(lambda: bool(processes.lines("holding", "sleeper")), "the sleeper holds all")
    sleeper.send_signal(signal.SIGSTOP)
    processes.start("consume", "other", processes.stop, 0, release)
    processes.wait_for(lambda: bool(processes.lines("holding", "other")), "the other has got all of it")
    sleeper.send_signal(signal.SIGCONT)
    release.touch()
    processes.wait_for(lambda: len(processes.lines("acked", "other")) == 10, "the other acks")
    processes.wait_for(
        lambda: bool(processes.lines("refused", "sleeper") or processes.lines("lost", "sleeper")), "the sleeper is told"
    )
    processes.end(["sleeper", "other"])
    assert {line[2] for line in processes.lines("got", "other")} == {"2"}
    with sqlite3.connect(tmp_path / "shared.db") as direct:
        assert direct.execute("SELECT count(*) FROM unimq_messages").fetchone() == (0,)
    direct.close()


def test_a_fork_carries_no_connection_into_the_child(installed: Path, tmp_path: Path) -> None:
    """L2: SQLite must not be carried through a fork; the child connects anew, and the parent goes on."""
    program = """
import os, sys, unimq
url = sys.argv[1]
with unimq.connect(url) as broker, broker.producer("q") as producer, broker.consumer("q") as consumer:
    producer.send(b"before")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            links = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")
                     if os.path.exists(f"/proc/self/fd/{name}")]
            assert not [link for link in links if "forked.db" in link], links
            try:
                producer.send(b"by a copy")
            except unimq.Closed:
                with unimq.connect(url) as own, own.producer("q") as another:
                    another.send(b"by the child")
                code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    producer.send(b"after")
    bodies = set()
    while len(bodies) < 3:
        for delivery in consumer.receive(3, timeout=20):
            bodies.add(delivery.body)
            delivery.ack()
print(sorted(bodies))
"""
    url = f"sqlite:///{tmp_path / 'forked.db'}"
    shown = run(sys.executable, "-W", "error", "-c", program, url, cwd=tmp_path, PYTHONPATH=path_of(installed))
    assert shown == "[b'after', b'before', b'by the child']\n"


# The file.


def test_a_relative_path_is_relative(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(installed / "adapter"), *sys.path])
    monkeypatch.chdir(tmp_path)
    with unimq.connect("sqlite:///here.db") as broker:
        assert broker.native == tmp_path / "here.db"
        broker.declare("q")
    assert {path.name for path in tmp_path.iterdir()} == {"here.db"}, "the log goes with the last connection (L4)"


def test_what_is_no_usable_file_is_named(connect: Callable[..., unimq.Broker], tmp_path: Path) -> None:
    """E1."""
    (tmp_path / "text.db").write_bytes(b"no database at all, but long enough to be read as one " * 20)
    (tmp_path / "folder.db").mkdir()
    for name, hint in {
        "sqlite://orders.db": "sqlite:///relative/path",
        "sqlite://": "sqlite:///relative/path",
        "sqlite:///:memory:": "memory://",
        f"sqlite:///{tmp_path}/missing/orders.db": f"{tmp_path}/missing",
        f"sqlite:///{tmp_path}/folder.db": "is a folder",
        f"sqlite:///{tmp_path}/text.db": "text.db: file is not a database",
        f"sqlite:///{tmp_path}/orders.db?synchronous=off": "synchronous",
        f"sqlite:///{tmp_path}/orders.db?pol=1": "poll",
    }.items():
        with pytest.raises(unimq.ConfigError) as caught:
            unimq.connect(name)
        assert hint in str(caught.value)
    assert not (tmp_path / "missing").exists()


def test_many_may_make_the_file_at_once(connect: Callable[..., unimq.Broker]) -> None:
    with ThreadPoolExecutor(12) as starters:
        opened = [starters.submit(connect) for _ in range(12)]
        brokers = [future.result() for future in opened]
    brokers[0].producer("q").send(b"x")
    assert brokers[-1].consumer("q").receive(timeout=5)


def test_a_file_of_another_format_is_refused(connect: Callable[..., unimq.Broker], tmp_path: Path) -> None:
    connect().close()
    with sqlite3.connect(tmp_path / "orders.db") as direct:
        direct.execute("UPDATE unimq_format SET version = 2")
    direct.close()
    with pytest.raises(unimq.ConfigError, match="format 2"):
        connect()


def test_the_tables_live_beside_those_of_an_application(connect: Callable[..., unimq.Broker], tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "orders.db") as direct:
        direct.execute("CREATE TABLE customers (name TEXT)")
    direct.close()
    connect().producer("q").send(b"x")
    with sqlite3.connect(tmp_path / "orders.db") as direct:
        tables = {name for (name,) in direct.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    direct.close()
    assert {name for name in tables if not name.startswith(("unimq_", "sqlite_"))} == {"customers"}


def test_a_locked_file_rejects_in_time_and_stores_nothing(connect: Callable[..., unimq.Broker], tmp_path: Path) -> None:
    """S2: `SendRejected`, since nothing was begun; once the lock is gone all goes on."""
    broker = connect()
    producer = broker.producer("q", timeout=0.3)
    producer.send(b"before")
    direct = sqlite3.connect(tmp_path / "orders.db", isolation_level=None)
    direct.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(unimq.SendRejected, match="locked"):
        producer.send(b"never")
    assert 0.2 < time.monotonic() - began < 3
    direct.execute("ROLLBACK")
    direct.close()
    producer.send(b"after")
    assert [delivery.body for delivery in broker.consumer("q").receive(9, timeout=5)] == [b"before", b"after"]


def test_closing_is_bounded_while_the_file_is_locked(connect: Callable[..., unimq.Broker], tmp_path: Path) -> None:
    """L1, A5: what could not be given back returns when the heartbeats are missed."""
    broker = connect(heartbeat=0.2)
    broker.producer("q").send(b"held")
    assert broker.consumer("q").receive(timeout=5)
    direct = sqlite3.connect(tmp_path / "orders.db", isolation_level=None)
    direct.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(unimq.ConnectionLost):
        broker.close(timeout=0.5)
    assert time.monotonic() - began < 5
    direct.execute("ROLLBACK")
    direct.close()
    (delivery,) = connect(heartbeat=0.2).consumer("q").receive(timeout=10)
    assert delivery.body == b"held"


def test_a_consumer_hears_of_other_connections(connect: Callable[..., unimq.Broker]) -> None:
    """R4, G1: a message sent elsewhere arrives; a queue deleted elsewhere ends its consumer."""
    here, there = connect(), connect()
    consumer = here.consumer("q")
    there.producer("q").send(b"x")
    (delivery,) = consumer.receive(timeout=5)
    delivery.ack()
    there.delete("q")
    with pytest.raises(unimq.NotFound, match="'q'"):
        consumer.receive(timeout=5)


def test_another_declaration_names_the_differences(connect: Callable[..., unimq.Broker]) -> None:
    connect().declare(unimq.Queue("q", max_length=5, lease=2))
    with pytest.raises(unimq.DeclarationConflict, match=r"queue 'q' exists: max_length is 5, not 6"):
        connect().declare(unimq.Queue("q", max_length=6, lease=2))


def test_normal_synchronous_says_what_is_at_risk(connect: Callable[..., unimq.Broker]) -> None:
    full, normal = connect().capabilities, connect(synchronous="normal").capabilities
    assert (full.durable.note, full.acks_at_risk) == ("", "")
    assert "power failure" in normal.durable.note
    assert "power failure" in normal.acks_at_risk
