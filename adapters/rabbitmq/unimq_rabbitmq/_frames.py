"""Frames written and parsed by hand, on pika's connection and transport: see `_framing`.

What is published, delivered, confirmed and acked goes this way; everything else, and whatever looks unusual (a body in
several frames, frames of another channel in between), goes the way of pika. This is the only module that uses names
which pika does not document. `problem` tries all of them once, without a broker; if one is gone, or does something
else, because a pika to come is different, `framing` returns `PikaFraming` in place of this.
"""

import functools
import logging
import os
import struct
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, cast

import pika
from pika import frame, spec
from pika.adapters.select_connection import SelectConnection
from pika.adapters.utils import io_services_utils
from pika.channel import Channel

from unimq import ConfigError
from unimq.adapter import Message, Outgoing
from unimq_rabbitmq import _content, _foreign_content, _wire
from unimq_rabbitmq._framing import (
    Answered,
    Confirm,
    Framing,
    OnConfirms,
    OnReceived,
    PikaFraming,
    Received,
    Route,
    decoded,
)

log = logging.getLogger("unimq.rabbitmq")

Frames = Literal["own", "pika"]

VARIABLE = "UNIMQ_RABBITMQ_FRAMES"
"""Environment variable with the default of the option `frames`."""

_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_END = 0xCE
_END_OCTET = b"\xce"
_DELIVER, _ACK, _NACK = 0x3C003C, 0x3C0050, 0x3C0078
_START = 7
"""Bytes of a frame before its payload."""
_OVERHEAD = 8
"""Bytes of a frame beside its payload."""
_METHOD_ID = _START + 4
_FRAME = struct.Struct(">BHI")
"""Type, channel and size of a frame."""
_METHOD_FRAME = struct.Struct(">BHII")
"""The same, and the method."""
_HEADER_FRAME = struct.Struct(">BHIIQ")
"""The same, class and weight, and the size of the body."""
_CONFIRM_FRAME = struct.Struct(">BHIIQBB")
"""Delivery tag, flags, end."""
_CONFIRM_SIZE = 13
_LONG = struct.Struct(">I")
_TAG = struct.Struct(">Q")
_RECEIVE = 64 * 1024
"""Bytes of one read from the socket; pika's 4096 would cost four times as much."""
_JOINED = 256 * 1024
"""Bytes of messages up to which they become one piece; the transport copies what it could not send of a piece."""
_FULL = 4 * 1024 * 1024
"""Bytes that wait in the transport before nothing is added to them."""


class _Consumption(NamedTuple):
    start: bytes
    """The consumer tag, as a delivery has it before everything else."""
    received: OnReceived


class OwnConnection(SelectConnection):
    """A connection of pika that reads deliveries and confirms by itself, on channels where somebody asked for that."""

    # What pika has and does not promise; `problem` tries it.
    bytes_received: int
    _transport: Any
    _output_marshaled_frames: Callable[[Sequence[bytes]], None]
    _process_frame: Callable[[Any], None]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._unparsed = b""
        """A frame, or the frames of a delivery, whose rest is still to come."""
        self._consumptions: dict[int, _Consumption] = {}
        """By the number of the channel, as are these; an entry goes when its channel is closed."""
        self._confirmed: dict[int, OnConfirms] = {}
        self._watched: set[int] = set()
        """Numbers of the channels whose end will be told."""
        super().__init__(*arguments, **named)

    # For this module.

    def emit(self, pieces: Sequence[bytes]) -> None:
        """Write whole frames."""
        self._output_marshaled_frames(pieces)

    @property
    def has_room(self) -> bool:
        """See `_framing.Publisher.has_room`."""
        return bool(self._transport.get_write_buffer_size() < _FULL)

    def read_more_at_once(self) -> None:
        """Have the transport read `_RECEIVE` bytes at once."""
        self._transport._MAX_RECV_BYTES = _RECEIVE

    def take_confirms(self, channel: Channel, confirmed: OnConfirms) -> None:
        """Call `confirmed` with the confirms on this channel, which are kept from pika."""
        self._confirmed[self._watch(channel)] = confirmed

    def take_deliveries(self, channel: Channel, consumer_tag: str, received: OnReceived) -> None:
        """Call `received` with what is pushed to this consumer, which is kept from pika."""
        tag = consumer_tag.encode()
        self._consumptions[self._watch(channel)] = _Consumption(bytes((len(tag),)) + tag, received)

    def leave_deliveries(self, channel: Channel) -> None:
        """Leave to pika what is pushed on this channel from now on."""
        self._consumptions.pop(channel.channel_number, None)

    def _watch(self, channel: Channel) -> int:
        number = channel.channel_number
        if number not in self._watched:
            self._watched.add(number)
            channel.add_on_close_callback(partial(self._forget, number))
        return number

    def _forget(self, number: int, _channel: object, _error: object) -> None:
        # Before pika gives the number to another channel.
        self._watched.discard(number)
        self._consumptions.pop(number, None)
        self._confirmed.pop(number, None)

    # For pika.

    def _on_data_available(self, data_in: bytes) -> None:
        data = self._unparsed + data_in if self._unparsed else bytes(data_in)
        offset, end = 0, len(data)
        while end - offset >= _OVERHEAD:
            kind, channel, size = _FRAME.unpack_from(data, offset)
            after = offset + size + _OVERHEAD
            # What is no frame at all is for pika to complain of.
            if after > end and kind <= _HEARTBEAT:
                break
            before, waits = offset, False
            if kind == _METHOD and after >= offset + _METHOD_ID:
                method = _LONG.unpack_from(data, offset + _START)[0]
                # Each run is handed on before anything behind it is looked at: all is seen in the order of the broker.
                if method == _DELIVER and channel in self._consumptions:
                    start, received = self._consumptions[channel]
                    deliveries, offset, waits = _read_deliveries(data, offset, channel, start)
                    if deliveries:
                        self.bytes_received += offset - before
                        received(deliveries)
                elif method in (_ACK, _NACK) and channel in self._confirmed:
                    confirms, offset = _read_confirms(data, offset, channel)
                    if confirms:
                        self.bytes_received += offset - before
                        self._confirmed[channel](confirms)
            if waits:
                break
            if offset == before:
                consumed, value = frame.decode_frame(data[offset:after])
                if value is None:
                    break
                offset += consumed
                self.bytes_received += consumed
                self._process_frame(value)
        self._unparsed = data[offset:]


