"""Receiving as a member of a group, against the client library's mock broker."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from confluent_kafka import Producer, TopicPartition
from unimq_kafka import _receiver
from unimq_kafka._member import Member
from unimq_kafka._options import KafkaOptions, consumer_settings
from unimq_kafka._postponed import Done, Postponed
from unimq_kafka._receiver import KafkaReceiver

from unimq import ConnectionLost, LeaseLost, NotFound, UnimqError
from unimq.adapter import Delivery

from .conftest import Deliveries, until

Open = Callable[..., tuple[KafkaReceiver, Deliveries]]


@pytest.fixture
def topic(address: str, request: pytest.FixtureRequest) -> str:
    return f"{request.node.name}-{time.time_ns()}"


def send(address: str, topic: str, bodies: Sequence[bytes], partition: int | None = None) -> None:
    producer = Producer({"bootstrap.servers": address, "log_level": 0})
    for number, body in enumerate(bodies):
        producer.produce(topic, body, partition=number % 4 if partition is None else partition)
    assert producer.flush(10) == 0
    producer.close()


@pytest.fixture
def open_receiver(address: str, topic: str) -> Iterator[Open]:
    opened: list[KafkaReceiver] = []

    def open_one(
        prefetch: int = 100, *, is_ordered: bool = False, postponed: Postponed | None = None
    ) -> tuple[KafkaReceiver, Deliveries]:
        settings = consumer_settings(
            {"bootstrap.servers": address, "log_level": 0}, KafkaOptions(), topic, "consumer", prefetch
        )
        sink = Deliveries()
        # The mock answers an empty fetch after its whole waiting time.
        receiver = KafkaReceiver(
            {**settings, "fetch.wait.max.ms": 10},
            topic,
            sink,
            prefetch,
            is_ordered=is_ordered,
            find_topic_id=lambda: "",
            is_topic_missing=lambda: False,
            postponed=postponed,
        )
        opened.append(receiver)
        return receiver, sink

    yield open_one
    for receiver in opened:
        receiver.close(10)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("unimq-kafka")]


def settle(receiver: KafkaReceiver) -> Sequence[UnimqError]:
    answers: list[Sequence[UnimqError]] = []
    receiver.barrier(answers.append)
    until(lambda: answers)
    return answers[0]


def numbered(count: int) -> list[bytes]:
    return [b"%04d" % number for number in range(count)]


def test_exactly_the_unacked_ones_come_back(address: str, topic: str, open_receiver: Open) -> None:
    send(address, topic, numbered(80))
    receiver, sink = open_receiver()
    until(lambda: len(sink.came) == 80)
    kept = {b"0000", b"0041", b"0079"}
    receiver.ack([delivery for delivery in reversed(sink.came) if delivery.body not in kept])
    assert settle(receiver) == []
    receiver.close(10)
    assert {delivery.body for delivery in sink.gone} == kept
    again, second = open_receiver()
    until(lambda: len(second.came) == 3)
    assert set(second.bodies()) == kept
    again.ack(second.came)
    assert settle(again) == []


def test_never_more_unsettled_than_prefetch_and_no_partition_is_lost_by_waiting(
    address: str, topic: str, open_receiver: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that the fetching is paused for want of room, and resumed.
    monkeypatch.setattr(_receiver, "_PATIENCE_WHEN_FULL", 0.05)
    send(address, topic, numbered(40))
    receiver, sink = open_receiver(prefetch=3)
    acked = 0
    while acked < 40:
        sink.wait_for(acked + 1)
        time.sleep(0.1 if acked % 10 == 0 else 0)
        assert len(sink.came) - acked <= 3
        receiver.ack([sink.came[acked]])
        acked += 1
    assert sink.bodies() == numbered(40)
    assert settle(receiver) == []


def test_nacked_messages_and_new_ones_do_not_starve_each_other(address: str, topic: str, open_receiver: Open) -> None:
    send(address, topic, numbered(10), partition=0)
    receiver, sink = open_receiver(prefetch=1)
    seen = 0
    while len({delivery.body for delivery in sink.came}) < 10:
        sink.wait_for(seen + 1)
        delivery = sink.came[seen]
        seen += 1
        if delivery.body == b"0000":
            receiver.nack(delivery, 0)
        else:
            receiver.ack([delivery])
    attempts = [delivery.attempt for delivery in sink.came if delivery.body == b"0000"]
    assert attempts == list(range(1, len(attempts) + 1))
    assert len(attempts) > 1


def test_a_nack_waits_for_its_delay(address: str, topic: str, open_receiver: Open) -> None:
    send(address, topic, [b"x"])
    receiver, sink = open_receiver()
    until(lambda: sink.came)
    start = time.monotonic()
    receiver.nack(sink.came[0], 0.3)
    until(lambda: len(sink.came) == 2)
    assert time.monotonic() - start >= 0.3
    assert sink.came[1].attempt == 2


def test_pause_holds_back_what_comes(address: str, topic: str, open_receiver: Open) -> None:
    send(address, topic, [b"first"])
    receiver, sink = open_receiver()
    until(lambda: sink.came)
    receiver.pause()
    receiver.nack(sink.came[0], 0)
    send(address, topic, [b"second"])
    time.sleep(0.3)
    assert len(sink.came) == 1
    receiver.resume()
    until(lambda: len(sink.came) == 3)
    assert sorted(sink.bodies()) == [b"first", b"first", b"second"]


def test_a_head_that_is_never_acked_stops_its_partition_alone(
    address: str, topic: str, open_receiver: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_receiver, "SPAN_LIMIT", 1000)
    send(address, topic, numbered(4000), partition=0)
    receiver, sink = open_receiver(prefetch=100)
    head, seen = b"0000", 0
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        new = sink.came[seen:]
        seen += len(new)
        receiver.ack([delivery for delivery in new if delivery.body != head])
        time.sleep(0.01)
    # What was under way when the limit was reached still comes.
    assert 1000 <= seen <= 1200
    send(address, topic, [b"elsewhere"], partition=1)
    until(lambda: sink.came[-1].body == b"elsewhere")
    receiver.ack([sink.came[0], sink.came[-1]])
    seen += 1
    while seen < 4001:
        sink.wait_for(seen + 1)
        new = sink.came[seen:]
        seen += len(new)
        receiver.ack(new)
    assert settle(receiver) == []
    assert len(set(sink.bodies())) == 4001


def test_joining_and_leaving_lose_and_repeat_nothing(address: str, topic: str, open_receiver: Open) -> None:
    send(address, topic, numbered(400))
    first, one = open_receiver(prefetch=10)
    until(lambda: len(one.came) == 10)
    first.ack(one.came[:5])
    second, two = open_receiver(prefetch=10)
    # The group moves partitions over; what the first consumer holds of them and has not acked goes with them.
    until(lambda: two.came)
    acked = {delivery.body for delivery in one.came[:5]}
    receivers, seen = [(first, one), (second, two)], [5, 0]
    deadline = time.monotonic() + 60
    while len(acked) < 400:
        assert time.monotonic() < deadline
        for index, (receiver, sink) in enumerate(receivers):
            for delivery in sink.came[seen[index] :]:
                seen[index] += 1
                if delivery not in sink.gone:
                    assert delivery.body not in acked
                    acked.add(delivery.body)
                    receiver.ack([delivery])
        time.sleep(0.005)
    assert settle(first) == []
    assert settle(second) == []


def test_an_ack_that_raced_the_loss_of_its_partition_is_told_by_the_last_barrier_at_the_latest(
    address: str, topic: str, open_receiver: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user was first, and heard of no loss: a close that said nothing would be a confirmed ack undone (A1, L1)."""
    send(address, topic, numbered(40))
    first, one = open_receiver(prefetch=40)
    one.wait_for(40)
    raced: list[Delivery] = []

    def settled_first(deliveries: Sequence[Delivery]) -> None:
        raced.extend(deliveries)
        first.ack(deliveries)

    monkeypatch.setattr(one, "lost", settled_first)
    _, two = open_receiver(prefetch=40)
    until(lambda: raced)
    kept = [delivery for delivery in one.came if not any(delivery is other for other in raced)]
    first.ack(kept)
    first.close(10)
    (error,) = settle(first)
    assert isinstance(error, LeaseLost)
    assert str(error).startswith(f"{len(raced)} settlements")
    assert settle(first) == []
    # What is told comes again, and nothing else.
    two.wait_for(len(raced))
    assert two.bodies() == sorted(delivery.body for delivery in raced)


