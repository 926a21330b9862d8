"""What a client process can be told, and what it answers: one JSON object per line."""

from typing import Literal, Self, TypeAlias

import msgspec

import unimq


class Where(msgspec.Struct):
    """A queue, or a subscription of a topic; for sending, the topic."""

    queue: str = ""
    topic: str = ""
    subscription: str = ""
    ordering: Literal["none", "key"] = "none"
    lease: float | None = None
    max_deliveries: int | None = None

    @classmethod
    def of(cls, place: unimq.Queue | unimq.Topic | unimq.Subscription) -> Self:
        """Describe a destination by the policies that matter here.

        Raises:
            ValueError: it has another policy, which would be lost on the way.

        """
        if isinstance(place, unimq.Topic):
            where = cls(topic=place.name, ordering=place.ordering)
        else:
            queue = place if isinstance(place, unimq.Queue) else place.queue
            lease = None if queue.lease is None else queue.lease_seconds
            where = cls("", "", "", queue.ordering, lease, queue.max_deliveries)
            if isinstance(place, unimq.Queue):
                where.queue = place.name
            else:
                where.topic, where.subscription = place.topic.name, place.name
        if where.place() != place:
            raise ValueError(f"{place!r} has policies that a client process does not know")
        return where

    def place(self) -> unimq.Queue | unimq.Topic | unimq.Subscription:
        """Return the destination again."""
        if self.queue:
            return unimq.Queue(self.queue, self.ordering, lease=self.lease, max_deliveries=self.max_deliveries)
        topic = unimq.Topic(self.topic, self.ordering)
        if not self.subscription:
            return topic
        return topic.subscription(self.subscription, lease=self.lease, max_deliveries=self.max_deliveries)


class Consume(msgspec.Struct, tag_field="do", tag="consume"):
    """Open the consumer."""

    source: Where
    prefetch: int = 100


class Send(msgspec.Struct, tag_field="do", tag="send"):
    """Send so many messages, confirmed one by one; ``keys`` are used in turn."""

    target: Where
    count: int = 1
    keys: list[str] = []
    size: int = 0


class Receive(msgspec.Struct, tag_field="do", tag="receive"):
    """Receive until `count` are held, or nothing came for `timeout` seconds."""

    count: int
    timeout: float


class Settle(msgspec.Struct, tag_field="do", tag="settle"):
    """Ack or nack the `count` oldest that are held, and wait until that is confirmed if so wished."""

    count: int
    nack: bool = False
    confirm: bool = True


class Work(msgspec.Struct, tag_field="do", tag="work"):
    """Receive and ack in the background until `Rest`; every `nack`-th message is nacked at its first attempt."""

    nack: int = 0
    hold: float = 0.0
    """Seconds that a delivery is held before it is settled."""


class Rest(msgspec.Struct, tag_field="do", tag="rest"):
    """End the work; what is held is settled."""


class Close(msgspec.Struct, tag_field="do", tag="close"):
    """Close everything."""


Order: TypeAlias = Consume | Send | Receive | Settle | Work | Rest | Close


class Answer(msgspec.Struct):
    """What came of an order."""

    count: int = 0
    consumer: str = ""
    group: str = ""
    error: str = ""
