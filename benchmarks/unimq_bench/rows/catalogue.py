"""Which rows there are, for which backends, and in which environment each runs."""

import difflib
from dataclasses import dataclass
from typing import Literal


class UnknownRow(ValueError):
    """No row has this name, or it does not speak to this backend; the message names those that do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row that can be asked for."""

    library: str
    kind: Literal["unimq", "raw", "peer"]
    module: str
    backends: frozenset[str] | None
    """``None``: every one that `unimq` can connect to."""
    requirements: tuple[str, ...] = ()
    """What the environment of its own needs (PEP 508); empty: it runs in the interpreter of the harness."""


def _entry(library: str, kind: Literal["unimq", "raw", "peer"], backends: str, *requirements: str) -> Entry:
    prefix = {"unimq": "", "raw": "raw_", "peer": "peer_"}[kind]
    module = "unimq_row" if kind == "unimq" else prefix + library.replace("-", "_")
    return Entry(
        library=library,
        kind=kind,
        module=f"unimq_bench.rows.{module}",
        backends=frozenset(backends.split()) or None,
        requirements=requirements,
    )


CATALOGUE = {
    entry.library: entry
    for entry in (
        _entry("unimq", "unimq", ""),
        _entry("simplequeue", "raw", "memory"),
        _entry("pika-blocking", "raw", "rabbitmq"),
        _entry("pika-select", "raw", "rabbitmq"),
        _entry("confluent-kafka", "raw", "kafka"),
        _entry("boto3", "raw", "sqs"),
        # Pinned: a peer's figures are of one version, and an environment is kept as long as its pins.
        _entry("aio-pika", "peer", "rabbitmq", "aio-pika==10.2.1"),
        _entry("kombu", "peer", "rabbitmq kafka sqs", "kombu[confluentkafka,sqs]==5.7.0"),
        _entry("faststream", "peer", "rabbitmq kafka", "faststream[confluent,rabbit]==0.7.8"),
        # It has no means to make and empty queues: the three clients do that beside it.
        _entry(
            "mq-bridge",
            "peer",
            "memory rabbitmq kafka sqs",
            "mq-bridge==1.2.0",
            "pika==1.4.4",
            "confluent-kafka==2.16.1",
            "boto3==1.44.8",
        ),
    )
}


def entry_of(library: str, backend: str) -> Entry:
    """Return the row of this name for this backend.

    Raises:
        UnknownRow: there is none.

    """
    entry = CATALOGUE.get(library)
    if entry is None:
        near = difflib.get_close_matches(library, CATALOGUE, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownRow(f"no row is called {library!r}{hint} There are: {', '.join(CATALOGUE)}")
    if entry.backends is not None and backend not in entry.backends:
        able = ", ".join(
            name for name, other in CATALOGUE.items() if other.backends is None or backend in other.backends
        )
        raise UnknownRow(f"{library} does not speak to {backend}; there are: {able}")
    return entry


def raw_of(backend: str) -> str | None:
    """Return the raw client to compare with by default."""
    return {"memory": "simplequeue", "rabbitmq": "pika-select", "kafka": "confluent-kafka", "sqs": "boto3"}.get(backend)
