"""Sending: the window, the bookkeeping of outcomes, and what a flush waits for. One implementation for both fronts."""

import copy
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

from unimq._capabilities import Capabilities
from unimq._codec import Codec, encode
from unimq._destinations import Queue, Seconds, Target
from unimq._errors import BufferFull, Closed, SendRejected, SendUnknown, UnimqError
from unimq._events import SeldomLog
from unimq._message import NO_HEADERS, Message, compose, prepare
from unimq._middleware import Middleware, call_hooks
from unimq._outgoing import OnOutcome, Outcome, Outgoing, PipelinedGroup
from unimq._receipt import Receipt
from unimq._served import ServedSender
from unimq._waiting import Waiters, Wake, deadline_after
from unimq.adapter import Sender

GRACE = 5.0
"""Seconds that a caller waits past a send's deadline for the driver to say which of the two it was (S2)."""

_LARGEST_PART = 1000
"""Messages that `send_many` hands to the driver at once."""
_KEPT_FAILURES = 1000
"""Failures of enqueued messages that are kept for the next `flush`; further ones are counted only."""


class OutcomeWaiters:
    """The one place for a wake-up at the outcome of one entry; a `unimq._waiting.Registry`."""

    __slots__ = ("_core", "_entry")

    def __init__(self, core: "ProducerCore", entry: Outgoing) -> None:
        self._core = core
        self._entry = entry

    def add(self, wake: Wake) -> None:
        """Have `wake` called at the outcome; not if that is there already, which the waiter sees next."""
        with self._core.lock:
            if not self._entry.done:
                self._entry.wake = wake

    def discard(self, wake: Wake) -> bool:
        """Take the wake-up back; false if it was called already."""
        with self._core.lock:
            found = self._entry.wake == wake
            self._entry.wake = None
        return found

    def wake(self) -> None:
        """Pass a wake-up on: there is nobody else who waits for this outcome."""


def size_of(message: Message) -> int:
    """Return the bytes that a message counts in the window: body, key and headers."""
    size = len(message.body)
    if message.key:
        size += len(message.key)
    if message.headers is not NO_HEADERS:
        for name, value in message.headers.items():
            size += len(name) + len(value)
    return size


