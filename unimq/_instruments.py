"""How telemetry sees a connection: hooks for what happens on it, and a view of how it stands."""

import weakref
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from unimq._capabilities import Stats
from unimq._destinations import Source
from unimq._errors import Closed, ConfigError
from unimq._middleware import Middleware

if TYPE_CHECKING:
    from unimq._broker import BrokerCore


class RequestCount(NamedTuple):
    """What one connection asked of a service by one of its actions."""

    requests: int = 0
    """Sent, also those that got no answer."""
    billed: int = 0
    """Requests that the service bills for them, as far as a client can tell."""
    bytes_sent: int = 0
    bytes_received: int = 0
    """Of bodies."""
    empty: int = 0
    """Requests for messages that brought none."""


class ConnectionView:
    """What an `Instrument` can see of one connection, from any thread. It does not keep the connection alive."""

    def __init__(self, broker: "BrokerCore") -> None:
        self._broker = weakref.ref(broker)
        self.backend: str = broker.capabilities.backend
        """``memory``, ``rabbitmq``, ``kafka``, ``sqs``, or the name that another adapter gives itself."""
        host, port = broker.url.hosts[0] if broker.url.hosts else ("", None)
        self.host: str = host
        """The first host of the URL; empty if it has none."""
        self.port: int | None = port

    @property
    def is_open(self) -> bool:
        """Whether the connection is still in use; nothing is to be seen of it afterwards."""
        broker = self._broker()
        return broker is not None and not broker.closed

    def in_flight(self) -> Mapping[str, int]:
        """Return, by source, the deliveries that consumers of this connection hold unsettled (R3)."""
        held: Counter[str] = Counter()
        broker = self._broker()
        if broker is not None:
            with broker.lock:
                consumers = list(broker.consumers)
            for consumer in consumers:
                held[consumer.source_name] += len(consumer.held)
        return held

    def unconfirmed(self) -> Mapping[str, int]:
        """Return, by target, the messages that producers of this connection have no outcome of yet (S5)."""
        outstanding: Counter[str] = Counter()
        broker = self._broker()
        if broker is not None:
            with broker.lock:
                producers = list(broker.producers)
            for producer in producers:
                outstanding[producer.target.name] += producer.outstanding
        return outstanding

    def reconnects(self) -> int:
        """Return how often the connection was restored after it had been lost (L3)."""
        broker = self._broker()
        if broker is None or not isinstance(broker.driver, Reconnecting):
            return 0
        return broker.driver.reconnects

    def requests(self) -> Mapping[str, RequestCount]:
        """Return, by action, what was asked of a service that bills requests; nothing for a broker of one's own."""
        broker = self._broker()
        if broker is None or not isinstance(broker.driver, Requesting):
            return {}
        return broker.driver.requests()

    def stats(self, source: str | Source) -> Stats:
        """Return the depth of a queue or subscription (T4). Blocks for a round trip to the broker.

        Raises:
            Closed: the connection is closed.
            UnimqError: the broker says no or does not answer.

        """
        broker = self._broker()
        if broker is None:
            raise Closed("the broker connection is closed")
        return broker.stats(source)


@runtime_checkable
class Reconnecting(Protocol):
    """A driver that restores its connections, and counts that. Others have none, or their client hides it."""

    @property
    def reconnects(self) -> int:
        """How often a connection was restored after it had been lost (L3)."""
        ...


@runtime_checkable
class Requesting(Protocol):
    """A driver of a service that bills requests, which it counts."""

    def requests(self) -> Mapping[str, RequestCount]:
        """Return the counts since the connection was made, by action."""
        ...


@runtime_checkable
class Instrument(Protocol):
    """Telemetry that wants to know whose hooks it provides. Given as middleware of a connection."""

    def attach(self, connection: ConnectionView) -> Sequence[Middleware]:
        """Return the hooks for one connection; called once, when it is open. Must not block."""
        ...


def checked(given: Iterable[object]) -> tuple[Middleware | Instrument, ...]:
    """Return what was given as middleware of a connection, or raise `ConfigError` for what is none."""
    if isinstance(given, Middleware | Instrument):
        raise ConfigError("middleware must be a sequence of unimq.Middleware; put the one in brackets")
    found: list[Middleware | Instrument] = []
    for each in given:
        if not isinstance(each, Middleware | Instrument):
            raise ConfigError(f"middleware must be unimq.Middleware, not {type(each).__name__}")
        found.append(each)
    return tuple(found)


def checked_hooks(given: Iterable[object]) -> tuple[Middleware, ...]:
    """Return what was given as middleware of one producer or consumer, or raise `ConfigError` for what is none."""
    hooks: list[Middleware] = []
    for each in checked(given):
        if not isinstance(each, Middleware):
            raise ConfigError(
                f"middleware must be unimq.Middleware, not {type(each).__name__}; telemetry is given to connect()"
            )
        hooks.append(each)
    return tuple(hooks)


def attached(given: Iterable[Middleware | Instrument], broker: "BrokerCore") -> tuple[Middleware, ...]:
    """Return the hooks of a connection, in the order in which they were given."""
    view = ConnectionView(broker)
    hooks: list[Middleware] = []
    for each in given:
        hooks.extend((each,) if isinstance(each, Middleware) else each.attach(view))
    return tuple(hooks)