def _read_deliveries(data: bytes, offset: int, channel: int, start: bytes) -> tuple[list[Received], int, bool]:
    """Read deliveries to one consumer until there is something else.

    Returns them, the offset of what follows, and whether that is a delivery, too, but not all of it is there.
    """
    found: list[Received] = []
    end = len(data)
    arguments = len(start) + _METHOD_ID
    while end - offset > _METHOD_ID:
        kind, number, size, method = _METHOD_FRAME.unpack_from(data, offset)
        if method != _DELIVER or number != channel or kind != _METHOD:
            break
        header = offset + size + _OVERHEAD
        if header + _HEADER_FRAME.size + 2 > end:
            return found, offset, header >= end or data.startswith(b"\2", header)
        kind, number, size, _, body_size = _HEADER_FRAME.unpack_from(data, header)
        if kind != _HEADER or number != channel or not data.startswith(start, offset + _METHOD_ID):
            break
        fragment = header + size + _OVERHEAD
        if body_size:
            if fragment + _START > end:
                return found, offset, fragment >= end or data.startswith(b"\3", fragment)
            kind, number, size = _FRAME.unpack_from(data, fragment)
            if size != body_size or number != channel or kind != _BODY:
                break
            after = fragment + size + _OVERHEAD
            body = data[fragment + _START : after - 1]
        else:
            after = fragment
            body = b""
        if after > end:
            return found, offset, True
        if data[header - 1] != _END or data[fragment - 1] != _END or data[after - 1] != _END:
            break
        raw = data[header + _HEADER_FRAME.size : fragment - 1]
        read = _content.decode(raw, body)
        if read is None:
            read = _foreign(data, offset + arguments, raw, body)
        if read is None:
            _, deliver = frame.decode_frame(data[offset:header])
            found.append(decoded(cast("Any", deliver).method, _content.read_properties(raw), body))
        else:
            tag = _TAG.unpack_from(data, offset + arguments)[0]
            found.append(Received(tag, read[0], read[1], _content.UnreadProperties(raw)))
        offset = after
    return found, offset, False


def _foreign(data: bytes, tag: int, raw: bytes, body: bytes) -> tuple[Message, int] | None:
    """Read what another program has sent; `tag` is where the delivery tag is."""
    exchange = tag + _TAG.size + 1
    routing_key: str | None = None
    if data[exchange]:
        start = exchange + 2 + data[exchange]
        try:
            routing_key = data[start : start + data[start - 1]].decode()
        except UnicodeDecodeError:
            return None
    return _foreign_content.decode(raw, body, routing_key)


