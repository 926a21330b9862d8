"""Sending through the client library, against its mock broker."""

import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition
from unimq_kafka._options import KafkaOptions, producer_settings
from unimq_kafka._producer import Job, Position, SharedProducer
from unimq_kafka._sender import KafkaSender

from unimq import (
    AuthError,
    ConnectionLost,
    InvalidMessage,
    Message,
    MessageTooLarge,
    NotFound,
    SendRejected,
    SendUnknown,
    UnimqError,
)
from unimq._outgoing import OnOutcome, PipelinedGroup
from unimq.adapter import Outgoing

from .conftest import NoDelays, Outcomes, Tiers, outgoing, until

LIMIT = 10_000
NOBODY = "127.0.0.1:1"


@pytest.fixture
def producer(address: str) -> Iterator[SharedProducer]:
    settings = producer_settings({"bootstrap.servers": address, "log_level": 0}, KafkaOptions(), LIMIT)
    # The mock makes a topic when it is asked for it.
    producer = SharedProducer({**settings, "allow.auto.create.topics": True})
    yield producer
    producer.close(time.monotonic())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("unimq-kafka")]


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    return f"{request.node.name}-{time.time_ns()}".replace("[", "-").replace("]", "")


def stored(address: str, topic: str) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "reader", "log_level": 0, "fetch.wait.max.ms": 10})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(4)])
    found: list[bytes] = []
    while (record := consumer.poll(0.5)) is not None:
        assert record.error() is None
        found.append(record.value() or b"")
    consumer.close()
    return sorted(found)


def test_every_entry_is_reported_once_with_its_position(producer: SharedProducer, address: str, topic: str) -> None:
    sink = Outcomes()
    sender = KafkaSender(producer, topic, LIMIT, sink, NoDelays())
    bodies = [b"%03d" % number for number in range(500)]
    for start in range(0, 500, 50):
        sender.submit([outgoing(body) for body in bodies[start : start + 50]])
    until(lambda: len(sink.kept) == 500)
    assert sink.told() == [body.decode() for body in bodies]
    assert len({entry.position for entry in sink.kept}) == 500
    assert all(isinstance(entry.position, Position) for entry in sink.kept)
    assert stored(address, topic) == bodies
    sender.close(5)


def test_a_bad_entry_harms_no_other(producer: SharedProducer, address: str, topic: str) -> None:
    sink = Outcomes()
    sender = KafkaSender(producer, topic, LIMIT, sink, NoDelays())
    cut = Outgoing(Message(b"cut", id="cut", headers={"a\0": "x"}, sent_at=time.time()), time.monotonic() + 20, 3)
    large = Outgoing(Message(bytes(LIMIT), id="large", sent_at=time.time()), time.monotonic() + 20, LIMIT)
    sender.submit([outgoing(b"1"), cut, large, outgoing(b"2")])
    until(lambda: len(sink.kept) == 2)
    assert {name: type(error) for name, error in sink.errors} == {"cut": InvalidMessage, "large": MessageTooLarge}
    assert stored(address, topic) == [b"1", b"2"]
    sender.close(5)


def test_a_success_without_an_offset_is_no_proof(producer: SharedProducer, address: str, topic: str) -> None:
    class Duplicate:
        """The report of a batch that the broker took for one that it has."""

        def partition(self) -> int:
            return 0

        def offset(self) -> None:
            return None

    sink = Outcomes()
    sender = KafkaSender(producer, topic, LIMIT, sink, NoDelays())
    hand_over = producer._hand_over

    def pretend(job: Job) -> bool:
        producer._hand_over = hand_over  # type: ignore[method-assign]
        job.report = producer._take_report
        job(None, Duplicate())  # type: ignore[arg-type]
        return True

    producer._hand_over = pretend  # type: ignore[method-assign]
    sender.submit([outgoing(b"first"), outgoing(b"second")])
    until(lambda: len(sink.kept) == 2)
    assert stored(address, topic) == [b"first", b"second"]
    assert not sink.errors
    sender.close(5)


def test_a_full_client_queue_keeps_the_order(producer: SharedProducer, address: str, topic: str) -> None:
    sink = Outcomes()
    sender = KafkaSender(producer, topic, LIMIT, sink, NoDelays())
    hand_over, order, refusals = producer._hand_over, list[str](), 20

    def refuse(job: object) -> bool:
        nonlocal refusals
        refusals -= 1
        if refusals >= 0:
            return False
        order.append(job.entry.message.id)  # type: ignore[attr-defined]
        return hand_over(job)  # type: ignore[arg-type]

    producer._hand_over = refuse  # type: ignore[method-assign]
    names = [f"{number:02d}" for number in range(30)]
    for name in names:
        sender.submit([outgoing(name.encode())])
    until(lambda: len(sink.kept) == 30)
    assert order == names
    sender.close(5)


