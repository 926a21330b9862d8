"""What a process records, in memory and in a file that outlives it; and the body that says which message it is."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from unimq_contract.history import (
    NO_FLOORS,
    History,
    Mark,
    Recording,
    Rules,
    judge,
    marked_body,
    read,
    read_mark,
    write,
)
from unimq_contract.history import events as ev

import unimq

CONTENT = ev.content_of("m", b"\x00\xff", "k", {"a": b"\xff", "b": "ü"}, "text/plain", None, "r")
ONE_OF_EACH: list[ev.Event] = [
    ev.Sending(1, "m", "q", "p", 1, CONTENT, 5, 9),
    ev.Sent(2, "m"),
    ev.NotSent(2, "n", "QueueFull: ü"),
    ev.MaybeSent(2, "o", "SendUnknown: line\nend"),
    ev.Subscribed(3, "t", "t--a", dead_letters=True),
    ev.Topic(3, "t"),
    ev.Redriven(3, "q"),
    ev.Opened(4, "q", "c"),
    ev.Delivered(5, "m", "q", "c", 1, 2, CONTENT, 3, 99),
    ev.Settling(6, "m", "q", "c", 1, "nack", 7),
    ev.Refused(7, "m", "q", "c", 1, "stale"),
    ev.Confirmed(8, "c", [1, 2]),
    ev.Unconfirmed(8, "c", [3], "ConnectionLost: x"),
    ev.Extended(9, "m", "q", "c", 1, 100),
    ev.LeaseEnded(9, "m", "q", "c", 1),
    ev.Revoked(9, "q", "c"),
    ev.Lapsed(9, "q", "c"),
    ev.Discarded(9, "m", "q", "expired"),
    ev.Closing(10, "q", "c"),
    ev.Closed(11, "q", "c", clean=False),
    ev.Crashed(12, "q", "c"),
    ev.Down(13, "cut"),
    ev.Up(14, "cut"),
    ev.Depth(15, "q", 1, 2, 3),
]


@pytest.fixture
def broker() -> Iterator[unimq.Broker]:
    with unimq.connect("memory://?private=true") as broker:
        yield broker


def of(history: History, *kinds: type) -> list[ev.Event]:
    return [event for event in history.events if isinstance(event, kinds)]


def test_every_event_survives_the_file(tmp_path: Path) -> None:
    assert {type(event) for event in ONE_OF_EACH} == set(ev.Event.__args__)
    path = tmp_path / "history.jsonl"
    write(path, ONE_OF_EACH)
    assert read(path) == ONE_OF_EACH
    assert len(path.read_bytes().splitlines()) == len(ONE_OF_EACH)


def test_every_event_can_be_shown() -> None:
    for event in ONE_OF_EACH:
        assert str(event.__struct_config__.tag) in ev.shown(event, 0)


def test_an_unfinished_last_line_is_left_out_and_a_broken_one_before_it_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    write(path, ONE_OF_EACH)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    assert read(path) == ONE_OF_EACH[:-1]
    path.write_bytes(whole.replace(b'"cut"', b'"cu', 1))
    with pytest.raises(msgspec.DecodeError):
        read(path)


def test_what_was_recorded_survives_kill_9_of_the_process(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    program = f"""
import sys, time
from pathlib import Path
from unimq_contract.history import History
history = History(Path({str(path)!r}))
history.down("one")
history.record_all(history.events * 3)
print("written", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"written\n"
        os.kill(child.pid, signal.SIGKILL)
    assert [type(event) for event in read(path)] == [ev.Down] * 4


def test_many_threads_record_into_one_file_without_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with History(path) as history:

        def record() -> None:
            for event in ONE_OF_EACH * 20:
                history.record(event)

        threads = [threading.Thread(target=record) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(history.events) == len(read(path)) == len(ONE_OF_EACH) * 80


def test_a_fault_is_over_even_if_its_block_fails() -> None:
    history = History()
    with pytest.raises(KeyError), history.fault("cut"):
        raise KeyError
    assert [(type(event), event.what) for event in history.events if isinstance(event, ev.Down | ev.Up)] == [
        (ev.Down, "cut"),
        (ev.Up, "cut"),
    ]


@pytest.mark.parametrize("size", [0, 60, 100, 1000, 300_000])
def test_a_body_says_which_message_it_is(size: int) -> None:
    body = marked_body("p1-7", 7, size)
    assert read_mark(body) == Mark("p1-7", 7)
    assert len(body) == max(size, len(marked_body("p1-7", 7)))


WHOLE = marked_body("p1-7", 7, 500)


@pytest.mark.parametrize(
    "damaged",
    [
        WHOLE[:-1],
        WHOLE + b"x",
        WHOLE.replace(b"p1-7", b"p1-8"),
        WHOLE[:-1] + bytes([WHOLE[-1] ^ 1]),
        WHOLE.decode("latin-1").encode(),
        b"",
        b"{}",
        b"unimq-history a b c d\n",
    ],
    ids=["cut", "longer", "other id", "one bit", "encoded again", "empty", "foreign", "forged"],
)
def test_a_damaged_body_says_nothing(damaged: bytes) -> None:
    assert read_mark(WHOLE) is not None
    assert read_mark(damaged) is None


@pytest.mark.parametrize("name", ["", "a b", "a\n"])
def test_an_id_that_would_break_the_mark_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no spaces"):
        marked_body(name, 1)


def test_producer_and_consumer_record_what_happens(broker: unimq.Broker) -> None:
    history = History()
    recording = Recording(history)
    queue = unimq.Queue("q")
    with recording.producer(broker, queue) as producer, recording.consumer(broker, queue) as consumer:
        receipt = producer.send(b"own body", key="k", headers={"h": b"v"}, content_type="a/b", correlation_id="c")
        outcomes = producer.send_many(3, key=lambda index: f"k{index}")
        pipelined = producer.enqueue(size=500)
        producer.flush()
        first, *others = [consumer.receive(1, timeout=5)[0] for _ in range(5)]
        first.nack()
        again = consumer.receive(1, timeout=5)[0]
        consumer.ack([again, *others])
        with pytest.raises(unimq.AlreadySettled):
            again.nack()
        consumer.settle()
    assert again.attempt == 2
    assert again.message == receipt.message_id
    assert again.body == b"own body"
    sent = [receipt.message_id, *(each.message_id for each in outcomes if isinstance(each, unimq.Receipt)), pipelined]
    assert [event.message for event in history.events if isinstance(event, ev.Sent)] == sent
    assert [(event.number, event.how) for event in history.events if isinstance(event, ev.Settling)] == [
        (1, "nack"),
        (6, "ack"),
        *((number, "ack") for number in (2, 3, 4, 5)),
    ]
    assert [event.numbers for event in history.events if isinstance(event, ev.Confirmed)] == [[1, 6, 2, 3, 4, 5]]
    assert [event.why for event in history.events if isinstance(event, ev.Refused)] == ["again"]
    verdict = judge(history.events, Rules.of(broker.capabilities, queue, floors=NO_FLOORS))
    assert verdict.proved, verdict.report()
    assert verdict.counts.excused == {"nack": 1}


def test_sends_that_fail_are_recorded_by_what_their_error_means(broker: unimq.Broker) -> None:
    history = History()
    recording = Recording(history)
    producer = recording.producer(broker, unimq.Queue("full", max_length=1))
    producer.send()
    with pytest.raises(unimq.QueueFull):
        producer.send()
    outcomes = producer.send_many(2)
    assert [type(each) for each in outcomes] == [unimq.QueueFull] * 2
    producer.close()
    with pytest.raises(unimq.Closed):
        producer.enqueue()
    refused = [event.error.partition(":")[0] for event in history.events if isinstance(event, ev.NotSent)]
    assert refused == ["QueueFull", "QueueFull", "QueueFull", "Closed"]
    assert not of(history, ev.MaybeSent)


def test_each_thread_of_a_producer_has_an_order_of_its_own(broker: unimq.Broker) -> None:
    history = History()
    with Recording(history).producer(broker, "q") as producer:
        for _ in range(2):
            thread = threading.Thread(target=lambda: [producer.send() for _ in range(3)])
            thread.start()
            thread.join()
    sends = [event for event in history.events if isinstance(event, ev.Sending)]
    assert [event.sequence for event in sends] == [1, 2, 3, 1, 2, 3]
    assert len({event.producer for event in sends}) == 2
    assert len({event.message for event in sends}) == 6


def test_a_lost_lease_is_recorded_and_explained(broker: unimq.Broker) -> None:
    history = History()
    recording = Recording(history)
    queue = unimq.Queue("q", lease=0.2)
    with recording.producer(broker, queue) as producer, recording.consumer(broker, queue) as consumer:
        producer.send()
        late = consumer.receive(1, timeout=5)[0]
        again = consumer.receive(1, timeout=5)[0]
        with pytest.raises(unimq.LeaseLost):
            late.ack()
        again.extend(5)
        again.ack()
    verdict = judge(history.events, Rules.of(broker.capabilities, queue, floors=NO_FLOORS))
    assert verdict.proved, verdict.report()
    assert verdict.counts.excused == {"end of lease": 1}
    assert verdict.counts.stale == 1
    assert len(of(history, ev.Extended)) == 1


def test_dead_letters_and_subscriptions_are_judged_too(broker: unimq.Broker) -> None:
    history = History()
    recording = Recording(history)
    topic = unimq.Topic("events")
    audit, mail = topic.subscription("audit", max_deliveries=1), topic.subscription("mail")
    with recording.producer(broker, topic) as producer:
        producer.send()
        recording.declare(broker, audit, mail)
        for _ in range(3):
            producer.send()
    with recording.consumer(broker, audit) as consumer:
        rejected, exhausted, done = (consumer.receive(1, timeout=5)[0] for _ in range(3))
        rejected.reject("why")
        exhausted.nack()
        done.ack()
    with recording.consumer(broker, mail) as consumer:
        assert consumer.drain(quiet=0.05) == 3
    with recording.dead_letters(broker, audit) as consumer:
        assert consumer.drain(quiet=0.05) == 2
    recording.depth(broker, audit)
    rules = Rules.of(broker.capabilities, audit.queue, floors=NO_FLOORS)
    verdict = judge(history.events, rules)
    assert verdict.proved, verdict.report()
    assert len(of(history, ev.Depth)) == 1
    without_dead = [
        event for event in history.events if not (isinstance(event, ev.Delivered) and "dead" in event.group)
    ]
    assert not judge(without_dead, rules).clean


def test_a_settlement_that_never_was_one_leaves_the_delivery_unsettled(broker: unimq.Broker) -> None:
    history = History()
    recording = Recording(history)
    with recording.producer(broker, "q") as producer, recording.consumer(broker, "q") as consumer:
        producer.send()
        delivery = consumer.receive(1, timeout=5)[0]
        with pytest.raises(unimq.ConfigError):
            delivery.nack(-1.0)
        delivery.ack()
    verdict = judge(history.events, Rules(floors=NO_FLOORS))
    assert verdict.proved, verdict.report()
    assert verdict.counts.acks == 1


def test_drain_does_not_go_on_for_ever(broker: unimq.Broker) -> None:
    recording = Recording(History())
    with recording.producer(broker, "q") as producer, recording.consumer(broker, "q") as consumer:
        producer.send()
        with pytest.raises(TimeoutError, match="not empty"):
            consumer.drain(quiet=0.05, limit=-1)


def test_times_are_of_the_clock_that_all_processes_share(broker: unimq.Broker) -> None:
    history = History()
    before = time.monotonic_ns()
    with Recording(history).producer(broker, "q") as producer:
        producer.send(delay=2.0, ttl=3.0)
    sending = next(event for event in history.events if isinstance(event, ev.Sending))
    assert before < sending.at < time.monotonic_ns()
    assert sending.not_before == sending.at + 2_000_000_000
    assert sending.expires == sending.at + 3_000_000_000
