"""Metrics for Prometheus, by prometheus-client; needs the extra ``prometheus``.

    import prometheus_client
    import unimq
    from unimq.prometheus import Prometheus

    prometheus_client.start_http_server(9464, addr="127.0.0.1")
    broker = unimq.connect(url, middleware=[Prometheus(queues=["orders", "orders-dead"])])

What is exported, and under which names, stands in ``docs/telemetry.md``.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from weakref import WeakKeyDictionary

from unimq._depths import Watched, broker_of, checked_queues, label_of
from unimq._destinations import Source
from unimq._errors import MissingDependency, UnimqError
from unimq._instruments import ConnectionView
from unimq._measuring import measuring
from unimq._middleware import Middleware, Settlement

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ModuleNotFoundError as _missing:
    if (_missing.name or "").partition(".")[0] != "prometheus_client":
        raise
    raise MissingDependency(
        "unimq.prometheus needs the library prometheus-client; install it by: pip install 'unimq[prometheus]'"
    ) from _missing

__all__ = ["Prometheus"]

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)
"""Bounds of every histogram: from a send in memory to a message that waited ten minutes."""
_MOST_DESTINATIONS = 1000

_OF = ("backend", "broker", "destination")


class _Metrics:
    """The metrics of one registry, which takes each name once however many connections there are."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, (*_OF, *labels), registry=registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(name, text, (*_OF, *labels), registry=registry, buckets=SECONDS)

        self.sent = counter("unimq_sent_messages", "Messages with an outcome: stored, or the error", "outcome")
        self.send_seconds = histogram("unimq_send_seconds", "From the call of send to the outcome")
        self.delivered = counter("unimq_delivered_messages", "Deliveries that reached their user")
        self.redelivered = counter("unimq_redelivered_messages", "Deliveries that were not the first of their message")
        self.latency = histogram("unimq_message_latency_seconds", "From the send to the first delivery")
        self.settled = counter("unimq_settled_messages", "Deliveries that ended: ack, nack, dead, dropped, lost", "how")
        self.handled = counter("unimq_handled_messages", "Messages that handlers had: done, or failed", "outcome")
        self.handler_seconds = histogram("unimq_handler_seconds", "One call of a handler: done, or failed", "outcome")
        self.watched = Watched()
        registry.register(_Standing(self.watched))


class _Recorder:
    """The measurements of one connection; see `unimq._measuring.Recorder`."""

    def __init__(self, metrics: _Metrics, backend: str, broker: str) -> None:
        of = (backend, broker)

        # Finding the metric of a set of labels takes a lock and some microseconds.
        @lru_cache(_MOST_DESTINATIONS)
        def sent(target: str, outcome: str) -> tuple[Counter, Histogram]:
            name = label_of(target)
            return metrics.sent.labels(*of, name, outcome), metrics.send_seconds.labels(*of, name)

        @lru_cache(_MOST_DESTINATIONS)
        def delivered(source: str) -> tuple[Counter, Counter, Histogram]:
            labels = (*of, label_of(source))
            return (
                metrics.delivered.labels(*labels),
                metrics.redelivered.labels(*labels),
                metrics.latency.labels(*labels),
            )

        @lru_cache(_MOST_DESTINATIONS)
        def settled(source: str, how: str) -> Counter:
            return metrics.settled.labels(*of, label_of(source), how)

        @lru_cache(_MOST_DESTINATIONS)
        def handled(source: str, outcome: str) -> tuple[Counter, Histogram]:
            labels = (*of, label_of(source), outcome)
            return metrics.handled.labels(*labels), metrics.handler_seconds.labels(*labels)

        self._sent = sent
        self._delivered = delivered
        self._settled = settled
        self._handled = handled

    def sent(self, target: str, duration: float, error: UnimqError | None) -> None:
        number, seconds = self._sent(target, "stored" if error is None else type(error).__name__)
        number.inc()
        seconds.observe(duration)

    def delivered(self, source: str, latency: float, attempt: int) -> None:
        number, again, seconds = self._delivered(source)
        number.inc()
        if attempt > 1:
            again.inc()
        else:
            seconds.observe(latency)

    def settled(self, source: str, how: Settlement) -> None:
        self._settled(source, how).inc()

    def handled(self, source: str, messages: int, duration: float, error: BaseException | None) -> None:
        number, seconds = self._handled(source, "done" if error is None else "failed")
        number.inc(messages)
        seconds.observe(duration)


