"""What the portable layer refuses by itself, in both fronts, before anything reaches a driver: URLs, destinations and
policies (E1, S4, P2). No adapter can break these, so they are no tests of the contract suite.
"""

# What the tests hand around as `Any` and as lambdas is theirs alone; mypy checks it strictly all the same.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from unimq_contract.fronts import AsyncioFront, Front, SyncFront

import unimq
from unimq import ConfigError, Queue, Topic, Unsupported
from unimq.adapter import unsupported

SECRET = "Pa55-never-to-be-seen"


@pytest.fixture(params=["sync", "asyncio"])
def front(request: pytest.FixtureRequest) -> Iterator[Front]:
    if request.param == "sync":
        yield SyncFront()
        return
    driven = AsyncioFront()
    yield driven
    driven.close()


@pytest.fixture
def broker(front: Front, driver: Any) -> Iterator[unimq.Broker]:
    """A connection on which nothing was done yet."""
    with front.connect("manual://", timeout=5) as broker:
        yield broker


def untouched(driver: Any) -> bool:
    """Whether nothing was asked of the driver."""
    return [*driver.declared, *driver.checked, *driver.senders, *driver.receivers] == []


def told(error: BaseException | None) -> str:
    """Return everything that somebody could read of an error: itself, its notes and its causes."""
    text = ""
    while error is not None:
        text += f"{error} {error!r} {' '.join(getattr(error, '__notes__', []))} "
        error = error.__cause__ or error.__context__
    return text


def test_there_is_one_tree_of_errors() -> None:
    """E1."""
    names = [name for name in unimq.__all__ if isinstance(getattr(unimq, name), type)]
    raised = [found for name in names if issubclass(found := getattr(unimq, name), Exception)]
    errors = [found for found in raised if issubclass(found, unimq.UnimqError)]
    assert len(errors) == len(raised) >= 18
    retryable = {error.__name__ for error in errors if error.retryable}
    assert retryable == {"BufferFull", "ConnectionLost", "QueueFull", "RequestTimeout", "SendUnknown"}
    assert issubclass(unimq.MissingDependency, ImportError)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        pytest.param("manual://h:1:2", ("port", "65535"), id="two ports"),
        pytest.param("carrier-pigeon://h", ("'carrier-pigeon'", "kafka", "memory"), id="unknown scheme"),
        pytest.param("kafak://h", ("'kafak'", "did you mean 'kafka'"), id="mistyped scheme"),
        pytest.param("manual://h?declare=maybe", ("declare", "true or false"), id="wrong value"),
        pytest.param("manual://h?declare=true&declare=true", ("'declare'", "twice"), id="option twice"),
        pytest.param(f"manual://u:{SECRET}@127.0.0.1:x/", ("port", "65535"), id="port no number"),
        pytest.param(f"manual://u:{SECRET}@127.0.0.1:99999/", ("99999", "65535"), id="port too high"),
        pytest.param(f"manual://:{SECRET}/", ("host",), id="no host"),
        pytest.param(5, ("str", "int"), id="no text"),
    ],
)
def test_a_bad_url_is_refused(front: Front, adapter: Any, url: Any, words: tuple[str, ...]) -> None:
    """E1. What is no URL but a name is looked for in the configuration, whose tests say what is wrong with it then."""
    with pytest.raises(unimq.UnimqError) as caught:
        front.connect(url, timeout=5)
    assert type(caught.value) is ConfigError
    assert [word for word in words if word not in str(caught.value)] == []
    assert SECRET not in told(caught.value)
    assert adapter.connected_with is None


any_queue: Any = Queue
any_topic: Any = Topic
"""Without types, for what the type checkers would refuse already."""


