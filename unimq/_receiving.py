"""Receiving: the buffer, who holds what, settlement, expiry and dead letters. One implementation for both fronts."""

import copy
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from unimq._capabilities import Capabilities
from unimq._codec import Codec, decode
from unimq._dead_letters import DeadLetters
from unimq._delivery import Delivery
from unimq._destinations import Queue, Seconds, Source, queue_of, seconds
from unimq._errors import AlreadySettled, Closed, ConfigError, ConnectionLost, DecodeError, LeaseLost, UnimqError
from unimq._events import SeldomLog
from unimq._middleware import Middleware, Settlement, call_hooks, say_failed
from unimq._served import HurriedReceiver
from unimq._waiting import Waiters, block_until, deadline_after

if TYPE_CHECKING:
    from unimq.adapter import Receiver

EXHAUSTED = "max_deliveries"
EXPIRED = "expired"
UNDECODABLE = "undecodable"
"""Reasons of dead letters that the library itself gives (A8, T1, D3)."""

LAST_ANSWER = 1.0
"""Seconds that a closed receiver has at least to say what it could not confirm."""
RETRY_AFTER_FAILED_DEAD_LETTER = 1.0
"""Seconds until a message whose dead-letter copy was not confirmed is delivered again."""


class SettleBarrier:
    """What one `settle()` waits for: the dead-letter copies under way, then the driver's barrier."""

    __slots__ = ("done", "errors", "finished")

    def __init__(self) -> None:
        self.done: bool = False
        self.errors: Sequence[UnimqError] = ()
        self.finished: Waiters = Waiters()

    def finish(self, errors: Sequence[UnimqError]) -> None:
        self.errors = errors
        self.done = True
        self.finished.wake_all()

    def is_finished(self) -> Literal[True] | None:
        """Attempt for the fronts."""
        return True if self.done else None


def raise_unconfirmed(errors: Sequence[UnimqError]) -> None:
    """Raise the first of what became of settlements, with the number of the others as a note; nothing if there is none.

    Raises:
        LeaseLost, ConnectionLost, SendRejected, SendUnknown: see `unimq.Consumer.settle`.

    """
    if errors:
        error = errors[0]
        if len(errors) > 1:
            error.add_note(f"and {len(errors) - 1} more settlements failed")
        raise error


def confirm(core: "ConsumerCore", deadline: float) -> SettleBarrier:
    """Block until the settlements so far are confirmed, and return what became of them (A1).

    Raises:
        ConnectionLost: they were not by `deadline`.
        Closed: see `ConsumerCore.start_barrier`.

    """
    if block_until(core.moves_done, core.moves_finished, deadline):
        barrier = core.start_barrier()
        if block_until(barrier.finished, barrier.is_finished, deadline):
            return barrier
    raise core.settle_overdue()


def unconfirmed(core: "ConsumerCore", deadline: float) -> Sequence[UnimqError]:
    """Return what became of the settlements that a receiver, which is closed by now, could not confirm (L1).

    An ended consumer has told its user that it ended, and why.
    """
    if core.error is not None:
        return ()
    barrier = core.last_barrier()
    if block_until(barrier.finished, barrier.is_finished, max(deadline, deadline_after(LAST_ANSWER))):
        return barrier.errors
    return (core.settle_overdue(),)


