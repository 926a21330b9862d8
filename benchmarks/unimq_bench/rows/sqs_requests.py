"""Counts what SQS bills, by the events of botocore: the same for every row that uses it."""

import threading
from collections.abc import Mapping
from typing import Any

_CHUNK = 64 * 1024
"""Bytes of payload that are billed as one request."""


class RequestCounter:
    """Counts from many threads. Retries are requests, too."""

    def __init__(self, *clients: Any) -> None:
        self._lock = threading.Lock()
        names = ("requests", "billed_requests", "empty_receives", "bytes_sent", "bytes_received")
        self._counts: dict[str, int] = dict.fromkeys(names, 0)
        for client in clients:
            self.watch(client)

    def watch(self, client: Any) -> None:
        """Count the requests of one more client of boto3."""
        client.meta.events.register("before-send.sqs", self._sent)
        client.meta.events.register("after-call.sqs", self._answered)

    def counts(self) -> Mapping[str, int]:
        """Return the counts as `protocol.Connection.counters` wants them."""
        with self._lock:
            return dict(self._counts)

    def _sent(self, request: Any, **_: object) -> None:
        size = len(request.body or b"")
        with self._lock:
            self._counts["requests"] += 1
            # The first chunk of each; what a larger request or answer costs beyond it is added when it is known.
            self._counts["billed_requests"] += max(1, -(-size // _CHUNK))
            self._counts["bytes_sent"] += size

    def _answered(self, http_response: Any, parsed: Mapping[str, Any], model: Any, **_: object) -> None:
        size = len(http_response.content or b"")
        with self._lock:
            self._counts["bytes_received"] += size
            self._counts["billed_requests"] += max(0, -(-size // _CHUNK) - 1)
            if model.name == "ReceiveMessage" and not parsed.get("Messages"):
                self._counts["empty_receives"] += 1
