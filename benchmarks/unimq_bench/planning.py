"""How many machines, partitions, consumers and dollars a rate takes: from CPU measured for each message, and limits.

The model is small so that it can be checked. CPU per message is that of one row in one result file, interpolated
between the sizes that were measured. A client process is one core; a broker repeats the work of publishing for each
replica. What the model believes is told in `Plan.assumptions`, and `checks` holds it against the rates measured on the
one machine of the result: a model that is wrong there is wrong everywhere.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from statistics import median
from typing import Any

import msgspec

from unimq_bench.costs import BUSY, CHUNK, CLUSTER
from unimq_bench.prices import HOURS_PER_MONTH, Prices
from unimq_bench.results import Result, Row, Run, decoded

BACKENDS = ("kafka", "rabbitmq", "sqs")
LARGEST_RATE = 1e9
LARGEST_SIZE = {"kafka": 1_048_576, "rabbitmq": 16 * 1024 * 1024, "sqs": 1_048_576}
"""Bytes that each broker takes by default."""
_SECONDS_PER_MONTH = HOURS_PER_MONTH * 3600
_MICRO = 1e-6


class BadPlan(ValueError):
    """What was asked for makes no sense, or the result lacks what it takes; the message says what would be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """CPU of one row for each message of one size, in microseconds."""

    size: int
    publish: float
    consume: float
    broker_publish: float
    broker_consume: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An answer. Numbers of machines and processes are rounded up."""

    backend: str
    rate: float
    size: int
    nodes: int
    """Of the broker; 0 for a service."""
    nodes_because: str
    partitions: int
    """Partitions of a topic, queues of RabbitMQ, or queues of SQS."""
    partitions_because: str
    producers: int
    consumers: int
    """Processes of one core each, as producers."""
    dollars_per_month: float
    dollars_for: Mapping[str, float] = field(default_factory=dict[str, float])
    assumptions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The model against one measured point on the machine of the result."""

    row: str
    what: str
    predicted: float
    measured: float

    @property
    def ratio(self) -> float:
        """Measured by predicted: 1 is a perfect model, above 1 the machine did what the model calls impossible."""
        return self.measured / self.predicted


