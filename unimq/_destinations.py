"""Queues, topics and subscriptions with their policies: the same declaration means the same on every backend."""

import re
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Literal, TypedDict, Unpack

from unimq._errors import ConfigError

Seconds = float | timedelta

REPLY_PREFIX = "unimq-reply-"
"""Names of reply queues begin so: an operator recognises what a crashed program left behind, and so does a driver whose
broker can delete a queue that nobody reads."""

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST_NAME = 80
_DEAD_SUFFIX = "-dead"
_SUBSCRIPTION_SEPARATOR = "--"
_FIFO_SUFFIX_LENGTH = 5


def seconds(value: object, what: str, *, zero: bool = False) -> float:
    """Return a duration in seconds, or raise `ConfigError` that names `what`."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{what} must be seconds (a number) or a timedelta, not {type(value).__name__}")
    if value != value or value < 0 or (value == 0 and not zero):  # noqa: PLR0124 - NaN is the value unequal to itself
        raise ConfigError(f"{what} must be {'at least 0' if zero else 'more than 0'} seconds, not {value}")
    return float(value)


def count(value: object, what: str) -> int:
    """Return `value` if it is a whole number of at least 1, or raise `ConfigError` that names `what`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{what} must be a whole number of at least 1, not {value!r}")
    return value


def _check_name(what: str, name: object, longest: int, *, portable: bool) -> None:
    if not isinstance(name, str) or not name:
        raise ConfigError(f"the name of a {what} must be a non-empty str, not {name!r}")
    if portable and not _NAME.fullmatch(name):
        raise ConfigError(f"{what} name {name!r}: only letters, digits, '-' and '_' are valid on every backend")
    if portable and len(name) > longest:
        raise ConfigError(f"{what} name {name!r} has {len(name)} characters; at most {longest} are valid everywhere")


