"""What exists at SQS and SNS under the names that programs use."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from unimq import AuthError, ConfigError, ConnectionLost, NotFound, Queue, Topic
from unimq_sqs._batching import pause_before
from unimq_sqs._errors import NATIVE_ERRORS, code_of, translate

if TYPE_CHECKING:
    from types_boto3_sns import SNSClient
    from types_boto3_sqs import SQSClient

R = TypeVar("R")

FIFO = ".fifo"
"""At the end of the name, and nowhere else, of every queue and topic that keeps an order."""
LONGEST_NAME = 80


class FoundQueue(NamedTuple):
    """A queue of SQS."""

    name: str
    """Of SQS, with the suffix."""
    url: str

    @property
    def is_fifo(self) -> bool:
        """Tell whether it keeps an order."""
        return self.name.endswith(FIFO)


class FoundTopic(NamedTuple):
    """A topic of SNS."""

    arn: str

    @property
    def is_fifo(self) -> bool:
        """Tell whether it keeps an order."""
        return self.arn.endswith(FIFO)


def name_at_aws(destination: Queue | Topic, *, other: bool = False) -> str:
    """Return the name at AWS; with `other` the one that it would have with the other ordering.

    A suffix that is in the name already, which is not portable then, moves to its end: derived names have it inside.

    Raises:
        ConfigError: the suffix says that it keeps an order, and the policy that it does not.

    """
    keeps_order = destination.ordering == "key"
    if FIFO in destination.name and not keeps_order:
        raise ConfigError(f'{destination.name!r}: names with {FIFO!r} are those of FIFO queues: declare ordering="key"')
    return destination.name.replace(FIFO, "") + FIFO * (keeps_order is not other)


class Directory:
    """Looks up and remembers addresses. A dict operation is atomic, so there is no lock.

    A portable name stands for whatever exists under it. So what is not there with the ordering that was asked for is
    looked for with the other one: else a program that only knows the name would find nothing, and make a second queue.
    """

    def __init__(self, sqs: "SQSClient", sns: "SNSClient") -> None:
        self._sqs = sqs
        self._sns = sns
        self._queues: dict[str, FoundQueue] = {}
        self._topics: dict[str, FoundTopic] = {}

    def do(self, doing: str, timeout: float, call: Callable[[], R]) -> R:
        """Make one call; repeat it within the timeout as long as another attempt can help."""
        deadline = time.monotonic() + timeout
        attempt = 0
        while True:
            try:
                return call()
            except NATIVE_ERRORS as error:
                problem = translate(error, doing)
                waits = isinstance(problem, ConnectionLost) or code_of(error) == "QueueDeletedRecently"
                attempt += 1
                pause = pause_before(attempt)
                if not waits or time.monotonic() + pause >= deadline:
                    raise problem from error
                time.sleep(pause)

    def find_queue(self, queue: Queue, timeout: float) -> FoundQueue | None:
        """Return the queue of this name, whatever its ordering, or `None`."""
        name, other = name_at_aws(queue), name_at_aws(queue, other=True)
        found = self._queues.get(name) or self._queues.get(other) or self._look_up(name, timeout)
        if found is None and len(other) <= LONGEST_NAME:
            try:
                found = self._look_up(other, timeout)
            except AuthError:
                # Somebody else's, or none: permissions need to cover only what is declared.
                return None
        return found

    def _look_up(self, name: str, timeout: float) -> FoundQueue | None:
        try:
            url = self.do(
                f"looking up queue {name!r}", timeout, lambda: self._sqs.get_queue_url(QueueName=name)["QueueUrl"]
            )
        except NotFound:
            return None
        found = self._queues[name] = FoundQueue(name, url)
        return found

    def queue(self, queue: Queue, timeout: float) -> FoundQueue:
        """Return the queue of this name, or raise `NotFound`."""
        found = self.find_queue(queue, timeout)
        if found is None:
            raise NotFound(f"queue {queue.name!r} does not exist; declare it first")
        return found

    def find_topic(self, topic: Topic, timeout: float) -> FoundTopic | None:
        """Return the topic of this name, whatever its ordering, or `None`.

        SNS has no look-up by name without the account's number but listing.
        """
        names = name_at_aws(topic), name_at_aws(topic, other=True)
        for name in names:
            if name in self._topics:
                return self._topics[name]

        def search() -> FoundTopic | None:
            other = None
            for page in self._sns.get_paginator("list_topics").paginate():
                for entry in page["Topics"]:
                    arn = entry.get("TopicArn", "")
                    name = arn.rpartition(":")[2]
                    if name == names[0]:
                        return FoundTopic(arn)
                    if name == names[1]:
                        other = FoundTopic(arn)
            return other

        found = self.do(f"looking up topic {topic.name!r}", timeout, search)
        if found is not None:
            self.remember_topic(found)
        return found

    def topic(self, topic: Topic, timeout: float) -> FoundTopic:
        """Return the topic of this name, or raise `NotFound`."""
        found = self.find_topic(topic, timeout)
        if found is None:
            raise NotFound(f"topic {topic.name!r} does not exist; declare it first")
        return found

    def remember_queue(self, found: FoundQueue) -> None:
        """Remember a queue that was created."""
        self._queues[found.name] = found

    def remember_topic(self, found: FoundTopic) -> None:
        """Remember a topic that was created."""
        self._topics[found.arn.rpartition(":")[2]] = found

    def forget(self, destination: Queue | Topic) -> None:
        """Forget what may have been deleted by another program."""
        known = self._topics if isinstance(destination, Topic) else self._queues
        for other in (False, True):
            known.pop(name_at_aws(destination, other=other), None)
