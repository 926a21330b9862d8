"""The price file: read, checked, and never without source and date."""

import math
from importlib.resources import files
from pathlib import Path

import msgspec

SCHEMA = 1
HOURS_PER_MONTH = 730.0


class BadPrices(ValueError):
    """A price file cannot be read, or a price makes no sense; the message says which."""


class ServicePrices(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Of SQS, per million requests."""

    standard: float
    fifo: float
    date: str
    source: str


class NodePrice(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Of a machine."""

    name: str
    hourly: float
    vcpus: int
    memory_gib: float
    date: str
    source: str

    @property
    def monthly(self) -> float:
        """Per month of 730 hours."""
        return self.hourly * HOURS_PER_MONTH


class Prices(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A price file."""

    schema: int
    currency: str
    region: str
    sqs: ServicePrices
    node: NodePrice


def read_prices(path: Path | None = None) -> Prices:
    """Read a price file; without a path the one that comes with the package.

    Raises:
        BadPrices: it cannot be read, has an unknown or missing key, or a price that is none.

    """
    name = str(path) if path is not None else "prices.toml"
    try:
        text = path.read_bytes() if path is not None else files("unimq_bench").joinpath("prices.toml").read_bytes()
        prices = msgspec.toml.decode(text, type=Prices)
    except OSError as error:
        raise BadPrices(f"{name} cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise BadPrices(f"{name}: {error}") from error
    if prices.schema != SCHEMA:
        raise BadPrices(f"{name} has schema {prices.schema}; this version of unimq reads schema {SCHEMA}")
    numbers = {
        "sqs.standard": prices.sqs.standard,
        "sqs.fifo": prices.sqs.fifo,
        "node.hourly": prices.node.hourly,
        "node.vcpus": float(prices.node.vcpus),
        "node.memory_gib": prices.node.memory_gib,
    }
    for key, number in numbers.items():
        if not (math.isfinite(number) and number > 0):
            raise BadPrices(f"{name}: {key} must be more than 0, not {number:g}")
    told = {"sqs": (prices.sqs.date, prices.sqs.source), "node": (prices.node.date, prices.node.source)}
    for key, texts in told.items():
        if not all(texts):
            raise BadPrices(f"{name}: {key} needs a date and a source: a price without them is a rumour")
    return prices