class ConsumerCore:
    """State of one consumer; it is the `DeliverySink` of its receiver and the settler of its deliveries.

    `buffer` and `held` are changed only by operations that are atomic in CPython (`deque.popleft`, `set.remove`, …):
    whoever removes a delivery from `held` is the one that may settle it.
    """

    def __init__(
        self,
        source: Source,
        capabilities: Capabilities,
        dead_letters: DeadLetters | None,
        codec: Codec[Any] | None = None,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        self.source = source
        self.queue: Queue = queue_of(source)
        self.source_name: str = self.queue.name
        self.capabilities = capabilities
        self.dead_letters = dead_letters
        self.codec = codec
        self.seldom: SeldomLog = SeldomLog()
        self.middleware = middleware
        self.on_deliver: list[Callable[[Delivery[Any]], bool]] = [
            each.deliver for each in middleware if each.deliver is not None
        ]
        self.on_settled: list[Callable[[Delivery[Any], Settlement], None]] = [
            each.settled for each in middleware if each.settled is not None
        ]
        self.receiver: Receiver
        self.ask_receiver: Callable[[], None] | None = None
        """See `HurriedReceiver.wanted`."""
        self.buffer: deque[Delivery] = deque()
        self.held: set[Delivery] = set()
        self.arrived: Waiters = Waiters()
        self.closed: str = ""
        self.abandoned = ""
        """Why nothing can be settled here: this is the copy of a consumer in a forked child (L2)."""
        self.error: UnimqError | None = None
        self.lock: threading.Lock = threading.Lock()
        self.prefetch: int = 0
        """Deliveries that it holds at most (R3); set when it is opened."""
        self.closing: set[Callable[[], None]] = set()
        """What runs before it closes: the end of its workers."""
        self.moves_under_way: int = 0
        self.moves_done: Waiters = Waiters()
        self.move_errors: list[UnimqError] = []
        self.ttl: float | None = self.queue.ttl_seconds
        self.max_deliveries: int | None = self.queue.max_deliveries
        self.is_plain: bool = self.ttl is None and self.max_deliveries is None and codec is None and not self.on_deliver
        """Nothing to check at delivery but the message's own ttl: saves a call per message."""
        self.delivers_expired: bool = False
        """For a redrive: a dead letter that is past its ttl is none the less to be returned."""

    def use(self, receiver: "Receiver") -> None:
        """Receive by this receiver from now on."""
        self.receiver = receiver
        self.ask_receiver = receiver.wanted if isinstance(receiver, HurriedReceiver) else None

    # Coming up: `DeliverySink`.

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """See `unimq.adapter.DeliverySink.deliver`."""
        self.held.update(deliveries)
        self.buffer.extend(deliveries)
        if self.arrived.wakes:
            self.arrived.wake(len(deliveries))

    def lost(self, deliveries: Sequence[Delivery]) -> None:
        """See `unimq.adapter.DeliverySink.lost`."""
        held = self.held
        for delivery in deliveries:
            if delivery not in held:
                continue
            # Before the removal, as who comes too late reads it after that.
            delivery.lost = True
            try:
                held.remove(delivery)
            except KeyError:
                # Somebody settles it at this moment, and was first.
                delivery.lost = False
                continue
            if self.on_settled:
                call_hooks(self.seldom, self.on_settled, delivery, "lost")

    def failed(self, error: UnimqError) -> None:
        """See `unimq.adapter.DeliverySink.failed`."""
        self.error = error
        self.arrived.wake_all()

    # Going to the user.

    def take(self, limit: int) -> list[Delivery[Any]] | None:
        """Attempt to take up to `limit` deliveries that may still be handled; `None` if none is there.

        Raises:
            Closed: the consumer was closed.

        """
        if self.closed:
            raise Closed(self.closed)
        buffer, is_plain = self.buffer, self.is_plain
        taken: list[Delivery[Any]] = []
        while buffer and len(taken) < limit:
            try:
                delivery = buffer.popleft()
            except IndexError:
                # Another thread took the last one.
                break
            if (is_plain and not delivery.lost and delivery.message.expires_at is None) or self.is_live(delivery):
                taken.append(delivery)
        if taken:
            return taken
        if self.error is not None:
            # A copy each time: one object raised again and again would collect every traceback.
            raise copy.copy(self.error) from self.error
        if self.ask_receiver is not None:
            self.ask_receiver()
        return None

    def take_one(self) -> Delivery[Any] | None:
        """Attempt to take the next delivery; see `take`."""
        taken = self.take(1)
        return None if taken is None else taken[0]

    def is_live(self, delivery: Delivery) -> bool:
        """Tell whether the user may get it; what expired or failed too often is settled here, at the last moment."""
        if delivery.lost:
            return False
        expires_at = delivery.message.expires_at
        if self.ttl is not None:
            limit = delivery.message.sent_at + self.ttl
            expires_at = limit if expires_at is None or limit < expires_at else expires_at
        if expires_at is not None and time.time() >= expires_at and not self.delivers_expired:
            self._settle_dead(delivery, EXPIRED, keep=self.queue.dead_letter_expired)
            return False
        if self.max_deliveries is not None and delivery.attempt > self.max_deliveries:
            # The failure of the last allowed delivery was no nack but a crash or the end of a lease (A8).
            self._settle_dead(delivery, EXHAUSTED, keep=True)
            return False
        if self.codec is not None:
            try:
                delivery.decoded = decode(self.codec, delivery.message)
            except DecodeError as error:
                self._settle_dead(delivery, UNDECODABLE, keep=True, error=error)
                return False
        return not self.on_deliver or self._passes_hooks(delivery)

    def _passes_hooks(self, delivery: Delivery) -> bool:
        for hook in self.on_deliver:
            try:
                if not hook(delivery):
                    return False
            except Exception as error:  # noqa: BLE001 - the user's; the message is delivered all the same
                say_failed(self.seldom, hook, error)
        return delivery in self.held

    # Settlement: `Settler`.

    def ack(self, delivery: Delivery) -> None:
        """See `Delivery.ack`."""
        if delivery.lease_until:
            self._release(delivery)
        else:
            # `_release` without its call: most deliveries have no lease, and each is acked.
            try:
                self.held.remove(delivery)
            except KeyError:
                raise self._refusal(delivery) from None
        self.receiver.ack((delivery,))
        if self.on_settled:
            call_hooks(self.seldom, self.on_settled, delivery, "ack")

    def ack_all(self, deliveries: Iterable[Delivery[Any]]) -> None:
        """Ack many at once; if some are not held any more, the others are acked before the error is raised."""
        mine: list[Delivery] = []
        error: UnimqError | None = None
        remove = self.held.remove
        for delivery in deliveries:
            try:
                if delivery.lease_until:
                    self._release(delivery)
                else:
                    try:
                        remove(delivery)
                    except KeyError:
                        raise self._refusal(delivery) from None
            except (AlreadySettled, LeaseLost, Closed) as refused:
                error = error or refused
            else:
                mine.append(delivery)
        if mine:
            self.receiver.ack(mine)
            if self.on_settled:
                for delivery in mine:
                    call_hooks(self.seldom, self.on_settled, delivery, "ack")
        if error is not None:
            raise error

    def nack(self, delivery: Delivery, delay: Seconds, error: BaseException | None = None) -> None:
        """See `Delivery.nack`; `error` is why, for the provenance of a dead letter."""
        delay = seconds(delay, "delay", zero=True)
        if delay:
            self.capabilities.require("nack_delay")
            self.capabilities.require_at_most("max_nack_delay", "delay", delay)
        self._release(delivery)
        if self.max_deliveries is not None and delivery.attempt >= self.max_deliveries:
            self._move_to_dead_letters(delivery, EXHAUSTED, error)
        else:
            self.receiver.nack(delivery, delay)
            if self.on_settled:
                call_hooks(self.seldom, self.on_settled, delivery, "nack")

    def reject(self, delivery: Delivery, reason: str, error: BaseException | None = None) -> None:
        """See `Delivery.reject`; `error` is why, for the provenance of the dead letter."""
        if type(reason) is not str:
            raise ConfigError(f"the reason must be str, not {type(reason).__name__}")
        self._release(delivery)
        self._move_to_dead_letters(delivery, reason, error)

    def extend(self, delivery: Delivery, duration: Seconds) -> None:
        """See `Delivery.extend`."""
        self.capabilities.require("extend")
        duration = seconds(duration, "duration")
        self.capabilities.require_at_most("max_lease", "lease", duration)
        if delivery not in self.held:
            raise self._refusal(delivery)
        self.receiver.extend(delivery, duration)

    def _release(self, delivery: Delivery) -> None:
        """Become the one that settles the delivery, or raise."""
        if delivery.lease_until and time.monotonic() >= delivery.lease_until:
            self.lost((delivery,))
        try:
            self.held.remove(delivery)
        except KeyError:
            raise self._refusal(delivery) from None

    def _refusal(self, delivery: Delivery) -> UnimqError:
        if self.abandoned:
            return Closed(self.abandoned)
        if delivery.lost:
            return LeaseLost(
                f"message {delivery.id} from {self.source_name!r} is not held here any more; it comes or came again"
            )
        return AlreadySettled(f"message {delivery.id} from {self.source_name!r} was settled before")

    # Dead letters.

    def _settle_dead(self, delivery: Delivery, reason: str, *, keep: bool, error: BaseException | None = None) -> None:
        try:
            self._release(delivery)
        except LeaseLost:
            return
        if keep:
            self._move_to_dead_letters(delivery, reason, error)
        else:
            self._drop(delivery)

    def _drop(self, delivery: Delivery) -> None:
        self.receiver.ack((delivery,))
        if self.on_settled:
            call_hooks(self.seldom, self.on_settled, delivery, "dropped")

    def _move_to_dead_letters(self, delivery: Delivery, reason: str, error: BaseException | None = None) -> None:
        """Send the copy; the original is settled only when the copy is confirmed (A8)."""
        if self.dead_letters is None:
            if reason in {EXHAUSTED, UNDECODABLE}:
                self.seldom.say(
                    "dropped",
                    "message %s from %r dropped (%s, delivery %d): no dead-letter queue is declared",
                    delivery.id,
                    self.source_name,
                    reason,
                    delivery.attempt,
                    source=self.source_name,
                    message_id=delivery.id,
                    reason=reason,
                )
            self._drop(delivery)
            return
        with self.lock:
            self.moves_under_way += 1
        self.dead_letters.send(
            delivery, reason, self.source_name, error, lambda failure: self._moved(delivery, failure)
        )

    def _moved(self, delivery: Delivery, error: UnimqError | None) -> None:
        if error is None:
            self.receiver.ack((delivery,))
            if self.on_settled:
                call_hooks(self.seldom, self.on_settled, delivery, "dead")
        else:
            self.seldom.say(
                "dead-letter-failed",
                "dead-letter copy of message %s from %r failed: %s",
                delivery.id,
                self.source_name,
                error,
                level=logging.ERROR,
                source=self.source_name,
                message_id=delivery.id,
            )
            delay = RETRY_AFTER_FAILED_DEAD_LETTER if self.capabilities.nack_delay else 0.0
            self.receiver.nack(delivery, delay)
            if self.on_settled:
                call_hooks(self.seldom, self.on_settled, delivery, "nack")
        with self.lock:
            self.moves_under_way -= 1
            if error is not None:
                self.move_errors.append(error)
        if not self.moves_under_way:
            self.moves_done.wake_all()

    # Waiting and closing.

    def moves_finished(self) -> Literal[True] | None:
        """Attempt for the fronts: true while no dead-letter copy is under way."""
        return True if not self.moves_under_way else None

    def start_barrier(self) -> SettleBarrier:
        """Ask the driver to confirm the settlements handed over so far (A1); call after `moves_finished`.

        Raises:
            Closed: the consumer was closed, which confirmed them; or they belong to the parent process (L2).

        """
        self._check_open()
        return self.last_barrier()

    def last_barrier(self) -> SettleBarrier:
        """`start_barrier`, also for a consumer that is closed: then the receiver has nothing to wait for."""
        with self.lock:
            move_errors, self.move_errors = self.move_errors, []
        barrier = SettleBarrier()
        self.receiver.barrier(lambda errors: barrier.finish((*move_errors, *errors)))
        return barrier

    def settle_overdue(self) -> ConnectionLost:
        """Return the error for a `settle` that ran out of time (A1)."""
        return ConnectionLost(
            f"the settlements of {self.source_name!r} were not confirmed in time; unconfirmed messages may come again"
        )

    def pause(self) -> None:
        """See `Consumer.pause`."""
        self.capabilities.require("pause")
        self._check_open()
        self.receiver.pause()

    def resume(self) -> None:
        """See `Consumer.resume`."""
        self.capabilities.require("pause")
        self._check_open()
        self.receiver.resume()

    def _check_open(self) -> None:
        if self.closed:
            raise Closed(self.closed)

    def stop(self, reason: str) -> bool:
        """Hand out nothing any more and wake everybody who waits; false if that was done before (L1)."""
        with self.lock:
            if self.closed:
                return False
            self.closed = reason
        self.arrived.wake_all()
        return True

    def let_go(self) -> None:
        """Give up what is held here: settling it raises `LeaseLost` from now on."""
        self.lost(list(self.held))
        self.buffer.clear()
