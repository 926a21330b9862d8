"""One connection to SQS and SNS: the clients, and the administration of queues, topics and subscriptions."""

import json
import time
from collections.abc import Callable
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import botocore
import botocore.session
from botocore.config import Config

from unimq import (
    AuthError,
    ConnectionLost,
    DeclarationConflict,
    NotFound,
    Queue,
    Stats,
    Subscription,
    Topic,
    Unsupported,
)
from unimq.adapter import (
    Capabilities,
    DeliverySink,
    OutcomeSink,
    Source,
    Target,
    emulated,
    native,
    queue_of,
    unsupported,
)
from unimq_sqs._batching import pause_before
from unimq_sqs._errors import NATIVE_ERRORS, code_of, translate
from unimq_sqs._options import LONGEST_VISIBILITY, Settings
from unimq_sqs._policies import TAG, in_force, to_tag
from unimq_sqs._receiver import ReceiverSettings, SQSReceiver
from unimq_sqs._sender import Destination, SQSSender

if TYPE_CHECKING:
    from types_boto3_sns import SNSClient
    from types_boto3_sqs import SQSClient

R = TypeVar("R")

SQS_LIMIT = 1024 * 1024
SNS_LIMIT = 256 * 1024
LONGEST_DELAY = 900
RETENTION = 14 * 24 * 3600
"""Seconds that SQS keeps a message at most. For every queue: no other backend forgets after SQS's default of 4 days."""
MOST_RECEIVES = 1000
CONNECT_TIMEOUT, READ_TIMEOUT = 5.0, 10.0
_POOL = 128
"""Connections kept open; more than the request threads of a program usually are."""
_AFTER_CREATE = 1.0
"""Seconds that AWS asks to wait before a new queue is used."""
_FIFO_SUFFIX = ".fifo"


class Clients(NamedTuple):
    """What `Broker.native` gives: clients of botocore, thread-safe."""

    sqs: "SQSClient"
    sns: "SNSClient"
    polls: "SQSClient"
    """Another client of SQS, whose read timeout outlasts a long poll."""


