"""Receiving on one channel: push deliveries, coalesced acks, and the fence of the channel's life."""

import logging
import random
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from pika import exceptions
from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from unimq import AuthError, ConnectionLost, LeaseLost, NotFound, UnimqError
from unimq.adapter import Delivery, DeliverySink, Lanes, SeldomLog
from unimq_rabbitmq import _errors
from unimq_rabbitmq._delayed_nacks import DelayedNacks
from unimq_rabbitmq._framing import Received, decoded, forget_consumers
from unimq_rabbitmq._link import Link

log = logging.getLogger("unimq.rabbitmq")

Done = Callable[[Sequence[UnimqError]], None]

_NO_FETCH = {405, 540}
"""Reply codes of queues that let nobody fetch: those with a single active consumer, and streams."""

_MOST_PREFETCH = 65535
"""The field has 16 bits."""
_ORDERED_AHEAD = 1000
"""Unsettled messages of an ordered queue that the broker pushes, so that other keys are found behind a slow one.

It is the same for all consumers, whatever their prefetch: the next one must get at once all that one leaves. Of what it
gets in parts it would leave its part behind the rest (3.10.8, 4.0.5 and 4.3.6)."""
_ACK_LINGER = 0.001
"""Seconds that an ack waits for others, so that one frame settles many and the I/O thread is woken once for all."""
_EAGER_PREFETCH = 64
"""Up to this prefetch acks do not linger: the broker would wait for them."""
_FAREWELL = 1.0
_SENT_ON_AT_ONCE = 30
"""Settlements that a channel passes on to its quorum queue at once. With 32 that the queue has not applied it keeps
further ones to itself, answers questions all the same, and takes them to its grave if the connection breaks: a passive
declare alone then proves nothing (measured on 3.10.8, 4.0.5 and 4.3.6: up to 167 of 200 acks came to nothing)."""
_BEHIND_ALL = -(2**30)
"""Priority of a consumer that is there to be answered, and should get nothing."""
_GRACE = 0.1
"""Seconds in which the queue should have applied all of them, where no better proof is to be had."""


class _Session:
    """One life of the channel. Delivery tags mean nothing outside of it, so tokens carry it (A6)."""

    __slots__ = (
        "applied",
        "batch",
        "changing",
        "channel",
        "commands",
        "consumer_tag",
        "fetched",
        "held",
        "lanes",
        "last_tag",
        "owner",
        "parked",
        "proven",
        "pushed",
        "settled",
        "unproven",
    )

    def __init__(self, owner: "RabbitMQReceiver", channel: Channel) -> None:
        self.owner = owner
        self.channel = channel
        self.consumer_tag = ""
        """Of the consumer to which the broker pushes; empty while it is paused."""
        self.changing = False
        """The broker was asked to start or to stop pushing, and has not answered."""
        self.held: dict[int, Delivery] = {}
        """Unsettled, by delivery tag, in the order of the broker."""
        self.batch: list[Delivery] = []
        """Received but not yet given to the sink."""
        self.lanes = Lanes()
        """What waits for an earlier message of its key, where there is an order."""
        self.parked = 0
        """Nacked messages that wait here for their delay, where there is an order."""
        self.last_tag = 0
        self.pushed = 0
        """Deliveries that the broker sent by itself."""
        self.fetched: set[int] = set()
        """Tags of those that were asked for; some may be settled."""
        self.settled = 0
        """Settlements sent."""
        self.proven = 0
        """Those of them that a barrier has confirmed."""
        self.commands = 0
        """Frames with settlements sent; each is one command to the queue."""
        self.applied = 0
        """Those of them that the queue has applied, or that wait for nothing but their turn in it."""
        self.unproven: list[_Barrier] = []
        """Barriers that wait for `applied` to grow."""


@dataclass(slots=True, eq=False)
class _Barrier:
    """What a barrier speaks for: everything sent before it on one channel; and what it reports all the same."""

    done: Done
    errors: list[UnimqError]
    session: _Session
    settled: int
    commands: int


Token = tuple[_Session, int]


@dataclass(slots=True)
class Share:
    """The prefetch of one consumer, which the lanes of its queue share (R3). For the I/O thread."""

    prefetch: int
    lanes: "list[RabbitMQReceiver]" = field(default_factory=list["RabbitMQReceiver"])
    _turn: int = 0

    @property
    def room(self) -> int:
        """How many deliveries the user may get."""
        return self.prefetch - sum([lane.in_work for lane in self.lanes])

    def hand_over(self) -> None:
        """Fill the room with what waits, each time from another lane on, so that none starves."""
        lanes = self.lanes
        self._turn = (self._turn + 1) % len(lanes)
        for lane in lanes[self._turn :] + lanes[: self._turn]:
            lane.hand_over()


