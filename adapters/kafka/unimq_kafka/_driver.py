"""The driver of Kafka: destinations as topics and groups, senders on a shared producer, receivers on own threads."""

import threading
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import ClassVar, NamedTuple

import confluent_kafka
import msgspec
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from unimq import AuthError, ConfigError, DeclarationConflict, NotFound, Queue, Stats, Subscription, Topic
from unimq.adapter import (
    BrokerURL,
    Capabilities,
    CheckedPosition,
    DeliverySink,
    OutcomeSink,
    Source,
    Target,
    emulated,
    native,
    queue_of,
    unsupported,
)
from unimq_kafka._administration import Administration
from unimq_kafka._delays import Delays
from unimq_kafka._errors import native_of, request_error
from unimq_kafka._forwarder import Forwarder
from unimq_kafka._options import (
    DEFAULT_PARTITIONS,
    KafkaOptions,
    Settings,
    addresses,
    check_files,
    client_settings,
    consumer_settings,
    forwarder_settings,
    producer_settings,
)
from unimq_kafka._postponed import Postponed
from unimq_kafka._producer import SharedProducer
from unimq_kafka._receiver import KafkaReceiver
from unimq_kafka._sender import KafkaSender
from unimq_kafka._tiers import LONGEST, delay_topic

_DEFAULT_LIMIT = 1_000_000
"""The client's own limit of a message in bytes, for brokers that do not tell theirs."""
_GROUP_PATIENCE = 10.0
"""Seconds for the members of a deleted destination to notice and leave."""
_RETRY = 0.1
_LOOK = 2.0
"""Seconds for a consumer to look whether its topic is still there, and still the same."""


class Native(NamedTuple):
    """The client library's own objects: ``Broker.native``."""

    admin: AdminClient
    producer: confluent_kafka.Producer


class KafkaAdapter:
    """``kafka://HOST:PORT,HOST:PORT``, and ``kafka+ssl://`` with TLS."""

    schemes: ClassVar[Sequence[str]] = ("kafka", "kafka+ssl")
    options: ClassVar[type[msgspec.Struct]] = KafkaOptions

    def connect(self, url: BrokerURL, options: KafkaOptions, *, timeout: float) -> "KafkaDriver":
        """See `unimq.adapter.Adapter.connect`."""
        settings = client_settings(url, options)
        check_files(url, options)
        administration = Administration(settings, addresses(url))
        try:
            broker = administration.connect(timeout)
            protocol = options.group_protocol or ("consumer" if "consumer" in broker.group_protocols else "classic")
            return KafkaDriver(administration, settings, options, protocol, broker.max_message_bytes or _DEFAULT_LIMIT)
        except BaseException:
            administration.close()
            raise

    def offline_capabilities(self, url: BrokerURL, options: KafkaOptions) -> Capabilities:
        """See `unimq.adapter.OfflineAdapter`; the protocol of the groups and the limit of messages are assumed."""
        client_settings(url, options)
        return _capabilities(options.group_protocol or "consumer", _DEFAULT_LIMIT)


