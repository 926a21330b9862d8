"""Faults of the portable layer, in guarantees of the whole that no adapter could break by itself."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from unimq import _broker, _message, _sync
from unimq._receiving import ConsumerCore
from unimq._waiting import Waiters
from unimq.adapter import Headers, Message
from unimq_contract.mutants.seam import Mutant


@contextmanager
def replaced(owner: object, name: str, value: object) -> Generator[None]:
    """Have this attribute of a module or class be another for a while."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, value)
        yield


class HeadersOfTheSender(Mutant):
    """A message keeps the mapping that the sender gave, and with it what the sender does to that later."""

    @classmethod
    @contextmanager
    def installed(cls) -> Generator[None]:
        check: Callable[[Headers], Headers] = _message._check_headers

        def checked(headers: Headers) -> Headers:
            check(headers)
            return headers

        with replaced(_message, "_check_headers", checked):
            yield


class BufferOfTheSender(Mutant):
    """A message keeps the buffer that the sender gave, and with it what the sender writes there later."""

    @classmethod
    @contextmanager
    def installed(cls) -> Generator[None]:
        compose: Callable[..., Message] = _message.compose

        def composed(body: Any, *fields: Any) -> Message:
            message = compose(body, *fields)
            message.body = body
            return message

        with replaced(_sync, "compose", composed):
            yield


class CloseWakesNobody(Mutant):
    """Who waits for a message when the consumer is closed waits on."""

    @classmethod
    @contextmanager
    def installed(cls) -> Generator[None]:
        stop = ConsumerCore.stop

        def stopped(core: ConsumerCore, reason: str) -> bool:
            waiting, core.arrived = core.arrived, Waiters()
            try:
                return stop(core, reason)
            finally:
                core.arrived = waiting

        with replaced(ConsumerCore, "stop", stopped):
            yield


class Forgotten:
    """A set of open connections in which none is ever found."""

    def add(self, _: object) -> None: ...
    def __iter__(self) -> Iterator[_broker.BrokerCore]:
        return iter(())


class ChildGoesOnAsParent(Mutant):
    """A forked child uses the connections of its parent as if they were its own."""

    @classmethod
    @contextmanager
    def installed(cls) -> Generator[None]:
        with replaced(_broker, "_open_brokers", Forgotten()):
            yield
