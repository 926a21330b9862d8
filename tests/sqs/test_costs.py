"""The estimate of requests against what the sender decides under the same load, on a clock of the test's own."""

import math
import random

import pytest
from unimq_sqs import SQSAdapter, SQSOptions, _batching
from unimq_sqs._batching import Batcher
from unimq_sqs._counting import RECEIVE
from unimq_sqs._estimate import DELETE, SEND, billed_requests

from unimq import ConfigError
from unimq.adapter import EstimatingAdapter, Load

OPTIONS = SQSOptions()
WINDOW = OPTIONS.collect_ms / 1000
MESSAGES = 20_000


def arrivals(rate: float) -> list[float]:
    source = random.Random(7)
    found: list[float] = []
    now = 0.0
    for _ in range(MESSAGES):
        now += source.expovariate(rate)
        found.append(now)
    return found


class Clock:
    """Stands for the module `time`."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def sends_for(rate: float, monkeypatch: pytest.MonkeyPatch) -> float:
    """Return the requests per enqueued message that the sender makes."""
    clock = Clock()
    monkeypatch.setattr(_batching, "time", clock)
    batcher: Batcher[float] = Batcher(
        "test",
        lambda _: None,
        lambda _, __: None,
        threads=0,
        linger=0.01,
        eager=True,
        window=WINDOW,
        is_patient=lambda _: True,
    )
    requests = 0

    def send_until(moment: float) -> None:
        nonlocal requests
        while batcher._waiting and clock.now + (due := max(0.0, batcher._due_in())) <= moment:
            clock.now += due
            requests += bool(batcher._take())
        clock.now = moment

    for moment in arrivals(rate):
        send_until(moment)
        batcher.add([moment])
        send_until(moment)
    return requests / MESSAGES


@pytest.mark.parametrize("rate", [1, 5, 20, 50, 100, 200, 1000])
def test_the_estimate_of_sends_is_near_what_the_sender_does(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    each = billed_requests(OPTIONS, Load(rate, 100))[SEND] / rate
    done = sends_for(rate, monkeypatch)
    assert done * 0.9 <= each <= done * 1.25, f"{each:.3f} estimated, {done:.3f} done"


@pytest.mark.parametrize(
    ("rate", "least", "most"), [(1, 0.9, 1.1), (20, 0.4, 0.7), (100, 0.12, 0.2), (200, 0.1, 0.2), (5000, 0.1, 0.1)]
)
def test_the_estimate_of_receives(rate: float, least: float, most: float) -> None:
    assert least <= billed_requests(OPTIONS, Load(rate, 100))[RECEIVE] / rate <= most


@pytest.mark.parametrize(
    ("load", "most"),
    [
        # The bars: under load; at 100 messages a second; idle.
        (Load(5000, 100), 0.31 * 5000),
        (Load(100, 100), 0.5 * 100),
        (Load(0, 100), 1 / 20),
    ],
)
def test_the_bars(load: Load, most: float) -> None:
    assert sum(billed_requests(OPTIONS, load).values()) <= most + 1e-9


def test_what_a_load_changes() -> None:
    def each(load: Load, options: SQSOptions = OPTIONS) -> dict[str, float]:
        return {action: round(billed / load.rate, 3) for action, billed in billed_requests(options, load).items()}

    usual = each(Load(1000, 100))
    assert usual == {SEND: 0.1, RECEIVE: 0.1, DELETE: 0.1}
    assert each(Load(1000, 100, is_awaited=True))[SEND] == 1.0
    # 64 KiB are one request; four of 16 000 bytes fit, and ten of them are received in three chunks.
    assert each(Load(1000, 16_000)) == {SEND: 0.25, RECEIVE: 0.3, DELETE: 0.1}
    # One alone of 100 KB has two chunks, and sixteen are in ten.
    assert each(Load(1000, 100_000)) == {SEND: 2.0, RECEIVE: 1.6, DELETE: 0.1}
    shared = each(Load(1000, 100, producers=100, consumers=100))
    assert all(shared[action] > usual[action] for action in usual)
    assert each(Load(100, 100), SQSOptions(collect_ms=0))[SEND] == 1.0
    ordered = each(Load(100, 100, is_ordered=True))
    assert (ordered[SEND], ordered[DELETE]) == (1.0, 0.5)


def test_idle_polls_are_counted_and_get_fewer_with_the_rate() -> None:
    def polls(rate: float, consumers: int = 1) -> float:
        load = Load(rate, 100, consumers=consumers)
        return billed_requests(OPTIONS, load)[RECEIVE] - (rate if rate < 1 else 0.0)

    assert polls(0) == 1 / 20
    assert polls(0, consumers=7) == pytest.approx(7 / 20)
    # Nearly never anything: nearly the idle polls. Often something: hardly any.
    assert polls(1e-6) == pytest.approx(1 / 20, rel=0.01)
    assert polls(0.02) < 1 / 5
    assert polls(0.9) < 0.02
    assert all(math.isfinite(polls(10**exponent)) for exponent in range(-12, 7))


def test_what_sqs_does_not_take_is_no_load() -> None:
    with pytest.raises(ConfigError, match="1048576 bytes"):
        billed_requests(OPTIONS, Load(1, 1024 * 1024))
    assert isinstance(SQSAdapter(), EstimatingAdapter)


@pytest.mark.parametrize(
    ("load", "problem"),
    [
        (Load(-1, 1), "at least 0 messages per second, not -1"),
        (Load(math.nan, 1), "not nan"),
        (Load(math.inf, 1), "not inf"),
        (Load(1, 0), "at least 1 byte, not 0"),
        (Load(1, 1, producers=0), "at least one of producers"),
        (Load(1, 1, consumers=-3), "at least one of consumers, not -3"),
    ],
)
def test_what_makes_no_sense_is_refused(load: Load, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load.checked()
