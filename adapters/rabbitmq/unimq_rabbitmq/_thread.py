"""The one thread that owns every pika object of a driver, and the only way into it."""

import logging
import threading
from collections.abc import Callable
from typing import Any

from pika.adapters.select_connection import IOLoop

from unimq import Closed, ConnectionLost, UnimqError
from unimq.adapter import Mailbox

log = logging.getLogger("unimq.rabbitmq")

Task = tuple[Callable[[Any], None], Any]


class IOThread:
    """Runs pika's loop. Work from other threads arrives through one mailbox, with one wake-up per batch of it.

    pika's loop would end silently at the first exception of a callback. Here every callback is guarded: an unexpected
    exception ends the thread with an error that everything on it reports, and later work is answered with that error.
    """

    def __init__(self, name: str) -> None:
        self.loop = IOLoop()
        self.failure: UnimqError | None = None
        """Why the thread ended; set before its last look into the mailbox."""
        self.at_end: list[Callable[[UnimqError], None]] = []
        """Called once with `failure`, in the thread, before its loop is closed."""
        self._mailbox: Mailbox[Task] = Mailbox(lambda: self.loop.add_callback_threadsafe(self._drain))
        self._reaping = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    # Any thread.

    def post(self, function: Callable[[Any], None], argument: Any) -> None:
        """Have `function(argument)` called in the thread; or in this one, if the thread has ended.

        Whatever is posted is called exactly once; it looks at `failure` before it touches pika.
        """
        self._mailbox.post((function, argument))
        if self.failure is not None:
            self._reap()

    def join(self, timeout: float) -> None:
        """Wait for the end of the thread, unless this is that thread."""
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def _reap(self) -> None:
        with self._reaping:
            tasks = self._mailbox.drain()
        for function, argument in tasks:
            function(argument)

    # The thread itself.

    def guarded(self, function: Callable[..., None]) -> Callable[..., None]:
        """Return `function` as a callback for pika, whose exceptions end the thread loudly."""

        def call(*arguments: Any) -> None:
            try:
                function(*arguments)
            except BaseException as error:  # noqa: BLE001 - whatever it is, it must not vanish in pika's loop
                self._crash(error)

        return call

    def call_later(self, delay: float, function: Callable[[], None]) -> Any:
        """Call `function` in `delay` seconds; the result cancels it through `cancel`."""
        return self.loop.call_later(delay, self.guarded(function))

    def cancel(self, timer: Any) -> None:
        """Cancel a timer that did not fire yet."""
        self.loop.remove_timeout(timer)

    def end(self) -> None:
        """Answer later work with `Closed`; what pika raises from now on is no crash."""
        self.failure = self.failure or Closed("the connection to RabbitMQ is closed")

    def stop(self) -> None:
        """End the thread as it was asked for."""
        self.end()
        self.loop.stop()

    def _drain(self) -> None:
        for function, argument in self._mailbox.drain():
            try:
                function(argument)
            except BaseException as error:  # noqa: BLE001 - the tasks behind it must still be answered
                self._crash(error)

    def _crash(self, error: BaseException) -> None:
        if self.failure is None:
            log.critical("the I/O thread of RabbitMQ ends after an unexpected exception", exc_info=error)
            self.failure = ConnectionLost(f"the I/O thread ended unexpectedly: {type(error).__name__}: {error}")
            self.failure.__cause__ = error
        self.loop.stop()

    def _run(self) -> None:
        try:
            self.loop.start()
        except BaseException as error:  # noqa: BLE001 - pika's own faults end in the same way as ours
            self._crash(error)
        failure = self.failure = self.failure or ConnectionLost("the I/O loop of pika ended without a reason")
        for hook in self.at_end:
            try:
                hook(failure)
            except Exception:
                log.exception("cleaning up after the I/O thread failed")
        # Dropped connections close their sockets in callbacks of the loop, one each.
        for _ in self.at_end:
            try:
                self.loop.process_timeouts()
            except Exception:
                log.debug("dropping a connection failed", exc_info=True)
        self.loop.close()
        self._reap()
