"""Sending to a queue or a topic: checked and encoded by the caller, sent in batches by a few request threads."""

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import msgspec

from unimq import MessageTooLarge, SendRejected, SendUnknown, UnimqError, Unsupported
from unimq.adapter import OutcomeSink, Outgoing
from unimq_sqs._batching import Batcher, run_batch
from unimq_sqs._wire import LONGEST_HOP, Encoded, attributes_of, encode, group_of, matches

LINGER = 0.01
"""Seconds that messages wait for company while another request is under way; never when none is."""


@dataclass(frozen=True, slots=True)
class Destination:
    """What differs between a queue and a topic."""

    what: str
    call: Callable[[list[Any]], Mapping[str, Any]]
    limit: int
    """Bytes of the largest message, attribute counted."""
    is_topic: bool
    is_fifo: bool = False
    """It keeps the order of each message group (O1)."""


class Ready(msgspec.Struct, eq=False):
    """A checked message on its way."""

    entry: Outgoing
    encoded: Encoded
    group: str = ""
    """FIFO: the group within which it keeps its place."""
    deduplication: str = ""
    """FIFO: by which SQS recognises a repeated attempt of this send (S2).

    Not the id of the message: a redriven dead letter, or a message that a program sends again on purpose, has the same,
    and SQS would swallow it for five minutes and call it stored (R1, D2).
    """


