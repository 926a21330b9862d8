"""The driver of RabbitMQ: two connections in one thread, administration, and what this broker's version can do."""

import re
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import msgspec
import pika
from pika import exceptions

from unimq import ConnectionLost, DeclarationConflict, Queue, Stats, Subscription, Topic, UnimqError
from unimq.adapter import (
    REPLY_PREFIX,
    BrokerURL,
    Capabilities,
    DeliverySink,
    OutcomeSink,
    Source,
    Target,
    emulated,
    native,
    queue_of,
    unsupported,
)
from unimq_rabbitmq import _errors, _frames, _key_lanes, _wire
from unimq_rabbitmq._addresses import address_of
from unimq_rabbitmq._conversation import Conversation, converse
from unimq_rabbitmq._delayed_nacks import DelayedNacks
from unimq_rabbitmq._delays import LONGEST
from unimq_rabbitmq._laned_receiver import LanedReceiver
from unimq_rabbitmq._link import Link
from unimq_rabbitmq._options import Endpoint, RabbitMQOptions
from unimq_rabbitmq._receiver import RabbitMQReceiver
from unimq_rabbitmq._sender import RabbitMQSender
from unimq_rabbitmq._thread import IOThread

T = TypeVar("T")

_FAREWELL = 1.0
_FRAME_OVERHEAD = 8
_LIMIT, _LIMIT_BEFORE_4 = 16 * 1024 * 1024, 128 * 1024 * 1024
"""The broker's defaults for a message in bytes; where an operator changed it, the broker refuses and the sender reports
that."""
_ASSUMED_VERSION = "4"
"""What `unimq check` takes for granted."""
_REPLY_QUEUE_EXPIRES = 30 * 60_000
"""Milliseconds after which the broker deletes a reply queue whose requester crashed, so that nobody reads it."""


class RabbitMQAdapter:
    """``amqp://`` and ``amqps://``."""

    schemes: ClassVar[Sequence[str]] = ("amqp", "amqps")
    options: ClassVar[type[msgspec.Struct]] = RabbitMQOptions

    def connect(self, url: BrokerURL, options: RabbitMQOptions, *, timeout: float) -> "RabbitMQDriver":
        """Connect and log in; see `unimq.adapter.Adapter.connect`. Every host is tried once."""
        endpoint = Endpoint(url, options)
        framing = _frames.framing(options.frames)
        thread = IOThread(f"unimq-rabbitmq-{endpoint}")
        consuming = Link(thread, endpoint, "consuming", timeout, framing)
        publishing = Link(thread, endpoint, "publishing", timeout, framing)
        contact = _FirstContact(consuming)
        thread.post(consuming.attach, contact)
        try:
            version = contact.version.result(timeout + _FAREWELL)
        except NoAnswer:
            RabbitMQDriver.shut_down(thread, (consuming, publishing), _FAREWELL)
            raise ConnectionLost(f"{endpoint} did not answer within {timeout:g} s") from consuming.last_error
        except BaseException:
            RabbitMQDriver.shut_down(thread, (consuming, publishing), _FAREWELL)
            raise
        return RabbitMQDriver(thread, consuming, publishing, version, options)

    def offline_capabilities(self, url: BrokerURL, options: RabbitMQOptions) -> Capabilities:
        """See `unimq.adapter.OfflineAdapter`."""
        Endpoint(url, options)
        return _capabilities(_ASSUMED_VERSION, _wire.Limits(_LIMIT, options.frame_max - _FRAME_OVERHEAD))


