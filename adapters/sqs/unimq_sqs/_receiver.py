"""Receiving from one queue: long polls, leases kept by our own clock, settlements in batches."""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from unimq import ConnectionLost, LeaseLost, UnimqError, Unsupported
from unimq.adapter import Delivery, DeliverySink, SeldomLog
from unimq_sqs._batching import LARGEST_BATCH, Batcher, pause_before, run_batch
from unimq_sqs._errors import NATIVE_ERRORS, translate
from unimq_sqs._held import Ack, Change, Held, Place
from unimq_sqs._lanes import Lanes
from unimq_sqs._options import LONGEST_VISIBILITY
from unimq_sqs._pacing import Idleness, Pace
from unimq_sqs._settlements import Settlements
from unimq_sqs._wire import ATTRIBUTE, Received, arrived_whole, decode, early_by, sent_on

if TYPE_CHECKING:
    from unimq_sqs._calls import QueueCalls

ACK_LINGER = 0.1
"""Seconds that an ack waits for others; a tenth of the requests at 100 acks a second (`settle` does not wait)."""
FIFO_ACK_LINGER = 0.01
"""The same in a FIFO queue while another delete is under way, else none: SQS gives no more of the group before it."""
CHANGE_LINGER = 0.01
ROOM_PATIENCE = 0.05
"""Seconds that a poll waits for room for more than a few messages; afterwards it asks for those few."""
MOST_UNCONFIRMED = 2_000
"""Unconfirmed settlements beyond which nothing more is fetched (L5)."""
MOST_PARKED = 1_000
"""Nacked messages that wait here for their delay, each with up to nine behind it; further ones go back to SQS (L5)."""
LONGEST_KEPT = LONGEST_VISIBILITY - 60
"""Seconds for which a message that was just received can be hidden; the request takes its time, too."""
CLOSE_RESERVE = 1.0
"""Seconds of the time for closing that are kept for giving messages back, when a long poll does not end in time."""

log = logging.getLogger("unimq.sqs")


@dataclass(frozen=True, slots=True)
class ReceiverSettings:
    """How one consumer receives."""

    queue: str
    url: str
    prefetch: int
    lease: int
    """Seconds, from the arrival of a message or the last renewal."""
    keep: bool
    """The lease is renewed while the message is held; not so where the user declared when it ends (A5, A10)."""
    wait: int
    pollers: int
    is_fifo: bool = False
    """SQS keeps an order within message groups (O1)."""
    idle_wait: int = 0
    """Of a long poll once nothing has come for a minute, if it is more than `wait`."""
    window: float = 0.0
    """Seconds for which messages that trickle in collect; see `unimq_sqs._pacing.Pace`."""


class Poll(NamedTuple):
    """One request for messages, or its repetition."""

    started: float
    """`time.monotonic` before it was sent."""
    wait: int
    hidden: int
    """Seconds for which SQS hides what it brings."""
    attempt_id: str
    """FIFO: by which SQS recognises its repetition."""


