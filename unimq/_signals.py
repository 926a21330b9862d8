"""SIGTERM and SIGINT while a worker runs: the first lets it drain, the second ends it at once."""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class DrainOver(BaseException):
    """Raised in a handler that runs in the main thread when the time to drain is over."""


@contextmanager
def watched(stop: Callable[[], None], overdue: Callable[[], bool | None]) -> Generator[bool, None, None]:
    """Call `stop` at the first signal; raise `KeyboardInterrupt` or `SystemExit` in the main thread at the second.

    Yields whether signals are watched: they can be in the main thread only.

    Args:
        stop: takes no lock but a reentrant one, as the main thread may hold it.
        overdue: `None`: the signal is somebody's. Else the worker sent it to itself, as the time to drain is over:
            true interrupts the handler in the main thread by `DrainOver`.

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

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield True
    finally:
        for number, previous in before.items():
            # `None` stands for a handler that was not set from Python, which cannot be restored.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
