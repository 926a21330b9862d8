"""One member of a group on one topic: the partitions that it is given, and the commits of what is done in them.

What is done is committed a few times a second, when its owner asks, before a partition is given up, and at the end; the
last two are read back. Everything here belongs to the one thread that owns the client's consumer.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as Record

from unimq import NotFound, UnimqError
from unimq_kafka._errors import describe, is_final, is_missing, native_of, request_error
from unimq_kafka._handles import forget, keep
from unimq_kafka._options import Settings
from unimq_kafka._progress import PartitionProgress, decode_metadata

log = logging.getLogger("unimq.kafka")

H = TypeVar("H")

_PAUSE = 0.02
"""Seconds between looks at what the broker is about to answer."""
_COMMIT_INTERVAL = 0.2
"""Seconds between commits, if nobody asks for one."""
_PROOF = 5.0
"""Seconds within which the commit of a partition that is given up is confirmed."""
_LOOK_INTERVAL = 5.0
"""Seconds between looks whether a topic is still the same one."""
_READ_COMMITTED = 30.0
"""Seconds to try to read what was done in a new partition."""
_MOST_DOUBT = 5.0
"""Seconds that a new partition waits at most for the coordinator's word that it is ours."""

_ASK_AGAIN = 0.1
"""Seconds between questions whose a new partition is."""

AskOwned = Callable[[str, str, str], Future[set[int]]]
"""Asks the coordinator of a group (first) which partitions of a topic it has given to a member (last)."""


class Owner(Protocol[H]):
    """What a member tells; from within `poll`, `prove` and `close`, in the owner's thread."""

    def assigned(self) -> None:
        """There are new partitions, which are being fetched."""
        ...

    def revoking(self, leaving: Sequence[PartitionProgress[H]]) -> None:
        """Finish what is in work in these, within a bounded time; they are committed and dropped after this."""
        ...

    def dropped(self, gone: Sequence[PartitionProgress[H]]) -> None:
        """Nothing of these may reach the broker any more."""
        ...

    def committed(self) -> None:
        """More is confirmed by the broker than before."""
        ...

    def is_closing(self) -> bool:
        """Tell whether a long wait is to be cut short."""
        ...