def plan(found: Result, prices: Prices, *, backend: str, rate: float, size: int, row: str = "unimq") -> Plan:
    """Plan for `rate` messages per second of `size` bytes, each sent and received once.

    Raises:
        BadPlan: the rate or size is none or absurd, or the result has no valid runs that tell the CPU.

    """
    _check_asked(backend, rate, size)
    chosen = _row(found, backend, row)
    costs, note = at_size(measured_costs(found, chosen), size)
    limits = _limits()
    producers = _processes(rate, costs.publish)
    consumers = _processes(rate, costs.consume)
    assumptions = [
        (
            f"CPU of {chosen.name} as measured on {found.environment.cpu or 'the machine of the result'}:"
            f" {costs.publish:.2g} µs to publish and {costs.consume:.2g} µs to consume in the client;"
            " a core there is a core here"
        ),
        note,
        f"each message is received once; handlers take nothing; processes and brokers are {BUSY:.0%} busy",
        f"clients run on {prices.node.name}, {prices.node.vcpus} processes on each",
    ]
    clients = -(-(producers + consumers) // prices.node.vcpus) * prices.node.monthly
    if backend == "sqs":
        made = _service(found, chosen, limits, prices, rate, size)
    else:
        made = _cluster(backend, costs, limits, prices, rate, size, consumers)
    bill = {**made.bill, "machines of the clients": clients}
    return Plan(
        backend=backend,
        rate=rate,
        size=size,
        nodes=made.nodes,
        nodes_because=made.nodes_because,
        partitions=made.partitions,
        partitions_because=made.partitions_because,
        producers=producers,
        consumers=consumers,
        dollars_per_month=sum(bill.values()),
        dollars_for=bill,
        assumptions=(*(line for line in assumptions if line), *made.assumptions),
    )


def reference() -> Result:
    """Return the result that comes with the package, for those who have measured nothing yet.

    It is of ``publish_max`` and ``consume_max``, of unimq on RabbitMQ, Kafka and an emulator of SQS, on two cores of a
    machine that others used as well: its rates are low, its CPU per message is what a plan takes.
    """
    return decoded(files("unimq_bench").joinpath("reference.json").read_bytes(), named="reference.json")


def _check_asked(backend: str, rate: float, size: int) -> None:
    if backend not in BACKENDS:
        raise BadPlan(f"a plan is for {', '.join(BACKENDS)}, not for {backend!r}")
    if not (math.isfinite(rate) and 0 < rate <= LARGEST_RATE):
        raise BadPlan(f"a rate is more than 0 and at most {LARGEST_RATE:g} messages per second, not {rate:g}")
    if not 0 < size <= LARGEST_SIZE[backend]:
        raise BadPlan(f"a message for {backend} has 1 to {LARGEST_SIZE[backend]} bytes by default, not {size}")


def _row(found: Result, backend: str, library: str) -> Row:
    rows = [row for row in found.rows if row.library == library and row.backend == backend]
    if not rows:
        has = ", ".join(row.name for row in found.rows) or "none"
        raise BadPlan(f"the result has no row of {library} on {backend}; it has: {has}")
    return rows[0]


# What was measured.


def measured_costs(found: Result, row: Row) -> list[Measured]:
    """Return the CPU for each message, by size: the median over slices of valid runs.

    Raises:
        BadPlan: there are none.

    """
    parts: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in _valid(found, row):
        size = int(run.point.get("size", 0))
        for part in run.slices:
            if part.messages <= 0 or part.client_cpu <= 0 or not size or part.metric == "both":
                continue
            parts[size][part.metric].append(part.client_cpu / part.messages / _MICRO)
            if part.broker_cpu is not None:
                parts[size][f"broker {part.metric}"].append(part.broker_cpu / part.messages / _MICRO)
    measured: list[Measured] = []
    for size, costs in sorted(parts.items()):
        if "publish" in costs and "consume" in costs:
            middle = {name: median(values) for name, values in costs.items()}
            measured.append(
                Measured(
                    size=size,
                    publish=middle["publish"],
                    consume=middle["consume"],
                    broker_publish=middle.get("broker publish", 0.0),
                    broker_consume=middle.get("broker consume", 0.0),
                )
            )
    if not measured:
        raise BadPlan(
            f"no valid run of {row.name} tells the CPU of publishing and consuming:"
            " measure with `unimq bench publish_max consume_max --out FILE`"
        )
    return measured


def _valid(found: Result, row: Row) -> list[Run]:
    return [run for run in found.runs if run.row == row.name and not run.invalid]


def at_size(measured: Sequence[Measured], size: int) -> tuple[Measured, str]:
    """Return the costs at a size, and what was assumed to get there.

    Between two sizes they are interpolated; below the smallest they are its own; above the largest they grow with it.
    """
    smallest, largest = measured[0], measured[-1]
    if size <= smallest.size:
        same = "" if size == smallest.size else f"a message of {size} bytes takes the CPU of one of {smallest.size}"
        return _scaled(smallest, smallest, 0.0, size), same
    if size >= largest.size:
        factor = size / largest.size
        grown = {
            name: getattr(largest, name) * factor for name in ("publish", "consume", "broker_publish", "broker_consume")
        }
        note = f"CPU grows with the size beyond the largest measured one of {largest.size} bytes: at worst" * (
            factor > 1
        )
        return Measured(size=size, **grown), note
    for low, high in itertools.pairwise(measured):
        if low.size <= size <= high.size:
            share = (size - low.size) / (high.size - low.size)
            note = f"CPU is interpolated between {low.size} and {high.size} bytes" if 0 < share < 1 else ""
            return _scaled(low, high, share, size), note
    raise AssertionError("sizes are sorted")


def _scaled(low: Measured, high: Measured, share: float, size: int) -> Measured:
    names = ("publish", "consume", "broker_publish", "broker_consume")
    return Measured(size=size, **{n: getattr(low, n) * (1 - share) + getattr(high, n) * share for n in names})


def _processes(rate: float, micros: float) -> int:
    return max(1, math.ceil(rate * micros * _MICRO / BUSY))


# Where it runs.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    nodes: int
    nodes_because: str
    partitions: int
    partitions_because: str
    bill: Mapping[str, float]
    assumptions: tuple[str, ...]


def _most(needs: Mapping[str, float]) -> tuple[int, str]:
    """Return the largest need, rounded up, and its name."""
    name = max(needs, key=lambda each: needs[each])
    return math.ceil(needs[name]), name


def _cluster(
    backend: str,
    costs: Measured,
    limits: Mapping[str, Any],
    prices: Prices,
    rate: float,
    size: int,
    consumers: int,
) -> _Made:
    of_node, own = limits["node"], limits[backend]
    replicas = CLUSTER
    cores = rate * (costs.broker_publish * replicas + costs.broker_consume) * _MICRO / BUSY
    traffic = rate * size
    needs = {
        f"{CLUSTER} survive the loss of one": float(CLUSTER),
        "CPU": cores / prices.node.vcpus,
        # In from producers and between replicas, or out to replicas and consumers: the larger way is the same.
        "network": traffic * replicas / of_node["network_bytes"],
        "disk": traffic * replicas / of_node["disk_bytes"],
    }
    if backend == "kafka":
        shards = {
            "one consumer each": float(consumers),
            f"{own['partition_bytes'] / 1e6:g} MB/s each": traffic / own["partition_bytes"],
        }
        partitions, why = _most(shards)
        needs["partitions"] = partitions * replicas / own["node_partitions"]
    else:
        one_core = 1 / ((costs.broker_publish + costs.broker_consume) * _MICRO) if costs.broker_publish else math.inf
        partitions, why = _most(
            {
                f"{own['queue_rate']} msg/s each": rate / own["queue_rate"],
                "a queue is one core of the broker at most": rate / one_core,
            }
        )
    nodes, because = _most(needs)
    told = [
        (
            f"{replicas} replicas: each repeats the broker's work of publishing ({costs.broker_publish:.2g} µs);"
            f" consuming ({costs.broker_consume:.2g} µs) is the leader's"
        ),
        *(f"{name.removesuffix('_source')}: {text}" for name, text in {**own, **of_node}.items() if "source" in name),
        "disks and traffic between zones are not in the price",
    ]
    return _Made(
        nodes=nodes,
        nodes_because=because,
        partitions=max(1, partitions),
        partitions_because=why,
        bill={"machines of the broker": nodes * prices.node.monthly},
        assumptions=tuple(told),
    )


def _service(found: Result, row: Row, limits: Mapping[str, Any], prices: Prices, rate: float, size: int) -> _Made:
    own = limits["sqs"]
    counted = [
        (run.counters.billed_requests, run.accounting.received)
        for run in _valid(found, row)
        if run.counters.billed_requests
        and run.accounting.received
        and int(run.point.get("size", 0)) * own["batch"] <= CHUNK
    ]
    if not counted:
        raise BadPlan(
            f"no valid run of {row.name} with messages of at most {CHUNK // own['batch']} bytes counted requests"
        )
    small = sum(billed for billed, _ in counted) / sum(received for _, received in counted)
    batch = max(1, min(own["batch"], own["request_bytes"] // size))
    # Of send, receive and delete the first two carry the payload, in requests that are billed by its chunks.
    chunks = max(1.0, batch * size / CHUNK)
    each = small / 3 * (1 + 2 * chunks) if chunks > 1 else small
    dollars = rate * _SECONDS_PER_MONTH * each / 1e6 * prices.sqs.standard
    return _Made(
        nodes=0,
        nodes_because="a service",
        partitions=1,
        partitions_because="a standard queue has no stated limit of its rate",
        bill={"requests": dollars},
        assumptions=(
            f"{each:.3g} billed requests for each message, from {small:.3g} counted with small ones"
            + (f" against {row.emulated}" if row.emulated else ""),
            f"{prices.sqs.standard:g} per million requests ({prices.sqs.date}, {prices.sqs.source}), no discounts",
            f"at most {own['in_flight']} messages are in work: handlers take up to {own['in_flight'] / rate:.3g} s",
            f"a FIFO queue without high throughput ends at {own['fifo_requests'] * own['batch']} msg/s",
            "the network to the service is not in it: long round trips need more requests at a time, not more CPU",
        ),
    )


def _limits() -> dict[str, Any]:
    read: dict[str, Any] = msgspec.toml.decode(files("unimq_bench").joinpath("limits.toml").read_bytes())
    return read


# Whether the model can be believed.


def checks(found: Result, backend: str, row: str = "unimq") -> list[Check]:
    """Hold the model against every rate that one machine was measured at.

    What is predicted from CPU alone is a ceiling: the client is one core, client and broker share those of the machine.
    A rate above it refutes the model; one far below it waited for something else, or for others on the machine. End to
    end, from which no costs are taken, publishing and consuming go on at once.

    Raises:
        BadPlan: see `measured_costs`.

    """
    chosen = _row(found, backend, row)
    measured = measured_costs(found, chosen)
    rates: dict[tuple[str, int], list[float]] = defaultdict(list)
    for run in _valid(found, chosen):
        size = int(run.point.get("size", 0)) or measured[0].size
        if run.point.get("rate") == "flat out" and run.slices:
            rates["end to end", size].append(min(part.messages / part.seconds for part in run.slices))
        elif "rate" not in run.point:
            for part in run.slices:
                if part.metric in {"publish", "consume"}:
                    rates[part.metric, size].append(part.messages / part.seconds)
    cores = float(found.environment.cores or 1)
    return [
        Check(
            row=chosen.name,
            what=f"{what}, {size} bytes",
            predicted=ceiling(at_size(measured, size)[0], what, cores),
            measured=median(values),
        )
        for (what, size), values in sorted(rates.items())
    ]


def ceiling(costs: Measured, what: str, cores: float) -> float:
    """Return the messages per second that one producer and one consumer cannot exceed on a machine with these cores."""
    client = {"publish": [costs.publish], "consume": [costs.consume]}.get(what, [costs.publish, costs.consume])
    broker = {"publish": costs.broker_publish, "consume": costs.broker_consume}.get(
        what, costs.broker_publish + costs.broker_consume
    )
    # A process of Python is hardly ever more than one core; what its client does in threads of C is counted as well.
    return min(1 / (max(client) * _MICRO), cores / ((sum(client) + broker) * _MICRO))


def told(found: Plan, proofs: Sequence[Check]) -> list[str]:
    """Return a plan as lines for a person."""
    return [
        f"{found.rate:g} messages per second of {found.size} bytes on {found.backend}:",
        f"  machines of the broker  {found.nodes}  ({found.nodes_because})",
        f"  partitions or queues    {found.partitions}  ({found.partitions_because})",
        f"  producing processes     {found.producers}",
        f"  consuming processes     {found.consumers}",
        f"  dollars a month         {found.dollars_per_month:,.0f}",
        *(f"    {what}: {dollars:,.0f}" for what, dollars in found.dollars_for.items()),
        "assumed:",
        *(f"  {line}" for line in found.assumptions),
        "the same model against the one machine of the result, measured by predicted ceiling:",
        *(
            f"  {proof.what}: {proof.measured:,.0f} of {proof.predicted:,.0f} msg/s ({proof.ratio:.0%})"
            for proof in proofs
        ),
    ]