class ProducerCore:
    """State of one producer. `lock` guards everything below it, and `Outgoing.done` and `wake`."""

    def __init__(
        self,
        target: Target,
        capabilities: Capabilities,
        *,
        window: int,
        window_bytes: int,
        timeout: float,
        codec: Codec[Any] | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        self.target = target
        self.capabilities = capabilities
        self.timeout = timeout
        self.window = window
        self.window_bytes = window_bytes
        self.codec = codec
        self.seldom: SeldomLog = SeldomLog()
        self.on_publish: list[Callable[[Message, str], Message]] = [
            each.publish for each in middleware if each.publish is not None
        ]
        self.on_published: list[Callable[[Message, str, Outcome], None]] = [
            each.published for each in middleware if each.published is not None
        ]
        self.queue_ttl: float | None = target.ttl_seconds if isinstance(target, Queue) else None
        self.sender: Sender
        self.served: ServedSender | None = None
        """The sender, if callers that wait are to bring outcomes themselves."""
        self.submit_quietly: Callable[[Sequence[Outgoing]], None]
        """For callers that do so, and for enqueued messages; `Sender.submit` if there is no other way."""
        self.is_immediate: bool = False
        """Every outcome comes inside `submit`, so that nothing is ever outstanding and no window is kept (S5)."""
        self.admits_freely: bool = False
        """`is_immediate` and open: the fronts need not ask `admit`."""
        self.room: Waiters = Waiters()
        self.lock: threading.Lock = threading.Lock()
        self.closed: str = ""
        self.outstanding: int = 0
        self.outstanding_bytes: int = 0
        self.group: PipelinedGroup = PipelinedGroup()

    # Going down.

    def entry(self, message: Message, deadline: float) -> Outgoing:
        """Return the entry that carries a prepared message, or what middleware made of it, with the ttl of its queue
        applied (T1).

        Raises:
            Unsupported: the message asks for a delay or ttl that the backend does not have (principle 2).

        """
        for hook in self.on_publish:
            try:
                changed = hook(message, self.target.name)
            except UnimqError:
                raise
            except Exception as error:
                raise SendRejected(f"middleware hook {hook!r} refused the message: {error!r}") from error
            if changed is not message:
                notes = changed.notes or message.notes
                message = prepare(changed)
                message.notes = notes
        if message.delay or message.ttl is not None:
            self._check_times(message)
        if self.queue_ttl is not None:
            limit = message.sent_at + self.queue_ttl
            if message.expires_at is None or message.expires_at > limit:
                message.expires_at = limit
        if message.key is None and message.headers is NO_HEADERS:
            return Outgoing(message, deadline, len(message.body))
        return Outgoing(message, deadline, size_of(message))

    def _check_times(self, message: Message) -> None:
        capabilities = self.capabilities
        if message.ttl is not None:
            capabilities.require("ttl")
        if message.delay:
            capabilities.require("delay")
            capabilities.require_at_most("max_delay", "delay", message.delay)

    def use(self, sender: Sender) -> None:
        """Send by this sender from now on."""
        self.sender = sender
        self.served = sender if isinstance(sender, ServedSender) else None
        self.submit_quietly = sender.submit if self.served is None else self.served.submit_quietly
        self.is_immediate = self.admits_freely = sender.is_immediate

    def admit(self, count: int, size: int) -> Literal[True] | None:
        """Attempt to take that many messages and bytes into the window (S5).

        What alone exceeds the window is admitted when nothing else is outstanding, so that it cannot wait for ever.

        Raises:
            Closed: the producer was closed.

        """
        with self.lock:
            if self.closed:
                raise Closed(self.closed)
            if self.outstanding and (
                self.outstanding + count > self.window or self.outstanding_bytes + size > self.window_bytes
            ):
                return None
            self.outstanding += count
            self.outstanding_bytes += size
        return True

    def join_pipeline(self, entry: Outgoing, on_outcome: OnOutcome | None) -> None:
        """Make the next `flush` wait for an admitted entry."""
        entry.on_outcome = on_outcome
        with self.lock:
            entry.group = self.group
            self.group.remaining += 1

    def admit_to_pipeline(self, entry: Outgoing) -> Literal[True] | None:
        """Attempt what `admit` and `join_pipeline` do, in one step.

        Raises:
            Closed: the producer was closed.

        """
        size = entry.size
        with self.lock:
            if self.closed:
                raise Closed(self.closed)
            outstanding = self.outstanding
            if outstanding and (outstanding >= self.window or self.outstanding_bytes + size > self.window_bytes):
                return None
            self.outstanding = outstanding + 1
            self.outstanding_bytes += size
            entry.group = group = self.group
            group.remaining += 1
        return True

    def check_open(self) -> None:
        """Raise `Closed` if the producer was closed, or is the parent's, whose outcomes never come here (L2)."""
        if self.closed:
            raise Closed(self.closed)

    def flush_deadline(self, timeout: Seconds | None) -> float:
        """Return until when a flush waits: without a timeout of its own, until no outcome can be missing."""
        return deadline_after(self.timeout + GRACE if timeout is None else timeout)

    def start_flush(self) -> PipelinedGroup:
        """Return the group to wait for; what is enqueued from now on belongs to the next one."""
        with self.lock:
            group, self.group = self.group, PipelinedGroup()
        self.sender.flush()
        return group

    def overdue(self, entry: Outgoing) -> SendUnknown:
        """Return the error for a caller that waited until the deadline and got no outcome."""
        return SendUnknown(
            f"no confirmation of message {entry.message.id} to {self.target.name!r} within {self.timeout:g} s; it"
            " may be stored",
            message_id=entry.message.id,
        )

    def still_full(self) -> BufferFull:
        """Return the error for a caller that waited for room until its deadline (S5)."""
        return BufferFull(
            f"{self.outstanding} messages ({self.outstanding_bytes} bytes) to {self.target.name!r} are unconfirmed"
            f" after {self.timeout:g} s; the window is {self.window} messages and {self.window_bytes} bytes"
        )

    def failures(self, group: PipelinedGroup) -> list[UnimqError]:
        """Return the failures of a group of which nobody was told, missing outcomes among them (S6)."""
        with self.lock:
            missing, more = group.remaining, group.unkept_failures
            failures = list(group.failures)
        if more:
            failures.append(SendUnknown(f"{more} more messages to {self.target.name!r} failed"))
        if missing:
            failures.append(SendUnknown(f"{missing} messages to {self.target.name!r} have no outcome yet"))
        return failures

    def stop(self, reason: str) -> bool:
        """Refuse new messages from now on; false if that was done before."""
        with self.lock:
            if self.closed:
                return False
            self.closed = reason
            self.admits_freely = False
        self.room.wake_all()
        return True

    # Coming up: this is the `OutcomeSink` of the sender.

    def stored(self, entries: Sequence[Outgoing]) -> None:
        """See `unimq.adapter.OutcomeSink.stored`."""
        self._finish(entries, None)

    def failed(self, entries: Sequence[Outgoing], error: UnimqError) -> None:
        """See `unimq.adapter.OutcomeSink.failed`."""
        self._finish(entries, error)

    def _finish(self, entries: Sequence[Outgoing], error: UnimqError | None) -> None:
        if self.is_immediate:
            # The submitting thread itself: nobody waits, nothing was admitted.
            for entry in entries:
                entry.error = error
                entry.done = True
            if self.on_published:
                self._call_published(entries)
            if any(entry.group is not None for entry in entries):
                self._finish_pipelined(entries, error)
            return
        if self.on_published:
            entries = [entry for entry in entries if not entry.done]
        wakes: list[Wake] = []
        told: list[Outgoing] = []
        finished: list[PipelinedGroup] = []
        counts_here = error is None and not self.on_published
        try:
            with self.lock:
                for entry in entries:
                    if entry.done:
                        continue
                    # Calls come first. In each of them a signal's handler may raise, if a waiting caller brings the
                    # outcomes; then this one is brought again.
                    group = entry.group
                    if entry.wake is not None:
                        wakes.append(entry.wake)
                    is_counted = group is not None and counts_here and entry.on_outcome is None
                    if group is not None:
                        if not is_counted:
                            told.append(entry)
                        elif group.remaining == 1:
                            finished.append(group)
                    # No call from here on.
                    entry.error = error
                    entry.wake = None
                    entry.done = True
                    self.outstanding -= 1
                    self.outstanding_bytes -= entry.size
                    if is_counted and group is not None:
                        group.remaining -= 1
        finally:
            self._tell(entries, wakes, finished, [entry for entry in told if entry.done])

    def _tell(
        self,
        entries: Sequence[Outgoing],
        wakes: Sequence[Wake],
        finished: Sequence[PipelinedGroup],
        told: Sequence[Outgoing],
    ) -> None:
        """Wake and call back whoever wants to know that these are done."""
        if self.room.wakes:
            self.room.wake_all()
        if self.on_published:
            self._call_published([entry for entry in entries if entry.done])
        for wake in wakes:
            wake()
        for group in finished:
            group.finished.wake_all()
        if told:
            self._finish_pipelined(told, told[0].error)

    def _call_published(self, entries: Sequence[Outgoing]) -> None:
        for entry in entries:
            call_hooks(self.seldom, self.on_published, entry.message, self.target.name, entry.outcome)

    def _finish_pipelined(self, entries: Sequence[Outgoing], error: UnimqError | None) -> None:
        """Tell the callbacks first, so that a flush returns after the last of them (S6)."""
        for entry in entries:
            if entry.on_outcome is not None:
                self._call(entry, entry.on_outcome)
        finished: list[PipelinedGroup] = []
        with self.lock:
            for entry in entries:
                group = entry.group
                if group is None:
                    continue
                if error is not None and entry.on_outcome is None:
                    self._keep_failure(group, entry, error)
                group.remaining -= 1
                if group.remaining == 0:
                    finished.append(group)
        for group in finished:
            group.finished.wake_all()

    def _call(self, entry: Outgoing, on_outcome: OnOutcome) -> None:
        try:
            on_outcome(entry.outcome)
        except Exception as error:  # noqa: BLE001 - a fault of the user's callback must not end the driver's thread
            self.seldom.say(
                "callback-failed",
                "the outcome callback of message %s raised",
                entry.message.id,
                level=logging.ERROR,
                error=error,
                target=self.target.name,
                message_id=entry.message.id,
            )

    @staticmethod
    def _keep_failure(group: PipelinedGroup, entry: Outgoing, error: UnimqError) -> None:
        if len(group.failures) < _KEPT_FAILURES:
            group.failures.append(name_message(error, entry.message.id))
        else:
            group.unkept_failures += 1


def name_message(error: UnimqError, message_id: str) -> UnimqError:
    """Return the error for one message of a batch: a copy that names it, as one object may stand for many messages."""
    named = copy.copy(error)
    named.__cause__ = error.__cause__
    if isinstance(named, SendRejected | SendUnknown):
        named.message_id = message_id
    return named


def combined(outcomes: Sequence[Outcome], what: str) -> SendRejected | SendUnknown:
    """Return one error for several outcomes: `SendUnknown` if any message may be stored (S3, S6)."""
    errors = [outcome for outcome in outcomes if isinstance(outcome, UnimqError)]
    certain = all(isinstance(error, SendRejected) or not error.retryable for error in errors)
    kind = SendRejected if certain else SendUnknown
    text = f"{len(errors)} of {what} failed; the first: {type(errors[0]).__name__}: {errors[0]}"
    combination = kind(text, outcomes=outcomes)
    combination.__cause__ = errors[0]
    return combination


def raise_failures(failures: Sequence[UnimqError]) -> None:
    """Raise what nobody was told of enqueued messages, as one error; nothing if there is nothing (S6)."""
    if failures:
        raise combined(failures, "the enqueued messages")


class ManySends:
    """One `send_many`: every message gets an entry, the good ones go out in parts that fit the window (S3)."""

    def __init__(self, core: ProducerCore, messages: Iterable[Any], deadline: float) -> None:
        self.core = core
        self.entries: list[Outgoing] = []
        self.all_good = True
        only_bytes_matter = core.queue_ttl is None and core.codec is None and not core.on_publish
        for message in messages:
            try:
                if type(message) is bytes and only_bytes_matter:
                    # What `entry` comes to for bare bytes, without its call.
                    entry = Outgoing(prepare(message), deadline, len(message))
                elif core.codec is None or isinstance(message, Message):
                    entry = core.entry(prepare(message), deadline)
                else:
                    body, headers, content_type = encode(core.codec, message, None, None)
                    entry = core.entry(compose(body, headers=headers, content_type=content_type), deadline)
            except UnimqError as error:
                self.all_good = False
                given = message.id if isinstance(message, Message) else ""
                entry = Outgoing(Message(b"", id=given), deadline, 0, error=error, done=True)
            self.entries.append(entry)

    def parts(self) -> Iterator[tuple[list[Outgoing], int]]:
        """Yield parts with their size in bytes, none of which exceeds the window if that can be avoided."""
        most = min(self.core.window, _LARGEST_PART)
        most_bytes = self.core.window_bytes
        if (
            self.all_good
            and len(self.entries) <= most
            and (total := sum([entry.size for entry in self.entries])) <= most_bytes
        ):
            if self.entries:
                yield self.entries, total
            return
        part: list[Outgoing] = []
        size = 0
        for entry in self.entries:
            if entry.done:
                continue
            if part and (len(part) == most or size + entry.size > most_bytes):
                yield part, size
                part, size = [], 0
            part.append(entry)
            size += entry.size
        if part:
            yield part, size

    def finish(self, *, return_errors: bool) -> list[Receipt | UnimqError]:
        """Return one outcome per message, in order; raise if there are errors and they are not to be returned."""
        if all(entry.done and entry.error is None for entry in self.entries):
            return [Receipt(entry.message.id, entry.position) for entry in self.entries]
        outcomes: list[Receipt | UnimqError] = []
        for entry in self.entries:
            if entry.done and entry.error is None:
                outcomes.append(Receipt(entry.message.id, entry.position))
            else:
                error = entry.error or self.core.overdue(entry)
                outcomes.append(name_message(error, entry.message.id))
        if not return_errors:
            raise combined(outcomes, f"{len(outcomes)} messages")
        return outcomes
