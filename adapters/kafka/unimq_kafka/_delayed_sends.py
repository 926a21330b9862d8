"""The delayed messages of one sender: each goes to the tier of its delay, as soon as there is a topic of delays."""

import threading
import time
from collections.abc import Callable
from typing import Protocol

from confluent_kafka import KafkaException

from unimq import UnimqError
from unimq.adapter import Outgoing
from unimq_kafka._producer import Job, SharedProducer
from unimq_kafka._tiers import tier_for

_TOLERANCE = 0.05
"""Seconds by which a message may find itself late for its tier: those of one delay should wait in one order."""

OnPartitions = Callable[[int], None]
OnFailure = Callable[[UnimqError], None]


class Provider(Protocol):
    """Who makes topics of delays."""

    def provide(self, topic: str, deadline: float, found: OnPartitions, failed: OnFailure) -> None:
        """Have the topic of delays of `topic` made if it is missing, without blocking; then call one of the two with
        its number of partitions, or the error that is left at `deadline` of the monotonic clock. From any thread.
        """
        ...


class DelayedSends:
    """Made for every sender; costs nothing until the first message with a delay.

    `_lock` guards `_partitions` and `_waiting`, and keeps the order in which messages are handed over.
    """

    def __init__(
        self,
        producer: SharedProducer,
        topic: str,
        provider: Provider,
        fail: Callable[[Outgoing, UnimqError | KafkaException], None],
    ) -> None:
        self._producer = producer
        self._topic = topic
        self._provider = provider
        self._fail = fail
        self._lock = threading.Lock()
        self._partitions = 0
        """Of the topic of delays; 0 while it is not known."""
        self._waiting: list[tuple[Job, float]] = []
        """What came before that was known, with when it is due; the window of the portable layer bounds it (S5)."""

    def send(self, job: Job, due: float) -> None:
        """Send a message that is due at a Unix time in seconds; its outcome comes to the job's sender.

        Raises:
            KafkaException: the client refused it; no outcome comes.

        """
        with self._lock:
            if self._partitions:
                self._produce(job, due)
                return
            self._waiting.append((job, due))
            is_first = len(self._waiting) == 1
        if is_first:
            self._provider.provide(self._topic, job.entry.deadline, self._found, self._missing)

    def forget(self) -> None:
        """Look for the topic of delays again: it was deleted, together with its queue perhaps, which is there again."""
        with self._lock:
            self._partitions = 0

    def _produce(self, job: Job, due: float) -> None:
        job.partition = tier_for(due - time.time() + _TOLERANCE, self._partitions)
        self._producer.produce(job)

    def _found(self, partitions: int) -> None:
        refused: list[tuple[Job, KafkaException]] = []
        with self._lock:
            self._partitions = partitions
            waiting, self._waiting = self._waiting, []
            for job, due in waiting:
                # What was overdue meanwhile was reported; then it must not be sent any more.
                if job.entry in job.sender.outstanding:
                    try:
                        self._produce(job, due)
                    except KafkaException as error:
                        refused.append((job, error))
        self._producer.wake()
        for job, refusal in refused:
            self._fail(job.entry, refusal)

    def _missing(self, error: UnimqError) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for job, _ in waiting:
            self._fail(job.entry, error)