@pytest.mark.parametrize(
    ("call", "words"),
    [
        pytest.param(lambda broker: broker.producer(""), ("''",), id="empty name"),
        pytest.param(lambda broker: broker.producer("two words"), ("'two words'", "letters"), id="space in name"),
        pytest.param(lambda broker: broker.consumer("a/b"), ("'a/b'", "letters"), id="slash in name"),
        pytest.param(lambda broker: broker.declare("x" * 81), ("81", "80"), id="name too long"),
        pytest.param(lambda broker: broker.producer(7), ("int",), id="name no text"),
        pytest.param(lambda broker: broker.producer(any_queue(b"q")), ("b'q'",), id="bytes as name"),
        pytest.param(lambda broker: broker.consumer(Topic("events")), ("topic", "subscription"), id="topic"),
        pytest.param(lambda broker: broker.producer(any_queue("q", ttl=-1)), ("ttl", "-1"), id="ttl below 0"),
        pytest.param(lambda broker: broker.producer(any_queue("q", lease=0)), ("lease", "0"), id="lease of 0"),
        pytest.param(
            lambda broker: broker.producer(any_queue("q", max_length="5")), ("max_length",), id="max_length no number"
        ),
        pytest.param(
            lambda broker: broker.consumer(any_queue("q", max_deliveries=0)),
            ("max_deliveries", "0"),
            id="max_deliveries of 0",
        ),
        pytest.param(
            lambda broker: broker.producer(any_queue("q", ordering="total")), ("'total'", "key"), id="unknown ordering"
        ),
        pytest.param(
            lambda broker: broker.producer(any_queue("q", overflow="wait")), ("'wait'", "reject"), id="unknown overflow"
        ),
        pytest.param(
            lambda broker: broker.consumer(any_topic("t").subscription("audit", ttlInSecond=5)),
            ("'ttlInSecond'", "ttl"),
            id="unknown policy",
        ),
        pytest.param(lambda broker: broker.consumer("q", prefetch=0), ("prefetch", "0"), id="prefetch of 0"),
        pytest.param(lambda broker: broker.producer("q", window=0), ("window", "0"), id="window of 0"),
        pytest.param(lambda broker: broker.producer("q", timeout=-1), ("timeout", "-1"), id="timeout below 0"),
    ],
)
def test_a_bad_destination_is_refused(
    broker: unimq.Broker, driver: Any, call: Callable[[unimq.Broker], object], words: tuple[str, ...]
) -> None:
    """E1, S4."""
    with pytest.raises(unimq.UnimqError) as caught:
        call(broker)
    assert type(caught.value) is ConfigError
    assert [word for word in words if word not in str(caught.value)] == []
    assert (driver.senders, driver.receivers) == ([], [])


NEEDS: dict[str, tuple[Queue | Topic | unimq.Subscription, ...]] = {
    "topics": (Topic("t"), Topic("t").subscription("audit")),
    "start_earliest": (Topic("t").subscription("audit", start="earliest"),),
    "require_subscription": (Topic("t", require_subscription=True),),
    "ordering_key": (Queue("q", ordering="key"), Topic("t", ordering="key")),
    "ttl": (Queue("q", ttl=60), Topic("t").subscription("audit", ttl=60)),
    "lease": (Queue("q", lease=60), Topic("t").subscription("audit", lease=60)),
    "max_length": (Queue("q", max_length=10), Topic("t").subscription("audit", max_length=10)),
    "drop_oldest": (Queue("q", max_length=10, overflow="drop_oldest"),),
    "dead_letter": (Queue("q", dead_letter=True),),
}
"""Destinations by the feature that they need."""


@pytest.mark.parametrize("feature", NEEDS)
def test_an_unsupported_policy_is_refused_before_anything_is_made(front: Front, driver: Any, feature: str) -> None:
    """P2: every policy, however the destination is used, and whether or not it would be declared."""
    driver.capabilities = replace(driver.capabilities, **{feature: unsupported(f"no {feature} here", "something else")})
    for url in ("manual://", "manual://?declare=false"):
        with front.connect(url, timeout=5) as broker:
            for destination in NEEDS[feature]:
                use = broker.producer if not isinstance(destination, unimq.Subscription) else broker.consumer
                for call in (broker.declare, use):
                    with pytest.raises(Unsupported) as caught:
                        call(destination)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
                    assert feature in caught.value.feature
                    assert caught.value.reason == f"no {feature} here"
                    assert caught.value.alternative == "something else"
                    assert f"no {feature} here" in str(caught.value)
                    assert "something else" in str(caught.value)
                    assert not caught.value.retryable
    assert untouched(driver)
