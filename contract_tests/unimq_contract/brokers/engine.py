"""The local Docker engine over its socket, without a client library: is it there, has it an image, remove a container.

Also a program, ``python engine.py SOCKET CONTAINER``: it waits until its owner is gone, which it notices by the end of
its standard input, and removes the owner's container. So no ``kill -9`` leaves a container, without a reaper's image.
"""

import contextlib
import http.client
import os
import socket
import sys
import time
from pathlib import Path

# The engine of Debian 12 speaks up to 1.41, the newest ones nothing older than 1.24.
_API = "/v1.41"
ANSWER_WITHIN = 2.0
RELEASED = b"."


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def find_socket() -> str | None:
    """Path of the engine's socket: ``DOCKER_HOST``'s, the system's, a rootless or desktop engine's; None without one.

    An engine elsewhere is not used: its containers' ports would not be on loopback.
    """
    given = os.environ.get("DOCKER_HOST")
    if given:
        return given.removeprefix("unix://") if given.startswith("unix://") else None
    usual = (
        "/var/run/docker.sock",
        f"{os.environ.get('XDG_RUNTIME_DIR', '/nonexistent')}/docker.sock",
        str(Path.home() / ".docker/run/docker.sock"),
    )
    return next((path for path in usual if Path(path).is_socket()), None)


def status(path: str, request: str, *, method: str = "GET", timeout: float = ANSWER_WITHIN) -> int | None:
    """HTTP status of one request, None when the engine does not answer in time."""
    connection = _Connection(path, timeout)
    try:
        connection.request(method, _API + request)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def remove(path: str, container: str) -> bool:
    """Remove a container with its volumes, running or not; whether it is gone."""
    return status(path, f"/containers/{container}?force=1&v=1", method="DELETE", timeout=30.0) in (204, 404)


def _outlive_owner(path: str, container: str) -> None:
    """Remove the container when standard input ends without the byte that says "done already"."""
    if os.read(0, 1) == RELEASED:
        return
    # The owner may have died while the engine still created the container: it appears a moment later.
    for _ in range(10):
        remove(path, container)
        time.sleep(0.5)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        _outlive_owner(*sys.argv[1:3])
