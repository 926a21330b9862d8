"""Which features of a backend the policies of a destination need: asked before any I/O, on a connection or without."""

from collections.abc import Iterator

from unimq._capabilities import Capabilities
from unimq._destinations import Queue, Subscription, Topic, queue_of


def demands(destination: Queue | Topic | Subscription) -> Iterator[tuple[str, str]]:
    """Yield each policy that not every backend has, with the field of `Capabilities` that it needs."""
    if isinstance(destination, Topic | Subscription):
        yield "topic", "topics"
        topic = destination if isinstance(destination, Topic) else destination.topic
        if topic.require_subscription:
            yield "require_subscription", "require_subscription"
    if isinstance(destination, Subscription) and destination.start == "earliest":
        yield "start", "start_earliest"
    if destination.ordering == "key" if isinstance(destination, Topic) else queue_of(destination).ordering == "key":
        yield "ordering", "ordering_key"
    if isinstance(destination, Topic):
        return
    queue = queue_of(destination)
    if queue.ttl is not None:
        yield "ttl", "ttl"
    if queue.lease is not None:
        yield "lease", "lease"
    if queue.max_length is not None:
        yield "max_length", "max_length" if queue.overflow == "reject" else "drop_oldest"
    if queue.dead_letter:
        yield "dead_letter", "dead_letter"


def require(capabilities: Capabilities, feature: str, destination: Queue | Topic | Subscription) -> None:
    """Raise `Unsupported` unless the backend has the feature, within the limit that the destination asks for."""
    capabilities.require(feature)
    if feature == "lease" and not isinstance(destination, Topic):
        capabilities.require_at_most("max_lease", "lease", queue_of(destination).lease_seconds or 0.0)
