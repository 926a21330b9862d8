"""The connection behind both fronts: destinations in force, open producers and consumers, and the order of closing.

Everything here may block: administration, opening and closing are round trips to the broker. The asyncio front runs
them in a worker thread; sending, receiving and settling never come here.
"""

import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from unimq._adapters import load_adapter, read_options
from unimq._capabilities import Capabilities, Stats
from unimq._codec import Codec, bound
from unimq._dead_letters import DeadLetters
from unimq._destinations import Queue, Seconds, Source, Subscription, Target, Topic, count, queue_of, seconds
from unimq._errors import Closed, ConfigError, UnimqError
from unimq._instruments import Instrument, attached, checked, checked_hooks
from unimq._middleware import Middleware
from unimq._policies import demands, require
from unimq._positions import Position, checked_position
from unimq._receiving import ConsumerCore, unconfirmed
from unimq._requests import Requests
from unimq._sending import ProducerCore
from unimq._url import BrokerURL, is_name, parse_url
from unimq._waiting import block_until, deadline_after, remaining
from unimq.adapter import SeekingDriver

if TYPE_CHECKING:
    from unimq._configuration import Configuration
    from unimq.adapter import Driver

DEFAULT_TIMEOUT = 30.0
"""Seconds for connecting, declaring and, unless the producer says otherwise, sending."""
DEFAULT_PREFETCH = 100
DEFAULT_WINDOW = 5_000
DEFAULT_WINDOW_BYTES = 64 * 1024 * 1024
CLOSE_TIMEOUT = 30.0

_open_brokers: "weakref.WeakSet[BrokerCore]" = weakref.WeakSet()


