"""Three brokers, of which any one may be lost: nothing confirmed is, neither messages nor acks (S1, A1, O1, L3)."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from confluent_kafka import KafkaException
from unimq_contract.brokers import RunningTap
from unimq_contract.brokers.kafka_cluster import start_cluster
from unimq_contract.history import Floors, Load

import unimq

from .judged import PATIENCE, JudgedRun, awaited

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("kafka-cluster")]

PROTOCOLS = ("classic", "consumer")
OFFSETS = "__consumer_offsets"
LOOK = 5.0
"""Seconds of one question: one that went to a broker which died meanwhile is better asked again than waited for."""


@pytest.fixture(scope="module")
def cluster(start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap]) -> Iterator[RunningTap]:
    """Three brokers with three copies of everything."""
    with start_or_skip(start_cluster) as running:
        yield running


class Losing:
    """One run on a cluster, which loses a broker at a time and gets it back."""

    def __init__(self, cluster: RunningTap, protocol: str) -> None:
        self.cluster = cluster
        self.run = JudgedRun(f"{cluster.url}?group_protocol={protocol}&partitions=6")
        self.watching = self.run.connect()
        native: Any = self.watching.native
        self.admin = native.admin

    def close(self) -> None:
        """Close the connection that looks at the cluster."""
        self.watching.close()

    def leader(self) -> int:
        """Return which node leads the first partition of the queue; -1 if none does, or nobody says."""
        with contextlib.suppress(KafkaException, KeyError):
            found = self.admin.list_topics(topic=self.run.queue.name, timeout=LOOK)
            return max(-1, int(found.topics[self.run.queue.name].partitions[0].leader) - 1)
        return -1

    def coordinator(self) -> int:
        """Return which node coordinates the group of the queue; -1 if nobody says."""
        with contextlib.suppress(KafkaException):
            futures = self.admin.describe_consumer_groups([self.run.queue.name], request_timeout=LOOK)
            return max(-1, int(futures[self.run.queue.name].result().coordinator.id) - 1)
        return -1

    def is_whole(self) -> bool:
        """Tell whether every partition that matters has all its copies in step."""
        with contextlib.suppress(KafkaException, KeyError):
            topics = self.admin.list_topics(timeout=LOOK).topics
            return all(
                len(partition.isrs) == len(self.cluster.tap.nodes)
                for name in (self.run.queue.name, OFFSETS)
                for partition in topics[name].partitions.values()
            )
        return False

    def found(self, find: Callable[[], int]) -> int:
        """Return the node that `find` names, as soon as it names one."""
        nodes: list[int] = []

        def is_named() -> bool:
            nodes.append(find())
            return nodes[-1] >= 0

        awaited(is_named, "a node that is named")
        return nodes[-1]

    def lose(self, find: Callable[[], int], what: str, flow: int) -> int:
        """Kill -9 the node that `find` names; return it when another one is in its place and the load flows again."""
        self.run.flows(flow)
        awaited(self.is_whole, "all copies in step")
        node = self.found(find)
        with self.run.history.fault(what):
            self.cluster.kill(node)
            awaited(lambda: find() not in {node, -1}, f"{what}: another node in place of {node}")
        self.run.flows(flow)
        return node

    def restart(self, find: Callable[[], int], what: str, flow: int) -> None:
        """Stop a node in good order and start it again, as an upgrade does."""
        self.run.flows(flow)
        awaited(self.is_whole, "all copies in step")
        with self.run.history.fault(what):
            self.cluster.restart(self.found(find))
        self.run.flows(flow)


def test_the_leader_is_killed(cluster: RunningTap) -> None:
    with closing(Losing(cluster, "consumer")) as losing:
        load = Load(seed=1, messages=2000, rate=250, close=0.0, patience=PATIENCE, limit=4 * PATIENCE)

        def lose() -> None:
            lost.append(losing.lose(losing.leader, "leader killed", 300))

        lost: list[int] = []
        counts = losing.run.under_load(load, lose, floors=Floors(acks=1000, faults={"leader killed": 1}))
        assert counts.sent + counts.maybe_sent >= 2000
        assert losing.found(losing.leader) not in lost
        # Two of three go on; the third one is back for whoever comes next.
        cluster.restart(lost[0])


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_leaders_and_coordinators_are_lost_one_after_the_other(cluster: RunningTap, protocol: str) -> None:
    messages, flow = 200_000, 5000

    def lose_many() -> None:
        for _ in range(2):
            cluster.restart(losing.lose(losing.leader, "leader killed", flow))
            cluster.restart(losing.lose(losing.coordinator, "coordinator killed", flow))
            losing.restart(losing.leader, "leader restarted", flow)

    with closing(Losing(cluster, protocol)) as losing:
        load = Load(seed=2, messages=messages, rate=1000, close=0.0, keys=200, patience=PATIENCE, limit=1200)
        counts = losing.run.under_load(
            load,
            lose_many,
            floors=Floors(
                acks=messages // 2, faults={"leader killed": 2, "coordinator killed": 2, "leader restarted": 2}
            ),
        )
    assert counts.sent + counts.maybe_sent >= messages


def test_more_copies_than_brokers_is_an_error_of_its_own(cluster: RunningTap) -> None:
    with (
        unimq.connect(f"{cluster.url}?replication=4", timeout=PATIENCE) as broker,
        pytest.raises(unimq.ConfigError) as caught,
    ):
        broker.declare("four-copies")
    assert "INVALID_REPLICATION_FACTOR" in str(caught.value)
    with unimq.connect(f"{cluster.url}?declare=false", timeout=PATIENCE) as broker, pytest.raises(unimq.NotFound):
        broker.producer("four-copies")
