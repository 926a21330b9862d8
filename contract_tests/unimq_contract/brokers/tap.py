"""What a started broker looks like to its user, and the error that says why there is none."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Protocol, Self, TypeAlias

Backend: TypeAlias = Literal["rabbitmq", "kafka", "sqs"]
Rung: TypeAlias = Literal["url", "docker", "native", "emulator"]
Label: TypeAlias = Literal["real", "real in a container", "emulator"]

BACKENDS: tuple[Backend, ...] = ("rabbitmq", "kafka", "sqs")


class BrokerUnavailable(RuntimeError):
    """No broker of the wanted kind can be had here.

    ``what`` is missing, ``why``, and ``how_to_get_it`` (a command or a setting) make up the message.
    """

    def __init__(self, what: str, why: str, how_to_get_it: str) -> None:
        super().__init__(f"{what} is not available: {why}. {how_to_get_it}")
        self.what = what
        self.why = why
        self.how_to_get_it = how_to_get_it


@dataclass(frozen=True, slots=True)
class Tap:
    """Which broker was chosen and how it came to be. ``repr`` and ``describe()`` never show a password."""

    backend: Backend
    url: str = field(repr=False)
    """What ``unimq.connect`` takes. For a cluster it names the first node; ``nodes`` has them all."""
    product: str
    version: str
    how: str
    label: Label
    rung: Rung
    pid: int | None = None
    """Process of the first node as it was started, when it is a child of ours. ``RunningTap.pids`` keeps up."""
    nodes: tuple[str, ...] = ()
    """``host:port`` of every node."""
    proxied: tuple[int, int] | None = None
    """Of a broker that tells its clients where to connect (Kafka): the port of a listener that tells another port, and
    that port, where nobody listens: the place of a proxy between both."""
    durable: bool = True
    """Whether messages survive ``restart()``. The emulators keep everything in memory."""

    def describe(self) -> str:
        """One line: backend, product and version, label, how."""
        return f"{self.backend}: {self.product} {self.version} ({self.label}; {self.how})"

    @property
    def public_url(self) -> str:
        """The URL, with the password of somebody else's broker masked; the fixed one of our own is no secret."""
        return mask_password(self.url) if self.rung == "url" else self.url

    def to_json(self) -> str:
        """One line of JSON for programs that start a broker as a child process."""
        shown = {name: getattr(self, name) for name in self.__slots__ if name != "url"}
        return json.dumps({"url": self.public_url, **shown})


def mask_password(url: str) -> str:
    """``scheme://user:secret@host`` with the secret replaced; unchanged when there is none."""
    return re.sub(r"(://[^:/?#@]*:)[^/?#]*(@)", r"\1***\2", url)


class Control(Protocol):
    """How a rung lets go of, or maltreats, the broker it started. Calls come from one thread at a time."""

    @property
    def pids(self) -> tuple[int, ...]: ...
    def stop(self) -> None: ...
    def kill(self, node: int) -> None: ...
    def restart(self, node: int) -> None: ...
    def suspend(self, node: int) -> None: ...
    def resume(self, node: int) -> None: ...
    def tool(self, name: str, arguments: Sequence[str]) -> str: ...
    def log(self) -> str: ...


class RunningTap:
    """A broker that answers. Leaving the ``with`` block stops it, unless it was given by URL.

    ``stop()`` is idempotent and bounded. The other methods are for fault tests; ``node`` counts from 0. A broker given
    by URL is not ours: they raise :class:`BrokerUnavailable` there. Not thread-safe, except that ``stop()`` may be
    called from anywhere; in a forked child it does nothing, because the broker belongs to the parent.
    """

    def __init__(self, tap: Tap, control: Control | None) -> None:
        self.tap = tap
        self._control = control
        self._owner = os.getpid()

    @property
    def url(self) -> str:
        """What ``unimq.connect`` takes."""
        return self.tap.url

    @property
    def pids(self) -> tuple[int, ...]:
        """The nodes' processes as they are now; empty when they are not children of ours."""
        return self._control.pids if self._control is not None else ()

    def stop(self) -> None:
        """Stop the broker and remove its folder. A clean stop is tried for some seconds, then it is killed."""
        if self._control is not None and os.getpid() == self._owner:
            self._control.stop()

    def kill(self, node: int = 0) -> None:
        """``kill -9``; returns when the process is gone. Port and data stay reserved for ``restart()``."""
        self._ours("kill").kill(node)

    def restart(self, node: int = 0) -> None:
        """Start again on the same port and data, stopping first what still runs; returns when it answers."""
        self._ours("restart").restart(node)

    def suspend(self, node: int = 0) -> None:
        """Freeze (SIGSTOP): connections stay open and nothing answers."""
        self._ours("suspend").suspend(node)

    def resume(self, node: int = 0) -> None:
        """Undo ``suspend()``."""
        self._ours("resume").resume(node)

    def tool(self, name: str, *arguments: str) -> str:
        """Run one of the broker's own programs in its surroundings and return what it prints.

        RabbitMQ: ``tool("rabbitmqctl", "list_queues")``. Kafka: a main class with the bootstrap address added,
        ``tool("org.apache.kafka.tools.TopicCommand", "--list")``. Raises ``RuntimeError`` with its output if it fails.
        """
        return self._ours(name).tool(name, arguments)

    def log(self) -> str:
        """The last lines the broker wrote."""
        return self._ours("log").log()

    def _ours(self, wish: str) -> Control:
        if self._control is None:
            raise BrokerUnavailable(
                f"{wish} for {self.tap.backend}",
                "the broker was given by URL and is not ours",
                f'Start a private one: start("{self.tap.backend}", rung="native")',
            )
        return self._control

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
