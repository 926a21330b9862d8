"""What a million messages cost: counted requests times a price; for brokers of one's own, the CPU that was counted.

The two are not alike. A service bills requests and nothing else; a machine is paid whether it works or not, and its
share here holds only while it is busy as `BUSY` says. The break-even rate puts both on one footing.
"""

from collections import defaultdict
from collections.abc import Sequence

from unimq_bench.prices import HOURS_PER_MONTH, Prices, read_prices
from unimq_bench.results import Figure, Result, Row, Run

WORKLOAD = "cost"
BUSY = 0.5
"""Share of a machine's time that a broker should be busy at most: there are peaks, and machines that fail."""
CLUSTER = 3
"""Machines of the smallest cluster that survives the loss of one."""
CHUNK = 64 * 1024
"""Bytes of payload that SQS bills as one request."""
_SECONDS_PER_MONTH = HOURS_PER_MONTH * 3600
_MILLION = 1_000_000


def billed_chunks(size: int) -> int:
    """Return as how many requests SQS bills one request with so many bytes of payload; an empty one is one.

    Raises:
        ValueError: the size is negative.

    """
    if size < 0:
        raise ValueError(f"a request has no {size} bytes")
    return max(1, -(-size // CHUNK))


def request_cost(requests_per_message: float, prices: Prices, *, fifo: bool = False) -> float:
    """Return what a million messages cost if each takes so many billed requests.

    Raises:
        ValueError: not more than 0: a message that costs no request was not sent.

    """
    if not requests_per_message > 0:
        raise ValueError(f"{requests_per_message:g} requests per message: nothing was counted")
    return requests_per_message * (prices.sqs.fifo if fifo else prices.sqs.standard)


def cpu_cost(seconds_per_message: float, prices: Prices) -> float:
    """Return the share of machines, busy as `BUSY` says, that a million messages of so much CPU take."""
    return seconds_per_message * _MILLION / 3600 * prices.node.hourly / prices.node.vcpus / BUSY


def break_even(cost_per_million: float, prices: Prices) -> float:
    """Return the messages per second, day and night, from which on the smallest cluster is cheaper than requests.

    Raises:
        ValueError: the cost is not more than 0.

    """
    if not cost_per_million > 0:
        raise ValueError(f"a million messages cannot cost {cost_per_million:g}")
    return CLUSTER * prices.node.monthly / (cost_per_million / _MILLION) / _SECONDS_PER_MONTH


def figures(found: Result, prices: Prices | None = None) -> Sequence[Figure]:
    """Return the costs of each row in each of its workloads, from the runs that broke no gate."""
    prices = prices or read_prices()
    runs: dict[tuple[str, str, int], list[Run]] = defaultdict(list)
    for run in found.runs:
        if not run.invalid and run.accounting.received:
            runs[run.row, run.workload, int(run.point.get("size", 0))].append(run)
    made: list[Figure] = []
    for (name, workload, size), group in runs.items():
        row = found.row(name)
        messages = sum(run.accounting.received - run.accounting.duplicated for run in group)
        if messages <= 0 or row.in_process:
            # A queue inside of a program costs nothing beside the program.
            continue
        point: dict[str, int | float | str] = {"of": workload, **({"size": size} if size else {})}
        if row.backend == "sqs":
            made += _of_requests(row, point, group, messages, prices)
        else:
            made += _of_cpu(row, point, group, messages, prices)
    return made


def _of_requests(
    row: Row, point: dict[str, int | float | str], group: Sequence[Run], messages: int, prices: Prices
) -> list[Figure]:
    counted = [run.counters.billed_requests for run in group]
    billed = sum(number for number in counted if number is not None)
    if None in counted or not billed:
        return []
    why = (
        f"{row.emulated} was asked: the requests are counted, what AWS would have answered is not"
        if row.emulated
        else ""
    )
    each = billed / messages
    price = request_cost(each, prices)
    dated = f"{prices.currency} {prices.sqs.standard:g} per million requests ({prices.sqs.date})"
    return [
        _figure(row, point, "billed requests", "per message", each, messages, why),
        _figure(row, point, "cost of requests", "$ per million", price, messages, why, dated),
        _figure(row, point, "break-even rate", "msg/s", break_even(price, prices), messages, why, _cluster(prices)),
    ]


def _of_cpu(
    row: Row, point: dict[str, int | float | str], group: Sequence[Run], messages: int, prices: Prices
) -> list[Figure]:
    used = [run.broker_cpu_seconds for run in group]
    if None in used:
        return []
    seconds = sum(number for number in used if number is not None) / messages
    dated = (
        f"{prices.node.name} at {prices.currency} {prices.node.hourly:g} an hour ({prices.node.date}), {BUSY:.0%} busy"
    )
    return [
        _figure(row, point, "cost of the broker's CPU", "$ per million", cpu_cost(seconds, prices), messages, "", dated)
    ]


def _cluster(prices: Prices) -> str:
    return f"against {CLUSTER} × {prices.node.name}, {CLUSTER * prices.node.monthly:.0f} a month"


def _figure(
    row: Row,
    point: dict[str, int | float | str],
    metric: str,
    unit: str,
    value: float,
    samples: int,
    why: str,
    spread: str = "",
) -> Figure:
    return Figure(
        row=row.name,
        workload=WORKLOAD,
        metric=metric,
        unit=unit,
        value=value,
        spread=spread,
        point=point,
        samples=samples,
        ranked=not why,
        why_unranked=why,
    )
