"""Brokers in containers, by testcontainers, when a local Docker engine answers and the image is at hand.

testcontainers' generic container is used with the ready-checks of ``wire``, not its ready-made modules: those import
pika and boto3, which the suite must not, and wait for log lines. Ports are published on 127.0.0.1 alone, and are chosen
beforehand, so that a restart keeps them and Kafka knows its address before it starts.
"""

import contextlib
import importlib.util
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from . import engine
from .tap import Backend, BrokerUnavailable, Label, RunningTap, Tap
from .versions import IMAGES
from .wire import (
    amqp_version,
    kafka_answers,
    kafka_group_coordinator_ready,
    kafka_producer_ids_ready,
    sqs_answers,
)

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

TIMEOUT = 120.0
PULL = "UNIMQ_TAP_PULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recipe:
    """How one backend runs in its image. ``version`` asks the running broker and returns None until it is ready."""

    product: str
    label: Label
    port: int
    url: str
    environment: Mapping[str, str]
    version: Callable[[int], str | None]
    durable: bool = True
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])


def image(backend: Backend) -> str:
    """Image name: UNIMQ_TAP_IMAGE_KAFKA and the like, or the pinned one."""
    return os.environ.get(f"UNIMQ_TAP_IMAGE_{backend.upper()}") or IMAGES[backend]


def start(backend: Backend, *, timeout: float | None = None) -> RunningTap:
    """Start the backend's image. Says within two seconds, and at once without an engine, when that is impossible."""
    name = image(backend)
    socket = _usable_engine(name)
    from .process import free_ports

    (port,) = free_ports(1)
    recipe = _recipe(backend, port)
    control = _Container(socket, name, recipe, port, timeout or TIMEOUT)
    version = control.start()
    return RunningTap(
        Tap(
            backend=backend,
            url=recipe.url,
            product=recipe.product,
            version=version,
            how=f"image {name}",
            label=recipe.label,
            rung="docker",
            nodes=(f"127.0.0.1:{port}",),
            durable=recipe.durable,
        ),
        control,
    )


def _usable_engine(name: str) -> str:
    """Socket of an engine that can run the image; testcontainers is not imported to find out that there is none."""
    socket = engine.find_socket()
    if socket is None:
        raise BrokerUnavailable("Docker", "no local engine was found", "Start Docker, or set DOCKER_HOST=unix://….")
    if engine.status(socket, "/_ping") != 200:
        raise BrokerUnavailable(
            "Docker", f"no engine answers at {socket} within {engine.ANSWER_WITHIN:g} s", "Start Docker."
        )
    if engine.status(socket, f"/images/{name}/json") != 200 and not os.environ.get(PULL):
        raise BrokerUnavailable(
            "Docker", f"the image {name} is not there", f"docker pull {name}, or set {PULL}=1 to allow pulls."
        )
    if importlib.util.find_spec("testcontainers") is None:
        raise BrokerUnavailable("Docker", "testcontainers is not installed", "pip install 'unimq[test]'")
    return socket


