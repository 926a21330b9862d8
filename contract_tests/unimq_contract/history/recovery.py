"""How long the faults of a run were felt: figures for people, judged by nobody."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from unimq_contract.history.events import Delivered, Down, Event, Up

_SECOND = 1_000_000_000
_AFTERMATH = 10 * _SECOND
"""Nanoseconds after the end of a fault in which a pause still counts as its consequence."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What one fault did to the deliveries; times are seconds."""

    what: str
    lasted: float
    longest_pause: float
    """The longest time without a delivery from its start on."""
    first_delivery: float | None
    """From its end to the next delivery; `None` if there was none."""

    def __str__(self) -> str:
        first = "none" if self.first_delivery is None else f"{self.first_delivery:.2f} s"
        return (
            f"{self.what} for {self.lasted:.2f} s: longest pause {self.longest_pause:.2f} s, first delivery {first} "
            "after its end"
        )


def recoveries(events: Sequence[Event]) -> list[Recovery]:
    """Return what each fault of a history did, in the order of their beginnings."""
    ordered = sorted(events, key=lambda event: event.at)
    deliveries = [event.at for event in ordered if isinstance(event, Delivered)]
    found: list[Recovery] = []
    for down in ordered:
        if not isinstance(down, Down):
            continue
        up = next(
            (
                event.at
                for event in ordered
                if isinstance(event, Up) and event.what == down.what and event.at >= down.at
            ),
            ordered[-1].at,
        )
        near = [down.at, *(at for at in deliveries if down.at <= at <= up + _AFTERMATH)]
        longest = max((later - sooner for sooner, later in pairwise(near)), default=0)
        first = next((at for at in deliveries if at >= up), None)
        found.append(
            Recovery(
                down.what,
                (up - down.at) / _SECOND,
                longest / _SECOND,
                None if first is None else (first - up) / _SECOND,
            )
        )
    return found