@dataclass(frozen=True, slots=True)
class Queue:
    """A point-to-point queue: its consumers compete, each message is settled once (G1).

    Raises:
        ConfigError: a name or policy is wrong, or two of them contradict each other.

    """

    name: str
    """Letters, digits, ``-`` and ``_``, short enough for the names derived from it (at most 80 characters in all)."""
    ordering: Literal["none", "key"] = "none"
    """``"none"`` promises no order (O2); ``"key"`` delivers the messages of one key in send order, one in flight at a
    time (O1)."""
    ttl: Seconds | None = None
    """Seconds after which an undelivered message expires (T1); a message's own ``ttl`` can only shorten it."""
    max_length: int | None = None
    """Number of messages that the queue holds (T3)."""
    overflow: Literal["reject", "drop_oldest"] = "reject"
    """What happens beyond ``max_length``: the sender gets `QueueFull`, or the oldest message is dropped (T3)."""
    lease: Seconds | None = None
    """Seconds after which an unsettled delivery returns (A5); ``None`` is the backend's own way."""
    max_deliveries: int | None = None
    """The failure of this delivery dead-letters the message, or drops it without ``dead_letter`` (A8, D4)."""
    dead_letter: bool | None = None
    """Rejected and exhausted messages move to the queue ``<name>-dead`` (A4); with ``False`` they are dropped. The
    default is ``True``, save for a queue whose own name ends in ``-dead``."""
    dead_letter_expired: bool = False
    """Expired messages move there too, with reason ``expired`` (T1); by default they are dropped."""
    portable_name: bool = True
    """With ``False`` the name is used as it is, for queues that exist already under a name only one backend knows."""

    def __post_init__(self) -> None:
        """Check names and policies and give every duration in seconds."""
        if self.ordering not in {"none", "key"}:
            raise ConfigError(f'ordering must be "none" or "key", not {self.ordering!r}')
        if self.overflow not in {"reject", "drop_oldest"}:
            raise ConfigError(f'overflow must be "reject" or "drop_oldest", not {self.overflow!r}')
        for option in ("ttl", "lease"):
            if getattr(self, option) is not None:
                object.__setattr__(self, option, seconds(getattr(self, option), option))
        for option in ("max_length", "max_deliveries"):
            if getattr(self, option) is not None:
                count(getattr(self, option), option)
        if self.overflow == "drop_oldest" and self.max_length is None:
            raise ConfigError('overflow="drop_oldest" says what happens beyond max_length, which is not given')
        _check_name("queue", self.name, _LONGEST_NAME, portable=self.portable_name)
        if self.dead_letter is None:
            object.__setattr__(self, "dead_letter", not self.name.endswith(_DEAD_SUFFIX))
        if self.dead_letter_expired and not self.dead_letter:
            raise ConfigError("dead_letter_expired=True needs dead_letter=True: there is no queue for what expired")
        if self.portable_name:
            longest = _LONGEST_NAME - len(_DEAD_SUFFIX) * bool(self.dead_letter)
            longest -= _FIFO_SUFFIX_LENGTH * (self.ordering == "key")
            if len(self.name) > longest:
                raise ConfigError(
                    f"queue name {self.name!r} has {len(self.name)} characters; at most {longest} leave room for the"
                    f" names derived from it within the {_LONGEST_NAME} of every backend"
                )

    @property
    def dead_letters(self) -> "Queue | None":
        """The dead-letter queue, or ``None`` if rejected messages are dropped."""
        if not self.dead_letter:
            return None
        return Queue(
            self.name + _DEAD_SUFFIX, ordering=self.ordering, dead_letter=False, portable_name=self.portable_name
        )

    @property
    def is_of_subscription(self) -> bool:
        """Whether the name is one that only a `Subscription` gives; its dead-letter queue is an ordinary queue."""
        return self.portable_name and _SUBSCRIPTION_SEPARATOR in self.name and not self.name.endswith(_DEAD_SUFFIX)

    @property
    def ttl_seconds(self) -> float | None:
        """``ttl`` in seconds."""
        return None if self.ttl is None else seconds(self.ttl, "ttl")

    @property
    def lease_seconds(self) -> float | None:
        """``lease`` in seconds."""
        return None if self.lease is None else seconds(self.lease, "lease")

    def differences(self, other: "Queue") -> dict[str, tuple[object, object]]:
        """Return the policies in which two declarations of one queue differ, as ``{name: (self, other)}``."""
        return {
            field.name: (getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        }


class QueuePolicy(TypedDict, total=False):
    """The policies of a `Queue`, as keywords of `Topic.subscription`."""

    ttl: Seconds | None
    max_length: int | None
    overflow: Literal["reject", "drop_oldest"]
    lease: Seconds | None
    max_deliveries: int | None
    dead_letter: bool | None
    dead_letter_expired: bool


@dataclass(frozen=True, slots=True)
class Topic:
    """Publish-subscribe: every subscription gets every message sent after it was declared (G2)."""

    name: str
    ordering: Literal["none", "key"] = "none"
    """Holds for every subscription of the topic (O1, O2)."""
    require_subscription: bool = False
    """With ``True`` a message that no subscription takes is refused with `Unroutable`; else it is accepted and
    forgotten (G2)."""
    portable_name: bool = True

    def __post_init__(self) -> None:
        """Check the name."""
        if self.ordering not in {"none", "key"}:
            raise ConfigError(f'ordering must be "none" or "key", not {self.ordering!r}')
        _check_name("topic", self.name, _LONGEST_NAME - len(_DEAD_SUFFIX), portable=self.portable_name)
        if self.portable_name and _SUBSCRIPTION_SEPARATOR in self.name:
            raise ConfigError(f"topic name {self.name!r}: '--' is reserved between topic and subscription")

    def subscription(
        self, name: str, *, start: Literal["now", "earliest"] = "now", **policy: Unpack[QueuePolicy]
    ) -> "Subscription":
        """Return the subscription `name` of this topic.

        Args:
            name: its consumers compete for its messages.
            start: ``"now"`` gets what is sent after the declaration, ``"earliest"`` asks for history too (G2).
            policy: the same policies as a `Queue` has.

        Raises:
            ConfigError: a name or policy is wrong.

        """
        return Subscription(self, name, start, **policy)


class Subscription:
    """One independent reader of a topic; its messages wait in the queue ``<topic>--<name>`` (G2)."""

    __slots__ = ("name", "queue", "start", "topic")

    def __init__(
        self, topic: Topic, name: str, start: Literal["now", "earliest"] = "now", **policy: Unpack[QueuePolicy]
    ) -> None:
        if start not in {"now", "earliest"}:
            raise ConfigError(f'start must be "now" or "earliest", not {start!r}')
        _check_name("subscription", name, _LONGEST_NAME, portable=topic.portable_name)
        unknown = policy.keys() - QueuePolicy.__annotations__.keys()
        if unknown:
            raise ConfigError(
                f"unknown policy {min(unknown)!r}; valid: {', '.join(sorted(QueuePolicy.__annotations__))}"
            )
        self.topic: Topic = topic
        self.name: str = name
        self.start: Literal["now", "earliest"] = start
        self.queue: Queue = Queue(
            f"{topic.name}{_SUBSCRIPTION_SEPARATOR}{name}",
            ordering=topic.ordering,
            portable_name=topic.portable_name,
            **policy,
        )

    def __repr__(self) -> str:
        return (
            f"Subscription(topic={self.topic.name!r}, name={self.name!r}, start={self.start!r}, queue={self.queue!r})"
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Subscription) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[Topic, str, str, Queue]:
        return (self.topic, self.name, self.start, self.queue)


Source = Queue | Subscription
"""What a consumer reads."""

Target = Queue | Topic
"""What a producer sends to."""


def queue_of(source: Source) -> Queue:
    """Return the queue in which the messages of `source` wait, with its policies."""
    return source if isinstance(source, Queue) else source.queue
