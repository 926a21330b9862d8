"""The sending half of the row ``pika-select``.

Messages gather in a deque, one wake-up of the I/O thread publishes them all, and confirms, which come one by one or
`multiple`, count them off a window.
"""

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from unimq_bench.rows.pika_thread import PikaThread
from unimq_bench.rows.protocol import NotTaken

_TIMEOUT = 30.0


class Publisher:
    """`_sent`, `_goal` and the right end of `_pending` are the caller's, all else belongs to the I/O thread."""

    def __init__(self, link: PikaThread, queue: str, window: int) -> None:
        from pika import BasicProperties

        self._link, self._queue, self._window = link, queue, window
        self._properties = BasicProperties(delivery_mode=2)
        self._pending: deque[bytes] = deque()
        self._is_woken = False
        self._sent = self._done = 0
        self._unconfirmed: dict[int, bytes] = {}
        self._tag, self._lowest = 0, 1
        self._failed: list[bytes] = []
        self._changed, self._goal = threading.Condition(), 0
        link.channel.add_on_return_callback(self._on_return)
        link.on_lost = self._tell
        link.ask(lambda answered: link.channel.confirm_delivery(self._on_confirm, answered))

    def send(self, body: bytes) -> None:
        """See `protocol.Sender`."""
        if self._sent - self._done >= self._window and not self._wait(self._sent - self._window // 2):
            raise NotTaken(f"{self._queue}: {self._link.lost or 'the window stayed full'}")
        self._pending.append(body)
        self._sent += 1
        if not self._is_woken:
            self._is_woken = True
            self._link.post(self._publish)

    def _publish(self) -> None:
        self._is_woken = False
        while self._pending:
            body = self._pending.popleft()
            self._tag += 1
            self._unconfirmed[self._tag] = body
            if self._link.lost is None:
                self._link.channel.basic_publish("", self._queue, body, self._properties, mandatory=True)

    def _on_return(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self._failed.append(body)

    def _on_confirm(self, frame: Any) -> None:
        tag, is_stored = frame.method.delivery_tag, frame.method.NAME == "Basic.Ack"
        tags = range(self._lowest, tag + 1) if frame.method.multiple else (tag,)
        if frame.method.multiple:
            self._lowest = tag + 1
        for each in tags:
            body = self._unconfirmed.pop(each, None)
            if body is not None:
                self._done += 1
                if not is_stored:
                    self._failed.append(body)
        self._tell()

    def _tell(self) -> None:
        if self._goal and (self._done >= self._goal or self._link.lost):
            with self._changed:
                self._changed.notify()

    def _wait(self, goal: int) -> bool:
        """Wait until so many have their outcome, or the connection is lost."""
        with self._changed:
            self._goal = goal
            self._changed.wait_for(lambda: self._done >= goal or self._link.lost is not None, _TIMEOUT)
            self._goal = 0
        return self._done >= goal

    def flush(self) -> Sequence[bytes]:
        """See `protocol.Sender`."""
        if not self._wait(self._sent):
            # The connection is lost, and with it every outcome that is still due: nobody else takes them out.
            self._failed += [*self._unconfirmed.values(), *self._pending]
        failed, self._failed = self._failed, []
        return failed

    def close(self) -> None:
        """See `protocol.Sender`."""
        self._link.close()