class Member(Generic[H]):
    """The client's consumer, with the progress of each partition that it has."""

    def __init__(
        self,
        settings: Settings,
        topic: str,
        owner: Owner[H],
        *,
        find_topic_id: Callable[[], str],
        is_topic_missing: Callable[[], bool],
        ask_owned: AskOwned | None = None,
    ) -> None:
        self.topic = topic
        self.partitions: dict[int, PartitionProgress[H]] = {}
        self.stopped: set[int] = set()
        """Partitions that the owner does not want to be fetched."""
        self._paused: set[int] = set()
        """Partitions that the client is told not to fetch."""
        self._doubtful: dict[int, float] = {}
        """New partitions that may not be ours, and until when they are not fetched for that.

        Who joins is given what there is. If others join before it has said that it took that, the coordinator takes
        that for a no and gives the partitions to them at once, while here they are still being taken: both would have
        them until the next answer of the coordinator (seen with Apache Kafka 4.3.1 and librdkafka 2.16.0, for up to
        two seconds on a busy machine). So the coordinator is asked before anything is fetched.
        """
        self._answer: Future[set[int]] | None = None
        self._next_question = 0.0
        self.end: UnimqError | None = None
        """Why this membership is over, once it is."""
        self.commits_under_way = 0
        self._owner = owner
        self._find_topic_id = find_topic_id
        self._is_topic_missing = is_topic_missing
        self._is_topic_in_doubt = False
        self._is_classic = settings["group.protocol"] == "classic"
        self._group = str(settings["group.id"])
        # The classic protocol has a barrier, at which all members say what they have.
        self._ask_owned = None if self._is_classic else ask_owned
        self._next_commit = 0.0
        self._next_look = 0.0
        self.consumer = Consumer({**settings, "error_cb": self._on_error, "on_commit": self._on_commit})
        keep(self.consumer)

    def join(self) -> None:
        """Join the group."""
        self.consumer.subscribe(
            [self.topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def leave(self, close_by: float) -> None:
        """Commit what is done, and have it confirmed until `close_by` of the monotonic clock at most."""
        deadline = min(time.monotonic() + _PROOF, close_by)
        self.prove([p for p in self.partitions.values() if p.dirty or p.acked > p.proven], deadline)
        if self._is_classic:
            # The coordinator answers nothing to a member that waits for the others to join, and the leave of a client
            # that ends meanwhile is lost: its group would stand still for the session timeout. An answer is proof.
            try:
                self.consumer.committed([TopicPartition(self.topic, 0)], timeout=max(0.1, deadline - time.monotonic()))
            except KafkaException as failed:
                log.debug("leaving the group of %r without an answer: %s", self.topic, failed)

    def close(self) -> None:
        """Release the client."""
        self.consumer.close()
        forget(self.consumer)

    # Fetching.

    def poll(self, most: int, timeout: float, take: Callable[[Record], None]) -> None:
        """Let the client call back, and give at most so many new messages to `take`."""
        first = self.consumer.poll(timeout)
        if first is None:
            return
        self._take(first, take)
        if most > 1:
            for record in self.consumer.consume(most - 1, 0):
                self._take(record, take)

    def poll_batches(self, most: int, timeout: float, take: Callable[[list[Record]], None]) -> None:
        """Do what `poll` does, but give the messages to `take` in batches."""
        first = self.consumer.poll(timeout)
        if first is None:
            return
        self._take_batch([first], take)
        if most > 1:
            self._take_batch(self.consumer.consume(most - 1, 0), take)

    def _take_batch(self, records: list[Record], take: Callable[[list[Record]], None]) -> None:
        good = [record for record in records if record.error() is None]
        if len(good) < len(records):
            for record in records:
                if record.error() is not None:
                    self._take(record, lambda record: take([record]))
        if good:
            take(good)

    def _take(self, record: Record, take: Callable[[Record], None]) -> None:
        error = record.error()
        if error is None:
            take(record)
        elif is_missing(error):
            self._is_topic_in_doubt = True
        else:
            self._on_error(error)

    def progress_at(self, partition: int, offset: int) -> PartitionProgress[H] | None:
        """Return the partition of a message that was received; `None` if it has gone meanwhile."""
        progress = self.partitions.get(partition)
        if progress is not None and offset < progress.next:
            # The topic was made again, or lost its end: what we know of the partition is about other messages.
            self.drop([progress])
            progress = self.partitions[partition] = PartitionProgress(partition, self._find_topic_id(), offset, set())
        return progress

    def stop_fetching(self, wanted: set[int]) -> None:
        """Have the client fetch all partitions but these. Stopping drops what it has prefetched."""
        self.stopped = wanted
        self._pause_or_resume()

    def _pause_or_resume(self) -> None:
        wanted = self.stopped | self._doubtful.keys()
        stop, go = wanted - self._paused, (self._paused & self.partitions.keys()) - wanted
        if stop:
            self.consumer.pause([TopicPartition(self.topic, partition) for partition in stop])
        if go:
            self.consumer.resume([TopicPartition(self.topic, partition) for partition in go])
        self._paused = wanted

    def forget_prefetched(self) -> None:
        """Have the client drop what it has prefetched; all partitions are stopped after this."""
        self.consumer.pause([TopicPartition(self.topic, partition) for partition in self.partitions])
        self.stopped = set(self.partitions)
        self._paused = set(self.partitions)

    # Commits.

    def commit_soon(self) -> None:
        """Commit at the next opportunity."""
        self._next_commit = 0.0

    def commit_if_due(self) -> bool:
        """Commit if it is time and there is something to commit; tell whether that was so."""
        now = time.monotonic()
        if self.commits_under_way or now < self._next_commit:
            return False
        changed = [progress for progress in self.partitions.values() if progress.dirty]
        if changed:
            self._next_commit = now + _COMMIT_INTERVAL
            self._commit(changed)
        return bool(changed)

    def _commit(self, changed: Iterable[PartitionProgress[H]]) -> list[TopicPartition]:
        """Start one commit; its answer comes to `_on_commit`."""
        offsets: list[TopicPartition] = []
        for progress in changed:
            offset, metadata = progress.commit_point()
            offsets.append(TopicPartition(self.topic, progress.partition, offset, metadata))
        try:
            self.consumer.commit(offsets=offsets, asynchronous=True)
            self.commits_under_way += 1
        except KafkaException as failed:
            self._commit_failed(native_of(failed), offsets)
        return offsets

    def _on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        """The client's callback, from within `poll`, `consume` and `close`."""
        self.commits_under_way -= 1
        for committed in offsets:
            failure = error or committed.error
            progress = self.partitions.get(committed.partition)
            if failure:
                self._commit_failed(failure, [committed])
            elif progress is not None:
                progress.committed(committed.offset, committed.metadata)
        self._owner.committed()

    def _commit_failed(self, error: KafkaError, offsets: list[TopicPartition]) -> None:
        """Try again later: a commit that crosses a rebalance or a lost coordinator fails as a matter of course."""
        log.debug("commit of %r failed: %s", self.topic, describe(error))
        for failed in offsets:
            progress = self.partitions.get(failed.partition)
            if progress is not None:
                progress.dirty = True
                if error.code() == KafkaError.OFFSET_METADATA_TOO_LARGE:
                    progress.with_map = False
                elif is_missing(error):
                    self._is_topic_in_doubt = True
        self._next_commit = time.monotonic() + _COMMIT_INTERVAL

    def prove(self, unproven: list[PartitionProgress[H]], deadline: float) -> None:
        """Commit, and read it back on the same connection, so that it is certain before anything else happens (A1)."""
        while unproven:
            offsets = self._commit(unproven)
            found: dict[int, TopicPartition] = {}
            try:
                left = max(0.01, deadline - time.monotonic())
                for committed in self.consumer.committed(offsets, timeout=min(left, 1.0)):
                    found[committed.partition] = committed
            except KafkaException as failed:
                log.debug("reading the commit of %r failed: %s", self.topic, failed)
            missing: list[PartitionProgress[H]] = []
            for progress in unproven:
                answer = found.get(progress.partition)
                if answer is None or not progress.committed(answer.offset, answer.metadata):
                    progress.dirty = True
                    missing.append(progress)
            if missing:
                # The answers to the commits, which would say it, are not seen here.
                self._look_for_topic()
                if self.end is not None or time.monotonic() >= deadline:
                    break
                time.sleep(_PAUSE)
            unproven = missing
        self._owner.committed()

    # Assignments. The client calls these from within `poll`, `consume` and `close`, in the owner's thread.

    def _on_assign(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        if not assigned:
            return
        # It may have been deleted and made again since the last time.
        topic_id = self._find_topic_id()
        start: list[TopicPartition] = []
        for new in self._read_committed(assigned):
            offset, done = new.offset, set[int]()
            if offset >= 0:
                is_ours, done = decode_metadata(new.metadata, topic_id, offset)
                if not is_ours:
                    # Of a topic of the same name that was deleted.
                    offset = 0
            self.partitions[new.partition] = PartitionProgress(new.partition, topic_id, max(offset, -1), done)
            start.append(TopicPartition(self.topic, new.partition, offset))
        # All at once: a fetch that is under way for some of them keeps the others waiting.
        consumer.incremental_assign(start)
        fresh = {new.partition for new in assigned}
        self.stopped -= fresh
        self._paused -= fresh
        if self._ask_owned is not None:
            self._doubtful |= dict.fromkeys(fresh, time.monotonic() + _MOST_DOUBT)
            # What was asked before is about what there was before.
            self._answer, self._next_question = None, 0.0
            self._pause_or_resume()
        self._owner.assigned()

    def _read_committed(self, assigned: list[TopicPartition]) -> list[TopicPartition]:
        """Return where the group is in new partitions; without an answer the client reads the offsets alone."""
        wanted = [TopicPartition(self.topic, new.partition) for new in assigned]
        deadline = time.monotonic() + _READ_COMMITTED
        while time.monotonic() < deadline and not self._owner.is_closing():
            try:
                found = self.consumer.committed(wanted, timeout=2.0)
            except KafkaException as failed:
                log.debug("reading the commits of %r failed: %s", self.topic, failed)
            else:
                if not any(committed.error for committed in found):
                    for committed in found:
                        # Where nothing is committed the topic is read from its beginning; without asking where that
                        # is, which takes as long as a fetch, since offset 0 is that or leads there.
                        committed.offset = max(committed.offset, 0)
                    return found
            time.sleep(_PAUSE)
        if not self._owner.is_closing():
            log.warning("could not read what is done in %r; some of it may come again", self.topic)
        return wanted

    def _on_revoke(self, consumer: Consumer, revoked: list[TopicPartition]) -> None:
        leaving = self._known(revoked)
        if not leaving:
            return
        # Nothing new is delivered meanwhile, as this is the thread that delivers.
        self._owner.revoking(leaving)
        self.prove([p for p in leaving if p.dirty or p.acked > p.proven], time.monotonic() + _PROOF)
        self.drop(leaving)
        self._is_topic_in_doubt = not self.partitions

    def _on_lost(self, consumer: Consumer, lost: list[TopicPartition]) -> None:
        self.drop(self._known(lost))
        self._is_topic_in_doubt = not self.partitions

    def _known(self, partitions: list[TopicPartition]) -> list[PartitionProgress[H]]:
        return [self.partitions[gone.partition] for gone in partitions if gone.partition in self.partitions]

    def drop(self, gone: list[PartitionProgress[H]]) -> None:
        """End the epoch of partitions (A6)."""
        for progress in gone:
            progress.over = True
            del self.partitions[progress.partition]
            self.stopped.discard(progress.partition)
            self._paused.discard(progress.partition)
            self._doubtful.pop(progress.partition, None)
        self._owner.dropped(gone)

    # The end.

    def _on_error(self, error: KafkaError) -> None:
        """The client's callback for what concerns no message. It repairs connections itself."""
        log.debug("consumer of %r: %s", self.topic, describe(error))
        if is_missing(error):
            # With the classic protocol this is the only hint that the topic was deleted, unless something is committed.
            self._is_topic_in_doubt = True
        if error.fatal() or is_final(error):
            self.end = request_error(error, f"the consumer of {self.topic!r} ended")

    def _look_whose_they_are(self, ask: AskOwned) -> None:
        """Fetch what the coordinator says is ours; without its word not at once."""
        now = time.monotonic()
        ours: set[int] = {partition for partition, until in self._doubtful.items() if now >= until}
        if self._answer is None:
            member = self.consumer.memberid()
            if now >= self._next_question and member:
                self._next_question = now + _ASK_AGAIN
                self._answer = ask(self._group, self.topic, member)
        elif self._answer.done():
            answer, self._answer = self._answer, None
            failure = answer.exception()
            if failure is None:
                ours |= answer.result()
            else:
                # Who may not ask, or asks one who cannot say, is left with what the client says.
                log.debug("asking whose the partitions of %r are: %s", self.topic, failure)
                ours |= self._doubtful.keys()
        if ours & self._doubtful.keys():
            self._doubtful = {p: until for p, until in self._doubtful.items() if p not in ours}
            self._pause_or_resume()

    def look_if_in_doubt(self) -> None:
        """Look at what is not certain.

        End if something hinted that the topic was deleted, and it was; begin again if it is another one by now. Fetch
        new partitions once it is known that they are ours.
        """
        if self._doubtful and self._ask_owned is not None:
            self._look_whose_they_are(self._ask_owned)
        if self._is_topic_in_doubt:
            self._look_for_topic()
            self._next_look = 0.0
        if self._is_classic and self.partitions and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK_INTERVAL
            self._look_for_other_topic()

    def _look_for_other_topic(self) -> None:
        """Begin at the beginning of a topic that was made again, which nobody tells to members of the classic protocol.

        The client would go on at the offset that it had reached in the former one.
        """
        topic_id = self._find_topic_id()
        gone = [p for p in self.partitions.values() if topic_id and p.topic_id and p.topic_id != topic_id]
        if not gone:
            return
        log.warning("the topic %r was deleted and made again; it is read from its beginning", self.topic)
        stopped = [TopicPartition(self.topic, p.partition) for p in gone if p.partition in self._paused]
        self.drop(gone)
        try:
            for old in gone:
                self.partitions[old.partition] = PartitionProgress(old.partition, topic_id, 0, set())
                self.consumer.seek(TopicPartition(self.topic, old.partition, 0))
            if stopped:
                self.consumer.resume(stopped)
        except KafkaException as failed:
            log.debug("beginning with the new %r failed: %s", self.topic, failed)
            self.end = self.end or NotFound(f"the topic {self.topic!r} was deleted and made again")
        self._owner.assigned()

    def _look_for_topic(self) -> None:
        """End if the topic was deleted, which the client does not say: it only has no partitions any more."""
        self._is_topic_in_doubt = False
        if self._is_topic_missing():
            self.end = self.end or NotFound(f"the topic {self.topic!r} does not exist any more")
