"""Features tried out although they are declared unsupported: a declaration that refuses what works fails the build.

The portable layer refuses before anything reaches the driver, so a connection is opened through an adapter that claims
the feature. Each probe asks for it in earnest and passes only if it works; on a truthful backend it fails somehow.
"""

import itertools
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import unimq
from unimq._adapters import load_adapter, register_adapter, unregister_adapter
from unimq.adapter import Adapter, BrokerURL, native
from unimq_contract.harness import Destinations, Harness, bodies, numbered

if TYPE_CHECKING:
    import msgspec

Probe = Callable[[unimq.Broker, Destinations, Harness], None]

UNPROBED = {"durable"}
"""Features that only the death of a broker could show."""
_numbers = itertools.count(1)


class ClaimingAdapter:
    """An adapter whose connections declare some features otherwise than they do."""

    def __init__(self, real: Adapter, scheme: str, features: Mapping[str, unimq.Feature]) -> None:
        self.schemes: Sequence[str] = (f"claiming{next(_numbers)}+{scheme}",)
        self.options: type[msgspec.Struct] = real.options
        self.real = real
        self.scheme = scheme
        self.features = features

    def connect(self, url: BrokerURL, options: Any, *, timeout: float) -> Any:
        driver = self.real.connect(replace(url, scheme=self.scheme), options, timeout=timeout)
        claimed: dict[str, Any] = {**self.features}
        return _ClaimingDriver(driver, replace(driver.capabilities, **claimed))


class _ClaimingDriver:
    """A driver with other capabilities."""

    def __init__(self, real: Any, capabilities: unimq.Capabilities) -> None:
        self.real = real
        self.capabilities = capabilities

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


@contextmanager
def declaring(url: str, **features: unimq.Feature) -> Generator[str]:
    """Give the URL under which the backend declares these features so, whatever it does."""
    scheme, _, rest = url.partition("://")
    adapter = cast("Adapter", ClaimingAdapter(load_adapter(scheme), scheme, features))
    register_adapter(adapter)
    try:
        yield f"{adapter.schemes[0]}://{rest}"
    finally:
        unregister_adapter(adapter)


def claiming(url: str, *features: str) -> AbstractContextManager[str]:
    """Give the URL under which the backend claims these features."""
    return declaring(url, **dict.fromkeys(features, native("claimed by a test")))


def probe_topics(broker: unimq.Broker, destinations: Destinations, harness: Harness) -> None:
    topic = destinations.topic()
    subscription = destinations.subscription(topic, "audit")
    broker.declare(subscription)
    with broker.producer(topic) as producer, broker.consumer(subscription) as consumer:
        producer.send(b"news")
        harness.receive_one(consumer).ack()


def probe_start_earliest(broker: unimq.Broker, destinations: Destinations, harness: Harness) -> None:
    topic = destinations.topic()
    with broker.producer(topic) as producer:
        producer.send(b"history")
    with broker.consumer(destinations.subscription(topic, "audit", start="earliest")) as consumer:
        assert bodies(consumer.receive(timeout=harness.bounds.wake)) == [b"history"]


def probe_require_subscription(broker: unimq.Broker, destinations: Destinations, harness: Harness) -> None:
    with broker.producer(destinations.topic(require_subscription=True)) as producer:
        _must_raise(unimq.Unroutable, lambda: producer.send(b"to nobody"))


def probe_ordering_key(broker: unimq.Broker, destinations: Destinations, harness: Harness) -> None:
    """One in flight over two consumers, and the head first after its nack."""
    queue = destinations.queue(ordering="key")
    with (
        broker.producer(queue) as producer,
        # With more, one of them could have everything, and keep the order by itself.
        broker.consumer(queue, prefetch=1) as first,
        broker.consumer(queue, prefetch=1) as second,
    ):

        def come(timeout: float) -> list[unimq.Delivery]:
            return first.receive(5, timeout=timeout) or second.receive(5, timeout=timeout)

        producer.send_many([unimq.Message(body, key="k") for body in numbered(5)])
        for number, expected in enumerate((*numbered(1), *numbered(5))):
            (head,) = harness.eventually(lambda: come(harness.bounds.quiet), "a message comes")
            assert head.body == expected
            assert come(harness.bounds.quiet) == []
            head.ack() if number else head.nack()


def probe_delay(broker: unimq.Broker, destinations: Destinations, harness: Harness) -> None:
    queue = destinations.queue()
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        sent_at = time.monotonic()
        producer.send(b"later", delay=harness.bounds.delay)
        harness.receive_one(consumer).ack()
        assert time.monotonic() - sent_at >= harness.bounds.delay - harness.bounds.tolerance


def probe_ttl(broker: unimq.Broker, destinations: Destinations, harness: Harness) -> None:
    queue = destinations.queue()
    with broker.producer(queue) as producer:
        producer.send(b"late", ttl=harness.bounds.delay)
        producer.send(b"lasting")
    time.sleep(harness.bounds.delay + harness.bounds.tolerance)
    with broker.consumer(queue) as consumer:
        assert harness.receive_one(consumer).body == b"lasting"
        assert consumer.receive(timeout=harness.bounds.quiet) == []


