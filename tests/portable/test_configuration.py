"""URLs, options, names and policies: each mistake names the wrong thing and the right one, before any I/O."""

# What the tests hand around as `Any` and as lambdas is theirs alone; mypy checks it strictly all the same.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

import sys
from datetime import timedelta
from typing import Any

import pytest

import unimq
from unimq import ConfigError, Queue, Subscription, Topic, Unsupported
from unimq._url import parse_url


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("memory", "scheme://host:port"),
        ("", "scheme://host:port"),
        ("carrier-pigeon://x", "no adapter for scheme 'carrier-pigeon'; valid: amqp, amqps, kafka"),
        ("memry://", "did you mean 'memory'"),
        ("manual://h:port", "the port of host 'h' in the URL is no number"),
        ("manual://h:0", "port 0 of host 'h' in the URL: expected 1 to 65535"),
        ("manual://h:65536", "port 65536"),
        ("manual://h:-1", "is no number"),
        ("manual://h:", "is no number"),
        ("manual://:9092", "expected host or host:port"),
        ("manual://a,,b", "expected host or host:port"),
        ("manual://h?linger=5", "unknown option 'linger' for manual://; did you mean 'linger_ms'"),
        ("manual://h?linger_ms=soon", "option 'linger_ms' of manual://: Expected `int`"),
        ("manual://h?linger_ms=1&linger_ms=2", "option 'linger_ms' is given twice"),
        ("manual://h?declare=maybe", "must be true or false"),
        ("memory://h:1", "expected memory:// or memory://NAME"),
        ("memory://user@h", "takes no credentials"),
        ("memory://?private=perhaps", "option 'private'"),
    ],
)
def test_wrong_urls(adapter: Any, url: Any, what: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        unimq.connect(url)
    assert what in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "manual://user:s3cr3t@host:port",
        "manual://user:s3cr3t@host?typo=1",
        "manual://s3cr3t-without-host:s3cr3t",
        "manual://user:s3c@r3t@host",
        "nothing://user:s3cr3t@host",
    ],
)
def test_passwords_never_appear_in_errors(adapter: Any, url: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        unimq.connect(url)
    assert "r3t" not in str(caught.value).replace("s3cr3t-without-host", "")


def test_passwords_never_appear_in_texts(adapter: Any) -> None:
    with unimq.connect("manual://user:s3cr3t@host:1/path?linger_ms=3") as broker:
        assert "s3cr3t" not in repr(broker)
        url, options = adapter.connected_with
        assert "s3cr3t" not in f"{url} {url!r}"
        assert (url.user, url.password, options.linger_ms) == ("user", "s3cr3t", 3)


def test_urls_in_full() -> None:
    url = parse_url("kafka://us%40er:p%3Aw@a:1,b,[::1]:3/v%2Fhost?x=1&y=%20")
    assert url.hosts == (("a", 1), ("b", None), ("::1", 3))
    assert (url.scheme, url.user, url.password, url.path) == ("kafka", "us@er", "p:w", "v/host")
    assert url.options == {"x": "1", "y": " "}
    assert str(url) == "kafka://us@er:***@a:1,b,[::1]:3/v/host"
    assert (parse_url("amqp://h").path, parse_url("amqp://h/").path) == (None, "")


def test_url_from_the_environment(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIMQ_URL", "manual://from-environment")
    with unimq.connect():
        assert adapter.connected_with[0].hosts == (("from-environment", None),)
    monkeypatch.delenv("UNIMQ_URL")
    with pytest.raises(ConfigError, match="set UNIMQ_URL"):
        unimq.connect()


def test_a_missing_client_library_names_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pika", None)
    for name in [name for name in sys.modules if name.startswith("unimq_rabbitmq")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(unimq.MissingDependency, match=r"pip install 'unimq\[rabbitmq\]'") as caught:
        unimq.connect("amqp://localhost")
    assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize("name", ["", "a.b", "a b", "ü", "x" * 76, "a/b", None, 5])
def test_wrong_queue_names(driver: Any, name: Any) -> None:
    with unimq.connect("manual://") as broker, pytest.raises(ConfigError):
        broker.producer(name)
    assert driver.declared == []


any_queue: Any = Queue
any_topic: Any = Topic
"""Without types, for what the type checkers would refuse already."""


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: any_queue("q", ordering="fifo"), 'ordering must be "none" or "key"'),
        (lambda: any_queue("q", overflow="block"), 'overflow must be "reject" or "drop_oldest"'),
        (lambda: any_queue("q", ttl=0), "ttl must be more than 0 seconds"),
        (lambda: any_queue("q", ttl="1h"), "ttl must be seconds"),
        (lambda: any_queue("q", lease=-1), "lease must be more than 0"),
        (lambda: any_queue("q", max_length=0), "max_length must be a whole number"),
        (lambda: any_queue("q", max_deliveries=1.5), "max_deliveries must be a whole number"),
        (lambda: any_queue("x" * 76), "at most 75"),
        (lambda: any_queue("x" * 71, ordering="key"), "at most 70"),
        (lambda: any_topic("a--b"), "'--' is reserved"),
        (lambda: any_topic("t", ordering="total"), "ordering must be"),
        (lambda: any_topic("t").subscription("s", start="yesterday"), 'start must be "now" or "earliest"'),
        (lambda: any_topic("t").subscription("s", leese=3), "unknown policy 'leese'; valid: dead_letter"),
        (lambda: any_topic("t" * 40).subscription("s" * 40), "has 82 characters"),
    ],
)
def test_wrong_policies(make: Any, what: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert what in str(caught.value)


def dead_letter_queue(queue: Queue) -> Queue:
    assert queue.dead_letters is not None
    return queue.dead_letters


def test_derived_names() -> None:
    queue = Queue("orders", ttl=timedelta(minutes=1))
    assert queue.ttl_seconds == 60
    assert dead_letter_queue(queue).name == "orders-dead"
    assert dead_letter_queue(queue).dead_letters is None
    assert Queue("orders-dead").dead_letters is None
    assert Queue("orders", dead_letter=False).dead_letters is None
    subscription = Topic("events").subscription("audit", max_deliveries=3)
    assert subscription.queue.name == "events--audit"
    assert subscription.queue.max_deliveries == 3
    assert dead_letter_queue(subscription.queue).name == "events--audit-dead"
    assert subscription == Subscription(Topic("events"), "audit", max_deliveries=3)
    assert subscription != Topic("events").subscription("audit")
    assert len({subscription, Subscription(Topic("events"), "audit", max_deliveries=3)}) == 1
    assert dead_letter_queue(Queue("x" * 75)).name == "x" * 75 + "-dead"
    assert dead_letter_queue(Queue("any.name you like", portable_name=False)).name == "any.name you like-dead"


@pytest.mark.parametrize(
    ("destination", "feature"),
    [
        (Queue("q", max_length=5, overflow="drop_oldest"), "drop_oldest"),
        (Topic("t").subscription("s", start="earliest"), "start_earliest"),
    ],
)
def test_unsupported_policies_raise_before_io(driver: Any, destination: Any, feature: Any) -> None:
    """Principle 2."""
    with unimq.connect("manual://") as broker:
        for call in (broker.declare, broker.consumer):
            with pytest.raises(Unsupported, match=f"{feature} on manual") as caught:
                call(destination)
            assert caught.value.alternative
    assert driver.declared == []


def test_destinations_are_declared_once_and_in_order(driver: Any) -> None:
    subscription = Topic("events").subscription("audit")
    with unimq.connect("manual://") as broker:
        broker.consumer(subscription)
        assert [(getattr(each, "name", None), as_is) for each, as_is in driver.declared] == [
            ("events", False),
            ("events--audit-dead", True),
            ("audit", False),
        ]
        driver.declared.clear()
        broker.producer("orders")
        broker.producer("orders")
        assert [(each.name, as_is) for each, as_is in driver.declared] == [("orders-dead", True), ("orders", True)]


def test_nothing_is_declared_if_the_url_says_so(driver: Any) -> None:
    with unimq.connect("manual://?declare=false") as broker:
        broker.producer("orders")
        broker.consumer("orders")
    assert driver.declared == []
    assert [each.name for each in driver.checked] == ["orders", "orders-dead"]


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda broker: broker.producer(Topic("t").subscription("s")), "send to its topic"),
        (lambda broker: broker.consumer(Topic("t")), "consume one of its subscriptions"),
        (lambda broker: broker.stats(Topic("t")), "name one of its subscriptions"),
        (lambda broker: broker.consumer("t--s"), "use Topic('t').subscription('s')"),
        (lambda broker: broker.consumer(b"q"), "a destination is a str, Queue, Topic or Subscription, not bytes"),
        (lambda broker: broker.consumer("q", prefetch=0), "prefetch must be a whole number"),
        (lambda broker: broker.producer("q", window=0), "window must be a whole number"),
        (lambda broker: broker.producer("q", timeout=0), "timeout must be more than 0"),
        (lambda broker: broker.close(timeout=-1), "timeout must be at least 0"),
    ],
)
def test_wrong_calls(driver: Any, call: Any, what: Any) -> None:
    with unimq.connect("manual://") as broker:
        with pytest.raises(ConfigError) as caught:
            call(broker)
        assert what in str(caught.value)


