"""unimq itself: `Producer.enqueue` in a window, `Consumer.receive` and batched acks."""

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from unimq_bench.rows.protocol import Batch, Description, NotTaken
from unimq_bench.rows.sqs_requests import RequestCounter

if TYPE_CHECKING:
    import unimq

_DURABILITY = {"memory": "memory", "rabbitmq": "fsync", "kafka": "leader memory", "sqs": "replicated(3)"}
"""A quorum queue of one node syncs each write; a Kafka broker without replicas acks from its page cache."""
_CLIENTS = {"rabbitmq": "pika", "kafka": "confluent-kafka", "sqs": "boto3"}
_TIMEOUT = 30.0


class Sender:
    """`enqueue`, which is pipelined; failures come at `flush`."""

    def __init__(self, producer: "unimq.Producer") -> None:
        self._producer = producer
        self._enqueue = producer.enqueue
        self._ids: list[str] = []
        self._bodies: list[bytes] = []

    def send(self, body: bytes) -> None:
        """See `protocol.Sender`."""
        from unimq import BufferFull, SendRejected

        try:
            self._ids.append(self._enqueue(body))
        except (BufferFull, SendRejected) as error:
            raise NotTaken(str(error)) from error
        self._bodies.append(body)

    def flush(self) -> Sequence[bytes]:
        """See `protocol.Sender`."""
        from unimq import SendRejected, SendUnknown

        failed: list[bytes] = []
        try:
            self._producer.flush(_TIMEOUT)
        except (SendRejected, SendUnknown) as error:
            bodies = dict(zip(self._ids, self._bodies, strict=True))
            outcomes = [outcome for outcome in error.outcomes if isinstance(outcome, SendRejected | SendUnknown)]
            failed = [bodies[outcome.message_id] for outcome in outcomes]
        self._ids.clear()
        self._bodies.clear()
        return failed

    def close(self) -> None:
        """See `protocol.Sender`."""
        self._producer.close()


class Receiver:
    """`receive`, and the acks of a batch in one call."""

    def __init__(self, consumer: "unimq.Consumer") -> None:
        self._consumer = consumer
        self.receive_native = consumer.receive

    def receive(self, max_messages: int, timeout: float) -> Batch:
        """See `protocol.Receiver`."""
        deliveries = self.receive_native(max_messages, timeout)
        return Batch([delivery.body for delivery in deliveries], deliveries)

    def ack(self, batch: Batch) -> None:
        """See `protocol.Receiver`."""
        self._consumer.ack(batch.token)

    def settle_each(self, batch: Batch, nacked: Sequence[int], rejected: Sequence[int]) -> None:
        """See `protocol.Redelivering`."""
        deliveries = batch.token
        for index in nacked:
            deliveries[index].nack()
        for index in rejected:
            deliveries[index].reject("poison")
        others = {*range(len(deliveries))}.difference(nacked, rejected)
        self._consumer.ack(deliveries[index] for index in sorted(others))

    def settle(self) -> None:
        """See `protocol.Receiver`."""
        from unimq import ConnectionLost, LeaseLost

        try:
            self._consumer.settle(_TIMEOUT)
        except (ConnectionLost, LeaseLost):
            # Those messages come again, which the accounting counts.
            return

    def close(self) -> None:
        """See `protocol.Receiver`."""
        self._consumer.close()


class Connection:
    """One `unimq.Broker`."""

    def __init__(self, broker: "unimq.Broker", settings: Mapping[str, str], counter: RequestCounter | None) -> None:
        self._broker = broker
        self._settings = settings
        self._counter = counter

    @property
    def description(self) -> Description:
        """See `protocol.Connection`."""
        found = self._broker.capabilities
        client = _CLIENTS.get(found.backend)
        versions = {"unimq": _version("unimq")} | ({client: _version(client)} if client else {})
        durability = _DURABILITY.get(found.backend, "durable" if found.durable else "memory")
        return Description(
            durability="memory" if found.emulator else durability,
            emulated=found.emulator,
            client_settings=self._settings,
            broker_settings={"version": found.broker_version, "durable": found.durable.note} if client else {},
            versions=versions,
        )

    def prepare(self, queue: str) -> None:
        """See `protocol.Connection`."""
        self.remove(queue)
        self._broker.declare(queue)

    def remove(self, queue: str) -> None:
        """See `protocol.Connection`."""
        self._broker.delete(queue)
        self._broker.delete(f"{queue}-dead")

    def open_sender(self, queue: str, *, window: int) -> Sender:
        """See `protocol.Connection`."""
        return Sender(self._broker.producer(queue, window=window, timeout=_TIMEOUT))

    def open_receiver(self, queue: str, *, prefetch: int) -> Receiver:
        """See `protocol.Connection`."""
        return Receiver(self._broker.consumer(queue, prefetch=prefetch))

    def counters(self) -> Mapping[str, int]:
        """See `protocol.Connection`."""
        return {} if self._counter is None else self._counter.counts()

    def close(self) -> None:
        """See `protocol.Connection`."""
        self._broker.close()


def connect(url: str, options: Mapping[str, str]) -> Connection:
    """See `protocol.Connect`. Options are those of the URL."""
    import unimq

    joint = "&" if "?" in url else "?"
    asked = "&".join(f"{name}={value}" for name, value in options.items())
    broker = unimq.connect(url + (joint + asked if asked else ""))
    counter = None
    if broker.capabilities.backend == "sqs":
        clients: Any = broker.native
        counter = RequestCounter(clients.sqs, clients.polls)
    return Connection(broker, {**options, "send": "enqueue", "ack": "batched"}, counter)


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