class _Standing(Collector):
    """What is read when Prometheus asks: it costs nothing in between."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched

    def collect(self) -> Iterator[Metric]:
        in_flight = GaugeMetricFamily("unimq_in_flight_messages", "Held unsettled by this process", labels=_OF)
        for (broker, name), number in self._watched.in_flight().items():
            in_flight.add_metric((*broker, name), number)
        yield in_flight
        unconfirmed = GaugeMetricFamily("unimq_unconfirmed_messages", "Sent, without an outcome yet", labels=_OF)
        for (broker, name), number in self._watched.unconfirmed().items():
            unconfirmed.add_metric((*broker, name), number)
        yield unconfirmed
        reconnects = CounterMetricFamily("unimq_reconnects", "Connections restored after a loss", labels=_OF[:2])
        for broker, number in self._watched.reconnects().items():
            reconnects.add_metric(broker, number)
        yield reconnects
        yield from self._requests()
        yield from self._depths()

    def _requests(self) -> Iterator[Metric]:
        labels = (*_OF[:2], "action")
        shown = {
            "requests": CounterMetricFamily(
                "unimq_service_requests", "Requests to a service that bills them", labels=labels
            ),
            "billed": CounterMetricFamily(
                "unimq_service_billed_requests", "Requests that it bills for them", labels=labels
            ),
            "empty": CounterMetricFamily(
                "unimq_service_empty_requests", "Requests for messages that brought none", labels=labels
            ),
            "bytes_sent": CounterMetricFamily(
                "unimq_service_sent_bytes", "Bytes of the bodies of requests", labels=labels
            ),
            "bytes_received": CounterMetricFamily(
                "unimq_service_received_bytes", "Bytes of the bodies of answers", labels=labels
            ),
        }
        for (broker, action), count in self._watched.requests().items():
            for field, family in shown.items():
                family.add_metric((*broker, action), getattr(count, field))
        yield from shown.values()

    def _depths(self) -> Iterator[Metric]:
        shown = {
            "ready": GaugeMetricFamily("unimq_queue_ready_messages", "Waiting for a consumer", labels=_OF),
            "in_flight": GaugeMetricFamily("unimq_queue_in_flight_messages", "Held by any consumer", labels=_OF),
            "delayed": GaugeMetricFamily("unimq_queue_delayed_messages", "Not due yet", labels=_OF),
            "oldest_age": GaugeMetricFamily("unimq_queue_oldest_age_seconds", "Age of the oldest one", labels=_OF),
            "consumers": GaugeMetricFamily("unimq_queue_consumers", "Consumers of the queue", labels=_OF),
            "dead_letters": GaugeMetricFamily("unimq_queue_dead_letters", "In its dead-letter queue", labels=_OF),
        }
        for broker, name, stats in self._watched.depths():
            for field, family in shown.items():
                value: float | None = getattr(stats, field)
                if value is not None:
                    family.add_metric((*broker, name), value)
        yield from shown.values()

    def describe(self) -> Iterator[Metric]:
        # Without it the registry would collect once to learn the names, which asks the broker.
        yield from ()


_metrics: "WeakKeyDictionary[CollectorRegistry, _Metrics]" = WeakKeyDictionary()
_making = threading.Lock()
"""Guards `_metrics`."""


class Prometheus:
    """Metrics of the connections to whose ``middleware`` it is given, in a registry of prometheus-client.

    Every one of `queues` is asked for its depth (T4) when Prometheus scrapes, at most once a second, by one connection
    to each broker. Labels are ``backend``, ``broker`` (host and port) and ``destination``.

    Args:
        queues: queues and subscriptions whose depth is shown.
        registry: where the metrics are; without it the default one.

    Raises:
        ConfigError: one of `queues` has no depth.
        MissingDependency: on import of this module, if prometheus-client is not installed.

    """

    def __init__(self, queues: Iterable[str | Source] = (), *, registry: CollectorRegistry = REGISTRY) -> None:
        self._queues = checked_queues(queues)
        with _making:
            found = _metrics.get(registry)
            if found is None:
                found = _metrics[registry] = _Metrics(registry)
        self._metrics = found

    def attach(self, connection: ConnectionView) -> Sequence[Middleware]:
        """See `unimq.Instrument.attach`."""
        self._metrics.watched.add(connection, self._queues)
        return (measuring(_Recorder(self._metrics, *broker_of(connection))),)
