"""Between pika and its loop while a connection comes up."""

import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter


class ConnectingServices(SelectorIOServicesAdapter):
    """What pika needs of a loop to connect. pika lets some faults of an attempt out into the loop, which they end: a
    socket that is reset as soon as it is connected, the limit of open files. Here they fail the attempt.
    """

    def __init__(self, loop: Any, failed: Callable[[Exception], None]) -> None:
        super().__init__(loop)
        self._failed = failed

    def getaddrinfo(
        self,
        host: Any,
        port: Any,
        on_done: Callable[[Any], None],
        family: int = 0,
        socktype: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """Resolve a name; what follows opens the first socket."""
        return super().getaddrinfo(host, port, self._contained(on_done), family, socktype, proto, flags)

    def connect_socket(self, sock: socket.socket, resolved_addr: Any, on_done: Callable[[Any], None]) -> Any:
        """Connect; what follows opens a socket to the next address, if that failed."""
        return super().connect_socket(sock, resolved_addr, self._contained(on_done))

    def create_streaming_connection(
        self,
        protocol_factory: Callable[[], Any],
        sock: socket.socket,
        on_done: Callable[[Any], None],
        ssl_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
    ) -> Any:
        """Make a stream of the socket, or report by `on_done` what keeps it from being one."""
        try:
            return super().create_streaming_connection(protocol_factory, sock, on_done, ssl_context, server_hostname)
        except Exception as error:  # noqa: BLE001 - ValueError, for what the network did
            sock.close()
            return self.call_later(0, partial(on_done, error))

    def _contained(self, function: Callable[[Any], None]) -> Callable[[Any], None]:
        def call(result: Any) -> None:
            try:
                function(result)
            except Exception as error:  # noqa: BLE001 - whatever it is, the attempt is over
                self._failed(error)

        return call
