"""A result that no run has made, with something for every section of the page; its figures are invented."""

import math
import random

from unimq_bench.recording import folded
from unimq_bench.results import (
    Accounting,
    Counters,
    Environment,
    Event,
    Figure,
    Ratio,
    Result,
    Row,
    Run,
    Sample,
    Slice,
)

OURS, RAW, PEER = "unimq on rabbitmq", "pika-select on rabbitmq", "kombu on rabbitmq"
HERE, QUEUE = "unimq on memory", "simplequeue on memory"
SQS, BOTO = "unimq on sqs", "boto3 on sqs"
_RATES = {
    OURS: 26_400.0,
    RAW: 28_100.0,
    PEER: 1_560.0,
    HERE: 310_000.0,
    QUEUE: 2_150_000.0,
    SQS: 4_100.0,
    BOTO: 3_900.0,
}
_LATENCY = {OURS: 1.6e6, RAW: 1.4e6, PEER: 4.2e6, HERE: 45e3, QUEUE: 12e3, SQS: 18e6, BOTO: 17e6}
ROWS = (
    Row(
        name=OURS,
        library="unimq",
        kind="unimq",
        backend="rabbitmq",
        url="amqp://127.0.0.1:5672/",
        durability="fsync",
        client_settings={"window": "1000", "confirms": "on"},
        broker_settings={"queue": "quorum"},
        versions={"unimq": "0.1.0", "RabbitMQ": "3.10.8"},
    ),
    Row(
        name=RAW, library="pika-select", kind="raw", backend="rabbitmq", durability="fsync", versions={"pika": "1.4.4"}
    ),
    Row(name=PEER, library="kombu", kind="peer", backend="rabbitmq", durability="fsync"),
    Row(name=HERE, library="unimq", kind="unimq", backend="memory", durability="memory", in_process=True),
    Row(name=QUEUE, library="simplequeue", kind="raw", backend="memory", durability="memory", in_process=True),
    Row(name=SQS, library="unimq", kind="unimq", backend="sqs", durability="memory", emulated="ministack"),
    Row(name=BOTO, library="boto3", kind="raw", backend="sqs", durability="memory", emulated="ministack"),
)


def histogram(median: float, number: int, chance: random.Random, tail: float = 1.0) -> str:
    """Return a histogram of invented times around a median."""
    return folded(
        [int(median * math.exp(chance.gauss(0, 0.35) + (tail if chance.random() < 0.01 else 0))) for _ in range(number)]
    )


def made_result(*, speed: float = 1.0, spread: float = 0.03, seed: int = 7) -> Result:
    """Return a result; `speed` is how fast unimq is, the other rows are the same."""
    chance = random.Random(seed)
    runs: list[Run] = []
    figures: list[Figure] = []
    for row in ROWS:
        factor = speed if row.kind == "unimq" else 1.0
        rate = _RATES[row.name] * factor
        runs += [_publishing(row, process, rate * math.exp(chance.gauss(0, spread))) for process in range(8)]
        figures += _figures(row, rate, "publish_max", {"size": 100})
        figures += [
            figure
            for octets in (100, 1024, 16_384, 65_536)
            for figure in _figures(row, rate / (1 + octets / 20_000), "size_sweep", {"size": octets})[:1]
        ]
        if row.name != PEER:
            runs.append(_paced(row, chance, factor))
        runs += [_swept(row, part, chance, factor) for part in (0.1, 0.25, 0.5, 0.75, 0.9, 1.0)]
    runs += [_stalled(OURS), _stalled(RAW)]
    figures += [
        _cost(OURS, "cost of the broker's CPU", 0.0031, ranked=True),
        _cost(SQS, "cost of requests", 0.12, ranked=False),
    ]
    runs.append(
        Run(
            row=PEER,
            workload="e2e_low",
            point={"rate": 1000},
            invalid=("the load generator was late: p99 4.1 ms, above 10 % of the reported p99",),
            accounting=Accounting(sent=12_000, acked=12_000, received=11_988, lost=12),
        )
    )
    return Result(
        unimq="0.1.0",
        started_at="2026-11-24T14:00:00+00:00",
        seconds=412.0,
        workloads=("overhead", "publish_max", "size_sweep", "e2e_low", "rate_sweep", "stall"),
        profile="standard",
        seed=seed,
        environment=Environment(
            python="3.11.7", cpu="A made-up processor", cores=2, kernel="6.1", clock="CLOCK_MONOTONIC", clock_step_ns=60
        ),
        rows=ROWS,
        runs=tuple(runs),
        figures=tuple(figures),
        ratios=_ratios(chance, speed),
        notes=("Invented figures, for a test.",),
    )


