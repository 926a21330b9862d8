"""What the harness tells a role to do, and what the role tells back: plain data, JSON on the way."""

from dataclasses import dataclass, field
from typing import Any

from unimq_bench.rows.protocol import Receiver, Sender


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """Send messages: `count` of them, or for `seconds`; at `rate` per second, or as fast as the window allows."""

    run: int
    producer: int
    queue: str
    window: int
    size: int
    content: str = "random"
    first: int = 0
    """Sequence number of the first message."""
    count: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    warm_up: float = 0.0
    """Seconds at the start whose times are thrown away."""
    prebuilt: bool = False
    """Make all bodies, and have one probe confirmed, before the clock starts, so that the loop measures the client
    alone. Needs `count`; the probe is one message more that a drain must expect."""
    probing: bool = False
    """Send probes, twenty a second, until the word to start comes: a consumer that receives one has joined."""
    folder: str = ""
    """Where the times of each send go; empty: they are not taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiving:
    """Receive and ack, until `expected` messages came or until told to stop."""

    run: int
    queue: str
    prefetch: int
    at_most: int
    """Messages per receive."""
    expected: int = 0
    patience: float = 20.0
    """Seconds without any message after which an expected one is given up."""
    deferred: bool = False
    """Look into the bodies after the clock has stopped; bounded by `expected`."""
    pause_at: float = 0.0
    pause: float = 0.0
    """Seconds that the application stands still from `pause_at` on: it stays connected and receives nothing."""
    reopen_at: float = 0.0
    """When to close the receiver with a batch unsettled, and open another."""
    waits: bool = False
    """Be connected, but receive nothing before the start."""
    nack_every: int = 0
    """Give back the first delivery of each message whose number is a multiple of this."""
    reject_every: int = 0
    """Dead-letter each message whose number leaves 1 when divided by this."""
    folder: str = ""


Task = Sending | Receiving
TASKS: dict[str, type[Sending | Receiving]] = {"Sending": Sending, "Receiving": Receiving}


@dataclass(slots=True, kw_only=True)
class Report:
    """What became of a task."""

    sent: int = 0
    """Messages for which `send` was called and returned."""
    not_taken: int = 0
    failed: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Producer and sequence number of what was sent and is not stored, or of unknown fate."""
    received: int = 0
    reordered: int = 0
    corrupted: int = 0
    unknown: int = 0
    nacked: int = 0
    rejected: int = 0
    batches: int = 0
    largest: int = 0
    counted: int = 0
    """Messages between `started` and `ended`: all that were sent, or of a drain all after its first batch."""
    started: int = 0
    """Nanoseconds on the monotonic clock, as `ended`."""
    ended: int = 0
    """After the flush or, for a consumer, after its last message was acked and the acks were confirmed."""
    sending_ended: int = 0
    """After the last call of `send`, before the flush."""
    last: int = 0
    """When the last message came."""
    cpu: float = 0.0
    """CPU seconds of the process between `started` and `ended`."""
    events: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    files: dict[str, str] = field(default_factory=dict[str, str])
    errors: list[str] = field(default_factory=list[str])

    def fail(self, doing: str, error: Exception) -> None:
        """Tell a failure: it must not take with it what is known already."""
        self.errors.append(f"{doing}: {type(error).__name__}: {error}")

    def close(self, end: Sender | Receiver) -> None:
        """Close the sender or receiver of the task, and tell a failure of that."""
        try:
            end.close()
        except Exception as error:  # noqa: BLE001 - told, whatever it is
            self.fail("closing", error)


def task_of(document: dict[str, Any]) -> Task:
    """Return the task that `document_of` made a document of."""
    fields = dict(document)
    return TASKS[fields.pop("task")](**fields)


def document_of(task: Task) -> dict[str, Any]:
    """Return a task as a document for JSON."""
    return {"task": type(task).__name__, **{name: getattr(task, name) for name in task.__slots__}}


def report_of(document: dict[str, Any]) -> Report:
    """Return a report that came as JSON."""
    report = Report(**document)
    report.failed = [(producer, sequence) for producer, sequence in document["failed"]]
    report.events = [(moment, what) for moment, what in document["events"]]
    return report
