"""One private in-memory broker per test, and signals that come at the wrong moment."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import unimq


@pytest.fixture
def broker() -> Iterator[unimq.Broker]:
    with unimq.connect("memory://?private=true") as opened:
        yield opened


@pytest.fixture
def signal_from_another_thread() -> Callable[[str], threading.Thread]:
    """Return what sends SIGTERM to a thread that is not the main one, once that waits in the given function.

    So it is with a signal that comes just before the main thread waits: no system call of that is interrupted.
    """
    main = threading.main_thread().ident
    assert main is not None

    def send_signal(waits_in: str) -> None:
        deadline = time.monotonic() + 10
        while sys._current_frames()[main].f_code.co_name != waits_in and time.monotonic() < deadline:
            time.sleep(0.005)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    def start(waits_in: str) -> threading.Thread:
        sender = threading.Thread(target=send_signal, args=(waits_in,))
        sender.start()
        return sender

    return start
