"""What hooks and telemetry cost per message on memory, sent in batches, received and acked. Run it by hand:

    python tests/telemetry/cost.py --rounds 15

Every round measures each row once, in random order, beside a row without middleware, so that the machine's moods fall
on all of them. Given are the median time per message, and the median and the middle half of the ratio to that row.
"""

# ruff: noqa: T201 - what it prints is its result

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from prometheus_client import CollectorRegistry

import unimq
from unimq import Delivery, Instrument, Message, Middleware
from unimq.prometheus import Prometheus
from unimq.telemetry import OpenTelemetry

MESSAGES = 20_000
BATCH = 100

Hooks = Sequence[Middleware | Instrument]


def publish(message: Message, target: str) -> Message:
    return message


def deliver(delivery: Delivery) -> bool:
    return True


def settled(delivery: Delivery, how: str) -> None:
    return


def handling(deliveries: Sequence[Delivery]) -> AbstractContextManager[object]:
    return nullcontext()


def traced(*, sampled: bool) -> OpenTelemetry:
    tracers = TracerProvider(sampler=ALWAYS_ON if sampled else ALWAYS_OFF)
    return OpenTelemetry(measuring=False, tracer_provider=tracers)


def measured() -> OpenTelemetry:
    return OpenTelemetry(tracing=False, meter_provider=MeterProvider([InMemoryMetricReader()]))


def with_prometheus() -> Prometheus:
    return Prometheus(registry=CollectorRegistry())


ROWS: dict[str, Callable[[], Hooks]] = {
    "nothing": tuple,
    "nothing, again": tuple,
    "a publish hook that does nothing": lambda: [Middleware(publish=publish)],
    "a deliver hook that does nothing": lambda: [Middleware(deliver=deliver)],
    "a settled hook that does nothing": lambda: [Middleware(settled=settled)],
    "Prometheus": lambda: [with_prometheus()],
    "OpenTelemetry, metrics": lambda: [measured()],
    "OpenTelemetry, traces, none sampled": lambda: [traced(sampled=False)],
    "OpenTelemetry, traces, all sampled": lambda: [traced(sampled=True)],
}


def once(hooks: Hooks) -> float:
    """Return the seconds per message."""
    bodies = [b"x" * 100] * BATCH
    with (
        unimq.connect("memory://?private=true", middleware=hooks) as broker,
        broker.producer("q") as producer,
        broker.consumer("q", prefetch=BATCH) as consumer,
    ):
        began = time.perf_counter()
        for _ in range(MESSAGES // BATCH):
            producer.send_many(bodies)
            got = 0
            while got < BATCH:
                batch = consumer.receive(BATCH, timeout=10)
                got += len(batch)
                consumer.ack(batch)
        return (time.perf_counter() - began) / MESSAGES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds: int = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in ROWS}
    for _ in range(rounds):
        for name in random.sample(list(ROWS), len(ROWS)):
            times[name].append(once(ROWS[name]()))
    plain = times["nothing"]
    print(f"{'middleware':<38} {'µs':>6} {'more':>6} {'ratio':>6}  middle half")
    for name, found in times.items():
        ratios = sorted(each / base for each, base in zip(found, plain, strict=True))
        low, middle, high = statistics.quantiles(ratios, n=4)
        median = statistics.median(found)
        more = median - statistics.median(plain)
        print(f"{name:<38} {median * 1e6:>6.2f} {more * 1e6:>+6.2f} {middle:>6.2f}  {low:.2f}–{high:.2f}")


if __name__ == "__main__":
    main()