class BrokerCore:
    """One driver with everything opened on it. `lock` guards `known`, `producers` and `consumers`."""

    def __init__(
        self,
        url: str | None,
        *,
        timeout: Seconds,
        middleware: Iterable[Middleware | Instrument] = (),
        config: str | os.PathLike[str] | None = None,
    ) -> None:
        self.timeout: float = seconds(timeout, "timeout")
        given = checked(middleware)
        self._config = config
        self.url: BrokerURL
        self.url, place = address_of(url, lambda: self.configuration)
        try:
            adapter = load_adapter(self.url.scheme)
            options, declares = read_options(adapter, self.url)
            self.driver: Driver = adapter.connect(self.url, options, timeout=self.timeout)
        except ConfigError as error:
            if not place:
                raise
            raise ConfigError(f"{place}: {error}") from error.__cause__
        self.declares: bool = declares
        self.capabilities: Capabilities = self.driver.capabilities
        self.lock: threading.Lock = threading.Lock()
        self.known: dict[str, Queue | Topic | Subscription] = {}
        self.producers: set[ProducerCore] = set()
        self.consumers: set[ConsumerCore] = set()
        self.closed: str = ""
        self.requests: Requests | None = None
        self.request_lock: threading.Lock = threading.Lock()
        """Guards the making of `requests`, which blocks."""
        self.middleware: tuple[Middleware, ...] = attached(given, self)
        _open_brokers.add(self)

    @cached_property
    def configuration(self) -> "Configuration":
        """The file, which is read when it is asked for the first time: most programs need none."""
        from unimq._configuration import find_configuration

        return find_configuration(self._config)

    # Destinations.

    def declare(
        self, wanted: str | Queue | Topic | Subscription, *, as_is: bool = False
    ) -> Queue | Topic | Subscription:
        """Create what is missing, and return the destination with the policies in force.

        What exists is accepted with whatever policies it has if it is named by a bare string that the configuration
        does not know, or with `as_is`.
        """
        self.check_open()
        destination = self._named(wanted)
        as_is = as_is or (isinstance(wanted, str) and self.configuration.destinations.get(wanted) != destination)
        self.check_policies(destination)
        if isinstance(destination, Subscription):
            self.driver.declare(destination.topic, as_is=as_is, timeout=self.timeout)
        if not isinstance(destination, Topic):
            dead_letters = queue_of(destination).dead_letters
            if dead_letters is not None:
                # Before its source, which refers to it; and as it is, because it may have an owner with own policies.
                self.driver.declare(dead_letters, as_is=True, timeout=self.timeout)
        in_force = self.driver.declare(destination, as_is=as_is, timeout=self.timeout)
        with self.lock:
            self.known[_name_of(in_force)] = in_force
        return in_force

    def check_policies(self, destination: Queue | Topic | Subscription) -> None:
        """Raise `Unsupported` for a policy that the backend does not have, before any I/O (principle 2)."""
        for _, feature in demands(destination):
            require(self.capabilities, feature, destination)

    def resolve(self, destination: str | Queue | Topic | Subscription) -> Queue | Topic | Subscription:
        """Return a destination that exists: declared on first use, or only looked up with ``declare=false``."""
        self.check_open()
        if isinstance(destination, str):
            known = self.known.get(destination)
            if known is not None:
                return known
        else:
            _check_destination(destination)
            if self.known.get(_name_of(destination)) == destination:
                return destination
        if self.declares:
            return self.declare(destination)
        wanted = self._named(destination)
        self.check_policies(wanted)
        self.driver.check(wanted, timeout=self.timeout)
        with self.lock:
            self.known[_name_of(wanted)] = wanted
        return wanted

    def delete(self, destination: str | Queue | Topic | Subscription) -> None:
        self.check_open()
        found = self._named(destination)
        self.driver.delete(found, timeout=self.timeout)
        with self.lock:
            self.known.pop(_name_of(found), None)

    def purge(self, source: str | Source) -> int | None:
        self.check_open()
        self.capabilities.require("purge")
        return self.driver.purge(self.named_source(source), timeout=self.timeout)

    def seek(self, source: str | Source, to: Position) -> None:
        self.check_open()
        position = checked_position(to)
        self.capabilities.require("seek")
        if not isinstance(self.driver, SeekingDriver):
            raise TypeError(f"the driver of {self.capabilities.backend} claims to seek, and cannot")
        self.driver.seek(self.named_source(source), position, timeout=self.timeout)

    def stats(self, source: str | Source) -> Stats:
        self.check_open()
        self.capabilities.require("stats")
        found = self.named_source(source)
        stats = self.driver.stats(found, timeout=self.timeout)
        dead_letters = queue_of(found).dead_letters
        if dead_letters is None:
            return stats
        waiting = self.driver.stats(dead_letters, timeout=self.timeout).ready
        return replace(stats, dead_letters=waiting)

    def _named(self, destination: str | Queue | Topic | Subscription) -> Queue | Topic | Subscription:
        if isinstance(destination, str):
            destination = (
                self.known.get(destination) or self.configuration.destinations.get(destination) or Queue(destination)
            )
        _check_destination(destination)
        if not isinstance(destination, Queue):
            self.capabilities.require("topics")
        return destination

    def named_source(self, source: str | Source) -> Source:
        found = self._named(source)
        if isinstance(found, Topic):
            raise ConfigError(f"{found.name!r} is a topic; name one of its subscriptions")
        return found

    # Opening.

    def open_producer(
        self,
        target: str | Target,
        *,
        timeout: Seconds,
        window: int,
        window_bytes: int,
        codec: Codec[Any] | None = None,
        middleware: Iterable[Middleware] = (),
    ) -> ProducerCore:
        middleware = (*self.middleware, *checked_hooks(middleware))
        codec = None if codec is None else bound(codec, self.capabilities)
        found = self.resolve(target)
        if isinstance(found, Subscription):
            raise ConfigError(f"{found!r} is a subscription; send to its topic")
        core = ProducerCore(
            found,
            self.capabilities,
            window=count(window, "window"),
            window_bytes=count(window_bytes, "window_bytes"),
            timeout=seconds(timeout, "timeout"),
            codec=codec,
            middleware=middleware,
        )
        core.use(self.driver.open_sender(found, core, timeout=self.timeout))
        with self.lock:
            self.producers.add(core)
        return core

    def open_consumer(
        self,
        source: str | Source,
        *,
        prefetch: int,
        codec: Codec[Any] | None = None,
        middleware: Iterable[Middleware] = (),
    ) -> ConsumerCore:
        count(prefetch, "prefetch")
        middleware = (*self.middleware, *checked_hooks(middleware))
        codec = None if codec is None else bound(codec, self.capabilities)
        found = self.resolve(source)
        if isinstance(found, Topic):
            raise ConfigError(f"{found.name!r} is a topic; consume one of its subscriptions")
        dead_letters = None
        target = queue_of(found).dead_letters
        if target is not None:
            if not self.declares:
                self.driver.check(target, timeout=self.timeout)
            dead_letters = DeadLetters(self.attach_producer(target))
        core = ConsumerCore(found, self.capabilities, dead_letters, codec, middleware)
        core.prefetch = prefetch
        try:
            core.use(self.driver.open_receiver(found, core, prefetch=prefetch, timeout=self.timeout))
        except BaseException:
            if dead_letters is not None:
                dead_letters.producer.sender.close(0.0)
            raise
        with self.lock:
            self.consumers.add(core)
        return core

    def attach_producer(self, target: Target, middleware: Sequence[Middleware] = ()) -> ProducerCore:
        """Open a producer to an existing queue for a part of the library, which bounds what it sends and closes it."""
        producer = ProducerCore(
            target,
            self.capabilities,
            window=sys.maxsize,
            window_bytes=sys.maxsize,
            timeout=DEFAULT_TIMEOUT,
            middleware=middleware,
        )
        producer.use(self.driver.open_sender(target, producer, timeout=self.timeout))
        return producer

    def attach_consumer(self, queue: Queue, *, prefetch: int) -> ConsumerCore:
        """Open a consumer of an existing queue for a part of the library: no hooks, and what expired is delivered."""
        core = ConsumerCore(queue, self.capabilities, None)
        core.delivers_expired = True
        core.use(self.driver.open_receiver(queue, core, prefetch=prefetch, timeout=self.timeout))
        with self.lock:
            self.consumers.add(core)
        return core

    def open_requests(self) -> Requests:
        """Return the reply queue of this connection, made if there is none or if the last one has ended."""
        with self.request_lock:
            self.check_open()
            requests = self.requests
            if requests is None or requests.error is not None:
                if requests is not None:
                    self.requests = None
                    self._close_requests(requests, CLOSE_TIMEOUT)
                requests = self.requests = Requests(self)
        if self.closed:
            # Meanwhile, and the one who closed did not wait for it.
            self._close_requests(requests, CLOSE_TIMEOUT)
            self.check_open()
        return requests

    # Closing.

    def check_open(self) -> None:
        if self.closed:
            raise Closed(self.closed)

    def close_producer(self, core: ProducerCore, timeout: float) -> None:
        """Release a producer whose outcomes the front has waited for (S6)."""
        core.sender.close(timeout)
        core.seldom.finish()
        with self.lock:
            self.producers.discard(core)

    def close_consumer(self, core: ConsumerCore, timeout: float) -> Sequence[UnimqError]:
        """Confirm what was settled, give back what was not, and release the receiver (L1, A5).

        Returned is what became of the settlements that are not confirmed and of which nobody was told.
        """
        deadline = deadline_after(timeout)
        for end_worker in list(core.closing):
            end_worker()
        if not core.stop(f"the consumer of {core.source_name!r} is closed"):
            return ()
        # From here on, as nobody could tell which settlement comes in time.
        core.let_go()
        if core.dead_letters is not None:
            core.dead_letters.producer.sender.flush()
            block_until(core.moves_done, core.moves_finished, deadline)
        core.receiver.close(remaining(deadline))
        failed = unconfirmed(core, deadline)
        # What came meanwhile.
        core.let_go()
        core.seldom.finish()
        if core.dead_letters is not None:
            self.close_producer(core.dead_letters.producer, remaining(deadline))
        with self.lock:
            self.consumers.discard(core)
        return failed

    def stop_requests(self) -> None:
        """Wake everybody who waits for a reply, before anything else is closed, which may take time (L1)."""
        if self.requests is not None:
            self.requests.stop("the broker connection is closed")

    def _close_requests(self, requests: Requests, timeout: float) -> None:
        requests.stop(self.closed or "the reply queue has ended")
        requests.close(deadline_after(timeout))

    def close(self, timeout: float) -> Sequence[UnimqError]:
        """Close what the front left open, then the driver; return as `close_consumer` does."""
        if self.closed:
            return ()
        self.closed = "the broker connection is closed"
        deadline = deadline_after(timeout)
        # Side by side: each may have to wait for its own last long poll.
        failed: list[UnimqError] = []

        def close_consumer(consumer: ConsumerCore) -> None:
            failed.extend(self.close_consumer(consumer, timeout))

        closing = [
            threading.Thread(target=close_consumer, args=(consumer,), name="unimq-closing")
            for consumer in list(self.consumers)
        ]
        if self.requests is not None:
            closing.append(
                threading.Thread(target=self._close_requests, args=(self.requests, timeout), name="unimq-closing")
            )
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()
        for producer in list(self.producers):
            producer.stop("the producer is closed")
            self.close_producer(producer, remaining(deadline))
        self.driver.close(remaining(deadline))
        return failed