class SendLanes:
    """Which message of each group is on its way; the later ones wait for its outcome (O1).

    Two of a group in one request would not do: SQS may store the second and fail the first. Its lock guards everything.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lanes: dict[str, deque[Ready]] = {}
        """The first of each is on its way."""

    def admit(self, items: Sequence[Ready]) -> list[Ready]:
        """Return those that nothing of their group is ahead of; the others wait."""
        first: list[Ready] = []
        with self._lock:
            for ready in items:
                lane = self._lanes.setdefault(ready.group, deque())
                lane.append(ready)
                if len(lane) == 1:
                    first.append(ready)
        return first

    def follow(self, finished: Sequence[Ready]) -> list[Ready]:
        """Return who may go now that these have their outcome."""
        following: list[Ready] = []
        with self._lock:
            for ready in finished:
                lane = self._lanes.get(ready.group)
                # A crash reports a second time what had its outcome before.
                if lane is None or lane[0] is not ready:
                    continue
                lane.popleft()
                if lane:
                    following.append(lane[0])
                else:
                    del self._lanes[ready.group]
        return following


class SQSSender:
    """See `unimq.adapter.Sender`. `open` holds what has no outcome yet; whoever removes an item from it reports it."""

    is_immediate = False
    default_error: type[UnimqError] = SendRejected

    def __init__(self, destination: Destination, sink: OutcomeSink, threads: int, window: float = 0.0) -> None:
        self.doing = f"sending to {destination.what}"
        self.destination = destination
        self.sink = sink
        self.open: set[Ready] = set()
        self.lanes = SendLanes() if destination.is_fifo else None
        # Unique over all producers: 64 random bits, then a counter, whose `next` is atomic.
        self.sends = map(f"{os.urandom(8).hex()}-{{:x}}".format, itertools.count(1))
        self.batcher: Batcher[Ready] = Batcher(
            "send",
            lambda batch: run_batch(self, batch, self.batcher.stopping),
            self._crashed,
            threads=threads,
            linger=LINGER,
            eager=True,
            size=lambda ready: ready.encoded.size,
            # Within a message group each one waits for the one before.
            window=0.0 if destination.is_fifo else window,
            # It was enqueued: only a flush waits for it, and that hurries.
            is_patient=lambda ready: ready.entry.group is not None,
        )

    def submit(self, entries: Sequence[Outgoing]) -> None:
        """See `unimq.adapter.Sender.submit`."""
        ready: list[Ready] = []
        for entry in entries:
            encoded = encode(entry.message)
            error = self._refuse(entry, encoded)
            if error is None:
                ready.append(self._ready(entry, encoded))
            else:
                self.sink.failed((entry,), error)
        self.open.update(ready)
        first = ready if self.lanes is None else self.lanes.admit(ready)
        if not self.batcher.add(first):
            self._fail(ready, SendRejected(f"{self.doing}: the sender is closed"))

    def _ready(self, entry: Outgoing, encoded: Encoded) -> Ready:
        if not self.destination.is_fifo:
            return Ready(entry, encoded)
        send = next(self.sends)
        key = entry.message.key
        # Without a key nothing waits for it, nor it for anything.
        return Ready(entry, encoded, send if key is None else group_of(key), send)

    def _refuse(self, entry: Outgoing, encoded: Encoded) -> UnimqError | None:
        """Return the error of what would fail later, or fail the whole request with it (S3, S4)."""
        if encoded.size > self.destination.limit:
            return MessageTooLarge(
                f"{self.destination.what} takes {self.destination.limit} bytes with headers; message"
                f" {entry.message.id} has {encoded.size}, encoding counted",
                message_id=entry.message.id,
            )
        if entry.message.delay and self.destination.is_topic:
            return Unsupported("delay on SNS topics", "SNS has no delay", "delay the processing, or send to a queue")
        if entry.message.delay and self.destination.is_fifo:
            return Unsupported(
                'delay with ordering="key" on sqs',
                "a FIFO queue of SQS has no delay per message",
                'ordering="none", or delay the processing with nack(delay)',
            )
        return None

    def flush(self) -> None:
        """See `unimq.adapter.Sender.flush`."""
        self.batcher.hurry()

    def close(self, timeout: float) -> None:
        """See `unimq.adapter.Sender.close`."""
        self.batcher.close(timeout)
        self._fail(list(self.open), SendUnknown(f"{self.doing}: closed before the confirmation came; it may be stored"))

    def _claim(self, items: Sequence[Ready]) -> list[Outgoing]:
        """Take items out of `open`; those that `close` gave up in the meantime have their outcome already."""
        mine: list[Outgoing] = []
        for ready in items:
            try:
                self.open.remove(ready)
            except KeyError:
                continue
            mine.append(ready.entry)
        return mine

    def _fail(self, items: Sequence[Ready], error: UnimqError) -> None:
        entries = self._claim(items)
        if entries:
            self.sink.failed(entries, error)

    def _go_on(self, finished: Sequence[Ready]) -> None:
        """Send what waited for these, now that their outcomes are reported."""
        if self.lanes is not None and (following := self.lanes.follow(finished)):
            # After `close` nothing is taken any more; then it has reported these already.
            self.batcher.add(following)

    def _crashed(self, items: list[Ready], cause: Exception) -> None:
        error = SendUnknown(f"{self.doing}: unexpected {type(cause).__name__}; it may be stored")
        error.__cause__ = cause
        self._fail(items, error)
        self._go_on(items)

    # One batch request: `unimq_sqs._batching.BatchRequest`.

    def call(self, entries: list[Any]) -> Mapping[str, Any]:
        """Send a batch."""
        return self.destination.call(entries)

    def entry(self, item: Ready) -> Mapping[str, Any]:
        """Return the entry of one message."""
        encoded = item.encoded
        body = "Message" if self.destination.is_topic else "MessageBody"
        entry: dict[str, Any] = {body: encoded.body, "MessageAttributes": attributes_of(encoded)}
        if self.destination.is_fifo:
            return {**entry, "MessageGroupId": item.group, "MessageDeduplicationId": item.deduplication}
        delay = item.entry.message.delay
        # Whole seconds, rounded up: not before the delay is over (T2).
        return {**entry, "DelaySeconds": min(LONGEST_HOP, ceil(delay))} if delay else entry

    def deadline(self, item: Ready) -> float:
        """Return until when the message may be sent again (S2)."""
        return item.entry.deadline

    def succeeded(self, results: list[tuple[Ready, Mapping[str, Any]]], started: float) -> None:
        """Report what is stored, after comparing the checksums (S1); SNS has none."""
        stored: list[Ready] = []
        for item, result in results:
            if self.destination.is_topic or matches(item.encoded, result):
                item.entry.position = result["MessageId"]
                stored.append(item)
            else:
                self._fail(
                    [item], SendUnknown(f"{self.doing}: the checksum of the stored message differs from what was sent")
                )
        entries = self._claim(stored)
        if entries:
            self.sink.stored(entries)
        self._go_on([item for item, _ in results])

    def refused(self, items: list[Ready], error: UnimqError) -> None:
        """Report what is certainly not stored."""
        self._fail(items, error)
        self._go_on(items)

    def expired(self, items: list[Ready], cause: UnimqError | None) -> None:
        """Report what was not confirmed in time (S2)."""
        text = f"{self.doing}: no confirmation within the timeout; it may be stored"
        error = SendUnknown(f"{text} ({cause})" if cause else text)
        error.__cause__ = cause and (cause.__cause__ or cause)
        self._fail(items, error)
        self._go_on(items)
