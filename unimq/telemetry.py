"""Traces and metrics by OpenTelemetry; needs the extra ``otel``, and an SDK where they are to go anywhere.

    import unimq
    from unimq.telemetry import OpenTelemetry

    broker = unimq.connect(url, middleware=[OpenTelemetry(queues=["orders", "orders-dead"])])

Names and attributes are those of the semantic conventions for messaging (1.37), where these have one; the rest begins
with ``unimq.``. What there is stands in ``docs/telemetry.md``.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Any

from unimq._delivery import Delivery
from unimq._depths import REPLIES, Broker, Watched, broker_of, checked_queues, label_of, split_address
from unimq._destinations import Source
from unimq._errors import MissingDependency, UnimqError
from unimq._instruments import ConnectionView
from unimq._measuring import measuring
from unimq._message import Headers, Message
from unimq._middleware import Middleware, Settlement
from unimq._outgoing import Outcome

try:
    from opentelemetry import context, metrics, propagate, trace
    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
    from opentelemetry.propagators.textmap import Getter
    from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, TracerProvider
except ModuleNotFoundError as _missing:
    if (_missing.name or "").partition(".")[0] != "opentelemetry":
        raise
    raise MissingDependency(
        "unimq.telemetry needs the library opentelemetry-api; install it by: pip install 'unimq[otel]'"
    ) from _missing

if TYPE_CHECKING:
    from contextvars import Token

__all__ = ["OpenTelemetry", "context_of"]

Attributes = Mapping[str, str | int | bool]

SCHEMA = "https://opentelemetry.io/schemas/1.37.0"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Bounds that the conventions give for durations."""
_SYSTEMS = {"sqs": "aws_sqs"}
"""Where the conventions call a backend by another name than we do."""
_MOST_DESTINATIONS = 1000


class _HeaderGetter(Getter[Headers]):
    """Reads the context of a trace from headers, whose values may be bytes."""

    def get(self, carrier: Headers, key: str) -> list[str] | None:
        value = carrier.get(key)
        if value is None:
            return None
        return [value if isinstance(value, str) else value.decode(errors="replace")]

    def keys(self, carrier: Headers) -> list[str]:
        return list(carrier)


_getter = _HeaderGetter()


def context_of(delivery: Delivery[Any]) -> Context:
    """Return the context that a message was sent in, for programs that receive without `run`.

    ``tracer.start_as_current_span("process", context=context_of(delivery))`` continues its trace.
    """
    return propagate.extract(delivery.headers, Context(), getter=_getter)


