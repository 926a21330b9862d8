"""What workers export for Prometheus, read from their endpoint: rates and percentiles between two looks at it."""

import math
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from unimq._cli._output import UsageError
from unimq._errors import ConfigError, ConnectionLost

LARGEST = 16 * 1024 * 1024
"""Bytes of an answer at most."""

Buckets = dict[float, float]
"""How many took at most so many seconds, by these."""


@dataclass(slots=True)
class Counts:
    """The counters of one destination, summed over all outcomes."""

    sent: float = 0.0
    done: float = 0.0
    redelivered: float = 0.0
    dead: float = 0.0
    latency: Buckets = field(default_factory=lambda: defaultdict(float))
    handler: Buckets = field(default_factory=lambda: defaultdict(float))
    in_flight: float = 0.0


@dataclass(frozen=True, slots=True)
class Look:
    """What an endpoint said at one moment."""

    at: float
    by_destination: Mapping[str, Counts]
    reconnects: float


@dataclass(frozen=True, slots=True)
class Rates:
    """What happened at one destination between two looks; per second, and seconds."""

    sent: float
    done: float
    redelivered: float
    dead: float
    latency_p50: float | None
    latency_p99: float | None
    handler_p99: float | None
    in_flight: float


class Endpoint:
    """Where workers export their metrics."""

    def __init__(self, url: str, timeout: float) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError("--metrics is the address of an exporter, such as http://localhost:9464/metrics")
        try:
            from prometheus_client.parser import text_string_to_metric_families
        except ModuleNotFoundError as missing:
            if missing.name != "prometheus_client":
                raise
            raise UsageError("--metrics needs prometheus-client: pip install 'unimq[prometheus]'") from None
        self._parse = text_string_to_metric_families
        self._url = url
        self._timeout = timeout

    def look(self) -> Look:
        """Read what the endpoint says now.

        Raises:
            ConnectionLost: nobody answers there, or with something else than metrics.

        """
        try:
            with urllib.request.urlopen(self._url, timeout=self._timeout) as answer:  # noqa: S310 - checked above
                text = answer.read(LARGEST).decode(errors="replace")
            return self._counted(text)
        except urllib.error.URLError as error:
            raise ConnectionLost(f"no metrics from {self._host()}: {error.reason}") from error
        except (OSError, ValueError) as error:
            raise ConnectionLost(f"no metrics from {self._host()}: {error}") from error

    def _host(self) -> str:
        # The address may have a password.
        return self._url.partition("://")[2].partition("/")[0].rpartition("@")[2]

    def _counted(self, text: str) -> Look:
        found: defaultdict[str, Counts] = defaultdict(Counts)
        reconnects = 0.0
        for family in self._parse(text):
            for sample in family.samples:
                counts = found[sample.labels["destination"]] if "destination" in sample.labels else Counts()
                match sample.name, sample.labels.get("how"):
                    case "unimq_sent_messages_total", _:
                        counts.sent += sample.value
                    case "unimq_settled_messages_total", "ack":
                        counts.done += sample.value
                    case "unimq_settled_messages_total", "dead":
                        counts.dead += sample.value
                    case "unimq_redelivered_messages_total", _:
                        counts.redelivered += sample.value
                    case "unimq_message_latency_seconds_bucket", _:
                        counts.latency[float(sample.labels["le"])] += sample.value
                    case "unimq_handler_seconds_bucket", _:
                        counts.handler[float(sample.labels["le"])] += sample.value
                    case "unimq_in_flight_messages", _:
                        counts.in_flight += sample.value
                    case "unimq_reconnects_total", _:
                        reconnects += sample.value
                    case _:
                        pass
        return Look(time.monotonic(), found, reconnects)


def rates_between(before: Look, now: Look) -> Mapping[str, Rates]:
    """Return what happened at each destination. A counter that went back belongs to a process that was restarted."""
    seconds = max(now.at - before.at, 1e-9)
    found: dict[str, Rates] = {}
    for name, counts in now.by_destination.items():
        old = before.by_destination.get(name, Counts())

        def rate(value: float, old_value: float) -> float:
            return (value - old_value if value >= old_value else value) / seconds

        latency, handler = _grown(counts.latency, old.latency), _grown(counts.handler, old.handler)
        found[name] = Rates(
            sent=rate(counts.sent, old.sent),
            done=rate(counts.done, old.done),
            redelivered=rate(counts.redelivered, old.redelivered),
            dead=rate(counts.dead, old.dead),
            latency_p50=percentile(latency, 0.5),
            latency_p99=percentile(latency, 0.99),
            handler_p99=percentile(handler, 0.99),
            in_flight=counts.in_flight,
        )
    return found


def _grown(now: Buckets, before: Buckets) -> Buckets:
    if any(now[bound] < before.get(bound, 0.0) for bound in now):
        return now
    return {bound: now[bound] - before.get(bound, 0.0) for bound in now}


def percentile(buckets: Buckets, share: float) -> float | None:
    """Return the seconds within which this share of all was, as far as the buckets tell; `None` if there was nothing.

    Inside a bucket they are taken to be spread evenly. Beyond the last bound nothing is known but that.
    """
    bounds = sorted(buckets)
    if not bounds or not buckets[bounds[-1]]:
        return None
    wanted = share * buckets[bounds[-1]]
    lower = below = 0.0
    for bound in bounds:
        within = buckets[bound]
        if within >= wanted:
            if math.isinf(bound) or within == below:
                return lower
            return lower + (bound - lower) * (wanted - below) / (within - below)
        lower, below = bound, within
    return lower