def _read_confirms(data: bytes, offset: int, channel: int) -> tuple[list[Confirm], int]:
    """Read the confirms of one channel until there is something else; return them and where that is."""
    found: list[Confirm] = []
    last = len(data) - _CONFIRM_FRAME.size
    while offset <= last:
        kind, number, size, method, tag, flags, end = _CONFIRM_FRAME.unpack_from(data, offset)
        if kind != _METHOD or number != channel or size != _CONFIRM_SIZE or end != _END:
            break
        if method in (_ACK, _NACK):
            found.append(Confirm(tag, flags & 1 == 1, method == _ACK))
        else:
            break
        offset += _CONFIRM_FRAME.size
    return found, offset


class OwnPublisher:
    """See `_framing.Publisher`."""

    def __init__(self, channel: Channel) -> None:
        self._connection = cast("OwnConnection", channel.connection)
        self._number = channel.channel_number
        self._to_body = _END_OCTET + struct.pack(">BH", _BODY, self._number)
        self._largest = int(self._connection.params.frame_max or 131072) - _OVERHEAD
        self._route: Route | None = None
        self._start = b""
        """The method frame of the last route, and the beginning of the header frame."""

    @property
    def has_room(self) -> bool:
        """See `_framing.Publisher.has_room`."""
        return self._connection.has_room

    def publish(self, publications: Sequence[_wire.Publication], route: Route) -> None:
        """See `_framing.Publisher.publish`."""
        if route is not self._route:
            self._route = route
            method = spec.Basic.Publish(
                exchange=route.exchange, routing_key=route.routing_key, mandatory=route.mandatory
            )
            self._start = frame.Method(self._number, method).marshal() + struct.pack(">BH", _HEADER, self._number)
        start, to_body, largest = self._start, self._to_body, self._largest
        pieces: list[bytes] = []
        size = 0
        for publication in publications:
            body = publication.entry.message.body
            header = publication.header
            if not header:
                header = _content.encode_properties(publication.properties or spec.BasicProperties(), len(body))
            length = len(body)
            if length > largest:
                pieces += (start, header, _END_OCTET)
                self._emit(pieces)
                pieces, size = [], 0
                for first in range(0, length, largest):
                    part = body[first : first + largest]
                    self._emit((_FRAME.pack(_BODY, self._number, len(part)), part, _END_OCTET))
                continue
            if length:
                pieces += (start, header, to_body, length.to_bytes(4), body, _END_OCTET)
            else:
                pieces += (start, header, _END_OCTET)
            size += length
            if size > _JOINED:
                self._emit(pieces)
                pieces, size = [], 0
        if pieces:
            self._emit(pieces)

    def _emit(self, pieces: Sequence[bytes]) -> None:
        self._connection.emit((b"".join(pieces),))


class OwnFraming:
    """See `_framing.Framing`."""

    connection_class = OwnConnection

    def encode(self, entry: Outgoing, limits: _wire.Limits) -> _wire.Publication:
        """See `_framing.Framing.encode`."""
        return _content.encode(entry, limits)

    def tune(self, connection: SelectConnection) -> None:
        """See `_framing.Framing.tune`."""
        cast("OwnConnection", connection).read_more_at_once()

    def confirm(self, channel: Channel, confirmed: OnConfirms, answered: Answered) -> None:
        """See `_framing.Framing.confirm`."""
        cast("OwnConnection", channel.connection).take_confirms(channel, confirmed)
        PikaFraming().confirm(channel, confirmed, answered)

    def publisher(self, channel: Channel) -> OwnPublisher:
        """See `_framing.Framing.publisher`."""
        return OwnPublisher(channel)

    def consume(
        self,
        channel: Channel,
        queue: str,
        consumer_tag: str,
        received: OnReceived,
        answered: Answered,
        *,
        priority: int | None = None,
    ) -> None:
        """See `_framing.Framing.consume`."""
        cast("OwnConnection", channel.connection).take_deliveries(channel, consumer_tag, received)
        PikaFraming().consume(channel, queue, consumer_tag, received, answered, priority=priority)

    def cancel(self, channel: Channel, consumer_tag: str, answered: Answered) -> None:
        """See `_framing.Framing.cancel`."""
        cast("OwnConnection", channel.connection).leave_deliveries(channel)
        PikaFraming().cancel(channel, consumer_tag, answered)

    def ack(self, channel: Channel, acks: Sequence[tuple[int, bool]]) -> None:
        """See `_framing.Framing.ack`."""
        number, pack = channel.channel_number, _CONFIRM_FRAME.pack
        frames = [pack(_METHOD, number, _CONFIRM_SIZE, _ACK, tag, multiple, _END) for tag, multiple in acks]
        cast("OwnConnection", channel.connection).emit((b"".join(frames),))


