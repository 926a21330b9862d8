"""Each fault of the proxy, seen by a plain client socket of a plain echo server, in a thread and in a process."""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from unimq_contract.faults.proxy import FaultProxy
from unimq_contract.history import History
from unimq_contract.history import events as ev
from unimq_contract.leaks import Holdings, wait_until_released

WITHIN = 10.0
QUIET = 0.15
"""Seconds of silence that show that nothing moves."""


@dataclass
class Echo:
    """Sends back what it gets, and tells how each of its connections ended."""

    listener: socket.socket
    ended: list[str] = field(default_factory=list[str])
    connections: list[socket.socket] = field(default_factory=list[socket.socket])
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.listener.getsockname()
        return host, port

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with self.changed:
                self.connections.append(connection)
                self.changed.notify_all()
            threading.Thread(target=self.answer, args=(connection,), name="echo", daemon=True).start()

    def answer(self, connection: socket.socket) -> None:
        how = "closed"
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                how = "reset"
        with self.changed:
            self.ended.append(how)
            self.changed.notify_all()

    def wait_for(self, condition: Callable[["Echo"], bool]) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: condition(self), WITHIN)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = Holdings.now()
    yield
    assert not wait_until_released(before, WITHIN)


@pytest.fixture
def echo(nothing_left: None) -> Iterator[Echo]:
    server = Echo(socket.create_server(("127.0.0.1", 0)))
    thread = threading.Thread(target=server.serve, name="echo", daemon=True)
    thread.start()
    yield server
    server.listener.shutdown(socket.SHUT_RDWR)
    server.listener.close()
    thread.join(WITHIN)


@pytest.fixture(params=["thread", "process"])
def proxy(request: pytest.FixtureRequest, echo: Echo) -> Iterator[FaultProxy]:
    with FaultProxy(echo.address, process=request.param == "process") as proxy:
        yield proxy


@pytest.fixture
def connect(proxy: FaultProxy) -> Iterator[Callable[[], socket.socket]]:
    opened: list[socket.socket] = []

    def make() -> socket.socket:
        opened.append(socket.create_connection(("127.0.0.1", proxy.port), WITHIN))
        opened[-1].settimeout(WITHIN)
        return opened[-1]

    yield make
    for client in opened:
        client.close()


