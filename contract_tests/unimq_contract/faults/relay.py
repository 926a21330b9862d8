"""The proxy's inside: one event loop that accepts, dials, pumps both directions, and applies the faults."""

import asyncio
import contextlib
import random
import socket
import struct
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unimq_contract.faults.commands import (
    Command,
    Counters,
    Cut,
    Delay,
    Direction,
    HalfOpen,
    Heal,
    Refuse,
    ResetAfter,
    Side,
    Stall,
    Throttle,
)

if TYPE_CHECKING:
    from concurrent.futures import Future

HOST = "127.0.0.1"
PIECE = 65536
"""Bytes that are moved at once."""
PIECES_UNDER_WAY = 64
"""Pieces that a delayed or stalled direction holds; then it stops reading, and the sender's own buffers fill."""
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER on with no time: the close discards what is unsent and sends RST."""


@dataclass(slots=True)
class _Weather:
    """What the faults do to one direction. Owned by the loop's thread."""

    stalled: bool = False
    delay: float = 0.0
    jitter: float = 0.0
    rate: float = 0.0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Replaced and set at every change: whoever waits looks again."""


class _End:
    """One socket of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        # So that `drain` returns when the kernel has everything: what the peer may get before a reset is then exact.
        writer.transport.set_write_buffer_limits(high=0)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def reset(self) -> None:
        with contextlib.suppress(OSError):
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        self.writer.transport.abort()


class _Connection:
    """One client with its own connection to the server, and the task that carries it."""

    def __init__(self, client: _End) -> None:
        self.client = client
        self.server: _End | None = None
        self.task: asyncio.Task[None] | None = None
        self.until_reset: dict[Direction, int] = {}
        self.deceived: Side | None = None
        """The side that believes in a peer that is gone."""

    def deceives(self, direction: Direction) -> bool:
        """Tell whether what comes this way comes from the side that is deceived."""
        return self.deceived == ("client" if direction == "up" else "server")

    def reset_sockets(self) -> None:
        self.client.reset()
        if self.server is not None:
            self.server.reset()

    def reset(self) -> None:
        self.reset_sockets()
        if self.task is not None:
            self.task.cancel()


