"""Counts the requests of one connection: they are what SQS bills."""

import threading
from collections.abc import Mapping
from typing import Any

from unimq.adapter import RequestCount

CHUNK = 64 * 1024
"""Bytes of payload that are billed as one request."""
RECEIVE = "SQS.ReceiveMessage"


class _Tally:
    __slots__ = ("billed", "empty", "received", "requests", "sent")

    def __init__(self) -> None:
        self.requests = self.billed = self.sent = self.received = self.empty = 0


class RequestCounts:
    """By action, since the connection was made. Its lock guards everything."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tallies: dict[str, _Tally] = {}

    def sent(self, action: str, size: int) -> None:
        """Count a request with a body of so many bytes, when it goes out: without an answer it may be billed, too."""
        with self._lock:
            tally = self._tallies.setdefault(action, _Tally())
            tally.requests += 1
            tally.billed += max(1, -(-size // CHUNK))
            tally.sent += size

    def answered(self, action: str, size: int, *, is_empty: bool = False) -> None:
        """Count the answer to a request that was counted when it was sent."""
        with self._lock:
            tally = self._tallies.setdefault(action, _Tally())
            # The first chunk is that of the request itself.
            tally.billed += max(0, -(-size // CHUNK) - 1)
            tally.received += size
            tally.empty += is_empty

    def by_action(self) -> Mapping[str, RequestCount]:
        """Return what was counted until now, as ``SQS.SendMessageBatch``, ``SNS.PublishBatch`` and so on."""
        with self._lock:
            return {
                action: RequestCount(tally.requests, tally.billed, tally.sent, tally.received, tally.empty)
                for action, tally in self._tallies.items()
            }

    def watch(self, client: Any, service: str) -> None:
        """Count every request of a client of botocore."""

        def sent(request: Any, event_name: str, **_: object) -> None:
            self.sent(f"{service}.{event_name.rpartition('.')[2]}", len(request.body or b""))

        def answered(response_dict: Any, parsed_response: Any, event_name: str, **_: object) -> None:
            # Without an answer there is neither.
            if response_dict is not None:
                action = f"{service}.{event_name.rpartition('.')[2]}"
                is_empty = (
                    action == RECEIVE and response_dict["status_code"] < 300 and not parsed_response.get("Messages")
                )
                self.answered(action, len(response_dict["body"] or b""), is_empty=is_empty)

        client.meta.events.register(f"before-send.{service.lower()}", sent)
        client.meta.events.register(f"response-received.{service.lower()}", answered)
