"""Real brokers: they start, take faults, and leave nothing, whatever happens to the program that started them."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
from unimq_contract.brokers import RunningTap, start

Take = Callable[[Callable[[], RunningTap]], RunningTap]
Members = Callable[[int], list[int]]
Listens = Callable[[str], bool]

pytestmark = pytest.mark.slow

BROKERS = [
    pytest.param({"backend": "rabbitmq", "rung": "native"}, id="rabbitmq"),
    pytest.param({"backend": "kafka", "rung": "native"}, id="kafka"),
    pytest.param({"backend": "kafka", "flavour": "mock"}, id="kafka-mock"),
    pytest.param({"backend": "sqs", "flavour": "ministack"}, id="ministack"),
    pytest.param({"backend": "sqs", "flavour": "elasticmq"}, id="elasticmq"),
]


@pytest.mark.parametrize("wish", BROKERS)
def test_start_faults_and_stop_leave_nothing(
    wish: dict[str, Any], tap_or_skip: Take, session_members: Members, listens: Listens
) -> None:
    running = tap_or_skip(lambda: start(**wish))
    tap = running.tap
    assert tap.label == ("emulator" if "flavour" in wish else "real")
    assert tap.version in tap.describe()
    assert tap.pid in session_members(running.pids[0])
    assert all(node.startswith("127.0.0.1:") for node in tap.nodes)
    assert listens(tap.nodes[0])
    running.kill()
    assert not listens(tap.nodes[0])
    running.restart()
    assert listens(tap.nodes[0])
    running.suspend()
    pids = running.pids
    running.stop()
    running.stop()
    assert not any(session_members(pid) for pid in pids)
    assert not listens(tap.nodes[0])


def test_rabbitmqctl_reaches_the_private_node(tap_or_skip: Take) -> None:
    running = tap_or_skip(lambda: start("rabbitmq", rung="native"))
    told = json.loads(running.tool("rabbitmqctl", "status", "--formatter", "json"))
    assert told["rabbitmq_version"] == running.tap.version
    assert "rabbitmq_consistent_hash_exchange" in told["active_plugins"]
    with pytest.raises(RuntimeError, match="rabbitmqctl ended with"):
        running.tool("rabbitmqctl", "no_such_command")


def test_kafka_has_its_internal_topics_when_it_is_handed_out(tap_or_skip: Take) -> None:
    running = tap_or_skip(lambda: start("kafka", rung="native"))
    topics = running.tool("org.apache.kafka.tools.TopicCommand", "--list").split()
    assert "__consumer_offsets" in topics


def test_settings_reach_the_broker(tap_or_skip: Take) -> None:
    running = tap_or_skip(lambda: start("kafka", settings={"num.partitions": "7"}))
    name = "org.apache.kafka.tools.TopicCommand"
    running.tool(name, "--create", "--topic", "seven")
    assert "PartitionCount: 7" in running.tool(name, "--describe", "--topic", "seven")


@contextmanager
def started_by_command(
    skip_if_missing: Callable[[str], None], *arguments: str
) -> Generator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    """A program that holds a broker, and what it says about it."""
    command = [sys.executable, "-m", "unimq_contract.brokers", "start", "--json", *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as owner:
        try:
            assert owner.stdout is not None
            line = owner.stdout.readline()
            if not line:
                assert owner.stderr is not None
                error = owner.stderr.read()
                skip_if_missing(error)
                pytest.fail(error)
            yield owner, json.loads(line)
        finally:
            owner.kill()


def await_exit(pid: int) -> None:
    """Wait until a process that is not our child has ended; a zombie has."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([handle], [], [], 10.0)[0], f"process {pid} still runs"
    finally:
        os.close(handle)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("rabbitmq", "--rung", "native"), id="rabbitmq"),
        pytest.param(("kafka", "--rung", "native"), id="kafka"),
        pytest.param(("sqs", "--flavour", "ministack"), id="ministack"),
    ],
)
@pytest.mark.usefixtures("bare_ladder")
def test_kill_9_of_the_owner_leaves_no_process(
    arguments: tuple[str, ...],
    skip_if_missing: Callable[[str], None],
    session_members: Members,
    listens: Listens,
) -> None:
    with started_by_command(skip_if_missing, *arguments) as (owner, tap):
        members = session_members(tap["pid"])
        assert tap["pid"] in members
        owner.kill()
        owner.wait()
        for pid in members:
            await_exit(pid)
    assert not session_members(tap["pid"])
    assert not listens(tap["nodes"][0])


@pytest.mark.parametrize("ending", ["SIGTERM", "SIGINT", "end of input"])
@pytest.mark.usefixtures("bare_ladder")
def test_the_command_ends_in_good_order(
    ending: str, skip_if_missing: Callable[[str], None], session_members: Members, listens: Listens
) -> None:
    option = ("--until-eof",) if ending == "end of input" else ()
    with started_by_command(skip_if_missing, "sqs", "--rung", "emulator", *option) as (owner, tap):
        if option:
            assert owner.stdin is not None
            owner.stdin.close()
        else:
            owner.send_signal(signal.Signals[ending])
        assert owner.wait(20) == 0
        assert not session_members(tap["pid"])
        assert not listens(tap["nodes"][0])
