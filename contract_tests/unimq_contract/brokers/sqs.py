"""Private emulators of SQS: ministack (with SNS), or ElasticMQ (SQS alone, closer to SQS in redelivery and timing).

No emulator is right alone: ministack knows limits, error codes and SNS; ElasticMQ delivery semantics, redrive, timing.
Both keep everything in memory: ``restart()`` brings back an empty one.
"""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

from .home import brokers_home, install_folder, read_mark
from .java import fetch_jars, find_java
from .process import Node, PrivateBroker, WorkFolder, free_ports, minimal_environment
from .tap import BrokerUnavailable, RunningTap, Tap
from .versions import ELASTICMQ, ELASTICMQ_JAVA, ELASTICMQ_SCALA, MINISTACK, MINISTACK_REQUIREMENTS
from .wire import sqs_answers

TIMEOUT = 30.0
Flavour: TypeAlias = Literal["ministack", "elasticmq"]
FLAVOURS: tuple[Flavour, ...] = ("ministack", "elasticmq")

_ELASTICMQ_CONFIGURATION = """include classpath("application.conf")
node-address {{ protocol = http, host = "127.0.0.1", port = {port}, context-path = "" }}
rest-sqs {{ enabled = true, bind-hostname = "127.0.0.1", bind-port = {port}, sqs-limits = strict }}
rest-stats.enabled = false
aws {{ region = us-east-1, accountId = 000000000000 }}
{settings}"""


def flavour(name: str | None) -> Flavour:
    """The emulator of that name; ministack, which has SNS, when none is given."""
    for known in FLAVOURS:
        if name in (known, None):
            return known
    raise ValueError(f"unknown SQS emulator {name!r}; known: {', '.join(FLAVOURS)}")


def folder_of(flavour: Flavour) -> Path:
    """Where an emulator is installed. ministack's dependencies are compiled for one Python version."""
    if flavour == "ministack":
        return brokers_home() / f"ministack-{MINISTACK}-py{sys.version_info.major}{sys.version_info.minor}"
    return brokers_home() / f"elasticmq-{ELASTICMQ}"


def install(flavour: Flavour) -> str:
    """Fetch an emulator unless it is there; returns its version."""

    def fill(folder: Path) -> Mapping[str, str]:
        if flavour == "ministack":
            _pip_install(folder)
            return {"version": MINISTACK}
        what = f"ElasticMQ {ELASTICMQ}"
        find_java(ELASTICMQ_JAVA, what)
        artefact = f"org.elasticmq:elasticmq-server_{ELASTICMQ_SCALA}:{ELASTICMQ}"
        return {"version": ELASTICMQ, "jars": str(fetch_jars([artefact], folder, what))}

    return install_folder(folder_of(flavour), fill)["version"]


def _pip_install(folder: Path) -> None:
    """Into a folder of its own, with this Python's pip, or with uv where an environment has no pip."""
    what = f"ministack {MINISTACK}"
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode != 0:
        uv = shutil.which("uv")
        if uv is None:
            raise BrokerUnavailable(
                what, f"{sys.executable} has no pip and there is no uv", f"{sys.executable} -m ensurepip"
            )
        pip = [uv, "pip"]
    argv = [*pip, "install", "-q", "--no-deps", "--target", str(folder / "site"), *MINISTACK_REQUIREMENTS]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BrokerUnavailable(
            what, f"pip ended with {done.returncode}: {done.stderr.strip()[-1500:]}", "Can pip reach its package index?"
        )


def start(
    *, flavour: Flavour = "ministack", settings: Mapping[str, str] | None = None, timeout: float = TIMEOUT
) -> RunningTap:
    """Start a private emulator; returns when it understands ListQueues.

    ``settings``: environment variables of ministack (``{"AUTH": "true"}`` refuses unknown keys), configuration paths of
    ElasticMQ. The credentials in the URL are the made-up ones that both accept.
    """
    if read_mark(folder_of(flavour)) is None:
        raise BrokerUnavailable(
            f"the SQS emulator {flavour}",
            f"it is not in {folder_of(flavour)}",
            "Run: make brokers, or: python -m unimq_contract.brokers install sqs",
        )
    product, version = ("ministack", MINISTACK) if flavour == "ministack" else ("ElasticMQ", ELASTICMQ)
    command = _ministack if flavour == "ministack" else _elasticmq
    broker = PrivateBroker(f"{product} {version}", timeout=timeout)
    with broker.starting():
        (port,) = free_ports(1)
        argv, env = command(broker.folder, port, settings or {})
        broker.launch(
            Node(
                name=product,
                argv=argv,
                env=env,
                log=broker.folder.path / "output.log",
                ready=lambda: sqs_answers("127.0.0.1", port),
                grace=1.0,
            )
        )
        return RunningTap(
            Tap(
                backend="sqs",
                url=f"sqs+http://test:test@127.0.0.1:{port}/?region=us-east-1",
                product=product,
                version=version,
                how="SQS and SNS in memory" if flavour == "ministack" else "SQS in memory, no SNS",
                label="emulator",
                rung="emulator",
                pid=broker.pids[0],
                nodes=(f"127.0.0.1:{port}",),
                durable=False,
            ),
            broker,
        )


def _ministack(folder: WorkFolder, port: int, settings: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    env = {
        **minimal_environment(folder.path),
        "PYTHONPATH": str(folder_of("ministack") / "site"),
        "SERVICES": "sqs,sns",
        "GATEWAY_PORT": str(port),
        # This one binds; the other is only the name in queue URLs. Without it all interfaces would be open.
        "BIND_HOST": "127.0.0.1",
        "MINISTACK_HOST": "127.0.0.1",
        **settings,
    }
    # -S keeps this environment's packages out of the emulator's way; PYTHONPATH has all it needs.
    return [sys.executable, "-S", "-m", "ministack"], env


def _elasticmq(folder: WorkFolder, port: int, settings: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    java, _ = find_java(ELASTICMQ_JAVA, f"ElasticMQ {ELASTICMQ}")
    more = "".join(f"{name} = {value}\n" for name, value in settings.items())
    configuration = folder.write("elasticmq.conf", _ELASTICMQ_CONFIGURATION.format(port=port, settings=more))
    argv = [
        java,
        "-Xms64m",
        "-Xmx512m",
        # One compiler level and the serial collector halve memory and start-up, at no cost that a client notices.
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-XX:-UsePerfData",
        "-Djava.awt.headless=true",
        f"-Dconfig.file={configuration}",
        "-cp",
        f"{folder_of('elasticmq') / 'libs'}/*",
        "org.elasticmq.server.Main",
    ]
    return argv, minimal_environment(folder.path)
