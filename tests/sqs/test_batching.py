"""Batches: who goes when, and what becomes of every entry of a request."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from unimq_sqs import _batching
from unimq_sqs._batching import LARGEST_BATCH, Batcher, run_batch
from unimq_sqs._settlements import Settlements

import unimq
from unimq import UnimqError

Answer = Mapping[str, Any] | Exception


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "m"}}, "Op")


UNREACHABLE = EndpointConnectionError(endpoint_url="http://127.0.0.1:1/")


def entry_failed(number: int, *, sender_fault: bool) -> dict[str, Any]:
    return {"Id": str(number), "SenderFault": sender_fault, "Code": "InternalError", "Message": "m"}


class Request:
    """Answers as the script says, then with success; notes what was reported."""

    doing = "doing"
    default_error: type[UnimqError] = unimq.SendRejected

    def __init__(self, *script: Answer, timeout: float = 10.0) -> None:
        self.script = list(script)
        self.calls: list[list[Any]] = []
        self.reported: list[tuple[str, str, UnimqError | None]] = []
        self.until = time.monotonic() + timeout

    def call(self, entries: list[Any]) -> Mapping[str, Any]:
        self.calls.append([entry["Value"] for entry in entries])
        assert [entry["Id"] for entry in entries] == [str(number) for number in range(len(entries))]
        answer: Answer = (
            self.script.pop(0) if self.script else {"Successful": [{"Id": entry["Id"]} for entry in entries]}
        )
        if isinstance(answer, Exception):
            raise answer
        return answer

    def entry(self, item: str) -> Mapping[str, Any]:
        return {"Value": item}

    def deadline(self, item: str) -> float:
        return 0.0 if item == "late" else self.until

    def succeeded(self, results: list[tuple[str, Mapping[str, Any]]], started: float) -> None:
        self.reported += [("stored", item, None) for item, _ in results]

    def refused(self, items: list[str], error: UnimqError) -> None:
        self.reported += [("refused", item, error) for item in items]

    def expired(self, items: list[str], cause: UnimqError | None) -> None:
        self.reported += [("unknown", item, cause) for item in items]

    @property
    def fates(self) -> dict[str, str]:
        assert len({item for _, item, _ in self.reported}) == len(self.reported), "an entry was reported twice"
        return {item: fate for fate, item, _ in self.reported}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    def pause_before(attempt: int) -> float:
        return 0.001

    monkeypatch.setattr(_batching, "pause_before", pause_before)


def run(request: Request, *items: str) -> Request:
    run_batch(request, list(items), threading.Event())
    return request


def test_each_entry_has_its_own_outcome() -> None:
    failed = [entry_failed(1, sender_fault=True), entry_failed(2, sender_fault=False)]
    answer = {"Successful": [{"Id": "0"}, {"Id": "3"}], "Failed": failed}
    request = run(Request(answer), "a", "b", "c", "d")
    assert request.fates == {"a": "stored", "b": "refused", "c": "stored", "d": "stored"}
    assert request.calls == [["a", "b", "c", "d"], ["c"]]


def test_an_entry_without_a_result_is_tried_again() -> None:
    request = run(Request({"Successful": [{"Id": "1"}]}), "a", "b")
    assert request.fates == {"a": "stored", "b": "stored"}
    assert request.calls == [["a", "b"], ["a"]]


@pytest.mark.parametrize("error", [UNREACHABLE, refused("RequestThrottled"), refused("InternalError")])
def test_what_another_attempt_can_help_is_tried_again(error: Exception) -> None:
    request = run(Request(error, error), "a", "b")
    assert request.fates == {"a": "stored", "b": "stored"}
    assert request.calls == [["a", "b"]] * 3


def test_one_bad_entry_that_fails_the_whole_request_spares_the_others() -> None:
    bad = refused("InvalidParameterValue")
    ok = {"Successful": [{"Id": "0"}]}
    request = run(Request(bad, ok, bad, ok), "a", "b", "c")
    assert request.fates == {"a": "stored", "b": "refused", "c": "stored"}


@pytest.mark.parametrize("code", ["InvalidClientTokenId", "QueueDoesNotExist"])
def test_what_concerns_all_is_not_tried_again(code: str) -> None:
    request = run(Request(refused(code)), "a", "b")
    assert request.fates == {"a": "refused", "b": "refused"}
    assert len(request.calls) == 1


def test_a_refusal_after_an_unseen_attempt_is_no_proof_that_nothing_is_stored() -> None:
    request = run(Request(UNREACHABLE, refused("QueueDoesNotExist")), "a")
    assert request.fates == {"a": "unknown"}
    assert isinstance(request.reported[0][2], unimq.NotFound)


def test_the_deadline_ends_the_attempts() -> None:
    request = run(Request(*[UNREACHABLE] * 10_000, timeout=0.05), "a", "late")
    assert request.fates == {"a": "unknown", "late": "unknown"}
    assert all("late" not in call for call in request.calls), "it was not sent after its deadline"
    assert isinstance(request.reported[-1][2], unimq.ConnectionLost)


def test_closing_ends_the_attempts() -> None:
    stopping = threading.Event()
    stopping.set()
    request = Request(UNREACHABLE)
    run_batch(request, ["a"], stopping)
    assert request.fates == {"a": "unknown"}


# Batcher.


class Recorder:
    """Processes batches when told to."""

    def __init__(
        self,
        *,
        threads: int = 1,
        linger: float = 30.0,
        eager: bool = True,
        size: Callable[[int], int] | None = None,
    ) -> None:
        self.batches: list[list[int]] = []
        self.crashes: list[list[int]] = []
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.batcher = Batcher(
            "test", self._process, self._crashed, threads=threads, linger=linger, eager=eager, size=size
        )

    def _process(self, batch: list[int]) -> None:
        self.batches.append(batch)
        self.begun.release()
        assert self.go.acquire(timeout=10)
        if -1 in batch:
            raise RuntimeError

    def _crashed(self, batch: list[int], error: Exception) -> None:
        self.crashes.append(batch)

    def finish(self, batches: int) -> None:
        for _ in range(batches):
            self.go.release()
        assert self.batcher.close(10) == []


def test_nothing_lingers_while_nothing_is_under_way_and_batches_fill_by_themselves() -> None:
    recorder = Recorder()
    recorder.batcher.add([0])
    assert recorder.begun.acquire(timeout=10)
    for number in range(1, 4):
        recorder.batcher.add([number])
    recorder.finish(2)
    assert recorder.batches == [[0], [1, 2, 3]]


def test_a_full_batch_does_not_wait() -> None:
    recorder = Recorder(eager=False, threads=2)
    recorder.batcher.add(range(2 * LARGEST_BATCH + 1))
    assert recorder.begun.acquire(timeout=10)
    assert recorder.begun.acquire(timeout=10)
    assert [len(batch) for batch in recorder.batches] == [LARGEST_BATCH] * 2
    recorder.finish(3)
    assert sorted(number for batch in recorder.batches for number in batch) == list(range(2 * LARGEST_BATCH + 1))


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Decisions:
    """A batcher without threads, whose decisions are asked for by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, window: float = 1.0) -> None:
        self.clock = Clock()
        monkeypatch.setattr(_batching, "time", self.clock)
        self.batcher: Batcher[int] = Batcher(
            "test",
            lambda _: None,
            lambda _, __: None,
            threads=0,
            linger=0.25,
            eager=True,
            window=window,
            # Negative numbers are those that somebody waits for.
            is_patient=lambda number: number >= 0,
        )

    def add(self, *numbers: int, after: float = 0.0) -> float:
        """Return in how many seconds a batch is due."""
        self.clock.now += after
        self.batcher.add(numbers)
        return self.batcher._due_in()

    def take(self, after: float = 0.0) -> list[int]:
        self.clock.now += after
        return self.batcher._take()


