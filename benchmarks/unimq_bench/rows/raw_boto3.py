"""Raw row ``boto3``: requests of ten by threads that send, long-poll and delete beside each other.

The MD5 of each stored body is compared, which botocore does not do. Bodies that are no text go as base64, behind a
letter that says so. An ack is a delete, off the polling threads.
"""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from queue import Empty, SimpleQueue

from unimq_bench.rows.assembled import Assembled, checked, number_of
from unimq_bench.rows.batch_threads import Batches
from unimq_bench.rows.protocol import Batch, Connection, Description, NotTaken
from unimq_bench.rows.sqs_queues import Queues, body_of, text_of

_OPTIONS = {"senders": "8", "pollers": "4", "deleters": "4", "wait": "2"}
# The validation of parameters and the default user agent cost a quarter of a request's time.
_SETTINGS = {"parameter_validation": False, "user_agent": "raw", "max_pool_connections": 64, "tcp_keepalive": True}
_LARGEST_REQUEST = 1_000_000


class _Sender:
    def __init__(self, queues: Queues, queue: str, threads: int, window: int) -> None:
        self._client, self._url, self._threads, self._window = queues.client, queues.url_of(queue), threads, window
        self._batches: Batches[tuple[bytes, str]] | None = None
        self._failed: list[bytes] = []

    def send(self, body: bytes) -> None:
        text = text_of(body)
        if self._batches is None:
            # Bodies of one run are of one size: it decides how many fit into a request.
            at_most = max(1, min(10, _LARGEST_REQUEST // len(text)))
            self._batches = Batches(self._threads, self._window, self._store, at_most=at_most)
        if not self._batches.put((body, text)):
            raise NotTaken("the window stayed full")

    def _store(self, items: list[tuple[bytes, str]]) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        stored: dict[str, str] = {}
        try:
            entries = [{"Id": str(index), "MessageBody": text} for index, (_, text) in enumerate(items)]
            answer = self._client.send_message_batch(QueueUrl=self._url, Entries=entries)
            stored = {entry["Id"]: entry["MD5OfMessageBody"] for entry in answer.get("Successful", ())}
        except (BotoCoreError, ClientError):
            pass
        for index, (body, text) in enumerate(items):
            if stored.get(str(index)) != hashlib.md5(text.encode(), usedforsecurity=False).hexdigest():
                self._failed.append(body)

    def flush(self) -> Sequence[bytes]:
        if self._batches is not None and not self._batches.join():
            raise TimeoutError("SQS did not answer in time")
        failed, self._failed = self._failed, []
        return failed

    def close(self) -> None:
        if self._batches is not None:
            self._batches.close()


class _Receiver:
    def __init__(self, queues: Queues, queue: str, threads: Mapping[str, int], prefetch: int) -> None:
        self._client, self._url, self._wait = queues.client, queues.url_of(queue), threads["wait"]
        self._arrived: SimpleQueue[tuple[str, str]] = SimpleQueue()
        self._held: dict[str, None] = {}
        self._room, self._free = threading.Condition(), prefetch
        self._each = max(1, min(10, prefetch))
        self._is_open = True
        self._deletes: Batches[str] = Batches(threads["deleters"], 1_000_000, self._delete)
        self._pollers = [threading.Thread(target=self._poll, daemon=True) for _ in range(threads["pollers"])]
        for poller in self._pollers:
            poller.start()

    def _poll(self) -> None:
        while True:
            with self._room:
                self._room.wait_for(lambda: self._free >= self._each or not self._is_open)
                if not self._is_open:
                    return
                self._free -= self._each
            found = self._client.receive_message(
                QueueUrl=self._url, MaxNumberOfMessages=self._each, WaitTimeSeconds=self._wait, VisibilityTimeout=60
            ).get("Messages", ())
            self._held.update((message["ReceiptHandle"], None) for message in found)
            for message in found:
                self._arrived.put((message["Body"], message["ReceiptHandle"]))
            self._release(self._each - len(found))

    def _release(self, number: int) -> None:
        with self._room:
            self._free += number
            self._room.notify_all()

    def receive(self, max_messages: int, timeout: float) -> Batch:
        arrived: list[tuple[str, str]] = []
        try:
            arrived.append(self._arrived.get(timeout=timeout))
            while len(arrived) < max_messages:
                arrived.append(self._arrived.get_nowait())
        except Empty:
            pass
        return Batch([body_of(text) for text, _ in arrived], [handle for _, handle in arrived])

    def ack(self, batch: Batch) -> None:
        for handle in batch.token:
            del self._held[handle]
            self._deletes.put(handle)
        self._release(len(batch.token))

    def _delete(self, handles: list[str]) -> None:
        entries = [{"Id": str(index), "ReceiptHandle": handle} for index, handle in enumerate(handles)]
        self._client.delete_message_batch(QueueUrl=self._url, Entries=entries)

    def settle(self) -> None:
        self._deletes.join()

    def close(self) -> None:
        # A long poll that is cut off would take its messages with it.
        with self._room:
            self._is_open = False
            self._room.notify_all()
        for poller in self._pollers:
            poller.join()
        self._deletes.close()
        while self._held:
            handle, _ = self._held.popitem()
            self._client.change_message_visibility(QueueUrl=self._url, ReceiptHandle=handle, VisibilityTimeout=0)


def connect(url: str, options: Mapping[str, str]) -> Connection:
    """Return a connection; see `unimq_bench.rows.protocol`."""
    chosen = checked("boto3", options, _OPTIONS)
    threads = {name: number_of("boto3", chosen, name, least=1) for name in _OPTIONS}
    queues = Queues(url, _SETTINGS)
    return Assembled(
        describe=lambda: Description(
            durability=queues.durability,
            emulated=queues.emulated,
            client_settings={**{name: str(value) for name, value in _SETTINGS.items()}, **chosen},
            versions=queues.versions,
        ),
        make=queues.make,
        delete=queues.delete,
        sender=lambda queue, window: _Sender(queues, queue, threads["senders"], window),
        receiver=lambda queue, prefetch: _Receiver(queues, queue, threads, prefetch),
        count=queues.counter.counts,
        release=queues.client.close,
    )
