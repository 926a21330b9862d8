"""What a URL may say, and what it is told when it is wrong; nothing secret is shown."""

from dataclasses import replace
from typing import Literal

import msgspec
import pytest
from unimq_sqs import SQSAdapter, SQSOptions
from unimq_sqs._directory import name_at_aws
from unimq_sqs._options import Settings, read_settings
from unimq_sqs._policies import from_tag, in_force, to_tag

from unimq import ConfigError, DeclarationConflict, Queue, Topic
from unimq._adapters import read_options
from unimq._url import parse_url


def _settings(text: str) -> Settings:
    url = parse_url(text)
    options, _ = read_options(SQSAdapter(), url)
    return read_settings(url, msgspec.convert(options, SQSOptions, from_attributes=True))


def test_aws() -> None:
    found = _settings("sqs://?region=eu-west-1&endpoint=https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com")
    assert (found.region, found.is_emulator) == ("eu-west-1", False)
    assert found.endpoint == "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com:443"
    assert found.access_key is None


def test_an_emulator() -> None:
    found = _settings("sqs+http://key:se%2Fcret@127.0.0.1:4566/?wait=1")
    assert (found.endpoint, found.sns_endpoint, found.region) == ("http://127.0.0.1:4566",) * 2 + ("us-east-1",)
    assert (found.access_key, found.secret_key) == ("key", "se/cret")
    assert "cret" not in repr(found)


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("sqs://key:hunter2@/?region=eu-west-1", "profile"),
        ("sqs://somewhere/?region=eu-west-1", "endpoint"),
        ("sqs:///path", "named in the program"),
        ("sqs://?region=EU!", "eu-west-1"),
        ("sqs://?endpoint=http://x", "https://host"),
        ("sqs://?endpoint=https://key:hunter2@x", "https://host"),
        ("sqs://?sns_endpoint=https://x:99999", "https://host"),
        ("sqs+http://127.0.0.1:1", "KEY:SECRET"),
        ("sqs+http://key@127.0.0.1:1", "KEY:SECRET"),
        ("sqs+http://key:hunter2@a:1,b:2", "HOST:PORT"),
        ("sqs+http://key:hunter2@a:1/?profile=x", "sqs:// only"),
        ("sqs+http://key:hunter2@a:1/?wait=21", "<= 20"),
        ("sqs+http://key:hunter2@a:1/?visibility=1", ">= 2"),
        ("sqs+http://key:hunter2@a:1/?linger=1", "valid"),
        ("sqs+http://key:hunter2@a:1/?http=fats", "botocore, fast"),
        ("sqs+http://key:hunter2@a:1/?idle_wait=21", "<= 20"),
        ("sqs+http://key:hunter2@a:1/?collect_ms=-1", ">= 0"),
    ],
)
def test_wrong_urls(url: str, hint: str) -> None:
    with pytest.raises(ConfigError, match="(?i)" + hint) as caught:
        _settings(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("options", "longest"), [("", 20), ("&idle_wait=3", 5), ("&wait=8&idle_wait=12", 12)])
def test_an_idle_poll_is_never_shorter_than_a_busy_one(options: str, longest: int) -> None:
    settings = _settings(f"sqs+http://key:hunter2@a:1/?region=us-east-1{options}")
    assert settings.longest_wait == longest


QUEUE = Queue("q", ttl=60, lease=2.5, max_deliveries=5, dead_letter=False)


@pytest.mark.parametrize("queue", [Queue("q"), QUEUE, Queue("q-dead"), Queue("q-dead", dead_letter=True)])
def test_policies_survive_in_the_tag(queue: Queue) -> None:
    tag = to_tag(queue)
    assert len(tag) <= 256
    assert tag
    assert all(char.isalnum() or char in " _.:/=+-@" for char in tag)
    assert Queue(queue.name, **from_tag(tag)) == queue
    assert in_force(Queue("q"), to_tag(QUEUE), is_fifo=False, as_is=True) == QUEUE


def test_other_policies_conflict_and_unknown_ones_do_not() -> None:
    with pytest.raises(DeclarationConflict, match=r"lease is 2\.5, not None"):
        in_force(Queue("q"), to_tag(QUEUE), is_fifo=False, as_is=False)
    assert in_force(QUEUE, None, is_fifo=False, as_is=False) == QUEUE
    assert in_force(Queue("q"), "default shape=round", is_fifo=False, as_is=False) == Queue("q")
    subscription = Topic("t").subscription("s", ttl=5)
    assert in_force(subscription, to_tag(subscription.queue), is_fifo=False, as_is=False) == subscription


@pytest.mark.parametrize("tag", [None, to_tag(QUEUE)])
def test_the_ordering_in_force_is_the_kind_of_the_queue(tag: str | None) -> None:
    ordered = replace(QUEUE, ordering="key")
    assert in_force(QUEUE, tag, is_fifo=True, as_is=True) == ordered
    assert in_force(ordered, tag, is_fifo=True, as_is=False) == ordered
    with pytest.raises(DeclarationConflict, match="ordering is 'key', not 'none'"):
        in_force(QUEUE, tag, is_fifo=True, as_is=False)
    with pytest.raises(DeclarationConflict, match="ordering is 'none', not 'key'"):
        in_force(ordered, tag, is_fifo=False, as_is=False)


def test_the_ordering_of_a_subscription_is_that_of_its_topic() -> None:
    subscription = Topic("t").subscription("s", ttl=5)
    ordered = Topic("t", "key").subscription("s", ttl=5)
    assert in_force(subscription, "ttl=5.0", is_fifo=True, as_is=True) == ordered
    with pytest.raises(DeclarationConflict, match="ordering is 'key', not 'none'"):
        in_force(subscription, "ttl=5.0", is_fifo=True, as_is=False)


@pytest.mark.parametrize(
    ("name", "here", "other"),
    [("q", "q", "q.fifo"), ("q.fifo", "q.fifo", "q"), ("q.fifo-dead", "q-dead.fifo", "q-dead")],
)
def test_names_at_aws(name: str, here: str, other: str) -> None:
    ordering: Literal["none", "key"] = "key" if ".fifo" in name else "none"
    queue = Queue(name, ordering=ordering, portable_name=False)
    assert (name_at_aws(queue), name_at_aws(queue, other=True)) == (here, other)


def test_a_name_that_says_fifo_needs_the_ordering() -> None:
    with pytest.raises(ConfigError, match='ordering="key"'):
        name_at_aws(Queue("q.fifo", portable_name=False))
