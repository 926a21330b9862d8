"""Where the emulators are not as SQS: each deviation is listed in emulators.toml, and each line of it is still true."""

import contextlib
import os
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from unimq_contract.brokers import RunningTap, sqs

if TYPE_CHECKING:
    from types_boto3_sns import SNSClient
    from types_boto3_sqs import SQSClient

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "sqs.md"
DEVIATIONS: dict[str, dict[str, str]] = tomllib.loads((HERE / "emulators.toml").read_text(encoding="utf-8"))
WITHIN = 60.0
ABOVE_12_HOURS = 43_201


@dataclass
class Emulator:
    """Plain clients of one emulator, and what was made with them."""

    endpoint: str
    sqs: "SQSClient" = field(init=False)
    sns: "SNSClient" = field(init=False)
    made: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.sqs = self.client("sqs")
        self.sns = self.client("sns")

    def client(self, service: str, key: str = "test") -> Any:
        return botocore.session.Session().create_client(
            service,
            region_name="us-east-1",
            endpoint_url=self.endpoint,
            aws_access_key_id=key,
            aws_secret_access_key="test",
            config=Config(retries={"mode": "standard", "total_max_attempts": 1}, read_timeout=WITHIN),
        )

    def queue(self, *, fifo: bool = False, **attributes: str) -> str:
        """Make a queue; return its URL."""
        name = f"q-{os.urandom(6).hex()}" + ".fifo" * fifo
        asked: Any = {**attributes, **({"FifoQueue": "true"} if fifo else {})}
        self.made.append(self.sqs.create_queue(QueueName=name, Attributes=asked)["QueueUrl"])
        return self.made[-1]

    def send(self, url: str, body: str = "b", **more: Any) -> None:
        self.sqs.send_message(QueueUrl=url, MessageBody=body, **more)

    def receive(self, url: str, count: int = 1, **more: Any) -> list[Any]:
        """Receive so many, or what there is after two seconds."""
        return list(
            self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=count, WaitTimeSeconds=2, **more).get(
                "Messages", []
            )
        )

    def arn(self, url: str) -> str:
        return self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]


def refused(call: Callable[[], object], *codes: str) -> bool:
    """Tell whether a call is refused, with one of these codes if any are given."""
    try:
        call()
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        return not codes or code.rpartition(".")[2] in codes
    return False


def text(value: str) -> Any:
    return {"DataType": "String", "StringValue": value}


def in_group(group: str, deduplication: str = "") -> dict[str, str]:
    return {"MessageGroupId": group, "MessageDeduplicationId": deduplication or os.urandom(8).hex()}


# The checks; their docstrings are their names. Each returns whether the emulator is as SQS.


def has_topics(on: Emulator) -> bool:
    """topics"""
    try:
        on.sns.list_topics()
    except ClientError:
        return False
    return True


def queue_policy(on: Emulator) -> bool:
    """a topic writes only to queues whose policy allows it"""
    if not has_topics(on):
        return True
    url = on.queue()
    topic = on.sns.create_topic(Name=f"t-{os.urandom(6).hex()}")["TopicArn"]
    on.sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=on.arn(url), Attributes={"RawMessageDelivery": "true"})
    on.sns.publish(TopicArn=topic, Message="m")
    arrived = on.receive(url)
    on.sns.delete_topic(TopicArn=topic)
    return not arrived


def unknown_keys(on: Emulator) -> bool:
    """unknown keys are refused"""
    return refused(on.client("sqs", "AKIAOFNOBODY").list_queues)


def long_delay(on: Emulator) -> bool:
    """`DelaySeconds` above 900 is refused"""
    url = on.queue()
    return refused(lambda: on.send(url, DelaySeconds=901))


def long_visibility(on: Emulator) -> bool:
    """a visibility above 12 hours is refused"""
    url = on.queue()
    on.send(url)
    (message,) = on.receive(url)
    return refused(
        lambda: on.sqs.change_message_visibility(
            QueueUrl=url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=ABOVE_12_HOURS
        )
    )