def test_a_broken_down_producer_is_replaced(producer: SharedProducer, address: str, topic: str) -> None:
    sink = Outcomes()
    sender = KafkaSender(producer, topic, LIMIT, sink, NoDelays())
    sender.submit([outgoing(b"before")])
    until(lambda: len(sink.kept) == 1)
    broken = producer.native
    producer._on_error(KafkaError(KafkaError._FATAL, "out of sequence", fatal=True))
    until(lambda: producer.native is not broken)
    sender.submit([outgoing(b"after")])
    until(lambda: len(sink.kept) == 2)
    assert stored(address, topic) == [b"after", b"before"]
    sender.close(5)


def test_what_its_deadline_finds_without_an_outcome_is_unknown() -> None:
    producer = SharedProducer(producer_settings({"bootstrap.servers": NOBODY, "log_level": 0}, KafkaOptions(), LIMIT))
    sink = Outcomes()
    sender = KafkaSender(producer, "nowhere", LIMIT, sink, NoDelays())
    sender.submit([outgoing(b"soon", 0.3), outgoing(b"late")])
    until(lambda: bool(sink.errors), 3)
    assert [(name, type(error)) for name, error in sink.errors] == [("soon", SendUnknown)]
    sender.close(0.1)
    assert [(name, type(error)) for name, error in sink.errors] == [("soon", SendUnknown), ("late", SendUnknown)]
    producer.close(time.monotonic())
    assert sink.told() == ["late", "soon"]


def test_a_fault_while_reports_are_served_leaves_nobody_waiting(producer: SharedProducer, topic: str) -> None:
    sink = Outcomes()
    sender = KafkaSender(producer, topic, LIMIT, sink, NoDelays())

    def fault() -> None:
        del producer._expire  # the instance's own: the class's comes back
        raise RuntimeError("made for this test")

    producer._expire = fault  # type: ignore[method-assign]
    count = 0
    # Until one was handed over after the fault, and stored.
    while count < 2 or [entry.message.id for entry in sink.kept][-1:] != [str(count)]:
        count += 1
        sender.submit([outgoing(b"%d" % count)])
        sink.wait_for(count)
    assert "_expire" not in vars(producer)
    assert len(sink.told()) == count
    sender.close(5)


def delayed(body: bytes, delay: float, seconds: float = 20.0) -> Outgoing:
    entry = outgoing(body, seconds)
    entry.message.delay = delay
    return entry


