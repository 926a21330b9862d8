"""How delayed messages wait: in a topic of delays, whose partitions are tiers of waiting times.

A partition is read in the order in which it was written, so that messages of very different delays must not share one:
the short ones would wait for the long ones. Hence a message waits in the tier with the longest time that is not longer
than what is left of its delay. When that time is over it is as good as first in its partition; then it waits for the
rest where its forwarder sees fit, in memory or in a lower tier.
"""

SHORTEST = 1.0
"""Seconds of the first tier that waits; below it, messages are read at once, and wait in memory."""
_FACTOR = 4
TIERS = 12
"""Partitions of a new topic of delays: up to 12 days in one tier."""
LONGEST = 30 * 86400.0
"""Seconds of the longest delay."""


def delay_topic(topic: str) -> str:
    """Return the name of the topic of delays of a topic, and of the group of its forwarders."""
    return f"{topic}.unimq-delay"


def waiting_time(partition: int) -> float:
    """Return the seconds that messages of a tier wait in it; none in partitions that somebody added."""
    return SHORTEST * _FACTOR ** (partition - 1) if 0 < partition < TIERS else 0.0


def tier_for(left: float, partitions: int) -> int:
    """Return the partition, of so many, for a message with so many seconds left of its delay."""
    tier = 0
    while tier + 1 < min(partitions, TIERS) and waiting_time(tier + 1) <= left:
        tier += 1
    return tier