class SQSReceiver:
    """See `unimq.adapter.Receiver`. One lock guards all that changes, `held` first of all; two conditions share it.

    Threads: pollers (one when idle), the keeper of leases, and the request threads of the two batchers. Requests are
    made without the lock.
    """

    def __init__(
        self,
        client: "QueueCalls",
        polls: "QueueCalls",
        settings: ReceiverSettings,
        sink: DeliverySink,
        recovered: Callable[[], None],
    ) -> None:
        self._recovered = recovered
        """Called when messages can be received again after an outage; must not block."""
        self._is_out = False
        self._seldom = SeldomLog()
        self._client = client
        self._polls = polls
        self._settings = settings
        self._sink = sink
        lock = threading.RLock()
        self._room = threading.Condition(lock)
        """Pollers wait here for room, for the end of a pause, and between attempts."""
        self._clock = threading.Condition(lock)
        """The keeper waits here for the next end of a lease."""
        self._recovery = threading.Condition(lock)
        """Pollers wait here between attempts: apart from the others, for whom a place is free."""
        self._next_look = inf
        self._idleness = Idleness(time.monotonic())
        self._held: set[Held] = set()
        self._lanes = Lanes()
        self._reserved = 0
        """Messages that running polls may bring."""
        self._unwanted: list[tuple[Received, Poll]] = []
        """Messages, with their poll, that came while paused or closing."""
        self._running_pollers = 0
        self._pollers: list[threading.Thread] = []
        self._paused = False
        self._closing = False
        self._ended = False
        self._settlements = Settlements()
        self._acks: Batcher[Ack] = Batcher(
            "ack",
            lambda batch: run_batch(_Deleting(self), batch, self._acks.stopping),
            self._acks_crashed,
            threads=settings.pollers,
            linger=FIFO_ACK_LINGER if settings.is_fifo else ACK_LINGER,
            eager=settings.is_fifo,
        )
        self._changes: Batcher[Change] = Batcher(
            "visibility",
            lambda batch: run_batch(_Changing(self), batch, self._changes.stopping),
            self._changes_crashed,
            # One after the other, so that a lane goes back from its end also where it does not fit into one request.
            threads=1 if settings.is_fifo else 2,
            linger=CHANGE_LINGER,
            eager=True,
        )
        self._keeper = threading.Thread(target=self._guarded, args=(self._keep,), name="unimq-sqs-leases", daemon=True)
        self._keeper.start()
        with lock:
            self._add_poller()

    @property
    def where(self) -> str:
        """The queue, for errors."""
        return f"queue {self._settings.queue!r}"

    # Fetching.

    def _add_poller(self) -> None:
        self._running_pollers += 1
        self._pollers = [thread for thread in self._pollers if thread.is_alive()]
        thread = threading.Thread(target=self._guarded, args=(self._poll,), name="unimq-sqs-poll", daemon=True)
        self._pollers.append(thread)
        thread.start()

    def _guarded(self, run: Callable[[], None]) -> None:
        """Run a thread; whatever ends it unexpectedly ends the consumer with a typed error, never in silence."""
        try:
            run()
        except Exception as error:
            log.exception("unexpected failure in a thread of unimq")
            failure = ConnectionLost(f"receiving from {self.where}: unexpected {type(error).__name__}: {error}")
            failure.__cause__ = error
            self._fail(failure)

    def _fail(self, error: UnimqError) -> None:
        with self._room:
            if self._closing:
                return
            self._stop_polling()
            self._sink.failed(error)

    def _poll(self) -> None:
        failures = 0
        poll: Poll | None = None
        # In a FIFO queue the rest of a group would wait, too, and where a reply is asked for somebody waits.
        pace = Pace(0.0 if self._settings.is_fifo else self._settings.window)
        while True:
            with self._room:
                asked = self._wait_for_room()
                if not asked:
                    self._running_pollers -= 1
                    return
                self._reserved += asked
                now = time.monotonic()
                is_repeated = failures and self._settings.is_fifo and poll is not None
                if poll is None or not is_repeated or now > poll.started + self._settings.lease / 2:
                    # Else this repeats a request whose answer was lost, and counts from then: what that had, it gets
                    # again.
                    poll = self._new_poll(now)
            try:
                messages = self._without_early(self._receive(asked, poll))
                failures = 0
                self._note_recovery()
            except NATIVE_ERRORS as error:
                failures += 1
                problem = translate(error, f"receiving from {self.where}")
                if not isinstance(problem, ConnectionLost):
                    self._fail(problem)
                messages = None
                self._note_outage(str(problem))
            with self._room:
                self._reserved -= asked
                if self._closing or self._paused:
                    self._unwanted += [(message, poll) for message in messages or ()]
                    surplus = self._take_unwanted()
                elif messages is None:
                    # Alone it goes on for ever: an outage of the service ends, and leases are a matter of time (L3).
                    self._recovery.wait(pause_before(failures))
                    continue
                else:
                    self._take_in([(message, poll) for message in messages])
                    if messages:
                        self._idleness.note(time.monotonic())
                    if not messages and self._running_pollers > 1:
                        self._running_pollers -= 1
                        return
                    if len(messages) == asked and self._free() > 0 and self._running_pollers < self._settings.pollers:
                        self._add_poller()
                    pause = pace.pause_after(len(messages), asked)
                    if pause and not any(map(_wants_reply, messages)):
                        self._recovery.wait(pause)
                    continue
            self._give_back(surplus)

    def _note_outage(self, problem: str) -> None:
        """Tell once that nothing is received, however many pollers find that out, however often.

        The text only: a log that is kept would keep the error, its traceback and so the socket (L4).
        """
        with self._room:
            level = logging.DEBUG if self._is_out else logging.WARNING
            self._is_out = True
        log.log(level, "%s; trying again", problem)

    def _note_recovery(self) -> None:
        if not self._is_out:
            return
        with self._room:
            is_over, self._is_out = self._is_out, False
        if is_over:
            log.info("receiving from %s again", self.where)
            self._recovered()

    def _take_unwanted(self) -> list[Received]:
        """Return what came while nobody wanted it, once no poll is under way that would receive it again."""
        if self._reserved:
            return []
        surplus, self._unwanted = [message for message, _ in self._unwanted], []
        return surplus

    def _stop_polling(self) -> None:
        self._closing = True
        self._room.notify_all()
        self._recovery.notify_all()

    def _free(self) -> int:
        return self._settings.prefetch - (len(self._held) - self._lanes.waiting) - self._reserved

    def _wait_for_room(self) -> int:
        """Return how many messages to ask for (R3); 0 ends the poller."""
        enough = min(LARGEST_BATCH, max(1, self._settings.prefetch // 2))
        give_up_waiting = inf
        while not self._closing:
            free = self._free()
            if self._paused or free <= 0 or self._settlements.unconfirmed >= MOST_UNCONFIRMED:
                give_up_waiting = inf
                self._room.wait()
                continue
            now = time.monotonic()
            if free >= enough or now >= give_up_waiting:
                return min(LARGEST_BATCH, free)
            give_up_waiting = min(give_up_waiting, now + ROOM_PATIENCE)
            self._room.wait(give_up_waiting - now)
        return 0

    def _new_poll(self, now: float) -> "Poll":
        settings = self._settings
        wait = max(settings.wait, settings.idle_wait) if self._idleness.is_idle(now) else settings.wait
        # SQS counts from the moment at which it hands a message out, anywhere within a long poll. The whole poll is
        # added, so that the lease can begin at arrival; what is left at its end, the keeper gives back.
        hidden = min(LONGEST_VISIBILITY, settings.lease + wait)
        return Poll(now, wait, hidden, os.urandom(16).hex() if settings.is_fifo else "")

    def _receive(self, count: int, poll: "Poll") -> Sequence[Received]:
        settings = self._settings
        repeatable: Any = {"ReceiveRequestAttemptId": poll.attempt_id} if settings.is_fifo else {}
        response: Received = self._polls.receive_message(
            QueueUrl=settings.url,
            MaxNumberOfMessages=count,
            WaitTimeSeconds=poll.wait,
            VisibilityTimeout=poll.hidden,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp", "MessageGroupId"],
            **repeatable,
        )
        messages: Sequence[Received] = response.get("Messages") or ()
        return messages if all(map(arrived_whole, messages)) else self._without_broken(messages)

    def _without_broken(self, messages: Sequence[Received]) -> Sequence[Received]:
        """Leave out what did not arrive as it was sent, and what follows it in its group (O1): it returns later."""
        found: list[Received] = []
        groups: set[str] = set()
        for message in messages:
            system: Received = message.get("Attributes") or {}
            group = system.get("MessageGroupId", "") if self._settings.is_fifo else ""
            if arrived_whole(message) and group not in groups:
                found.append(message)
                continue
            if group:
                groups.add(group)
            self._seldom.say(
                "checksum-differs",
                "message %s of %s, or one before it, arrived with another checksum; it returns when its lease ends",
                message.get("MessageId"),
                self.where,
                source=self._settings.queue,
            )
        return found

    def _without_early(self, messages: Sequence[Received]) -> Sequence[Received]:
        """Send on what is delayed for longer than SQS can at once, and return the others (T2)."""
        early = {message["MessageId"]: message for message in messages if early_by(message)}
        if not early or self._closing:
            # Given back, then, with all others.
            return messages
        try:
            sent = self._send_on(list(early.values()))
        except NATIVE_ERRORS as error:
            sent = set[str]()
            self._say_kept(len(early), error)
        kept = [message for name, message in early.items() if name not in sent]
        if kept:
            # It stays, hidden: each receive before its time would count as a delivery.
            self._make_visible_in([(message, ceil(early_by(message))) for message in kept])
        gone = [message for message in messages if message["MessageId"] in sent]
        if gone:
            try:
                self._client.delete_message_batch(
                    QueueUrl=self._settings.url,
                    Entries=[
                        {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                        for number, message in enumerate(gone)
                    ],
                )
            except NATIVE_ERRORS as error:
                # There are two of each now, as after a crash at this point (R1).
                self._say_kept(len(gone), error)
        return [message for message in messages if message["MessageId"] not in early]

    def _send_on(self, early: Sequence[Received]) -> set[str]:
        """Send copies with what is left of their delays; return the ids of the originals of those that are stored."""
        answer = self._client.send_message_batch(
            QueueUrl=self._settings.url,
            Entries=[
                {"Id": str(number), **sent_on(message, early_by(message))} for number, message in enumerate(early)
            ],
        )
        stored: Sequence[Received] = answer.get("Successful") or ()
        originals = [(result, early[int(result["Id"])]) for result in stored]
        return {
            original["MessageId"]
            for result, original in originals
            if result.get("MD5OfMessageBody") == original.get("MD5OfBody")
        }

    def _say_kept(self, count: int, error: Exception) -> None:
        self._seldom.say(
            "not-sent-on",
            "%d delayed messages of %s could not be sent on, and stay until they are due: %s",
            count,
            self.where,
            str(error),
            source=self._settings.queue,
        )

    def _take_in(self, messages: Sequence[tuple[Received, "Poll"]]) -> None:
        by_id: dict[str, Held] = {}
        for message, poll in messages:
            known = by_id.get(message["MessageId"])
            if known is not None:
                known.handles.append(message["ReceiptHandle"])
                continue
            system: Received = message.get("Attributes") or {}
            group = system.get("MessageGroupId", "") if self._settings.is_fifo else ""
            held = Held(message["ReceiptHandle"], poll.started, poll.started + poll.hidden, group)
            by_id[message["MessageId"]] = held
            attempt = int(system.get("ApproximateReceiveCount", 1))
            held.delivery = Delivery(decode(message), attempt, held, self._sink, message)
            self._lanes.admit(held)
        self._held.update(by_id.values())
        self._hand_over()
        for held in by_id.values():
            self._look_at(self._look_due(held))

    def _hand_over(self) -> None:
        """Deliver what is ready, as far as there is room (R3). Under the lock."""
        if not self._lanes.ready or self._paused or self._closing:
            return
        out = len(self._held) - self._lanes.waiting - self._lanes.ready
        found = self._lanes.take(self._settings.prefetch - out)
        if not found:
            return
        now = time.monotonic()
        lease = self._settings.lease
        for held in found:
            held.delivery.lease_until = min(now + lease, held.hidden_until)
            if self._settings.is_fifo and not self._settings.keep and held.hidden_until < now + lease:
                # It waited behind others: its lease begins now, and is a whole one.
                self._hide(held, lease, now)
            self._look_at(self._look_due(held))
        self._sink.deliver([held.delivery for held in found])

    def _give_back(self, messages: Sequence[Received]) -> None:
        """Make messages visible again that were not delivered; those of a group from its end."""
        if self._settings.is_fifo:
            messages = messages[::-1]
        self._make_visible_in([(message, 0) for message in messages])

    def _make_visible_in(self, messages: Sequence[tuple[Received, int]]) -> None:
        """Have each message come again after so many seconds, or after what its 12 hours leave."""
        for first in range(0, len(messages), LARGEST_BATCH):
            batch = messages[first : first + LARGEST_BATCH]
            try:
                self._client.change_message_visibility_batch(
                    QueueUrl=self._settings.url,
                    Entries=[
                        {
                            "Id": str(number),
                            "ReceiptHandle": message["ReceiptHandle"],
                            "VisibilityTimeout": min(seconds, LONGEST_KEPT),
                        }
                        for number, (message, seconds) in enumerate(batch)
                    ],
                )
            except NATIVE_ERRORS as error:
                log.warning("%d messages of %s return when their lease ends: %s", len(batch), self.where, str(error))

    # Leases.

    def _look_at(self, due: float) -> None:
        """Wake the keeper if it would sleep beyond `due`. Under the lock."""
        if due < self._next_look:
            self._next_look = due
            self._clock.notify()

    def _is_kept(self, held: Held) -> bool:
        """Tell whether its lease is renewed: a declared one ends for the user only, not for what waits here (A5)."""
        return self._settings.keep or held.place is not Place.OUT

    def _look_due(self, held: Held) -> float:
        return held.lease_until - (self._settings.lease / 2 if self._is_kept(held) else 0.0)

    def _hide(self, held: Held, seconds: float, now: float) -> None:
        """Hide a message for `seconds` from now, or for what its 12 hours leave, unless that is no gain."""
        seconds = min(ceil(seconds), int(held.received_at + LONGEST_VISIBILITY - now) - 1)
        if now + seconds > held.lease_until:
            self._change(Change(held, seconds))

    def _keep(self) -> None:
        """Renew leases at half their time, report those that ended, and end delays (A3, A5, A6, A10)."""
        together = self._settings.lease / 10
        with self._clock:
            while not self._ended:
                now = time.monotonic()
                over: list[Held] = []
                self._next_look = self._lanes.wake(now)
                self._hand_over()
                for held in self._held:
                    look = held.lease_until
                    if now >= look:
                        over.append(held)
                        continue
                    if not held.changing:
                        due = self._look_due(held)
                        if now < due - together or not self._is_kept(held):
                            look = due
                        else:
                            # In vain at the end of the 12 hours; then the lease ends.
                            self._hide(held, self._settings.lease, now)
                    self._next_look = min(self._next_look, look)
                self._lose(over, is_back=False)
                self._clock.wait(None if self._next_look == inf else max(0.0, self._next_look - time.monotonic()))

    def _lose(self, over: Sequence[Held], *, is_back: bool) -> None:
        """Report that these are not ours any more, and give them back unless they are, with all that waits behind them.

        Under the lock.
        """
        lost: list[Delivery] = []
        now = time.monotonic()
        for held in over:
            # Not so if it was behind another one of them.
            if held in self._held:
                if held.place is Place.OUT:
                    lost.append(held.delivery)
                # What is not hidden any more is back by itself.
                still_hidden = not is_back and held.hidden_until > now
                self._let_go(held, Change(held, 0, is_last=True) if still_hidden else None)
        if lost:
            self._sink.lost(lost)
        if over:
            self._hand_over()
            self._room.notify_all()

    def _let_go(self, held: Held, change: Change | None) -> None:
        """Hold a message no longer, and give back with it what waits behind it, from the end. Under the lock.

        The messages behind it count a receive; kept here they would block their group, or overtake (O1).
        """
        dropped = self._lanes.drop(held)
        self._held.difference_update(dropped)
        for each in dropped[:-1]:
            self._change(Change(each, 0 if change is None else change.seconds, is_last=True))
        if change is not None:
            self._change(change)

    def extend(self, delivery: Delivery, duration: float) -> None:
        """See `unimq.adapter.Receiver.extend`."""
        held = _held(delivery)
        seconds = self._visibility("extend", held, duration)
        with self._clock:
            if self._is_held(delivery):
                # A shorter one counts at once, a longer one when it is confirmed.
                delivery.lease_until = min(delivery.lease_until, time.monotonic() + seconds)
                self._look_at(self._look_due(held))
                self._change(Change(held, seconds))

    def _visibility(self, what: str, held: Held, duration: float) -> int:
        """Return whole seconds, rounded up, if SQS allows so many for this message."""
        seconds = ceil(duration)
        most = int(held.received_at + LONGEST_VISIBILITY - time.monotonic())
        if seconds > most:
            raise Unsupported(
                f"{what} by {duration:g} s on sqs",
                f"SQS hides a message for at most 12 hours after its receipt, of which {most} s are left; it returns"
                " when its lease ends",
                "a shorter time",
            )
        return seconds

    def _change(self, change: Change) -> None:
        """Change a visibility, after the change that is under way for the same message. Under the lock."""
        held = change.held
        if not held.changing:
            held.changing = True
            if not self._changes.add((change,)):
                self._changed(change, self._closed_error())
        elif held.next_change is None or not held.next_change.is_last:
            held.next_change = change

    def _changed(self, change: Change, error: UnimqError | None, lease_until: float = 0.0) -> None:
        """Take the outcome of a change, and begin the next one for the message."""
        held = change.held
        with self._clock:
            held.changing = False
            following, held.next_change = held.next_change, None
            # A renewal may come too late, for what was settled meanwhile.
            concerns = change.is_last or held in self._held
            if held in self._held and not change.is_last:
                if error is None:
                    held.delivery.lease_until = held.hidden_until = lease_until
                    self._look_at(self._look_due(held))
                elif isinstance(error, LeaseLost):
                    self._lose((held,), is_back=True)
            if following is not None:
                self._change(following)
        if change.generation is not None:
            self._settlements.finish(change.generation, error)
        elif error is not None and concerns:
            self._seldom.say("visibility-unchanged", "%s", error, source=self._settings.queue)

    def _closed_error(self) -> ConnectionLost:
        return ConnectionLost(f"the consumer of {self.where} was closed before the settlement was confirmed")

    # Settling.

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See `unimq.adapter.Receiver.ack`."""
        acks: list[Ack] = []
        now = time.monotonic()
        # A lease that ends soon does not wait for company.
        soon = now + max(5.0, self._settings.lease / 5)
        urgent = False
        for delivery in deliveries:
            held = self._finish(delivery)
            if held is not None:
                urgent = urgent or delivery.lease_until < soon
                generation = self._settlements.start(len(held.handles))
                acks += [Ack(held, handle, generation) for handle in held.handles]
        if acks:
            if not self._acks.add(acks):
                for ack in acks:
                    self._settlements.finish(ack.generation, self._closed_error())
            elif urgent:
                self._acks.hurry()

    def _is_held(self, delivery: Delivery) -> bool:
        held = _held(delivery)
        return held in self._held and held.delivery is delivery

    def _finish(self, delivery: Delivery) -> Held | None:
        """Stop holding a delivery in order to ack it; `None` if it was lost in the meantime."""
        held = _held(delivery)
        with self._room:
            if self._is_held(delivery):
                self._held.remove(held)
                self._lanes.finish(held)
                self._hand_over()
                self._room.notify()
                return held
        self._report_lost(held)
        return None

    def _report_lost(self, held: Held) -> None:
        self._settlements.finish(self._settlements.start(1), self.lost_error(held))

    def lost_error(self, held: Held) -> LeaseLost:
        """Return the error of a settlement that came too late."""
        return LeaseLost(
            f"the lease of message {held.delivery.id} from {self.where} ended before its settlement was confirmed; it"
            " will be or was delivered again"
        )

    def nack(self, delivery: Delivery, delay: float) -> None:
        """See `unimq.adapter.Receiver.nack`."""
        held = _held(delivery)
        with self._room:
            is_held = self._is_held(delivery)
            stays = is_held and self._nack(held, delay)
            self._hand_over()
            self._room.notify_all()
        if not is_held:
            self._report_lost(held)
        elif stays:
            # There is nothing that SQS could confirm.
            self._settlements.finish(self._settlements.start(1))

    def _nack(self, held: Held, delay: float) -> bool:
        """Repeat a message from here, or else give it back; tell whether it stays here. Under the lock."""
        try:
            seconds = self._visibility("nack", held, delay)
        except Unsupported:
            self._let_go(held, None)
            raise
        if self._lanes.has_followers(held) and (not delay or self._lanes.parked < MOST_PARKED):
            self._repeat(held, delay)
            return True
        self._let_go(held, Change(held, seconds, self._settlements.start(1), is_last=True))
        return False

    def _repeat(self, held: Held, delay: float) -> None:
        """Deliver a nacked message again from here, after `delay` seconds. Under the lock.

        SQS would give it to anybody while those behind it are held here; and each time that those were given back, too,
        it would count a delivery that nobody gets to see.
        """
        before = held.delivery
        held.delivery = Delivery(before.message, before.attempt + 1, held, self._sink, before.native)
        if not delay:
            self._lanes.offer(held)
            return
        now = time.monotonic()
        self._lanes.park(held, now + delay)
        self._look_at(now + delay)
        for each in self._lanes.lane_of(held):
            if each.hidden_until < now + delay:
                # Not before the delay, even if this consumer dies meanwhile.
                self._hide(each, delay + self._settings.lease, now)

    def barrier(self, done: Callable[[Sequence[UnimqError]], None]) -> None:
        """See `unimq.adapter.Receiver.barrier`."""
        self._settlements.barrier(done)
        self._acks.hurry()
        self._changes.hurry()

    def _acks_crashed(self, acks: list[Ack], cause: Exception) -> None:
        error = ConnectionLost(f"acknowledging to {self.where}: unexpected {type(cause).__name__}")
        error.__cause__ = cause
        for ack in acks:
            self._settlements.finish(ack.generation, error)

    def _changes_crashed(self, changes: list[Change], cause: Exception) -> None:
        error = ConnectionLost(f"changing visibilities of {self.where}: unexpected {type(cause).__name__}")
        error.__cause__ = cause
        for change in changes:
            self._changed(change, error)

    # Pausing and closing.

    def pause(self) -> None:
        """See `unimq.adapter.Receiver.pause`. What running polls still bring goes back when the last ends."""
        with self._room:
            self._paused = True

    def resume(self) -> None:
        """See `unimq.adapter.Receiver.resume`."""
        with self._room:
            self._paused = False
            if not self._closing:
                unwanted, self._unwanted = self._unwanted, []
                self._take_in(unwanted)
            self._room.notify_all()

    def close(self, timeout: float) -> None:
        """See `unimq.adapter.Receiver.close`.

        The running long polls end first: SQS would hand the next messages to an aborted one, where nobody sees them
        until their lease is over. Only then are held messages given back, or those polls would receive them.
        """
        deadline = time.monotonic() + timeout
        polls_until = deadline - min(CLOSE_RESERVE, timeout / 4)
        with self._room:
            if self._ended:
                return
            self._stop_polling()
        self._acks.hurry()
        for thread in self._pollers:
            thread.join(max(0.0, polls_until - time.monotonic()))
        self._end_settling(deadline - CLOSE_RESERVE / 2)
        with self._room:
            surplus, self._unwanted = [message for message, _ in self._unwanted], []
            self._ended = True
            self._clock.notify()
            for held in list(self._held):
                if held in self._held:
                    self._let_go(held, Change(held, 0, is_last=True))
        self._give_back(surplus)
        for ack in self._acks.close(max(0.0, deadline - time.monotonic())):
            self._settlements.finish(ack.generation, self._closed_error())
        for change in self._changes.close(max(0.0, deadline - time.monotonic())):
            self._changed(change, self._closed_error())
        self._keeper.join(max(0.0, deadline - time.monotonic()))
        self._seldom.finish()

    def _end_settling(self, until: float) -> None:
        """Have the portable layer refuse settlements from now on, and wait for those that it has just let through.

        Else one of them would find its message given back, and nobody would be told that it came to nothing.
        """
        with self._room:
            out = [held.delivery for held in self._held if held.place is Place.OUT]
        self._sink.lost(out)
        passing = [delivery for delivery in out if not delivery.lost]
        with self._room:
            while any(self._is_held(delivery) for delivery in passing):
                left = until - time.monotonic()
                if left <= 0:
                    return
                self._room.wait(left)


def _wants_reply(message: Received) -> bool:
    """Tell whether somebody waits, perhaps; the attribute is not parsed for it."""
    attributes: Received = message.get("MessageAttributes") or {}
    packed: Received = attributes.get(ATTRIBUTE) or {}
    return '"reply_to":"' in packed.get("StringValue", "")


def _held(delivery: Delivery) -> Held:
    return cast("Held", delivery.token)


class _Deleting:
    """`unimq_sqs._batching.BatchRequest` for acks; retried until the lease ends."""

    default_error: type[UnimqError] = LeaseLost

    def __init__(self, receiver: SQSReceiver) -> None:
        self.receiver = receiver
        self.doing = f"acknowledging to {receiver.where}"

    def call(self, entries: list[Any]) -> Mapping[str, Any]:
        return self.receiver._client.delete_message_batch(QueueUrl=self.receiver._settings.url, Entries=entries)

    def entry(self, item: Ack) -> Mapping[str, Any]:
        return {"ReceiptHandle": item.handle}

    def deadline(self, item: Ack) -> float:
        return item.held.hidden_until

    def succeeded(self, results: list[tuple[Ack, Mapping[str, Any]]], started: float) -> None:
        now = time.monotonic()
        for ack, _ in results:
            # With an old handle SQS says yes as well, and keeps the message.
            late = now >= ack.held.hidden_until
            self.receiver._settlements.finish(ack.generation, self.receiver.lost_error(ack.held) if late else None)

    def refused(self, items: list[Ack], error: UnimqError) -> None:
        for ack in items:
            self.receiver._settlements.finish(ack.generation, error)

    def expired(self, items: list[Ack], cause: UnimqError | None) -> None:
        for ack in items:
            error = self.receiver.lost_error(ack.held)
            error.__cause__ = cause
            self.receiver._settlements.finish(ack.generation, error)


class _Changing:
    """`unimq_sqs._batching.BatchRequest` for visibility; retried until the lease ends, when messages return anyway."""

    default_error: type[UnimqError] = LeaseLost

    def __init__(self, receiver: SQSReceiver) -> None:
        self.receiver = receiver
        self.doing = f"changing the visibility of messages of {receiver.where}"

    def call(self, entries: list[Any]) -> Mapping[str, Any]:
        return self.receiver._client.change_message_visibility_batch(
            QueueUrl=self.receiver._settings.url, Entries=entries
        )

    def entry(self, item: Change) -> Mapping[str, Any]:
        return {"ReceiptHandle": item.held.handles[-1], "VisibilityTimeout": item.seconds}

    def deadline(self, item: Change) -> float:
        return item.held.hidden_until

    def succeeded(self, results: list[tuple[Change, Mapping[str, Any]]], started: float) -> None:
        for change, _ in results:
            self.receiver._changed(change, None, started + change.seconds)

    def refused(self, items: list[Change], error: UnimqError) -> None:
        for change in items:
            self.receiver._changed(change, error)

    def expired(self, items: list[Change], cause: UnimqError | None) -> None:
        for change in items:
            error = self.receiver.lost_error(change.held)
            error.__cause__ = cause
            self.receiver._changed(change, error)
