"""What is declared and done for which version of the broker; that it is true shows the suite on each of them."""

import pytest
from unimq_rabbitmq import _driver, _wire

LIMITS = _wire.Limits(10**6, 10**5)


@pytest.mark.parametrize(
    ("version", "closes_count", "returns_to_head", "takes_lanes_over"),
    [
        ("3.10.8", True, False, False),
        ("4.0.5", True, False, True),
        # Assumed where there is no broker to ask.
        ("4", True, False, False),
        # Not tried; a copy at the tail is right wherever a rejected message would go.
        ("4.1.0", True, True, False),
        ("4.3.6", False, True, False),
        ("4.3.0-rc.1", False, True, False),
        ("10.0.0", False, True, False),
        ("", False, True, False),
    ],
)
def test_versions(version: str, closes_count: bool, returns_to_head: bool, takes_lanes_over: bool) -> None:
    found = _driver._capabilities(version, LIMITS)
    assert found.broker_version == version
    assert found.shutdown_counts is closes_count
    assert found.attempts_exact
    assert found.ordered_attempts
    assert found.ordering_key
    assert _driver._returns_to_head(version) is returns_to_head
    assert _driver._gives_way(version) is takes_lanes_over
