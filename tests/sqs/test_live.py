"""SQS itself, asked for by ``UNIMQ_SQS_LIVE=1``: the main paths once, with few requests, and nothing stays behind.

    UNIMQ_SQS_LIVE=1 UNIMQ_SQS_LIVE_URL='sqs://?region=eu-west-1&profile=sandbox' pytest tests/sqs/test_live.py

Credentials come from AWS's own chain; ``UNIMQ_SQS_LIVE_REQUESTS`` is the cap (default 2000, less than a cent). Whatever
is made has the run's own prefix, a request that names anything else is not sent, and all that has the prefix is deleted
at the end. The same guards and the same steps run on an emulator in every test run.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from unimq_contract.brokers import RunningTap, sqs
from unimq_sqs import Clients

import unimq

pytestmark = pytest.mark.slow

WITHIN = 90.0
MOST_REQUESTS = 2000
_NAMES = ("QueueName", "QueueUrl", "TopicArn", "Name", "SubscriptionArn", "ResourceArn", "SourceArn", "DestinationArn")
_HARMLESS = {"unimq-is-anybody-there"}
"""Names that the adapter only asks after."""


class NotOurs(Exception):
    """A request names what this run did not make."""


class Spent(Exception):
    """The run has made as many requests as it may."""


@dataclass
class LiveRun:
    """One run: its prefix, and what its connections may do. The lock guards the count."""

    url: str
    most: int = MOST_REQUESTS
    prefix: str = field(default_factory=lambda: f"unimq-live-{os.urandom(4).hex()}")
    requests: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def name(self, what: str) -> str:
        """Return a name of this run."""
        return f"{self.prefix}-{what}"

    def connect(self) -> unimq.Broker:
        """Connect, with guards before every request."""
        broker = unimq.connect(self.url, timeout=WITHIN)
        for client in self.clients(broker):
            client.meta.events.register("before-parameter-build", self._check)
        return broker

    @staticmethod
    def clients(broker: unimq.Broker) -> tuple[Any, Any, Any]:
        native = broker.native
        assert isinstance(native, Clients)
        return native.sqs, native.sns, native.polls

    def _check(self, params: dict[str, Any], model: Any, **_: object) -> None:
        for name in _NAMES:
            value = str(params.get(name, self.prefix))
            if self.prefix not in value and value not in _HARMLESS:
                raise NotOurs(f"{model.name} names {value!r}, which is not of this run")
        with self.lock:
            self.requests += 1
            if self.requests > self.most:
                raise Spent(f"{self.most} requests are made; UNIMQ_SQS_LIVE_REQUESTS allows more")

    def left(self) -> list[str]:
        """Return what exists with the prefix: URLs of queues, ARNs of topics."""
        with unimq.connect(self.url, timeout=WITHIN) as broker:
            client, topics, _ = self.clients(broker)
            found = list(client.list_queues(QueueNamePrefix=self.prefix).get("QueueUrls", []))
            if broker.capabilities.topics:
                pages = topics.get_paginator("list_topics").paginate()
                arns = [entry["TopicArn"] for page in pages for entry in page["Topics"]]
                found += [arn for arn in arns if arn.rpartition(":")[2].startswith(self.prefix)]
            return found

    def clean_up(self) -> None:
        """Delete all that has the prefix, whoever made it and however far the run came."""
        with unimq.connect(self.url, timeout=WITHIN) as broker:
            client, topics, _ = self.clients(broker)
            for found in self.left():
                if found.startswith("arn:"):
                    for page in topics.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=found):
                        for entry in page["Subscriptions"]:
                            if entry["SubscriptionArn"].startswith("arn:"):
                                topics.unsubscribe(SubscriptionArn=entry["SubscriptionArn"])
                    topics.delete_topic(TopicArn=found)
                else:
                    client.delete_queue(QueueUrl=found)


@contextlib.contextmanager
def live_run(url: str, most: int = MOST_REQUESTS) -> Generator[LiveRun]:
    """Clean up at the end of the block, however it ends."""
    run = LiveRun(url, most)
    try:
        yield run
    finally:
        run.clean_up()


def receive(consumer: unimq.Consumer, count: int) -> list[unimq.Delivery]:
    found: list[unimq.Delivery] = []
    deadline = time.monotonic() + WITHIN
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} came"
        found += consumer.receive(count - len(found), timeout=5)
    return found


# The steps, on AWS and on the emulator.


def queue_step(run: LiveRun, ordering: Literal["none", "key"]) -> None:
    queue = unimq.Queue(run.name(f"q-{ordering}"), ordering=ordering, max_deliveries=3)
    bodies = [bytes(range(256)), b"", "grüß".encode(), b"d"]
    headers: dict[str, str | bytes] = {f"größe {number}": "" for number in range(12)} | {"b": b"\xff"}
    with run.connect() as broker, broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        for outcome in producer.send_many([unimq.Message(body, key="k", headers=headers) for body in bodies]):
            assert isinstance(outcome, unimq.Receipt)
        came: list[bytes] = []
        for _ in bodies:
            (delivery,) = receive(consumer, 1)
            assert dict(delivery.headers) == headers
            came.append(delivery.body)
            delivery.ack()
        consumer.settle()
        assert came == bodies if ordering == "key" else sorted(came) == sorted(bodies)
        producer.send(b"again", key="k")
        (delivery,) = receive(consumer, 1)
        delivery.nack()
        (delivery,) = receive(consumer, 1)
        assert (delivery.body, delivery.attempt) == (b"again", 2)
        delivery.reject("on purpose")
        consumer.settle()
        assert queue.dead_letters is not None
        with broker.consumer(queue.dead_letters) as dead:
            (delivery,) = receive(dead, 1)
            assert delivery.headers["unimq-dead-reason"] == "on purpose"
            delivery.ack()
            dead.settle()


def topic_step(run: LiveRun) -> None:
    topic = unimq.Topic(run.name("t"))
    with run.connect() as broker:
        subscriptions = [topic.subscription(name) for name in ("a", "b")]
        broker.declare(topic, *subscriptions)
        with broker.producer(topic) as producer:
            producer.send(b"news", headers={"h": "1"})
        for subscription in subscriptions:
            with broker.consumer(subscription) as consumer:
                (delivery,) = receive(consumer, 1)
                assert (delivery.body, dict(delivery.headers)) == (b"news", {"h": "1"})
                delivery.ack()
                consumer.settle()


def all_steps(run: LiveRun) -> None:
    queue_step(run, "none")
    queue_step(run, "key")
    topic_step(run)


def test_on_aws() -> None:
    if os.environ.get("UNIMQ_SQS_LIVE", "") in {"", "0"}:
        pytest.skip("NOT TESTED ON AWS: set UNIMQ_SQS_LIVE=1, and credentials as AWS's own tools take them")
    url = os.environ.get("UNIMQ_SQS_LIVE_URL", "sqs://")
    with live_run(url, int(os.environ.get("UNIMQ_SQS_LIVE_REQUESTS", MOST_REQUESTS))) as run:
        all_steps(run)
    assert run.left() == []


@pytest.fixture(scope="module")
def url(start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap]) -> Iterator[str]:
    with start_or_skip(lambda: sqs.start(flavour="ministack")) as running:
        yield f"{running.tap.url}&wait=1"


def test_the_steps_work_are_counted_and_leave_nothing(url: str) -> None:
    with live_run(url) as run:
        all_steps(run)
        assert 20 < run.requests < MOST_REQUESTS
        assert len(run.left()) > 5
    assert run.left() == []


def test_what_others_made_is_neither_touched_nor_cleaned_up(url: str) -> None:
    theirs = unimq.Queue(f"theirs-{os.urandom(4).hex()}", dead_letter=False)
    with unimq.connect(url) as others:
        others.declare(theirs)
        with live_run(url) as run, run.connect() as broker:
            calls: list[Callable[[], object]] = [
                lambda: broker.delete(theirs),
                lambda: broker.producer(theirs),
                lambda: broker.declare(unimq.Topic("theirs")),
            ]
            for call in calls:
                with pytest.raises(NotOurs, match="theirs"):
                    call()
            assert run.requests <= 1, "more than the listing of topics was sent"
        assert others.stats(theirs).ready == 0, "it is still there"
        others.delete(theirs)


def test_a_run_that_fails_or_has_spent_its_requests_is_cleaned_up_too(url: str) -> None:
    made: list[str] = []

    def fails(run: LiveRun) -> None:
        with run.connect() as broker:
            broker.declare(unimq.Queue(run.name("q")))
            made.extend(run.left())
            for _ in range(100):
                broker.stats(unimq.Queue(run.name("q")))

    with pytest.raises(Spent, match="30 requests"), live_run(url, most=30) as run:
        fails(run)
    assert len(made) == 2
    assert run.left() == []
