"""One connection to SQS and SNS: the clients, and the administration of queues, topics and subscriptions."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import botocore.session
from botocore.config import Config
from botocore.credentials import Credentials

from unimq import AuthError, ConnectionLost, DeclarationConflict, NotFound, Queue, Stats, Subscription, Topic
from unimq.adapter import REPLY_PREFIX, DeliverySink, OutcomeSink, RequestCount, Source, Target, queue_of
from unimq_sqs._answers import refuse_broken_answers
from unimq_sqs._capabilities import SNS_LIMIT, SQS_LIMIT, capabilities_of
from unimq_sqs._counting import RequestCounts
from unimq_sqs._directory import FIFO, Directory, FoundQueue, FoundTopic, name_at_aws
from unimq_sqs._errors import NATIVE_ERRORS, code_of, kind_of, translate
from unimq_sqs._http import FastCalls, RouteFinder, ca_bundle
from unimq_sqs._options import Settings
from unimq_sqs._policies import TAG, in_force, to_tag
from unimq_sqs._receiver import ReceiverSettings, SQSReceiver
from unimq_sqs._regions import refuse_unknown_region
from unimq_sqs._sender import Destination, SQSSender

if TYPE_CHECKING:
    from types_boto3_sns import SNSClient
    from types_boto3_sqs import SQSClient

    from unimq_sqs._calls import QueueCalls

RETENTION = 14 * 24 * 3600
"""Seconds that SQS keeps a message at most. For every queue: no other backend forgets after SQS's default of 4 days."""
MOST_RECEIVES = 1000
CONNECT_TIMEOUT, READ_TIMEOUT = 5.0, 10.0
POLL_RESERVE = 5.0
"""Seconds that an answer may take beyond the wait of its long poll."""
_POOL = 128
"""Connections kept open; more than the request threads of a program usually are."""
_AFTER_CREATE = 1.0
"""Seconds that AWS asks to wait before a new queue is used."""
_FIFO_QUEUE = {
    "FifoQueue": "true",
    "ContentBasedDeduplication": "false",
    # Together these lift the limit of 300 requests a second; each send has a deduplication id of its own anyway.
    "DeduplicationScope": "messageGroup",
    "FifoThroughputLimit": "perMessageGroupId",
}
_FIFO_TOPIC = {"FifoTopic": "true", "ContentBasedDeduplication": "false", "FifoThroughputScope": "MessageGroup"}


class Clients(NamedTuple):
    """What `Broker.native` gives: clients of botocore, thread-safe."""

    sqs: "SQSClient"
    sns: "SNSClient"
    polls: "SQSClient"
    """Another client of SQS, whose read timeout outlasts a long poll."""
    requests: Callable[[], Mapping[str, RequestCount]]
    """Returns what was asked of SQS and SNS until now, by action: ``requests()["SQS.ReceiveMessage"].billed``."""


def build_clients(
    session: botocore.session.Session, settings: Settings, timeout: float
) -> tuple[Clients, RequestCounts]:
    """Build the clients; no I/O, save that botocore may look for credentials.

    They never repeat a request: what may be repeated, and until when, is known above (a repeated receive would strand
    the messages of the first).
    """
    counts = RequestCounts()

    def client(service: str, endpoint: str | None, read_timeout: float) -> Any:
        made = session.create_client(
            service,
            region_name=settings.region,
            endpoint_url=endpoint,
            aws_access_key_id=settings.access_key,
            aws_secret_access_key=settings.secret_key,
            config=Config(
                # The validation of parameters and the default user agent cost a quarter of a request's time.
                parameter_validation=False,
                user_agent="unimq",
                max_pool_connections=_POOL,
                connect_timeout=min(CONNECT_TIMEOUT, timeout),
                read_timeout=read_timeout,
                tcp_keepalive=True,
                retries={"mode": "standard", "total_max_attempts": 1},
            ),
        )
        counts.watch(made, service.upper())
        if service == "sqs":
            refuse_broken_answers(made)
        return made

    short = min(READ_TIMEOUT, timeout)
    return Clients(
        client("sqs", settings.endpoint, short),
        client("sns", settings.sns_endpoint, short),
        client("sqs", settings.endpoint, settings.longest_wait + POLL_RESERVE),
        counts.by_action,
    ), counts


