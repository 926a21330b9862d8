"""Faults of what is declared and administered."""

import socket
from dataclasses import replace
from typing import cast

from unimq import (
    Queue,
    Stats,
    Subscription,
    Topic,
)
from unimq.adapter import (
    BrokerURL,
    Capabilities,
    CheckedPosition,
    Driver,
    Source,
    native,
    queue_of,
    unsupported,
)
from unimq_contract.mutants.seam import Mutant


class RefusesWhatWorks(Mutant):
    """A nack could wait, and is declared not to."""

    def capabilities(self, real: Capabilities) -> Capabilities:
        return replace(real, nack_delay=unsupported("cannot wait", "nack() without delay"))


class PlainTextForTls(Mutant):
    """A server that does not speak TLS is spoken to without."""

    takes_tls = True

    def connecting(self, url: BrokerURL) -> BrokerURL:
        if not url.scheme.endswith("+ssl"):
            return url
        host, port = url.hosts[0]
        with socket.create_connection((host, cast("int", port))) as connection:
            connection.sendall(b"hello, here I am")
        return replace(url, hosts=())


class ClaimsHistory(Mutant):
    """History is declared to be kept, and is not."""

    def capabilities(self, real: Capabilities) -> Capabilities:
        return replace(real, start_earliest=native())


class ClaimsToSeek(Mutant):
    """To be read again is declared possible, and nothing is read again."""

    def capabilities(self, real: Capabilities) -> Capabilities:
        return replace(real, seek=native())

    def seek(self, driver: Driver, source: Source, to: CheckedPosition, timeout: float) -> None:
        return


class SaysNoReason(Mutant):
    """What is unsupported does not say why, nor what to use instead."""

    def capabilities(self, real: Capabilities) -> Capabilities:
        return replace(real, start_earliest=unsupported(""))


class LanesForEverybody(Mutant):
    """Every queue keeps the order of keys, whether asked to or not."""

    def declare(
        self, driver: Driver, destination: Queue | Topic | Subscription, as_is: bool, timeout: float
    ) -> Queue | Topic | Subscription:
        if isinstance(destination, Queue):
            driver.declare(replace(destination, ordering="key"), as_is=True, timeout=timeout)
            return destination
        return driver.declare(destination, as_is=as_is, timeout=timeout)


class MaxLengthIgnored(Mutant):
    """A bounded queue takes everything."""

    def declare(
        self, driver: Driver, destination: Queue | Topic | Subscription, as_is: bool, timeout: float
    ) -> Queue | Topic | Subscription:
        if isinstance(destination, Queue) and destination.max_length is not None:
            driver.declare(replace(destination, max_length=None, overflow="reject"), as_is=as_is, timeout=timeout)
            return destination
        return driver.declare(destination, as_is=as_is, timeout=timeout)


class StatsStale(Mutant):
    """The first numbers are given for ever."""

    def stats(self, driver: Driver, source: Source, timeout: float) -> Stats:
        first: dict[str, Stats] = self.state["first"]
        name = queue_of(source).name
        if name not in first:
            first[name] = driver.stats(source, timeout=timeout)
        return first[name]
