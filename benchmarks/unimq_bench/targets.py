"""What is measured: places (a broker each) and the rows that compete there.

Brokers on tap and the proxy for faults come from `unimq_contract`, which is found by name: on brokers that run already
the benchmark works without it.
"""

import contextlib
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import unimq
from unimq_bench.counting import family_of, listener_on
from unimq_bench.results import Row
from unimq_bench.rows.catalogue import CATALOGUE, Entry, UnknownRow, entry_of, raw_of
from unimq_bench.rows.protocol import Description

TAPS = ("rabbitmq", "kafka", "sqs")
MEMORY = "memory"
_DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671, "kafka": 9092, "sqs": 443, "sqs+http": 80}
_LOCAL = {"localhost", "127.0.0.1", "::1"}


class BadBench(ValueError):
    """What was asked for cannot be done; the message says what would be right. Raised before anything is measured."""


@dataclass(slots=True)
class Place:
    """One broker. Belongs to the harness's thread."""

    name: str
    """Unique in a result."""
    backend: str
    url: str = field(repr=False)
    capabilities: unimq.Capabilities
    tap: Any = None
    """The running broker on tap, if it is ours."""

    @property
    def in_process(self) -> bool:
        """Whether the broker lives in the process that uses it: then all roles are threads of one."""
        return self.backend == MEMORY

    @property
    def public_url(self) -> str:
        """Without user, password and options."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    def pids(self) -> tuple[int, ...]:
        """Return the broker's processes, if they are of this machine and may be seen."""
        if self.tap is not None and self.tap.pids:
            return family_of(self.tap.pids)
        parts = urlsplit(self.url)
        if parts.hostname not in _LOCAL:
            return ()
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
        return () if port is None else family_of(listener_on(port))

    def door(self) -> tuple[tuple[str, int], int, str] | None:
        """Return where a proxy would lead, the port on which it must listen (0 for any), and the URL with ``PORT`` for
        it; `None` if no proxy can stand in for this broker.
        """
        parts = urlsplit(self.url)
        if parts.hostname is None or parts.port is None or "," in parts.netloc:
            return None
        if self.tap is not None and self.tap.tap.proxied is not None:
            listener, advertised = self.tap.tap.proxied
            return ("127.0.0.1", listener), advertised, self.url.replace(f":{parts.port}", ":PORT", 1)
        if parts.scheme not in {"amqp", "sqs+http"}:
            # A Kafka broker tells its clients its own address: they would go around the proxy.
            return None
        account, at, _ = parts.netloc.rpartition("@")
        return (parts.hostname, parts.port), 0, parts._replace(netloc=f"{account}{at}127.0.0.1:PORT").geturl()


@dataclass(slots=True)
class Candidate:
    """One row at one place."""

    entry: Entry
    place: Place
    python: str = sys.executable

    @property
    def name(self) -> str:
        """As in the result."""
        return f"{self.entry.library} on {self.place.name}"

    def row(self, description: Description) -> Row:
        """Return the row of the result."""
        return Row(
            name=self.name,
            library=self.entry.library,
            kind=self.entry.kind,
            backend=self.place.backend,
            # Whatever the row believes, unimq asked the broker who it is.
            emulated=self.place.capabilities.emulator or description.emulated,
            url=self.place.public_url,
            durability=description.durability,
            in_process=self.place.in_process,
            client_settings=dict(description.client_settings),
            broker_settings={"version": self.place.capabilities.broker_version, **description.broker_settings},
            versions=dict(description.versions),
        )


def open_places(
    wanted: Sequence[str], stack: contextlib.ExitStack, *, report: Callable[[str], None] = lambda _: None
) -> list[Place]:
    """Return the brokers: URLs as they are, names of backends from the tap, which the stack stops.

    Raises:
        BadBench: a name is no backend, or no broker can be started.
        unimq.UnimqError: a URL is wrong, or nobody answers there.

    """
    places: list[Place] = []
    for each in wanted:
        tap = None
        url = each
        if each == MEMORY:
            url = "memory://"
        elif "://" not in each:
            if each not in TAPS:
                # Not shown: where somebody forgot the scheme, it may hold a password.
                raise BadBench(f"a broker is a URL, or one of {', '.join((MEMORY, *TAPS))}, which are started")
            report(f"starting {each}")
            brokers = _contract("brokers")
            try:
                tap = stack.enter_context(brokers.start(each))
            except brokers.BrokerUnavailable as error:
                raise BadBench(str(error)) from error
            url = tap.url
        with unimq.connect(url) as broker:
            found = broker.capabilities
        number = sum(place.backend == found.backend for place in places)
        name = found.backend if not number else f"{found.backend} {number + 1}"
        places.append(Place(name, found.backend, url, found, tap))
    return places


def candidates(
    places: Sequence[Place], libraries: Sequence[str], interpreter: Callable[[Entry], str] = lambda _: sys.executable
) -> list[Candidate]:
    """Return the rows that compete: each library at each place to which it speaks; ``raw`` is the raw client there.

    Raises:
        UnknownRow: a library does not exist, or speaks to none of the places.

    """
    found: list[Candidate] = []
    for library in libraries:
        able = 0
        for place in places:
            name = raw_of(place.backend) if library == "raw" else library
            if name is None:
                continue
            if name not in CATALOGUE:
                entry_of(name, place.backend)
            entry = CATALOGUE[name]
            if entry.backends is None or place.backend in entry.backends:
                able += 1
                if all((one.entry, one.place) != (entry, place) for one in found):
                    found.append(Candidate(entry, place, interpreter(entry)))
        if not able and library != "raw":
            raise UnknownRow(f"{library} speaks to none of {', '.join(place.backend for place in places)}")
    return found


@contextlib.contextmanager
def proxied(place: Place) -> Any:
    """Give a proxy before a broker and the URL that leads through it, or `None` if none can stand in for it."""
    door = place.door()
    if door is None:
        yield None
        return
    server, port, url = door
    with _contract("faults.proxy").FaultProxy(server, port=port, process=True) as proxy:
        yield proxy, url.replace("PORT", str(proxy.port))


def _contract(module: str) -> Any:
    try:
        return importlib.import_module(f"unimq_contract.{module}")
    except ModuleNotFoundError as error:
        raise BadBench(
            f"brokers on tap and faults need unimq_contract, part of the distribution unimq: {error}"
        ) from None