def read_exactly(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (piece := client.recv(count - len(data))):
        data += piece
    return data


def round_trip(client: socket.socket, data: bytes = b"ping") -> float:
    begin = time.monotonic()
    client.sendall(data)
    assert read_exactly(client, len(data)) == data
    return time.monotonic() - begin


def is_silent(client: socket.socket) -> bool:
    return not select.select([client], [], [], QUIET)[0]


def is_reset(client: socket.socket) -> bool:
    try:
        while client.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return False


def is_refused(connect: Callable[[], socket.socket]) -> bool:
    """The reset may come before or after the kernel tells of the connection."""
    try:
        with connect() as client:
            return is_reset(client)
    except ConnectionResetError:
        return True


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + WITHIN
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def test_without_a_fault_everything_goes_through(
    proxy: FaultProxy, connect: Callable[[], socket.socket], echo: Echo
) -> None:
    client = connect()
    payload = os.urandom(3_000_000)
    sender = threading.Thread(target=client.sendall, args=(payload,), daemon=True)
    sender.start()
    assert read_exactly(client, len(payload)) == payload
    sender.join(WITHIN)
    client.shutdown(socket.SHUT_WR)
    assert client.recv(10) == b""
    assert echo.wait_for(lambda echo: echo.ended == ["closed"])
    assert eventually(lambda: proxy.counters().open == 0)
    counters = proxy.counters()
    assert (counters.accepted, counters.up, counters.down) == (1, len(payload), len(payload))
    assert counters.hits == {}
    assert counters.in_effect == []


def test_a_side_that_has_finished_sending_still_receives(connect: Callable[[], socket.socket]) -> None:
    client = connect()
    client.sendall(b"last words")
    client.shutdown(socket.SHUT_WR)
    assert read_exactly(client, 100) == b"last words"


def test_cut_resets_both_sides_and_lets_new_connections_live(
    proxy: FaultProxy, connect: Callable[[], socket.socket], echo: Echo
) -> None:
    clients = [connect(), connect()]
    for client in clients:
        round_trip(client)
    proxy.cut()
    assert all(is_reset(client) for client in clients)
    assert echo.wait_for(lambda echo: echo.ended == ["reset", "reset"])
    assert proxy.counters().hits == {"cut": 2}
    assert eventually(lambda: proxy.counters().open == 0)
    round_trip(connect())


def test_refuse_resets_new_connections_alone(proxy: FaultProxy, connect: Callable[[], socket.socket]) -> None:
    old = connect()
    round_trip(old)
    proxy.refuse()
    assert is_refused(connect)
    assert is_refused(connect)
    round_trip(old)
    assert proxy.counters().in_effect == ["refuse"]
    proxy.heal()
    assert proxy.counters().hits == {"refuse": 2}
    round_trip(connect())


def test_a_server_that_takes_no_connection_is_told_as_a_reset(nothing_left: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = taken.getsockname()
    with FaultProxy(address) as proxy:
        assert is_refused(lambda: socket.create_connection(("127.0.0.1", proxy.port), WITHIN))
        assert proxy.counters().unreachable == 1


def test_a_stall_moves_nothing_and_nothing_is_lost(proxy: FaultProxy, connect: Callable[[], socket.socket]) -> None:
    client = connect()
    round_trip(client)
    proxy.stall()
    client.sendall(b"into the void")
    assert is_silent(client)
    newcomer = connect()
    newcomer.sendall(b"me too")
    assert is_silent(newcomer)
    counters = proxy.counters()
    assert counters.in_effect == ["stall"]
    assert counters.hits["stall"] >= 2
    proxy.heal()
    assert read_exactly(client, 13) == b"into the void"
    assert read_exactly(newcomer, 6) == b"me too"
    assert proxy.counters().in_effect == []


def test_the_server_hears_of_nobody_while_both_directions_stall(
    proxy: FaultProxy, connect: Callable[[], socket.socket], echo: Echo
) -> None:
    proxy.stall()
    newcomer = connect()
    assert is_silent(newcomer)
    assert echo.connections == []
    proxy.heal()
    round_trip(newcomer)
    assert len(echo.connections) == 1


def test_a_stall_of_one_direction_lets_the_other_through(
    proxy: FaultProxy, connect: Callable[[], socket.socket]
) -> None:
    client = connect()
    round_trip(client)
    proxy.stall("down")
    client.sendall(b"request")
    assert eventually(lambda: proxy.counters().up == len(b"ping" + b"request"))
    assert is_silent(client)
    assert proxy.counters().down == len(b"ping")
    proxy.heal()
    assert read_exactly(client, 7) == b"request"
    proxy.stall("up")
    client.sendall(b"request")
    assert is_silent(client)
    assert proxy.counters().up == len(b"ping" + b"request")


def test_a_stall_swallows_the_end_of_a_connection_too(
    proxy: FaultProxy, connect: Callable[[], socket.socket], echo: Echo
) -> None:
    client = connect()
    round_trip(client)
    proxy.stall()
    client.close()
    with echo.changed:
        assert not echo.changed.wait_for(lambda: echo.ended != [], QUIET)
    proxy.heal()
    assert echo.wait_for(lambda echo: echo.ended == ["closed"])


def test_a_stalled_sender_is_held_up_and_the_proxy_holds_a_bounded_part(
    proxy: FaultProxy, connect: Callable[[], socket.socket]
) -> None:
    client = connect()
    round_trip(client)
    proxy.stall()
    client.setblocking(False)
    taken = 0
    piece = bytes(65536)
    while select.select([], [client], [], QUIET)[1]:
        taken += client.send(piece)
        assert taken < 64 << 20
    client.setblocking(True)
    client.settimeout(WITHIN)
    proxy.heal()
    assert read_exactly(client, taken) == bytes(taken)


def test_a_cut_ends_a_stalled_connection(proxy: FaultProxy, connect: Callable[[], socket.socket]) -> None:
    client = connect()
    round_trip(client)
    proxy.stall()
    client.sendall(b"void")
    waiting = connect()
    assert eventually(lambda: proxy.counters().open == 2)
    proxy.cut()
    assert is_reset(client)
    assert is_reset(waiting)
    assert eventually(lambda: proxy.counters().open == 0)


def test_half_open_the_client_believes_in_a_server_that_is_gone(
    proxy: FaultProxy, connect: Callable[[], socket.socket], echo: Echo
) -> None:
    client = connect()
    round_trip(client)
    proxy.half_open()
    assert echo.wait_for(lambda echo: echo.ended == ["reset"])
    client.sendall(b"anybody?")
    assert is_silent(client)
    round_trip(connect())
    counters = proxy.counters()
    assert (counters.hits, counters.in_effect) == ({"half-open": 1}, ["half-open"])
    proxy.heal()
    assert is_reset(client)


def test_half_open_the_server_believes_in_a_client_that_is_gone(
    proxy: FaultProxy, connect: Callable[[], socket.socket], echo: Echo
) -> None:
    client = connect()
    round_trip(client)
    proxy.half_open("server")
    assert is_reset(client)
    with echo.changed:
        assert not echo.changed.wait_for(lambda: echo.ended != [], QUIET)
    echo.connections[0].sendall(b"anybody?")
    proxy.heal()
    assert echo.wait_for(lambda echo: echo.ended == ["reset"])


def test_a_deceived_client_that_gives_up_leaves_nothing(
    proxy: FaultProxy, connect: Callable[[], socket.socket]
) -> None:
    client = connect()
    round_trip(client)
    proxy.half_open()
    client.close()
    assert eventually(lambda: proxy.counters().open == 0)


def test_delay_keeps_order_and_rate(proxy: FaultProxy, connect: Callable[[], socket.socket]) -> None:
    client = connect()
    round_trip(client)
    proxy.delay(0.1, 0.05)
    assert round_trip(client) >= 0.2
    payload = b"".join(number.to_bytes(4, "big") for number in range(100_000))
    sender = threading.Thread(target=client.sendall, args=(payload,), daemon=True)
    sender.start()
    assert read_exactly(client, len(payload)) == payload
    sender.join(WITHIN)
    assert proxy.counters().hits["delay"] >= 4
    proxy.heal()
    assert round_trip(client) < 0.2 + WITHIN * 0.1


def test_delay_of_one_direction(proxy: FaultProxy, connect: Callable[[], socket.socket]) -> None:
    client = connect()
    round_trip(client)
    proxy.delay(0.2, 0.0, "down")
    client.sendall(b"ping")
    assert eventually(lambda: proxy.counters().up == 8)
    assert proxy.counters().down == 4
    assert read_exactly(client, 4) == b"ping"


def test_what_is_delayed_comes_at_once_and_in_order_after_heal(
    proxy: FaultProxy, connect: Callable[[], socket.socket]
) -> None:
    client = connect()
    round_trip(client)
    proxy.delay(3600, 0.0, "down")
    client.sendall(b"first ")
    assert is_silent(client)
    proxy.heal()
    client.sendall(b"second")
    assert read_exactly(client, 12) == b"first second"


def test_throttle(proxy: FaultProxy, connect: Callable[[], socket.socket]) -> None:
    client = connect()
    round_trip(client)
    proxy.throttle(100_000, "up")
    assert round_trip(client, bytes(30_000)) >= 0.29
    assert proxy.counters().hits["throttle"] >= 1
    proxy.heal()
    round_trip(client, bytes(30_000))


def test_reset_after_exactly_so_many_bytes_of_a_request(
    proxy: FaultProxy, connect: Callable[[], socket.socket], echo: Echo
) -> None:
    old = connect()
    round_trip(old)
    proxy.reset_after(10)
    new = connect()
    for client in (old, new):
        before = proxy.counters().up
        client.sendall(b"0123")
        client.sendall(b"456789abcdef")
        assert is_reset(client)
        assert proxy.counters().up == before + 10
    assert echo.wait_for(lambda echo: echo.ended == ["reset", "reset"])
    assert proxy.counters().hits == {"reset-after": 2}
    proxy.heal()
    round_trip(connect(), bytes(1000))


def test_reset_after_exactly_so_many_bytes_of_an_answer(
    proxy: FaultProxy, connect: Callable[[], socket.socket]
) -> None:
    client = connect()
    proxy.reset_after(7, "down")
    client.sendall(b"0123456789")
    assert read_exactly(client, 7) == b"0123456"
    assert is_reset(client)


def test_faults_add_up_and_end_with_the_block(proxy: FaultProxy, connect: Callable[[], socket.socket]) -> None:
    client = connect()
    round_trip(client)
    with proxy.healing():
        proxy.delay(0.05)
        proxy.refuse()
        assert is_refused(connect)
        assert round_trip(client) >= 0.1
        assert proxy.counters().in_effect == ["refuse", "delay"]
    assert proxy.counters().in_effect == []
    round_trip(connect())


def test_close_resets_what_is_open_and_is_idempotent(
    proxy: FaultProxy, connect: Callable[[], socket.socket], echo: Echo
) -> None:
    client = connect()
    round_trip(client)
    proxy.stall()
    stalled = connect()
    stalled.sendall(b"x")
    assert eventually(lambda: proxy.counters().open == 2)
    proxy.close()
    proxy.close()
    assert is_reset(client)
    assert is_reset(stalled)
    assert echo.wait_for(lambda echo: len(echo.ended) == 1)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", proxy.port), WITHIN)


def test_a_port_can_be_chosen_and_a_taken_one_is_an_error(echo: Echo) -> None:
    with FaultProxy(echo.address) as first:
        with pytest.raises(OSError, match="in use"):
            FaultProxy(echo.address, port=first.port)
        port = first.port
    with FaultProxy(echo.address, port=port) as second:
        assert second.port == port
        with socket.create_connection(("127.0.0.1", port), WITHIN) as client:
            client.settimeout(WITHIN)
            round_trip(client)


def test_faults_are_noted_before_they_take_effect_and_as_over_afterwards(echo: Echo) -> None:
    history = History()
    with FaultProxy(echo.address, log=history) as proxy:
        proxy.cut()
        proxy.stall()
        proxy.delay(0.1)
        proxy.heal()
        proxy.refuse()
    noted = [(type(event).__name__, event.what) for event in history.events if isinstance(event, ev.Down | ev.Up)]
    assert noted == [
        ("Down", "cut"),
        ("Up", "cut"),
        ("Down", "stall"),
        ("Down", "delay"),
        ("Up", "stall"),
        ("Up", "delay"),
        ("Down", "refuse"),
        ("Up", "refuse"),
    ]


def test_the_process_ends_with_its_parent(echo: Echo) -> None:
    host, port = echo.address
    program = f"""
import time
from unimq_contract.faults.proxy import FaultProxy
proxy = FaultProxy(({host!r}, {port}), process=True)
print(proxy.port, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        proxied = int(parent.stdout.readline())
        socket.create_connection(("127.0.0.1", proxied), WITHIN).close()
        os.kill(parent.pid, signal.SIGKILL)

    def is_gone() -> bool:
        try:
            socket.create_connection(("127.0.0.1", proxied), WITHIN).close()
        except OSError:
            return True
        return False

    assert eventually(is_gone)


def test_a_proxy_that_is_closed_says_so(echo: Echo) -> None:
    proxy = FaultProxy(echo.address)
    proxy.close()
    with pytest.raises(RuntimeError, match="closed"):
        proxy.counters()