def second_delete(on: Emulator) -> bool:
    """a second delete with one handle succeeds"""
    url = on.queue()
    on.send(url)
    (message,) = on.receive(url)
    on.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return not refused(lambda: on.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"]))


def stale_handle(on: Emulator) -> bool:
    """a handle from before the last receive deletes nothing"""
    url = on.queue()
    on.send(url)
    (old,) = on.receive(url, VisibilityTimeout=0)
    assert on.receive(url, VisibilityTimeout=1)
    with contextlib.suppress(ClientError):
        on.sqs.delete_message(QueueUrl=url, ReceiptHandle=old["ReceiptHandle"])
    return bool(on.receive(url))


def maximum_size(on: Emulator) -> bool:
    """the queue's `MaximumMessageSize` is the limit"""
    url = on.queue(MaximumMessageSize="1024")
    return refused(lambda: on.send(url, "x" * 1025))


def size_in_bytes(on: Emulator) -> bool:
    """bytes are counted, not characters"""
    url = on.queue()
    return refused(lambda: on.send(url, "\u20ac" * 400_000))


def attributes_count(on: Emulator) -> bool:
    """attributes are counted"""
    url = on.queue()
    return refused(lambda: on.send(url, "x" * 1024 * 1024, MessageAttributes={"a": text("x")}))


def eleven_attributes(on: Emulator) -> bool:
    """eleven attributes are refused"""
    url = on.queue()
    return refused(lambda: on.send(url, MessageAttributes={f"a{number}": text("x") for number in range(11)}))


def empty_attribute(on: Emulator) -> bool:
    """an empty attribute is refused"""
    url = on.queue()
    return refused(lambda: on.send(url, MessageAttributes={"a": text("")}))


def control_characters(on: Emulator) -> bool:
    """control characters are refused as `InvalidMessageContents`"""
    url = on.queue()
    return refused(lambda: on.send(url, "\x01"), "InvalidMessageContents")


def one_bad_entry(on: Emulator) -> bool:
    """an entry with control characters fails alone"""
    url = on.queue()
    entries: Any = [{"Id": "0", "MessageBody": "a"}, {"Id": "1", "MessageBody": "\x01"}]
    with contextlib.suppress(ClientError):
        answer = on.sqs.send_message_batch(QueueUrl=url, Entries=entries)
        return [entry["Id"] for entry in answer.get("Failed", [])] == ["1"]
    return False


def one_large_entry(on: Emulator) -> bool:
    """an entry above `MaximumMessageSize` fails alone"""
    url = on.queue(MaximumMessageSize="1024")
    entries: Any = [{"Id": "0", "MessageBody": "a"}, {"Id": "1", "MessageBody": "x" * 1025}]
    with contextlib.suppress(ClientError):
        answer = on.sqs.send_message_batch(QueueUrl=url, Entries=entries)
        return [entry["Id"] for entry in answer.get("Failed", [])] == ["1"]
    return False


def no_group(on: Emulator) -> bool:
    """FIFO: an entry without a group fails the whole request"""
    url = on.queue(fifo=True)
    entries: Any = [
        {"Id": "0", "MessageBody": "a", **in_group("g")},
        {"Id": "1", "MessageBody": "b", "MessageDeduplicationId": "d"},
    ]
    return refused(lambda: on.sqs.send_message_batch(QueueUrl=url, Entries=entries))


def fifo_delay(on: Emulator) -> bool:
    """FIFO: a delay of one message is refused"""
    url = on.queue(fifo=True)
    return refused(lambda: on.send(url, DelaySeconds=1, **in_group("g")))


def group_with_space(on: Emulator) -> bool:
    """FIFO: a group with a space is refused"""
    url = on.queue(fifo=True)
    return refused(lambda: on.send(url, **in_group("a b")))


def given_back_alone(on: Emulator) -> bool:
    """FIFO: the first of a batch, given back, comes although later ones of its group are held"""
    url = on.queue(fifo=True)
    for body in "abc":
        on.send(url, body, **in_group("g"))
    held = on.receive(url, 3)
    assert [message["Body"] for message in held] == ["a", "b", "c"]
    on.sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=held[0]["ReceiptHandle"], VisibilityTimeout=0)
    return [message["Body"] for message in on.receive(url, 3)] == ["a"]