def test_everything_is_closed_once_and_in_order(driver: Any) -> None:
    """L1."""
    broker = unimq.connect("manual://")
    producer, consumer = broker.producer("orders"), broker.consumer("orders")
    broker.close()
    broker.close()
    consumer.close()
    producer.close()
    assert [sender.closed for sender in driver.senders] == [1, 1]
    assert [receiver.closed for receiver in driver.receivers] == [1]
    assert driver.closed == 1
    for call in (lambda: broker.producer("x"), lambda: producer.send(b"x"), lambda: consumer.receive(timeout=0)):
        with pytest.raises(unimq.Closed):
            call()


def test_a_consumer_that_cannot_be_opened_leaves_nothing_open(driver: Any) -> None:
    """L4: its way to the dead letters was opened before."""

    def refused(*_: object, **__: object) -> None:
        raise unimq.NotFound("no such queue")

    driver.open_receiver = refused
    with unimq.connect("manual://") as broker:
        with pytest.raises(unimq.NotFound):
            broker.consumer("orders")
        assert [sender.closed for sender in driver.senders] == [1]


def test_stats_count_the_dead_letters(driver: Any) -> None:
    """T4."""
    with unimq.connect("manual://") as broker:
        assert broker.stats("orders").dead_letters == 7
        assert broker.stats("orders-dead").dead_letters is None


def test_errors_survive_pickling() -> None:
    """They cross process borders in worker pools."""
    import pickle

    unsupported = pickle.loads(pickle.dumps(Unsupported("delay on x", "too long", "less")))  # noqa: S301
    assert str(unsupported) == "delay on x: too long. Use instead: less"
    rejected = unimq.SendRejected("no", message_id="m1", outcomes=[unimq.Receipt("m2", None)])
    copied = pickle.loads(pickle.dumps(rejected))  # noqa: S301
    assert (copied.args, copied.message_id, copied.outcomes) == (("no",), "m1", (unimq.Receipt("m2", None),))
