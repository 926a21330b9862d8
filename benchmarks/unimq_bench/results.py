"""The result of a benchmark as data: a versioned JSON document, described for readers in docs/benchmark.md.

Times are seconds unless a name says ``_ns``. Histograms are HDR histograms of nanoseconds in their V2 encoding, base64;
they can be merged, percentiles cannot. A run that broke a gate keeps its data and says in `Run.invalid` why no number
of it may be ranked.
"""

import os
import tempfile
from pathlib import Path
from typing import Literal

import msgspec

SCHEMA = 1
"""Raised by one when a reader of the former version would misread a document."""

Kind = Literal["unimq", "raw", "peer"]
Durability = str
"""``at-most-once``, ``memory``, ``leader memory``, ``fsync`` or ``replicated(n)``; compared as text."""
Verdict = Literal["faster", "slower", "no difference", "cannot tell"]
"""Of the first of two rows against the second. "No difference" needs the whole interval within 2 %."""


class ResultError(ValueError):
    """A file is no result of this schema, or cannot be written; the message says which and why."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One client library on one broker, with everything that decides its figures."""

    name: str
    """Unique within a result, for example ``unimq on rabbitmq``."""
    library: str
    """``unimq``, ``pika-select``, ``kombu``, …: the name under which the row is asked for."""
    kind: Kind
    backend: str
    """``memory``, ``rabbitmq``, ``kafka`` or ``sqs``."""
    emulated: str = ""
    """Name of the emulator that answered instead of the broker. Such a row is shown and never ranked."""
    url: str = ""
    """Without password and options."""
    durability: Durability = ""
    in_process: bool = False
    """Producer and consumer were threads of one process; never in one table of latencies with rows over a network."""
    client_settings: dict[str, str] = {}
    broker_settings: dict[str, str] = {}
    versions: dict[str, str] = {}


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a run that was timed by itself, its drain included."""

    metric: str
    """``publish``, ``consume`` or ``both``."""
    messages: int
    seconds: float
    client_cpu: float = 0.0
    """CPU seconds of the client's processes."""
    broker_cpu: float | None = None
    """CPU seconds of the broker's processes; ``None`` where they cannot be seen."""
    foreign_cpu: float = 0.0
    """Cores that were busy with neither, on average."""
    pair: int = 0
    """Slices of one pair ran next to each other, in random order."""


class Accounting(msgspec.Struct, frozen=True, kw_only=True):
    """What became of every message, found by what is written in the messages themselves."""

    sent: int = 0
    acked: int = 0
    """Of `sent`: the client library said that they are stored."""
    failed: int = 0
    """Of `sent`: refused or unknown."""
    received: int = 0
    """Deliveries of messages of this run, duplicates included."""
    lost: int = 0
    """Acked and never received. Anything but 0 is the worst that a row can do."""
    unacked_delivered: int = 0
    """Not acked and nevertheless received: allowed."""
    duplicated: int = 0
    """Deliveries beyond the first of a message."""
    reordered: int = 0
    """First deliveries that came after one with a later sequence number of the same producer."""
    corrupted: int = 0
    """Bodies whose digest is wrong."""
    unknown: int = 0
    """Bodies of no message of this run."""
    dead_lettered: int | None = None
    redelivered_on_purpose: int = 0
    """Deliveries that were given back by the workload, which come again and are no duplicates."""
    judged: bool = True
    """Whether everything in flight was waited for; a loss can only be seen then."""


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """Requests and bytes as the client counted them. ``None`` means that it does not tell."""

    requests: int | None = None
    """Requests that a broker bills or that cost a round trip."""
    billed_requests: int | None = None
    """The same by the tariff of SQS: each 64 KiB of a request is one."""
    empty_receives: int | None = None
    bytes_sent: int | None = None
    """Payload and, where the client tells, its protocol."""
    bytes_received: int | None = None
    batches: int = 0
    """Receives that brought something: messages of one batch have correlated latencies."""
    largest_batch: int = 0


