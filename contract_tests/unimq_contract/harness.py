"""How the tests wait: limits of time per backend, and the waits that use them. No test holds a literal limit.

Three kinds of time: `Bounds.within` is how long something that must happen may take (generous, it only ends a hopeless
wait), `Bounds.quiet` is how long to look on before saying that nothing more comes (after a marker message came, never
instead of one), `Bounds.tolerance` is by how much two clocks may disagree.
"""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl, urlsplit

import unimq
from unimq_contract.brokers import RunningTap
from unimq_contract.fronts import Front

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of time of one backend, in seconds."""

    within: float
    """By when something that must happen has happened."""
    quiet: float
    """How long to look on, after the marker, before saying that nothing more comes."""
    wake: float
    """By when a message reaches a `receive` that waits for it (R4)."""
    tolerance: float = 0.05
    """By how much the broker's clock and ours may disagree."""
    delay: float = 0.5
    """Shortest delay, ttl and lease that the tests use; SQS counts in whole seconds."""
    crash: float = 0.0
    """By when the messages of a killed consumer return, on top of `within` (session timeouts, leases)."""
    young: float = 0.0
    """How long after its declaration a queue may not survive ``kill -9`` of its broker. RabbitMQ writes the name of a
    new quorum queue to disk within a second or so, apart from its log: until then confirmed messages go with it."""
    backlog: int = 300
    """Messages of a test that wants many."""
    programs: tuple[int, int] = (8, 30)
    """Number of random programs for the model, and steps of each."""

    def stressed(self, factor: float) -> "Bounds":
        """Return the limits for a machine that is `factor` times as slow."""
        return replace(
            self,
            within=self.within * factor,
            quiet=self.quiet * factor,
            wake=self.wake * factor,
            tolerance=self.tolerance * factor,
            crash=self.crash * factor,
        )


_BOUNDS = {
    "memory": Bounds(within=5.0, quiet=0.02, wake=0.5, delay=0.4, programs=(50, 50)),
    "amqp": Bounds(within=15.0, quiet=0.15, wake=2.0, young=2.0),
    "kafka": Bounds(within=30.0, quiet=0.3, wake=2.0, crash=60.0, programs=(3, 25)),
    "sqs": Bounds(within=30.0, quiet=0.3, wake=3.0, tolerance=0.2, delay=1.0, crash=40.0, programs=(3, 25)),
}
_OTHER_BOUNDS = Bounds(within=30.0, quiet=0.3, wake=3.0, crash=60.0, delay=1.0)

_OPTIONS = {"memory": {"max_message_bytes": "1000000"}, "sqs": {"wait": "1"}}
"""URL options, unless the URL has them, that make the same tests quick: a smaller limit, shorter last long polls."""


@dataclass(slots=True)
class Backend:
    """One broker under test."""

    name: str
    """How test ids call it; never a password in it."""
    url: str
    bounds: Bounds
    tap: RunningTap | None = None
    """The broker on tap, if it is one of ours: it can be killed, frozen and started again."""
    emulator: bool = False
    given: str = ""
    """The URL without the options that the harness adds to make tests quick."""
    mutant: str = ""
    """Name of the fault that is put around its adapter (`unimq_contract.mutants`)."""
    mutant_of: "Backend | None" = None

    @property
    def scheme(self) -> str:
        """Scheme of the URL."""
        return urlsplit(self.url).scheme

    @property
    def in_process(self) -> bool:
        """Whether other processes cannot reach this broker."""
        return self.scheme.startswith("memory")

    def with_options(self, **options: str) -> str:
        """Return the URL with further options."""
        joined = "&".join(f"{name}={value}" for name, value in options.items())
        return f"{self.url}{'&' if '?' in self.url else '?'}{joined}"


def backend_at(url: str, *, stress: float, name: str = "", tap: RunningTap | None = None) -> Backend:
    """Return the backend behind a URL, with the limits for its scheme."""
    emulator = tap is not None and tap.tap.label == "emulator"
    bounds = _BOUNDS.get(family(url), _OTHER_BOUNDS).stressed(stress)
    backend = Backend(name or _shown(url), url, bounds, tap, emulator, url)
    given = dict(parse_qsl(urlsplit(url).query))
    missing = {option: value for option, value in _OPTIONS.get(family(url), {}).items() if option not in given}
    if missing:
        backend.url = backend.with_options(**missing)
    return backend


