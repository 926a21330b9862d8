"""The events that show a finding: those of its messages, of the consumers that had it, and the faults around it."""

from collections.abc import Sequence
from dataclasses import replace

from unimq_contract.history.events import (
    Closed,
    Closing,
    Confirmed,
    Crashed,
    Delivered,
    Depth,
    Down,
    Event,
    Lapsed,
    Opened,
    Redriven,
    Revoked,
    Subscribed,
    Topic,
    Unconfirmed,
    Up,
)
from unimq_contract.history.verdict import QUOTED_EVENTS, Finding


def with_stories(findings: list[Finding], events: Sequence[Event]) -> list[Finding]:
    """Return the findings with their stories, from one more pass over the events if there are findings at all."""
    stories: dict[str, list[Event]] = {
        name: [] for finding in findings for name in (finding.message, finding.other) if name
    }
    if not stories:
        return findings
    numbers: dict[str, dict[int, str]] = {}
    for event in events:
        if isinstance(event, Down | Up):
            for story in stories.values():
                story.append(event)
        elif isinstance(event, Confirmed | Unconfirmed):
            held = numbers.get(event.consumer, {})
            for name in {held[number] for number in event.numbers if number in held}:
                mine = [number for number in event.numbers if held.get(number) == name]
                stories[name].append(type(event)(event.at, event.consumer, mine))
        elif isinstance(event, Closing | Closed | Crashed | Revoked | Lapsed):
            for name in set(numbers.get(event.consumer, {}).values()):
                stories[name].append(event)
        elif not isinstance(event, Subscribed | Topic | Redriven | Opened | Depth) and event.message in stories:
            if isinstance(event, Delivered):
                numbers.setdefault(event.consumer, {})[event.number] = event.message
            stories[event.message].append(event)
    return [
        replace(finding, story=_around(_told(stories, finding), finding.at)) if finding.message else finding
        for finding in findings
    ]


def _told(stories: dict[str, list[Event]], finding: Finding) -> list[Event]:
    if not finding.other:
        return stories[finding.message]
    both = [*stories[finding.message], *stories[finding.other]]
    # What concerns both is there twice.
    return sorted({id(event): event for event in both}.values(), key=lambda event: event.at)


def _around(story: list[Event], at: int) -> tuple[Event, ...]:
    """Return at most `QUOTED_EVENTS` events: the first of the story, and those around a time."""
    if len(story) <= QUOTED_EVENTS:
        return tuple(story)
    middle = next((place for place, event in enumerate(story) if event.at >= at), len(story))
    begin = max(1, min(middle - QUOTED_EVENTS // 2, len(story) - QUOTED_EVENTS + 1))
    return (story[0], *story[begin : begin + QUOTED_EVENTS - 1])
