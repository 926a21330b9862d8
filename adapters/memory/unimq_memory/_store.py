"""The queues of one in-memory broker. One lock, `Store.lock`, guards everything in this module."""

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from unimq import NotFound, Queue, QueueFull, Topic, UnimqError, Unroutable
from unimq.adapter import Delivery, DeliverySink, Message, Outgoing


class Stored(msgspec.Struct, eq=False):
    """One message in one queue; it is the token of its deliveries."""

    message: Message
    attempts: int = 0
    current: Delivery | None = None
    """The one delivery that may settle it. A delivery of an earlier lease is not this one: that is the fence (A6)."""


class MemoryReceiver:
    """One consumer's place at a queue: what it holds, in the order of the ends of the leases."""

    def __init__(self, queue: "MemoryQueue", sink: DeliverySink, prefetch: int) -> None:
        self.queue = queue
        self.sink = sink
        self.prefetch = prefetch
        self.paused = False
        self.closed = False
        self.held: dict[Stored, float] = {}
        """Unsettled messages and the `time.monotonic` at which their lease ends (0 without a lease)."""

    def free(self) -> int:
        """Return how many more messages it takes (R3)."""
        return 0 if self.paused else self.prefetch - len(self.held)


class MemoryQueue:
    """One queue, or the queue of one subscription."""

    def __init__(self, store: "Store", policy: Queue) -> None:
        self.store = store
        self.policy = policy
        self.ordered = policy.ordering == "key"
        self.is_unlimited = policy.max_length is None
        self.lease = policy.lease_seconds or 0.0
        self.deleted = False
        self.ready: deque[Stored] = deque()
        self.delayed = 0
        """Messages of this queue in the heap of the store."""
        self.busy: set[str] = set()
        """Keys with a message in flight, or with a head that waits for its nack delay (O1)."""
        self.lanes: dict[str, deque[Stored]] = {}
        """Messages that wait behind the one of their key (O1)."""
        self.receivers: list[MemoryReceiver] = []

    # Coming in.

    def waiting(self) -> int:
        """Return the messages that nobody holds."""
        return len(self.ready) + self.delayed + sum(map(len, self.lanes.values()))

    def is_full(self) -> bool:
        """Tell whether one more message is to be refused (T3)."""
        policy = self.policy
        return policy.max_length is not None and policy.overflow == "reject" and self.waiting() >= policy.max_length

    def put_unlimited(self, entries: Iterable[Outgoing]) -> None:
        """Store messages in a queue without ``max_length`` and hand them out."""
        append = self.ready.append
        for entry in entries:
            message = entry.message
            if message.delay:
                self.put(message)
            else:
                append(Stored(message))
        self.dispatch()

    def put(self, message: Message) -> None:
        """Store a message, dropping the oldest ones beyond ``max_length`` (T3); `dispatch` hands it out."""
        stored = Stored(message)
        if message.delay:
            self.store.schedule(time.monotonic() + message.delay, self, stored)
        else:
            self.ready.append(stored)
        limit = self.policy.max_length
        if limit is not None:
            while self.waiting() > limit and self.ready:
                self.ready.popleft()

    def is_due(self, stored: Stored, *, returned: bool) -> None:
        """Make a delayed message ready: a new one behind, a returned head of a key before its successors (O1)."""
        self.delayed -= 1
        if returned and self.ordered and stored.message.key is not None:
            self.busy.discard(stored.message.key)
            self.ready.appendleft(stored)
        else:
            self.ready.append(stored)

    # Going out.

    def dispatch(self) -> None:
        """Hand out ready messages to receivers with room, in turn, so that each gets work (G1)."""
        ready = self.ready
        if len(self.receivers) == 1:
            receiver = self.receivers[0]
            free = receiver.prefetch - len(receiver.held)
            if ready and free > 0 and not receiver.paused:
                self._deliver(receiver, free)
            return
        while ready:
            takers = [(receiver, free) for receiver in self.receivers if (free := receiver.free()) > 0]
            if not takers:
                return
            share = -(-len(ready) // len(takers))
            for receiver, free in takers:
                self._deliver(receiver, min(share, free))
            self.receivers.append(self.receivers.pop(0))

    def _deliver(self, receiver: MemoryReceiver, most: int) -> None:
        ready, held, sink, ordered = self.ready, receiver.held, receiver.sink, self.ordered
        lease_until = time.monotonic() + self.lease if self.lease else 0.0
        batch: list[Delivery] = []
        while ready and most:
            stored = ready.popleft()
            if ordered and not self._takes_key(stored):
                continue
            most -= 1
            stored.attempts = attempt = stored.attempts + 1
            stored.current = delivery = Delivery(stored.message, attempt, stored, sink, None, lease_until)
            held[stored] = lease_until
            batch.append(delivery)
        if batch:
            if lease_until:
                self.store.wake_at(lease_until)
            sink.deliver(batch)

    def _takes_key(self, stored: Stored) -> bool:
        """Make the key of a message busy; if it is already, put the message into the lane of its key (O1)."""
        key = stored.message.key
        if key is None:
            return True
        if key in self.busy:
            self.lanes.setdefault(key, deque()).append(stored)
            return False
        self.busy.add(key)
        return True

    # Coming back.

    def settle(self, receiver: MemoryReceiver, deliveries: Iterable[Delivery]) -> None:
        """Forget acked messages, and let the next ones of their keys go (A1, O1)."""
        held = receiver.held
        for delivery in deliveries:
            stored: Stored = delivery.token  # type: ignore[assignment] # every token of this driver is one
            if stored.current is delivery:
                stored.current = None
                del held[stored]
                if self.ordered:
                    self._free_key(stored.message.key)

    def give_back(self, receiver: MemoryReceiver, delivery: Delivery, delay: float) -> None:
        """Take a nacked message back (A3). Without order it goes behind, so that poison blocks nobody (D1)."""
        stored: Stored = delivery.token  # type: ignore[assignment] # every token of this driver is one
        if stored.current is not delivery:
            return
        stored.current = None
        receiver.held.pop(stored, None)
        if delay:
            self.store.schedule(time.monotonic() + delay, self, stored, returned=True)
        elif self.ordered and stored.message.key is not None:
            self.busy.discard(stored.message.key)
            self.ready.appendleft(stored)
        else:
            self.ready.append(stored)

    def return_held(self, receiver: MemoryReceiver, held: Sequence[Stored], *, counts: bool) -> None:
        """Put what a receiver lost or leaves back to its place (A5)."""
        for stored in reversed(held):
            stored.current = None
            del receiver.held[stored]
            if not counts:
                stored.attempts -= 1
            if self.ordered and stored.message.key is not None:
                self.busy.discard(stored.message.key)
            self.ready.appendleft(stored)

    def end_leases(self, now: float) -> float | None:
        """Take back what is held past its lease (A5); return when the next lease ends."""
        next_end: float | None = None
        for receiver in self.receivers:
            over = [stored for stored, until in receiver.held.items() if until and until <= now]
            if over:
                deliveries = [stored.current for stored in over if stored.current is not None]
                self.return_held(receiver, over, counts=True)
                receiver.sink.lost(deliveries)
            ends = min((until for until in receiver.held.values() if until), default=None)
            if ends is not None and (next_end is None or ends < next_end):
                next_end = ends
        return next_end

    def extend(self, receiver: MemoryReceiver, delivery: Delivery, duration: float) -> None:
        """Prolong a lease (A10); a message without one has nothing to prolong."""
        stored: Stored = delivery.token  # type: ignore[assignment] # every token of this driver is one
        if self.lease and stored.current is delivery:
            delivery.lease_until = time.monotonic() + duration
            receiver.held[stored] = delivery.lease_until
            self.store.wake_at(delivery.lease_until)

    def purge(self) -> int:
        """Drop what nobody holds."""
        dropped = self.waiting()
        self.store.forget_delayed(self)
        self.delayed = 0
        self.ready.clear()
        self.lanes.clear()
        return dropped

    def _free_key(self, key: str | None) -> None:
        if key is None:
            return
        self.busy.discard(key)
        lane = self.lanes.get(key)
        if lane:
            # Older than anything of its key in `ready`, where it came from.
            self.ready.appendleft(lane.popleft())
        if not lane:
            self.lanes.pop(key, None)

    def messages(self) -> Iterable[Message]:
        """Yield the messages that are ready."""
        for stored in itertools.chain(self.ready, *self.lanes.values()):
            yield stored.message


class MemoryTopic:
    """One topic with the queues of its subscriptions."""

    def __init__(self, policy: Topic) -> None:
        self.policy = policy
        self.deleted = False
        self.queues: dict[str, MemoryQueue] = {}


class Store:
    """One in-memory broker: its queues, its topics, and the thread that watches delays and leases."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.RLock()
        self.queues: dict[str, MemoryQueue] = {}
        self.topics: dict[str, MemoryTopic] = {}
        self.connections = 0
        self._changed = threading.Condition(self.lock)
        self._sequence = itertools.count()
        self._delayed: list[tuple[float, int, MemoryQueue, Stored, bool]] = []
        self._clock: threading.Thread | None = None
        self._next_wake = float("inf")

    def put_all(self, queues: Sequence[MemoryQueue], messages: Iterable[Message]) -> dict[int, UnimqError]:
        """Store each message in every queue or, if one of them is full, in none; return the errors by position."""
        errors: dict[int, UnimqError] = {}
        for index, message in enumerate(messages):
            full = next((queue for queue in queues if queue.is_full()), None)
            if full is not None:
                errors[index] = QueueFull(
                    f"{full.policy.name!r} holds its max_length of {full.policy.max_length} messages",
                    message_id=message.id,
                )
                continue
            for queue in queues:
                queue.put(message)
            if errors or queues[0].policy.max_length is not None:
                # A waiting consumer makes room for the next message of this batch.
                for queue in queues:
                    queue.dispatch()
        for queue in queues:
            queue.dispatch()
        return errors

    def find_queue(self, name: str) -> MemoryQueue:
        """Return a queue, or raise `NotFound`."""
        try:
            return self.queues[name]
        except KeyError:
            raise NotFound(f"queue {name!r} does not exist on memory://{self.name}; declare it first") from None

    def find_topic(self, name: str) -> MemoryTopic:
        """Return a topic, or raise `NotFound`."""
        try:
            return self.topics[name]
        except KeyError:
            raise NotFound(f"topic {name!r} does not exist on memory://{self.name}; declare it first") from None

    def subscribers(self, topic: MemoryTopic) -> list[MemoryQueue]:
        """Return the queues that get a message of the topic (G2)."""
        if not topic.queues and topic.policy.require_subscription:
            raise Unroutable(f"topic {topic.policy.name!r} has no subscription, and require_subscription is set")
        return list(topic.queues.values())

    def delete_queue(self, name: str) -> None:
        """Delete a queue with its messages; its consumers end with `NotFound`."""
        queue = self.queues.pop(name, None)
        if queue is None:
            return
        queue.deleted = True
        self.forget_delayed(queue)
        for receiver in queue.receivers:
            receiver.sink.lost([stored.current for stored in receiver.held if stored.current is not None])
            receiver.sink.failed(NotFound(f"queue {name!r} was deleted"))
            receiver.held.clear()

    # Delays and leases.

    def schedule(self, due: float, queue: MemoryQueue, stored: Stored, *, returned: bool = False) -> None:
        """Make a message ready at `due` (`time.monotonic`)."""
        queue.delayed += 1
        heapq.heappush(self._delayed, (due, next(self._sequence), queue, stored, returned))
        self.wake_at(due)

    def forget_delayed(self, queue: MemoryQueue) -> None:
        """Drop the delayed messages of a queue."""
        self._delayed = [item for item in self._delayed if item[2] is not queue]
        heapq.heapify(self._delayed)

    def wake_at(self, due: float) -> None:
        """Have the clock look at delays and leases at `due`, starting it if it does not run."""
        if due >= self._next_wake:
            return
        self._next_wake = due
        if self._clock is None:
            self._clock = threading.Thread(target=self._watch, name=f"unimq-memory-{self.name}", daemon=True)
            self._clock.start()
        self._changed.notify_all()

    def _watch(self) -> None:
        with self.lock:
            while self.connections:
                now = time.monotonic()
                self._next_wake = self._fire(now)
                self._changed.wait(None if self._next_wake == float("inf") else max(0.0, self._next_wake - now))

    def _fire(self, now: float) -> float:
        touched: set[MemoryQueue] = set()
        while self._delayed and self._delayed[0][0] <= now:
            _, _, queue, stored, returned = heapq.heappop(self._delayed)
            queue.is_due(stored, returned=returned)
            touched.add(queue)
        next_wake = self._delayed[0][0] if self._delayed else float("inf")
        for queue in self.queues.values():
            if queue.lease:
                end = queue.end_leases(now)
                touched.add(queue)
                if end is not None:
                    next_wake = min(next_wake, end)
        self._next_wake = next_wake
        for queue in touched:
            queue.dispatch()  # may set an earlier `_next_wake` for new leases
        return self._next_wake

    # Connections.

    def attach(self) -> None:
        """Count a connection; a message whose delay ended while nobody was connected becomes ready now."""
        with self.lock:
            self.connections += 1
            if self.connections == 1 and self._delayed:
                self._next_wake = float("inf")
                self.wake_at(self._delayed[0][0])

    def detach(self) -> None:
        """Uncount a connection; with the last one the clock's thread ends (L4)."""
        with self.lock:
            self.connections -= 1
            clock, last = self._clock, not self.connections
            if last:
                self._clock = None
                self._next_wake = float("inf")
                self._changed.notify_all()
        if last and clock is not None:
            clock.join()


_stores: dict[str, Store] = {}
_stores_lock = threading.Lock()


def shared_store(name: str) -> Store:
    """Return the store of this name, which all connections of the process share."""
    with _stores_lock:
        return _stores.setdefault(name, Store(name))