def address_of(given: str | None, configuration: Callable[[], "Configuration"]) -> tuple[BrokerURL, str]:
    """Return a broker's URL, and the place in the configuration that it comes from: the URL or name that is given, else
    ``UNIMQ_URL``, else the name in ``UNIMQ_BROKER``, else the default of the configuration, which is read if needed.
    """
    if given is None:
        given = os.environ.get("UNIMQ_URL") or None
    if given is not None and not is_name(given):
        return parse_url(given), ""
    return configuration().named(os.environ.get("UNIMQ_BROKER") or None if given is None else given)


def _check_destination(destination: object) -> None:
    if not isinstance(destination, Queue | Topic | Subscription):
        raise ConfigError(f"a destination is a str, Queue, Topic or Subscription, not {type(destination).__name__}")
    if isinstance(destination, Queue) and destination.is_of_subscription:
        topic, _, name = destination.name.partition("--")
        raise ConfigError(
            f"{destination.name!r} is the queue of a subscription; use Topic({topic!r}).subscription({name!r})"
        )


def _name_of(destination: Queue | Topic | Subscription) -> str:
    return destination.queue.name if isinstance(destination, Subscription) else destination.name


def _forget_in_child() -> None:
    """Close, without touching a socket or lock, what a forked child inherited: it belongs to the parent (L2)."""
    reason = f"it was opened by the parent process {os.getppid()}; connect again in this process"
    for broker in list(_open_brokers):
        broker.closed = reason
        for producer in broker.producers:
            producer.lock = threading.Lock()
            producer.stop(reason)
        for consumer in broker.consumers:
            consumer.lock = threading.Lock()
            consumer.stop(reason)
            consumer.abandoned = reason
            consumer.held = set()
        if broker.requests is not None:
            broker.requests.abandon(reason)


os.register_at_fork(after_in_child=_forget_in_child)
