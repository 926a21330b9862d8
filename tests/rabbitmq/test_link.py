"""Attempts to connect that go wrong in ways that pika does not report."""

import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from pika.adapters.utils import connection_workflow, io_services_utils
from unimq_rabbitmq._frames import OwnFraming
from unimq_rabbitmq._link import Link
from unimq_rabbitmq._options import Endpoint, RabbitMQOptions
from unimq_rabbitmq._thread import IOThread

from unimq import ConnectionLost, UnimqError
from unimq._url import parse_url

TRIES = 3
WITHIN = 10.0


class Attempts:
    """A `unimq_rabbitmq._link.User` that counts failed attempts."""

    def __init__(self) -> None:
        self.errors: list[UnimqError] = []
        self.enough = threading.Event()

    def connected(self) -> None:
        raise AssertionError("nobody answers there")

    def unreachable(self, error: UnimqError) -> None:
        self.errors.append(error)
        if len(self.errors) == TRIES:
            self.enough.set()

    def ended(self, error: UnimqError) -> None:
        assert self.enough.is_set(), error


@pytest.fixture
def resetting() -> Iterator[int]:
    """A port whose connections are reset as soon as they are made."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(WITHIN)


def _not_connected(*_: object, **__: object) -> None:
    raise ValueError("Expected connected socket, but getpeername() failed")


def _too_many_files(*_: object, **__: object) -> None:
    raise OSError(24, "Too many open files")


def _in_the_stream(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(io_services_utils._AsyncStreamConnector, "__init__", _not_connected)  # pyright: ignore[reportPrivateUsage]


def _in_the_socket(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(connection_workflow, "socket", SimpleNamespace(**{**vars(socket), "socket": _too_many_files}))


def _in_the_constructor(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(OwnFraming, "connection_class", staticmethod(_too_many_files))


@pytest.mark.parametrize("fault", [None, _in_the_stream, _in_the_socket, _in_the_constructor])
def test_whatever_pika_raises_is_a_failed_attempt(
    resetting: int, fault: Callable[[pytest.MonkeyPatch], None] | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "unimq.rabbitmq")
    attempts = Attempts()
    with pytest.MonkeyPatch.context() as patch:
        if fault is not None:
            fault(patch)
        thread = IOThread("test")
        url = parse_url(f"amqp://127.0.0.1:{resetting}/")
        link = Link(thread, Endpoint(url, RabbitMQOptions()), "testing", 5.0, OwnFraming())
        thread.post(link.attach, attempts)
        assert attempts.enough.wait(WITHIN), attempts.errors
        assert thread.failure is None
        assert link.trouble.startswith("no connection for testing: ")
        thread.post(lambda _: link.close(1.0, thread.stop), None)
        thread.join(WITHIN)
    assert all(isinstance(error, ConnectionLost) for error in attempts.errors)
    assert caplog.records == []


class StubConnection:
    """A connection that comes up and breaks when the test says so."""

    is_open = True

    def __init__(self, _parameters: object, **_: object) -> None:
        pass

    def add_on_connection_blocked_callback(self, _callback: object) -> None:
        pass

    add_on_connection_unblocked_callback = add_on_connection_blocked_callback


class Guest:
    """A `unimq_rabbitmq._link.User` to whom all of this means nothing."""

    def connected(self) -> None: ...
    def unreachable(self, error: UnimqError) -> None: ...
    def ended(self, error: UnimqError) -> None: ...


def test_a_loss_is_told_once_and_what_was_restored_is_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "unimq.rabbitmq")
    monkeypatch.setattr(OwnFraming, "connection_class", StubConnection)
    framing = OwnFraming()
    monkeypatch.setattr(framing, "tune", StubConnection)
    thread = IOThread("test")
    link = Link(thread, Endpoint(parse_url("amqp://127.0.0.1:1/"), RabbitMQOptions()), "testing", 5.0, framing)
    counted: list[int] = []
    done = threading.Event()

    def play(_: object) -> None:
        link.attach(Guest())
        for failures in (1, 3):
            link._opened(link._current)  # type: ignore[arg-type] # a stub
            counted.append(link.reconnects)
            for _attempt in range(failures):
                link._lost(link._current, OSError("broken"))
                link._connect()
        link._opened(link._current)  # type: ignore[arg-type] # a stub
        counted.append(link.reconnects)
        link._current = None
        link.close(1.0, thread.stop)
        done.set()

    thread.post(play, None)
    assert done.wait(WITHIN)
    thread.join(WITHIN)
    assert counted == [0, 1, 2]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING", "INFO"]


def test_pauses_grow_up_to_a_limit_and_differ_between_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients of a broker that comes back must not all knock at the same moment (L3)."""
    monkeypatch.setattr(OwnFraming, "connection_class", StubConnection)
    thread = IOThread("test")
    url = parse_url("amqp://127.0.0.1:1,127.0.0.1:2/")
    pauses: list[list[float]] = []
    done = threading.Event()

    def note(delay: float, _function: Callable[[], None]) -> None:
        pauses[-1].append(delay)

    def play(_: object) -> None:
        monkeypatch.setattr(thread, "call_later", note)
        for _client in range(4):
            link = Link(thread, Endpoint(url, RabbitMQOptions()), "testing", 5.0, OwnFraming())
            pauses.append([])
            link.attach(Guest())
            for _attempt in range(8):
                link._lost(link._current, OSError("broken"))
                link._connect()
            link._current = None
        done.set()

    thread.post(play, None)
    assert done.wait(WITHIN)
    thread.post(lambda _: thread.stop(), None)
    thread.join(WITHIN)
    highest = [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    for client in pauses:
        assert [pause for pause, most in zip(client, highest, strict=True) if not most / 2 <= pause <= most] == []
    assert len({tuple(client) for client in pauses}) == len(pauses)
