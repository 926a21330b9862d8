"""Sending on one channel with publisher confirms; every message is accounted for until the broker has answered."""

import logging
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from functools import partial
from typing import Any

from pika import exceptions
from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from unimq import (
    AuthError,
    Closed,
    ConnectionLost,
    NotFound,
    Queue,
    QueueFull,
    SendRejected,
    SendUnknown,
    Topic,
    UnimqError,
    Unroutable,
)
from unimq.adapter import OutcomeSink, Outgoing, Target
from unimq_rabbitmq import _errors, _wire
from unimq_rabbitmq._addresses import address_of
from unimq_rabbitmq._delays import DelayQueues
from unimq_rabbitmq._framing import Confirm, Publisher, Route
from unimq_rabbitmq._link import Link

log = logging.getLogger("unimq.rabbitmq")

_IN_FLIGHT = 5000
"""Unanswered messages on the channel, those included whose callers gave up: bounds what a hung broker can cost (L5)."""
_AT_ONCE, _AT_ONCE_BYTES = 500, 64 * 1024
"""Messages that are published as one piece; a larger one makes a piece of its own."""
_ROOM = 0.005
"""Seconds until a sender that waits for room in the connection looks again, if no confirm has made it look before."""
_SWEEP = 0.05
"""Seconds after a deadline at which what is overdue is reported, so that one look serves many messages."""
_FAREWELL = 1.0
"""Seconds past its timeout that a close waits for the I/O thread to report."""