def expired_handle(on: Emulator) -> bool:
    """FIFO: a delete with an expired handle is an error"""
    url = on.queue(fifo=True)
    on.send(url, **in_group("g"))
    (message,) = on.receive(url, VisibilityTimeout=1)
    # The end of a visibility timeout is not announced; two seconds are twice of it.
    time.sleep(2)
    return refused(lambda: on.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"]))


def deduplication_scope(on: Emulator) -> bool:
    """FIFO: the scope of deduplication can be the group"""
    url = on.queue(fifo=True, DeduplicationScope="messageGroup", FifoThroughputLimit="perMessageGroupId")
    on.send(url, "a", **in_group("g", "one"))
    on.send(url, "b", **in_group("h", "one"))
    return {message["Body"] for message in [*on.receive(url, 10), *on.receive(url, 10)]} == {"a", "b"}


def deduplication_after_delete(on: Emulator) -> bool:
    """FIFO: what was deleted is still known to deduplication"""
    url = on.queue(fifo=True)
    on.send(url, **in_group("g", "one"))
    (message,) = on.receive(url)
    on.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    on.send(url, **in_group("g", "one"))
    return not on.receive(url)


def attempt_id(on: Emulator) -> bool:
    """FIFO: a receive is repeated by its `ReceiveRequestAttemptId`"""
    url = on.queue(fifo=True)
    on.send(url, **in_group("g"))
    first = on.receive(url, ReceiveRequestAttemptId="one")
    again = on.receive(url, ReceiveRequestAttemptId="one")
    return [each["MessageId"] for each in first] == [each["MessageId"] for each in again]


def dead_letters_keep_counting(on: Emulator) -> bool:
    """the redrive policy moves after `maxReceiveCount` receives, and the count goes on"""
    dead = on.queue()
    policy = f'{{"deadLetterTargetArn": "{on.arn(dead)}", "maxReceiveCount": 1}}'
    url = on.queue(RedrivePolicy=policy)
    on.send(url)
    assert on.receive(url, VisibilityTimeout=0)
    on.receive(url)
    found = on.receive(dead, MessageSystemAttributeNames=["ApproximateReceiveCount"])
    return bool(found) and int(found[0]["Attributes"]["ApproximateReceiveCount"]) == 2


def move_task(on: Emulator) -> bool:
    """dead letters are moved back by `StartMessageMoveTask`"""
    dead = on.queue()
    policy = f'{{"deadLetterTargetArn": "{on.arn(dead)}", "maxReceiveCount": 1}}'
    url = on.queue(RedrivePolicy=policy)
    on.send(dead)
    with contextlib.suppress(ClientError):
        on.sqs.start_message_move_task(SourceArn=on.arn(dead))
        return bool(on.receive(url))
    return False


def second_purge(on: Emulator) -> bool:
    """a second purge within a minute is refused"""
    url = on.queue()
    on.sqs.purge_queue(QueueUrl=url)
    return refused(lambda: on.sqs.purge_queue(QueueUrl=url), "PurgeQueueInProgress")


def name_after_delete(on: Emulator) -> bool:
    """a name is not free for a minute after its deletion"""
    url = on.queue()
    on.sqs.delete_queue(QueueUrl=url)
    on.made.remove(url)
    return refused(lambda: on.made.append(on.sqs.create_queue(QueueName=url.rpartition("/")[2])["QueueUrl"]))


def other_attributes(on: Emulator) -> bool:
    """a queue that exists with other attributes is not created"""
    url = on.queue(VisibilityTimeout="30")
    return refused(
        lambda: on.sqs.create_queue(QueueName=url.rpartition("/")[2], Attributes={"VisibilityTimeout": "40"})
    )


def wrong_attribute(on: Emulator) -> bool:
    """attributes of a queue out of range are refused"""
    return refused(lambda: on.queue(VisibilityTimeout=str(ABOVE_12_HOURS)))


def missing_queue(on: Emulator) -> bool:
    """a missing queue has the code `AWS.SimpleQueueService.NonExistentQueue`"""
    try:
        on.sqs.get_queue_url(QueueName=f"q-{os.urandom(6).hex()}")
    except ClientError as error:
        return error.response.get("Error", {}).get("Code") == "AWS.SimpleQueueService.NonExistentQueue"
    return False


CHECKS: dict[str, Callable[[Emulator], bool]] = {
    cast("str", check.__doc__): check
    for check in (
        has_topics,
        queue_policy,
        unknown_keys,
        long_delay,
        long_visibility,
        second_delete,
        stale_handle,
        maximum_size,
        size_in_bytes,
        attributes_count,
        eleven_attributes,
        empty_attribute,
        control_characters,
        one_bad_entry,
        one_large_entry,
        missing_queue,
        other_attributes,
        wrong_attribute,
        name_after_delete,
        second_purge,
        dead_letters_keep_counting,
        move_task,
        no_group,
        group_with_space,
        fifo_delay,
        given_back_alone,
        expired_handle,
        deduplication_scope,
        deduplication_after_delete,
        attempt_id,
    )
}


@pytest.fixture(scope="module", params=sqs.FLAVOURS)
def emulator(
    request: pytest.FixtureRequest, start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap]
) -> Iterator[tuple[str, Emulator]]:
    flavour = sqs.flavour(request.param)
    with start_or_skip(lambda: sqs.start(flavour=flavour)) as running:
        clients = Emulator(f"http://127.0.0.1:{urlsplit(running.tap.url).port}")
        yield flavour, clients
        clients.sqs.close()
        clients.sns.close()


@pytest.mark.parametrize("name", CHECKS)
def test_every_deviation_is_listed_and_every_listed_one_is_true(emulator: tuple[str, Emulator], name: str) -> None:
    flavour, on = emulator
    is_as_sqs = CHECKS[name](on)
    for url in on.made:
        on.sqs.delete_queue(QueueUrl=url)
    on.made.clear()
    listed = DEVIATIONS[flavour].get(name)
    if is_as_sqs:
        assert listed is None, "this deviation is none any more: take it out of emulators.toml"
    else:
        assert listed, "add to emulators.toml what it does instead"


def test_only_checks_are_listed() -> None:
    assert set(DEVIATIONS) == set(sqs.FLAVOURS)
    assert {name for listed in DEVIATIONS.values() for name in listed} <= CHECKS.keys()


def test_the_page_has_the_list() -> None:
    lines = ["| SQS | ministack | ElasticMQ |", "| --- | --- | --- |"]
    for name in CHECKS:
        cells = [DEVIATIONS[flavour].get(name, "yes") for flavour in ("ministack", "elasticmq")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    assert "\n".join(lines) in PAGE.read_text(encoding="utf-8")
