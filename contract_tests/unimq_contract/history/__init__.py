"""Histories of concurrent and faulty runs: recorded while they happen, judged afterwards.

    history = History()
    recording = Recording(history)
    with recording.producer(broker, queue) as producer, recording.consumer(broker, queue) as consumer:
        ...
    judge(history.events, Rules.of(broker.capabilities, queue)).raise_if_broken()

Processes that may be killed record into a file each; `read` gives what they left, and the judge puts all in order.
"""

from unimq_contract.history.body import Mark, marked_body, read_mark
from unimq_contract.history.checker import judge
from unimq_contract.history.events import Event, content_of
from unimq_contract.history.log import History, read, write
from unimq_contract.history.recording import RecordedDelivery, Recording, RecordingConsumer, RecordingProducer
from unimq_contract.history.rules import NO_FLOORS, Floors, Rules
from unimq_contract.history.verdict import ContractBroken, Counts, Finding, Kind, ProvedNothing, Verdict
from unimq_contract.history.workload import Load, run

__all__ = [
    "NO_FLOORS",
    "ContractBroken",
    "Counts",
    "Event",
    "Finding",
    "Floors",
    "History",
    "Kind",
    "Load",
    "Mark",
    "ProvedNothing",
    "RecordedDelivery",
    "Recording",
    "RecordingConsumer",
    "RecordingProducer",
    "Rules",
    "Verdict",
    "content_of",
    "judge",
    "marked_body",
    "read",
    "read_mark",
    "run",
    "write",
]
