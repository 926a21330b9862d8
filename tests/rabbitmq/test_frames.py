"""Frames by hand: what is written can be read by pika, what pika writes is read, however the network cuts it."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pika import exceptions, frame, spec
from pika.adapters.select_connection import SelectConnection
from pika.spec import Basic, BasicProperties
from unimq_rabbitmq import _frames, _wire
from unimq_rabbitmq._frames import OwnConnection, OwnFraming, OwnPublisher
from unimq_rabbitmq._framing import Confirm, PikaFraming, Received, Route
from unimq_rabbitmq._sender import RabbitMQSender

import unimq
from unimq import Queue
from unimq.adapter import Message, Outgoing

from .conftest import StubLink, unconnected

UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""The machine may be busy."""
LIMITS = _wire.Limits(message=16 * 2**20, frame=131064)
ROUTE = Route("", "q", mandatory=True)


class StubChannel:
    def __init__(self, number: int, connection: OwnConnection) -> None:
        self.channel_number = number
        self.connection = connection
        self.on_close: list[Callable[[object, object], None]] = []

    def add_on_close_callback(self, callback: Callable[[object, object], None]) -> None:
        self.on_close.append(callback)


@dataclass
class Log:
    """What a connection hands on, in its order: to two consumers, to two senders, and to pika."""

    connection: OwnConnection
    seen: list[tuple[str, object]] = field(default_factory=list[tuple[str, object]])
    channels: dict[int, StubChannel] = field(default_factory=dict[int, StubChannel])

    def __post_init__(self) -> None:
        for number in (1, 2, 3, 4):
            channel = cast("Any", StubChannel(number, self.connection))
            self.channels[number] = channel
            if number <= 2:
                self.connection.take_deliveries(channel, f"tag{number}", self._take(f"consumer{number}"))
            else:
                self.connection.take_confirms(channel, self._take(f"sender{number}"))
        self.connection._process_frame = self._to_pika

    def _take(self, name: str) -> Callable[[Sequence[Received] | Sequence[Confirm]], None]:
        def take(found: Sequence[Received] | Sequence[Confirm]) -> None:
            assert found
            for each in found:
                if isinstance(each, Received):
                    self.seen.append((name, (each.tag, each.message.id, each.message.body)))
                else:
                    self.seen.append((name, tuple(each)))

        return take

    def _to_pika(self, value: Any) -> None:
        self.seen.append(("pika", value.marshal() if value.NAME != "Header" else value.body_size))


def _delivery(channel: int, tag: int, body: bytes, *, consumer: str = "", cut: int = 10**6) -> bytes:
    properties = BasicProperties(
        delivery_mode=2, headers={"unimq-sent-at": 1_700_000_000_000}, message_id=f"m{tag}", timestamp=1
    )
    deliver = Basic.Deliver(consumer or f"tag{channel}", tag, redelivered=False, exchange="", routing_key="q")
    data = frame.Method(channel, deliver).marshal() + frame.Header(channel, len(body), properties).marshal()
    for first in range(0, len(body), cut):
        data += frame.Body(channel, body[first : first + cut]).marshal()
    return data


def _method(channel: int, method: Any) -> bytes:
    return frame.Method(channel, method).marshal()


HEARTBEAT = frame.Heartbeat().marshal()
FOR_PIKA = [_method(1, spec.Queue.DeclareOk("q", 1, 2)), _method(0, spec.Connection.Unblocked()), HEARTBEAT]
Part = tuple[bytes, list[tuple[str, object]]]
"""Bytes, and what is to be handed on."""


def _delivery_part(channel: int, tag: int, body: bytes) -> Part:
    return _delivery(channel, tag, body), [(f"consumer{channel}", (tag, f"m{tag}", body))]


def _confirm_part(channel: int, confirm: Confirm) -> Part:
    kind = Basic.Ack if confirm.is_ack else Basic.Nack
    return _method(channel, kind(confirm.tag, confirm.multiple)), [(f"sender{channel}", tuple(confirm))]


def _part_for_pika(data: bytes) -> Part:
    return data, [("pika", data)]


TAGS = st.integers(1, 2**62)
PARTS = st.one_of(
    st.builds(_delivery_part, st.sampled_from([1, 2]), TAGS, st.binary(max_size=30)),
    st.builds(_confirm_part, st.sampled_from([3, 4]), st.builds(Confirm, TAGS, st.booleans(), st.booleans())),
    st.builds(_part_for_pika, st.sampled_from(FOR_PIKA)),
)
CUTS = st.lists(st.integers(0, 10_000), max_size=8)


def _feed(connection: OwnConnection, data: bytes, cuts: list[int]) -> None:
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {len(data)})
    begin = 0
    for end in ends:
        if end > begin:
            connection._on_data_available(data[begin:end])
        begin = end