def family(url: str) -> str:
    """Return the scheme without what only says how it is reached: ``amqps`` is ``amqp``, ``sqs+http`` is ``sqs``."""
    scheme = urlsplit(url).scheme.partition("+")[0]
    return "amqp" if scheme == "amqps" else scheme


def _shown(url: str) -> str:
    """Return what a test id shows of a URL: scheme and hosts, neither account nor options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


class Harness:
    """One test's view of the backend under test: its limits, and waits within them."""

    def __init__(self, backend: Backend, capabilities: unimq.Capabilities, within: float | None = None) -> None:
        self.backend = backend
        self.bounds = backend.bounds if within is None else replace(backend.bounds, within=within)
        self.capabilities = capabilities
        self._marks = itertools.count(1)

    def receive(self, consumer: unimq.Consumer[T], count: int) -> list[unimq.Delivery[T]]:
        """Receive exactly `count` messages, or fail saying what came."""
        received: list[unimq.Delivery[T]] = []
        deadline = time.monotonic() + self.bounds.within
        while len(received) < count:
            left = deadline - time.monotonic()
            assert left > 0, (
                f"{len(received)} of {count} messages came within {self.bounds.within} s: {shown(received)}"
            )
            received += consumer.receive(count - len(received), timeout=left)
        return received

    def receive_one(self, consumer: unimq.Consumer[T]) -> unimq.Delivery[T]:
        """Receive one message, or fail."""
        return self.receive(consumer, 1)[0]

    def nothing_else(self, queue: unimq.Queue | unimq.Topic, broker: unimq.Broker, *consumers: unimq.Consumer) -> None:
        """Fail if the consumers get anything but a marker that is sent now; it is acked and not seen by anybody else.

        The consumers are all those that can get the marker: several of one queue, or one of each subscription of a
        topic.
        """
        mark = f"marker-{next(self._marks)}".encode()
        with broker.producer(queue) as producer:
            producer.send(mark)
        wanted = len(consumers) if isinstance(queue, unimq.Topic) else 1
        marks = 0
        deadline = time.monotonic() + self.bounds.within
        while marks < wanted:
            assert time.monotonic() < deadline, f"{marks} of {wanted} markers came back within {self.bounds.within} s"
            for consumer in consumers:
                marks += self._take_mark(consumer, mark, self.bounds.quiet)
        for consumer in consumers:
            surplus = self._take_mark(consumer, mark, self.bounds.quiet)
            assert not surplus, "the marker came twice"
            consumer.settle()

    @staticmethod
    def _take_mark(consumer: unimq.Consumer, mark: bytes, timeout: float) -> int:
        found = consumer.receive(10, timeout=timeout)
        others = [delivery for delivery in found if delivery.body != mark]
        assert not others, f"nothing more was to come, but there came {shown(others)}"
        consumer.ack(found)
        return len(found)

    def is_empty(self, queue: unimq.Queue, broker: unimq.Broker) -> None:
        """Fail if the queue gives a new consumer anything but a marker."""
        with broker.consumer(queue) as consumer:
            self.nothing_else(queue, broker, consumer)

    def eventually(self, condition: Callable[[], T | None], what: str) -> T:
        """Return what `condition` returns as soon as that is true, or fail. For state that nothing announces."""
        deadline = time.monotonic() + self.bounds.within
        while not (found := condition()):
            assert time.monotonic() < deadline, f"not within {self.bounds.within} s: {what}"
            time.sleep(min(0.02, self.bounds.quiet))
        return found