def _publishing(row: Row, process: int, rate: float) -> Run:
    messages = int(rate)
    slices = tuple(
        Slice(metric="publish", messages=messages, seconds=1.0, client_cpu=messages / rate * 0.9, pair=pair)
        for pair in range(3)
    )
    return Run(
        row=row.name,
        workload="publish_max",
        point={"size": 100},
        process=process,
        seconds=3.0,
        slices=slices,
        accounting=Accounting(sent=messages * 3, acked=messages * 3, received=messages * 3),
        counters=Counters(requests=messages // 10, bytes_sent=messages * 3 * 160, batches=messages // 100),
        cpu_seconds=2.7,
        broker_cpu_seconds=None if row.in_process else 3.1,
    )


def _paced(row: Row, chance: random.Random, factor: float) -> Run:
    median = _LATENCY[row.name] / factor
    return Run(
        row=row.name,
        workload="e2e_low",
        point={"rate": 1000},
        seconds=12.0,
        histograms={
            "response": histogram(median, 12_000, chance, 1.6),
            "service": histogram(median * 0.95, 12_000, chance, 1.4),
            "blocked": histogram(9_000, 12_000, chance),
            "lateness": histogram(60_000, 12_000, chance),
        },
        accounting=Accounting(sent=12_000, acked=12_000, received=12_000),
        counters=Counters(batches=9_000, requests=12_000),
        cpu_seconds=1.1,
    )


def _swept(row: Row, part: float, chance: random.Random, factor: float) -> Run:
    rate = round(_RATES[row.name] * part)
    median = _LATENCY[row.name] / factor * (1 + 0.2 / (1.03 - part))
    return Run(
        row=row.name,
        workload="rate_sweep",
        point={"rate": rate, "size": 100},
        histograms={"response": histogram(median, 2_000, chance, 1.5)},
        accounting=Accounting(sent=2_000, acked=2_000, received=2_000),
        counters=Counters(batches=500),
    )


def _stalled(row: str) -> Run:
    samples: list[Sample] = []
    received = 0
    for step in range(60):
        t = step / 4
        sent = int(6_000 * t)
        stopped = 4 <= t < 7
        received = received if stopped else min(sent, received + 2_600)
        late = stopped or sent - received > 100
        samples.append(
            Sample(
                t=t,
                sent=sent,
                received=received,
                backlog=sent - received,
                p99=None if stopped else 0.0021 + (3 * math.exp(-(t - 7)) if late and t >= 7 else 0),
                client_cpu=0.4 + (0.3 if late else 0),
                broker_cpu=0.5,
                client_rss=60_000_000,
                broker_rss=180_000_000 + (sent - received) * 600,
            )
        )
    return Run(
        row=row,
        workload="stall",
        point={"rate": 6000, "size": 100},
        timeline=tuple(samples),
        events=(
            Event(t=4.0, what="consumers stop"),
            Event(t=7.0, what="consumers go on"),
            Event(t=9.6, what="drained"),
        ),
        accounting=Accounting(sent=88_500, acked=88_500, received=88_500, duplicated=3),
    )


def _figures(row: Row, rate: float, workload: str, point: dict[str, int | float | str]) -> list[Figure]:
    ranked = not row.emulated and not row.in_process
    why = "" if ranked else "emulated" if row.emulated else "in one process"
    return [
        Figure(
            row=row.name,
            workload=workload,
            metric=metric,
            unit=unit,
            value=value,
            low=value * 0.96,
            high=value * 1.05,
            spread="95 % over processes",
            point=point,
            samples=8,
            ranked=ranked,
            why_unranked=why,
        )
        for metric, unit, value in (
            ("publish rate", "msg/s", rate),
            ("publish rate per CPU second", "msg/s", rate * 1.2),
            ("publish client CPU", "µs/msg", 8e5 / rate),
        )
    ]


def _cost(row: str, metric: str, dollars: float, *, ranked: bool) -> Figure:
    return Figure(
        row=row,
        workload="cost",
        metric=metric,
        unit="$ per million",
        value=dollars,
        spread="at a price of 2026-06",
        point={"of": "publish_max", "size": 100},
        ranked=ranked,
        why_unranked="" if ranked else "an emulator was asked",
    )


def _ratios(chance: random.Random, speed: float) -> tuple[Ratio, ...]:
    made: list[Ratio] = []
    for a, b, centre, floor in (
        (OURS, RAW, 1.064, 1.03),
        (OURS, PEER, 0.059, 1.04),
        (HERE, QUEUE, 6.9, 1.015),
        (SQS, BOTO, 0.99, 1.05),
    ):
        for metric in ("publish time", "consume time"):
            median = centre / speed * math.exp(chance.gauss(0, 0.01))
            low, high = median * 0.975, median * 1.025
            apart = low > floor or high < 1 / floor
            made.append(
                Ratio(
                    a=a,
                    b=b,
                    workload="overhead",
                    metric=metric,
                    median=median,
                    low=low,
                    high=high,
                    t_low=median * 0.97,
                    t_high=median * 1.03,
                    floor_low=1 / floor,
                    floor_high=floor,
                    processes=8,
                    pairs=6,
                    by_process=tuple(median * math.exp(chance.gauss(0, 0.015)) for _ in range(8)),
                    verdict="cannot tell" if not apart else "slower" if median > 1 else "faster",
                    why="the interval reaches into the noise floor" if not apart else "",
                )
            )
    return tuple(made)