@UNTIMED
@given(st.lists(PARTS, max_size=12), CUTS)
def test_all_is_handed_on_in_its_order_however_it_was_cut(parts: list[Part], cuts: list[int]) -> None:
    log = Log(unconnected(bytearray().extend))
    data = b"".join(part for part, _ in parts)
    _feed(log.connection, data, cuts)
    assert log.seen == [each for _, expected in parts for each in expected]
    assert log.connection.bytes_received == len(data)


@UNTIMED
@given(CUTS)
def test_what_is_unusual_is_left_to_pika_whole_and_in_order(cuts: list[int]) -> None:
    usual = _delivery(1, 1, b"usual")
    unusual = [
        _delivery(1, 2, b"in two frames", cut=7),
        _delivery(1, 3, b"somebody else's", consumer="other"),
        _delivery(5, 4, b"on a channel that nobody took"),
        _interleaved(),
    ]
    log = Log(unconnected(bytearray().extend))
    data = usual + b"".join(part + usual for part in unusual)
    _feed(log.connection, data, cuts)
    mine = [index for index, (name, _) in enumerate(log.seen) if name == "consumer1"]
    to_pika = [index for index, (name, _) in enumerate(log.seen) if name == "pika"]
    assert len(mine) == 1 + len(unusual)
    assert len(to_pika) == 4 + 3 + 3 + 4
    assert [after - before - 1 for before, after in itertools.pairwise(mine)] == [4, 3, 3, 4]
    assert log.connection.bytes_received == len(data)


def _interleaved() -> bytes:
    whole = _delivery(1, 5, b"body")
    first = len(_method(1, Basic.Deliver("tag1", 5, redelivered=False, exchange="", routing_key="q")))
    return whole[:first] + HEARTBEAT + whole[first:]


def test_a_closed_or_cancelled_channel_is_left_to_pika() -> None:
    log = Log(unconnected(bytearray().extend))
    for callback in (*log.channels[1].on_close, *log.channels[3].on_close):
        callback(None, None)
    log.connection.leave_deliveries(cast("Any", log.channels[2]))
    ack = _method(3, Basic.Ack(1, multiple=False))
    log.connection._on_data_available(_delivery(1, 1, b"") + _delivery(2, 2, b"") + ack)
    assert [name for name, _ in log.seen] == ["pika"] * 5


def test_a_channel_that_pauses_and_goes_on_is_watched_once() -> None:
    log = Log(unconnected(bytearray().extend))
    channel = cast("Any", log.channels[1])
    for number in range(10):
        log.connection.leave_deliveries(channel)
        log.connection.take_deliveries(channel, f"again{number}", log.seen.extend)  # type: ignore[arg-type]
    assert len(channel.on_close) == 1
    log.connection._on_data_available(_delivery(1, 1, b"", consumer="again0") + _delivery(1, 2, b"", consumer="again9"))
    assert [name for name, _ in log.seen[:2]] == ["pika", "pika"]
    assert cast("Any", log.seen[2]).tag == 2


def test_what_no_frame_may_be_is_for_pika_to_complain_of() -> None:
    connection = unconnected(bytearray().extend)
    with pytest.raises(exceptions.InvalidFrameError):
        connection._on_data_available(b"\x07\0\0\0\0\0\0\xce")
    log = Log(unconnected(bytearray().extend))
    wrong = bytearray(_delivery(1, 1, b"body"))
    wrong[-1] = 0
    with pytest.raises(exceptions.InvalidFrameError):
        log.connection._on_data_available(bytes(wrong))


def _publish(bodies: Sequence[bytes], *, frame_max: int = 131072) -> tuple[OwnConnection, list[bytes]]:
    written: list[bytes] = []
    connection = unconnected(written.append)
    connection.params.frame_max = frame_max
    publisher = OwnPublisher(cast("Any", StubChannel(7, connection)))
    entries = [Outgoing(Message(body, id=f"m{n}", sent_at=1.7e9), 0.0, len(body)) for n, body in enumerate(bodies)]
    publisher.publish([OwnFraming().encode(entry, LIMITS) for entry in entries], ROUTE)
    return connection, written


@UNTIMED
@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"x" * 9000, b"y" * 30_000, b"z" * 300_000]), max_size=5))
def test_pika_reads_what_was_written(bodies: list[bytes]) -> None:
    connection, written = _publish(bodies, frame_max=8192)
    data = b"".join(written)
    assert cast("Any", connection).bytes_sent == len(data)
    read: list[bytes] = []
    rest = 0
    while data:
        size, found = frame.decode_frame(data[: 8 + 8192])
        assert 0 < size <= 8192
        data = data[size:]
        value = cast("Any", found)
        assert value.channel_number == 7
        if value.NAME == "Header":
            assert value.properties.message_id == f"m{len(read)}"
            rest = value.body_size
            read.append(b"")
        elif value.NAME == "Body":
            read[-1] += value.fragment
            rest -= len(value.fragment)
        else:
            assert rest == 0, "no message begins within another"
            assert (value.method.exchange, value.method.routing_key, value.method.mandatory) == ROUTE
    assert read == bodies
    assert rest == 0


