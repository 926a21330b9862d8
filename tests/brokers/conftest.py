"""What the tests of the brokers on tap share: looking at processes, and taking what is installed."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from unimq_contract.brokers import BrokerUnavailable, RunningTap

REQUIRED = "UNIMQ_TAP_LOWEST" in os.environ
LADDER_SETTINGS = ("UNIMQ_TAP_LOWEST", "UNIMQ_TEST_RABBITMQ_URL", "UNIMQ_TEST_KAFKA_URL", "UNIMQ_TEST_SQS_URL")


@pytest.fixture
def bare_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    """No broker is given by the environment and no rung forbidden: the test sets what it is about."""
    for name in LADDER_SETTINGS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def skip_if_missing() -> Callable[[str], None]:
    """Skip for an error that says what is not installed, unless CI says that it must be; other errors are failures."""

    def judge(error: str) -> None:
        if not REQUIRED and "Run: make brokers" in error:
            pytest.skip(error)

    return judge


@pytest.fixture
def tap_or_skip(
    bare_ladder: None, skip_if_missing: Callable[[str], None]
) -> Iterator[Callable[[Callable[[], RunningTap]], RunningTap]]:
    """Start a broker and stop it after the test."""
    with contextlib.ExitStack() as started:

        def take(start: Callable[[], RunningTap]) -> RunningTap:
            try:
                return started.enter_context(start())
            except BrokerUnavailable as error:
                skip_if_missing(str(error))
                raise

        yield take


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
