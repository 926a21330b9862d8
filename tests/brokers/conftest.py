"""What the tests of the brokers on tap share: looking at processes, and stopping what was started."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from unimq_contract.brokers import RunningTap

LADDER_SETTINGS = ("UNIMQ_TAP_LOWEST", "UNIMQ_TEST_RABBITMQ_URL", "UNIMQ_TEST_KAFKA_URL", "UNIMQ_TEST_SQS_URL")


@pytest.fixture
def bare_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    """No broker is given by the environment and no rung forbidden: the test sets what it is about."""
    for name in LADDER_SETTINGS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tap_or_skip(
    bare_ladder: None, start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap]
) -> Iterator[Callable[[Callable[[], RunningTap]], RunningTap]]:
    """Start a broker and stop it after the test."""
    with contextlib.ExitStack() as started:
        yield lambda start: started.enter_context(start_or_skip(start))


@pytest.fixture
def session_members() -> Callable[[int], list[int]]:
    """Gives the living processes of the session that a pid opened: a broker and everything it started."""

    def members(leader: int) -> list[int]:
        found: list[int] = []
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _parent, _group, session, *_ = entry.read_text("ascii", "replace").rpartition(") ")[2].split()
                if int(session) == leader and state not in "ZX":
                    found.append(int(entry.parent.name))
        return found

    return members


@pytest.fixture
def listens() -> Callable[[str], bool]:
    """Tells whether anything accepts connections at ``host:port``."""

    def accepts(node: str) -> bool:
        host, _, port = node.rpartition(":")
        try:
            socket.create_connection((host, int(port)), 1.0).close()
        except OSError:
            return False
        return True

    return accepts
