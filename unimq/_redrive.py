"""Redrive: dead letters go back to their source, each confirmed there before it leaves the dead-letter queue (D2).

One implementation for both fronts; it blocks, and the asyncio front runs it in a worker thread. What it passes over
stays held until the end, because a message that is given back comes again at once, and the pass would never end.
"""

import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from unimq._dead_letters import PROVENANCE, REASON, REDRIVE_ID, REDRIVES, SOURCE
from unimq._delivery import Delivery
from unimq._destinations import Seconds, Source, Subscription, count, queue_of, seconds
from unimq._errors import ConfigError, InvalidMessage, LeaseLost, MessageTooLarge, UnimqError
from unimq._events import say
from unimq._message import Message
from unimq._receiving import confirm
from unimq._sending import GRACE, OutcomeWaiters
from unimq._waiting import block_until, deadline_after

if TYPE_CHECKING:
    from unimq._broker import BrokerCore
    from unimq._outgoing import Outgoing
    from unimq._receiving import ConsumerCore
    from unimq._sending import ProducerCore


WINDOW = 200
"""Dead letters whose removal is not proven yet, at most: so many may be there twice after a crash."""
MOST_HELD = 10_000
MOST_HELD_BYTES = 64 * 1024 * 1024
"""Dead letters that one run passes over and holds until its end, and their bytes (L5)."""
MOST_REASONS = 100
OTHER_REASONS = "(other reasons)"
"""Reasons that are counted apart, and where the others are counted."""
_LOOK_AGAIN = 1.0
"""Seconds without a dead letter after which the broker is asked if any wait."""
_FETCHED_AHEAD = 10.0
"""Seconds that what a slow redrive has fetched may wait for its turn."""
_BURST = 0.25
"""Seconds of the rate that go out together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redriven:
    """What `Broker.redrive` did, or with ``dry_run`` what it would do (D2)."""

    source: str
    """Name of the queue, or of the queue of the subscription."""
    moved: int = 0
    """Returned to the source and gone from the dead letters."""
    skipped: int = 0
    """Passed over: another reason, another source, or dead again since this redrive moved it."""
    failed: int = 0
    """Could not be sent to the source; they are still dead letters."""
    remaining: int = 0
    """Dead letters that were there and are left, skipped and failed ones included; what the backend only estimates is
    as exact as its `Stats`."""
    reasons: Mapping[str, int] = field(default_factory=dict[str, int])
    """How many of those that were looked at have which reason; ``""`` is no reason, written by another program."""
    complete: bool = False
    """Every dead letter was looked at; false after `limit`, or where something else ended it."""
    dry_run: bool = False
    error: UnimqError | None = None
    """Why the first of the failed ones failed."""


class Redrive:
    """One run. `run` belongs to one thread; `stop` may be called from any other."""

    def __init__(
        self,
        broker: "BrokerCore",
        source: str | Source,
        *,
        limit: int | None,
        reason: str | None,
        rate: float | None,
        dry_run: bool,
        timeout: Seconds,
        on_progress: Callable[[Redriven], None] | None = None,
    ) -> None:
        """Check everything that can be checked without the broker.

        Raises:
            ConfigError: an argument is wrong, or the source has no dead-letter queue.
            Unsupported: a subscription, where the backend cannot send to one alone.

        """
        broker.check_open()
        self.broker = broker
        self.source = broker.named_source(source)
        self.queue = queue_of(self.source)
        self.limit = None if limit is None else count(limit, "limit")
        if reason is not None and not isinstance(reason, str):
            raise ConfigError(f"the reason must be str or None, not {type(reason).__name__}")
        self.reason = reason
        self.rate = None if rate is None else _check_rate(rate)
        self.dry_run = dry_run
        self.timeout: float = seconds(timeout, "timeout")
        self.on_progress = on_progress
        dead_letters = self.queue.dead_letters
        if dead_letters is None:
            owner = self.queue.name.removesuffix("-dead")
            hint = f"; its dead letters are those of {owner!r}" if owner != self.queue.name else ""
            raise ConfigError(f"{self.queue.name!r} has no dead-letter queue, so there is nothing to redrive{hint}")
        self.dead_letters = dead_letters
        if isinstance(self.source, Subscription):
            broker.capabilities.require("redrive_subscription")
        self.id = os.urandom(8).hex()
        self.stopping = False
        self.consumer: ConsumerCore
        self.producer: ProducerCore
        """Of a run that is not dry."""
        self.under_way: list[tuple[Delivery, Outgoing]] = []
        """Copies that are sent and have not been looked after: not even an interrupt may forget them."""
        self.unproven = 0
        """Dead letters that were acked since the last barrier."""
        self.moved = self.skipped = self.failed = self.held_bytes = 0
        self.reasons: Counter[str] = Counter()
        self.error: UnimqError | None = None
        self.complete = False
        self.waiting: int | None = None
        """Dead letters at the beginning."""
        self.is_exact = False
        """They are all of them. RabbitMQ does not count what a consumer holds, or held until a moment ago."""
        self.due = 0.0
        """`time.monotonic` of the next send under a rate."""

    def run(self) -> Redriven:
        """Redrive until all was looked at, or the limit, the timeout or `stop` ends it; blocks.

        Raises:
            NotFound: source or dead-letter queue do not exist; nothing was changed.
            ConnectionLost, AuthError, Closed: the dead letters cannot be read any more. Those not moved yet are left.

        """
        self._look()
        if self.is_exact and not self.waiting:
            self.complete = True
            return self.result()
        self._open()
        try:
            self._work()
        except UnimqError as error:
            error.add_note(f"{self.moved} dead letters of {self.queue.name!r} were moved before")
            raise
        finally:
            self._close()
        return self.result()

    def stop(self) -> None:
        """Have `run` end after the messages that are under way."""
        self.stopping = True
        if hasattr(self, "consumer"):
            self.consumer.arrived.wake_all()

    def result(self) -> Redriven:
        """Return the figures as they are now."""
        left = self.skipped + self.failed + (self.moved if self.dry_run else 0)
        if not self.complete and self.waiting is not None:
            left = max(left, self.waiting - (0 if self.dry_run else self.moved))
        return Redriven(
            source=self.queue.name,
            moved=self.moved,
            skipped=self.skipped,
            failed=self.failed,
            remaining=left,
            reasons=dict(self.reasons),
            complete=self.complete,
            dry_run=self.dry_run,
            error=self.error,
        )

    # Before and after.

    def _look(self) -> None:
        """Find both ends, so that nothing moves if one is missing, and count what is there."""
        broker = self.broker
        for queue in (self.source, self.dead_letters):
            broker.driver.check(queue, timeout=broker.timeout)
        if broker.capabilities.stats:
            stats = broker.driver.stats(self.dead_letters, timeout=broker.timeout)
            if stats.ready is not None:
                # What others hold, perhaps a redrive that was killed, belongs to this pass if it comes back in time.
                self.waiting = stats.ready + (stats.in_flight or 0) + (stats.delayed or 0)
                self.is_exact = stats.exact and stats.in_flight is not None

    def _open(self) -> None:
        fetched = WINDOW if self.rate is None else max(1, min(WINDOW, math.ceil(self.rate * _FETCHED_AHEAD)))
        if self.limit is not None:
            fetched = min(fetched, self.limit)
        passes_over = self.reason is not None or self.dry_run
        self.most_held: int = MOST_HELD if passes_over else WINDOW
        if not self.dry_run:
            self.producer = producer = self.broker.attach_producer(self.queue)
            with self.broker.lock:
                self.broker.producers.add(producer)
        try:
            self.consumer = self.broker.attach_consumer(self.dead_letters, prefetch=fetched + self.most_held)
        except BaseException:
            self._close_producer()
            raise

    def _close(self) -> None:
        """Give back what is held, after what was moved is settled."""
        try:
            if self.under_way:
                self._finish()
            if self.unproven and not self.consumer.closed:
                self._prove()
        except UnimqError as error:
            # Not to hide what ended the run, an interrupt perhaps.
            self._say_unproven(self.unproven + len(self.under_way), error)
        finally:
            # Confirms what was acked, too, which is all that is left to do after an error.
            self.broker.close_consumer(self.consumer, self.broker.timeout)
            self._close_producer()

    def _close_producer(self) -> None:
        if not self.dry_run:
            self.producer.stop("the redrive has ended")
            self.broker.close_producer(self.producer, self.broker.timeout)

    # The pass.

    def _work(self) -> None:
        while not self.stopping:
            if self.unproven == WINDOW:
                self._prove()
            room = WINDOW - self.unproven
            if self.rate is not None and not self.dry_run:
                room = min(room, max(1, int(self.rate * _BURST)))
                self._wait_for_turn()
            if self.limit is not None:
                room = min(room, self.limit - self.moved)
            if room == 0 or self._holds_too_much():
                return
            received = self._receive(room)
            if not received:
                return
            chosen = [delivery for delivery in received if self._choose(delivery)]
            if self.dry_run:
                self.moved += len(chosen)
                self.held_bytes += sum(len(delivery.body) for delivery in chosen)
            elif chosen:
                self._move(chosen)
            if self.on_progress is not None:
                self.on_progress(self.result())

    def _holds_too_much(self) -> bool:
        held = self.skipped + self.failed + (self.moved if self.dry_run else 0)
        return held >= self.most_held or self.held_bytes >= MOST_HELD_BYTES

    def _wait_for_turn(self) -> None:
        """Wait for the next token; woken by `stop` and by the end of the consumer, which the next receive reports."""

        def is_over() -> Literal[True] | None:
            return True if self.stopping or self.consumer.closed or self.consumer.error is not None else None

        block_until(self.consumer.arrived, is_over, self.due)

    def _receive(self, room: int) -> Sequence[Delivery]:
        """Return some dead letters, or none when the pass is over."""
        looked_at = self.moved + self.skipped + self.failed
        if self.is_exact and self.waiting is not None:
            # What came since does not belong to this pass: it may be what was just moved, dead again.
            room = min(room, self.waiting - looked_at)
            if room <= 0:
                self.complete = True
                return ()

        def attempt() -> Sequence[Delivery] | None:
            return () if self.stopping else self.consumer.take(room)

        # Behind one that is passed over, the others of its key do not come.
        patient = self.queue.ordering != "key" or not self.skipped
        deadline = deadline_after(self.timeout if patient else _LOOK_AGAIN)
        while True:
            found = block_until(self.consumer.arrived, attempt, min(deadline, time.monotonic() + _LOOK_AGAIN))
            if found is not None:
                return found
            if self._nothing_waits():
                # What arrived since the look above counts as held, like what was passed over.
                if found := attempt():
                    return found
                self.complete = not self.stopping
                return ()
            if time.monotonic() >= deadline:
                return ()

    def _nothing_waits(self) -> bool:
        if not self.broker.capabilities.stats:
            return False
        if self.unproven:
            self._prove()
        stats = self.broker.driver.stats(self.dead_letters, timeout=self.broker.timeout)
        if stats.ready is None:
            return False
        held = len(self.consumer.held)
        if stats.in_flight is not None:
            return stats.ready + (stats.delayed or 0) + max(0, stats.in_flight - held) <= 0
        # Where commits are counted, as on Kafka, what is held here is among what waits.
        return stats.ready - (0 if stats.exact else held) <= 0

    def _choose(self, delivery: Delivery) -> bool:
        headers = delivery.headers
        reason = _text(headers.get(REASON, ""))
        known = reason in self.reasons or len(self.reasons) < MOST_REASONS
        self.reasons[reason if known else OTHER_REASONS] += 1
        is_ours = _text(headers.get(SOURCE, self.queue.name)) == self.queue.name
        is_new = headers.get(REDRIVE_ID) != self.id
        if is_ours and is_new and (self.reason is None or reason == self.reason):
            return True
        self.skipped += 1
        self.held_bytes += len(delivery.body)
        return False

    # Moving.

    def _move(self, chosen: Sequence[Delivery]) -> None:
        producer = self.producer
        began = time.monotonic()
        deadline = began + producer.timeout
        entries = [producer.entry(self._copy(delivery), deadline) for delivery in chosen]
        if not producer.admits_freely:
            producer.admit(len(entries), sum(entry.size for entry in entries))
        self.under_way = list(zip(chosen, entries, strict=True))
        producer.sender.submit(entries)
        producer.sender.flush()
        self._finish()
        if self.rate is not None:
            self.due = max(self.due, began) + len(chosen) / self.rate

    def _copy(self, delivery: Delivery) -> Message:
        """Return the message as its producer sent it, but for the count: sent now, and without a ttl of its own."""
        message = delivery.message
        before = _text(message.headers.get(REDRIVES, "0"))
        headers: dict[str, str | bytes] = {
            **{name: value for name, value in message.headers.items() if name not in PROVENANCE},
            REDRIVES: str(int(before) + 1 if before.isdecimal() else 1),
            REDRIVE_ID: self.id,
        }
        return Message(
            message.body,
            message.key,
            headers,
            message.id,
            message.content_type,
            message.correlation_id,
            message.reply_to,
            sent_at=time.time(),
        )

    def _finish(self) -> None:
        """Wait for the copies under way; ack the dead letters whose copies are confirmed."""
        producer = self.producer
        for _, entry in self.under_way:
            if not entry.done:
                block_until(OutcomeWaiters(producer, entry), entry.is_done, entry.deadline + GRACE)
        moved: list[Delivery] = []
        for delivery, entry in self.under_way:
            if entry.done and entry.error is None:
                moved.append(delivery)
            else:
                self._fail(delivery, entry.error or producer.overdue(entry))
        self.under_way = []
        self.moved += len(moved)
        self.unproven += len(moved)
        try:
            self.consumer.ack_all(moved)
        except LeaseLost as lost:
            self._say_unproven(1, lost)

    def _fail(self, delivery: Delivery, error: UnimqError) -> None:
        self.failed += 1
        self.held_bytes += len(delivery.body)
        if self.error is None:
            self.error = error
            say(
                "redrive-failed",
                "dead letter %s was not sent back to %r: %s",
                delivery.id,
                self.queue.name,
                error,
                level=logging.ERROR,
                source=self.queue.name,
                message_id=delivery.id,
            )
        if not isinstance(error, InvalidMessage | MessageTooLarge):
            # The fault is not that of one message: the others would fail as well.
            self.stopping = True

    def _prove(self) -> None:
        """Wait until the broker has confirmed every ack, so that a crash brings back no more than one window (A1)."""
        barrier = confirm(self.consumer, deadline_after(self.broker.timeout))
        self.unproven = 0
        if barrier.errors:
            self._say_unproven(len(barrier.errors), barrier.errors[0])

    def _say_unproven(self, number: int, error: UnimqError) -> None:
        self.consumer.seldom.say(
            "redriven-twice",
            "%d dead letters of %r were moved and may be seen again: %s",
            number,
            self.queue.name,
            error,
            source=self.queue.name,
        )


def _check_rate(rate: object) -> float:
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
        raise ConfigError(f"the rate must be a number of messages per second above 0, not {rate!r}")
    return float(rate)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")
