"""Folders, ports and processes of private brokers, tried with small programs in a broker's place."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from unimq_contract.brokers import BrokerUnavailable
from unimq_contract.brokers.process import Node, PrivateBroker, WorkFolder, free_ports, minimal_environment, sweep
from unimq_contract.brokers.wire import tcp_answers

# Answers on its port until it is told to end; then it says so and takes "argv[2]" seconds.
PROGRAM = """
import signal, socket, sys, time
def end(*_):
    print("ending", flush=True); time.sleep(float(sys.argv[2])); sys.exit(0)
signal.signal(signal.SIGTERM, end)
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    while True: server.accept()[0].close()
"""


@pytest.fixture(autouse=True)
def own_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def make_node(broker: PrivateBroker, port: int, *, program: str = PROGRAM, linger: float = 0, grace: float = 5) -> Node:
    return Node(
        name="small program",
        argv=[sys.executable, "-S", "-c", program, str(port), str(linger)],
        env=minimal_environment(broker.folder.path),
        log=broker.folder.path / "output.log",
        ready=lambda: tcp_answers("127.0.0.1", port),
        grace=grace,
    )


def test_ports_are_different_and_out_of_the_reach_of_outgoing_connections() -> None:
    ports = free_ports(20)
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    assert len(set(ports)) == 20
    assert all(10_000 <= port < lowest_outgoing for port in ports)
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


def test_a_broker_goes_through_all_faults_and_leaves_nothing(session_members: Callable[[int], list[int]]) -> None:
    threads = threading.active_count()
    (port,) = free_ports(1)
    broker = PrivateBroker("Trial 1", timeout=10)
    with broker.starting():
        broker.launch(make_node(broker, port))
    first = broker.pids[0]
    broker.suspend(0)
    assert Path(f"/proc/{first}/stat").read_text("ascii").rpartition(") ")[2][0] == "T"
    broker.resume(0)
    assert tcp_answers("127.0.0.1", port)
    broker.kill(0)
    assert not tcp_answers("127.0.0.1", port)
    broker.restart(0)
    second = broker.pids[0]
    broker.restart(0)  # also one that runs
    assert len({first, second, broker.pids[0]}) == 3
    assert "ending" in broker.log()
    folder = broker.folder.path
    assert f"-{os.getpid()}-" in folder.name
    process = broker.nodes[0].process
    assert process is not None
    broker.suspend(0)
    broker.stop()
    broker.stop()
    assert process.returncode == 0  # woken up to end by itself, not killed after the time of grace
    assert not tcp_answers("127.0.0.1", port)
    assert not session_members(broker.pids[0])
    assert not folder.exists()
    assert threading.active_count() == threads
    with pytest.raises(BrokerUnavailable, match="stopped"):
        broker.restart(0)


def test_a_broker_that_does_not_want_to_end_is_killed() -> None:
    (port,) = free_ports(1)
    broker = PrivateBroker("Trial 1", timeout=10)
    broker.launch(make_node(broker, port, linger=60, grace=0.2))
    process = broker.nodes[0].process
    assert process is not None
    broker.stop()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("program", "timeout", "says"),
    [
        ("print('no room on the disk'); raise SystemExit(3)", 10, "ended with 3"),
        ("print('no room on the disk', flush=True); import time; time.sleep(60)", 0.5, "did not answer within 0.5 s"),
    ],
)
def test_a_failed_start_quotes_the_log_and_leaves_nothing(program: str, timeout: float, says: str) -> None:
    threads = threading.active_count()
    (port,) = free_ports(1)
    broker = PrivateBroker("Trial 1", timeout=timeout)
    with pytest.raises(BrokerUnavailable, match=says) as caught, broker.starting():
        broker.launch(make_node(broker, port, program=program, grace=0.1))
    assert "no room on the disk" in str(caught.value)
    assert not broker.folder.path.exists()
    assert threading.active_count() == threads
    assert not any(node.running for node in broker.nodes)


def test_a_preparing_program_that_fails_is_a_failed_start() -> None:
    broker = PrivateBroker("Trial 1", timeout=10)
    log = broker.folder.path / "output.log"
    with pytest.raises(BrokerUnavailable, match="bad format"), broker.starting():
        broker.run([sys.executable, "-S", "-c", "raise SystemExit('bad format')"], {}, log)


def test_the_program_that_ties_a_broker_to_its_owner_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokerUnavailable, match="setpriv is not available"):
        PrivateBroker("Trial 1", timeout=1)
    assert not list(tmp_path.iterdir())


def test_folders_of_dead_owners_are_swept_and_no_others(tmp_path: Path) -> None:
    mine = WorkFolder("mine")
    script = (
        "import os, sys, tempfile\n"
        "tempfile.tempdir = sys.argv[1]\n"
        "from unimq_contract.brokers.process import WorkFolder\n"
        "print(WorkFolder('theirs').path, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        assert sweep() == []
        other.kill()
    assert theirs.exists()
    assert sweep() == [theirs]
    assert mine.path.exists()
    mine.remove()
    mine.remove()
    assert not list(tmp_path.iterdir())


def test_a_folder_is_kept_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIMQ_TAP_KEEP", "1")
    folder = WorkFolder("kept")
    folder.write("sub/file", "text", 0o600)
    folder.remove()
    assert (folder.path / "sub/file").read_text() == "text"