def build_clients(settings: Settings, timeout: float) -> Clients:
    """Build the clients; no I/O, save that botocore may look for credentials.

    They never repeat a request: what may be repeated, and until when, is known above (a repeated receive would strand
    the messages of the first).
    """
    session = botocore.session.Session(profile=settings.options.profile or None)

    def client(service: str, endpoint: str | None, read_timeout: float) -> Any:
        return session.create_client(
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

    short = min(READ_TIMEOUT, timeout)
    return Clients(
        client("sqs", settings.endpoint, short),
        client("sns", settings.sns_endpoint, short),
        client("sqs", settings.endpoint, settings.options.wait + 5.0),
    )


class SQSDriver:
    """See `unimq.adapter.Driver`. Queue addresses are remembered; a dict operation is atomic, so there is no lock."""

    def __init__(self, settings: Settings, timeout: float) -> None:
        try:
            self.clients = build_clients(settings, timeout)
        except NATIVE_ERRORS as error:
            raise translate(error, "setting up the clients of AWS") from error
        self.options = settings.options
        self.is_emulator = settings.is_emulator
        self._urls: dict[str, str] = {}
        self._topics: dict[str, str] = {}
        emulator, has_sns = self._probe()
        self.capabilities = capabilities_of(emulator, has_sns=has_sns)

    def _probe(self) -> tuple[str, bool]:
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
                raise problem from error
        if not self.is_emulator:
            return "", True
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        emulator = "ElasticMQ" if headers.get("server", "").startswith(("pekko-http", "akka-http")) else "SQS emulator"
        try:
            self.clients.sns.list_topics()
        except NATIVE_ERRORS:
            return emulator, False
        return emulator, True

    @property
    def native(self) -> Clients:
        """The clients of botocore."""
        return self.clients

    # Calls.

    def _do(self, doing: str, timeout: float, call: Callable[[], R]) -> R:
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

    def _find_queue(self, name: str, timeout: float) -> str | None:
        """Return the address of a queue, or `None` if there is none."""
        url = self._urls.get(name)
        if url is None:
            try:
                url = self._do(
                    f"looking up queue {name!r}",
                    timeout,
                    lambda: self.clients.sqs.get_queue_url(QueueName=name)["QueueUrl"],
                )
            except NotFound:
                return None
            self._urls[name] = url
        return url

    def _queue_url(self, name: str, timeout: float) -> str:
        url = self._find_queue(name, timeout)
        if url is None:
            raise NotFound(f"queue {name!r} does not exist; declare it first")
        return url

    def _attributes(self, name: str, url: str, names: list[Any], timeout: float) -> dict[Any, str]:
        return self._do(
            f"reading the attributes of queue {name!r}",
            timeout,
            lambda: self.clients.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names).get("Attributes", {}),
        )

    def _find_topic(self, name: str, timeout: float) -> str | None:
        """Return the ARN of a topic, or `None`. SNS has no look-up by name without the account's number but listing."""
        if name in self._topics:
            return self._topics[name]

        def search() -> str | None:
            for page in self.clients.sns.get_paginator("list_topics").paginate():
                for topic in page["Topics"]:
                    if topic.get("TopicArn", "").rpartition(":")[2] == name:
                        return topic.get("TopicArn")
            return None

        arn = self._do(f"looking up topic {name!r}", timeout, search)
        if arn is not None:
            self._topics[name] = arn
        return arn

    def _topic_arn(self, name: str, timeout: float) -> str:
        arn = self._find_topic(name, timeout)
        if arn is None:
            raise NotFound(f"topic {name!r} does not exist; declare it first")
        return arn

    # Destinations.

    def declare(
        self, destination: Queue | Topic | Subscription, *, as_is: bool, timeout: float
    ) -> Queue | Topic | Subscription:
        """See `unimq.adapter.Driver.declare`."""
        if isinstance(destination, Topic):
            _refuse_fifo(destination.name)
            self._topics[destination.name] = self._do(
                f"creating topic {destination.name!r}",
                timeout,
                lambda: self.clients.sns.create_topic(Name=destination.name)["TopicArn"],
            )
            return destination
        queue = queue_of(destination)
        _refuse_fifo(queue.name)
        _visibility(queue)
        # What is remembered may have been deleted by another program.
        self._urls.pop(queue.name, None)
        url = self._find_queue(queue.name, timeout)
        found: Queue | Subscription = destination
        if url is None:
            try:
                url = self._create_queue(queue, timeout)
            except DeclarationConflict:
                # Another program created it in the meantime; or it was deleted a moment ago, and its name is not free.
                url = self._find_queue(queue.name, timeout)
                if url is None:
                    raise
                found = in_force(destination, self._tag(queue.name, url, timeout), as_is=as_is)
        else:
            found = in_force(destination, self._tag(queue.name, url, timeout), as_is=as_is)
        if isinstance(destination, Subscription):
            self._subscribe(destination, url, timeout)
        return found

    def _tag(self, name: str, url: str, timeout: float) -> str | None:
        try:
            return self._do(
                f"reading the tags of queue {name!r}",
                timeout,
                lambda: self.clients.sqs.list_queue_tags(QueueUrl=url).get("Tags", {}).get(TAG),
            )
        except AuthError:
            # A consumer's permissions need not cover tags; then its own declaration counts.
            return None

    def _create_queue(self, queue: Queue, timeout: float) -> str:
        attributes: dict[Any, str] = {
            "MaximumMessageSize": str(SQS_LIMIT),
            "MessageRetentionPeriod": str(RETENTION),
        }
        if queue.lease_seconds is not None:
            attributes["VisibilityTimeout"] = str(ceil(queue.lease_seconds))
        dead = queue.dead_letters
        if dead is not None and queue.max_deliveries is not None and queue.max_deliveries < MOST_RECEIVES:
            # The library moves messages itself, by `attempt` (A8). This net, well above, catches what no living
            # consumer gets to see any more; it is wide, because SQS counts every receive as a delivery (A9).
            url = self._queue_url(dead.name, timeout)
            receives = min(MOST_RECEIVES, 2 * queue.max_deliveries + 10)
            target = self._attributes(dead.name, url, ["QueueArn"], timeout)["QueueArn"]
            attributes["RedrivePolicy"] = json.dumps({"deadLetterTargetArn": target, "maxReceiveCount": receives})
        url = self._do(
            f"creating queue {queue.name!r}",
            timeout,
            lambda: self.clients.sqs.create_queue(
                QueueName=queue.name, Attributes=attributes, tags={TAG: to_tag(queue)}
            )["QueueUrl"],
        )
        if not self.is_emulator:
            time.sleep(_AFTER_CREATE)
        self._urls[queue.name] = url
        return url

    def _subscribe(self, subscription: Subscription, url: str, timeout: float) -> None:
        """Let the topic write to the queue, then subscribe it: the other way round messages would vanish (G2)."""
        name = subscription.queue.name
        topic = self._topic_arn(subscription.topic.name, timeout)
        there = self._attributes(name, url, ["QueueArn", "Policy"], timeout)
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
                lambda: self.clients.sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(policy)}),
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
        if isinstance(destination, Topic):
            self._topics.pop(destination.name, None)
            self._topic_arn(destination.name, timeout)
        else:
            self._urls.pop(queue_of(destination).name, None)
            self._queue_url(queue_of(destination).name, timeout)

    def delete(self, destination: Queue | Topic | Subscription, *, timeout: float) -> None:
        """See `unimq.adapter.Driver.delete`."""
        if isinstance(destination, Queue):
            self._delete_queue(destination.name, timeout)
            return
        topic = destination if isinstance(destination, Topic) else destination.topic
        arn = self._find_topic(topic.name, timeout)
        for subscription, queue in self._subscriptions(topic.name, arn, timeout) if arn else ():
            if isinstance(destination, Topic) or queue == destination.queue.name:
                unsubscribe = partial(self.clients.sns.unsubscribe, SubscriptionArn=subscription)
                self._do(f"unsubscribing queue {queue!r}", timeout, unsubscribe)
                self._delete_queue(queue, timeout)
        if isinstance(destination, Subscription):
            self._delete_queue(destination.queue.name, timeout)
        elif arn is not None:
            self._do(f"deleting topic {topic.name!r}", timeout, lambda: self.clients.sns.delete_topic(TopicArn=arn))
            self._topics.pop(topic.name, None)

    def _subscriptions(self, topic: str, arn: str, timeout: float) -> list[tuple[str, str]]:
        """Return ARN and queue of our subscriptions of a topic."""

        def find() -> list[tuple[str, str]]:
            pages = self.clients.sns.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=arn)
            found = [
                (entry.get("SubscriptionArn", ""), entry.get("Endpoint", "").rpartition(":")[2])
                for page in pages
                for entry in page["Subscriptions"]
                if entry.get("Protocol") == "sqs"
            ]
            return [(subscription, queue) for subscription, queue in found if queue.startswith(f"{topic}--")]

        try:
            return self._do(f"listing the subscriptions of topic {topic!r}", timeout, find)
        except NotFound:
            return []

    def _delete_queue(self, name: str, timeout: float) -> None:
        self._urls.pop(name, None)
        url = self._find_queue(name, timeout)
        if url is None:
            return
        try:
            self._do(f"deleting queue {name!r}", timeout, lambda: self.clients.sqs.delete_queue(QueueUrl=url))
        except NotFound:
            pass
        self._urls.pop(name, None)

    def purge(self, source: Source, *, timeout: float) -> int | None:
        """See `unimq.adapter.Driver.purge`. SQS does not say how many, and purges one queue once a minute."""
        name = queue_of(source).name
        url = self._queue_url(name, timeout)
        self._do(f"purging queue {name!r}", timeout, lambda: self.clients.sqs.purge_queue(QueueUrl=url))
        return None

    def stats(self, source: Source, *, timeout: float) -> Stats:
        """See `unimq.adapter.Driver.stats`."""
        name = queue_of(source).name
        numbers = (
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateNumberOfMessagesDelayed",
        )
        found = self._attributes(name, self._queue_url(name, timeout), list(numbers), timeout)
        ready, in_flight, delayed = (int(found.get(number, 0)) for number in numbers)
        return Stats(ready=ready, in_flight=in_flight, delayed=delayed, exact=False)

    # Messages.

    def open_sender(self, target: Target, sink: OutcomeSink, *, timeout: float) -> SQSSender:
        """See `unimq.adapter.Driver.open_sender`."""
        if isinstance(target, Topic):
            arn = self._topic_arn(target.name, timeout)
            sns = self.clients.sns
            destination = Destination(
                f"topic {target.name!r}",
                lambda entries: sns.publish_batch(TopicArn=arn, PublishBatchRequestEntries=entries),
                SNS_LIMIT,
                is_topic=True,
            )
        else:
            url = self._queue_url(target.name, timeout)
            sqs = self.clients.sqs
            destination = Destination(
                f"queue {target.name!r}",
                lambda entries: sqs.send_message_batch(QueueUrl=url, Entries=entries),
                self._limit(target.name, url, timeout),
                is_topic=False,
            )
        return SQSSender(destination, sink, self.options.senders)

    def _limit(self, name: str, url: str, timeout: float) -> int:
        """Return the size of the largest message of this queue, which its owner may have lowered."""
        try:
            found = self._attributes(name, url, ["MaximumMessageSize"], timeout)
        except AuthError:
            # A producer's permissions need not cover attributes; then SQS refuses the entry itself.
            return SQS_LIMIT
        return int(found.get("MaximumMessageSize", SQS_LIMIT))

    def open_receiver(self, source: Source, sink: DeliverySink, *, prefetch: int, timeout: float) -> SQSReceiver:
        """See `unimq.adapter.Driver.open_receiver`."""
        queue = queue_of(source)
        lease = _visibility(queue)
        settings = ReceiverSettings(
            queue=queue.name,
            url=self._queue_url(queue.name, timeout),
            prefetch=prefetch,
            lease=lease or self.options.visibility,
            keep=lease is None,
            wait=self.options.wait,
            pollers=self.options.pollers,
        )
        return SQSReceiver(self.clients.sqs, self.clients.polls, settings, sink)

    def close(self, timeout: float) -> None:
        """See `unimq.adapter.Driver.close`."""
        for client in self.clients:
            client.close()


