"""Load with everything that goes wrong in practice: several producers, consumers that ack out of order, nack, give up
messages, close with some in hand, and come back after errors. Seeded; what happens is for the judge.
"""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import unimq
from unimq_contract.history.checker import judge
from unimq_contract.history.events import Event
from unimq_contract.history.recording import RecordedDelivery, Recording, RecordingConsumer
from unimq_contract.history.rules import NO_FLOORS, Rules
from unimq_contract.history.verdict import Kind

_NOT_YET = Rules(floors=NO_FLOORS)

RETRY_AFTER = 0.1
"""Seconds until a worker whose connection failed tries again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much of what. Shares are of deliveries; times are seconds."""

    seed: int
    messages: int = 2000
    """In all, at least: producers go on while the faults of the run are under way."""
    producers: int = 2
    consumers: int = 3
    keys: int = 20
    size: int = 100
    """Bytes of a body."""
    rate: float | None = None
    """Messages per second of one producer; `None` for as fast as it goes."""
    prefetch: int = 50
    hold: int = 10
    """Deliveries that a consumer holds before it settles some of them, in any order."""
    nack: float = 0.1
    nack_delay: float = 0.0
    reject: float = 0.0
    close: float = 0.01
    """Share after which the consumer closes with some in hand, and opens again."""
    quiet: float = 0.2
    """For how long nothing must come before the queue counts as empty."""
    patience: float = 0.0
    """For how long to wait, if nothing comes, for confirmed messages that nobody settled: a lease, a session."""
    limit: float = 100.0
    """By when all must be over."""


def run(
    load: Load,
    recording: Recording,
    connect: Callable[[], unimq.Broker],
    target: unimq.Queue | unimq.Topic,
    source: unimq.Queue | unimq.Subscription | None = None,
    *,
    meanwhile: Callable[[], None] | None = None,
    elsewhere: Callable[[], Iterable[Event]] = tuple,
) -> None:
    """Put the load on a queue, or on a topic and a subscription; afterwards drain it and record its depth.

    Args:
        load: how much of what.
        recording: where it is recorded.
        connect: opens a connection; each worker has its own.
        target: where to send.
        source: where to receive; the queue itself if not given.
        meanwhile: called while the load is on: the place for faults, which must be over when it returns.
        elsewhere: gives what other processes recorded, so that what they settled is not waited for.

    Raises:
        TimeoutError: it did not come to an end within the limit.
        Exception: whatever a worker raised that is no `UnimqError`.

    """
    if source is None:
        if isinstance(target, unimq.Topic):
            raise TypeError("a topic needs the subscription to read from")
        source = target
    workers = _Workers(load, recording, connect, target, source)
    with connect() as broker:
        recording.declare(broker, target, source)
    workers.start()
    try:
        if meanwhile is not None:
            meanwhile()
    finally:
        workers.finish()
    with connect() as broker:
        with recording.consumer(broker, source) as consumer:
            _drain(consumer, load, elsewhere)
        recording.depth(broker, source)


def _drain(consumer: RecordingConsumer, load: Load, elsewhere: Callable[[], Iterable[Event]]) -> None:
    def missing() -> bool:
        return judge([*consumer.history.events, *elsewhere()], _NOT_YET).found[Kind.LOST] > 0

    consumer.drain(load.quiet, limit=load.limit)
    until = time.monotonic() + load.patience
    while time.monotonic() < until and missing():
        if consumer.drain(load.quiet, limit=load.limit):
            until = time.monotonic() + load.patience


class _Workers:
    """The threads. They share two events; everything else is their own."""

    def __init__(
        self,
        load: Load,
        recording: Recording,
        connect: Callable[[], unimq.Broker],
        target: unimq.Queue | unimq.Topic,
        source: unimq.Queue | unimq.Subscription,
    ) -> None:
        self._load = load
        self._recording = recording
        self._connect = connect
        self._target = target
        self._source = source
        self._deadline = time.monotonic() + load.limit
        self._faults_over = threading.Event()
        self._sends_over = threading.Event()
        self._errors: list[BaseException] = []
        self._producers = [self._thread(self._produce, number) for number in range(load.producers)]
        self._consumers = [self._thread(self._consume, number) for number in range(load.consumers)]

    def start(self) -> None:
        for thread in self._consumers + self._producers:
            thread.start()

    def finish(self) -> None:
        """Wait for all: first for the producers, then for the consumers to find nothing more."""
        self._faults_over.set()
        late = self._join(self._producers)
        self._sends_over.set()
        late += self._join(self._consumers)
        if self._errors:
            raise self._errors[0]
        if late:
            raise TimeoutError(f"after {self._load.limit} s there still worked {', '.join(late)}")

    def _thread(self, work: Callable[[random.Random, str], None], number: int) -> threading.Thread:
        name = f"load-{work.__name__.strip('_')}-{number}"

        def guarded() -> None:
            try:
                # Text seeds differ for every worker and are the same in every run.
                work(random.Random(f"{self._load.seed} {name}"), name)
            except BaseException as error:
                self._errors.append(error)

        return threading.Thread(target=guarded, name=name, daemon=True)

    def _join(self, threads: list[threading.Thread]) -> list[str]:
        for thread in threads:
            thread.join(max(0.0, self._deadline - time.monotonic()))
        return [thread.name for thread in threads if thread.is_alive()]

    def _in_time(self) -> bool:
        return time.monotonic() < self._deadline

    def _produce(self, rng: random.Random, name: str) -> None:
        load = self._load
        left = load.messages // load.producers
        while (left > 0 or not self._faults_over.is_set()) and self._in_time():
            with contextlib.suppress(unimq.UnimqError), self._connect() as broker:
                with self._recording.producer(broker, self._target) as producer:
                    while left > 0 or not self._faults_over.is_set():
                        key = f"key-{rng.randrange(load.keys)}"
                        # One by one and pipelined: each has its own way through the library.
                        if rng.random() < 0.1:
                            producer.send(size=load.size, key=key)
                        else:
                            producer.enqueue(size=load.size, key=key)
                        left -= 1
                        if load.rate is not None:
                            self._sends_over.wait(rng.expovariate(load.rate))
                return
            self._sends_over.wait(RETRY_AFTER)

    def _consume(self, rng: random.Random, name: str) -> None:
        while self._in_time():
            with contextlib.suppress(unimq.UnimqError), self._connect() as broker:
                consumer = self._recording.consumer(broker, self._source, prefetch=self._load.prefetch)
                try:
                    if self._work(rng, consumer):
                        return
                finally:
                    consumer.close()
                continue
            self._faults_over.wait(RETRY_AFTER)

    def _work(self, rng: random.Random, consumer: RecordingConsumer) -> bool:
        """Work until there is nothing more (true), or until it is time to close with some in hand (false)."""
        load = self._load
        held: list[RecordedDelivery] = []
        while self._in_time():
            over = self._sends_over.is_set()
            received = consumer.receive(rng.randint(1, 10), timeout=load.quiet)
            held += received
            if not received and not held and over:
                consumer.settle()
                return True
            rng.shuffle(held)
            keep = rng.randrange(load.hold) if received else 0
            while len(held) > keep:
                self._settle(rng, held.pop())
            if rng.random() < 0.1:
                consumer.settle()
            if rng.random() < load.close * len(received):
                return False
        return False

    def _settle(self, rng: random.Random, delivery: RecordedDelivery) -> None:
        load = self._load
        choice = rng.random()
        with contextlib.suppress(unimq.LeaseLost):
            if choice < load.nack:
                delivery.nack(load.nack_delay)
            elif choice < load.nack + load.reject:
                delivery.reject()
            else:
                delivery.ack()
