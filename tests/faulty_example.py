"""Run an example on a memory broker with one fault: ``faulty_example.py FAULT DESTINATION EXAMPLE [ARGUMENT...]``.

The hundredth message to a destination whose name begins with DESTINATION is confirmed and then lost (``lose``), stored
twice (``repeat``), or sent just when somebody presses Ctrl-C (``interrupt``). Prints what the example leaves behind.
"""

import os
import runpy
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import msgspec
from unimq_memory import MemoryAdapter
from unimq_memory._store import shared_store

from unimq import UnimqError
from unimq._adapters import register_adapter
from unimq.adapter import BrokerURL, Driver, OutcomeSink, Outgoing, Sender, Target

EXAMPLES = Path(__file__).parent.parent / "examples"
UNLUCKY = 100


class Nobody:
    """Whoever learns the outcome of a message that nobody sent."""

    def stored(self, entries: Sequence[Outgoing]) -> None:
        return

    def failed(self, entries: Sequence[Outgoing], error: UnimqError) -> None:
        raise error


class FaultySender:
    """A sender to the chosen destination."""

    is_immediate = False

    def __init__(self, fault: str, sender: Sender, sink: OutcomeSink, aside: Sender) -> None:
        self.fault, self.sender, self.sink, self.aside = fault, sender, sink, aside
        self.count = 0

    def submit(self, entries: Sequence[Outgoing]) -> None:
        for entry in entries:
            self.count += 1
            if self.count == UNLUCKY and self.fault == "lose":
                self.sink.stored([entry])
                continue
            if self.count == UNLUCKY and self.fault == "repeat":
                self.aside.submit([msgspec.structs.replace(entry, group=None, on_outcome=None)])
            if self.count == UNLUCKY and self.fault == "interrupt":
                os.kill(os.getpid(), signal.SIGINT)
            self.sender.submit([entry])

    def flush(self) -> None:
        self.sender.flush()

    def close(self, timeout: float) -> None:
        self.sender.close(timeout)
        self.aside.close(timeout)


class FaultyDriver:
    """A driver that opens faulty senders to the chosen destination, and is the given one in everything else."""

    def __init__(self, driver: Driver, fault: str, destination: str) -> None:
        self.driver, self.fault, self.destination = driver, fault, destination

    def __getattr__(self, name: str) -> object:
        return getattr(self.driver, name)

    def open_sender(self, target: Target, sink: OutcomeSink, *, timeout: float) -> Sender:
        sender = self.driver.open_sender(target, sink, timeout=timeout)
        if not target.name.startswith(self.destination):
            return sender
        aside = self.driver.open_sender(target, Nobody(), timeout=timeout)
        return FaultySender(self.fault, sender, sink, aside)


class FaultyAdapter:
    schemes: ClassVar[Sequence[str]] = MemoryAdapter.schemes
    options: ClassVar[type[msgspec.Struct]] = MemoryAdapter.options

    def __init__(self, fault: str, destination: str) -> None:
        self.fault, self.destination = fault, destination

    def connect(self, url: BrokerURL, options: Any, *, timeout: float) -> Driver:
        driver = MemoryAdapter().connect(url, options, timeout=timeout)
        return cast("Driver", FaultyDriver(driver, self.fault, self.destination))


if __name__ == "__main__":
    _, fault, destination, example, *arguments = sys.argv
    register_adapter(FaultyAdapter(fault, destination))
    sys.argv = [example, *arguments]
    sys.path.insert(0, str(EXAMPLES))
    try:
        runpy.run_path(str(EXAMPLES / example), run_name="__main__")
    finally:
        store = shared_store("")
        for left in (*store.queues, *store.topics):
            sys.stderr.write(f"left behind: {left}\n")
