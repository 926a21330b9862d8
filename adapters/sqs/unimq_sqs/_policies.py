"""A queue's policies as a tag of the SQS queue, so that every program that opens it finds the ones in force."""

from dataclasses import replace
from typing import Any, Literal

from unimq import DeclarationConflict, Queue, Subscription
from unimq.adapter import queue_of

TAG = "unimq"
_DURATIONS = ("ttl", "lease")
_FLAGS = ("dead_letter", "dead_letter_expired")
_COUNTS = ("max_deliveries",)
_IN_TAG = (*_DURATIONS, *_COUNTS, *_FLAGS)


def to_tag(queue: Queue) -> str:
    """Return the policies that differ from the default, in the characters and within the length that a tag may have."""
    # Not portable, or else the name would have to leave room for dead letters that the queue may not have.
    default = Queue(queue.name, portable_name=False)
    words = [
        f"{name}={str(value).lower() if name in _FLAGS else value}"
        for name in _IN_TAG
        if (value := getattr(queue, name)) != getattr(default, name)
    ]
    return " ".join(words) or "default"


def from_tag(tag: str) -> dict[str, Any]:
    """Return the policies of a tag; words of later versions are ignored."""
    policies: dict[str, Any] = {}
    for word in tag.split():
        name, _, value = word.partition("=")
        if name in _DURATIONS:
            policies[name] = float(value)
        elif name in _FLAGS:
            policies[name] = value == "true"
        elif name in _COUNTS:
            policies[name] = int(value)
    return policies


def in_force(declared: Queue | Subscription, tag: str | None, *, is_fifo: bool, as_is: bool) -> Queue | Subscription:
    """Return the existing destination with its policies; without a tag another program made it, and any are as good.

    The ordering is not in the tag: it is the kind of the queue.

    Raises:
        DeclarationConflict: it was declared with other policies.

    """
    ordering: Literal["none", "key"] = "key" if is_fifo else "none"
    wanted = queue_of(declared)
    if tag is None and wanted.ordering == ordering:
        return declared
    policies = from_tag(tag) if tag is not None else {name: getattr(wanted, name) for name in _IN_TAG}
    there: Queue | Subscription
    if isinstance(declared, Subscription):
        topic = replace(declared.topic, ordering=ordering)
        there = topic.subscription(declared.name, start=declared.start, **policies)
    else:
        there = Queue(wanted.name, ordering=ordering, portable_name=wanted.portable_name, **policies)
    differences = queue_of(there).differences(wanted)
    if differences and not as_is:
        listed = ", ".join(f"{policy} is {here!r}, not {given!r}" for policy, (here, given) in differences.items())
        raise DeclarationConflict(f"queue {wanted.name!r} exists: {listed}")
    return there
