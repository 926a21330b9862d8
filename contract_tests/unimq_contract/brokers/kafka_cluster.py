"""A private cluster of Apache Kafka: three nodes, each a broker and a controller, on loopback."""

from collections.abc import Mapping, Sequence
from functools import partial

from .kafka import (
    JAVA_OPTIONS,
    SETTINGS,
    TIMEOUT,
    WHAT,
    environment,
    find_installed,
    is_ready,
    properties_text,
    random_cluster_id,
    tool_command,
)
from .process import Node, PrivateBroker, free_ports
from .tap import RunningTap, Tap
from .versions import KAFKA

_HEAP = ("-Xms384m", "-Xmx384m", "-XX:+UseG1GC")
_COPIES = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    **{
        f"{topic}.replication.factor": "3"
        for topic in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")
    },
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.min.isr": "2",
}


def start_cluster(*, settings: Mapping[str, str] | None = None, timeout: float = TIMEOUT) -> RunningTap:
    """Start three nodes; returns when groups and producers can use each of them.

    Topics have three copies, and a message is stored when two have it: any one node may be lost. Node 0 of the tap has
    the broker id 1, and so on. ``settings``: lines of server.properties of every node.
    """
    java, java_version = find_installed()
    broker = PrivateBroker(WHAT, timeout=timeout)
    with broker.starting():
        return _start(broker, java, java_version, settings or {})


def _start(broker: PrivateBroker, java: str, java_version: str, settings: Mapping[str, str]) -> RunningTap:
    folder = broker.folder
    ports = free_ports(6)
    ports, controllers = ports[:3], ports[3:]
    env = environment(folder.path)
    tool = tool_command(java)
    cluster = random_cluster_id()
    voters = ",".join(f"{number}@127.0.0.1:{port}" for number, port in enumerate(controllers, 1))
    nodes: list[Node] = []
    for number, (port, controller) in enumerate(zip(ports, controllers, strict=True), 1):
        lines = {
            **SETTINGS,
            **_COPIES,
            "node.id": str(number),
            "controller.quorum.voters": voters,
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
            "log.dirs": str(folder.path / f"data-{number}"),
            **settings,
        }
        properties = folder.write(f"server-{number}.properties", properties_text(lines))
        log = folder.path / f"output-{number}.log"
        broker.run([*tool, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)], env, log)
        argv = [java, *_HEAP, *JAVA_OPTIONS, "kafka.Kafka", str(properties)]
        ready = partial(is_ready, port)
        nodes.append(Node(name=f"{WHAT} node {number}", argv=argv, env=env, log=log, ready=ready))
    broker.launch(*nodes)

    def command(name: str, arguments: Sequence[str]) -> tuple[Sequence[str], Mapping[str, str]]:
        return [*tool, name, "--bootstrap-server", ",".join(addresses), *arguments], env

    addresses = tuple(f"127.0.0.1:{port}" for port in ports)
    broker.provide_tool(command)
    return RunningTap(
        Tap(
            backend="kafka",
            url=f"kafka://{','.join(addresses)}",
            product="Apache Kafka",
            version=KAFKA,
            how=f"native, three nodes, jars on Java {java_version}",
            label="real",
            rung="native",
            pid=broker.pids[0],
            nodes=addresses,
        ),
        broker,
    )
