"""The connections that one telemetry watches, and the depth of the queues that it is to show."""

import operator
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from unimq._capabilities import Stats
from unimq._destinations import REPLY_PREFIX, Queue, Source, Subscription
from unimq._errors import ConfigError, UnimqError
from unimq._events import SeldomLog
from unimq._instruments import ConnectionView, RequestCount

REPLIES = "(replies)"
"""Stands for all reply queues, each of which has a name that never comes again."""
FRESH = 1.0
"""Seconds for which a depth is not asked for anew, however many collectors ask."""

Broker = tuple[str, str]
"""Backend, and host with port."""


def label_of(name: str) -> str:
    """Return the name of a destination as telemetry shows it."""
    return REPLIES if name.startswith(REPLY_PREFIX) else name


def broker_of(view: ConnectionView) -> Broker:
    """Return what tells brokers apart."""
    host = f"[{view.host}]" if ":" in view.host else view.host
    return view.backend, host if view.port is None else f"{host}:{view.port}"


def split_address(address: str) -> tuple[str, int | None]:
    """Return host and port of the address in a `Broker`."""
    host, _, port = address.rpartition(":")
    if not host or address.endswith("]"):
        return address.strip("[]"), None
    return host.strip("[]"), int(port)


class Watched:
    """The open connections of one telemetry, each with the queues to show.

    `_lock` guards everything but `_depths`; that belongs to whoever holds `_reading`, which may take round trips.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._views: dict[ConnectionView, tuple[str | Source, ...]] = {}
        self._restored: dict[ConnectionView, int] = {}
        """Reconnects when they were last read: what is closed cannot be asked."""
        self._before: Counter[Broker] = Counter()
        """Reconnects of connections that are closed: a counter must not go back."""
        self._asked: dict[ConnectionView, Mapping[str, RequestCount]] = {}
        self._asked_before: dict[tuple[Broker, str], RequestCount] = {}
        """The same for requests, by action."""
        self._reading = threading.Lock()
        self._depths: dict[Broker, tuple[float, dict[str, Stats]]] = {}
        self._seldom = SeldomLog()

    def add(self, view: ConnectionView, queues: tuple[str | Source, ...]) -> None:
        """Watch a connection until it is closed."""
        with self._lock:
            self._views[view] = queues

    def in_flight(self) -> Mapping[tuple[Broker, str], int]:
        """Return how many deliveries are held, by broker and source."""
        return self._summed(ConnectionView.in_flight)

    def unconfirmed(self) -> Mapping[tuple[Broker, str], int]:
        """Return how many messages have no outcome yet, by broker and target."""
        return self._summed(ConnectionView.unconfirmed)

    def reconnects(self) -> Mapping[Broker, int]:
        """Return how often connections were restored, by broker."""
        views = self._open()
        with self._lock:
            total = self._before.copy()
            for view in views:
                self._restored[view] = view.reconnects()
                total[broker_of(view)] += self._restored[view]
        return total

    def requests(self) -> Mapping[tuple[Broker, str], RequestCount]:
        """Return what was asked of services that bill requests, by broker and action."""
        views = self._open()
        with self._lock:
            total = dict(self._asked_before)
            for view in views:
                self._asked[view] = view.requests()
                _add(total, broker_of(view), self._asked[view])
        return total

    def depths(self) -> Iterator[tuple[Broker, str, Stats]]:
        """Yield the depth of each queue that is to be shown, from one connection to each broker. Blocks.

        A queue that cannot be read is left out, and the log says why.
        """
        wanted: dict[Broker, dict[str, tuple[ConnectionView, str | Source]]] = {}
        for view, queues in self._open().items():
            for queue in queues:
                wanted.setdefault(broker_of(view), {})[name_of(queue)] = view, queue
        with self._reading:
            for broker, by_name in wanted.items():
                read_at, found = self._depths.get(broker, (0.0, {}))
                if time.monotonic() - read_at > FRESH:
                    found = {name: stats for name, ask in by_name.items() if (stats := self._read(name, *ask))}
                    self._depths[broker] = time.monotonic(), found
                for name, stats in found.items():
                    yield broker, name, stats

    def _read(self, name: str, view: ConnectionView, queue: str | Source) -> Stats | None:
        try:
            return view.stats(queue)
        except UnimqError as error:
            self._seldom.say("depth-unknown", "the depth of %r is not known: %s", name, error, source=name)
            return None

    def _summed(self, read: Callable[[ConnectionView], Mapping[str, int]]) -> Mapping[tuple[Broker, str], int]:
        total: Counter[tuple[Broker, str]] = Counter()
        for view in self._open():
            for name, number in read(view).items():
                total[broker_of(view), label_of(name)] += number
        return total

    def _open(self) -> Mapping[ConnectionView, tuple[str | Source, ...]]:
        with self._lock:
            for view in [view for view in self._views if not view.is_open]:
                del self._views[view]
                self._before[broker_of(view)] += self._restored.pop(view, 0)
                # What was asked since the last look, if the connection still tells.
                _add(self._asked_before, broker_of(view), view.requests() or self._asked.get(view, {}))
                self._asked.pop(view, None)
            return dict(self._views)


def _add(total: dict[tuple[Broker, str], RequestCount], broker: Broker, counts: Mapping[str, RequestCount]) -> None:
    for action, count in counts.items():
        before = total.get((broker, action), RequestCount())
        total[broker, action] = RequestCount(*map(operator.add, before, count))


def name_of(queue: str | Source) -> str:
    """Return the name under which a queue or subscription is shown."""
    if isinstance(queue, Subscription):
        return queue.queue.name
    return queue.name if isinstance(queue, Queue) else queue


def checked_queues(queues: Iterable[str | Source]) -> tuple[str | Source, ...]:
    """Return what has a depth, or raise `ConfigError` for what has none."""
    if isinstance(queues, str | Queue | Subscription):
        raise ConfigError("queues must be a sequence of queues, subscriptions or names; put the one in brackets")
    found = tuple(queues)
    for each in found:
        if not isinstance(each, str | Queue | Subscription):
            raise ConfigError(f"only queues and subscriptions have a depth, not {type(each).__name__}")
    return found
