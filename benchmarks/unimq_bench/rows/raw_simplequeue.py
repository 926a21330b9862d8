"""Raw row ``simplequeue``: `queue.SimpleQueue`, the fastest queue of the standard library, within one process.

It keeps what is handed out until it is acked and puts it back when the receiver closes, because the memory backend of
unimq promises as much; it does not redeliver one message alone, keep leases or count deliveries.
"""

import platform
import threading
from collections.abc import Mapping, Sequence
from queue import Empty, SimpleQueue

from unimq_bench.rows.assembled import Assembled, checked
from unimq_bench.rows.protocol import Batch, Connection, Description

_queues: dict[str, "SimpleQueue[bytes]"] = {}
"""By name, so that the threads of a process share them; guarded by `_lock`."""
_lock = threading.Lock()


class _Sender:
    """A put is stored when it returns: there is nothing to confirm and no window."""

    def __init__(self, queue: "SimpleQueue[bytes]") -> None:
        self._put = queue.put

    def send(self, body: bytes) -> None:
        self._put(body)

    def flush(self) -> Sequence[bytes]:
        return ()

    def close(self) -> None:
        """There is nothing to release."""


class _Receiver:
    def __init__(self, queue: "SimpleQueue[bytes]", prefetch: int) -> None:
        self._queue = queue
        self._free = prefetch
        self._held: dict[int, Sequence[bytes]] = {}
        self._token = 0

    def receive(self, max_messages: int, timeout: float) -> Batch:
        get, limit = self._queue.get_nowait, min(max_messages, self._free)
        bodies: list[bytes] = []
        try:
            bodies.append(self._queue.get(timeout=timeout))
            while len(bodies) < limit:
                bodies.append(get())
        except Empty:
            pass
        self._free -= len(bodies)
        self._token += 1
        self._held[self._token] = bodies
        return Batch(bodies, self._token)

    def ack(self, batch: Batch) -> None:
        self._free += len(self._held.pop(batch.token))

    def settle(self) -> None:
        """An ack is final when it returns."""

    def close(self) -> None:
        while self._held:
            for body in self._held.pop(next(iter(self._held))):
                self._queue.put(body)


def connect(url: str, options: Mapping[str, str]) -> Connection:
    """Return a connection; see `unimq_bench.rows.protocol`."""
    checked("simplequeue", options, {})

    def named(queue: str) -> "SimpleQueue[bytes]":
        with _lock:
            return _queues[queue]

    def make(queue: str) -> None:
        with _lock:
            _queues[queue] = SimpleQueue()

    def delete(queue: str) -> None:
        with _lock:
            _queues.pop(queue, None)

    return Assembled(
        describe=lambda: Description(durability="memory", versions={"python": platform.python_version()}),
        make=make,
        delete=delete,
        sender=lambda queue, window: _Sender(named(queue)),
        receiver=lambda queue, prefetch: _Receiver(named(queue), prefetch),
    )