class OpenTelemetry:
    """Traces and metrics of the connections to whose ``middleware`` it is given.

    Each send is a span of kind PRODUCER, whose context goes along in the message's headers; each call of a handler by
    `run` is one of kind CONSUMER: a child of the send for one message, with a link to each of a batch. Headers that
    carry a context are replaced, so that a message which is sent on belongs to who sent it last.

    Args:
        queues: queues and subscriptions whose depth (T4) is a metric; each is asked when metrics are collected.
        tracing: make spans.
        measuring: make metrics.
        tracer_provider: where spans go; without it the global one.
        meter_provider: where metrics go; without it the global one.

    Raises:
        ConfigError: one of `queues` has no depth.
        MissingDependency: on import of this module, if opentelemetry-api is not installed.

    """

    def __init__(
        self,
        queues: Iterable[str | Source] = (),
        *,
        tracing: bool = True,
        measuring: bool = True,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._queues = checked_queues(queues)
        self._tracer = trace.get_tracer("unimq", _version(), tracer_provider, SCHEMA) if tracing else None
        self._metrics: _Metrics | None = None
        if measuring:
            self._metrics = _Metrics(metrics.get_meter("unimq", _version(), meter_provider, SCHEMA))

    def attach(self, connection: ConnectionView) -> Sequence[Middleware]:
        """See `unimq.Instrument.attach`."""
        broker = broker_of(connection)
        destinations = _destinations(broker)
        hooks: list[Middleware] = []
        if self._tracer is not None:
            hooks.append(_Tracing(self._tracer, destinations).hooks())
        if self._metrics is not None:
            self._metrics.watched.add(connection, self._queues)
            hooks.append(measuring(_Recorder(self._metrics, broker, destinations)))
        return hooks


def _version() -> str:
    from importlib.metadata import version

    return version("unimq")


class _Destinations:
    """The attributes of the destinations on one broker, each made once."""

    def __init__(self, backend: str, address: str) -> None:
        host, port = split_address(address)
        self.broker: dict[str, str | int | bool] = {"messaging.system": _SYSTEMS.get(backend, backend)}
        if host:
            self.broker["server.address"] = host
        if port:
            self.broker["server.port"] = port
        self.of: Callable[[str], Attributes] = lru_cache(_MOST_DESTINATIONS)(self._of)

    def _of(self, name: str) -> Attributes:
        shown = label_of(name)
        if shown == REPLIES:
            return {**self.broker, "messaging.destination.name": shown, "messaging.destination.temporary": True}
        topic, double, subscription = shown.partition("--")
        found: dict[str, str | int | bool] = {**self.broker, "messaging.destination.name": topic}
        if double:
            found["messaging.destination.subscription.name"] = subscription
        return found


# Traces.


class _Tracing:
    """Makes the spans of one connection; also the key of its notes on messages."""

    def __init__(self, tracer: Tracer, destinations: _Destinations) -> None:
        self.tracer = tracer
        self.destinations = destinations

    def hooks(self) -> Middleware:
        return Middleware(publish=self.publish, published=self.published, handling=self.handling)

    def publish(self, message: Message, target: str) -> Message:
        span = self.tracer.start_span(
            f"send {label_of(target)}",
            kind=SpanKind.PRODUCER,
            attributes={
                **self.destinations.of(target),
                "messaging.operation.name": "send",
                "messaging.operation.type": "send",
                **_described(message),
            },
        )
        carrier: dict[str, str] = {}
        propagate.inject(carrier, trace.set_span_in_context(span))
        if carrier:
            # It is a copy of what the user gave, and ours to change.
            message.headers = {**message.headers, **carrier}
        message.notes = {**(message.notes or {}), self: span}
        return message

    def published(self, message: Message, target: str, outcome: Outcome) -> None:
        span: Any = message.notes.pop(self, None) if message.notes else None
        if span is None:
            return
        if isinstance(outcome, UnimqError):
            _fail(span, outcome)
        span.end()

    def handling(self, deliveries: Sequence[Delivery[Any]]) -> AbstractContextManager[object]:
        return _Processing(self, deliveries)


def _described(message: Message) -> Attributes:
    found: dict[str, str | int] = {
        "messaging.message.id": message.id,
        "messaging.message.body.size": len(message.body),
    }
    if message.correlation_id is not None:
        found["messaging.message.conversation_id"] = message.correlation_id
    return found


def _fail(span: Span, error: BaseException) -> None:
    span.set_attribute("error.type", type(error).__qualname__)
    span.set_status(Status(StatusCode.ERROR, str(error)))


class _Processing:
    """The span of one call of a handler, which is the current one while that runs."""

    __slots__ = ("_deliveries", "_span", "_token", "_tracing")

    def __init__(self, tracing: _Tracing, deliveries: Sequence[Delivery[Any]]) -> None:
        self._tracing = tracing
        self._deliveries = deliveries

    def __enter__(self) -> None:
        deliveries = self._deliveries
        first = deliveries[0]
        sent_in = [context_of(delivery) for delivery in deliveries]
        links = [Link(found) for each in sent_in if (found := trace.get_current_span(each).get_span_context()).is_valid]
        attributes: dict[str, str | int | bool] = {
            **self._tracing.destinations.of(first.source),
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
        }
        # The handling of a single message continues its trace; that of several belongs to none of theirs.
        is_single = len(deliveries) == 1
        if is_single:
            attributes |= _described(first.message)
            attributes["unimq.delivery.attempt"] = first.attempt
        else:
            attributes["messaging.batch.message_count"] = len(deliveries)
        parent = sent_in[0] if is_single else context.get_current()
        self._span: Span = self._tracing.tracer.start_span(
            f"process {label_of(first.source)}", parent, SpanKind.CONSUMER, attributes, links
        )
        self._token: Token[Context] = context.attach(trace.set_span_in_context(self._span, parent))

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        context.detach(self._token)
        if error is not None:
            self._span.record_exception(error)
            _fail(self._span, error)
        self._span.end()


# Metrics.


class _Counter:
    """A counter that is read when metrics are collected: one of the SDK's takes microseconds for each addition.

    `_lock` guards the counts, of which there is one for each broker, destination and outcome.
    """

    def __init__(self, meter: Meter, name: str, text: str, operation: Attributes, outcome: str = "") -> None:
        self._lock = threading.Lock()
        self._counts: defaultdict[tuple[Broker, str, str | None], int] = defaultdict(int)
        self._operation = operation
        self._outcome = outcome
        meter.create_observable_counter(name, [self._observe], "{message}", text)

    def add(self, broker: Broker, name: str, outcome: str | None = None) -> None:
        with self._lock:
            self._counts[broker, name, outcome] += 1

    def _observe(self, _: CallbackOptions) -> Iterable[Observation]:
        with self._lock:
            counts = dict(self._counts)
        for (broker, name, outcome), number in counts.items():
            more = {} if outcome is None else {self._outcome: outcome}
            yield Observation(number, {**_named(broker, name), **self._operation, **more})


class _Metrics:
    """The instruments, and the connections that the observed ones are read from."""

    def __init__(self, meter: Meter) -> None:
        def histogram(name: str, text: str) -> metrics.Histogram:
            return meter.create_histogram(name, "s", text, explicit_bucket_boundaries_advisory=SECONDS)

        self.duration = histogram("messaging.client.operation.duration", "From the call of send to the outcome.")
        self.process = histogram("messaging.process.duration", "One call of a handler.")
        self.latency = histogram("unimq.message.latency", "From the send to the first delivery.")
        self.sent = _Counter(meter, "messaging.client.sent.messages", "Messages with an outcome.", _SEND, "error.type")
        self.consumed = _Counter(
            meter, "messaging.client.consumed.messages", "Deliveries that reached their user.", _RECEIVE
        )
        self.redelivered = _Counter(
            meter, "unimq.redelivered.messages", "Deliveries that were not the first of their message.", {}
        )
        self.settled = _Counter(
            meter,
            "unimq.settled.messages",
            "Deliveries that ended: ack, nack, dead, dropped, lost.",
            {},
            "unimq.settlement",
        )
        self.watched = Watched()
        self._observe(meter)

    def _observe(self, meter: Meter) -> None:
        def in_flight(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(number, _named(*of)) for of, number in self.watched.in_flight().items()]

        def unconfirmed(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(number, _named(*of)) for of, number in self.watched.unconfirmed().items()]

        def reconnects(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(number, _destinations(of).broker) for of, number in self.watched.reconnects().items()]

        meter.create_observable_up_down_counter(
            "unimq.in_flight.messages", [in_flight], "{message}", "Held unsettled by this process."
        )
        meter.create_observable_up_down_counter(
            "unimq.unconfirmed.messages", [unconfirmed], "{message}", "Sent, without an outcome yet."
        )
        meter.create_observable_counter(
            "unimq.reconnects", [reconnects], "{reconnect}", "Connections restored after a loss."
        )
        for field, name, unit, text in (
            ("requests", "requests", "{request}", "Requests to a service that bills them."),
            ("billed", "billed_requests", "{request}", "Requests that it bills for them."),
            ("empty", "empty_requests", "{request}", "Requests for messages that brought none."),
            ("bytes_sent", "sent", "By", "Bytes of the bodies of requests."),
            ("bytes_received", "received", "By", "Bytes of the bodies of answers."),
        ):
            meter.create_observable_counter(f"unimq.service.{name}", [self._asked(field)], unit, text)
        for field, unit, text in (
            ("ready", "{message}", "Waiting for a consumer."),
            ("in_flight", "{message}", "Held by any consumer."),
            ("delayed", "{message}", "Not due yet."),
            ("oldest_age", "s", "Age of the oldest message."),
            ("consumers", "{consumer}", "Consumers of the queue."),
            ("dead_letters", "{message}", "In its dead-letter queue."),
        ):
            meter.create_observable_gauge(f"unimq.queue.{field}", [self._depth(field)], unit, text)

    def _asked(self, field: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [
                Observation(getattr(count, field), {**_destinations(broker).broker, "unimq.action": action})
                for (broker, action), count in self.watched.requests().items()
            ]

        return observe

    def _depth(self, field: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [
                Observation(value, _named(broker, name))
                for broker, name, stats in self.watched.depths()
                if (value := getattr(stats, field)) is not None
            ]

        return observe


@lru_cache(_MOST_DESTINATIONS)
def _destinations(broker: Broker) -> _Destinations:
    return _Destinations(*broker)


def _named(broker: Broker, name: str) -> Attributes:
    return _destinations(broker).of(name)


class _Recorder:
    """The measurements of one connection; see `unimq._measuring.Recorder`."""

    def __init__(self, found: _Metrics, broker: Broker, destinations: _Destinations) -> None:
        self._metrics = found
        self._broker = broker

        @lru_cache(_MOST_DESTINATIONS)
        def attributes(name: str, operation: str, error: str | None) -> Attributes:
            more = {} if error is None else {"error.type": error}
            return {**destinations.of(name), **_OPERATIONS[operation], **more}

        self._attributes = attributes

    def sent(self, target: str, duration: float, error: UnimqError | None) -> None:
        name = label_of(target)
        kind = None if error is None else type(error).__qualname__
        self._metrics.sent.add(self._broker, name, kind)
        self._metrics.duration.record(duration, self._attributes(name, "send", kind))

    def delivered(self, source: str, latency: float, attempt: int) -> None:
        name = label_of(source)
        self._metrics.consumed.add(self._broker, name)
        if attempt > 1:
            self._metrics.redelivered.add(self._broker, name)
        else:
            self._metrics.latency.record(latency, self._attributes(name, "", None))

    def settled(self, source: str, how: Settlement) -> None:
        self._metrics.settled.add(self._broker, label_of(source), how)

    def handled(self, source: str, messages: int, duration: float, error: BaseException | None) -> None:
        kind = None if error is None else type(error).__qualname__
        self._metrics.process.record(duration, self._attributes(label_of(source), "process", kind))


def _operation(name: str) -> dict[str, str]:
    return {"messaging.operation.name": name, "messaging.operation.type": name}


_SEND = _operation("send")
_RECEIVE = _operation("receive")
_OPERATIONS: Mapping[str, Attributes] = {"send": _SEND, "process": _operation("process"), "": {}}
