"""Topics and groups: what a declaration creates, and what is known about them."""

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from typing import Any, NamedTuple

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka import admin as _typed_admin

from unimq import AuthError, ConfigError, ConnectionLost, NotFound, UnimqError
from unimq_kafka._errors import describe, is_final, native_of, request_error
from unimq_kafka._handles import forget, keep
from unimq_kafka._options import Settings
from unimq_kafka._progress import decode_metadata, encode_metadata

_admin: Any = _typed_admin
"""The client's types for administration are incomplete; what this module returns is typed."""

_RETRY = 0.05
"""Seconds between looks at something that the brokers are about to know."""
_CONNECT_STEP = 0.25
"""Seconds after which a connection that is not there yet is checked for refused credentials."""
_LONGEST_QUESTION = 5.0
"""Seconds that a question may take for which nobody waits."""
_SOME_TOPIC = "__consumer_offsets"
"""A topic to ask for, so that the answer does not list all of them."""


class Broker(NamedTuple):
    """What the cluster says about itself."""

    max_message_bytes: int | None
    group_protocols: frozenset[str]


class Committed(NamedTuple):
    """Where a group is in one partition."""

    offset: int
    done_above: int


class Administration:
    """The client library's administration client, and short-lived consumers where it lacks a request.

    Every call is bounded by its `timeout` and raises errors of unimq only.
    """

    def __init__(self, settings: Settings, where: str) -> None:
        self.where = where
        self._settings = settings
        self._refusal: KafkaError | None = None
        self._trouble = ""
        try:
            self._client = _admin.AdminClient({**settings, "error_cb": self._on_error})
        except KafkaException as failed:
            raise request_error(native_of(failed), f"cannot make a client for {where}") from failed
        keep(self._client)

    @property
    def native(self) -> _typed_admin.AdminClient:
        """The client library's own object."""
        return self._client  # type: ignore[no-any-return]

    def close(self) -> None:
        """Release the client with its threads. Idempotent."""
        self._client.__exit__(None, None, None)
        forget(self._client)

    def _on_error(self, error: KafkaError) -> None:
        self._trouble = describe(error)
        if is_final(error):
            self._refusal = error

    # The cluster.

    def connect(self, timeout: float) -> Broker:
        """Wait for the first answer.

        The client retries refused credentials for ever and reports them as a time-out, except to `error_cb` (E2).
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                metadata = self._client.list_topics(
                    topic=_SOME_TOPIC, timeout=min(_CONNECT_STEP, max(0.01, deadline - time.monotonic()))
                )
                break
            except KafkaException as failed:
                self._client.poll(0)
                if self._refusal is not None:
                    raise request_error(self._refusal, f"{self.where} refused to connect") from failed
                if time.monotonic() >= deadline:
                    reason = self._trouble or describe(native_of(failed))
                    raise ConnectionLost(f"no answer from {self.where} within {timeout:g} s: {reason}") from failed
        return self._describe_broker(metadata.controller_id, max(1.0, deadline - time.monotonic()))

    def _describe_broker(self, broker: int, timeout: float) -> Broker:
        try:
            config = self._config(_admin.ConfigResource.Type.BROKER, str(broker), timeout)
        except (UnimqError, ValueError):
            # Not everybody may read it; then the client's own defaults have to do.
            return Broker(None, frozenset())
        limit = config.get("message.max.bytes")
        protocols = config.get("group.coordinator.rebalance.protocols", "")
        return Broker(int(limit) if limit else None, frozenset(part.strip() for part in protocols.split(",")))

    def _config(self, kind: Any, name: str, timeout: float) -> Mapping[str, str]:
        resource = _admin.ConfigResource(kind, name)
        future = self._client.describe_configs([resource], request_timeout=timeout)[resource]
        entries = self._result(future, timeout, f"reading the settings of {name!r}")
        return {name: str(entry.value) for name, entry in entries.items() if entry.value is not None}

    # Topics.

    def create_topic(
        self, name: str, partitions: int, replication: int | None, config: dict[str, str], timeout: float
    ) -> None:
        """Create a topic if it is missing, and wait until its partitions can be used."""
        topic = _admin.NewTopic(name, partitions, -1 if replication is None else replication, config=config)
        future = self._client.create_topics([topic], request_timeout=timeout, operation_timeout=timeout)[name]
        try:
            self._result(future, timeout, f"creating topic {name!r}", allowed=KafkaError.TOPIC_ALREADY_EXISTS)
        except AuthError:
            # Who may use a topic, but create none, can declare it as far as it exists.
            if self.find_partitions(name, timeout) is None:
                raise
        deadline = time.monotonic() + timeout
        while self.find_partitions(name, timeout) is None:
            if time.monotonic() > deadline:
                raise ConnectionLost(f"topic {name!r} on {self.where} has no leader after {timeout:g} s")
            time.sleep(_RETRY)

    def find_partitions(self, name: str, timeout: float) -> list[int] | None:
        """Return the partitions of a topic that can be used, or `None` if it does not exist, or not yet."""
        try:
            topic = self._client.list_topics(topic=name, timeout=timeout).topics.get(name)
        except KafkaException as failed:
            raise request_error(native_of(failed), f"asking {self.where} for topic {name!r}") from failed
        if topic is None or not topic.partitions:
            if topic is not None and topic.error is not None and is_final(topic.error):
                raise request_error(topic.error, f"topic {name!r}")
            return None
        if any(partition.leader < 0 for partition in topic.partitions.values()):
            return None
        return sorted(topic.partitions)

    def partitions(self, name: str, timeout: float) -> list[int]:
        """Return the partitions of a topic, or raise `NotFound`."""
        found = self.find_partitions(name, timeout)
        if found is None:
            raise NotFound(f"topic {name!r} does not exist on {self.where}; declare it first")
        return found

    def topic_id(self, name: str, timeout: float) -> str:
        """Return what tells the topic from another one of this name; empty if the broker does not say."""
        future = self._client.describe_topics(TopicCollection([name]), request_timeout=timeout)[name]
        try:
            return str(self._result(future, timeout, f"asking for topic {name!r}").topic_id)
        except UnimqError:
            return ""

    def is_missing(self, name: str, timeout: float) -> bool:
        """Tell whether a topic certainly does not exist: it is asked for again, as brokers hear late of new ones."""
        for pause in (_RETRY, 10 * _RETRY, 0):
            try:
                error = self._client.list_topics(topic=name, timeout=timeout).topics[name].error
            except KafkaException:
                return False
            if error is None or error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                return False
            time.sleep(pause)
        return True

    def topic_settings(self, name: str, timeout: float) -> Mapping[str, str]:
        """Return the settings of a topic, the broker's defaults among them; nothing if they may not be read."""
        try:
            return self._config(_admin.ConfigResource.Type.TOPIC, name, timeout)
        except (AuthError, ConfigError):
            return {}

    def message_limit(self, name: str, timeout: float) -> int | None:
        """Return the largest batch that the topic takes in bytes, if it may be asked."""
        try:
            return int(self._config(_admin.ConfigResource.Type.TOPIC, name, timeout)["max.message.bytes"])
        except (UnimqError, KeyError, ValueError):
            return None

    def copies(self, name: str, timeout: float) -> int:
        """Return the number of copies of a topic's partitions."""
        try:
            found = self._client.list_topics(topic=name, timeout=timeout).topics[name].partitions
        except KafkaException as failed:
            raise request_error(native_of(failed), f"asking {self.where} for topic {name!r}") from failed
        if not found:
            raise NotFound(f"topic {name!r} does not exist on {self.where}; declare it first")
        return min(len(partition.replicas) for partition in found.values())

    def existing(self, names: Sequence[str], timeout: float) -> dict[str, int]:
        """Return those of these topics that exist and that we may see, with their numbers of partitions."""
        futures = self._client.describe_topics(TopicCollection([*names]), request_timeout=timeout)
        result: dict[str, int] = {}
        for name, future in futures.items():
            try:
                result[name] = len(self._result(future, timeout, f"asking for topic {name!r}").partitions)
            except (NotFound, AuthError):
                continue
        return result

    def delete_topic(self, name: str, timeout: float) -> None:
        """Delete a topic; a missing one is no error."""
        future = self._client.delete_topics([name], request_timeout=timeout, operation_timeout=timeout)[name]
        self._result(future, timeout, f"deleting topic {name!r}", allowed=KafkaError.UNKNOWN_TOPIC_OR_PART)
        deadline = time.monotonic() + timeout
        while self.find_partitions(name, timeout) is not None and time.monotonic() < deadline:
            time.sleep(_RETRY)

    def offsets(self, name: str, *, end: bool, timeout: float) -> dict[int, int]:
        """Return the first or the end offset of every partition."""
        spec = _admin.OffsetSpec.latest() if end else _admin.OffsetSpec.earliest()
        return self._list_offsets(name, spec, timeout)

    def offsets_at(self, name: str, at: float, timeout: float) -> dict[int, int]:
        """Return for every partition the first offset with a timestamp of `at` (wall clock, seconds) or later; the end
        offset if there is none.
        """
        # Asked for first, so that a message that comes in between is not skipped.
        ends = self.offsets(name, end=True, timeout=timeout)
        spec = _admin.OffsetSpec.for_timestamp(max(0, math.ceil(at * 1000)))
        found = self._list_offsets(name, spec, timeout)
        return {partition: offset if offset >= 0 else ends.get(partition, 0) for partition, offset in found.items()}

    def _list_offsets(self, name: str, spec: Any, timeout: float) -> dict[int, int]:
        deadline = time.monotonic() + timeout
        while True:
            # Metadata names the leader of a new partition before that broker knows that it leads, and refuses.
            wanted = {TopicPartition(name, partition): spec for partition in self.partitions(name, timeout)}
            futures = self._client.list_offsets(wanted, request_timeout=timeout)
            try:
                return {
                    partition.partition: self._result(future, timeout, f"reading offsets of {name!r}").offset
                    for partition, future in futures.items()
                }
            except (ConnectionLost, NotFound):
                if time.monotonic() >= deadline:
                    raise
            time.sleep(_RETRY)

    def delete_records(self, name: str, ends: Mapping[int, int], timeout: float) -> None:
        """Drop what is below these offsets, for every group."""
        below = [TopicPartition(name, partition, end) for partition, end in ends.items()]
        for future in self._client.delete_records(below, request_timeout=timeout).values():
            self._result(future, timeout, f"purging {name!r}")

    # Groups.

    def committed(self, group: str, topic: str, timeout: float) -> dict[int, Committed]:
        """Return where a group is in the partitions of a topic for which it has committed."""
        request = ConsumerGroupTopicPartitions(group)
        future = self._client.list_consumer_group_offsets([request], request_timeout=timeout)[group]
        doing = f"reading the offsets of group {group!r}"
        answer = self._result(future, timeout, doing, allowed=KafkaError.GROUP_ID_NOT_FOUND)
        found = [
            each for each in (answer.topic_partitions if answer else ()) if each.topic == topic and each.offset >= 0
        ]
        topic_id = self.topic_id(topic, timeout) if found else ""
        result: dict[int, Committed] = {}
        for each in found:
            is_ours, done = decode_metadata(each.metadata, topic_id, each.offset)
            if is_ours:
                result[each.partition] = Committed(each.offset, len(done))
        return result

    def commit(self, group: str, topic: str, offsets: Mapping[int, int], timeout: float) -> bool:
        """Commit offsets for a group that has no members; false if it has some, which alone may commit then.

        By a consumer that joins nothing: the administration request would overwrite the commits of live members.
        """
        topic_id = self.topic_id(topic, timeout)
        answers: list[KafkaError | None] = []

        def on_commit(error: KafkaError | None, partitions: list[TopicPartition]) -> None:
            answers.append(error or next((each.error for each in partitions if each.error), None))

        consumer = Consumer({**self._settings, "group.id": group, "enable.auto.commit": False, "on_commit": on_commit})
        keep(consumer)
        try:
            metadata, _ = encode_metadata(topic_id, 0, ())
            wanted = [TopicPartition(topic, partition, offset, metadata) for partition, offset in offsets.items()]
            deadline = time.monotonic() + timeout
            while True:
                # Asynchronous, as the synchronous commit has no time limit.
                answers.clear()
                consumer.commit(offsets=wanted, asynchronous=True)
                while not answers and time.monotonic() < deadline:
                    told = consumer.poll(_RETRY)
                    refusal = None if told is None else told.error()
                    if refusal is not None and is_final(refusal):
                        # The commit itself would wait for a coordinator that we may not ask for.
                        answers.append(refusal)
                error = answers[0] if answers else KafkaError(KafkaError._TIMED_OUT)
                if error is None:
                    return True
                if error.code() in _HAS_MEMBERS:
                    return False
                failed = request_error(error, f"committing for group {group!r}")
                if not failed.retryable or time.monotonic() >= deadline:
                    raise failed
                time.sleep(_RETRY)
        except KafkaException as refused:
            raise request_error(native_of(refused), f"committing for group {group!r}") from refused
        finally:
            consumer.close()
            forget(consumer)

    def members(self, group: str, timeout: float) -> int:
        """Return the number of live members of a group."""
        future = self._client.describe_consumer_groups([group], request_timeout=timeout)[group]
        answer = self._result(future, timeout, f"asking for group {group!r}", allowed=KafkaError.GROUP_ID_NOT_FOUND)
        return len(answer.members) if answer else 0

    def ask_owned(self, group: str, topic: str, member: str) -> "Future[set[int]]":
        """Ask which partitions of a topic the coordinator has given to a member; without waiting, unlike all else here.

        The future ends with the client's error if the coordinator does not say.
        """
        owned: Future[set[int]] = Future()

        def answered(answer: Any) -> None:
            failure = answer.exception()
            if failure is not None:
                owned.set_exception(failure)
                return
            given = [each.assignment for each in answer.result().members if each.member_id == member]
            owned.set_result({p.partition for each in given for p in each.topic_partitions if p.topic == topic})

        try:
            futures = self._client.describe_consumer_groups([group], request_timeout=_LONGEST_QUESTION)
        except KafkaException as failed:
            owned.set_exception(failed)
        else:
            futures[group].add_done_callback(answered)
        return owned

    def groups_with_prefix(self, prefix: str, timeout: float) -> list[str]:
        """Return the names of the groups that begin so."""
        answer = self._result(self._client.list_consumer_groups(request_timeout=timeout), timeout, "listing groups")
        return [group.group_id for group in answer.valid if group.group_id.startswith(prefix)]

    def delete_group(self, group: str, timeout: float) -> bool:
        """Delete a group with its offsets; false if it has live members. A missing one is no error."""
        future = self._client.delete_consumer_groups([group], request_timeout=timeout)[group]
        try:
            future.result(timeout=timeout + 1)
        except KafkaException as failed:
            native = native_of(failed)
            if native.code() == KafkaError.NON_EMPTY_GROUP:
                return False
            if native.code() != KafkaError.GROUP_ID_NOT_FOUND:
                raise request_error(native, f"deleting group {group!r}") from failed
        except NoAnswer as late:
            raise ConnectionLost(f"deleting group {group!r}: no answer from {self.where}") from late
        return True

    def _result(self, future: "Future[Any]", timeout: float, doing: str, *, allowed: int | None = None) -> Any:
        """Return an answer; `None` in the place of the one error that is `allowed`."""
        try:
            # The client ends the request itself at its time limit; this one is for a client that does not.
            return future.result(timeout=timeout + 1)
        except KafkaException as failed:
            native = native_of(failed)
            if native.code() == allowed:
                return None
            raise request_error(native, f"{doing} on {self.where}") from failed
        except NoAnswer as late:
            raise ConnectionLost(f"{doing}: no answer from {self.where} within {timeout:g} s") from late


_HAS_MEMBERS = {KafkaError.UNKNOWN_MEMBER_ID, KafkaError.ILLEGAL_GENERATION, KafkaError.STALE_MEMBER_EPOCH}