def framing(wanted: Frames | None) -> Framing:
    """Return the framing that is wanted, or that the environment wants, or the faster one that works.

    Raises:
        ConfigError: the environment wants something else.

    """
    chosen = wanted or os.environ.get(VARIABLE) or "own"
    if chosen not in {"own", "pika"}:
        raise ConfigError(f"{VARIABLE} is {chosen!r}; expected 'own' or 'pika'")
    if chosen == "own":
        found = problem()
        if found is None:
            return OwnFraming()
        log.warning("pika %s is used through its public API alone, which is slower: %s", pika.__version__, found)
    return PikaFraming()


# Whether this pika is one that the above knows.

_TRANSPORT = "_AsyncTransportBase"
NAMES: Sequence[tuple[object, str]] = (
    (SelectConnection, "_on_data_available"),
    (SelectConnection, "_proto_data_received"),
    (SelectConnection, "_process_frame"),
    (SelectConnection, "_output_marshaled_frames"),
    (io_services_utils, _TRANSPORT),
    (getattr(io_services_utils, _TRANSPORT, None), "_MAX_RECV_BYTES"),
)


@functools.cache
def problem() -> str | None:
    """Try all that pika does not promise, without a broker; return what is wrong, or `None`. Takes about 1 ms."""
    for owner, name in NAMES:
        if not hasattr(owner, name):
            return f"it has no {getattr(owner, '__name__', owner)}.{name}"
    try:
        return _try_contents() or _try_connection()
    except Exception as error:  # noqa: BLE001 - a pika to come may do anything
        return f"{type(error).__name__}: {error}"


def _try_contents() -> str | None:
    message = Message(
        b"x",
        "key",
        {"text": "é", "bytes": b"\xff"},
        "id",
        content_type="text/plain",
        correlation_id="c",
        reply_to="r",
        sent_at=1.7e9,
        expires_at=1.8e9,
    )
    entry, limits = Outgoing(message, 0.0, 1), _wire.Limits(10_000, 10_000)
    properties = cast("spec.BasicProperties", _wire.encode(entry, limits).properties)
    content = _content.encode(entry, limits).header
    if content != _content.encode_properties(properties, 1):
        return "it encodes properties in another way"
    raw = content[_LONG.size + _content.START :]
    read = _content.decode(raw, b"x")
    if read is None or read[0].headers != message.headers or _content.UnreadProperties(raw) != properties:
        return "it decodes properties in another way"
    return None


def _try_connection() -> str | None:
    loop = SimpleNamespace(READ=1, WRITE=4, ERROR=8)
    connection = cast("Any", OwnConnection)(
        pika.ConnectionParameters(), custom_ioloop=loop, internal_connection_workflow=False
    )
    written: list[bytes] = []
    if not hasattr(connection, "_transport"):
        return "its connections have no _transport"
    connection._transport = SimpleNamespace(write=written.append, get_write_buffer_size=lambda: 0)
    channel = cast("Channel", SimpleNamespace(channel_number=1, connection=connection, add_on_close_callback=id))
    own = OwnFraming()
    entry = Outgoing(Message(b"body", id="id", sent_at=1.7e9), 0.0, 1)
    own.publisher(channel).publish([own.encode(entry, _wire.Limits(1000, 1000))], Route("", "queue", mandatory=True))
    sent = b"".join(written)
    if connection.bytes_sent != len(sent) or not sent.endswith(b"\xce\x03\0\1\0\0\0\4body\xce"):
        return "it does not write what it is given"
    content = sent[sent.index(b"\xce\2\0\1") + 1 :]
    deliver = frame.Method(1, spec.Basic.Deliver("tag", 7, redelivered=False, exchange="", routing_key="queue"))
    other = frame.Method(1, spec.Channel.CloseOk()).marshal()
    data = deliver.marshal() + content + frame.Method(1, spec.Basic.Ack(8, multiple=True)).marshal() + other
    seen: list[object] = []
    connection.take_deliveries(channel, "tag", seen.extend)
    connection.take_confirms(channel, seen.extend)
    connection._process_frame = seen.append
    connection._proto_data_received(data[:-1])
    connection._proto_data_received(data[-1:])
    if len(seen) == 3 and connection.bytes_received == len(data):
        received, confirm, last = cast("tuple[Received, Confirm, Any]", seen)
        if (received.tag, received.message.body, confirm) == (7, b"body", Confirm(8, multiple=True, is_ack=True)):
            return None if isinstance(last.method, spec.Channel.CloseOk) else "it reads frames in another way"
    return "it does not hand on what it receives"