def test_small_messages_become_one_piece() -> None:
    _, written = _publish([b"x" * 100] * 200)
    assert len(written) == 1


def test_properties_of_others_are_written_as_pika_writes_them() -> None:
    written: list[bytes] = []
    channel = cast("Any", StubChannel(7, unconnected(written.append)))
    properties = BasicProperties(headers={"n": 7, "t": {"a": [1, None]}}, priority=3)
    copy = _wire.Publication(Outgoing(Message(b"b"), 0.0, 1), properties)
    OwnPublisher(channel).publish([copy], Route("e", "k", mandatory=False))
    expected = _method(7, Basic.Publish(exchange="e", routing_key="k", mandatory=False))
    expected += frame.Header(7, 1, properties).marshal() + frame.Body(7, b"b").marshal()
    assert b"".join(written) == expected


def test_acks_are_those_of_pika() -> None:
    written: list[bytes] = []
    OwnFraming().ack(cast("Any", StubChannel(3, unconnected(written.append))), [(2**40, True), (9, False)])
    expected = _method(3, Basic.Ack(2**40, multiple=True)) + _method(3, Basic.Ack(9, multiple=False))
    assert written == [expected]


def test_a_sender_waits_while_the_connection_has_no_room(outcomes: Any, outgoing: Callable[..., Outgoing]) -> None:
    """L5: what the socket does not take stays here, and is published in order when it does."""
    link = cast("Any", StubLink(OwnFraming()))
    sender = RabbitMQSender(link, Queue("q"), outcomes, LIMITS, set())
    sender.open(1.0)
    bodies = [b"%d" % number + b"x" * 100_000 for number in range(3)]
    sender.submit([outgoing(bodies[0], id="0")])
    link.unsent = 4 * 2**20
    sender.submit([outgoing(body, id="more") for body in bodies[1:]])
    link.thread.run_timers()
    link.channel.confirmed(frame.Method(1, Basic.Ack(1)))
    assert link.channel.bodies == bodies[:1]
    link.unsent = 0
    link.thread.run_timers()
    assert link.channel.bodies == bodies
    link.channel.confirmed(frame.Method(1, Basic.Ack(3, multiple=True)))
    assert outcomes.stored_bodies == bodies


# Which framing is used.


def test_this_pika_has_every_private_name_that_is_used() -> None:
    """Red after an update of pika? Then everything works without `_frames`, only slower; the text says what is gone."""
    assert _frames.problem.__wrapped__() is None


@pytest.mark.parametrize(("owner", "name"), _frames.NAMES)
def test_a_name_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    if owner is SelectConnection:
        found = next(each for each in owner.__mro__ if name in vars(each))
        monkeypatch.delattr(found, name)
    else:
        monkeypatch.delattr(owner, name)
    assert name in (_frames.problem.__wrapped__() or "")


def _instead(result: object) -> Callable[..., object]:
    def other(*_: object, **__: object) -> object:
        return result

    return other


@pytest.mark.parametrize(
    ("owner", "name", "result"),
    [
        (SelectConnection, "_output_marshaled_frames", None),
        (SelectConnection, "_proto_data_received", None),
        (BasicProperties, "encode", [b"\0\0"]),
        (BasicProperties, "decode", None),
        (frame, "decode_frame", (1, None)),
        (_frames, "OwnConnection", None),
    ],
    ids=["writing", "reading", "encoding", "decoding", "frames", "connecting"],
)
def test_a_pika_that_works_in_another_way_is_noticed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, owner: Any, name: str, result: object
) -> None:
    monkeypatch.setattr(owner, name, _instead(result))
    _frames.problem.cache_clear()
    try:
        assert isinstance(_frames.framing("own"), PikaFraming)
    finally:
        _frames.problem.cache_clear()
    assert [record.levelname for record in caplog.records if record.name == "unimq.rabbitmq"] == ["WARNING"]


@pytest.mark.parametrize(
    ("option", "variable", "expected"),
    [
        (None, None, OwnFraming),
        (None, "", OwnFraming),
        (None, "pika", PikaFraming),
        ("own", "pika", OwnFraming),
        ("pika", "own", PikaFraming),
    ],
)
def test_who_decides(
    monkeypatch: pytest.MonkeyPatch, option: Any, variable: str | None, expected: type[object]
) -> None:
    if variable is None:
        monkeypatch.delenv(_frames.VARIABLE, raising=False)
    else:
        monkeypatch.setenv(_frames.VARIABLE, variable)
    assert type(_frames.framing(option)) is expected


def test_a_wrong_wish_is_refused_before_any_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(unimq.ConfigError, match="frames"):
        unimq.connect("amqp://h?frames=fast")
    monkeypatch.setenv(_frames.VARIABLE, "fast")
    with pytest.raises(unimq.ConfigError, match=r"'fast'.*'own' or 'pika'"):
        unimq.connect("amqp://h")
