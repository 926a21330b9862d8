"""Middleware: typed hooks around sending, delivering, handling and settling. What is not hooked costs nothing."""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec

from unimq._delivery import Delivery
from unimq._destinations import Seconds, seconds
from unimq._errors import UnimqError
from unimq._events import SeldomLog
from unimq._message import Message
from unimq._receipt import Receipt

P = ParamSpec("P")

Settlement = Literal["ack", "nack", "dead", "dropped", "lost"]
"""How a delivery ended here: done, to be delivered again, moved to the dead letters, dropped because none are declared
(or because it expired), or no longer held (lease over, connection lost, consumer closed)."""


@dataclass(frozen=True, slots=True)
class Nack:
    """A failed delivery is to come again, after `delay` seconds."""

    delay: Seconds = 0.0

    def __post_init__(self) -> None:
        """Check the delay and give it in seconds."""
        object.__setattr__(self, "delay", seconds(self.delay, "delay", zero=True))


@dataclass(frozen=True, slots=True)
class Reject:
    """A failed delivery goes to the dead letters now, with `reason` (A4)."""

    reason: str = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Middleware:
    """Hooks, each optional, called in the order in which the middlewares are given: the broker's, then the own ones.

    `publish` runs in the sender's thread, `handling` and `error` in the handler's; all others may run in a thread of a
    driver, several at once, and must not block. An exception of `publish` refuses the message; one of any other hook
    is logged, and changes nothing.
    """

    publish: Callable[[Message, str], Message] | None = None
    """Gets each message before it is sent and the name of its target; returns it, or the one to send instead. A
    message that it made is checked like a user's (S4)."""
    published: Callable[[Message, str, Receipt | UnimqError], None] | None = None
    """Gets each sent message with its outcome (S1, S2)."""
    deliver: Callable[[Delivery[Any]], bool] | None = None
    """Gets each decoded delivery before the user does; false: the hook settled it, and the user does not get it."""
    handling: Callable[[Sequence[Delivery[Any]]], AbstractContextManager[object]] | None = None
    """Is entered around each call of a handler by `run`, in the thread or task of the handler."""
    error: Callable[[Delivery[Any], BaseException], Nack | Reject | None] | None = None
    """Gets what a handler of `run` raised; the first answer that is not `None` decides, before the retry policy."""
    settled: Callable[[Delivery[Any], Settlement], None] | None = None
    """Gets each delivery once, when it is settled here or lost, also those that the user never got."""


def call_hooks(seldom: SeldomLog, hooks: Iterable[Callable[P, object]], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call hooks whose failure must not harm the message."""
    for hook in hooks:
        try:
            hook(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the user's
            say_failed(seldom, hook, error)


def say_failed(seldom: SeldomLog, hook: object, error: Exception) -> None:
    """Say that a hook raised, which changes nothing."""
    seldom.say("hook-failed", "middleware hook %r raised", hook, level=logging.ERROR, error=error)