class RabbitMQReceiver:
    """See `unimq.adapter.Receiver`. Its protocol methods are for any thread, the rest is in the I/O thread."""

    def __init__(
        self,
        link: Link,
        queue: str,
        sink: DeliverySink,
        prefetch: int,
        delays: DelayedNacks,
        *,
        is_ordered: bool = False,
        returns_to_head: bool = False,
        share: Share | None = None,
        lanes: int = 1,
        priority: int | None = None,
    ) -> None:
        """With more `lanes` than one this is one of them; they have one `share`.

        `returns_to_head` says where this broker puts what is rejected.
        """
        self._link = link
        self._thread = link.thread
        self._framing = link.framing
        self._queue = queue
        self._seldom = SeldomLog()
        self._sink = sink
        self._prefetch = min(prefetch, _MOST_PREFETCH)
        self._share = share or Share(self._prefetch)
        self._share.lanes.append(self)
        self._priority = priority
        self._is_ordered = is_ordered
        self._returns_to_head = returns_to_head
        self._window = max(1, _ORDERED_AHEAD // lanes) if is_ordered else self._prefetch
        """Unsettled messages that the broker may push."""
        # So few settlements can never wait in the channel.
        self._most_fetched = 0 if self._window <= _SENT_ON_AT_ONCE else 1 + self._prefetch // 64
        """Messages that the broker may give on top of the prefetch; they are held back while that is used up (R3)."""
        # A queue with a single active consumer refuses, at the price of the channel.
        self._may_fetch = not is_ordered
        self._linger = 0.0 if self._prefetch <= _EAGER_PREFETCH else _ACK_LINGER
        self._acks: deque[Delivery] = deque()
        """Written by any thread, emptied in the I/O thread."""
        self._acks_announced = False
        """Set by who asks the I/O thread to look at `_acks`, cleared by it before it looks."""
        self._session: _Session | None = None
        self._opening = False
        self._paused = False
        self._delays = delays
        self._after_delays: list[Callable[[], None]] = []
        """What is to be done when no delayed nack is under way any more: barriers, and closing."""
        self._barriers: dict[_Barrier, None] = {}
        """Waiting for the broker's answer, in their order."""
        self._stale = 0
        """Settlements of lost sessions, not yet reported by a barrier."""
        self._at_risk = 0
        """Settlements that a lost session may have taken with it, not yet reported by a barrier."""
        self._unreported: list[UnimqError] = []
        """What the barrier of a close heard; the one that follows it tells."""
        self._ready: Future[None] = Future()
        self._closing: Future[None] | None = None
        self._is_settled = False
        """The close has its proof, or will not get it, and gives back."""
        self._stopped = False

    # Any thread.

    def open(self, timeout: float) -> None:
        """Wait until the broker has accepted the consumer.

        Raises:
            NotFound: the queue does not exist.
            ConnectionLost, AuthError: there is no connection.

        """
        self._thread.post(self._attach, None)
        try:
            self._ready.result(timeout)
        except NoAnswer:
            self._thread.post(self._abandon, None)
            raise ConnectionLost(
                f"{self._link.endpoint} accepted no consumer within {timeout:g} s"
            ) from self._link.last_error

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """See `unimq.adapter.Receiver.ack`."""
        self._acks.extend(deliveries)
        if not self._acks_announced:
            self._acks_announced = True
            self._thread.post(self._acks_wait, None)

    def nack(self, delivery: Delivery, delay: float) -> None:
        """See `unimq.adapter.Receiver.nack`."""
        if delay:
            self._thread.post(self._postpone, (delivery, delay))
        else:
            self._thread.post(self._requeue, delivery)

    def extend(self, delivery: Delivery, duration: float) -> None:
        """Never called: the capability is unsupported."""
        raise NotImplementedError

    def barrier(self, done: Done) -> None:
        """See `unimq.adapter.Receiver.barrier`: a question on the channel, answered after the acks before it."""
        self._thread.post(self._start_barrier, done)

    def pause(self) -> None:
        """See `unimq.adapter.Receiver.pause`."""
        self._thread.post(self._pause, None)

    def resume(self) -> None:
        """See `unimq.adapter.Receiver.resume`."""
        self._thread.post(self._resume, None)

    def close(self, timeout: float) -> None:
        """See `unimq.adapter.Receiver.close`."""
        self.finish_close(self.begin_close(), timeout)

    def begin_close(self) -> "Future[None]":
        """Begin what `finish_close` waits for."""
        closing: Future[None] = Future()
        self._thread.post(self._close, closing)
        return closing

    def finish_close(self, closing: "Future[None]", timeout: float) -> None:
        """Wait up to `timeout` seconds for the end, and then leave without it."""
        try:
            closing.result(timeout)
        except NoAnswer:
            # The broker does not answer: what it has not read of our acks comes again.
            self._thread.post(self._abandon, None)
        self._seldom.finish()

    # The channel.

    def connected(self) -> None:
        """See `unimq_rabbitmq._link.User`."""
        self._open_channel()

    def unreachable(self, error: UnimqError) -> None:
        """See `unimq_rabbitmq._link.User`: the session ended with its channel; the next attempt follows."""

    def ended(self, error: UnimqError) -> None:
        """See `unimq_rabbitmq._link.User`."""
        self._lose_session(error)
        self._fail(error)

    def _attach(self, _: None) -> None:
        if self._thread.failure is not None:
            self.ended(self._thread.failure)
        else:
            self._link.attach(self)

    def _open_channel(self) -> None:
        if self._session is None and not self._opening and not self._stopped and self._link.connection is not None:
            self._opening = True
            self._link.open_channel(self._opened, self._channel_closed)

    def _opened(self, channel: Channel) -> None:
        guarded = self._thread.guarded
        channel.add_on_cancel_callback(guarded(partial(self._cancelled, channel)))
        channel.add_callback(guarded(partial(self._fetched_nothing, channel)), [Basic.GetEmpty], one_shot=False)
        channel.basic_qos(prefetch_count=self._window, callback=guarded(partial(self._consume, channel)))

    def _consume(self, channel: Channel, _qos_ok: object) -> None:
        self._opening = False
        if self._stopped or self._closing is not None:
            channel.close()
            return
        session = self._session = _Session(self, channel)
        self._push_or_pause(session)

    def _pause(self, _: None) -> None:
        self._paused = True
        self._push_or_pause_now()

    def _resume(self, _: None) -> None:
        self._paused = False
        self._push_or_pause_now()
        self.hand_over()

    def _push_or_pause_now(self) -> None:
        session = self._session
        if session is not None and self._closing is None and self._thread.failure is None:
            self._push_or_pause(session)

    def _push_or_pause(self, session: _Session) -> None:
        """Ask the broker to push or to stop pushing, whichever is wanted; one question at a time."""
        if session.changing or self._paused is not bool(session.consumer_tag):
            return
        if self._is_ordered and session.consumer_tag:
            # Another consumer would go on before what is held here is settled (O1). The window ends the pushing.
            return
        guarded = self._thread.guarded
        session.changing = True
        answered = guarded(partial(self._changed, session))
        if self._paused:
            # Without its consumer the channel keeps what is unsettled.
            self._framing.cancel(session.channel, session.consumer_tag, answered)
            session.consumer_tag = ""
        else:
            session.consumer_tag = f"unimq-{uuid.uuid4().hex}"
            received = guarded(partial(self._on_received, session))
            self._framing.consume(
                session.channel, self._queue, session.consumer_tag, received, answered, priority=self._priority
            )

    def _changed(self, session: _Session, _answer: object) -> None:
        session.changing = False
        if not self._ready.done():
            self._ready.set_result(None)
        if session is not self._session:
            return
        if self._closing is None:
            self._push_or_pause(session)
            self.hand_over()
        elif self._is_settled and not session.consumer_tag:
            self._give_back(session, None)

    def _cancelled(self, channel: Channel, _cancel: object) -> None:
        """The broker ended the consumer (queue deleted or moved, consumer timeout) but not the channel; start anew."""
        self._lose_session(ConnectionLost(f"RabbitMQ cancelled the consumer of {self._queue!r}"))
        self._opening = True
        channel.close()

    def _channel_closed(self, _channel: object, error: BaseException) -> None:
        """However it ended: everything unsettled on it goes back to the queue."""
        self._opening = False
        if self._session is not None and self._session.unproven and getattr(error, "reply_code", 0) in _NO_FETCH:
            self._may_fetch = False
        self._lose_session(error)
        if isinstance(error, exceptions.NoFreeChannels):
            self._link.detach(self)
            self._fail(_errors.from_channel(error, f"queue {self._queue!r}"))
            return
        if self._closing is not None or self._stopped:
            self._finish_closing()
            return
        if isinstance(error, exceptions.ChannelClosed):
            found = _errors.from_channel(error, f"queue {self._queue!r}")
            if isinstance(found, NotFound | AuthError):
                self._link.detach(self)
                self._fail(found)
                return
            # Cancelled, consumer timeout, a fault of the broker: look again, but not at once.
            log.warning("the channel of the consumer of %r was closed: %s", self._queue, error)
            self._thread.call_later(random.uniform(0.05, 0.2), self._open_channel)

    def _lose_session(self, error: BaseException) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        # A queue with so many unsettled pushes no more, so it has applied all settlements but these at most.
        read = max(session.proven, session.pushed - self._window)
        at_risk = max(0, session.settled - read)
        barriers, self._barriers = self._barriers, {}
        if session.held:
            self._sink.lost(list(session.held.values()))
        for barrier in barriers:
            barrier.done([*barrier.errors, self._risk(at_risk, error)])
            at_risk = 0
        self._at_risk += at_risk
        self._share.hand_over()

    def _risk(self, count: int, error: BaseException | None) -> UnimqError:
        risk = ConnectionLost(
            f"the channel to {self._queue!r} was lost; the messages of up to {count} settlements may come again"
        )
        risk.__cause__ = error
        return risk

    def _fail(self, error: UnimqError) -> None:
        self._stopped = True
        if not self._ready.done():
            self._ready.set_exception(error)
        elif self._closing is None:
            self._sink.failed(error)
        self._finish_closing()

    # Deliveries.

    def _on_received(self, session: _Session, received: Sequence[Received]) -> None:
        session.pushed += len(received)
        self._arrived(session, received)

    def _arrived(self, session: _Session, received: Sequence[Received]) -> None:
        if session is not self._session:
            # Its channel is about to be closed, and with that they return to the queue.
            return
        deliveries = [
            Delivery(message, attempt, (session, tag), self._sink, native) for tag, message, attempt, native in received
        ]
        session.held.update(zip([each.tag for each in received], deliveries, strict=True))
        session.last_tag = received[-1].tag
        if self._is_ordered:
            deliveries = [delivery for delivery in deliveries if session.lanes.admit(delivery)]
        self._offer(session, deliveries)

    def _offer(self, session: _Session, deliveries: Sequence[Delivery]) -> None:
        if not session.batch and deliveries:
            # The loop gets there after it has handled all that was read from the socket.
            self._thread.call_later(0, self.hand_over)
        session.batch.extend(deliveries)

    @property
    def in_work(self) -> int:
        """How many deliveries the user has."""
        session = self._session
        if session is None:
            return 0
        return len(session.held) - len(session.batch) - session.lanes.waiting - session.parked

    def hand_over(self) -> None:
        """Give the user what was received, as far as the prefetch has room for it."""
        session = self._session
        if session is None or not session.batch or self._closing is not None or self._paused:
            return
        room = self._share.room
        if room > 0:
            batch, session.batch = session.batch, session.batch[room:]
            self._sink.deliver(batch[:room])

    # Settlements.

    def _acks_wait(self, _: None) -> None:
        if self._linger and self._thread.failure is None:
            self._thread.call_later(self._linger, self._flush_acks)
        else:
            self._flush_acks()

    def _flush_acks(self) -> None:
        self._acks_announced = False
        acks = self._acks
        session = self._session
        tags: list[int] = []
        for _ in range(len(acks)):
            delivery = acks.popleft()
            owner, tag = cast("Token", delivery.token)
            if session is not None and owner is session and session.held.pop(tag, None) is not None:
                tags.append(tag)
                if self._is_ordered and (follower := session.lanes.follow(delivery)) is not None:
                    session.batch.append(follower)
            else:
                self._stale += 1
        if not tags or session is None:
            return
        session.settled += len(tags)
        # `multiple` reaches everything below it on the channel, so it may go up to the first unsettled one only (A2).
        first_held = next(iter(session.held), session.last_tag + 1)
        last = max(tags)
        if last < first_held:
            frames = [(last, True)]
        else:
            last_below = max((tag for tag in tags if tag < first_held), default=0)
            frames = [(last_below, True)] if last_below else []
            frames += [(tag, False) for tag in tags if tag > first_held]
        session.commands += len(frames)
        self._framing.ack(session.channel, frames)
        self._share.hand_over()

    def _requeue(self, delivery: Delivery) -> None:
        owner, tag = cast("Token", delivery.token)
        session = self._session
        if session is None or owner is not session or tag not in session.held:
            self._stale += 1
            return
        if self._is_ordered:
            self._repeat(session, delivery, 0.0)
        elif self._returns_to_head and delivery.attempt > 1:
            # As many as the prefetch that are always nacked would be the next ones for ever, and nothing behind them
            # would ever come (D1): from its second failure on a message goes to the tail, as a copy.
            self._delays.send(delivery, 0.0, partial(self._postponed, delivery))
        else:
            self._reject(session, tag)

    def _reject(self, session: _Session, tag: int) -> None:
        del session.held[tag]
        session.settled += 1
        session.commands += 1
        # `reject` and not `nack`: from RabbitMQ 4.3 on only the former counts as a delivery (A3, A7).
        session.channel.basic_reject(tag, requeue=True)
        self._share.hand_over()

    def _postpone(self, request: tuple[Delivery, float]) -> None:
        """Have a copy wait in a queue of delays; the original is held until the broker has confirmed the copy."""
        delivery, delay = request
        owner, tag = cast("Token", delivery.token)
        if owner is not self._session or tag not in owner.held:
            self._stale += 1
        elif self._is_ordered:
            self._repeat(owner, delivery, delay)
        else:
            self._delays.send(delivery, delay, partial(self._postponed, delivery))

    def _repeat(self, session: _Session, delivery: Delivery, delay: float) -> None:
        """Hand a nacked message out again from here: given back, it would come behind others of its key (O1)."""
        again = Delivery(delivery.message, delivery.attempt + 1, delivery.token, self._sink, delivery.native)
        # In its old place: what is held stays in the order of the broker.
        session.held[cast("Token", delivery.token)[1]] = again
        session.parked += 1

        def due() -> None:
            if session is self._session:
                session.parked -= 1
                self._offer(session, (again,))

        self._thread.call_later(delay, due)
        # While it waits another one may be in work.
        self._share.hand_over()

    def _postponed(self, delivery: Delivery, error: UnimqError | None) -> None:
        if error is None:
            self._acks.append(delivery)
            self._flush_acks()
        else:
            self._seldom.say(
                "nack-without-delay",
                "a message of %r comes again at once: its copy was not confirmed: %s",
                self._queue,
                error,
                source=self._queue,
            )
            owner, tag = cast("Token", delivery.token)
            if owner is self._session and tag in owner.held:
                self._reject(owner, tag)
            else:
                self._stale += 1
        if not self._delays.under_way:
            waiting, self._after_delays = self._after_delays, []
            for action in waiting:
                action()

    def _start_barrier(self, done: Done) -> None:
        if self._delays.under_way:
            self._after_delays.append(partial(self._start_barrier, done))
            return
        self._flush_acks()
        errors, self._unreported = self._unreported, []
        if self._stale:
            errors.append(LeaseLost(f"{self._stale} settlements came after the loss of their channel"))
        if self._at_risk:
            errors.append(self._risk(self._at_risk, self._link.last_error))
        self._stale = self._at_risk = 0
        session = self._session
        if session is None or session.settled == session.proven:
            done(errors)
            return
        barrier = _Barrier(done, errors, session, session.settled, session.commands)
        self._barriers[barrier] = None
        self._prove(barrier)

    def _prove(self, barrier: _Barrier) -> None:
        """Ask for the proof that the queue has got everything before the barrier."""
        session = barrier.session
        if not self._most_fetched or barrier.commands - session.applied <= _SENT_ON_AT_ONCE:
            self._ask(barrier)
            return
        if self._is_ordered:
            session.unproven.append(barrier)
            if len(session.unproven) == 1:
                self._prove_by_consumer(session)
            return
        session.fetched &= session.held.keys()
        if not self._may_fetch or len(session.fetched) >= self._most_fetched:
            self._thread.call_later(_GRACE, partial(self._ask, barrier))
            return
        session.unproven.append(barrier)
        if len(session.unproven) == 1:
            # A fetch is a command too, applied after all that the channel has passed on; by its answer the channel
            # knows that these are done, and passes on what it kept.
            session.channel.basic_get(self._queue, self._thread.guarded(partial(self._fetched, session)))

    def _prove_by_consumer(self, session: _Session) -> None:
        """Add a consumer behind all others, and take it away again: two commands of which the queue answers each.

        A queue with an order lets nobody fetch. What should come to this consumer all the same is like any other.
        """
        guarded, channel = self._thread.guarded, session.channel
        tag = f"unimq-proof-{uuid.uuid4().hex}"

        def received(_channel: object, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
            self._on_received(session, (decoded(method, properties, body),))

        def detached(_cancel_ok: object) -> None:
            self._applied(session)

        def attached(_consume_ok: object) -> None:
            if session is self._session and channel.is_open:
                channel.basic_cancel(tag, guarded(detached))

        channel.basic_consume(
            self._queue,
            guarded(received),
            consumer_tag=tag,
            arguments={"x-priority": _BEHIND_ALL},
            callback=guarded(attached),
        )

    def _fetched(
        self, session: _Session, _channel: object, method: Basic.GetOk, properties: BasicProperties, body: bytes
    ) -> None:
        session.fetched.add(int(method.delivery_tag or 0))
        self._arrived(session, (decoded(method, properties, body),))
        self._applied(session)

    def _fetched_nothing(self, channel: Channel, _get_empty: object) -> None:
        if self._session is not None and self._session.channel is channel:
            self._applied(self._session)

    def _applied(self, session: _Session) -> None:
        if session is not self._session:
            return
        unproven, session.unproven = session.unproven, []
        session.applied = unproven[0].commands
        for barrier in unproven:
            self._prove(barrier)

    def _ask(self, barrier: _Barrier) -> None:
        if barrier.session is self._session:
            answered = self._thread.guarded(partial(self._finish_barrier, barrier))
            barrier.session.channel.queue_declare(self._queue, passive=True, callback=answered)

    def _finish_barrier(self, barrier: _Barrier, _declare_ok: object) -> None:
        barrier.session.proven = max(barrier.session.proven, barrier.settled)
        del self._barriers[barrier]
        barrier.done(barrier.errors)

    # Closing.

    def _close(self, closing: "Future[None]") -> None:
        self._flush_acks()
        if self._stopped or self._thread.failure is not None:
            self._delays.release()
            closing.set_result(None)
            return
        if self._delays.under_way:
            self._after_delays.append(partial(self._close, closing))
            return
        self._closing = closing
        session = self._session
        if session is None:
            # Still opening: `_consume` or `_channel_closed` goes on. Without connection there is nothing to give back.
            if not self._opening:
                self._finish_closing()
            return
        if session.channel.is_open:
            # What the channel has not passed on it would take with it.
            self._start_barrier(partial(self._settled, session))

    def _settled(self, session: _Session, errors: Sequence[UnimqError]) -> None:
        self._unreported += errors
        self._is_settled = True
        if session is not self._session or not session.channel.is_open:
            return
        if self._is_ordered:
            self._lose_session(ConnectionLost("the consumer was closed"))
            self._leave(session.channel)
        elif session.consumer_tag:
            cancelled = self._thread.guarded(partial(self._give_back, session))
            self._framing.cancel(session.channel, session.consumer_tag, cancelled)
        elif not session.changing:
            self._give_back(session, None)

    def _give_back(self, session: _Session, _cancel_ok: object) -> None:
        """Nothing arrives any more; return what is unsettled, in a way that newer brokers do not count (A9)."""
        if session is self._session and session.channel.is_open:
            self._flush_acks()
            if session.held:
                session.channel.basic_nack(0, multiple=True, requeue=True)
            # Before the channel closes: a settlement that another thread hands over meanwhile finds no session.
            self._lose_session(ConnectionLost("the consumer was closed"))
            session.channel.close()

    def _finish_closing(self) -> None:
        closing, self._closing = self._closing, None
        if closing is not None:
            self._stopped = True
            self._link.detach(self)
            self._delays.release()
            closing.set_result(None)

    def _abandon(self, _: None) -> None:
        """Leave without waiting for the broker any longer."""
        self._stopped = True
        self._link.detach(self)
        self._delays.release()
        session = self._session
        self._lose_session(ConnectionLost("the consumer was closed"))
        if session is not None and session.channel.is_open and self._thread.failure is None:
            self._leave(session.channel)

    def _leave(self, channel: Channel) -> None:
        """Close the channel; with an order without cancelling its consumer before, as pika would do.

        A queue whose consumer is cancelled goes on with the next one at once, and then gets back what comes before
        (O1). With the channel the queue loses both in one step.
        """
        if self._is_ordered:
            forget_consumers(channel)
        channel.close()
