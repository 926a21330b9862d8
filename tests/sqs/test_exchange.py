"""Answers of HTTP as servers and proxies write them, whole and broken, piece by piece."""

import socket
import threading
from collections.abc import Iterator

import pytest
from botocore import exceptions as native
from unimq_sqs import _exchange
from unimq_sqs._exchange import LARGEST_HEAD, Exchange

WITHIN = 60.0
OK = b"HTTP/1.1 200 OK\r\n"


class Server:
    """Answers each request with the next script, whose pieces are sent one by one; an empty one ends the connection."""

    def __init__(self) -> None:
        self.scripts: list[list[bytes]] = []
        self.heard: list[bytes] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while self.scripts or not self.heard:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection:
                self.connections += 1
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        while self.scripts:
            head, body = b"", b""
            while b"\r\n\r\n" not in head:
                found = connection.recv(65536)
                if not found:
                    return
                head += found
            head, _, body = head.partition(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            while len(body) < size:
                body += connection.recv(65536)
            self.heard.append(head + b"\r\n\r\n" + body)
            for piece in self.scripts.pop(0):
                if not piece:
                    return
                connection.sendall(piece)

    def close(self) -> None:
        # Wakes `accept`, which closing alone does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(WITHIN)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def exchange(server: Server) -> Iterator[Exchange]:
    made = Exchange(
        "127.0.0.1",
        server.port,
        None,
        "http://here",
        connections=1,
        connect_timeout=WITHIN,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    )
    yield made
    made.close()


def post(exchange: Exchange) -> _exchange.Answer:
    return exchange.post({"Host": "here", "X": "1"}, b"asked", WITHIN)


WHOLE: dict[str, tuple[list[bytes], bytes]] = {
    "with its length": ([OK + b"Content-Length: 5\r\n\r\nhello"], b"hello"),
    "in single bytes": ([bytes([byte]) for byte in OK + b"content-length:5\r\n\r\nhello"], b"hello"),
    "in chunks": (
        [OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r", b"\n3;x=y\r\nllo\r\n", b"0\r\nTrailer: x\r\n\r\n"],
        b"hello",
    ),
    "after 100": ([b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"Content-Length: 5\r\n\r\nhello"], b"hello"),
    "without a body": ([b"HTTP/1.1 204 No Content\r\n\r\n"], b""),
    "without a reason": ([b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n{}"], b"{}"),
    "of a megabyte": ([OK + b"Content-Length: 1048576\r\n\r\n", b"x" * 1048576], b"x" * 1048576),
}


@pytest.mark.parametrize("how", WHOLE)
def test_an_answer_is_read_and_its_connection_used_again(server: Server, exchange: Exchange, how: str) -> None:
    pieces, expected = WHOLE[how]
    server.scripts = [pieces, [OK + b"Content-Length: 2\r\n\r\n{}"]]
    assert post(exchange).body == expected
    assert post(exchange) == (200, {"content-length": "2"}, b"{}")
    assert server.connections == 1
    assert server.heard == [b"POST / HTTP/1.1\r\nHost: here\r\nX: 1\r\nContent-Length: 5\r\n\r\nasked"] * 2


ENDING: dict[str, list[bytes]] = {
    "by its end": [OK + b"\r\nhel", b"lo", b""],
    "which says so": [OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello", b""],
    "of HTTP 1.0": [b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", b""],
    "with more than it says": [OK + b"Content-Length: 5\r\n\r\nhello, world", b""],
    "that stays open only for a moment": [OK + b"Content-Length: 5\r\n\r\nhello", b""],
}


@pytest.mark.parametrize("how", ENDING)
def test_a_connection_that_ends_is_not_used_again(server: Server, exchange: Exchange, how: str) -> None:
    server.scripts = [ENDING[how], [OK + b"Content-Length: 2\r\n\r\n{}"]]
    assert post(exchange).body == b"hello"
    for idle in exchange._idle:
        # The server's end is on its way.
        idle.sock.settimeout(WITHIN)
        assert idle.sock.recv(1, socket.MSG_PEEK) == b""
    assert post(exchange).body == b"{}"
    assert server.connections == 2


BROKEN: dict[str, list[bytes]] = {
    "nothing": [b""],
    "an end in the headers": [OK + b"Content-Le", b""],
    "an end in the body": [OK + b"Content-Length: 5\r\n\r\nhel", b""],
    "an end in a chunk": [OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel", b""],
    "an end between chunks": [OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b""],
    "a chunk that is longer": [OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n", b""],
    "another encoding": [OK + b"Transfer-Encoding: gzip\r\n\r\n", b""],
    "no number": [OK + b"Content-Length: five\r\n\r\nhello", b""],
    "a negative length": [OK + b"Content-Length: -5\r\n\r\nhello", b""],
    "an endless length": [OK + b"Content-Length: 99999999999\r\n\r\nhello", b""],
    "no header": [OK + b"Content-Length 5\r\n\r\nhello", b""],
    "another protocol": [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b""],
    "no status": [b"HTTP/1.1 OK\r\n\r\n", b""],
    "endless headers": [OK, b"X: " + b"y" * (LARGEST_HEAD + 70_000), b""],
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_a_connection_that_was_lost(server: Server, exchange: Exchange, what: str) -> None:
    server.scripts = [BROKEN[what], [OK + b"Content-Length: 2\r\n\r\n{}"]]
    with pytest.raises(native.ConnectionClosedError):
        post(exchange)
    assert post(exchange).body == b"{}", "the next one has a connection of its own"
    assert server.connections == 2


def test_an_answer_without_an_end_is_given_up(
    server: Server, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_exchange, "LARGEST_BODY", 100)
    server.scripts = [[OK + b"\r\n", *[b"x" * 60] * 3, b""]]
    with pytest.raises(native.ConnectionClosedError):
        post(exchange)


def test_a_line_break_never_becomes_a_header(server: Server, exchange: Exchange) -> None:
    for token in ("a\r\nX-Amz-Target: other", "a\n", "\r"):
        with pytest.raises(native.CredentialRetrievalError, match="line break"):
            exchange.post({"Host": "here", "X-Amz-Security-Token": token}, b"", WITHIN)
    assert server.connections == 0
    server.scripts = [[OK + b"Content-Length: 2\r\n\r\n{}"]]
    assert post(exchange).body == b"{}"


def test_closed_connections_stay_closed_and_no_more_than_the_limit_are_kept(server: Server, exchange: Exchange) -> None:
    server.scripts = [[OK + b"Content-Length: 2\r\n\r\n{}"]] * 2
    post(exchange)
    (idle,) = exchange._idle
    exchange.close()
    exchange.close()
    assert idle.sock is None
    assert exchange._idle == []
    assert post(exchange).body == b"{}", "a request that is under way, or just begins"
    assert exchange._idle == []