def test_the_end_of_its_topic_ends_the_consumer(address: str, topic: str, open_receiver: Open) -> None:
    send(address, topic, [b"x"])
    receiver, sink = open_receiver()
    until(lambda: sink.came)
    receiver.end(NotFound("deleted"), 5)
    assert isinstance(sink.end, NotFound)
    assert sink.gone == sink.came
    receiver.ack(sink.came)
    assert settle(receiver)


def test_an_unexpected_error_ends_it_with_a_typed_one(
    address: str, topic: str, open_receiver: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: object) -> object:
        raise RuntimeError("made for this test")

    monkeypatch.setattr(_receiver, "delivery_of", fault)
    send(address, topic, [b"x"])
    receiver, sink = open_receiver()
    until(lambda: sink.end)
    assert isinstance(sink.end, ConnectionLost)
    assert isinstance(sink.end.__cause__, RuntimeError)
    until(lambda: receiver.is_over)


def test_close_is_idempotent_and_answers_late_barriers(address: str, topic: str, open_receiver: Open) -> None:
    send(address, topic, [b"x"])
    receiver, sink = open_receiver()
    until(lambda: sink.came)
    receiver.close(10)
    receiver.close(10)
    receiver.ack(sink.came)
    errors = settle(receiver)
    assert len(errors) == 1
    assert settle(receiver) == []


