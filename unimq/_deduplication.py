"""Deduplication by message id: a middleware that lets each message be handled once, as far as its window reaches.

Delivery is at-least-once: a send whose confirmation was lost is repeated with the same id (S2), and a message whose ack
was lost comes again (A1). This drops such copies, as long as one process sees both, or its store does.
"""

import threading
from collections import OrderedDict, deque
from typing import Any, Protocol

from unimq._delivery import Delivery
from unimq._destinations import count
from unimq._middleware import Middleware, Settlement

DEFAULT_WINDOW = 100_000

Key = tuple[str, str]
"""Source and message id."""


class HandledMessages(Protocol):
    """Where it is noted what was handled. Called from several threads at once; must not block for long."""

    def contains(self, source: str, message_id: str) -> bool:
        """Tell whether a message of this source was handled."""
        ...

    def add(self, source: str, message_id: str) -> None:
        """Note that a message was handled."""
        ...


class RecentMessages:
    """The last `window` handled messages, in the memory of this process; about 200 bytes each (L5)."""

    def __init__(self, window: int = DEFAULT_WINDOW) -> None:
        self._window = count(window, "window")
        self._ids: OrderedDict[Key, None] = OrderedDict()
        self._lock = threading.Lock()

    def contains(self, source: str, message_id: str) -> bool:
        """See `HandledMessages.contains`."""
        return (source, message_id) in self._ids

    def add(self, source: str, message_id: str) -> None:
        """See `HandledMessages.add`; the oldest one beyond the window is forgotten."""
        with self._lock:
            self._ids[source, message_id] = None
            self._ids.move_to_end((source, message_id))
            if len(self._ids) > self._window:
                self._ids.popitem(last=False)


def deduplication(window: int = DEFAULT_WINDOW, *, store: HandledMessages | None = None) -> Middleware:
    """Return a middleware for consumers that acks copies of handled messages instead of handing them out.

    A message counts as handled when it is acked, not when it is handed out: one whose handler failed comes again. A
    copy that arrives while the first one is in work waits, unsettled, for what becomes of that: it is acked when the
    first one is acked or dead-lettered; when that fails or is lost, the copy is given back and comes again.

    Args:
        window: handled messages that are remembered in memory.
        store: remembers them instead, for example in a database that several processes share.

    Raises:
        ConfigError: `window` is less than 1.

    """
    gate = _Gate(RecentMessages(window) if store is None else store)
    return Middleware(deliver=gate.deliver, settled=gate.settled)


class _Gate:
    """`lock` guards the two tables; nothing is settled under it."""

    def __init__(self, store: HandledMessages) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._in_work: dict[Key, Delivery[Any]] = {}
        self._waiting: dict[Key, list[Delivery[Any]]] = {}
        """Copies of what is in work. Bounded by the prefetch of the consumers, as they are unsettled."""
        self._given_up: deque[Delivery[Any]] = deque()
        """Copies whose first one was lost. That is told under a lock of the driver, so they wait for a call that may
        settle them."""

    def deliver(self, delivery: Delivery[Any]) -> bool:
        """Hook of the middleware."""
        self._give_back()
        key = (delivery.source, delivery.id)
        with self._lock:
            if self._in_work.setdefault(key, delivery) is not delivery:
                self._waiting.setdefault(key, []).append(delivery)
                return False
        # Only now, so that a first one that is acked at this moment is seen either there or here.
        if self._store.contains(*key):
            delivery.ack()
            return False
        return True

    def settled(self, delivery: Delivery[Any], how: Settlement) -> None:
        """Hook of the middleware."""
        key = (delivery.source, delivery.id)
        with self._lock:
            if self._in_work.get(key) is not delivery:
                # A copy; one that was lost does not wait any more.
                copies = self._waiting.get(key, [])
                self._waiting[key] = [copy for copy in copies if copy is not delivery]
                if not self._waiting[key]:
                    del self._waiting[key]
                return
            if how == "ack":
                # Before the way is free for copies that arrive at this moment.
                self._store.add(*key)
            del self._in_work[key]
            copies = self._waiting.pop(key, [])
        if how == "lost":
            self._given_up.extend(copies)
            return
        for copy in copies:
            if how in {"ack", "dead", "dropped"}:
                copy.ack()
            else:
                copy.nack()
        self._give_back()

    def _give_back(self) -> None:
        while self._given_up:
            try:
                copy = self._given_up.popleft()
            except IndexError:
                # Another thread took the last one.
                return
            if not copy.lost:
                copy.nack()