class KafkaDriver:
    """One connection. `_lock` guards `_producers`, `_receivers` and `_is_closed`."""

    def __init__(
        self, administration: Administration, settings: Settings, options: KafkaOptions, protocol: str, limit: int
    ) -> None:
        self._admin = administration
        self._settings = settings
        self._options = options
        self._protocol = protocol
        self._limit = limit
        self._lock = threading.Lock()
        self._is_closed = False
        self._receivers: dict[KafkaReceiver, Source] = {}
        self._producers: dict[int, SharedProducer] = {}
        self._delays = Delays(administration, self._open_forwarder)
        # Here and not at the first send, which would wait for its producer id.
        self._producer = self._producer_for(limit)
        self.capabilities = _capabilities(protocol, limit)

    @property
    def native(self) -> Native:
        """See `unimq.adapter.Driver.native`."""
        return Native(self._admin.native, self._producer.native)

    # Destinations.

    def declare(
        self, destination: Queue | Topic | Subscription, *, as_is: bool, timeout: float
    ) -> Queue | Topic | Subscription:
        """See `unimq.adapter.Driver.declare`. Kafka keeps no policies, so that only the partitions can be in conflict.

        More partitions than there are is none: adding them would move keys to others, which is for their owner to do.
        """
        topic = _topic_of(destination)
        options = self._options
        found = self._admin.find_partitions(topic, timeout)
        if found is not None:
            if not as_is and options.partitions is not None and options.partitions < len(found):
                raise DeclarationConflict(
                    f"topic {topic!r} has {len(found)} partitions, and the URL says partitions={options.partitions}:"
                    " Kafka takes none away; leave the option out, or delete the topic with its messages"
                )
        else:
            config = {} if options.retention is None else {"retention.ms": str(int(options.retention * 1000))}
            partitions = options.partitions or DEFAULT_PARTITIONS
            self._admin.create_topic(topic, partitions, options.replication, config, timeout)
        if isinstance(destination, Subscription):
            self._start_group(destination, timeout)
        return destination

    def _start_group(self, subscription: Subscription, timeout: float) -> None:
        """Commit where a new subscription starts, so that it gets what is sent from now on (G2).

        The offsets are read before the commits: if somebody else declares it at the same time, and that is not seen,
        these offsets are the older ones, and nothing that the other was promised is skipped.
        """
        group, topic = queue_of(subscription).name, subscription.topic.name
        start = self._admin.offsets(topic, end=subscription.start == "now", timeout=timeout)
        if not self._admin.committed(group, topic, timeout):
            # With live members the group was started before, and they commit.
            self._admin.commit(group, topic, start, timeout)

    def check(self, destination: Queue | Topic | Subscription, *, timeout: float) -> None:
        """See `unimq.adapter.Driver.check`."""
        topic = _topic_of(destination)
        self._admin.partitions(topic, timeout)
        if isinstance(destination, Subscription):
            group = queue_of(destination).name
            if not self._admin.committed(group, topic, timeout) and not self._admin.members(group, timeout):
                raise NotFound(
                    f"subscription {destination.name!r} of topic {topic!r} has no group {group!r}; declare it"
                )

    def delete(self, destination: Queue | Topic | Subscription, *, timeout: float) -> None:
        """See `unimq.adapter.Driver.delete`.

        The offsets of the groups go too: a topic that is made again would be read from there on, and lose its head.
        """
        deadline = time.monotonic() + timeout
        error = NotFound(f"{destination.name!r} was deleted")
        for receiver, source in list(self._receivers.items()):
            if _is_part_of(source, destination):
                receiver.end(error, max(0.0, deadline - time.monotonic()))
        if isinstance(destination, Subscription):
            groups = [queue_of(destination).name]
        else:
            delays = delay_topic(destination.name)
            self._delays.end(destination.name, max(0.0, deadline - time.monotonic()))
            # Before its destination, so that nothing more is forwarded there.
            if self._admin.find_partitions(delays, timeout) is not None:
                self._admin.delete_topic(delays, timeout)
            self._admin.delete_topic(destination.name, timeout)
            if isinstance(destination, Topic):
                groups = [*self._admin.groups_with_prefix(f"{destination.name}--", timeout), delays]
            else:
                groups = [destination.name, delays]
        patience = min(deadline, time.monotonic() + _GROUP_PATIENCE)
        for group in groups:
            while not self._admin.delete_group(group, timeout):
                if time.monotonic() >= patience:
                    raise DeclarationConflict(
                        f"group {group!r} still has consumers in other connections, so that Kafka keeps its offsets;"
                        " close them and delete it again"
                    )
                time.sleep(_RETRY)

    def purge(self, source: Source, *, timeout: float) -> int | None:
        """See `unimq.adapter.Driver.purge`."""
        group, topic = queue_of(source).name, _topic_of(source)
        ends, dropped = self._backlog(group, topic, timeout)
        if isinstance(source, Subscription):
            # The records belong to the other subscriptions as well: only the group moves on.
            if not self._admin.commit(group, topic, ends, timeout):
                raise DeclarationConflict(f"subscription {source.name!r} has consumers; close them to purge it")
        else:
            delays = delay_topic(topic)
            if self._admin.find_partitions(delays, timeout) is not None:
                delay_ends, delayed = self._backlog(delays, delays, timeout)
                self._admin.delete_records(delays, delay_ends, timeout)
                self._delays.forget_waiting(topic, delay_ends)
                dropped += delayed
            self._admin.delete_records(topic, ends, timeout)
            for receiver, its_source in list(self._receivers.items()):
                if _is_part_of(its_source, source):
                    receiver.forget_waiting(ends)
        return dropped

    def seek(self, source: Source, to: CheckedPosition, *, timeout: float) -> None:
        """See `unimq.adapter.SeekingDriver.seek`. Done-maps go with the old commits: everything from there on comes."""
        group, topic = queue_of(source).name, _topic_of(source)
        self.check(source, timeout=timeout)
        # Says at once that the group may not be used, which the commit is slow to hear.
        self._admin.committed(group, topic, timeout)
        if isinstance(to, Mapping):
            offsets = self._checked_offsets(topic, to, timeout)
        elif isinstance(to, float):
            offsets = self._admin.offsets_at(topic, to, timeout)
        else:
            offsets = self._admin.offsets(topic, end=to == "now", timeout=timeout)
        if not self._admin.commit(group, topic, offsets, timeout):
            raise DeclarationConflict(
                f"{source.name!r} has consumers, members of group {group!r}, which alone commit; close them first"
            )

    def _checked_offsets(self, topic: str, wanted: Mapping[int, int], timeout: float) -> Mapping[int, int]:
        first = self._admin.offsets(topic, end=False, timeout=timeout)
        ends = self._admin.offsets(topic, end=True, timeout=timeout)
        for partition, offset in wanted.items():
            if partition not in ends:
                raise ConfigError(f"topic {topic!r} has no partition {partition}; it has {len(ends)}, from 0 on")
            if not first[partition] <= offset <= ends[partition]:
                raise ConfigError(
                    f"partition {partition} of topic {topic!r} has no offset {offset}; it has those from"
                    f" {first[partition]} to {ends[partition]}, which is the next one"
                )
        return wanted

    def stats(self, source: Source, *, timeout: float) -> Stats:
        """See `unimq.adapter.Driver.stats`."""
        group, topic = queue_of(source).name, _topic_of(source)
        _, ready = self._backlog(group, topic, timeout)
        delayed = self._delayed(delay_topic(topic), timeout)
        return Stats(ready=ready, delayed=delayed, consumers=self._admin.members(group, timeout), exact=False)

    def _delayed(self, delays: str, timeout: float) -> int | None:
        try:
            return (
                0 if self._admin.find_partitions(delays, timeout) is None else self._backlog(delays, delays, timeout)[1]
            )
        except AuthError:
            # Whoever may not see it is not told whether there is one.
            return None

    def _backlog(self, group: str, topic: str, timeout: float) -> tuple[dict[int, int], int]:
        """Return the end offsets, and how many messages the commits of the group say are not done."""
        committed = self._admin.committed(group, topic, timeout)
        first = self._admin.offsets(topic, end=False, timeout=timeout)
        ends = self._admin.offsets(topic, end=True, timeout=timeout)
        waiting = 0
        for partition, end in ends.items():
            start, done = first.get(partition, 0), 0
            if partition in committed and committed[partition].offset >= start:
                start, done = committed[partition]
            waiting += max(0, end - start - done)
        return ends, waiting

    # Opening.

    def open_sender(self, target: Target, sink: OutcomeSink, *, timeout: float) -> KafkaSender:
        """See `unimq.adapter.Driver.open_sender`."""
        topic = _topic_of(target)
        limit = self._admin.message_limit(topic, timeout) or self._limit
        producer = self._producer_for(limit)
        try:
            # Asked by this client, so that its first message need not wait for the topic's partitions.
            found = producer.native.list_topics(topic=topic, timeout=timeout).topics[topic]
        except KafkaException as failed:
            raise request_error(native_of(failed), f"asking {self._admin.where} for topic {topic!r}") from failed
        if found.error is not None:
            raise request_error(found.error, f"topic {topic!r} on {self._admin.where}")
        # An answer shows that the leaders of a new topic know that they lead; before, they refuse the first batch, and
        # the producer has to find out whether it is stored.
        self._admin.offsets(topic, end=True, timeout=timeout)
        return KafkaSender(producer, topic, limit, sink, self._delays)

    def _producer_for(self, limit: int) -> SharedProducer:
        """Return the producer whose batches fit in a topic with this limit: nearly always the one of all."""
        with self._lock:
            producer = self._producers.get(limit)
            if producer is None:
                settings = producer_settings(self._settings, self._options, limit)
                producer = self._producers[limit] = SharedProducer(settings)
            return producer

    def open_receiver(self, source: Source, sink: DeliverySink, *, prefetch: int, timeout: float) -> KafkaReceiver:
        """See `unimq.adapter.Driver.open_receiver`."""
        topic = _topic_of(source)
        self._admin.partitions(topic, timeout)
        share = self._delays.join(topic)
        try:
            receiver = KafkaReceiver(
                consumer_settings(self._settings, self._options, queue_of(source).name, self._protocol, prefetch),
                topic,
                sink,
                prefetch,
                is_ordered=queue_of(source).ordering == "key",
                find_topic_id=lambda: self._admin.topic_id(topic, _LOOK),
                is_topic_missing=lambda: self._admin.is_missing(topic, _LOOK),
                ask_owned=self._admin.ask_owned,
                share=share,
                postponed=self._postponed(source),
            )
        except BaseException:
            share.end(time.monotonic())
            raise
        with self._lock:
            self._receivers = {r: s for r, s in self._receivers.items() if not r.is_over}
            self._receivers[receiver] = source
        return receiver

    def _postponed(self, source: Source) -> Postponed | None:
        """Return where long delays of nacks are waited for; with an order, and in a subscription, that is nowhere."""
        if isinstance(source, Subscription) or source.ordering == "key":
            return None
        limit = self._admin.message_limit(source.name, _LOOK) or self._limit
        return Postponed(self._producer_for(limit), source.name, self._delays)

    def _open_forwarder(self, topic: str, partitions: int) -> Forwarder:
        """Open a forwarder of the delayed messages of a topic; called by the thread of `_delays`."""
        delays = delay_topic(topic)
        settings = consumer_settings(self._settings, self._options, delays, self._protocol, 1)
        return Forwarder(
            forwarder_settings(settings),
            topic,
            self._producer_for(self._admin.message_limit(topic, _LOOK) or self._limit),
            partitions=partitions,
            find_topic_id=lambda: self._admin.topic_id(delays, _LOOK),
            is_topic_missing=lambda: self._admin.is_missing(delays, _LOOK),
            ask_owned=self._admin.ask_owned,
        )

    def close(self, timeout: float) -> None:
        """See `unimq.adapter.Driver.close`."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        deadline = time.monotonic() + timeout
        self._delays.close(deadline)
        for producer in self._producers.values():
            producer.close(deadline)
        self._admin.close()


def _topic_of(destination: Queue | Topic | Subscription) -> str:
    return destination.topic.name if isinstance(destination, Subscription) else destination.name


def _is_part_of(source: Source, destination: Queue | Topic | Subscription) -> bool:
    if isinstance(destination, Topic):
        return isinstance(source, Subscription) and source.topic.name == destination.name
    return queue_of(source).name == queue_of(destination).name and isinstance(source, type(destination))


def _capabilities(protocol: str, limit: int) -> Capabilities:
    length = unsupported("Kafka drops by age and bytes, not by number of messages", "the option retention of the URL")
    lease = unsupported("a partition belongs to one consumer, whose messages have no lease", "nack or close")
    return Capabilities(
        backend="kafka",
        broker_version="",
        client_version=version("confluent-kafka"),
        durable=native("as many copies as the topic has; messages end with the topic's retention, consumed or not"),
        topics=native("a subscription is a consumer group"),
        start_earliest=native("as far back as the topic's retention"),
        require_subscription=unsupported("a Kafka topic does not know its groups", "declare the subscription first"),
        ordering_key=emulated(
            "a key has one partition, as long as their number stays; the consumer hands out one message of it at a time"
        ),
        delay=emulated(
            "a topic of delays, whose messages are forwarded by consumers of the queue or topic; without any they wait"
        ),
        max_delay=LONGEST,
        ttl=emulated("checked at delivery; the record stays until the topic's retention ends"),
        nack_delay=emulated(
            "waits in the consumer, and is lost with the attempts when that ends or loses the partition; from 60 s on a"
            " confirmed copy waits in the topic of delays, if it is a queue without an order"
        ),
        max_nack_delay=LONGEST,
        lease=lease,
        extend=lease,
        max_length=length,
        drop_oldest=length,
        dead_letter=emulated("topic <name>-dead; the copy is confirmed before the original is committed"),
        redrive_subscription=unsupported(
            "a subscription reads its topic itself, and what is sent there goes to every subscription",
            "a consumer of its dead-letter queue that does the work of the subscription",
        ),
        stats=native("ready counts messages in work, too; acks are seen after their commit, 0.2 s later"),
        purge=native("deletes the records of a queue; a subscription without consumers moves to the end"),
        pause=native(),
        seek=native("while the source has no consumers; as far back as the topic's retention"),
        attempts_exact=False,
        shutdown_counts=False,
        cloudevents="kafka",
        idle_consumers="a partition goes to one consumer of a group: at most as many work as the topic has partitions",
        acks_at_risk="an unclean election of the offsets topic's leader, or its single copy on a disk that is lost",
        max_message_bytes=limit,
    )
