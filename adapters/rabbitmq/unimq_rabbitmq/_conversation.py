"""Administration: one caller in its own thread asks, the I/O thread speaks with the broker, one question at a time."""

import logging
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from typing import Any, NamedTuple, TypeVar

from pika import exceptions
from pika.channel import Channel

from unimq import ConnectionLost, UnimqError
from unimq_rabbitmq import _errors
from unimq_rabbitmq._link import Link

T = TypeVar("T")


class Question(NamedTuple):
    """A method of the channel that the broker answers."""

    method: str
    arguments: dict[str, Any]
    may_be_missing: bool
    """What it is about may not exist. The broker answers that by closing the channel, of which pika warns."""


class _Unsurprising(logging.Filter):
    """Keeps pika's warning out of the log where "not found" is an answer like any other; all else it lets through."""

    def __init__(self) -> None:
        super().__init__()
        self.channels: weakref.WeakSet[Channel] = weakref.WeakSet()
        """Each is put in and taken out by its own I/O thread."""

    def filter(self, record: logging.LogRecord) -> bool:
        arguments = record.args
        return not (
            isinstance(arguments, tuple)
            and len(arguments) == _CLOSE_ARGUMENTS
            and arguments[0] == _errors.NOT_FOUND
            and arguments[2] in self.channels
        )


_CLOSE_ARGUMENTS = 3
"""Of pika's line about a channel that the broker has closed: code, text, channel."""
_unsurprising = _Unsurprising()
logging.getLogger("pika.channel").addFilter(_unsurprising)


class Conversation:
    """Questions to the broker on a channel of their own, which is opened again after the broker closed it.

    `ask` belongs to the caller's thread, everything else to the I/O thread.
    """

    def __init__(self, link: Link, timeout: float) -> None:
        self._link = link
        self._deadline = time.monotonic() + timeout
        self._timeout = timeout
        self._channel: Channel | None = None
        self._opening = False
        self._asked: tuple[Question, Future[Any]] | None = None

    def ask(self, method: str, **arguments: Any) -> Any:
        """Call a method of the channel and return the broker's answer, waiting for a connection if there is none.

        Raises:
            pika.exceptions.ChannelClosed: the broker refused; its code says why.
            ConnectionLost: no answer in time, or the connection broke meanwhile; see `converse`.

        """
        return self._answer_to(Question(method, arguments, may_be_missing=False))

    def _answer_to(self, question: Question) -> Any:
        answer: Future[Any] = Future()
        self._link.thread.post(self._ask, (question, answer))
        try:
            return answer.result(max(0.0, self._deadline - time.monotonic()))
        except NoAnswer:
            raise ConnectionLost(
                f"{self._link.endpoint} did not answer within {self._timeout:g} s"
            ) from self._link.last_error

    def end(self) -> None:
        """Close the channel. The caller's thread."""
        self._link.thread.post(self._end, None)

    def exists(self, kind: str, name: str) -> bool:
        """Tell whether there is a ``"queue"`` or ``"exchange"`` of this name, whatever its properties."""
        try:
            self._answer_to(Question(f"{kind}_declare", {"passive": True, kind: name}, may_be_missing=True))
        except exceptions.ChannelClosedByBroker as error:
            if error.reply_code != _errors.NOT_FOUND:
                raise
            return False
        return True

    @property
    def overdue(self) -> bool:
        """Whether the time for further attempts is over."""
        return time.monotonic() >= self._deadline

    # The I/O thread.

    def connected(self) -> None:
        """See `unimq_rabbitmq._link.User`."""
        if self._asked is not None and self._channel is None and not self._opening:
            self._opening = True
            self._link.open_channel(self._opened, self._closed)

    def unreachable(self, error: UnimqError) -> None:
        """See `unimq_rabbitmq._link.User`: the question waits for the next attempt."""

    def ended(self, error: UnimqError) -> None:
        """See `unimq_rabbitmq._link.User`."""
        self._channel = None
        self._answer(error)

    def _ask(self, asked: tuple[Question, "Future[Any]"]) -> None:
        failure = self._link.thread.failure
        if failure is not None:
            asked[1].set_exception(failure)
            return
        self._asked = asked
        if self._channel is not None:
            self._put(self._channel)
        else:
            self._link.attach(self)

    def _opened(self, channel: Channel) -> None:
        self._opening = False
        if self._asked is None:
            channel.close()  # the caller went away meanwhile
            return
        self._channel = channel
        self._put(channel)

    def _put(self, channel: Channel) -> None:
        if self._asked is None:
            return
        method, arguments, may_be_missing = self._asked[0]
        if may_be_missing:
            _unsurprising.channels.add(channel)
        try:
            getattr(channel, method)(**arguments, callback=self._link.thread.guarded(self._answer))
        except (exceptions.AMQPError, ValueError, TypeError) as error:  # pika refuses an argument
            self._answer(error)

    def _closed(self, channel: Channel | None, error: BaseException) -> None:
        self._opening = False
        self._channel = None
        if channel is not None:
            _unsurprising.channels.discard(channel)
        final = isinstance(error, exceptions.ChannelClosed | exceptions.NoFreeChannels)
        # RabbitMQ 3.10 closes the connection for what newer ones close the channel.
        final = final or _errors.is_unknown_exchange_type(error)
        self._answer(error if final else ConnectionLost(str(error)))

    def _answer(self, answer: Any) -> None:
        asked, self._asked = self._asked, None
        if self._channel is not None:
            _unsurprising.channels.discard(self._channel)
        if asked is None:
            return
        if isinstance(answer, BaseException):
            asked[1].set_exception(answer)
        else:
            asked[1].set_result(answer)

    def _end(self, _: None) -> None:
        self._asked = None
        self._link.detach(self)
        if self._channel is not None and self._channel.is_open and self._link.thread.failure is None:
            self._channel.close()


def converse(link: Link, timeout: float, operation: Callable[[Conversation], T]) -> T:
    """Run an operation that may be repeated, and repeat it as long as the connection breaks under it (L3).

    Raises:
        pika.exceptions.ChannelClosed: the broker refused.
        UnimqError: `ConnectionLost` after `timeout` seconds, or why there will be no connection any more.

    """
    conversation = Conversation(link, timeout)
    try:
        while True:
            try:
                return operation(conversation)
            except ConnectionLost:
                if conversation.overdue or link.thread.failure is not None:
                    raise
    finally:
        conversation.end()
