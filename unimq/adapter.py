"""The driver interface: all that a backend implements. `docs/adapters.md` shows how four different ones carry it.

An adapter turns a URL into a `Driver`. Everything that is the same for all backends lives above it and is written
once: validation, windows, waiting, timeouts, bookkeeping of settlements, expiry at delivery, dead letters, both fronts.

Rules that hold for every call:

* **Messages go down, outcomes and deliveries come up** through two sinks, from any thread. Sinks never block.
  `DeliverySink` never calls back into the driver, so it may be called under a driver's lock. `OutcomeSink` runs the
  callbacks of users and of dead letters, which may `submit`, `ack` and `nack` in the same call: hold no lock then.
* **Tokens are opaque.** A driver puts into `Delivery.token` whatever finds the delivery again, with the epoch (of
  connection, channel, assignment) in it, and fences with it: a token of an older epoch must never reach the broker.
* **The portable layer hands over each settlement once**, and only for deliveries that it holds. A driver that learns
  that it lost some (epoch over, lease over) says so by `DeliverySink.lost`.
* **Errors** are those of `unimq`; the client library's error is the ``__cause__`` (E1). No call raises anything else.
* **Timeouts** are seconds; every blocking call is bounded by one.
* A driver needs no locks of its own against the portable layer, but its calls come from many threads at once (L2).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import msgspec

from unimq._capabilities import Capabilities, Feature, Stats, Support, emulated, native, unsupported
from unimq._delivery import Delivery, Settler
from unimq._destinations import REPLY_PREFIX, Queue, Source, Subscription, Target, Topic, queue_of
from unimq._errors import UnimqError
from unimq._events import SeldomLog
from unimq._instruments import Reconnecting, RequestCount, Requesting
from unimq._lanes import Lanes
from unimq._load import Load
from unimq._mailbox import Mailbox
from unimq._message import NO_HEADERS, RESERVED_PREFIX, Headers, Message
from unimq._outgoing import Outgoing
from unimq._positions import CheckedPosition
from unimq._served import HurriedReceiver, ServedSender
from unimq._url import BrokerURL

__all__ = [
    "NO_HEADERS",
    "REPLY_PREFIX",
    "RESERVED_PREFIX",
    "Adapter",
    "BrokerURL",
    "Capabilities",
    "CheckedPosition",
    "Delivery",
    "DeliverySink",
    "Driver",
    "EstimatingAdapter",
    "Feature",
    "Headers",
    "HurriedReceiver",
    "Lanes",
    "Load",
    "Mailbox",
    "Message",
    "OfflineAdapter",
    "OutcomeSink",
    "Outgoing",
    "Queue",
    "Receiver",
    "Reconnecting",
    "RequestCount",
    "Requesting",
    "SeekingDriver",
    "SeldomLog",
    "Sender",
    "ServedSender",
    "Source",
    "Stats",
    "Subscription",
    "Support",
    "Target",
    "Topic",
    "emulated",
    "native",
    "queue_of",
    "unsupported",
]


class OutcomeSink(Protocol):
    """Where a sender reports what became of each message."""

    def stored(self, entries: Sequence[Outgoing]) -> None:
        """Report entries that the broker has confirmed as durably stored (S1). Set `Outgoing.position` before."""
        ...

    def failed(self, entries: Sequence[Outgoing], error: UnimqError) -> None:
        """Report entries that share one fate: `SendRejected` and its kin only if certainly not stored, else
        `SendUnknown` (S2).
        """
        ...


class DeliverySink(Settler, Protocol):
    """Where a receiver puts what it received. It is also the `Delivery.settler`."""

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Take deliveries in the order of the broker (O1); each was made with this sink as its settler.

        The receiver keeps delivered and unsettled ones together at or below its `prefetch` (R3).
        """
        ...

    def lost(self, deliveries: Sequence[Delivery]) -> None:
        """Forget deliveries that the broker will give, or gave, to somebody else (A6).

        Sets `Delivery.lost` of each. One whose mark is not set afterwards was settled before, or is just being settled.
        """
        ...

    def failed(self, error: UnimqError) -> None:
        """End the consumer: nothing can be received any more, and every further receive raises `error`."""
        ...


class Sender(Protocol):
    """Sends to one queue or topic. One per producer; used by many threads at once."""

    is_immediate: bool
    """Every entry is reported before its `submit` returns; then the portable layer keeps no window (S5)."""

    def submit(self, entries: Sequence[Outgoing]) -> None:
        """Take a batch and return without waiting for the broker; report each entry exactly once to the sink.

        Encodes and checks before queueing: an entry that cannot be sent (`MessageTooLarge`, an unencodable header) is
        reported as failed and harms no other (S3, S4). Never raises for a message's fault. Unknown outcomes are retried
        with the same id until `Outgoing.deadline`, then reported as `SendUnknown` (S2). Entries of one key are sent in
        the order in which they were submitted (O1). The window of the portable layer bounds what is outstanding (S5).
        """
        ...

    def flush(self) -> None:
        """Somebody waits for what was submitted: send what lingers, without blocking (S6)."""
        ...

    def close(self, timeout: float) -> None:
        """Wait up to `timeout` seconds for outstanding outcomes, report the rest as `SendUnknown`, release everything
        (S6, L1, L4). Idempotent.
        """
        ...


