"""SIGTERM and SIGINT while a worker runs: the first lets it drain, the second ends it at once."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class DrainOver(BaseException):
    """Raised in a handler that runs in the main thread when the time to drain is over."""


@contextmanager
def watched(
    stop: Callable[[], None], overdue: Callable[[], bool | None], wake: Callable[[], None]
) -> Generator[bool, None, None]:
    """Call `stop` at the first signal; raise `KeyboardInterrupt` or `SystemExit` in the main thread at the second.

    Yields whether signals are watched: they can be in the main thread only.

    Args:
        stop: takes no lock but a reentrant one, as the main thread may hold it.
        overdue: `None`: the signal is somebody's. Else the worker sent it to itself, as the time to drain is over:
            true interrupts the handler in the main thread by `DrainOver`.
        wake: wakes the main thread wherever the worker may have it wait.

    """
    if threading.current_thread() is not threading.main_thread():
        yield False
        return
    is_second = False

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal is_second
        is_overdue = overdue()
        if is_overdue:
            raise DrainOver
        if is_overdue is not None:
            return
        if is_second:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        is_second = True
        stop()

    with _waking(wake):
        before = {number: signal.signal(number, handle) for number in _SIGNALS}
        try:
            yield True
        finally:
            for number, previous in before.items():
                # `None` stands for a handler that was not set from Python, which cannot be restored.
                signal.signal(number, signal.SIG_DFL if previous is None else previous)


@contextmanager
def _waking(wake: Callable[[], None]) -> Generator[None, None, None]:
    """Call `wake` at each signal, from a thread of its own.

    Python runs a signal's handler in the main thread once that executes Python code again. A signal that comes after
    the last look for one and before the wait for a lock, or that the kernel gives to another thread, does not end
    that wait: without a wake-up its handler would run when something else happens, or never.
    """
    reading, writing = socket.socketpair()
    writing.settimeout(0.0)
    previous = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        while received := reading.recv(64):
            if previous != -1:
                # Of an event loop, say, that has signal handlers of its own.
                with suppress(OSError):
                    os.write(previous, received)
            wake()

    watching = threading.Thread(target=watch, name="unimq-worker-signals", daemon=True)
    watching.start()
    try:
        yield
    finally:
        replaced = signal.set_wakeup_fd(previous, warn_on_full_buffer=False)
        if replaced != writing.fileno():
            # Somebody asked for signals meanwhile, and still wants them.
            signal.set_wakeup_fd(replaced)
        writing.close()
        watching.join()
        reading.close()
