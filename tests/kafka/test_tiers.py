"""Which partition of a topic of delays a message waits in."""

import pytest
from unimq_kafka._tiers import LONGEST, TIERS, delay_topic, tier_for, waiting_time


def test_no_tier_waits_longer_than_what_is_left() -> None:
    for left in (0.0, 0.999, 1.0, 3.9, 4.0, 60.0, 3600.0, 86400.0, LONGEST):
        tier = tier_for(left, TIERS)
        assert waiting_time(tier) <= left
        assert tier == TIERS - 1 or waiting_time(tier + 1) > left


def test_what_is_overdue_or_short_is_read_at_once() -> None:
    assert tier_for(-5.0, TIERS) == tier_for(0.5, TIERS) == 0
    assert waiting_time(0) == 0.0


@pytest.mark.parametrize("partitions", [1, 3, TIERS, TIERS + 5])
def test_a_topic_that_somebody_made_with_other_partitions_is_used_as_it_is(partitions: int) -> None:
    assert 0 <= tier_for(LONGEST, partitions) < min(partitions, TIERS)
    assert waiting_time(TIERS) == waiting_time(TIERS + 4) == 0.0


def test_no_portable_name_gives_the_name_of_a_topic_of_delays() -> None:
    assert delay_topic("orders") == "orders.unimq-delay"