class RabbitMQSender:
    """See `unimq.adapter.Sender`. `submit`, `flush` and `close` for any thread, the rest in the I/O thread."""

    is_immediate = False

    def __init__(
        self,
        link: Link,
        target: Target,
        sink: OutcomeSink,
        limits: _wire.Limits,
        delay_queues: set[str],
        *,
        lanes: str = "",
    ) -> None:
        """`lanes` is the exchange in front of the lanes of a queue that has some."""
        self._link = link
        self._thread = link.thread
        self._framing = link.framing
        self._target = target
        self._sink = sink
        self._limits = limits
        self._what = f"{'topic' if isinstance(target, Topic) else 'queue'} {target.name!r}"
        if isinstance(target, Topic):
            exchange, routing_key, _ = address_of(target)
            self._route = Route(exchange, routing_key, target.require_subscription)
        else:
            self._route = Route(lanes, "" if lanes else target.name, mandatory=True)
        self._delays = DelayQueues(self._route.exchange, self._route.routing_key, delay_queues)
        self._channel: Channel | None = None
        """The channel in confirm mode, or `None`."""
        self._publisher: Publisher | None = None
        """What publishes on it."""
        self._submitted: deque[_wire.Publication] = deque()
        """Written by any thread, emptied in the I/O thread."""
        self._announced = False
        """Set by who asks the I/O thread to look at `_submitted`, cleared by it before it looks."""
        self._room_timer: Any = None
        self._opening = False
        self._waiting: deque[_wire.Publication] = deque()
        """Not published on the present channel; in the order of `submit`."""
        self._unanswered: dict[int, _wire.Publication] = {}
        """Published on the present channel, by delivery tag, in the order of publishing."""
        self._last_tag = 0
        self._returned: Counter[str] = Counter()
        """Ids of messages that came back unroutable and whose acks are still to come; users may give one id twice."""
        self._in_flight = _IN_FLIGHT
        self._largest_body = sys.maxsize
        """Bytes of a body that this connection's broker takes, as far as it has said so. Written in the I/O thread."""
        self._suspects = 0
        """Messages to be sent one at a time, because one of them made the broker close the channel."""
        self._sweep: Any = None
        self._ready: Future[None] = Future()
        self._closing: Future[None] | None = None
        self._ended: UnimqError | None = None

    # Any thread.

    def open(self, timeout: float) -> None:
        """Wait for the channel.

        Raises:
            NotFound: the topic does not exist.
            ConnectionLost, AuthError: there is no connection.

        """
        self._thread.post(self.attach, None)
        try:
            self._ready.result(timeout)
        except NoAnswer:
            self._thread.post(self.release, None)
            raise ConnectionLost(
                f"{self._link.endpoint} opened no channel within {timeout:g} s"
            ) from self._link.last_error

    def submit(self, entries: Sequence[Outgoing]) -> None:
        """See `unimq.adapter.Sender.submit`."""
        publications: list[_wire.Publication] = []
        encode, limits = self._framing.encode, self._limits
        for entry in entries:
            try:
                if len(entry.message.body) > (largest := self._largest_body):
                    raise _errors.too_large(entry.message, largest)
                publications.append(encode(entry, limits))
            except SendRejected as error:
                self._sink.failed((entry,), error)
        if publications:
            self._submitted.extend(publications)
            if not self._announced:
                self._announced = True
                self._thread.post(self._take_submitted, None)

    def flush(self) -> None:
        """Nothing lingers."""

    def close(self, timeout: float) -> None:
        """See `unimq.adapter.Sender.close`."""
        closing: Future[None] = Future()
        self._thread.post(self._close, (closing, timeout))
        try:
            closing.result(timeout + _FAREWELL)
        except NoAnswer:
            log.warning("the sender to %s did not close within %g s", self._what, timeout)

    # The channel.

    def connected(self) -> None:
        """See `unimq_rabbitmq._link.User`."""
        if self._channel is not None:
            self._publish()
        else:
            # Another host, or an operator, may have another limit.
            self._largest_body = sys.maxsize
            self._open_channel()

    def unreachable(self, error: UnimqError) -> None:
        """See `unimq_rabbitmq._link.User`: what waits is sent after the next attempt, or expires."""

    def ended(self, error: UnimqError) -> None:
        """See `unimq_rabbitmq._link.User`."""
        self._ended = error
        self._channel = self._publisher = None
        self._fail_everything(error)
        self._settle_opening(error)
        self.release(None)

    def attach(self, _: None) -> None:
        """Open the channel as soon as there is a connection."""
        if self._thread.failure is not None:
            self.ended(self._thread.failure)
        else:
            self._link.attach(self)

    def _open_channel(self) -> None:
        # What was submitted during the pause after a refused message may have opened it already: on a second channel
        # the confirms of the first would be taken for those of other messages.
        if self._channel is not None or self._opening or self._ended is not None:
            return
        if self._link.connection is not None:
            self._opening = True
            self._link.open_channel(self._opened, self._channel_closed)

    def _opened(self, channel: Channel) -> None:
        if self._ended is not None:
            channel.close()
            return
        guarded = self._thread.guarded
        channel.add_on_return_callback(guarded(self._on_return))
        self._framing.confirm(channel, guarded(self._on_confirms), guarded(partial(self._confirming, channel)))

    def _confirming(self, channel: Channel, select_ok: object) -> None:
        if self._route.exchange:
            # Publishing to a missing exchange would cost the confirms of everything else on the channel.
            ready = self._thread.guarded(partial(self._channel_ready, channel))
            channel.exchange_declare(self._route.exchange, passive=True, callback=ready)
        else:
            # A missing queue is reported for each message: they are mandatory.
            self._channel_ready(channel, select_ok)

    def _channel_ready(self, channel: Channel, _answer: object) -> None:
        self._opening = False
        if self._ended is not None:
            channel.close()
            return
        self._channel = channel
        self._publisher = self._framing.publisher(channel)
        self._last_tag = 0
        self._delays.forget()
        self._settle_opening(None)
        self._publish()

    def _channel_closed(self, _channel: object, error: BaseException) -> None:
        self._opening = False
        self._channel = self._publisher = None
        self._returned.clear()
        if self._ended is not None or isinstance(error, exceptions.ChannelClosedByClient):
            return
        under_way = list(self._unanswered.values())
        self._unanswered.clear()
        lost = [publication for publication in under_way if not publication.expired]
        self._waiting.extendleft(reversed(lost))
        if isinstance(error, exceptions.NoFreeChannels):
            self._settle_opening(_errors.from_channel(error, self._what))
        if not isinstance(error, exceptions.ChannelClosedByBroker):
            # The connection is lost, or about to be: all is sent again, with the same ids, on the next one (S2).
            return
        found = _errors.from_channel(error, self._what)
        if isinstance(found, NotFound | AuthError):
            # It concerns the destination: whatever was not under way is certainly not stored.
            self._refuse_waiting(found, lost[0] if len(under_way) == 1 and lost and lost[0].attempts == 1 else None)
            self._settle_opening(found)
            return
        largest = _errors.largest_body(error)
        if largest is not None and any(len(each.entry.message.body) > largest for each in under_way):
            # Every confirm that was on its way is lost with the channel. So what it would be lost for again is found
            # now, and refused from now on before it is sent.
            self._largest_body = largest
            self._refuse_larger(largest, error)
            # At once, but not while pika still cleans up behind the old one.
            self._thread.call_later(0.0, self._open_channel)
            return
        if len(under_way) == 1 and lost:
            self._waiting.popleft()
            self._clear(1)
            self._sink.failed((lost[0].entry,), _errors.rejection(error, lost[0].entry.message.id))
            self._finish_closing()
        elif lost:
            # One of them is at fault, and the others may be stored or not: find it by sending one at a time.
            self._suspects = len(lost)
            self._in_flight = 1
        self._thread.call_later(random.uniform(0.0, 0.1), self._open_channel)

    def _refuse_larger(self, largest: int, cause: BaseException) -> None:
        """Fail what waits and has a larger body; a broker that refuses it has never stored it."""
        refused = [publication for publication in self._waiting if len(publication.entry.message.body) > largest]
        if refused:
            self._waiting = deque(each for each in self._waiting if len(each.entry.message.body) <= largest)
        for publication in refused:
            entry = publication.entry
            self._sink.failed((entry,), _errors.too_large(entry.message, largest, cause))
        # One at a time, because of an earlier refusal: it is not known which of the rest was at fault then.
        self._suspects = min(self._suspects, len(self._waiting))
        self._clear(0)
        self._finish_closing()

    def _settle_opening(self, error: UnimqError | None) -> None:
        if self._ready.done():
            return
        if error is None:
            self._ready.set_result(None)
        else:
            self._link.detach(self)
            self._ready.set_exception(error)

    # Publishing.

    def _take_submitted(self, _: None) -> None:
        self._announced = False
        take = self._submitted.popleft
        publications: list[_wire.Publication] = []
        try:
            while True:
                publications.append(take())
        except IndexError:
            # Not by the length: after the end of the I/O thread several threads may do this at once.
            pass
        if publications:
            self.accept(publications)

    def accept(self, publications: list[_wire.Publication]) -> None:
        """Publish these after what was accepted before."""
        error = self._ended or self._thread.failure
        if error is not None:
            self._sink.failed([publication.entry for publication in publications], error)
            return
        self._waiting.extend(publications)
        if self._sweep is None:
            self._watch_deadlines()
        if self._channel is not None:
            self._publish()
        else:
            self._open_channel()

    def _publish(self) -> None:
        channel, publisher = self._channel, self._publisher
        if channel is None or publisher is None or self._link.blocked:
            return
        waiting, unanswered = self._waiting, self._unanswered
        while waiting and len(unanswered) < self._in_flight:
            if not publisher.has_room:
                if self._room_timer is None:
                    self._room_timer = self._thread.call_later(_ROOM, self._look_for_room)
                return
            batch: list[_wire.Publication] = []
            size = 0
            for _ in range(min(len(waiting), self._in_flight - len(unanswered), _AT_ONCE)):
                publication = waiting.popleft()
                publication.attempts += 1
                self._last_tag += 1
                unanswered[self._last_tag] = publication
                if publication.due and (delay := publication.due - time.monotonic()) > 0:
                    if batch:
                        publisher.publish(batch, self._route)
                        batch = []
                    route = Route("", self._delays.queue_for(channel, delay), mandatory=True)
                    publisher.publish((publication,), route)
                else:
                    batch.append(publication)
                size += publication.entry.size
                if size >= _AT_ONCE_BYTES:
                    break
            if batch:
                publisher.publish(batch, self._route)

    def _look_for_room(self) -> None:
        self._room_timer = None
        self._publish()

    # Outcomes.

    def _on_return(self, _channel: object, method: Basic.Return, properties: BasicProperties, _body: bytes) -> None:
        self._returned[str(properties.message_id)] += 1

    def _on_confirms(self, confirms: Sequence[Confirm]) -> None:
        stored: list[Outgoing] = []
        for tag, multiple, is_ack in confirms:
            answered = self._take(tag, multiple=multiple)
            if self._suspects:
                self._clear(len(answered))
            if is_ack and not self._returned:
                stored += [publication.entry for publication in answered if not publication.expired]
                continue
            alive = [publication for publication in answered if not publication.expired]
            if is_ack:
                self._report_returned(alive)
            elif alive:
                self._report_failed(alive, self._nacked())
        if stored:
            self._sink.stored(stored)
        self._publish()
        self._finish_closing()

    def _clear(self, suspects: int) -> None:
        self._suspects = max(0, self._suspects - suspects)
        if not self._suspects:
            self._in_flight = _IN_FLIGHT

    def _take(self, tag: int, *, multiple: bool) -> list[_wire.Publication]:
        unanswered = self._unanswered
        if not multiple:
            found = unanswered.pop(tag, None)
            return [] if found is None else [found]
        if not tag:
            answered = list(unanswered.values())
            unanswered.clear()
            return answered
        tags: list[int] = []
        for published in unanswered:
            if published > tag:
                break
            tags.append(published)
        return [unanswered.pop(published) for published in tags]

    def _report_returned(self, publications: Iterable[_wire.Publication]) -> None:
        stored: list[Outgoing] = []
        returned: list[_wire.Publication] = []
        for publication in publications:
            message_id = publication.entry.message.id
            if message_id in self._returned:
                returned.append(publication)
                self._returned[message_id] -= 1
                if not self._returned[message_id]:
                    del self._returned[message_id]
            else:
                stored.append(publication.entry)
        if stored:
            self._sink.stored(stored)
        if not returned:
            return
        # A queue of delays that is missing all the same, because somebody deleted it, is there for the next message.
        self._delays.forget()
        if isinstance(self._target, Topic):
            self._report_failed(returned, Unroutable(f"{self._what} has no subscription, and requires one"))
        else:
            self._report_failed(returned, NotFound(f"{self._what} does not exist"))

    def _nacked(self) -> UnimqError:
        target = self._target
        if isinstance(target, Queue) and target.max_length is not None and target.overflow == "reject":
            return QueueFull(f"{self._what} holds its max_length of {target.max_length} messages")
        if isinstance(target, Topic):
            return SendUnknown(f"a queue of {self._what} refused the message (basic.nack); others may hold it")
        return SendUnknown(f"{self._what} refused the message (basic.nack); it is full, or in trouble")

    def _report_failed(self, publications: Iterable[_wire.Publication], error: UnimqError) -> None:
        """Report what the broker refused; what was sent before, on a channel that was lost, may have been stored."""
        once: list[Outgoing] = []
        again: list[Outgoing] = []
        for publication in publications:
            (once if publication.attempts <= 1 else again).append(publication.entry)
        if once:
            self._sink.failed(once, error)
        if again:
            self._sink.failed(again, _unknown(f"an earlier attempt may have stored it; then {error}", error))

    def _refuse_waiting(self, error: UnimqError, suspect: _wire.Publication | None) -> None:
        """Fail all that waits, because the destination takes nothing; `suspect` is known to be what was refused."""
        sure: list[Outgoing] = []
        unsure: list[Outgoing] = []
        for publication in self._waiting:
            (sure if publication.attempts == 0 or publication is suspect else unsure).append(publication.entry)
        self._waiting.clear()
        if sure:
            self._sink.failed(sure, error)
        if unsure:
            self._sink.failed(unsure, _unknown(f"it may be stored; then {error}", error))
        self._finish_closing()

    # Deadlines.

    def _watch_deadlines(self) -> None:
        """Report what is overdue as unknown (S2), and look again at the next deadline."""
        self._sweep = None
        now = time.monotonic()
        overdue = [publication for publication in self._alive() if publication.entry.deadline <= now]
        for publication in overdue:
            publication.expired = True
        if overdue:
            self._waiting = deque(publication for publication in self._waiting if not publication.expired)
            self._sink.failed([publication.entry for publication in overdue], self._overdue())
            self._finish_closing()
        next_deadline = min((publication.entry.deadline for publication in self._alive()), default=None)
        if next_deadline is not None:
            self._sweep = self._thread.call_later(next_deadline - now + _SWEEP, self._watch_deadlines)

    def _overdue(self) -> SendUnknown:
        if self._link.connection is None:
            why = f"there is no connection to {self._link.endpoint}"
        elif self._link.blocked:
            why = f"{self._link.endpoint} takes no messages at present (memory or disk alarm)"
        else:
            why = f"{self._link.endpoint} did not confirm it"
        return _unknown(f"no confirmation for a message to {self._what} in time: {why}", self._link.last_error)

    def _alive(self) -> list[_wire.Publication]:
        return [p for p in self._unanswered.values() if not p.expired] + list(self._waiting)

    # Closing.

    def _close(self, request: "tuple[Future[None], float]") -> None:
        closing, timeout = request
        self._take_submitted(None)
        if self._thread.failure is not None or self._ended is not None:
            closing.set_result(None)
            return
        self._closing = closing
        self._thread.call_later(timeout, self._give_up)
        self._finish_closing()

    def _give_up(self) -> None:
        if self._closing is not None:
            self._fail_everything(Closed(f"the sender to {self._what} was closed"))
            self._finish_closing()

    def _finish_closing(self) -> None:
        if self._closing is None or self._waiting:
            return
        if all(publication.expired for publication in self._unanswered.values()):
            self.release(None)

    def release(self, _: None) -> None:
        """Give the channel back. What is submitted from now on is refused."""
        self._ended = self._ended or Closed(f"the sender to {self._what} is closed")
        self._link.detach(self)
        if self._sweep is not None and self._thread.failure is None:
            self._thread.cancel(self._sweep)
            self._sweep = None
        if self._room_timer is not None and self._thread.failure is None:
            self._thread.cancel(self._room_timer)
            self._room_timer = None
        channel, self._channel, self._publisher = self._channel, None, None
        if channel is not None and channel.is_open and self._thread.failure is None:
            channel.close()
        closing, self._closing = self._closing, None
        if closing is not None:
            closing.set_result(None)

    def _fail_everything(self, error: UnimqError) -> None:
        published = [publication for publication in self._unanswered.values() if not publication.expired]
        waiting = list(self._waiting)
        self._unanswered.clear()
        self._waiting.clear()
        if published or waiting:
            entries = [publication.entry for publication in published + waiting]
            self._sink.failed(entries, _unknown(f"the outcome was not awaited: {error}", error))


def _unknown(text: str, cause: BaseException | None) -> SendUnknown:
    error = SendUnknown(text)
    error.__cause__ = cause
    return error