class Relay:
    """The proxy; everything but `call` and `stop` belongs to the loop's thread."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._connections: dict[_Connection, None] = {}
        self._weather: dict[Direction, _Weather] = {"up": _Weather(), "down": _Weather()}
        self._refusing = False
        self._reset_after: ResetAfter | None = None
        self._accepted = 0
        self._unreachable = 0
        self._bytes: Counter[Direction] = Counter()
        self._hits: Counter[str] = Counter()
        self.port = 0

    # Any thread.

    @staticmethod
    def serve(server: tuple[str, int], port: int, started: "Future[Relay]") -> None:
        """Run until `stop` is called; gives the relay, or the error that it did not start with, to `started`."""

        async def run() -> None:
            try:
                relay = Relay(server)
                listener = await asyncio.start_server(relay._accept, HOST, port)
            except BaseException as error:
                started.set_exception(error)
                return
            relay.port = listener.sockets[0].getsockname()[1]
            started.set_result(relay)
            await relay._stopping.wait()
            listener.close()
            await relay._close()

        asyncio.run(run())

    def call(self, command: Command) -> "Future[Counters]":
        """Apply a command in the loop's thread.

        Raises:
            RuntimeError: the proxy is closed.

        """
        if self._loop.is_closed():
            raise RuntimeError("the proxy is closed")

        async def apply() -> Counters:
            self._apply(command)
            # What the command reset is closed in the loop's next turn.
            await asyncio.sleep(0)
            return self._counters()

        return asyncio.run_coroutine_threadsafe(apply(), self._loop)

    def stop(self) -> None:
        """End; a second call does nothing."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._stopping.set)

    # Faults.

    def _apply(self, command: Command) -> None:
        match command:
            case Cut():
                for connection in self._connections:
                    self._hits["cut"] += 1
                    connection.reset()
            case Refuse():
                self._refusing = True
            case HalfOpen(side):
                for connection in self._connections:
                    self._deceive(connection, side)
            case ResetAfter():
                self._reset_after = command
                for connection in self._connections:
                    connection.until_reset = {command.direction: command.count}
            case Heal():
                self._heal()
            case Stall(directions) | Delay(directions=directions) | Throttle(directions=directions):
                for direction in directions:
                    weather = self._weather[direction]
                    if isinstance(command, Stall):
                        weather.stalled = True
                    elif isinstance(command, Delay):
                        weather.delay, weather.jitter = command.seconds, command.jitter
                    else:
                        weather.rate = command.rate
            case _:
                pass

    def _deceive(self, connection: _Connection, side: Side) -> None:
        if connection.server is None or connection.deceived is not None:
            return
        self._hits["half-open"] += 1
        connection.deceived = side
        (connection.server if side == "client" else connection.client).reset()

    def _heal(self) -> None:
        self._refusing = False
        self._reset_after = None
        for connection in self._connections:
            connection.until_reset = {}
            if connection.deceived is not None:
                connection.reset()
        for direction, weather in self._weather.items():
            self._weather[direction] = _Weather()
            weather.stalled = False
            weather.delay = weather.jitter = weather.rate = 0.0
            weather.changed.set()

    def _counters(self) -> Counters:
        weathers = self._weather.values()
        lasting = {
            "refuse": self._refusing,
            "stall": any(weather.stalled for weather in weathers),
            "half-open": any(connection.deceived is not None for connection in self._connections),
            "delay": any(weather.delay or weather.jitter for weather in weathers),
            "throttle": any(weather.rate for weather in weathers),
            "reset-after": self._reset_after is not None,
        }
        return Counters(
            accepted=self._accepted,
            open=len(self._connections),
            unreachable=self._unreachable,
            up=self._bytes["up"],
            down=self._bytes["down"],
            hits=dict(self._hits),
            in_effect=[name for name, on in lasting.items() if on],
        )

    # Connections.

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._accepted += 1
        client = _End(reader, writer)
        if self._refusing:
            self._hits["refuse"] += 1
            client.reset()
            return
        connection = _Connection(client)
        # A task of our own: asyncio's would be logged as an error when a reset cancels it.
        connection.task = self._loop.create_task(self._hold(connection))
        self._connections[connection] = None

    async def _hold(self, connection: _Connection) -> None:
        try:
            await self._carry(connection)
        finally:
            del self._connections[connection]
            connection.reset_sockets()

    async def _carry(self, connection: _Connection) -> None:
        if self._swallows_all():
            # A black hole answers nothing, and the server hears of nobody.
            self._hits["stall"] += 1
            while self._swallows_all():
                await self._weather["up"].changed.wait()
        try:
            reader, writer = await asyncio.open_connection(*self._server)
        except OSError:
            self._unreachable += 1
            return
        connection.server = server = _End(reader, writer)
        if self._reset_after is not None:
            connection.until_reset = {self._reset_after.direction: self._reset_after.count}
        up, down = _Line(), _Line()
        tasks = [
            asyncio.create_task(self._collect(up, connection, connection.client, "up")),
            asyncio.create_task(self._deliver(up, connection, server, "up")),
            asyncio.create_task(self._collect(down, connection, server, "down")),
            asyncio.create_task(self._deliver(down, connection, connection.client, "down")),
        ]
        try:
            await asyncio.gather(*tasks)
            # Both sides have ended in good order; what is still in our hands goes out before the close.
            for end in (connection.client, server):
                end.writer.close()
                await end.writer.wait_closed()
        except OSError:
            pass
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _swallows_all(self) -> bool:
        return self._weather["up"].stalled and self._weather["down"].stalled

    async def _collect(self, line: "_Line", connection: _Connection, source: _End, direction: Direction) -> None:
        """Read pieces and put them on the way; the end of the stream, an empty piece, and a reset go the same way."""
        while True:
            await line.has_room()
            piece: bytes | OSError
            try:
                piece = await source.reader.read(PIECE)
            except OSError as error:
                piece = error
            ended = not piece or isinstance(piece, OSError)
            if connection.deceived is not None:
                if not connection.deceives(direction):
                    # The side that we reset. It is the other that decides how long this lasts.
                    await _for_ever()
                if ended:
                    raise ConnectionResetError
                # Sent into the void.
                continue
            line.put(self._due(direction, line, 0 if isinstance(piece, OSError) else len(piece)), piece)
            if ended:
                return

    def _due(self, direction: Direction, line: "_Line", size: int) -> float:
        weather = self._weather[direction]
        now = self._loop.time()
        if weather.rate and size:
            self._hits["throttle"] += 1
            line.free_at = max(line.free_at, now) + size / weather.rate
            now = line.free_at
        if weather.delay or weather.jitter:
            self._hits["delay"] += 1
            now += weather.delay + random.uniform(0.0, weather.jitter)
        return now

    async def _deliver(self, line: "_Line", connection: _Connection, sink: _End, direction: Direction) -> None:
        while True:
            due, piece = await line.first()
            await self._wait_for_weather(direction, due)
            if connection.deceived is not None:
                await _for_ever()
            if isinstance(piece, OSError):
                raise piece
            if not piece:
                sink.writer.write_eof()
                return
            left = connection.until_reset.get(direction)
            if left is not None and len(piece) >= left:
                await self._send(sink, piece[:left], direction)
                self._hits["reset-after"] += 1
                raise ConnectionResetError
            await self._send(sink, piece, direction)
            if left is not None and direction in connection.until_reset:
                connection.until_reset[direction] = left - len(piece)
            line.remove_first()

    async def _send(self, sink: _End, piece: bytes, direction: Direction) -> None:
        sink.writer.write(piece)
        await sink.writer.drain()
        self._bytes[direction] += len(piece)

    async def _wait_for_weather(self, direction: Direction, due: float) -> None:
        held = False
        while True:
            weather = self._weather[direction]
            if weather.stalled:
                self._hits["stall"] += not held
                held = True
                await weather.changed.wait()
                continue
            left = due - self._loop.time()
            if left <= 0 or not (weather.delay or weather.jitter or weather.rate):
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(weather.changed.wait(), left)

    async def _close(self) -> None:
        tasks = [connection.task for connection in self._connections if connection.task is not None]
        for connection in self._connections:
            connection.reset()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Line:
    """The pieces of one direction that are under way, in order."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[float, bytes | OSError]] = deque()
        self._changed = asyncio.Event()
        self.free_at = 0.0
        """When a throttled line has moved all that it was given."""

    def put(self, due: float, piece: bytes | OSError) -> None:
        self._pieces.append((due, piece))
        self._changed.set()

    def remove_first(self) -> None:
        self._pieces.popleft()
        self._changed.set()

    async def has_room(self) -> None:
        while len(self._pieces) >= PIECES_UNDER_WAY:
            await self._wait()

    async def first(self) -> tuple[float, bytes | OSError]:
        while not self._pieces:
            await self._wait()
        return self._pieces[0]

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()


async def _for_ever() -> None:
    """Do nothing until cancelled: what a connection does whose peer is gone without a word."""
    await asyncio.get_running_loop().create_future()