class Receiver(Protocol):
    """Receives from one queue or subscription. One per consumer."""

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Settle these and no others as done; in any order, from any thread, without waiting (A1, A2)."""
        ...

    def nack(self, delivery: Delivery, delay: float) -> None:
        """Have this one redelivered, not before `delay` seconds, with attempt + 1 (A3). `delay` > 0 only where
        `Capabilities.nack_delay` is supported. Under ``ordering="key"`` its key waits for it (O1).
        """
        ...

    def extend(self, delivery: Delivery, duration: float) -> None:
        """Prolong the lease to `duration` seconds from now (A10); only where `Capabilities.extend` is supported."""
        ...

    def barrier(self, done: Callable[[Sequence[UnimqError]], None]) -> None:
        """Call `done` once every settlement handed over so far is confirmed by the strongest proof there is (A1).

        `done` gets the errors of those that were not (`LeaseLost`, `ConnectionLost`), from any thread or at once; the
        errors of one settlement are reported to one barrier only. The last barrier comes after `close`, waits for
        nothing any more, and hears of all that `close` could not confirm (L1).
        """
        ...

    def pause(self) -> None:
        """Stop fetching; what was delivered stays held and can be settled (R3)."""
        ...

    def resume(self) -> None:
        """Fetch again."""
        ...

    def close(self, timeout: float) -> None:
        """Confirm the settlements handed over so far, give everything unsettled back at once, stop, and release threads
        and connections, within `timeout` seconds (A5, L1, L4). No delivery reaches the sink afterwards. Idempotent.
        """
        ...


class Driver(Protocol):
    """One connection to one broker (or one client of a cloud service)."""

    @property
    def capabilities(self) -> Capabilities:
        """What this broker, in this version, can do; constant for the life of the driver."""
        ...

    @property
    def native(self) -> object:
        """The client library's own connection object, for users who need what is not portable."""
        ...

    def declare(
        self, destination: Queue | Topic | Subscription, *, as_is: bool, timeout: float
    ) -> Queue | Topic | Subscription:
        """Create the destination if it is missing, and return it with the policies in force, as far as they are known.

        With ``as_is`` an existing one is accepted whatever its policies are; without, other policies raise
        `DeclarationConflict` that names the difference, and nothing is changed. Declaring a subscription makes it get
        everything sent from now on (G2). Dead-letter queues are declared before, by the portable layer.
        """
        ...

    def check(self, destination: Queue | Topic | Subscription, *, timeout: float) -> None:
        """Raise `NotFound` unless the destination exists; create nothing (S4)."""
        ...

    def delete(self, destination: Queue | Topic | Subscription, *, timeout: float) -> None:
        """Delete it with its messages; a missing one is no error. A topic goes with its subscriptions."""
        ...

    def purge(self, source: Source, *, timeout: float) -> int | None:
        """Drop the messages that wait; return their number if the backend says."""
        ...

    def stats(self, source: Source, *, timeout: float) -> Stats:
        """Return the depth (T4), without ``dead_letters``, which the portable layer fills in."""
        ...

    def open_sender(self, target: Target, sink: OutcomeSink, *, timeout: float) -> Sender:
        """Open a sender to an existing target. Where `Capabilities.redrive_subscription` is supported, that may be the
        queue of a subscription, which then gets what no other subscription of its topic gets (D2).
        """
        ...

    def open_receiver(self, source: Source, sink: DeliverySink, *, prefetch: int, timeout: float) -> Receiver:
        """Start receiving; at most `prefetch` deliveries are unsettled at any time (R3). A bound method of the sink may
        be called before this returns.
        """
        ...

    def close(self, timeout: float) -> None:
        """Release the connection, its threads and its temporary things (L1, L4). Senders and receivers were closed
        before. Idempotent, bounded by `timeout`.
        """
        ...


@runtime_checkable
class SeekingDriver(Driver, Protocol):
    """A driver that supports `Capabilities.seek`."""

    def seek(self, source: Source, to: CheckedPosition, *, timeout: float) -> None:
        """Let the next consumer of an existing source begin elsewhere, whatever was settled: at the first message sent
        at `to` of the wall clock (seconds) or later, at the first one kept, behind the last one, or at these positions
        of the partitions named, while the others stay.

        Raises:
            DeclarationConflict: the source has consumers, which alone say where they are; nothing was changed.
            ConfigError: there is no such partition or position; nothing was changed.

        """
        ...


@runtime_checkable
class Adapter(Protocol):
    """What the scheme table or an entry point of the group ``unimq.adapters`` names: the way from a URL to a driver."""

    schemes: ClassVar[Sequence[str]]
    options: ClassVar[type[msgspec.Struct]]
    """The URL options, as a struct that forbids unknown fields; the portable layer fills and checks it."""

    def connect(self, url: BrokerURL, options: Any, *, timeout: float) -> Driver:
        """Connect and authenticate.

        Raises:
            AuthError: at once, not retried (E2).
            ConnectionLost: the broker did not answer within `timeout` seconds.
            ConfigError: host, port, path or an option is wrong for this backend.

        """
        ...


@runtime_checkable
class OfflineAdapter(Adapter, Protocol):
    """An adapter that also knows without a connection what its broker can do, so that ``unimq check`` works on it."""

    def offline_capabilities(self, url: BrokerURL, options: Any) -> Capabilities:
        """Return what a broker at this URL can do, as far as that is known without asking it; no I/O.

        ``broker_version`` is the version that is assumed, or empty if every one that is supported can do the same.
        A connection may find less or more, and says so in `Driver.capabilities`.

        Raises:
            ConfigError: host, port, path or an option is wrong for this backend, as far as that shows.

        """
        ...


@runtime_checkable
class EstimatingAdapter(Adapter, Protocol):
    """An adapter of a service that bills requests, and knows how many a load takes; for ``unimq cost``."""

    def billed_requests(self, options: Any, load: Load) -> Mapping[str, float]:
        """Return the requests that are billed per second, by the actions of `Requesting`; no I/O.

        Raises:
            ConfigError: the service takes no such messages.

        """
        ...