class _Container:
    """One container and the process that removes it should we be killed. Implements ``Control``."""

    def __init__(self, socket: str, image: str, recipe: _Recipe, port: int, timeout: float) -> None:
        self._socket = socket
        self._image = image
        self._recipe = recipe
        self._port = port
        self._timeout = timeout
        self._name = f"unimq-tap-{os.getpid()}-{secrets.token_hex(4)}"
        self._container: DockerContainer | None = None
        self._reaper: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        # Read by testcontainers when it is imported. Its own reaper is an image more, which may not be at hand.
        os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
        # Named, the engine is taken as it is; else testcontainers, believing to be in a container, guesses networks.
        os.environ.setdefault("DOCKER_HOST", f"unix://{self._socket}")
        from testcontainers.core.container import DockerContainer

        # First the reaper, then what it is to remove: no moment without protection.
        self._reaper = subprocess.Popen(
            [sys.executable, "-S", engine.__file__, self._socket, self._name],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            container = DockerContainer(self._image, name=self._name)
            self._container = container
            for key, value in self._recipe.environment.items():
                container.with_env(key, value)
            for path, content in self._recipe.files.items():
                container.with_copy_into_container(content, path)
            # An address beside the port is what Docker takes, though testcontainers' annotation knows only the port.
            ports = cast("dict[str, object]", container.ports)
            ports[f"{self._recipe.port}/tcp"] = ("127.0.0.1", self._port)
            container.start()
            return self._wait()
        except BaseException as error:
            self.stop()
            if isinstance(error, BrokerUnavailable) or not isinstance(error, Exception):
                raise
            # docker-py's errors are plain exceptions: no image, no right to the socket, no room on the disk.
            what = f"the image {self._image}"
            raise BrokerUnavailable(what, str(error), "Correct that, or go without Docker.") from error

    @property
    def pids(self) -> tuple[int, ...]:
        return ()

    def stop(self) -> None:
        engine.remove(self._socket, self._name)
        if self._container is not None:
            self._container.get_docker_client().client.close()
            self._container = None
        if self._reaper is not None:
            if self._reaper.stdin is not None:
                with contextlib.suppress(OSError):
                    self._reaper.stdin.write(engine.RELEASED)
                    self._reaper.stdin.close()
            self._reaper.wait()
            self._reaper = None

    def kill(self, node: int) -> None:
        self._ask("kill")
        self._ask("wait")

    def restart(self, node: int) -> None:
        self._ask("restart?t=5")
        self._wait()

    def suspend(self, node: int) -> None:
        self._ask("pause")

    def resume(self, node: int) -> None:
        self._ask("unpause")

    def tool(self, name: str, arguments: Sequence[str]) -> str:
        done = self._running().exec([name, *arguments])
        text = done.output.decode("utf-8", "replace")
        if done.exit_code != 0:
            raise RuntimeError(f"{name} ended with {done.exit_code}: {text[-4000:]}")
        return text

    def log(self) -> str:
        out, err = self._running().get_logs()
        return (out + err).decode("utf-8", "replace")[-4000:].strip()

    def _ask(self, action: str) -> None:
        self._running()
        status = engine.status(self._socket, f"/containers/{self._name}/{action}", method="POST", timeout=self._timeout)
        if status not in (200, 204):
            raise BrokerUnavailable(self._image, f"Docker answers {status} to {action}", "See the engine's log.")

    def _running(self) -> "DockerContainer":
        if self._container is None:
            raise BrokerUnavailable(self._image, "it was stopped", "Start a new one.")
        return self._container

    def _wait(self) -> str:
        end = time.monotonic() + self._timeout
        while (version := self._recipe.version(self._port)) is None:
            container = self._running()
            container.reload()
            why = f"the container is {container.status}" if container.status in ("exited", "dead") else None
            if time.monotonic() > end:
                why = f"it did not answer within {self._timeout:g} s"
            if why is not None:
                raise BrokerUnavailable(f"the image {self._image}", why, f"Its last words:\n{self.log() or '(none)'}")
            time.sleep(0.05)
        return version


def _recipe(backend: Backend, port: int) -> _Recipe:
    if backend == "rabbitmq":
        return _Recipe(
            product="RabbitMQ",
            label="real in a container",
            port=5672,
            url=f"amqp://guest:guest@127.0.0.1:{port}/",
            environment={"RABBITMQ_DEFAULT_USER": "guest", "RABBITMQ_DEFAULT_PASS": "guest"},
            files={"/etc/rabbitmq/enabled_plugins": b"[rabbitmq_consistent_hash_exchange].\n"},
            version=lambda at: amqp_version("127.0.0.1", at),
        )
    if backend == "kafka":
        return _kafka_recipe(port)
    return _Recipe(
        product=image("sqs").rpartition("/")[2].partition(":")[0],
        label="emulator",
        port=4566,
        url=f"sqs+http://test:test@127.0.0.1:{port}/?region=us-east-1",
        environment={"SERVICES": "sqs,sns"},
        version=lambda at: _tag(image("sqs")) if sqs_answers("127.0.0.1", at) else None,
        durable=False,
    )


def _kafka_recipe(port: int) -> _Recipe:
    from .kafka import SETTINGS

    settings = {
        **SETTINGS,
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,INSIDE:PLAINTEXT",
        # The broker cannot reach itself by the address that its clients use.
        "inter.broker.listener.name": "INSIDE",
        "listeners": "PLAINTEXT://:9092,INSIDE://:9094,CONTROLLER://:9093",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port},INSIDE://localhost:9094",
        "controller.quorum.voters": "1@localhost:9093",
    }

    def version(at: int) -> str | None:
        there = ("127.0.0.1", at)
        ready = kafka_answers(*there) and kafka_group_coordinator_ready(*there) and kafka_producer_ids_ready(*there)
        return _tag(image("kafka")) if ready else None

    return _Recipe(
        product="Apache Kafka",
        label="real in a container",
        port=9092,
        url=f"kafka://127.0.0.1:{port}",
        environment={f"KAFKA_{key.upper().replace('.', '_')}": value for key, value in settings.items()},
        version=version,
    )


def _tag(name: str) -> str:
    """The version that an image's name claims; the protocols of Kafka and SQS do not tell one."""
    return name.rpartition(":")[2] if ":" in name else "unknown"
