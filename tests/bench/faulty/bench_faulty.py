"""Rows that cheat or fail, for the proof that the benchmark sees it: unimq on memory with one fault each, by option."""

import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence

from unimq_bench.rows import unimq_row
from unimq_bench.rows.protocol import Batch, Connection, Description, Receiver, Sender

EVERY = 50
"""Messages between two faults."""


class FaultySender:
    """Every so often the fault."""

    def __init__(self, inner: Sender, fault: str) -> None:
        self._inner = inner
        self._fault = fault
        self._count = 0

    def send(self, body: bytes) -> None:
        self._count += 1
        if self._count % EVERY == 0:
            if self._fault == "lossy":
                return
            if self._fault == "duplicating":
                self._inner.send(body)
            if self._fault == "corrupting":
                body = body[:-1] + bytes([body[-1] ^ 0xFF])
            if self._fault == "dying":
                os._exit(3)
        self._inner.send(body)

    def flush(self) -> Sequence[bytes]:
        return self._inner.flush()

    def close(self) -> None:
        self._inner.close()


class ReorderingReceiver:
    """Gives each batch backwards."""

    def __init__(self, inner: Receiver) -> None:
        self._inner = inner

    def receive(self, max_messages: int, timeout: float) -> Batch:
        batch = self._inner.receive(max_messages, timeout)
        return Batch(batch.bodies[::-1], batch.token)

    def ack(self, batch: Batch) -> None:
        self._inner.ack(batch)

    def settle(self) -> None:
        self._inner.settle()

    def close(self) -> None:
        self._inner.close()


class FaultyConnection:
    """unimq, but."""

    def __init__(self, inner: Connection, fault: str) -> None:
        self._inner = inner
        self._fault = fault
        if fault == "slow-generator":
            # What shares the interpreter with the load generator makes it late: the fault of many a benchmark.
            sys.setswitchinterval(0.05)
            threading.Thread(target=self._burn, daemon=True).start()

    def _burn(self) -> None:
        until = time.monotonic() + 600
        while time.monotonic() < until:
            sum(range(1000))

    @property
    def description(self) -> Description:
        found = self._inner.description
        if self._fault == "careless":
            return Description(durability="at-most-once", versions=found.versions)
        return found

    def prepare(self, queue: str) -> None:
        if self._fault == "unable":
            raise RuntimeError("this broker has no queues today")
        self._inner.prepare(queue)

    def remove(self, queue: str) -> None:
        self._inner.remove(queue)

    def open_sender(self, queue: str, *, window: int) -> Sender:
        return FaultySender(self._inner.open_sender(queue, window=window), self._fault)

    def open_receiver(self, queue: str, *, prefetch: int) -> Receiver:
        receiver = self._inner.open_receiver(queue, prefetch=prefetch)
        return ReorderingReceiver(receiver) if self._fault == "reordering" else receiver

    def counters(self) -> Mapping[str, int]:
        return self._inner.counters()

    def close(self) -> None:
        self._inner.close()


def connect(url: str, options: Mapping[str, str]) -> Connection:
    return FaultyConnection(unimq_row.connect("memory://", options), url.rpartition("#")[2])