class Sample(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How things stood at one moment."""

    t: float
    """Seconds since the start of the run."""
    sent: int
    received: int
    backlog: int
    p99: float | None
    """Of the response times since the sample before, in seconds; ``None`` if nothing was received."""
    client_cpu: float
    """Cores used since the sample before."""
    broker_cpu: float | None
    client_rss: int
    """Bytes."""
    broker_rss: int | None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something done on purpose or found during a run: ``consumers stop``, ``connection cut``, ``first delivery``."""

    t: float
    what: str


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One workload at one point on one row in one set of fresh processes."""

    row: str
    """`Row.name`."""
    workload: str
    point: dict[str, int | float | str] = {}
    """Parameters: ``rate``, ``size``, ``window``, ``producers``, ``consumers``, …"""
    process: int = 0
    """Which set of processes, in the order in which they were started."""
    seconds: float = 0.0
    slices: tuple[Slice, ...] = ()
    discarded: tuple[Slice, ...] = ()
    """What others on the machine disturbed and was measured again: in no figure. It lost and invented nothing."""
    histograms: dict[str, str] = {}
    """``response`` from the intended send to the delivery, ``service`` from the actual send, ``blocked`` within the
    call of send, ``lateness`` of the load generator by its own fault."""
    accounting: Accounting = Accounting()
    counters: Counters = Counters()
    timeline: tuple[Sample, ...] = ()
    events: tuple[Event, ...] = ()
    switch_interval: float = 0.0
    join_time: float | None = None
    """Seconds from opening the consumers until each had received its first probe."""
    cpu_seconds: float = 0.0
    """CPU of the client's processes."""
    broker_cpu_seconds: float | None = None
    foreign_cpu: float = 0.0
    """Cores that were busy with something else."""
    invalid: tuple[str, ...] = ()
    """Which gates it broke, in words; empty for a valid run."""
    notes: tuple[str, ...] = ()


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One number of a row at one point of a workload, with its spread: what a reader looks for first."""

    row: str
    workload: str
    metric: str
    """``throughput``, ``throughput per CPU second``, ``client CPU per message``, ``response p99``."""
    unit: str
    """``msg/s``, ``s``, ``µs``, ``MB/s``, …"""
    value: float
    low: float | None = None
    high: float | None = None
    """Of the interval, or median ∓ MAD; `spread` says which."""
    spread: str = ""
    point: dict[str, int | float | str] = {}
    samples: int = 0
    ranked: bool = True
    """False for emulators, for invalid runs, and where durability or place (in process) is not that of the others."""
    why_unranked: str = ""


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """Row `a` against row `b`, from slices side by side in fresh processes. Above 1: `a` took more time or CPU."""

    a: str
    b: str
    workload: str
    metric: str
    """``publish time``, ``consume time``, ``publish CPU``, ``consume CPU``, each per message."""
    median: float
    """Median over processes of the median over pairs."""
    low: float
    high: float
    """95 % by cluster bootstrap over processes."""
    t_low: float
    t_high: float
    """95 % by Student's t over processes."""
    floor_low: float
    floor_high: float
    """The same statistic of `b` against itself in the same run: what is within is noise."""
    processes: int
    pairs: int
    verdict: Verdict
    by_process: tuple[float, ...] = ()
    """The median of each process, for comparisons and for readers who want to check."""
    why: str = ""
    """Why the verdict is what it is, or why there is none."""


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """The machine and the software, without secrets, names of machines or of people."""

    python: str = ""
    implementation: str = ""
    kernel: str = ""
    machine: str = ""
    cpu: str = ""
    cores: int = 0
    memory_bytes: int = 0
    virtual: str = ""
    """What the kernel says about being a guest; empty if nothing."""
    switch_interval: float = 0.0
    clock: str = ""
    clock_step_ns: int = 0
    sleep_lateness_ns: int = 0
    """p99 of how late a sleep of a millisecond ends."""
    recorder_ns: float = 0.0
    """What recording one sample costs."""
    load_before: float = 0.0
    """Cores that were busy before anything was measured."""
    packages: dict[str, str] = {}


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A whole benchmark."""

    schema: int = SCHEMA
    unimq: str = ""
    """Version."""
    started_at: str = ""
    """ISO 8601 in UTC."""
    seconds: float = 0.0
    workloads: tuple[str, ...] = ()
    profile: str = ""
    seed: int = 0
    partial: bool = False
    """It was interrupted, or a broker died: what is here is right, but not all."""
    environment: Environment = Environment()
    rows: tuple[Row, ...] = ()
    runs: tuple[Run, ...] = ()
    figures: tuple[Figure, ...] = ()
    ratios: tuple[Ratio, ...] = ()
    notes: tuple[str, ...] = ()

    def row(self, name: str) -> Row:
        """Return the row of this name; `KeyError` if there is none."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)


def encoded(result: Result) -> bytes:
    """Return the document as JSON."""
    return msgspec.json.encode(result)


def decoded(document: bytes, *, named: str = "the document") -> Result:
    """Read a document.

    Raises:
        ResultError: it is no JSON, no result, or one of another schema.

    """
    try:
        found = msgspec.json.decode(document, type=_Version).schema
        if found != SCHEMA:
            raise ResultError(f"{named} has schema {found}; this version of unimq reads schema {SCHEMA}")
        return msgspec.json.decode(document, type=Result)
    except msgspec.MsgspecError as error:
        raise ResultError(f"{named} is no result of unimq bench: {error}") from error


def read(path: Path) -> Result:
    """Read a result file.

    Raises:
        ResultError: it cannot be read, or is no result of this schema.

    """
    return decoded(contents(path), named=str(path))


def contents(path: Path) -> bytes:
    """Return what stands in a file, or raise `ResultError`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror}") from error


def write(result: Result, path: Path) -> None:
    """Write a result file, whole or not at all.

    Raises:
        ResultError: it cannot be written.

    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(encoded(result))
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ResultError(f"{path} cannot be written: {error.strerror}") from error


class _Version(msgspec.Struct):
    schema: int
