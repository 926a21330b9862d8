"""Attempts to connect that go wrong in ways that pika does not report."""

import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from pika.adapters.utils import connection_workflow, io_services_utils
from unimq_rabbitmq import _link
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
    patch.setattr(_link, "SelectConnection", _too_many_files)


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
        link = Link(thread, Endpoint(url, RabbitMQOptions()), "testing", 5.0)
        thread.post(link.attach, attempts)
        assert attempts.enough.wait(WITHIN), attempts.errors
        assert thread.failure is None
        thread.post(lambda _: link.close(1.0, thread.stop), None)
        thread.join(WITHIN)
    assert all(isinstance(error, ConnectionLost) for error in attempts.errors)
    assert caplog.records == []
