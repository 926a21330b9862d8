"""Three nodes, of which any one may be lost: no confirmed message is, and everybody moves by himself (S1, R1, L3)."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from unimq_contract.brokers import RunningTap
from unimq_contract.brokers import rabbitmq as tap
from unimq_contract.history import Load

from .judged import PATIENCE, JudgedRun, awaited

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.xdist_group("rabbitmq-cluster")]

NODES = 3


@pytest.fixture(scope="module")
def cluster(start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap]) -> Iterator[RunningTap]:
    """Three nodes; a quorum queue has a copy on each."""
    with start_or_skip(lambda: tap.start(nodes=NODES)) as running:
        yield running


class Losing:
    """One run on a cluster, which loses a node at a time and gets it back."""

    def __init__(self, cluster: RunningTap) -> None:
        self.cluster = cluster
        nodes = cluster.tap.nodes
        # Every worker knows all nodes, and they begin with different ones.
        turned = [nodes[first:] + nodes[:first] for first in range(len(nodes))]
        self.run = JudgedRun([f"amqp://guest:guest@{','.join(each)}/" for each in turned])
        self._names = [tap.node_name(node) for node in nodes]
        self._lost = -1
        """The node that is away."""

    def _ask(self, what: str) -> Any:
        """Return what a living node says of the queue; `None` while it does not know."""
        alive = next(name for number, name in enumerate(self._names) if number != self._lost)
        text = self.cluster.tool("rabbitmqctl", "-q", "-n", alive, "list_queues", "name", what, "--formatter", "json")
        return next((found[what] for found in json.loads(text) if found["name"] == self.run.queue.name), None)

    def leader(self) -> int:
        """Return which node leads the queue; -1 for none."""
        name = self._ask("leader")
        return self._names.index(name) if name in self._names else -1

    def is_whole(self) -> bool:
        """Tell whether all copies of the queue take part."""
        online = self._ask("online")
        return online is not None and len(online) == NODES

    def lose_leader(self, flow: int) -> None:
        """Kill -9 the node that leads the queue, and start it again when another one leads and the load flows."""
        self.run.flows(flow)
        awaited(self.is_whole, "all copies take part")
        node = self.leader()
        with self.run.history.fault("leader killed"):
            self.cluster.kill(node)
            self._lost = node
            awaited(lambda: self.leader() not in {node, -1}, f"another node leads in place of {node}")
        self.run.flows(flow)
        self.cluster.restart(node)
        self._lost = -1

    def roll(self, flow: int) -> None:
        """Stop each node in good order and start it again, as an upgrade does."""
        for node in range(NODES):
            self.run.flows(flow)
            awaited(self.is_whole, "all copies take part")
            with self.run.history.fault("node restarted"):
                self.cluster.restart(node)
        self.run.flows(flow)


def test_the_leader_is_killed(cluster: RunningTap) -> None:
    losing = Losing(cluster)
    load = Load(seed=1, messages=1500, rate=200, close=0.003, patience=5.0, limit=5 * PATIENCE)
    counts = losing.run.under_load(
        load,
        lambda: losing.lose_leader(150),
        faults={"leader killed": 1},
        undoing=frozenset({"leader killed"}),
    )
    assert counts.sent >= load.messages - counts.maybe_sent


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_leaders_are_killed_and_all_nodes_restarted(cluster: RunningTap) -> None:
    losing = Losing(cluster)
    load = Load(seed=2, messages=150_000, rate=1000, keys=200, patience=5.0, limit=1500)

    def storm() -> None:
        for _ in range(3):
            losing.lose_leader(5000)
        losing.roll(5000)

    counts = losing.run.under_load(
        load,
        storm,
        faults={"leader killed": 3, "node restarted": NODES},
        undoing=frozenset({"leader killed", "node restarted"}),
    )
    assert counts.sent + counts.maybe_sent >= load.messages
