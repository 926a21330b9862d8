"""One kind of HTTP exchange: a POST to the root of one endpoint, and its answer, on a connection that stays open.

urllib3 opens the connections (names, timeouts, TLS). What it and `http.client` do for each request and its answer
(objects for the headers, a parser of e-mail) took two thirds of what the fast path costs; here it is a few lines.
"""

import contextlib
import ssl
import threading
import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

from botocore import exceptions as native
from urllib3 import exceptions as http
from urllib3.connection import HTTPConnection, HTTPSConnection

LARGEST_HEAD = 64 * 1024
LARGEST_BODY = 64 * 1024 * 1024
"""Bytes of an answer beyond which it is none of SQS: ten messages have 1 MiB together (L5)."""
_CHUNK = 64 * 1024
_WITHOUT_BODY = {204, 304}


class Answer(NamedTuple):
    """What came back; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Exchange:
    """Thread-safe. Its lock guards the connections that nobody uses; each of the others belongs to its thread."""

    def __init__(
        self,
        host: str,
        port: int | None,
        context: ssl.SSLContext | None,
        url: str,
        *,
        connections: int,
        connect_timeout: float,
        socket_options: Any,
    ) -> None:
        """Open nothing yet.

        Args:
            host: name or address; of IPv6 in brackets.
            port: or the usual one.
            context: for HTTPS; without it it is HTTP.
            url: for errors.
            connections: kept open at most.
            connect_timeout: seconds.
            socket_options: as urllib3 takes them.

        """
        self._host = host
        self._port = port
        self._context = context
        self._url = url
        self._most = connections
        self._connect_timeout = connect_timeout
        self._socket_options = socket_options
        self._lock = threading.Lock()
        self._idle: list[HTTPConnection] = []
        self._closed = False
        # Whoever forgets to close leaves no socket behind either (L4).
        weakref.finalize(self, _close_all, self._idle)

    def close(self) -> None:
        """Close the connections that are not in use; a request that is under way closes its own. Idempotent."""
        with self._lock:
            self._closed = True
            _close_all(self._idle)

    def post(self, headers: Mapping[str, str], body: bytes, read_timeout: float) -> Answer:
        """Make one request, once; `read_timeout` is how long nothing may come. Errors are those of botocore.

        Raises:
            native.HTTPClientError: with a class that says what went wrong: no connection, no TLS, no answer in time, a
                connection that ended in the middle.

        """
        head = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        if head.count("\n") != len(headers) or head.count("\r") != len(headers):
            raise native.CredentialRetrievalError(
                provider="the chain of AWS", error_msg="there is a line break in a key or a token"
            )
        request = f"POST / HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode("latin-1") + body
        connection = self._taken() or self._opened()
        is_whole = False
        try:
            sock: Any = connection.sock
            sock.settimeout(read_timeout)
            sock.sendall(request)
            answer, is_whole = _read(sock)
        except TimeoutError as error:
            raise native.ReadTimeoutError(endpoint_url=self._url, error=error) from error
        except ssl.SSLError as error:
            raise native.SSLError(endpoint_url=self._url, error=error) from error
        except OSError as error:
            # A reset, or an end in the middle: a `_Broken` is one, too.
            raise native.ConnectionClosedError(endpoint_url=self._url, error=error) from error
        finally:
            self._put_back(connection, is_usable=is_whole)
        return answer

    def _taken(self) -> HTTPConnection | None:
        """Return the connection that was used last, unless the other side closed it in the meantime."""
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None or connection.is_connected:
                return connection
            connection.close()

    def _opened(self) -> HTTPConnection:
        given: dict[str, Any] = {"timeout": self._connect_timeout, "socket_options": self._socket_options}
        connection: HTTPConnection
        if self._context is None:
            connection = HTTPConnection(self._host, self._port, **given)
        else:
            connection = HTTPSConnection(self._host, self._port, ssl_context=self._context, **given)
        try:
            connection.connect()
        except (http.SSLError, ssl.SSLError) as error:
            connection.close()
            raise native.SSLError(endpoint_url=self._url, error=error) from error
        except (http.HTTPError, OSError) as error:
            connection.close()
            # That nobody listens is a subclass of a connection that took too long.
            late = isinstance(error, http.ConnectTimeoutError) and not isinstance(error, http.NewConnectionError)
            kind = native.ConnectTimeoutError if late else native.EndpointConnectionError
            raise kind(endpoint_url=self._url, error=error) from error
        return connection

    def _put_back(self, connection: HTTPConnection, *, is_usable: bool) -> None:
        if is_usable:
            with self._lock:
                if not self._closed and len(self._idle) < self._most:
                    self._idle.append(connection)
                    return
        with contextlib.suppress(OSError):
            connection.close()


def _close_all(connections: list[HTTPConnection]) -> None:
    while connections:
        with contextlib.suppress(OSError):
            connections.pop().close()


class _Broken(ConnectionError):
    """The connection ended in the middle of an answer, or what came is none of HTTP."""


class _Incoming:
    """What came on a connection and was not read yet."""

    __slots__ = ("_data", "_sock")

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._data = b""

    def more(self) -> bool:
        """Wait for more; false at the end of the connection."""
        found = self._sock.recv(_CHUNK)
        self._data = self._data + found if self._data else found
        return bool(found)

    def until(self, mark: bytes) -> bytes:
        """Return what is before the mark, and pass over it."""
        while True:
            before, found, rest = self._data.partition(mark)
            if found:
                self._data = rest
                return before
            if len(self._data) > LARGEST_HEAD or not self.more():
                raise _Broken("the answer has no end of its headers")

    def exactly(self, size: int) -> bytes:
        """Return so many bytes."""
        if len(self._data) < size:
            parts, missing = [self._data], size - len(self._data)
            while missing > 0:
                found = self._sock.recv(min(missing, _CHUNK * 16))
                if not found:
                    raise _Broken(f"the answer ended {missing} bytes before its end")
                parts.append(found)
                missing -= len(found)
            self._data = b"".join(parts)
        found, self._data = self._data[:size], self._data[size:]
        return found

    def rest(self) -> bytes:
        """Return everything up to the end of the connection."""
        while len(self._data) <= LARGEST_BODY and self.more():
            pass
        if len(self._data) > LARGEST_BODY:
            raise _Broken(_TOO_LARGE)
        found, self._data = self._data, b""
        return found

    @property
    def is_empty(self) -> bool:
        """Whether nothing came that nobody asked for."""
        return not self._data


_TOO_LARGE = f"the answer has more than {LARGEST_BODY} bytes"


def _read(sock: Any) -> tuple[Answer, bool]:
    """Read an answer; return it, and whether the connection can be used again."""
    incoming = _Incoming(sock)
    while True:
        version, status, headers = _head(incoming.until(b"\r\n\r\n"))
        # 100 and its like come before the answer.
        if status >= 200:
            break
    stays = version == b"HTTP/1.1" and "close" not in headers.get("connection", "").lower()
    if status in _WITHOUT_BODY:
        body = b""
    elif "transfer-encoding" in headers:
        if headers["transfer-encoding"].strip().lower() != "chunked":
            raise _Broken(f"the answer is encoded as {headers['transfer-encoding']!r}")
        body = _chunks(incoming)
    elif "content-length" in headers:
        body = incoming.exactly(_size(headers["content-length"], 10))
    else:
        body, stays = incoming.rest(), False
    return Answer(status, headers, body), stays and incoming.is_empty


def _head(data: bytes) -> tuple[bytes, int, dict[str, str]]:
    first, *lines = data.split(b"\r\n")
    version, _, rest = first.partition(b" ")
    code = rest[:3]
    if not version.startswith(b"HTTP/1.") or not code.isdigit() or rest[3:4] not in {b"", b" "}:
        raise _Broken(f"what came is no HTTP: {first[:80]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon:
            raise _Broken(f"what came is no header: {line[:80]!r}")
        headers[name.strip().lower()] = value.strip()
    return version, int(code), headers


def _size(text: str, base: int) -> int:
    try:
        size = int(text, base)
    except ValueError:
        size = -1
    if size < 0:
        raise _Broken(f"{text[:80]!r} is no length")
    if size > LARGEST_BODY:
        raise _Broken(_TOO_LARGE)
    return size


def _chunks(incoming: _Incoming) -> bytes:
    parts: list[bytes] = []
    total = 0
    while size := _size(incoming.until(b"\r\n").partition(b";")[0].decode("latin-1").strip(), 16):
        total += size
        if total > LARGEST_BODY:
            raise _Broken(_TOO_LARGE)
        parts.append(incoming.exactly(size))
        if incoming.exactly(2) != b"\r\n":
            raise _Broken("a part of the answer is longer than it says")
    # Trailing headers, if any, end with an empty line.
    while incoming.until(b"\r\n"):
        pass
    return b"".join(parts)
