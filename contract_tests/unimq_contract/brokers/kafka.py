"""A private Apache Kafka: one KRaft node from Maven's jars on the machine's Java, on loopback."""

import base64
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from .home import brokers_home, install_folder, read_mark
from .java import fetch_jars, find_java
from .kafka_security import Security
from .process import Node, PrivateBroker, free_ports, minimal_environment
from .tap import BrokerUnavailable, RunningTap, Tap
from .versions import KAFKA, KAFKA_JAVA, KAFKA_SCALA, SLF4J
from .wire import kafka_answers, kafka_group_coordinator_ready, kafka_producer_ids_ready

TIMEOUT = 180.0
"""Seconds that a start may take on a busy machine, where its few seconds have become more than a minute."""
_ARTEFACTS = (
    f"org.apache.kafka:kafka_{KAFKA_SCALA}:{KAFKA}",
    f"org.apache.kafka:kafka-tools:{KAFKA}",
    f"org.slf4j:slf4j-simple:{SLF4J}",
)
WHAT = f"Apache Kafka {KAFKA}"
# Fewer or no heap options make the start fail on some machines (KAFKA-19890).
_HEAP = ("-Xms512m", "-Xmx512m", "-XX:+UseG1GC")
JAVA_OPTIONS = ("-XX:-UsePerfData", "-Djava.awt.headless=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,FAULT:PLAINTEXT",
    "num.partitions": "4",
    # Destinations are declared; a typing error must not become a topic.
    "auto.create.topics.enable": "false",
    # How long a killed broker counts as alive, and how often a living one says so.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "group.initial.rebalance.delay.ms": "0",
    # With the newer protocol a consumer learns of its partitions at its next heartbeat, which is 5 s later, and a
    # killed one is noticed after 45 s, unless this says otherwise.
    "group.consumer.heartbeat.interval.ms": "300",
    "group.consumer.min.heartbeat.interval.ms": "300",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.session.timeout.ms": "6000",
    "group.share.min.record.lock.duration.ms": "1000",
    # One node cannot keep copies, and few partitions start faster.
    "offsets.topic.num.partitions": "4",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
}


def folder_of_jars() -> Path:
    """Where the jars are."""
    return brokers_home() / f"kafka-{KAFKA}"


def install() -> str:
    """Fetch the jars unless they are there; returns the version."""
    find_java(KAFKA_JAVA, WHAT)

    def fill(folder: Path) -> Mapping[str, str]:
        return {"version": KAFKA, "jars": str(fetch_jars(_ARTEFACTS, folder, WHAT))}

    return install_folder(folder_of_jars(), fill)["version"]


def start(
    *, settings: Mapping[str, str] | None = None, security: Security | None = None, timeout: float = TIMEOUT
) -> RunningTap:
    """Start a private node; returns when groups and producers can use it.

    ``settings``: lines of server.properties. ``security``: listeners with TLS and accounts besides the plain one.
    """
    java, java_version = find_installed()
    broker = PrivateBroker(WHAT, timeout=timeout)
    with broker.starting():
        return _start(broker, java, java_version, settings or {}, security)


def find_installed() -> tuple[str, str]:
    """Path and version of Java, if the jars are there.

    Raises:
        BrokerUnavailable: one of them is missing.

    """
    found = find_java(KAFKA_JAVA, WHAT)
    if read_mark(folder_of_jars()) is None:
        raise BrokerUnavailable(
            WHAT,
            f"its jars are not in {folder_of_jars()}",
            "Run: make brokers, or: python -m unimq_contract.brokers install kafka",
        )
    return found


def environment(home: Path) -> dict[str, str]:
    """What the broker and its tools inherit."""
    return {**minimal_environment(home), "CLASSPATH": f"{folder_of_jars() / 'libs'}/*"}


def tool_command(java: str) -> list[str]:
    """How a short-lived program of Kafka is started; its class and arguments follow."""
    return [java, "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", *JAVA_OPTIONS]


def properties_text(lines: Mapping[str, str]) -> str:
    """Return server.properties."""
    return "".join(f"{name}={value}\n" for name, value in lines.items())


def is_ready(port: int) -> bool:
    """Whether groups and producers can use the broker there.

    The first group of a new broker waits for the offsets topic, the first idempotent producer for its ids. Asking for
    both here makes the broker create them before the first test measures or times out on it.
    """
    at = ("127.0.0.1", port)
    return kafka_answers(*at) and kafka_group_coordinator_ready(*at) and kafka_producer_ids_ready(*at)


def _start(
    broker: PrivateBroker, java: str, java_version: str, settings: Mapping[str, str], security: Security | None
) -> RunningTap:
    folder = broker.folder
    port, controller, fault, proxy = free_ports(4)
    lines = {
        **SETTINGS,
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},FAULT://127.0.0.1:{fault},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port},FAULT://127.0.0.1:{proxy}",
        "log.dirs": str(folder.path / "data"),
    }
    if security is not None:
        lines = security.extend(lines)
    lines |= settings
    properties = folder.write("server.properties", properties_text(lines))
    env = environment(folder.path)
    log = folder.path / "output.log"
    tool = tool_command(java)
    formatting = ["kafka.tools.StorageTool", "format", "--standalone", "-t", random_cluster_id(), "-c", str(properties)]
    if security is not None:
        formatting += security.format_arguments
    broker.run([*tool, *formatting], env, log)

    def command(name: str, arguments: Sequence[str]) -> tuple[Sequence[str], Mapping[str, str]]:
        return [*tool, name, "--bootstrap-server", f"127.0.0.1:{port}", *arguments], env

    argv = [java, *_HEAP, *JAVA_OPTIONS, "kafka.Kafka", str(properties)]
    broker.launch(Node(name=WHAT, argv=argv, env=env, log=log, ready=lambda: is_ready(port)))
    broker.provide_tool(command)
    return RunningTap(
        Tap(
            backend="kafka",
            url=f"kafka://127.0.0.1:{port}",
            product="Apache Kafka",
            version=KAFKA,
            how=f"native, jars on Java {java_version}",
            label="real",
            rung="native",
            pid=broker.pids[0],
            nodes=(f"127.0.0.1:{port}",),
            proxied=(fault, proxy),
        ),
        broker,
    )


def random_cluster_id() -> str:
    """A random UUID the way Kafka prints it: base64 without padding, never starting like an option."""
    while (text := base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")).startswith("-"):
        pass
    return text