def _refuse_fifo(name: str) -> None:
    if name.endswith(_FIFO_SUFFIX):
        raise Unsupported("FIFO queues on sqs", "ordering is not there yet", "a standard queue")


def _visibility(queue: Queue) -> int | None:
    """Return the declared lease in whole seconds, rounded up."""
    return None if queue.lease_seconds is None else ceil(queue.lease_seconds)


def capabilities_of(emulator: str, *, has_sns: bool) -> Capabilities:
    """Return what SQS can do, or the emulator of this name."""
    no_length = ("SQS queues have no limit of length", "watch stats(), or RabbitMQ")
    return Capabilities(
        backend="sqs",
        broker_version="",
        client_version=botocore.__version__,
        emulator=emulator,
        durable=unsupported("the emulator keeps everything in memory", "real SQS") if emulator else native(),
        topics=native("SNS; no delay")
        if has_sns
        else unsupported("the endpoint has no SNS", "real AWS, or an emulator with SNS such as ministack"),
        start_earliest=unsupported("SNS keeps no history", "declare the subscription before sending, or Kafka"),
        require_subscription=unsupported("SNS takes a message without telling who gets it", "RabbitMQ"),
        ordering_key=unsupported("FIFO queues are not there yet", 'ordering="none" and a sequence number in the body'),
        delay=native("whole seconds, rounded up; to queues only"),
        ttl=emulated("checked at delivery; SQS itself drops everything after 14 days"),
        nack_delay=native("whole seconds, rounded up; at most 12 hours after the receipt"),
        lease=native(
            "whole seconds, rounded up; at most 12 hours; begins when the message arrives in the buffer; what a dead"
            " consumer held returns up to one long poll (5 s) later"
        ),
        extend=native("whole seconds, rounded up; at most 12 hours after the receipt"),
        max_length=unsupported(*no_length),
        drop_oldest=unsupported(*no_length),
        dead_letter=native("explicit copies; a redrive policy well above max_deliveries is a net for crashes"),
        redrive_subscription=native("straight to its queue"),
        stats=native("approximate; right about a minute after the senders stopped"),
        purge=native("takes up to 60 s on AWS, and may take messages sent meanwhile; once a minute"),
        pause=native("what a running long poll still brings goes back at once, which counts as a delivery"),
        attempts_exact=False,
        shutdown_counts=True,
        max_message_bytes=SQS_LIMIT,
        max_topic_message_bytes=SNS_LIMIT,
        max_delay=LONGEST_DELAY,
        max_nack_delay=LONGEST_VISIBILITY,
        max_lease=LONGEST_VISIBILITY,
    )
