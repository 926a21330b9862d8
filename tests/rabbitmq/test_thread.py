"""What happens on and around the I/O thread, without a broker."""

import socket
import threading
import time

import pytest
from unimq_rabbitmq._thread import IOThread

import unimq
from unimq import Closed, ConnectionLost


def _wait_for_end(thread: IOThread) -> None:
    thread.join(5.0)
    assert thread.failure is not None


def _stop(thread: IOThread) -> None:
    thread.stop()


def _raise(_: None) -> None:
    raise ZeroDivisionError


def test_work_of_many_threads_is_done_in_one() -> None:
    thread = IOThread("t")
    seen: list[tuple[int, str]] = []

    def note(item: int) -> None:
        seen.append((item, threading.current_thread().name))

    def write(first: int) -> None:
        for item in range(first, first + 100):
            thread.post(note, item)

    writers = [threading.Thread(target=write, args=(first,)) for first in range(0, 400, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    thread.post(_stop, thread)
    _wait_for_end(thread)
    assert sorted(item for item, _ in seen) == list(range(400))
    assert {name for _, name in seen} == {"t"}


def test_an_exception_ends_the_thread_with_its_reason_and_loses_no_task() -> None:
    thread = IOThread("t")
    told: list[Exception] = []
    answered: list[object] = []
    thread.at_end.append(told.append)
    started, go = threading.Event(), threading.Event()

    def hold(_: None) -> None:
        started.set()
        assert go.wait(5)

    thread.post(hold, None)
    assert started.wait(5)
    # Both are in the mailbox when the first of them raises.
    thread.post(_raise, None)
    thread.post(lambda _: answered.append(thread.failure), None)
    go.set()
    _wait_for_end(thread)
    assert isinstance(thread.failure, ConnectionLost)
    assert isinstance(thread.failure.__cause__, ZeroDivisionError)
    assert told == [thread.failure]
    assert answered == [thread.failure]
    thread.post(answered.append, "after the end")
    assert answered[-1] == "after the end"


def test_an_exception_of_a_callback_ends_the_thread() -> None:
    thread = IOThread("t")
    thread.post(lambda _: thread.call_later(0, lambda: _raise(None)), None)
    _wait_for_end(thread)
    assert thread.failure is not None
    assert isinstance(thread.failure.__cause__, ZeroDivisionError)


def test_an_asked_for_end_is_no_crash() -> None:
    thread = IOThread("t")
    thread.post(_stop, thread)
    _wait_for_end(thread)
    assert isinstance(thread.failure, Closed)


def test_nobody_listens() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        with pytest.raises(unimq.ConnectionLost, match=f"127.0.0.1:{port}") as caught:
            unimq.connect(f"amqp://user:secret@127.0.0.1:{port}/", timeout=5)
    assert "secret" not in f"{caught.value} {caught.value.__cause__}"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("unimq-rabbitmq")]


def test_somebody_listens_and_says_nothing() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        began = time.monotonic()
        with pytest.raises(unimq.ConnectionLost):
            unimq.connect(f"amqp://127.0.0.1:{mute.getsockname()[1]}/", timeout=0.5)
        assert time.monotonic() - began < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("unimq-rabbitmq")]