def in_tiers(address: str, topic: str, count: int) -> dict[bytes, int]:
    """Return where so many delayed messages wait."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "reader", "log_level": 0, "fetch.wait.max.ms": 10})
    consumer.assign([TopicPartition(f"{topic}.unimq-delay", partition, 0) for partition in range(4)])
    found: dict[bytes, int] = {}
    while len(found) < count:
        record = consumer.poll(10)
        assert record is not None, found
        assert record.error() is None
        found[record.value() or b""] = record.partition() or 0
    consumer.close()
    return found


def test_delayed_messages_wait_for_their_topic_and_go_to_the_tier_of_their_delay(
    producer: SharedProducer, address: str, topic: str
) -> None:
    sink, tiers = Outcomes(), Tiers()
    sender = KafkaSender(producer, topic, LIMIT, sink, tiers)
    sender.submit([delayed(b"half", 0.5), outgoing(b"now"), delayed(b"two", 2.0)])
    sender.submit([delayed(b"hour", 3600.0)])
    sink.wait_for(1)
    assert sink.told() == ["now"]
    assert [asked[0] for asked in tiers.asked] == [topic]
    tiers.answer(4)
    sink.wait_for(4)
    sender.submit([delayed(b"five", 5.0)])
    sink.wait_for(5)
    assert not sink.errors
    assert not tiers.asked
    # The mock's topics have four partitions; the third one waits 16 s.
    assert in_tiers(address, topic, 4) == {b"half": 0, b"two": 1, b"five": 2, b"hour": 3}
    assert stored(address, topic) == [b"now"]
    positions = {entry.message.id: entry.position for entry in sink.kept}
    assert all(isinstance(position, Position) for position in positions.values())
    assert {name: getattr(position, "topic", "") for name, position in positions.items()} == {
        "now": topic,
        **dict.fromkeys(("half", "two", "five", "hour"), f"{topic}.unimq-delay"),
    }
    sender.close(5)


@pytest.mark.parametrize(
    ("error", "kind"), [(ConnectionLost("no answer"), SendRejected), (AuthError("no right"), AuthError)]
)
def test_without_a_topic_of_delays_nothing_is_sent_and_everybody_is_told(
    producer: SharedProducer, address: str, topic: str, error: UnimqError, kind: type[UnimqError]
) -> None:
    sink, tiers = Outcomes(), Tiers()
    sender = KafkaSender(producer, topic, LIMIT, sink, tiers)
    sender.submit([delayed(b"a", 1.0), delayed(b"b", 1.0)])
    tiers.answer(error)
    assert [(name, type(found)) for name, found in sink.errors] == [("a", kind), ("b", kind)]
    # The next one asks again.
    sender.submit([delayed(b"c", 2.0)])
    tiers.answer(4)
    sink.wait_for(3)
    assert in_tiers(address, topic, 1) == {b"c": 1}
    sender.close(5)


def test_what_was_overdue_before_its_topic_was_there_is_not_sent_any_more(
    producer: SharedProducer, address: str, topic: str
) -> None:
    sink, tiers = Outcomes(), Tiers()
    sender = KafkaSender(producer, topic, LIMIT, sink, tiers)
    sender.submit([delayed(b"soon", 1.0, seconds=0.2), delayed(b"late", 2.0)])
    sink.wait_for(1)
    assert [(name, type(error)) for name, error in sink.errors] == [("soon", SendUnknown)]
    tiers.answer(4)
    sink.wait_for(2)
    assert in_tiers(address, topic, 1) == {b"late": 1}
    sender.close(5)


def test_a_topic_of_delays_that_is_gone_is_asked_for_again(producer: SharedProducer, topic: str) -> None:
    sink, tiers = Outcomes(), Tiers()
    sender = KafkaSender(producer, topic, LIMIT, sink, tiers)
    first = delayed(b"first", 1.0)
    sender.submit([first])
    tiers.answer(4)
    sink.wait_for(1)
    lost = delayed(b"lost", 1.0)
    sender.outstanding[lost] = None
    sender.take_reports([], [(lost, KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))])
    assert [(name, type(error)) for name, error in sink.errors] == [("lost", NotFound)]
    sender.submit([delayed(b"again", 1.0)])
    tiers.answer(4)
    sink.wait_for(3)
    assert sink.told() == ["again", "first", "lost"]
    sender.close(5)


def test_the_headers_of_the_delay_count_in_the_size(producer: SharedProducer, topic: str) -> None:
    sink = Outcomes()
    sender = KafkaSender(producer, topic, LIMIT, sink, Tiers())
    body = bytes(LIMIT - 150)
    fits = Outgoing(Message(body, id="fits", sent_at=time.time()), time.monotonic() + 20, LIMIT)
    large = Outgoing(Message(body, id="large", sent_at=time.time(), delay=1.0), time.monotonic() + 20, LIMIT)
    sender.submit([fits, large])
    sink.wait_for(2)
    assert [(name, type(error)) for name, error in sink.errors] == [("large", MessageTooLarge)]
    sender.close(5)


def in_pipeline(body: bytes, on_outcome: OnOutcome | None = None) -> Outgoing:
    entry = outgoing(body)
    entry.group = PipelinedGroup()
    entry.on_outcome = on_outcome
    return entry


class TellingThreads(Outcomes):
    """Notes in which thread each outcome is told."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: dict[str, threading.Thread] = {}

    def stored(self, entries: Sequence[Outgoing]) -> None:
        self.threads |= {entry.message.id: threading.current_thread() for entry in entries}
        super().stored(entries)


def test_who_waits_serves_the_reports_but_calls_nobody_back(producer: SharedProducer, topic: str) -> None:
    sink, us = TellingThreads(), threading.current_thread()
    sender = KafkaSender(producer, topic, LIMIT, sink, NoDelays())
    until(lambda: producer.is_resting)
    sender.submit_quietly([outgoing(b"waited for")])
    # It serves for a while only; what takes longer is seen to by the thread.
    if sender.serve(lambda: True if sink.kept else None, time.monotonic() + 60) is not None:
        assert sink.threads == {"waited for": us}
    until(lambda: len(sink.kept) == 1)
    sender.submit_quietly([in_pipeline(b"with callback", lambda outcome: None), outgoing(b"beside it")])
    sender.serve(lambda: True if len(sink.kept) == 3 else None, time.monotonic() + 60)
    until(lambda: len(sink.kept) == 3)
    assert sink.threads["with callback"] is not us
    sender.close(5)


def test_what_is_enqueued_gets_its_outcome_though_nobody_waits(producer: SharedProducer, topic: str) -> None:
    sink, us = TellingThreads(), threading.current_thread()
    sender = KafkaSender(producer, topic, LIMIT, sink, NoDelays())
    sender.submit_quietly([in_pipeline(b"alone")])
    until(lambda: len(sink.kept) == 1)
    assert sink.threads["alone"] is not us
    until(lambda: producer.is_resting)
    sender.submit_quietly([in_pipeline(b"again")])
    until(lambda: len(sink.kept) == 2)
    sender.close(5)


