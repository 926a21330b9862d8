"""A connection of pika with one channel, run by a thread of its own: `SelectConnection` as its documentation says."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pika import URLParameters

_TIMEOUT = 30.0


class PikaThread:
    """`channel` is used by the I/O thread alone: others `post` a function to it, or `ask` and wait.

    It does not connect again. `lost` says why the connection ended; `on_lost` is called once, in the I/O thread.
    """

    def __init__(self, parameters: "URLParameters", name: str) -> None:
        from pika import SelectConnection

        self._ready = threading.Event()
        self.lost: Exception | None = None
        self.on_lost: Callable[[], None] = lambda: None
        self.channel: Any = None
        self._connection = SelectConnection(
            parameters,
            on_open_callback=lambda connection: connection.channel(on_open_callback=self._opened),
            on_open_error_callback=self._over,
            on_close_callback=self._over,
        )
        self.post = self._connection.ioloop.add_callback_threadsafe
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self._ready.wait(_TIMEOUT)
        if self.channel is None:
            raise ConnectionError(f"no connection to RabbitMQ within {_TIMEOUT:g} s") from self.lost

    def _run(self) -> None:
        self._connection.ioloop.start()
        self._connection.ioloop.close()

    def _opened(self, channel: Any) -> None:
        channel.add_on_close_callback(self._channel_closed)
        self.channel = channel
        self._ready.set()

    def _channel_closed(self, channel: Any, error: Exception) -> None:
        self.lost = self.lost or error
        if self._connection.is_open:
            self._connection.close()

    def _over(self, connection: Any, error: Any) -> None:
        self.lost = self.lost or ConnectionError(str(error))
        connection.ioloop.stop()
        self._ready.set()
        self.on_lost()

    def ask(self, question: Callable[[Callable[..., None]], object]) -> None:
        """Run a question in the I/O thread; return when its callback was called."""
        answered = threading.Event()
        self.post(lambda: question(lambda *_: answered.set()))
        if self.lost is not None or not answered.wait(_TIMEOUT):
            raise ConnectionError(f"RabbitMQ did not answer: {self.lost or 'time is over'}")

    def close(self) -> None:
        """Close the connection: the broker takes back what is not acked. Idempotent."""
        if self.lost is None:
            self.post(self._connection.close)
        self._thread.join(_TIMEOUT)