def test_what_nobody_waits_for_collects_after_the_batch_before(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Decisions(monkeypatch)
    assert asked.add(0) <= 0, "the first after a quiet time goes at once"
    assert asked.take() == [0]
    assert asked.add(1, after=0.25) == 0.75
    assert asked.add(2, after=0.5) == 0.25
    assert asked.take(after=0.25) == [1, 2]
    assert asked.add(*range(10), after=0.1) == 0, "a full one does not wait"
    assert asked.take() == list(range(10))
    asked.add(3)
    asked.batcher.hurry()
    assert asked.batcher._due_in() == 0, "a flush hurries"


def test_somebody_who_waits_takes_the_others_along(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Decisions(monkeypatch)
    asked.add(0)
    asked.take()
    assert asked.add(1) == 1.0
    assert asked.add(-1) == 0.0
    assert asked.take() == [1, -1]
    assert asked.add(2) == 1.0, "and leaves no trace"


def test_collecting_in_vain_is_left_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever enqueues may wait for room, so that nothing can join; but that is tried again."""
    asked = Decisions(monkeypatch)
    asked.add(0)
    asked.take()
    assert asked.add(1) == 1.0
    asked.take(after=1.0)
    at_once = 0
    while asked.add(2) <= 0:
        asked.take()
        at_once += 1
    assert at_once == _batching.WITHOUT_WAITING
    # Now one comes late, so that it was not in vain.
    asked.add(3, after=0.75)
    asked.take(after=0.25)
    assert asked.add(4) == 1.0


@pytest.mark.parametrize("hurry", [True, False])
def test_a_partial_batch_goes_when_somebody_hurries_or_after_the_linger(hurry: bool) -> None:
    recorder = Recorder(eager=False, linger=30.0 if hurry else 0.01)
    recorder.batcher.add([1])
    if hurry:
        recorder.batcher.hurry()
    assert recorder.begun.acquire(timeout=10)
    recorder.finish(1)


def test_batches_are_bounded_in_bytes_and_a_large_one_goes_alone() -> None:
    sizes = {0: 40_000, 1: 20_000, 2: 20_000, 3: 900_000, 4: 1}
    recorder = Recorder(eager=False, size=sizes.__getitem__)
    recorder.batcher.add(list(sizes))
    recorder.finish(4)
    assert recorder.batches == [[0, 1], [2], [3], [4]]


def test_a_crash_is_reported_and_the_thread_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    recorder.batcher.add([-1])
    assert recorder.begun.acquire(timeout=10)
    recorder.batcher.add([2])
    recorder.finish(2)
    assert recorder.crashes == [[-1]]
    assert recorder.batches == [[-1], [2]]
    assert "unexpected failure" in caplog.text


def test_close_is_bounded_returns_what_was_not_begun_and_refuses_more() -> None:
    recorder = Recorder()
    recorder.batcher.add([1])
    assert recorder.begun.acquire(timeout=10)
    recorder.batcher.add([2])
    assert recorder.batcher.close(0.05) == [2]
    assert recorder.batcher.stopping.is_set()
    assert not recorder.batcher.add([3])
    recorder.finish(1)
    assert recorder.batches == [[1]]


# Settlements.


def test_a_barrier_waits_for_what_came_before_it_only_and_gets_its_errors_once() -> None:
    settlements = Settlements()
    calls: list[tuple[str, Sequence[UnimqError]]] = []

    def barrier(name: str) -> Callable[[Sequence[UnimqError]], None]:
        return lambda errors: calls.append((name, errors))

    first = settlements.start(2)
    lost = unimq.LeaseLost("x")
    settlements.finish(first, lost)
    settlements.barrier(barrier("one"))
    second = settlements.start(1)
    settlements.barrier(barrier("two"))
    settlements.finish(second)
    assert calls == [], "an earlier settlement is still under way"
    settlements.finish(first)
    assert calls == [("one", [lost]), ("two", [])]
    settlements.barrier(barrier("three"))
    assert calls[2:] == [("three", [])]
    assert settlements.unconfirmed == 0
