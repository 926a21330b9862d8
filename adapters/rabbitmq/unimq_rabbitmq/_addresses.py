"""Exchanges that somebody else has made, with the routing key to use, in the notation of RabbitMQ 4.

``/exchanges/EXCHANGE`` and ``/exchanges/EXCHANGE/ROUTING-KEY``, as RabbitMQ itself writes targets in AMQP 1.0 ("address
v2"): both parts percent-encoded. Such a name stands for the exchange; it is never created, compared or deleted.
"""

from typing import NamedTuple
from urllib.parse import unquote

from unimq import ConfigError, Topic

_PREFIX = "/exchanges/"


class Address(NamedTuple):
    """Where the messages of a topic go."""

    exchange: str
    routing_key: str
    is_foreign: bool
    """It is somebody else's."""


def address_of(topic: Topic) -> Address:
    """Return where the messages of `topic` go.

    Raises:
        ConfigError: its name begins like an address, and is none.

    """
    if topic.portable_name or not topic.name.startswith(_PREFIX):
        return Address(topic.name, "", is_foreign=False)
    exchange, _, routing_key = topic.name.removeprefix(_PREFIX).partition("/")
    if not exchange or "/" in routing_key:
        raise ConfigError(
            f"topic {topic.name!r}: expected {_PREFIX}EXCHANGE or {_PREFIX}EXCHANGE/ROUTING-KEY, with %2F for a slash"
        )
    return Address(unquote(exchange), unquote(routing_key), is_foreign=True)
