"""How messages, deliveries, confirms and acks become frames and back: by pika's public API here, by hand in `_frames`.

Both do the same; `_frames` in a fifth of the time.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from pika.adapters.select_connection import SelectConnection
from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from unimq.adapter import Message, Outgoing
from unimq_rabbitmq import _wire

if TYPE_CHECKING:
    from pika.frame import Method


class Route(NamedTuple):
    """Where a message goes."""

    exchange: str
    routing_key: str
    mandatory: bool


class Received(NamedTuple):
    """What the broker has pushed."""

    tag: int
    message: Message
    attempt: int
    native: BasicProperties


class Confirm(NamedTuple):
    """An answer of the broker to what was published."""

    tag: int
    multiple: bool
    is_ack: bool


OnReceived = Callable[[Sequence[Received]], None]
OnConfirms = Callable[[Sequence[Confirm]], None]
Answered = Callable[[Any], None]


class Publisher(Protocol):
    """Publishes on one open channel."""

    @property
    def has_room(self) -> bool:
        """Whether the connection takes more at present: what it has not sent yet lies in memory (L5)."""
        ...

    def publish(self, publications: Sequence[_wire.Publication], route: Route) -> None:
        """Publish these, in their order."""
        ...


class Framing(Protocol):
    """One way to speak AMQP. Everything but `encode` is for the I/O thread; callbacks are called there, in the order
    of the broker, and must not raise.
    """

    @property
    def connection_class(self) -> type[SelectConnection]:
        """What to connect with; the other methods are for channels of such a connection."""
        ...

    def encode(self, entry: Outgoing, limits: _wire.Limits) -> _wire.Publication:
        """See `_wire.encode`. Any thread."""
        ...

    def tune(self, connection: SelectConnection) -> None:
        """Prepare a connection that has come up."""
        ...

    def confirm(self, channel: Channel, confirmed: OnConfirms, answered: Answered) -> None:
        """Put the channel into confirm mode; `answered` is called when it is, `confirmed` with every confirm."""
        ...

    def publisher(self, channel: Channel) -> Publisher:
        """Return what publishes on the channel."""
        ...

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
        """Have the broker push; `answered` is called when it has accepted that. `priority` is over other consumers."""
        ...

    def cancel(self, channel: Channel, consumer_tag: str, answered: Answered) -> None:
        """Have the broker stop pushing. What comes none the less goes back to the queue; `received` is not called."""
        ...

    def ack(self, channel: Channel, acks: Sequence[tuple[int, bool]]) -> None:
        """Ack these delivery tags, each alone or, if its flag is set, with all below it."""
        ...


class PikaPublisher:
    """See `Publisher`."""

    has_room = True
    """Nobody knows: pika does not tell. The sender's window bounds it all the same."""

    def __init__(self, channel: Channel) -> None:
        self._publish = channel.basic_publish

    def publish(self, publications: Sequence[_wire.Publication], route: Route) -> None:
        """See `Publisher.publish`."""
        exchange, routing_key, mandatory = route
        for publication in publications:
            body = publication.entry.message.body
            self._publish(exchange, routing_key, body, properties=publication.properties, mandatory=mandatory)


class PikaFraming:
    """See `Framing`: nothing but the public API of pika."""

    connection_class = SelectConnection

    def encode(self, entry: Outgoing, limits: _wire.Limits) -> _wire.Publication:
        """See `Framing.encode`."""
        return _wire.encode(entry, limits)

    def tune(self, connection: SelectConnection) -> None:
        """See `Framing.tune`: there is nothing to do."""

    def confirm(self, channel: Channel, confirmed: OnConfirms, answered: Answered) -> None:
        """See `Framing.confirm`."""

        def one(frame: "Method[Basic.Ack] | Method[Basic.Nack]") -> None:
            method = frame.method
            confirmed((Confirm(int(method.delivery_tag or 0), bool(method.multiple), isinstance(method, Basic.Ack)),))

        channel.confirm_delivery(cast("Any", one), answered)

    def publisher(self, channel: Channel) -> PikaPublisher:
        """See `Framing.publisher`."""
        return PikaPublisher(channel)

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
        """See `Framing.consume`."""
        arguments = None if priority is None else {"x-priority": priority}
        on_message = partial(_one, received)
        channel.basic_consume(queue, on_message, consumer_tag=consumer_tag, arguments=arguments, callback=answered)

    def cancel(self, channel: Channel, consumer_tag: str, answered: Answered) -> None:
        """See `Framing.cancel`: pika rejects what comes none the less."""
        channel.basic_cancel(consumer_tag, answered)

    def ack(self, channel: Channel, acks: Sequence[tuple[int, bool]]) -> None:
        """See `Framing.ack`."""
        for tag, multiple in acks:
            channel.basic_ack(tag, multiple)


def forget_consumers(channel: Channel) -> None:
    """Have pika close this channel without cancelling its consumers before. There is no public way."""
    cast("Any", channel)._consumers.clear()


def _one(
    received: OnReceived, _channel: object, method: Basic.Deliver, properties: BasicProperties, body: bytes
) -> None:
    received((decoded(method, properties, body),))


def decoded(method: Basic.Deliver | Basic.GetOk, properties: BasicProperties, body: bytes) -> Received:
    """Return what pika has read as it is handed on."""
    message, attempt = _wire.decode(method, properties, body)
    return Received(int(method.delivery_tag or 0), message, attempt, properties)
