"""The driver of RabbitMQ: two connections in one thread, administration, and what this broker's version can do."""

import re
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from typing import Any, ClassVar

import msgspec
import pika
from pika import exceptions

from unimq import ConnectionLost, Queue, Stats, Subscription, Topic, UnimqError
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
from unimq_rabbitmq import _errors, _frames, _wire
from unimq_rabbitmq._conversation import Conversation, converse
from unimq_rabbitmq._delayed_nacks import DelayedNacks
from unimq_rabbitmq._delays import LONGEST
from unimq_rabbitmq._link import Link
from unimq_rabbitmq._options import Endpoint, RabbitMQOptions
from unimq_rabbitmq._receiver import RabbitMQReceiver
from unimq_rabbitmq._sender import RabbitMQSender
from unimq_rabbitmq._thread import IOThread

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
        return RabbitMQDriver(thread, consuming, publishing, version, options.frame_max)

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


def _is_before_4(version: str) -> bool:
    major = re.match(r"\d+", version)
    return major is not None and int(major[0]) < 4


def _capabilities(version: str, limits: _wire.Limits) -> Capabilities:
    return Capabilities(
        backend="rabbitmq",
        broker_version=version,
        client_version=pika.__version__,
        durable=native("quorum queues; one killed in the first second of its existence may lose its content"),
        topics=native("deleting a topic deletes the subscriptions this connection knows: AMQP cannot list the others"),
        start_earliest=unsupported("an exchange keeps no history", "declare the subscription before sending"),
        require_subscription=native("messages are mandatory"),
        ordering_key=unsupported("before RabbitMQ 4 what returns to a queue comes behind the rest", "RabbitMQ 4")
        if _is_before_4(version)
        else emulated("one active consumer of a queue at a time, which hands out one message of a key at a time"),
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
        shutdown_counts=True,
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

    def __init__(self, thread: IOThread, consuming: Link, publishing: Link, version: str, frame_max: int) -> None:
        self._thread = thread
        self._consuming = consuming
        self._publishing = publishing
        self._before_4 = _is_before_4(version)
        self._limits = _wire.Limits(_LIMIT_BEFORE_4 if self._before_4 else _LIMIT, frame_max - _FRAME_OVERHEAD)
        self.capabilities = _capabilities(version, self._limits)
        self._subscriptions: dict[str, set[str]] = {}
        """Queues of the subscriptions that were declared here, by topic."""
        self._delay_queues: defaultdict[str, set[str]] = defaultdict(set)
        """Queues of delays that were declared here, by queue or topic; grows under the lock, its sets in the thread."""
        self._lock = threading.Lock()
        """Guards `_subscriptions`, `_delay_queues` and `_closed`."""
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

        The broker keeps and compares ``max_length`` and ``overflow``; the other policies are applied by unimq and are
        unknown to it.
        """

        def create(talk: Conversation) -> None:
            if isinstance(destination, Topic):
                if not (as_is and talk.exists("exchange", destination.name)):
                    talk.ask("exchange_declare", exchange=destination.name, exchange_type="fanout", durable=True)
                return
            queue = queue_of(destination)
            if not (as_is and talk.exists("queue", queue.name)):
                talk.ask("queue_declare", queue=queue.name, durable=True, arguments=self._arguments(queue))
            if isinstance(destination, Subscription):
                talk.ask("queue_bind", queue=queue.name, exchange=destination.topic.name)

        self._converse(destination, timeout, create)
        if isinstance(destination, Subscription):
            with self._lock:
                self._subscriptions.setdefault(destination.topic.name, set()).add(destination.queue.name)
        return destination

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
                talk.ask("exchange_declare", exchange=topic.name, passive=True)
            if not isinstance(destination, Topic):
                talk.ask("queue_declare", queue=queue_of(destination).name, passive=True)

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
            queues = queues.union(*(set(self._delay_queues.pop(name, ())) for name in {*names, *queues}))

        def remove(talk: Conversation) -> None:
            # The exchange first: a message that is sent meanwhile is refused then, and not lost.
            if isinstance(destination, Topic):
                talk.ask("exchange_delete", exchange=destination.name)
            for name in queues:
                talk.ask("queue_delete", queue=name)

        self._converse(destination, timeout, remove)

    def purge(self, source: Source, *, timeout: float) -> int | None:
        """See `unimq.adapter.Driver.purge`."""
        name = queue_of(source).name
        answer = self._converse(source, timeout, lambda talk: talk.ask("queue_purge", queue=name))
        return int(answer.method.message_count)

    def stats(self, source: Source, *, timeout: float) -> Stats:
        """See `unimq.adapter.Driver.stats`."""
        name = queue_of(source).name
        answer = self._converse(source, timeout, lambda talk: talk.ask("queue_declare", queue=name, passive=True))
        return Stats(ready=int(answer.method.message_count), consumers=int(answer.method.consumer_count))

    def _converse(
        self, about: Queue | Topic | Subscription, timeout: float, operation: Callable[[Conversation], Any]
    ) -> Any:
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
        sender = RabbitMQSender(self._publishing, target, sink, self._limits, self._delay_queues_of(target.name))
        sender.open(timeout)
        return sender

    def open_receiver(self, source: Source, sink: DeliverySink, *, prefetch: int, timeout: float) -> RabbitMQReceiver:
        """See `unimq.adapter.Driver.open_receiver`."""
        name = queue_of(source).name
        delays = DelayedNacks(self._publishing, name, self._limits, self._delay_queues_of(name))
        receiver = RabbitMQReceiver(
            self._consuming, name, sink, prefetch, delays, is_ordered=queue_of(source).ordering == "key"
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
