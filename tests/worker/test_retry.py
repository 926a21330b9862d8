"""The retry policy: when, how often, and what never."""

from typing import Any, cast

import pytest

import unimq
from unimq import Message, Nack, Reject, Retry


def delivery(attempt: int) -> unimq.Delivery:
    return unimq.Delivery(Message(b""), attempt, None, cast("Any", None))


def test_the_wait_grows_to_the_cap_and_is_jittered_in_full() -> None:
    retry = Retry(base=1.0, factor=2.0, cap=5.0)
    assert [retry.longest_wait(attempt) for attempt in (1, 2, 3, 4, 1000)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    waits = [decision.delay for _ in range(400) if isinstance(decision := retry(delivery(3), ValueError()), Nack)]
    assert len(waits) == 400
    assert all(isinstance(wait, float) and 0 <= wait <= 4 for wait in waits)
    assert min(cast("list[float]", waits)) < 1
    assert max(cast("list[float]", waits)) > 3


def test_base_zero_comes_again_at_once() -> None:
    assert Retry(base=0)(delivery(7), ValueError()) == Nack(0.0)


def test_attempts_and_types_that_never_retry() -> None:
    retry = Retry(attempts=3, never=(LookupError,))
    assert isinstance(retry(delivery(2), ValueError()), Nack)
    assert retry(delivery(3), ValueError()) == Reject("attempts")
    assert retry(delivery(1), KeyError()) == Reject("not_retryable")


@pytest.mark.parametrize(
    ("policy", "word"),
    [
        ({"attempts": 0}, "attempts"),
        ({"base": -1}, "base"),
        ({"cap": float("nan")}, "cap"),
        ({"factor": 0.5}, "factor"),
        ({"factor": True}, "factor"),
        ({"never": ("ValueError",)}, "never"),
    ],
)
def test_a_policy_out_of_range_is_refused(policy: dict[str, Any], word: str) -> None:
    with pytest.raises(unimq.ConfigError, match=word):
        Retry(**policy)
