"""The table that is often copied: what it claims, what this result measured and how, and what others have published.

Set-ups stay in columns of their own. A figure of this machine never takes the place of a claim, nor a claim of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import msgspec

from unimq_bench.results import Figure, Result, Row

WORKLOAD = "article_table"
SUSTAINABLE = "sustainable rate"


class Claim(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One cell of the table."""

    backend: str
    claimed: str
    claimed_setup: str
    verdict: str


class Record(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A published figure."""

    backend: str
    figure: str
    setup: str
    source: str


class Articles(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Claims and records."""

    schema: int
    claims: tuple[Claim, ...]
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """What one row of the result sustained, and what decides that figure."""

    row: str
    figure: Figure
    durability: str
    setup: str
    emulated: str
    """Name of the emulator; such a figure is the protocol's cost in the client and is not ranked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A claim beside what was measured here and what others have published."""

    claim: Claim
    here: tuple[Here, ...]
    records: tuple[Record, ...]


def read_articles() -> Articles:
    """Read the claims and records that come with the package."""
    return msgspec.toml.decode(files("unimq_bench").joinpath("articles.toml").read_bytes(), type=Articles)


def table(found: Result) -> Sequence[Line]:
    """Return the table with the figures of a result; a claim about a price has none, see `unimq_bench.costs`."""
    articles = read_articles()
    return [
        Line(
            claim=claim,
            here=() if claim.claimed.startswith("$") else _here(found, claim.backend),
            records=tuple(record for record in articles.records if record.backend == claim.backend),
        )
        for claim in articles.claims
    ]


def _here(found: Result, backend: str) -> tuple[Here, ...]:
    rows = {row.name: row for row in found.rows if row.backend == backend}
    return tuple(
        Here(
            row=figure.row,
            figure=figure,
            durability=rows[figure.row].durability,
            setup=_setup(rows[figure.row], figure, found.environment.cores),
            emulated=rows[figure.row].emulated,
        )
        for figure in found.figures
        if figure.workload == WORKLOAD and figure.metric == SUSTAINABLE and figure.row in rows
    )


def _setup(row: Row, figure: Figure, cores: int) -> str:
    size = figure.point.get("size")
    parts = [f"one broker and its clients on {cores} cores" if cores else "one broker"]
    parts += [f"{size} bytes"] if size else []
    parts += [f"{name} {value}" for name, value in row.broker_settings.items() if name != "durable" and value]
    return ", ".join(parts)
