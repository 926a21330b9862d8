"""When a poller pauses: for a stream, so that its messages share requests, and never for a backlog."""

import random

import pytest
from unimq_sqs._pacing import PAUSES_IN_A_ROW, Idleness, Pace

WINDOW = 0.06


def requests_for(rate: float, *, round_trip: float, window: float, seconds: float = 600.0) -> tuple[int, int]:
    """Return requests and messages of one poller of a queue that messages enter one by one, at random."""
    source = random.Random(1)
    pace = Pace(window)
    now, waiting, requests, received = 0.0, 0, 0, 0
    arrival = source.expovariate(rate)
    while now < seconds:
        requests += 1
        now += round_trip
        while arrival <= now or not waiting:
            # A long poll waits for the first.
            now = max(now, arrival)
            waiting += 1
            arrival += source.expovariate(rate)
        count = min(10, waiting)
        waiting -= count
        received += count
        now += pace.pause_after(count, 10)
    return requests, received


@pytest.mark.parametrize(("rate", "most"), [(5, 1.0), (50, 0.35), (100, 0.22), (200, 0.17), (1000, 0.13)])
def test_a_stream_shares_requests(rate: float, most: float) -> None:
    requests, messages = requests_for(rate, round_trip=0.005, window=WINDOW)
    assert messages > 0.9 * rate * 600
    assert requests / messages <= most
    without, messages = requests_for(rate, round_trip=0.005, window=0.0)
    assert requests <= without


def test_the_first_message_after_a_quiet_time_is_waited_for_by_a_poll() -> None:
    pace = Pace(WINDOW)
    assert pace.pause_after(1, 10) == WINDOW
    assert pace.pause_after(0, 10) == 0.0, "an empty answer took a whole long poll already"


def test_full_answers_are_followed_at_once() -> None:
    pace = Pace(WINDOW)
    assert [pace.pause_after(asked, asked) for asked in (10, 1, 10, 3)] == [0.0] * 4


def test_a_backlog_of_which_sqs_gives_parts_is_not_held_up() -> None:
    """SQS may answer with less than it has; who pauses after each of these is slow for ever."""
    pace = Pace(WINDOW)
    pauses = [pace.pause_after(4, 10) for _ in range(100)]
    assert pauses == [0.0] * 100
    # A trickle before it makes no difference for long.
    pace = Pace(WINDOW)
    trickle = [pace.pause_after(1, 10) for _ in range(20)]
    assert sum(trickle) > 0
    pauses = [pace.pause_after(4, 10) for _ in range(100)]
    assert sum(pause > 0 for pause in pauses) <= PAUSES_IN_A_ROW + 1
    assert pauses[-50:] == [0.0] * 50


def test_a_consumer_is_idle_a_minute_after_the_last_message() -> None:
    idleness = Idleness(1000.0)
    assert not idleness.is_idle(1059.9)
    assert idleness.is_idle(1060.0)
    idleness.note(1100.0)
    assert not idleness.is_idle(1159.9)
    assert idleness.is_idle(1160.0)