def test_who_asks_is_answered_while_the_group_is_still_being_left(
    address: str, topic: str, open_receiver: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaving may take long; what is confirmed is certain before."""
    close = Member[Delivery].close
    leaving, may_leave = threading.Event(), threading.Event()

    def close_late(self: Member[Delivery]) -> None:
        leaving.set()
        may_leave.wait(60)
        close(self)

    monkeypatch.setattr(Member, "close", close_late)
    send(address, topic, numbered(10))
    receiver, sink = open_receiver()
    try:
        sink.wait_for(10)
        receiver.ack(sink.came[:9])
        receiver.close(0)
        assert leaving.wait(60)
        assert settle(receiver) == []
        receiver.forget_waiting({0: 100})
        receiver.ack(sink.came[9:])
        (error,) = settle(receiver)
        assert isinstance(error, LeaseLost)
        assert not receiver.is_over
    finally:
        may_leave.set()
    receiver.close(60)
    assert receiver.is_over
    assert settle(receiver) == []


def test_a_partition_given_up_during_a_poll_makes_nothing_come_twice(
    address: str, topic: str, open_receiver: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    poll = KafkaReceiver._poll

    def poll_and_give_up(self: KafkaReceiver, most: int, timeout: float) -> None:
        poll(self, most, timeout)
        self._member.drop([])

    monkeypatch.setattr(KafkaReceiver, "_poll", poll_and_give_up)
    send(address, topic, numbered(50))
    receiver, sink = open_receiver(prefetch=200)
    sink.wait_for(50)
    receiver.ack(sink.came)
    assert settle(receiver) == []
    assert sink.bodies() == numbered(50)


def test_a_deleted_topic_is_noticed_where_the_client_says_nothing(
    address: str, topic: str, open_receiver: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(address, topic, [b"x"])
    receiver, sink = open_receiver()
    sink.wait_for(1)
    monkeypatch.setattr(receiver._member, "_is_topic_missing", lambda: True)
    receiver._mail.post(lambda: receiver._member._on_lost(receiver._member.consumer, []))
    time.sleep(0.1)
    assert sink.end is None
    gone = [TopicPartition(topic, partition) for partition in range(4)]
    receiver._mail.post(lambda: receiver._member._on_lost(receiver._member.consumer, gone))
    until(lambda: sink.end)
    assert isinstance(sink.end, NotFound)
    assert sink.gone == sink.came


def test_a_key_is_in_work_once_and_its_nacked_head_keeps_its_place(
    address: str, topic: str, open_receiver: Open
) -> None:
    """O1."""
    producer = Producer({"bootstrap.servers": address, "log_level": 0})
    for number in range(3):
        for key in ("a", "b"):
            producer.produce(topic, f"{key}{number}".encode(), key=key, partition=0)
    assert producer.flush(10) == 0
    producer.close()
    receiver, sink = open_receiver(is_ordered=True)
    sink.wait_for(2)
    assert sink.bodies() == [b"a0", b"b0"]
    by_key = {delivery.key: delivery for delivery in sink.came}
    receiver.nack(by_key["a"], 0.2)
    receiver.ack([by_key["b"]])
    sink.wait_for(3)
    assert sink.came[2].body == b"b1"
    sink.wait_for(4)
    assert (sink.came[3].body, sink.came[3].attempt) == (b"a0", 2)
    receiver.ack(sink.came[2:])
    sink.wait_for(6)
    assert sorted(delivery.body for delivery in sink.came[4:]) == [b"a1", b"b2"]


def test_a_purge_forgets_what_it_dropped_and_nothing_that_came_later(
    address: str, topic: str, open_receiver: Open
) -> None:
    """The word of it comes when later messages may have been read, and nacked."""
    send(address, topic, numbered(6), partition=0)
    receiver, sink = open_receiver()
    sink.wait_for(6)
    for delivery in sink.came[1:5]:
        receiver.nack(delivery, 0.3)
    receiver.forget_waiting({0: 3})
    # What is in work was not waiting.
    receiver.ack([sink.came[0], sink.came[5]])
    sink.wait_for(8)
    assert [delivery.body for delivery in sink.came[6:]] == [b"0003", b"0004"]
    receiver.ack(sink.came[6:])
    assert settle(receiver) == []


def test_a_purge_frees_the_key_of_what_it_dropped(address: str, topic: str, open_receiver: Open) -> None:
    producer = Producer({"bootstrap.servers": address, "log_level": 0})
    for body in (b"held", b"purged 1", b"purged 2", b"later 1", b"later 2"):
        for key in ("a", "b"):
            producer.produce(topic, body, key=key, partition=0)
    assert producer.flush(10) == 0
    producer.close()
    receiver, sink = open_receiver(is_ordered=True)
    sink.wait_for(2)
    until(lambda: receiver._member.partitions[0].next == 10)
    receiver.nack(sink.came[0], 60)
    receiver.forget_waiting({0: 6})
    receiver.ack([sink.came[1]])
    sink.wait_for(4)
    receiver.ack(sink.came[2:4])
    sink.wait_for(6)
    assert [delivery.body for delivery in sink.came] == [*[b"held"] * 2, *[b"later 1"] * 2, *[b"later 2"] * 2]
    receiver.ack(sink.came[4:])
    assert settle(receiver) == []


class Copies(Postponed):
    """Notes what is to wait elsewhere; the test says what became of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[Delivery, float, Done]] = []
        self.is_closed = False

    def send(self, delivery: Delivery, due: float, done: Done) -> None:
        self.asked.append((delivery, due, done))

    def close(self) -> None:
        self.is_closed = True