class _FirstContact:
    """Waits for the first connection; unlike later ones it gives up when no host answers."""

    def __init__(self, link: Link) -> None:
        self.version: Future[str] = Future()
        self._link = link
        self._failures = 0

    def connected(self) -> None:
        connection = self._link.connection
        self._link.detach(self)
        properties: dict[str, Any] = getattr(connection, "server_properties", None) or {}
        version = properties.get("version", "")
        self.version.set_result(version.decode() if isinstance(version, bytes) else str(version))

    def unreachable(self, error: UnimqError) -> None:
        self._failures += 1
        if self._failures >= len(self._link.endpoint.hosts):
            self.ended(error)

    def ended(self, error: UnimqError) -> None:
        self._link.detach(self)
        if not self.version.done():
            self.version.set_exception(error)


def _is_before(version: str, major: int, minor: int) -> bool:
    """Tell whether a broker is older; one that does not say its version is taken for a new one."""
    found = re.match(r"(\d+)(?:\.(\d+))?", version)
    return found is not None and (int(found[1]), int(found[2] or 0)) < (major, minor)


def _is_before_4(version: str) -> bool:
    return _is_before(version, 4, 0)


def _returns_to_head(version: str) -> bool:
    """Tell whether a rejected message is the next one again: so on 4.3.6, behind all others on 3.10.8 and 4.0.5."""
    return not _is_before(version, 4, 1)


def _gives_way(version: str) -> bool:
    """Tell whether an active consumer makes way for one of higher priority, and the queue goes on then in every case.

    4.0.5 does. Of 4.3.6 a queue was seen that gave nothing to anybody any more, under consumers that come and go.
    """
    return version.startswith("4.0.")


def _capabilities(version: str, limits: _wire.Limits) -> Capabilities:
    return Capabilities(
        backend="rabbitmq",
        broker_version=version,
        client_version=pika.__version__,
        durable=native("quorum queues; one killed in the first second of its existence may lose its content"),
        topics=native("deleting a topic deletes the subscriptions this connection knows: AMQP cannot list the others"),
        start_earliest=unsupported("an exchange keeps no history", "declare the subscription before sending"),
        require_subscription=native("messages are mandatory"),
        ordering_key=emulated("one active consumer of a queue at a time, which hands out one of a key at a time"),
        delay=emulated("a queue per length of delay, up to an eighth longer; stats and purge do not see what waits"),
        ttl=emulated("checked at delivery"),
        nack_delay=emulated("a confirmed copy in a queue of delays, up to an eighth longer"),
        lease=unsupported("the consumer_timeout of the broker (30 minutes) is its only lease", "set it on the broker"),
        extend=unsupported("RabbitMQ has no lease per delivery", "nothing: the delivery is held while connected"),
        max_length=native("a quorum queue takes some messages more; a full subscription gives SendUnknown"),
        drop_oldest=native("a quorum queue takes some messages more"),
        dead_letter=emulated("a confirmed copy, then the ack; what drop_oldest drops is not dead-lettered"),
        redrive_subscription=native("by the default exchange, straight to its queue"),
        stats=native("ready and consumers; AMQP does not say the rest"),
        purge=native("what consumers hold stays"),
        pause=native(),
        attempts_exact=True,
        ordered_attempts="a nacked message waits in its consumer, whose end undoes what was counted meanwhile",
        # A consumer that closes gives back by `basic.nack`, which newer ones do not count; a lost connection counts.
        shutdown_counts=_is_before(version, 4, 3),
        acks_at_risk="a crash of the broker undoes acks of its last 20 ms",
        max_message_bytes=limits.message,
        max_header_bytes=limits.frame,
        max_field_bytes=_wire.LONGEST_SHORT,
        max_delay=LONGEST,
        cloudevents="amqp",
        max_nack_delay=LONGEST,
    )


