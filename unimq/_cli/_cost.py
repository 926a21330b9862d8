"""``unimq cost``: what a rate costs a month on a service that bills requests.

The adapter knows how many requests a load takes; what they cost stands in the price file of `unimq_bench`, which is
found by name, as adapters are.
"""

from pathlib import Path

from unimq._adapters import load_adapter, read_options
from unimq._cli._bench import module
from unimq._cli._output import UsageError, write_json, write_line, write_table
from unimq._load import Load
from unimq._url import BrokerURL
from unimq.adapter import EstimatingAdapter

SECONDS = 3600


def cost(load: Load, url: BrokerURL, prices: Path | None, *, json: bool) -> int:
    """Print requests and dollars of a month, by action; return 0.

    Raises:
        UsageError: the backend bills no requests, or the price file makes no sense.
        ConfigError: so does the load, or the URL.

    """
    pricing = module("prices")
    adapter = load_adapter(url.scheme)
    if not isinstance(adapter, EstimatingAdapter):
        raise UsageError(f"{url.scheme}:// bills no requests; what machines a rate takes says: unimq bench plan")
    options, _ = read_options(adapter, url)
    try:
        paid = pricing.read_prices(prices)
    except pricing.BadPrices as error:
        raise UsageError(str(error)) from error
    per_second = adapter.billed_requests(options, load.checked())
    price = paid.sqs.fifo if load.is_ordered else paid.sqs.standard
    a_month = pricing.HOURS_PER_MONTH * SECONDS
    rows = [*per_second.items(), ("all", sum(per_second.values()))]
    found = [
        {
            "action": action,
            "per_message": each / load.rate if load.rate else None,
            "per_month": round(each * a_month),
            "cost": each * a_month / 1e6 * price,
        }
        for action, each in rows
    ]
    if json:
        told = {"price_per_million": price, "currency": paid.currency, "date": paid.sqs.date, "source": paid.sqs.source}
        write_json({**load._asdict(), "requests": found, **told})
        return 0
    write_table(
        ("action", "per message", "requests a month", f"{paid.currency} a month"),
        [
            (
                str(row["action"]),
                "" if row["per_message"] is None else f"{row['per_message']:.3f}",
                f"{row['per_month']:,}",
                f"{row['cost']:.2f}",
            )
            for row in found
        ],
        title=f"{load.rate:g} messages a second of {load.size} bytes on {url.scheme}",
    )
    write_line(
        f"{paid.currency} {price:g} per million requests in {paid.region} ({paid.sqs.date}), without the free tier,"
        " traffic and declaring; the price file is yours to change".encode()
    )
    return 0
