"""Faults of a broker's own process, noted in a history: for brokers on tap, which are ours to maltreat."""

import contextlib
from collections.abc import Generator

from unimq_contract.brokers import RunningTap
from unimq_contract.faults.proxy import FaultLog


class BrokerFaults:
    """Kill, freeze and restart the nodes of a broker. A broker given by URL is not ours: `BrokerUnavailable`."""

    def __init__(self, tap: RunningTap, log: FaultLog) -> None:
        self._tap = tap
        self._log = log

    @contextlib.contextmanager
    def killed(self, node: int = 0) -> Generator[None]:
        """``kill -9``; inside the block the broker is away, after it it answers again on the same port and data."""
        self._log.down("broker killed")
        try:
            self._tap.kill(node)
            try:
                yield
            finally:
                self._tap.restart(node)
        finally:
            self._log.up("broker killed")

    @contextlib.contextmanager
    def frozen(self, node: int = 0) -> Generator[None]:
        """SIGSTOP; inside the block connections stay open and nothing answers."""
        self._log.down("broker frozen")
        try:
            self._tap.suspend(node)
            try:
                yield
            finally:
                self._tap.resume(node)
        finally:
            self._log.up("broker frozen")

    def restart(self, node: int = 0) -> None:
        """Stop it in good order and start it again; returns when it answers."""
        self._log.down("broker restarted")
        try:
            self._tap.restart(node)
        finally:
            self._log.up("broker restarted")