def probe_nack_delay(broker: unimq.Broker, destinations: Destinations, harness: Harness) -> None:
    queue = destinations.queue()
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        producer.send(b"again")
        nacked_at = time.monotonic()
        harness.receive_one(consumer).nack(delay=harness.bounds.delay)
        harness.receive_one(consumer).ack()
        assert time.monotonic() - nacked_at >= harness.bounds.delay - harness.bounds.tolerance


def probe_lease(broker: unimq.Broker, destinations: Destinations, harness: Harness) -> None:
    queue = destinations.queue(lease=harness.bounds.delay)
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        producer.send(b"held too long")
        harness.receive_one(consumer)
        again = consumer.receive(timeout=harness.bounds.delay + harness.bounds.wake * 2)
        assert bodies(again) == [b"held too long"]


def probe_extend(broker: unimq.Broker, destinations: Destinations, harness: Harness) -> None:
    """Of two deliveries, the one that is extended is kept and the other returns."""
    queue = destinations.queue(lease=harness.bounds.delay)
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        producer.send_many([b"kept", b"not kept"])
        for delivery in harness.receive(consumer, 2):
            if delivery.body == b"kept":
                delivery.extend(harness.bounds.within)
        again = consumer.receive(2, timeout=harness.bounds.delay + harness.bounds.wake * 2)
        assert bodies(again) == [b"not kept"]


def probe_max_length(broker: unimq.Broker, destinations: Destinations, harness: Harness) -> None:
    with broker.producer(destinations.queue(max_length=3)) as producer:
        _must_raise(unimq.QueueFull, lambda: [producer.send(body) for body in numbered(20)])


def probe_drop_oldest(broker: unimq.Broker, destinations: Destinations, harness: Harness) -> None:
    queue = destinations.queue(max_length=3, overflow="drop_oldest", dead_letter=False)
    with broker.producer(queue) as producer, broker.consumer(queue, prefetch=1) as consumer:
        producer.send(b"holds the place")
        holder = harness.receive_one(consumer)
        producer.send_many(numbered(20))
        holder.ack()
        left: list[bytes] = []
        while received := consumer.receive(timeout=harness.bounds.wake):
            left += bodies(received)
            consumer.ack(received)
        assert b"00020" in left
        assert b"00001" not in left


def probe_dead_letter(broker: unimq.Broker, destinations: Destinations, harness: Harness) -> None:
    queue = destinations.queue(dead_letter=True)
    dead = queue.dead_letters
    assert dead is not None
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        producer.send(b"bad")
        harness.receive_one(consumer).reject()
        consumer.settle()
    with broker.consumer(dead) as consumer:
        harness.receive_one(consumer).ack()


def probe_redrive_subscription(broker: unimq.Broker, destinations: Destinations, harness: Harness) -> None:
    """The dead letter comes back to its own subscription, and to no other."""
    topic = destinations.topic()
    audit, stock = (destinations.subscription(topic, name) for name in ("audit", "stock"))
    broker.declare(audit, stock)
    with broker.producer(topic) as producer:
        producer.send(b"bad")
    with broker.consumer(audit) as consumer:
        harness.receive_one(consumer).reject()
        consumer.settle()
        broker.redrive(audit)
        harness.receive_one(consumer).ack()
    with broker.consumer(stock) as consumer:
        harness.receive_one(consumer).ack()
        assert consumer.receive(timeout=harness.bounds.quiet) == []


def probe_stats(broker: unimq.Broker, destinations: Destinations, harness: Harness) -> None:
    queue = destinations.queue()
    with broker.producer(queue) as producer:
        producer.send_many(numbered(3))
    harness.eventually(lambda: broker.stats(queue).ready == 3, "3 messages are ready")


def probe_purge(broker: unimq.Broker, destinations: Destinations, harness: Harness) -> None:
    queue = destinations.queue()
    with broker.producer(queue) as producer:
        producer.send_many(numbered(3))
    broker.purge(queue)
    harness.is_empty(queue, broker)


def probe_seek(broker: unimq.Broker, destinations: Destinations, harness: Harness) -> None:
    queue = destinations.queue()
    with broker.producer(queue) as producer:
        producer.send_many(numbered(3))
    with broker.consumer(queue) as consumer:
        consumer.ack(harness.receive(consumer, 3))
        consumer.settle()
    broker.seek(queue, "earliest")
    with broker.consumer(queue) as consumer:
        consumer.ack(harness.receive(consumer, 3))


def probe_pause(broker: unimq.Broker, destinations: Destinations, harness: Harness) -> None:
    queue = destinations.queue()
    with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        consumer.pause()
        producer.send(b"waits")
        assert consumer.receive(timeout=harness.bounds.quiet * 2) == []
        consumer.resume()
        harness.receive_one(consumer).ack()


def _must_raise(kind: type[Exception], call: Callable[[], object]) -> None:
    try:
        call()
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}")


PROBES: dict[str, Probe] = {
    name.removeprefix("probe_"): probe for name, probe in list(globals().items()) if name.startswith("probe_")
}
"""By feature."""