class Background(Generic[T]):
    """A call in a thread of its own: what a scenario does at the same time as something else."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._result: list[T] = []
        self._error: BaseException | None = None
        self.began_at = time.monotonic()
        self.ended_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="contract-background", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result.append(self._call())
        except BaseException as error:
            self._error = error
        self.ended_at = time.monotonic()

    def result(self, within: float) -> T:
        """Return or raise what the call did, or fail if it has not ended by then."""
        self._thread.join(within)
        assert not self._thread.is_alive(), f"the call in the background did not end within {within} s"
        if self._error is not None:
            raise self._error
        return self._result[0]


def in_background(calls: Iterable[Callable[[], T]]) -> list[Background[T]]:
    """Start calls side by side."""
    return [Background(call) for call in calls]


def shown(deliveries: Sequence[unimq.Delivery[Any]]) -> str:
    """Return deliveries for an error message."""
    first = [f"{delivery.body[:40]!r} (attempt {delivery.attempt})" for delivery in deliveries[:10]]
    return ", ".join(first + ["…"] * (len(deliveries) > 10)) or "none"


def bodies(deliveries: Iterable[unimq.Delivery]) -> list[bytes]:
    """Return the bodies, sorted: without ordering="key" no order is promised (O2)."""
    return sorted(delivery.body for delivery in deliveries)


def numbered(count: int, first: int = 1) -> list[bytes]:
    """Return that many different bodies, which sort in the order of their numbers."""
    return [b"%05d" % number for number in range(first, first + count)]


class Destinations:
    """Names of one test: fresh, telling, short enough for every name derived from them; deleted at its end."""

    _LONGEST = 44
    """Of a test's own part: 80 less a dash, 8 random characters, a subscription, ``-dead`` and ``.fifo``."""

    def __init__(self, test: str) -> None:
        self._test = "".join(c if c.isalnum() and c.isascii() else "-" for c in test)[: self._LONGEST].strip("-")
        self._made: list[unimq.Queue | unimq.Topic | unimq.Subscription] = []

    def name(self, length: int = 0) -> str:
        """Return a name that nobody used before, with at least `length` characters."""
        return f"{self._test}-{os.urandom(4).hex()}".ljust(length, "x")

    def queue(self, name: str = "", /, **policy: Any) -> unimq.Queue:
        """Return a queue with a fresh name, or this one, and these policies; it is not declared."""
        queue = unimq.Queue(name or self.name(), **policy)
        self._made.append(queue)
        return queue

    def topic(self, name: str = "", /, **policy: Any) -> unimq.Topic:
        """Return a topic with a fresh name, or this one; it is not declared."""
        topic = unimq.Topic(name or self.name(), **policy)
        self._made.append(topic)
        return topic

    def subscription(self, topic: unimq.Topic, name: str, **policy: Any) -> unimq.Subscription:
        """Return a subscription of a topic; it is not declared."""
        subscription = topic.subscription(name, **policy)
        self._made.insert(0, subscription)
        return subscription

    @staticmethod
    def bare(destination: unimq.Queue | unimq.Topic | unimq.Subscription) -> unimq.Queue | unimq.Subscription:
        """Return what a consumer would read of it, without any policy."""
        if isinstance(destination, unimq.Subscription):
            return unimq.Topic(destination.topic.name).subscription(destination.name)
        return unimq.Queue(destination.name)

    def delete(self, broker: unimq.Broker) -> None:
        """Delete all of them with their dead-letter queues."""
        for destination in self._made:
            if not isinstance(destination, unimq.Queue) and not broker.capabilities.topics:
                continue
            broker.delete(destination)
            if not isinstance(destination, unimq.Topic):
                queue = destination if isinstance(destination, unimq.Queue) else destination.queue
                if queue.dead_letters is not None:
                    broker.delete(queue.dead_letters)
        self._made.clear()


class Connections:
    """The broker connections that one test opened, through its front."""

    def __init__(self, front: Front, backend: Backend) -> None:
        self.front = front
        self.backend = backend
        self._open: list[unimq.Broker] = []

    def __call__(self, url: str | None = None, **options: str) -> unimq.Broker:
        """Connect to the backend under test, or to `url`; closed at the end of the test."""
        broker = self.front.connect(
            url or (self.backend.with_options(**options) if options else self.backend.url),
            timeout=self.backend.bounds.within,
        )
        self._open.append(broker)
        return broker

    def close(self) -> None:
        """Close all of them. They stay referenced, so that nothing is released but by closing."""
        for broker in self._open:
            broker.close(timeout=self.backend.bounds.within)