class RabbitMQDriver:
    """One I/O thread with a consuming connection, which also carries administration, and a publishing one.

    Two, because a broker in alarm stops reading from a connection that publishes: acks on it would not arrive.
    """

    def __init__(
        self,
        thread: IOThread,
        consuming: Link,
        publishing: Link,
        version: str,
        options: RabbitMQOptions,
    ) -> None:
        self._thread = thread
        self._consuming = consuming
        self._publishing = publishing
        self._before_4 = _is_before_4(version)
        self._gives_way = _gives_way(version)
        self._returns_to_head = _returns_to_head(version)
        self._limits = _wire.Limits(_LIMIT_BEFORE_4 if self._before_4 else _LIMIT, options.frame_max - _FRAME_OVERHEAD)
        self._key_lanes = options.key_lanes
        self.capabilities = _capabilities(version, self._limits)
        self._subscriptions: dict[str, set[str]] = {}
        """Queues of the subscriptions that were declared here, by topic."""
        self._delay_queues: defaultdict[str, set[str]] = defaultdict(set)
        """Queues of delays that were declared here, by queue or topic; grows under the lock, its sets in the thread."""
        self._lanes: dict[str, Sequence[str]] = {}
        """Lanes of the queues that were declared or looked up here; empty for one that has none. To ask the broker for
        what is not there costs a channel each time, and a warning in the log of pika."""
        self._lock = threading.Lock()
        """Guards `_subscriptions`, `_delay_queues`, `_lanes` and `_closed`."""
        self._closed = False

    @property
    def native(self) -> object:
        """The consuming ``pika.SelectConnection``; touch it in its own thread only, through
        ``connection.ioloop.add_callback_threadsafe``. `None` while there is no connection.
        """
        return self._consuming.connection

    @property
    def reconnects(self) -> int:
        """See `unimq.adapter.Reconnecting`; of both connections."""
        return self._consuming.reconnects + self._publishing.reconnects

    # Administration.

    def declare(
        self, destination: Queue | Topic | Subscription, *, as_is: bool, timeout: float
    ) -> Queue | Topic | Subscription:
        """See `unimq.adapter.Driver.declare`.

        The broker keeps and compares ``max_length``, ``overflow`` and ``key_lanes``; the other policies are applied by
        unimq and are unknown to it.
        """

        def create(talk: Conversation) -> Queue | Topic | Subscription:
            if isinstance(destination, Topic):
                address = address_of(destination)
                if address.is_foreign:
                    talk.ask("exchange_declare", exchange=address.exchange, passive=True)
                elif not (as_is and talk.exists("exchange", destination.name)):
                    talk.ask("exchange_declare", exchange=destination.name, exchange_type="fanout", durable=True)
                return destination
            queue = queue_of(destination)
            lanes = self._declare_queue(talk, queue, as_is=as_is)
            with self._lock:
                self._lanes[queue.name] = lanes
            if isinstance(destination, Queue):
                # A bare name does not say that its messages have an order.
                return replace(destination, ordering="key") if lanes else destination
            source, routing_key, _ = address_of(destination.topic)
            if lanes:
                exchange = _key_lanes.exchange_of(queue.name)
                talk.ask("exchange_bind", destination=exchange, source=source, routing_key=routing_key)
            else:
                talk.ask("queue_bind", queue=queue.name, exchange=source, routing_key=routing_key)
            return destination

        in_force: Queue | Topic | Subscription = self._converse(destination, timeout, create)
        if isinstance(destination, Subscription):
            with self._lock:
                self._subscriptions.setdefault(destination.topic.name, set()).add(destination.queue.name)
        return in_force

    def _declare_queue(self, talk: Conversation, queue: Queue, *, as_is: bool) -> Sequence[str]:
        """Return the lanes of the queue, having declared it with as many as are wanted, or accepted it as it is."""
        count = self._key_lanes if queue.ordering == "key" else 1
        there = "exists with other properties"
        # Names of reply queues are never used twice, so nobody has made one with lanes.
        is_new = not queue.name.startswith(REPLY_PREFIX) and not talk.exists("queue", queue.name)
        found = _key_lanes.find(talk, queue.name) if is_new else ()
        if as_is and (found or not is_new):
            return found
        if count > 1 and not is_new:
            raise DeclarationConflict(f"queue {queue.name!r} {there}: it has no lanes there, key_lanes is {count} here")
        if count == 1:
            if found:
                raise DeclarationConflict(f"queue {queue.name!r} {there}: key_lanes is {len(found)} there, 1 here")
            talk.ask("queue_declare", queue=queue.name, durable=True, arguments=self._arguments(queue))
            return ()
        share = queue if queue.max_length is None else replace(queue, max_length=-(-queue.max_length // count))
        return _key_lanes.declare(talk, queue.name, count, self._arguments(share))

    def _lanes_of(self, talk: Conversation, queue: Queue) -> Sequence[str]:
        """Return the lanes of an existing queue; none if it has none."""
        with self._lock:
            known = self._lanes.get(queue.name)
        if known is not None:
            return known
        if queue.ordering == "none" and talk.exists("queue", queue.name):
            return ()
        return _key_lanes.find(talk, queue.name)

    def _queues(self, talk: Conversation, queue: Queue) -> Sequence[str]:
        """Return the queues of the broker that make up this one."""
        return self._lanes_of(talk, queue) or (queue.name,)

    def _arguments(self, queue: Queue) -> dict[str, Any]:
        arguments: dict[str, Any] = {"x-queue-type": "quorum"}
        if not self._before_4:
            # From 4.0 on the broker drops after 20 failures by itself. Before, -1 would drop at the first one.
            arguments["x-delivery-limit"] = -1
        if queue.name.startswith(REPLY_PREFIX):
            arguments["x-expires"] = _REPLY_QUEUE_EXPIRES
        if queue.max_length is not None:
            arguments["x-max-length"] = queue.max_length
            arguments["x-overflow"] = "reject-publish" if queue.overflow == "reject" else "drop-head"
        if queue.ordering == "key":
            arguments["x-single-active-consumer"] = True
        return arguments

    def check(self, destination: Queue | Topic | Subscription, *, timeout: float) -> None:
        """See `unimq.adapter.Driver.check`."""

        def look(talk: Conversation) -> None:
            if not isinstance(destination, Queue):
                topic = destination if isinstance(destination, Topic) else destination.topic
                talk.ask("exchange_declare", exchange=address_of(topic).exchange, passive=True)
            if not isinstance(destination, Topic):
                queue = queue_of(destination)
                lanes = self._lanes_of(talk, queue)
                for name in lanes or (queue.name,):
                    talk.ask("queue_declare", queue=name, passive=True)
                with self._lock:
                    self._lanes[queue.name] = lanes

        self._converse(destination, timeout, look)

    def delete(self, destination: Queue | Topic | Subscription, *, timeout: float) -> None:
        """See `unimq.adapter.Driver.delete`; subscriptions and queues of delays go with it if declared here."""
        with self._lock:
            if isinstance(destination, Topic):
                queues = self._subscriptions.pop(destination.name, set())
            else:
                queues = {queue_of(destination).name}
                for known in self._subscriptions.values():
                    known -= queues
            names = {destination.name} if isinstance(destination, Topic) else queues
            lanes = {name: self._lanes.pop(name) for name in queues if name in self._lanes}
            queues = queues.union(*(set(self._delay_queues.pop(name, ())) for name in {*names, *queues}))

        def remove(talk: Conversation) -> None:
            # The exchange first: a message that is sent meanwhile is refused then, and not lost.
            if isinstance(destination, Topic) and not address_of(destination).is_foreign:
                talk.ask("exchange_delete", exchange=destination.name)
            for name in queues:
                if lanes.get(name) != ():
                    _key_lanes.remove(talk, name)
                talk.ask("queue_delete", queue=name)

        self._converse(destination, timeout, remove)

    def purge(self, source: Source, *, timeout: float) -> int | None:
        """See `unimq.adapter.Driver.purge`."""

        def drop(talk: Conversation) -> int:
            answers = [talk.ask("queue_purge", queue=name) for name in self._queues(talk, queue_of(source))]
            return sum(int(answer.method.message_count) for answer in answers)

        return self._converse(source, timeout, drop)

    def stats(self, source: Source, *, timeout: float) -> Stats:
        """See `unimq.adapter.Driver.stats`."""

        def count(talk: Conversation) -> Stats:
            names = self._queues(talk, queue_of(source))
            found = [talk.ask("queue_declare", queue=name, passive=True).method for name in names]
            # Every consumer is one of each lane.
            consumers = max(int(each.consumer_count) for each in found)
            trouble = "; ".join(filter(None, (self._publishing.trouble, self._consuming.trouble)))
            return Stats(ready=sum(int(each.message_count) for each in found), consumers=consumers, trouble=trouble)

        return self._converse(source, timeout, count)

    def _converse(
        self, about: Queue | Topic | Subscription, timeout: float, operation: Callable[[Conversation], T]
    ) -> T:
        try:
            return converse(self._consuming, timeout, operation)
        except (exceptions.AMQPError, ValueError, TypeError) as error:
            name = about.queue.name if isinstance(about, Subscription) else about.name
            raise _errors.from_channel(error, f"{type(about).__name__.lower()} {name!r}") from error

    def _delay_queues_of(self, name: str) -> set[str]:
        with self._lock:
            return self._delay_queues[name]

    # Data.

    def open_sender(self, target: Target, sink: OutcomeSink, *, timeout: float) -> RabbitMQSender:
        """See `unimq.adapter.Driver.open_sender`."""
        lanes = self._lanes_at_opening(target, timeout) if isinstance(target, Queue) else ()
        exchange = _key_lanes.exchange_of(target.name) if lanes else ""
        delay_queues = self._delay_queues_of(target.name)
        sender = RabbitMQSender(self._publishing, target, sink, self._limits, delay_queues, lanes=exchange)
        sender.open(timeout)
        return sender

    def _lanes_at_opening(self, queue: Queue, timeout: float) -> Sequence[str]:
        """Return the lanes of a queue that was declared or looked up, or of one that should have some."""
        with self._lock:
            # Not by its policies: a dead-letter queue is accepted as it is.
            known = self._lanes.get(queue.name)
        if known is not None or queue.ordering == "none":
            return known or ()
        return self._converse(queue, timeout, lambda talk: self._lanes_of(talk, queue))

    def open_receiver(
        self, source: Source, sink: DeliverySink, *, prefetch: int, timeout: float
    ) -> RabbitMQReceiver | LanedReceiver:
        """See `unimq.adapter.Driver.open_receiver`."""
        queue = queue_of(source)
        lanes = self._lanes_at_opening(queue, timeout)
        is_ordered = queue.ordering == "key"
        delays = DelayedNacks(self._publishing, queue.name, self._limits, self._delay_queues_of(queue.name))
        if lanes:
            laned = LanedReceiver(self._consuming, lanes, sink, prefetch, delays, spreads=self._gives_way)
            laned.open(timeout)
            return laned
        receiver = RabbitMQReceiver(
            self._consuming,
            queue.name,
            sink,
            prefetch,
            delays,
            is_ordered=is_ordered,
            returns_to_head=self._returns_to_head,
        )
        receiver.open(timeout)
        return receiver

    def close(self, timeout: float) -> None:
        """See `unimq.adapter.Driver.close`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.shut_down(self._thread, (self._consuming, self._publishing), timeout)

    @staticmethod
    def shut_down(thread: IOThread, links: Sequence[Link], timeout: float) -> None:
        """Close the connections, by force after `timeout` seconds, and end the thread."""
        open_links = list(links)

        def closed() -> None:
            open_links.pop()
            if not open_links:
                thread.stop()

        def close_links(_: None) -> None:
            if thread.failure is None:
                for link in links:
                    link.close(timeout, closed)

        thread.post(close_links, None)
        thread.join(timeout + _FAREWELL)
