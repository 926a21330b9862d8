"""A connection that repairs itself."""

import logging
import random
from collections.abc import Callable
from typing import Any, Protocol

from pika import exceptions
from pika.adapters.select_connection import SelectConnection
from pika.channel import Channel

from unimq import AuthError, Closed, ConfigError, UnimqError
from unimq_rabbitmq import _errors
from unimq_rabbitmq._framing import Framing
from unimq_rabbitmq._options import Endpoint
from unimq_rabbitmq._services import ConnectingServices
from unimq_rabbitmq._thread import IOThread

log = logging.getLogger("unimq.rabbitmq")

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0
_FAREWELL = 1.0


class User(Protocol):
    """Who works on a link. Called in the I/O thread."""

    def connected(self) -> None:
        """There is a connection that takes messages: open your channel, unless you have one, and go on."""
        ...

    def unreachable(self, error: UnimqError) -> None:
        """An attempt to connect failed; the next one follows."""
        ...

    def ended(self, error: UnimqError) -> None:
        """There will be no connection any more."""
        ...


class Link:
    """One connection and its repair, with jittered back-off (L3). Lives in the I/O thread."""

    def __init__(self, thread: IOThread, endpoint: Endpoint, purpose: str, timeout: float, framing: Framing) -> None:
        self.thread = thread
        self.framing = framing
        self.endpoint = endpoint
        self.purpose = purpose
        self._timeout = timeout / len(endpoint.hosts)
        """Seconds for one attempt to connect: whoever waits for the first connection has time for every host."""
        self.connection: SelectConnection | None = None
        """The open connection, or `None`."""
        self.blocked = False
        """The broker takes no messages at present (memory or disk alarm)."""
        self.last_error: UnimqError | None = None
        """Why there is no connection; read by callers that waited in vain."""
        self.reconnects = 0
        """How often the connection was restored after it had been lost."""
        self._users: dict[User, None] = {}
        self._current: SelectConnection | None = None
        self._was_open = False
        self._tries = 0
        self._failures = 0
        self._timer: Any = None
        self._end: UnimqError | None = None
        self._closed: Callable[[], None] | None = None
        thread.at_end.append(self._stranded)

    @property
    def trouble(self) -> str:
        """What is wrong at present with a connection that is needed; empty if nothing is. For any thread."""
        if self.blocked:
            return f"RabbitMQ takes no messages at present (memory or disk alarm): {self.endpoint}"
        if self._users and self.connection is None and self.last_error is not None:
            return f"no connection for {self.purpose}: {self.last_error}"
        return ""

    def attach(self, user: User) -> None:
        """Serve `user` from now on, with the present connection or the next one."""
        if self._end is not None:
            user.ended(self._end)
            return
        self._users[user] = None
        if self.connection is not None:
            user.connected()
        elif self._current is None and self._timer is None:
            self._connect()

    def detach(self, user: User) -> None:
        """Serve `user` no longer."""
        self._users.pop(user, None)

    def open_channel(
        self, opened: Callable[[Channel], None], closed: Callable[[Channel | None, BaseException], None]
    ) -> None:
        """Open a channel on the present connection; `closed` is called once, if it fails or when it ends."""
        guarded = self.thread.guarded
        try:
            if self.connection is None:
                raise exceptions.ConnectionWrongStateError
            channel = self.connection.channel(on_open_callback=guarded(opened))
        except exceptions.AMQPError as error:  # no free channel, or the connection is about to close
            closed(None, error)
        else:
            channel.add_on_close_callback(guarded(closed))

    def close(self, timeout: float, closed: Callable[[], None]) -> None:
        """Close the connection, by force after `timeout` seconds; then call `closed`."""
        self._closed = closed
        self._finish(Closed("the connection to RabbitMQ is closed"))
        if self._current is None:
            self._gone()
            return
        if self._current.is_open:
            self._current.close()
        if self.blocked or not self._current.is_open:
            # A broker in alarm does not read the farewell. And pika fails when it is told to close in the middle of a
            # handshake: let it come up first, for a moment.
            timeout = min(timeout, _FAREWELL)
        self._timer = self.thread.call_later(timeout, self._abort)

    # Connecting, losing, repairing.

    def _connect(self) -> None:
        guarded = self.thread.guarded
        self._timer = None
        self._tries += 1
        self.blocked = False
        try:
            self._current = self.framing.connection_class(
                self.endpoint.parameters(self._tries - 1, self.purpose, self._timeout),
                on_open_callback=guarded(self._opened),
                on_open_error_callback=guarded(self._lost),
                on_close_callback=guarded(self._lost),
                custom_ioloop=ConnectingServices(self.thread.loop, self._failed),
            )
        except Exception as error:  # noqa: BLE001 - whatever keeps pika from connecting is a failed attempt
            self._lost(None, error)

    def _failed(self, error: Exception) -> None:
        """Take what pika raised in an attempt to connect for the failure of the attempt (L3)."""
        if self._current is not None and self.connection is None:
            self._lost(self._current, error)

    def _opened(self, connection: SelectConnection) -> None:
        if self._end is not None or connection is not self._current:
            connection.close()
            return
        connection.add_on_connection_blocked_callback(self.thread.guarded(self._is_blocked))
        connection.add_on_connection_unblocked_callback(self.thread.guarded(self._is_unblocked))
        if self._was_open and self._failures:
            log.info("connected to RabbitMQ again: %s (%s)", self.endpoint, self.purpose)
        self.framing.tune(connection)
        self.reconnects += self._was_open
        self._failures = 0
        self._was_open = True
        self.last_error = None
        self.connection = connection
        for user in list(self._users):
            user.connected()

    def _is_blocked(self, _connection: object, _frame: object) -> None:
        log.warning("RabbitMQ takes no messages at present (memory or disk alarm): %s", self.endpoint)
        self.blocked = True

    def _is_unblocked(self, _connection: object, _frame: object) -> None:
        log.info("RabbitMQ takes messages again: %s", self.endpoint)
        self.blocked = False
        for user in list(self._users):
            user.connected()

    def _lost(self, connection: object, error: BaseException) -> None:
        """Both for a connection that broke and for one that did not come up."""
        if connection is not self._current:
            # Given up before, by `_failed`.
            return
        self.connection = self._current = None
        if self._end is not None:
            self._gone()
            return
        self.last_error = found = _errors.from_connection(error, str(self.endpoint))
        if isinstance(found, AuthError | ConfigError):
            self._finish(found)
            return
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**self._failures) * random.uniform(0.5, 1.0)
        # One line for the loss; before the first connection the caller who waits is told.
        level = logging.WARNING if self._was_open and not self._failures else logging.DEBUG
        self._failures = min(self._failures + 1, 16)
        log.log(level, "no connection to RabbitMQ (%s), next attempt in %.2f s: %s", self.purpose, pause, found)
        self._timer = self.thread.call_later(pause, self._connect)
        for user in list(self._users):
            user.unreachable(found)

    # Ending.

    def _finish(self, error: UnimqError) -> None:
        """Tell every user that it is over, once."""
        if self._end is None:
            self._end = error
            if self._timer is not None:
                self.thread.cancel(self._timer)
                self._timer = None
            for user in list(self._users):
                user.ended(error)
            self._users.clear()

    def _stranded(self, error: UnimqError) -> None:
        """The thread ends: without it the connection is of no use."""
        self._finish(error)
        self._abort()

    def _abort(self) -> None:
        """Drop a connection whose broker does not answer the farewell; pika has no public way to do it.

        The thread is marked as ending before, because pika may raise while it drops one that was not up yet.
        """
        self._timer = None
        self.thread.end()
        terminate = getattr(self._current, "_terminate_stream", None)
        if terminate is not None:
            terminate(exceptions.ConnectionClosedByClient(0, "no answer to the farewell"))

    def _gone(self) -> None:
        if self._timer is not None:
            self.thread.cancel(self._timer)
            self._timer = None
        closed, self._closed = self._closed, None
        if closed is not None:
            closed()