def test_a_long_nack_is_done_when_its_copy_is_stored(address: str, topic: str, open_receiver: Open) -> None:
    send(address, topic, [b"long", b"short"])
    copies = Copies()
    receiver, sink = open_receiver(postponed=copies)
    sink.wait_for(2)
    long, short = sorted(sink.came, key=lambda delivery: delivery.body)
    receiver.nack(long, 60)
    receiver.nack(short, 0.1)
    until(lambda: copies.asked)
    delivery, due, done = copies.asked[0]
    assert (delivery, len(copies.asked)) == (long, 1)
    assert due == pytest.approx(time.time() + 60, abs=5)
    sink.wait_for(3)
    receiver.ack(sink.came[2:])
    answers: list[Sequence[UnimqError]] = []
    receiver.barrier(answers.append)
    time.sleep(0.1)
    assert not answers
    done(None)
    until(lambda: answers)
    assert answers == [[]]
    receiver.close(10)
    assert copies.is_closed
    again, second = open_receiver()
    send(address, topic, [b"marker"])
    second.wait_for(1)
    assert second.bodies() == [b"marker"]
    again.ack(second.came)
    assert settle(again) == []


def test_a_long_nack_waits_here_if_its_copy_is_not_certain(
    address: str, topic: str, open_receiver: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_receiver, "LONG_NACK", 0.5)
    send(address, topic, [b"x"])
    copies = Copies()
    receiver, sink = open_receiver(postponed=copies)
    sink.wait_for(1)
    began = time.time()
    receiver.nack(sink.came[0], 0.5)
    until(lambda: copies.asked)
    copies.asked[0][2](ConnectionLost("no answer"))
    sink.wait_for(2)
    assert time.time() - began >= 0.5
    assert sink.came[1].attempt == 2
    receiver.ack(sink.came[1:])
    assert settle(receiver) == []


def test_barriers_wait_for_the_copies_before_them_and_no_others(address: str, topic: str, open_receiver: Open) -> None:
    send(address, topic, numbered(2))
    copies = Copies()
    receiver, sink = open_receiver(postponed=copies)
    sink.wait_for(2)
    answers: list[str] = []
    receiver.nack(sink.came[0], 60)
    receiver.barrier(lambda errors: answers.append("first"))
    receiver.nack(sink.came[1], 60)
    receiver.barrier(lambda errors: answers.append("second"))
    until(lambda: len(copies.asked) == 2)
    copies.asked[0][2](None)
    until(lambda: answers)
    assert answers == ["first"]
    copies.asked[1][2](None)
    until(lambda: len(answers) == 2)


def test_closing_waits_for_a_copy_but_not_for_ever(
    address: str, topic: str, open_receiver: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_receiver, "_MOVES", 0.3)
    send(address, topic, numbered(2))
    copies = Copies()
    receiver, sink = open_receiver(postponed=copies)
    sink.wait_for(2)
    for delivery in sorted(sink.came, key=lambda delivery: delivery.body):
        receiver.nack(delivery, 60)
    until(lambda: len(copies.asked) == 2)
    copies.asked[0][2](None)
    answers: list[Sequence[UnimqError]] = []
    receiver.barrier(answers.append)
    receiver.close(10)
    assert len(answers) == 1
    # The other one is not done, and comes again.
    _, second = open_receiver()
    second.wait_for(1)
    assert second.bodies() == [b"0001"]
