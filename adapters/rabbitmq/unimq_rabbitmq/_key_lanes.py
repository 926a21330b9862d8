"""An ordered queue of several lanes: an exchange that hashes keys, and behind it one queue of the broker per lane.

Each lane has a single active consumer, so a key is always in the hands of one consumer, and several consumers share the
keys. How many lanes there are is fixed when they are made, since one more would move keys from lane to lane.
"""

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pika import exceptions

from unimq import DeclarationConflict, NotFound
from unimq_rabbitmq import _wire
from unimq_rabbitmq._conversation import Conversation

MOST = 64
_COUNT_THERE = re.compile(r"current is .*\.lanes\.(\d+)'")


def exchange_of(name: str) -> str:
    """Return the name of the exchange in front of the lanes. No portable name has a dot."""
    return f"{name}.lanes"


def lane_of(name: str, number: int) -> str:
    """Return the name of one lane's queue."""
    return f"{name}.lane.{number}"


def declare(talk: Conversation, name: str, count: int, arguments: Mapping[str, Any]) -> Sequence[str]:
    """Declare the exchange and the lanes, whose queues have these arguments, and return their names.

    The exchange also remembers `count`, so that two who declare at once with different ones conflict: of the few
    arguments that the broker compares one is the alternate exchange, which would get what the lanes do not take. It
    bears the number in its name, and does not exist.

    Raises:
        DeclarationConflict: it exists with another number of lanes.

    """
    exchange = exchange_of(name)
    hashing = {"hash-header": _wire.KEY, "alternate-exchange": f"{exchange}.{count}"}
    try:
        talk.ask(
            "exchange_declare", exchange=exchange, exchange_type="x-consistent-hash", durable=True, arguments=hashing
        )
    except exceptions.ChannelClosedByBroker as error:
        there = _COUNT_THERE.search(error.reply_text)
        if there is None:
            raise
        raise DeclarationConflict(
            f"queue {name!r} exists with other properties: key_lanes is {there[1]} there, {count} here"
        ) from error
    lanes = [lane_of(name, number) for number in range(count)]
    for lane in lanes:
        talk.ask("queue_declare", queue=lane, durable=True, arguments=dict(arguments))
    # Once all are there: with every binding keys move.
    for lane in lanes:
        # The routing key of a binding to such an exchange is the lane's weight.
        talk.ask("queue_bind", queue=lane, exchange=exchange, routing_key="1")
    return lanes


def find(talk: Conversation, name: str) -> Sequence[str]:
    """Return the queues of the lanes that exist, in their order; none if the queue has no lanes.

    Raises:
        NotFound: there is the exchange, but no lane.

    """
    if not talk.exists("exchange", exchange_of(name)):
        return ()
    lanes: list[str] = []
    while len(lanes) < MOST and talk.exists("queue", lane := lane_of(name, len(lanes))):
        lanes.append(lane)
    if not lanes:
        raise NotFound(f"queue {lane_of(name, 0)!r} does not exist, the first lane of {name!r}")
    return lanes


def remove(talk: Conversation, name: str) -> None:
    """Delete the exchange and the lanes, if there are any."""
    if talk.exists("exchange", exchange_of(name)):
        # The exchange first: a message that is sent meanwhile is refused then, and not lost.
        talk.ask("exchange_delete", exchange=exchange_of(name))
    number = 0
    while talk.exists("queue", lane_of(name, number)):
        talk.ask("queue_delete", queue=lane_of(name, number))
        number += 1


def priorities(count: int) -> list[int]:
    """Return with which priority a new consumer asks for each lane; the highest one gets it.

    Nobody knows of the others. So each ranks the lanes in an order of its own: since all give the same ranks, nobody
    is ahead everywhere, who comes takes some from each, and who goes leaves them to different ones. The lower bits
    decide between equal ranks.
    """
    ranks = random.sample(range(count), count)
    return [rank << 16 | random.getrandbits(16) for rank in ranks]