def test_many_threads_that_wait_share_the_client(producer: SharedProducer, address: str, topic: str) -> None:
    sink = Outcomes()
    sender = KafkaSender(producer, topic, LIMIT, sink, NoDelays())

    def is_told(entry: Outgoing) -> Literal[True] | None:
        return None if entry in sender.outstanding else True

    def send(thread: int) -> None:
        for number in range(100):
            entry = outgoing(b"%d-%03d" % (thread, number))
            sender.submit_quietly([entry])
            if sender.serve(partial(is_told, entry), time.monotonic() + 60) is None:
                until(partial(is_told, entry))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not sink.errors
    assert stored(address, topic) == sorted(b"%d-%03d" % (t, n) for t in range(4) for n in range(100))
    sender.close(5)


def send_until_interrupted(sender: KafkaSender) -> list[str]:
    """Send and wait until that is interrupted, which it is in this thread only; return what was sent."""
    sent: list[str] = []
    while True:
        sent += [f"{len(sent)}a", f"{len(sent)}b"]
        sender.submit_quietly([outgoing(name.encode()) for name in sent[-2:]])
        try:
            sender.serve(lambda: None if sender.outstanding else True, time.monotonic() + 60)
        except KeyboardInterrupt:
            return sorted(sent)
        until(lambda: not sender.outstanding)


def test_an_interrupted_sender_loses_no_outcome(producer: SharedProducer, topic: str) -> None:
    class Interrupted(Outcomes):
        interruptions = 0

        def stored(self, entries: Sequence[Outgoing]) -> None:
            if threading.current_thread() is threading.main_thread():
                self.interruptions += 1
                if self.interruptions == 1:
                    raise KeyboardInterrupt
            super().stored(entries)

    sink = Interrupted()
    sender = KafkaSender(producer, topic, LIMIT, sink, NoDelays())
    sent = send_until_interrupted(sender)
    until(lambda: sink.told() == sent)
    assert not sink.errors
    until(lambda: not sender.outstanding)
    sender.close(5)


def test_a_report_whose_callback_was_interrupted_is_unknown(producer: SharedProducer, topic: str) -> None:
    sink = Outcomes()
    sender = KafkaSender(producer, topic, LIMIT, sink, NoDelays())
    take_report, interruptions = producer._take_report, 0

    def interrupt(job: Job) -> None:
        nonlocal interruptions
        if threading.current_thread() is threading.main_thread():
            interruptions += 1
            if interruptions == 1:
                raise KeyboardInterrupt
        take_report(job)

    producer._take_report = interrupt
    sent = send_until_interrupted(sender)
    until(lambda: sink.told() == sent)
    assert [type(error) for _, error in sink.errors] == [SendUnknown]
    until(lambda: not sender.outstanding)
    sender.close(5)


def test_a_fault_in_the_thread_of_a_sender_leaves_nobody_waiting(producer: SharedProducer, topic: str) -> None:
    class Faulty(Outcomes):
        faults = 0

        def stored(self, entries: Sequence[Outgoing]) -> None:
            self.faults += 1
            if self.faults == 1:
                raise RuntimeError("made for this test")
            super().stored(entries)

    sink = Faulty()
    sender = KafkaSender(producer, topic, LIMIT, sink, NoDelays())
    sender.submit_quietly([outgoing(b"1")])
    sender.serve(lambda: True if sink.faults else None, time.monotonic() + 60)
    until(lambda: sink.told() == ["1"])
    # As unknown, or as stored if the thread was quicker to try again than to learn of the fault.
    assert all(type(error) is SendUnknown for _, error in sink.errors)
    sender.submit_quietly([outgoing(b"2")])
    sender.serve(lambda: True if len(sink.told()) == 2 else None, time.monotonic() + 60)
    until(lambda: sink.told() == ["1", "2"])
    sender.close(5)


def test_what_the_client_gives_up_with_a_broker_is_sent_again(
    producer: SharedProducer, address: str, topic: str
) -> None:
    sink = Outcomes()
    sender = KafkaSender(producer, topic, LIMIT, sink, NoDelays())
    hand_over = producer._hand_over

    def give_up(job: Job) -> bool:
        producer._hand_over = hand_over  # type: ignore[method-assign]
        job.error = KafkaError(KafkaError._DESTROY)
        producer._take_report(job)
        return True

    producer._hand_over = give_up  # type: ignore[method-assign]
    sender.submit([outgoing(b"first"), outgoing(b"second")])
    until(lambda: len(sink.kept) == 2)
    assert stored(address, topic) == [b"first", b"second"]
    assert not sink.errors
    sender.close(5)