class SQSDriver:
    """See `unimq.adapter.Driver`. It keeps nothing that changes but its directory of addresses."""

    def __init__(self, settings: Settings, timeout: float) -> None:
        try:
            session = botocore.session.Session(profile=settings.options.profile or None)
            self.clients, counts = build_clients(session, settings, timeout)
        except NATIVE_ERRORS as error:
            raise translate(error, "setting up the clients of AWS") from error
        self.requests = counts.by_action
        """See `unimq.adapter.Requesting`."""
        self._settings = settings
        self.options = settings.options
        self.is_emulator = settings.is_emulator
        self.reconnects = 0
        """See `unimq.adapter.Reconnecting`: consumers that receive again after an outage. Guarded by `_counting`."""
        self._counting = threading.Lock()
        self._directory = Directory(self.clients.sqs, self.clients.sns)
        self._do = self._directory.do
        finder = RouteFinder(self.clients.sqs) if settings.options.http == "fast" else None
        emulator, has_sns = self._probe(session)
        self.capabilities = capabilities_of(emulator, has_sns=has_sns)
        self._fast = None if finder is None else self._open_fast(session, settings, finder, counts, timeout)
        # They carry the messages; what is rare is asked of the clients.
        self._calls: QueueCalls = self._fast or self.clients.sqs
        self._polls: QueueCalls = self._fast or self.clients.polls

    def _open_fast(
        self,
        session: botocore.session.Session,
        settings: Settings,
        finder: RouteFinder,
        counts: RequestCounts,
        timeout: float,
    ) -> FastCalls:
        given: Any = (
            Credentials(settings.access_key, settings.secret_key or "")
            if settings.access_key is not None
            # The same object that the clients have, which refreshes what expires.
            else session.get_credentials()
        )
        return FastCalls(
            self.clients.sqs,
            lambda: given.get_frozen_credentials() if given is not None else None,
            finder.route(),
            counts,
            authorities=lambda: ca_bundle(session),
            connections=_POOL,
            connect_timeout=min(CONNECT_TIMEOUT, timeout),
            read_timeout=min(READ_TIMEOUT, timeout),
            poll_timeout=settings.longest_wait + POLL_RESERVE,
        )

    def _probe(self, session: botocore.session.Session) -> tuple[str, bool]:
        """Make sure that somebody takes the credentials (E2); return the emulator's name, and if it has SNS."""
        sqs = self.clients.sqs
        where = sqs.meta.endpoint_url.partition("://")[2]
        emulator = ""
        try:
            # Of a name that nobody uses: the answer that it does not exist costs no permission and no listing.
            answer: Any = sqs.get_queue_url(QueueName="unimq-is-anybody-there")
        except NATIVE_ERRORS as error:
            answer = getattr(error, "response", {})
            problem = translate(error, f"connecting to {where}")
            denied = isinstance(problem, AuthError) and code_of(error).startswith("AccessDenied")
            # A permission that covers other queues only is none of our business yet.
            if not denied and not isinstance(problem, NotFound):
                if isinstance(problem, ConnectionLost):
                    refuse_unknown_region(session, sqs.meta.region_name, sqs.meta.endpoint_url, error)
                raise problem from error
        if not self.is_emulator:
            return "", True
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        emulator = "ElasticMQ" if headers.get("server", "").startswith(("pekko-http", "akka-http")) else "SQS emulator"
        try:
            self.clients.sns.list_topics()
        except NATIVE_ERRORS as error:
            # Who refuses is there.
            return emulator, kind_of(error) is AuthError
        return emulator, True

    @property
    def native(self) -> Clients:
        """The clients of botocore."""
        return self.clients

    def _attributes(self, found: FoundQueue, names: list[Any], timeout: float) -> dict[Any, str]:
        return self._do(
            f"reading the attributes of queue {found.name!r}",
            timeout,
            lambda: self.clients.sqs.get_queue_attributes(QueueUrl=found.url, AttributeNames=names).get(
                "Attributes", {}
            ),
        )

    # Destinations.

    def declare(
        self, destination: Queue | Topic | Subscription, *, as_is: bool, timeout: float
    ) -> Queue | Topic | Subscription:
        """See `unimq.adapter.Driver.declare`."""
        if isinstance(destination, Topic):
            return self._declare_topic(destination, as_is=as_is, timeout=timeout)
        queue = queue_of(destination)
        # What is remembered may have been deleted by another program.
        self._directory.forget(queue)
        there = self._directory.find_queue(queue, timeout)
        found: Queue | Subscription = destination
        if there is None:
            try:
                there = self._create_queue(queue, timeout)
            except DeclarationConflict:
                # Another program created it in the meantime; or it was deleted a moment ago, and its name is not free.
                there = self._directory.find_queue(queue, timeout)
                if there is None:
                    raise
                found = self._in_force(destination, there, as_is=as_is, timeout=timeout)
        else:
            found = self._in_force(destination, there, as_is=as_is, timeout=timeout)
        if isinstance(destination, Subscription):
            self._subscribe(destination, there, timeout)
        return found

    def _declare_topic(self, topic: Topic, *, as_is: bool, timeout: float) -> Topic:
        self._directory.forget(topic)
        try:
            there = self._directory.find_topic(topic, timeout)
        except AuthError:
            # Permissions may not cover listing; creating one that exists returns it.
            there = None
        if there is None:
            attributes = _FIFO_TOPIC if topic.ordering == "key" else {}
            created = self._do(
                f"creating topic {topic.name!r}",
                timeout,
                lambda: self.clients.sns.create_topic(Name=name_at_aws(topic), Attributes=attributes),
            )
            there = FoundTopic(created["TopicArn"])
            self._directory.remember_topic(there)
        found = replace(topic, ordering="key" if there.is_fifo else "none")
        if found != topic and not as_is:
            raise DeclarationConflict(
                f"topic {topic.name!r} exists: ordering is {found.ordering!r}, not {topic.ordering!r}"
            )
        return found

    def _in_force(
        self, destination: Queue | Subscription, there: FoundQueue, *, as_is: bool, timeout: float
    ) -> Queue | Subscription:
        tag = self._tag(there, timeout)
        return in_force(destination, tag, is_fifo=there.is_fifo, as_is=as_is)

    def _tag(self, found: FoundQueue, timeout: float) -> str | None:
        try:
            return self._do(
                f"reading the tags of queue {found.name!r}",
                timeout,
                lambda: self.clients.sqs.list_queue_tags(QueueUrl=found.url).get("Tags", {}).get(TAG),
            )
        except AuthError:
            # A consumer's permissions need not cover tags; then its own declaration counts.
            return None

    def _create_queue(self, queue: Queue, timeout: float) -> FoundQueue:
        name = name_at_aws(queue)
        attributes: dict[Any, str] = {
            **(_FIFO_QUEUE if queue.ordering == "key" else {}),
            "MaximumMessageSize": str(SQS_LIMIT),
            "MessageRetentionPeriod": str(RETENTION),
        }
        if queue.lease_seconds is not None:
            attributes["VisibilityTimeout"] = str(ceil(queue.lease_seconds))
        dead = queue.dead_letters
        if dead is not None and queue.max_deliveries is not None and queue.max_deliveries < MOST_RECEIVES:
            # The library moves messages itself, by `attempt` (A8). This net, well above, catches what no living
            # consumer gets to see any more; it is wide, because SQS counts every receive as a delivery (A9).
            target = self._directory.queue(dead, timeout)
            if target.is_fifo == (queue.ordering == "key"):
                # SQS moves to a queue of the same kind only.
                receives = min(MOST_RECEIVES, 2 * queue.max_deliveries + 10)
                arn = self._attributes(target, ["QueueArn"], timeout)["QueueArn"]
                attributes["RedrivePolicy"] = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": receives})
        url = self._do(
            f"creating queue {queue.name!r}",
            timeout,
            lambda: self.clients.sqs.create_queue(QueueName=name, Attributes=attributes, tags={TAG: to_tag(queue)})[
                "QueueUrl"
            ],
        )
        if not self.is_emulator:
            time.sleep(_AFTER_CREATE)
        found = FoundQueue(name, url)
        self._directory.remember_queue(found)
        return found

    def _subscribe(self, subscription: Subscription, queue: FoundQueue, timeout: float) -> None:
        """Let the topic write to the queue, then subscribe it: the other way round messages would vanish (G2)."""
        name = subscription.queue.name
        topic = self._directory.topic(subscription.topic, timeout).arn
        there = self._attributes(queue, ["QueueArn", "Policy"], timeout)
        arn = there["QueueArn"]
        if topic not in there.get("Policy", ""):
            statement = {
                "Sid": "unimq",
                "Effect": "Allow",
                "Principal": {"Service": "sns.amazonaws.com"},
                "Action": "sqs:SendMessage",
                "Resource": arn,
                "Condition": {"ArnEquals": {"aws:SourceArn": topic}},
            }
            policy = json.loads(there.get("Policy") or '{"Version": "2012-10-17"}')
            policy["Statement"] = [*policy.get("Statement", ()), statement]
            self._do(
                f"letting topic {subscription.topic.name!r} write to queue {name!r}",
                timeout,
                lambda: self.clients.sqs.set_queue_attributes(
                    QueueUrl=queue.url, Attributes={"Policy": json.dumps(policy)}
                ),
            )
        self._do(
            f"subscribing queue {name!r}",
            timeout,
            lambda: self.clients.sns.subscribe(
                TopicArn=topic,
                Protocol="sqs",
                Endpoint=arn,
                Attributes={"RawMessageDelivery": "true"},
                ReturnSubscriptionArn=True,
            ),
        )

    def check(self, destination: Queue | Topic | Subscription, *, timeout: float) -> None:
        """See `unimq.adapter.Driver.check`."""
        found: FoundQueue | FoundTopic
        if isinstance(destination, Topic):
            self._directory.forget(destination)
            what, ordering = f"topic {destination.name!r}", destination.ordering
            found = self._directory.topic(destination, timeout)
        else:
            queue = queue_of(destination)
            self._directory.forget(queue)
            what, ordering = f"queue {queue.name!r}", queue.ordering
            found = self._directory.queue(queue, timeout)
        if ordering == "key" and not found.is_fifo:
            # The other way round it is more than what was asked for.
            raise DeclarationConflict(f"{what} exists: ordering is 'none', not 'key'")

    def delete(self, destination: Queue | Topic | Subscription, *, timeout: float) -> None:
        """See `unimq.adapter.Driver.delete`."""
        if isinstance(destination, Queue):
            self._delete_queue(destination, timeout)
            return
        topic = destination if isinstance(destination, Topic) else destination.topic
        found = self._directory.find_topic(topic, timeout)
        for subscription, queue in self._subscriptions(topic, found, timeout) if found else ():
            if isinstance(destination, Topic) or name_at_aws(queue) == name_at_aws(destination.queue):
                unsubscribe = partial(self.clients.sns.unsubscribe, SubscriptionArn=subscription)
                self._do(f"unsubscribing queue {queue.name!r}", timeout, unsubscribe)
                self._delete_queue(queue, timeout)
        if isinstance(destination, Subscription):
            self._delete_queue(destination.queue, timeout)
        elif found is not None:
            self._do(
                f"deleting topic {topic.name!r}", timeout, lambda: self.clients.sns.delete_topic(TopicArn=found.arn)
            )
            self._directory.forget(topic)

    def _subscriptions(self, topic: Topic, found: FoundTopic, timeout: float) -> list[tuple[str, Queue]]:
        """Return ARN and queue of our subscriptions of a topic."""

        def find() -> list[tuple[str, Queue]]:
            pages = self.clients.sns.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=found.arn)
            queues = [
                (entry.get("SubscriptionArn", ""), entry.get("Endpoint", "").rpartition(":")[2])
                for page in pages
                for entry in page["Subscriptions"]
                if entry.get("Protocol") == "sqs"
            ]
            prefix = f"{topic.name.replace(FIFO, '')}--"
            return [(arn, _queue_at_aws(name)) for arn, name in queues if name.startswith(prefix)]

        try:
            return self._do(f"listing the subscriptions of topic {topic.name!r}", timeout, find)
        except NotFound:
            return []

    def _delete_queue(self, queue: Queue, timeout: float) -> None:
        self._directory.forget(queue)
        found = self._directory.find_queue(queue, timeout)
        if found is None:
            return
        try:
            self._do(
                f"deleting queue {queue.name!r}", timeout, lambda: self.clients.sqs.delete_queue(QueueUrl=found.url)
            )
        except NotFound:
            pass
        self._directory.forget(queue)

    def purge(self, source: Source, *, timeout: float) -> int | None:
        """See `unimq.adapter.Driver.purge`. SQS does not say how many, and purges one queue once a minute."""
        found = self._directory.queue(queue_of(source), timeout)
        self._do(f"purging queue {found.name!r}", timeout, lambda: self.clients.sqs.purge_queue(QueueUrl=found.url))
        return None

    def stats(self, source: Source, *, timeout: float) -> Stats:
        """See `unimq.adapter.Driver.stats`."""
        numbers = (
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateNumberOfMessagesDelayed",
        )
        found = self._attributes(self._directory.queue(queue_of(source), timeout), list(numbers), timeout)
        ready, in_flight, delayed = (int(found.get(number, 0)) for number in numbers)
        return Stats(ready=ready, in_flight=in_flight, delayed=delayed, exact=False)

    # Messages.

    def open_sender(self, target: Target, sink: OutcomeSink, *, timeout: float) -> SQSSender:
        """See `unimq.adapter.Driver.open_sender`."""
        if isinstance(target, Topic):
            topic = self._directory.topic(target, timeout)
            sns = self.clients.sns
            destination = Destination(
                f"topic {target.name!r}",
                lambda entries: sns.publish_batch(TopicArn=topic.arn, PublishBatchRequestEntries=entries),
                SNS_LIMIT,
                is_topic=True,
                is_fifo=topic.is_fifo,
            )
        else:
            queue = self._directory.queue(target, timeout)
            calls = self._calls
            destination = Destination(
                f"queue {target.name!r}",
                lambda entries: calls.send_message_batch(QueueUrl=queue.url, Entries=entries),
                self._limit(queue, timeout),
                is_topic=False,
                is_fifo=queue.is_fifo,
            )
        return SQSSender(destination, sink, self.options.senders, self.options.collect_ms / 1000)

    def _limit(self, queue: FoundQueue, timeout: float) -> int:
        """Return the size of the largest message of this queue, which its owner may have lowered."""
        try:
            found = self._attributes(queue, ["MaximumMessageSize"], timeout)
        except AuthError:
            # A producer's permissions need not cover attributes; then SQS refuses the entry itself.
            return SQS_LIMIT
        return int(found.get("MaximumMessageSize", SQS_LIMIT))

    def open_receiver(self, source: Source, sink: DeliverySink, *, prefetch: int, timeout: float) -> SQSReceiver:
        """See `unimq.adapter.Driver.open_receiver`."""
        queue = queue_of(source)
        lease = _visibility(queue)
        found = self._directory.queue(queue, timeout)
        settings = ReceiverSettings(
            queue=queue.name,
            url=found.url,
            prefetch=prefetch,
            lease=lease or self.options.visibility,
            keep=lease is None,
            wait=self.options.wait,
            idle_wait=self._settings.longest_wait,
            # Somebody waits for each reply.
            window=0.0 if queue.name.startswith(REPLY_PREFIX) else self.options.collect_ms / 1000,
            pollers=self.options.pollers,
            is_fifo=found.is_fifo,
        )
        return SQSReceiver(self._calls, self._polls, settings, sink, self._count_recovery)

    def _count_recovery(self) -> None:
        with self._counting:
            self.reconnects += 1

    def close(self, timeout: float) -> None:
        """See `unimq.adapter.Driver.close`."""
        for client in (self.clients.sqs, self.clients.sns, self.clients.polls):
            client.close()
        if self._fast is not None:
            self._fast.close()


def _queue_at_aws(name: str) -> Queue:
    """Return the queue that has this name at AWS."""
    ordering: Literal["none", "key"] = "key" if name.endswith(FIFO) else "none"
    return Queue(name.removesuffix(FIFO), ordering=ordering, portable_name=False)


def _visibility(queue: Queue) -> int | None:
    """Return the declared lease in whole seconds, rounded up."""
    return None if queue.lease_seconds is None else ceil(queue.lease_seconds)
