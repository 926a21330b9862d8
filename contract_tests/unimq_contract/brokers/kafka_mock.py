"""librdkafka's mock cluster as a broker on tap: in seconds, without Java, and never in the place of a real one.

It stands behind a front of ours, which answers what the mock does not know (`kafka_mock_front`). What it cannot show is
in `LIMITS`, by test of the suite; the real broker has to.
"""

import importlib.metadata
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path

from .process import Node, PrivateBroker, free_ports, minimal_environment
from .tap import BrokerUnavailable, RunningTap, Tap
from .wire import kafka_answers

TIMEOUT = 60.0
WHAT = "mock cluster of librdkafka"


def find_library() -> Path:
    """Where the client's wheel has librdkafka.

    Raises:
        BrokerUnavailable: the client is not installed, or uses a librdkafka of the system.

    """
    found = importlib.util.find_spec("confluent_kafka")
    libraries: list[Path] = []
    if found is not None and found.origin is not None:
        libraries = sorted(Path(found.origin).parent.parent.glob("confluent_kafka.libs/librdkafka*"))
    if not libraries:
        raise BrokerUnavailable(WHAT, "no wheel of confluent-kafka is installed", "Run: pip install 'unimq[kafka]'")
    return libraries[0]


def start(*, timeout: float = TIMEOUT) -> RunningTap:
    """Start one node in a process of its own; returns when it answers."""
    library = find_library()
    broker = PrivateBroker(WHAT, timeout=timeout)
    with broker.starting():
        port, other, announced = free_ports(3)
        folder = broker.folder.path
        argv = [sys.executable, "-m", "unimq_contract.brokers.kafka_mock_front", str(library)]
        broker.launch(
            Node(
                name=WHAT,
                argv=[*argv, *map(str, (port, other, announced))],
                env=minimal_environment(folder),
                log=folder / "output.log",
                ready=lambda: kafka_answers("127.0.0.1", port),
                grace=1.0,
            )
        )
        return RunningTap(
            Tap(
                backend="kafka",
                url=f"kafka://127.0.0.1:{port}",
                product=WHAT,
                version=f"of confluent-kafka {importlib.metadata.version('confluent-kafka')}",
                how="in memory, behind a front that makes topics",
                label="emulator",
                rung="emulator",
                pid=broker.pids[0],
                nodes=(f"127.0.0.1:{port}",),
                proxied=(other, announced),
                durable=False,
            ),
            broker,
        )


_TWO_OWNERS = (
    "a partition that the mock takes from a member which is just being told of others goes to the next one at once, and"
    " both may commit: where members come and go, messages come twice"
)
LIMITS: Mapping[str, str] = {
    "test_the_broker_stands_still": _TWO_OWNERS,
    "test_every_connection_is_cut": _TWO_OWNERS,
    "test_the_network_is_a_black_hole": _TWO_OWNERS,
    "test_no_connection_is_accepted_for_a_while": _TWO_OWNERS,
    "test_clients_are_killed": _TWO_OWNERS,
    "test_members_join_and_leave": _TWO_OWNERS,
    "test_purge_drops_what_waits": "the mock does not know DeleteRecords, and has no function that drops records",
    "test_a_queue_is_read_again_from_where_it_is_told": (
        "once a group had a member, the mock takes commits from its members alone, and they are gone"
    ),
}
"""Tests of the suite that cannot pass on the mock, and why."""
