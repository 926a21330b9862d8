"""Forwarding what is due, against the client library's mock broker: what is moved where, and when it counts as done.

The mock's topics have four partitions, so four tiers: none, 1 s, 4 s, 16 s. It keeps the timestamps that it is given.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from unimq_kafka import _forwarder
from unimq_kafka._forwarder import Forwarder, Waiting
from unimq_kafka._options import KafkaOptions, Settings, consumer_settings, forwarder_settings
from unimq_kafka._producer import Job
from unimq_kafka._progress import PartitionProgress
from unimq_kafka._tiers import delay_topic
from unimq_kafka._wire import DUE, SENT_AT

from unimq import AuthError, ConnectionLost, NotFound

from .conftest import until

HOUR = 3600.0


class Moves:
    """In the place of the shared producer: notes what is to be moved; the test says what became of it."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.is_attached = False
        self.refusal: KafkaException | None = None
        self.confirms = False

    def attach(self, sender: object) -> None:
        self.is_attached = True

    def detach(self, sender: object) -> None:
        self.is_attached = False

    def wake(self) -> None:
        """Nothing waits to be woken."""

    def produce(self, job: Job) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.jobs.append(job)
        if self.confirms:
            self.confirm(job)

    def confirm(self, *jobs: Job) -> None:
        for job in jobs:
            job.sender.take_reports([job.entry], [])

    def refuse(self, job: Job) -> None:
        job.sender.take_reports([], [(job.entry, KafkaError(KafkaError._MSG_TIMED_OUT))])

    def wait_for(self, count: int) -> None:
        until(lambda: len(self.jobs) >= count)

    def bodies(self) -> list[bytes]:
        return [job.entry.message.body for job in self.jobs]


Open = Callable[[], tuple[Forwarder, Moves]]


@pytest.fixture
def topic(address: str, request: pytest.FixtureRequest) -> str:
    return f"{request.node.name}-{time.time_ns()}"


@pytest.fixture
def put(address: str, topic: str) -> Iterator[Callable[..., None]]:
    """Put messages into a tier: due in so many seconds, and there since so many."""
    producer = Producer({"bootstrap.servers": address, "log_level": 0})

    def put_one(body: bytes, tier: int, due_in: float, since: float = 0.0) -> None:
        now = time.time()
        headers: list[tuple[str, str | bytes | None]] = [
            ("unimq-id", b"i"),
            ("mine", b"\xff"),
            (SENT_AT, b"%d" % ((now - since) * 1000)),
            (DUE, b"%d" % ((now + due_in) * 1000)),
        ]
        timestamp = int((now - since) * 1000)
        producer.produce(delay_topic(topic), body, b"k", tier, timestamp=timestamp, headers=headers)
        assert producer.flush(10) == 0

    yield put_one
    producer.close()


@pytest.fixture
def open_forwarder(address: str, topic: str) -> Iterator[Open]:
    opened: list[Forwarder] = []

    def open_one() -> tuple[Forwarder, Moves]:
        shared: Settings = {"bootstrap.servers": address, "log_level": 0}
        settings = consumer_settings(shared, KafkaOptions(), delay_topic(topic), "consumer", 1)
        moves = Moves()
        forwarder = Forwarder(
            # The mock answers an empty fetch after its whole waiting time.
            {**forwarder_settings(settings), "fetch.wait.max.ms": 10},
            topic,
            moves,  # type: ignore[arg-type]
            partitions=4,
            find_topic_id=lambda: "",
            is_topic_missing=lambda: False,
        )
        opened.append(forwarder)
        return forwarder, moves

    yield open_one
    for forwarder in opened:
        forwarder.begin_close(time.monotonic() + 5)
        forwarder.join(10)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("unimq-kafka")]


def committed(address: str, topic: str, tier: int) -> int:
    """Return below which offset the forwarders are done; what they are done with above it is not counted."""
    group = delay_topic(topic)
    consumer = Consumer({"bootstrap.servers": address, "group.id": group, "log_level": 0})
    found = consumer.committed([TopicPartition(group, tier)], timeout=10)[0]
    consumer.close()
    return max(0, found.offset)


def test_what_is_due_goes_to_its_destination_as_if_it_had_had_no_delay(
    put: Callable[..., None], open_forwarder: Open, topic: str
) -> None:
    put(b"x", 1, 0.3, since=0.7)
    put(b"old", 1, -100, since=HOUR)
    began = time.time()
    _, moves = open_forwarder()
    moves.wait_for(2)
    job, old = sorted(moves.jobs, key=lambda job: job.entry.message.body, reverse=True)
    assert job.entry.message.body == b"x"
    assert (job.topic, job.key, job.partition) == (topic, b"k", -1)
    assert job.headers == [("unimq-id", b"i"), ("mine", b"\xff")]
    assert job.timestamp == pytest.approx((began - 0.7) * 1000, abs=300)
    # Retention goes by the timestamp, so that what was sent long ago has the time of its sending elsewhere.
    assert [name for name, _ in old.headers or ()] == ["unimq-id", "mine", SENT_AT]
    assert old.timestamp == pytest.approx(time.time() * 1000, abs=20_000)


def test_nothing_is_done_before_it_is_confirmed(
    put: Callable[..., None], open_forwarder: Open, address: str, topic: str
) -> None:
    for body in (b"1", b"2", b"3"):
        put(body, 0, -1)
    forwarder, moves = open_forwarder()
    moves.wait_for(3)
    moves.confirm(moves.jobs[2])
    # The third one is in the map of the commit, the first two are not done.
    until(lambda: not forwarder.outstanding.keys() - {job.entry for job in moves.jobs[:2]})
    moves.confirm(moves.jobs[0])
    until(lambda: committed(address, topic, 0) == 1)
    forwarder.begin_close(time.monotonic() + 5)
    forwarder.join(5)
    assert committed(address, topic, 0) == 1
    _, again = open_forwarder()
    again.wait_for(1)
    again.confirm(*again.jobs)
    until(lambda: committed(address, topic, 0) == 3)
    assert again.bodies() == [b"2"]


def test_a_confirmation_that_comes_while_it_closes_counts(
    put: Callable[..., None], open_forwarder: Open, address: str, topic: str
) -> None:
    put(b"x", 0, -1)
    forwarder, moves = open_forwarder()
    moves.wait_for(1)
    forwarder.begin_close(time.monotonic() + 10)
    moves.confirm(*moves.jobs)
    forwarder.join(10)
    assert forwarder.is_over
    assert not moves.is_attached
    assert committed(address, topic, 0) == 1


def test_what_is_under_way_when_a_tier_is_given_up_is_waited_for(
    put: Callable[..., None], open_forwarder: Open, address: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tier in range(4):
        put(b"%d" % tier, tier, -1)
    first, moves = open_forwarder()
    moves.wait_for(4)
    is_giving_up = threading.Event()
    revoking = first.revoking

    def noticed(leaving: Sequence[PartitionProgress[Waiting]]) -> None:
        is_giving_up.set()
        revoking(leaving)

    monkeypatch.setattr(first, "revoking", noticed)
    second, others = open_forwarder()
    assert is_giving_up.wait(20)
    moves.confirm(*moves.jobs)
    until(lambda: second._member.partitions)
    until(lambda: [committed(address, topic, tier) for tier in range(4)] == [1] * 4)
    # What it reads there after this is all that it got.
    for tier in range(4):
        put(b"marker", tier, -1)
    until(lambda: len(moves.jobs) + len(others.jobs) == 8)
    assert set(others.bodies()) == {b"marker"}


@pytest.mark.parametrize("how", ["by-its-report", "at-once", "with-all-others"])
def test_what_is_refused_is_tried_again_and_blocks_nobody(
    put: Callable[..., None], open_forwarder: Open, address: str, topic: str, how: str
) -> None:
    put(b"bad", 0, -1)
    forwarder, moves = open_forwarder()
    if how == "at-once":
        # It joins its group meanwhile.
        moves.refusal = KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        until(lambda: forwarder._parked)
        moves.refusal = None
    else:
        moves.wait_for(1)
        if how == "by-its-report":
            moves.refuse(moves.jobs[0])
        else:
            forwarder.fail_all("made for this test")
        until(lambda: forwarder._parked)
        moves.jobs.clear()
    put(b"good", 0, -1)
    moves.wait_for(2)
    assert moves.bodies() == [b"good", b"bad"]
    moves.confirm(*moves.jobs)
    until(lambda: committed(address, topic, 0) == 2)


def test_many_that_are_refused_are_all_tried_again(
    put: Callable[..., None], open_forwarder: Open, address: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no others meanwhile, which would only be refused as well."""
    monkeypatch.setattr(_forwarder, "_MOST_REFUSED", 2)
    for body in (b"1", b"2"):
        put(body, 0, -1)
    forwarder, moves = open_forwarder()
    moves.wait_for(2)
    for job in moves.jobs:
        moves.refuse(job)
    until(lambda: len(forwarder._parked) == 2)
    put(b"3", 0, -1)
    until(lambda: any(tier.line for tier in forwarder._tiers.values()))
    assert len(moves.jobs) == 2
    moves.confirms = True
    moves.wait_for(5)
    assert sorted(moves.bodies()[2:]) == [b"1", b"2", b"3"]
    until(lambda: committed(address, topic, 0) == 3)


def test_short_rests_are_kept_here_and_end_in_the_order_in_which_they_fall_due(
    put: Callable[..., None], open_forwarder: Open
) -> None:
    """Whatever the tier, and the order in it."""
    put(b"third", 1, 0.9, since=1)
    put(b"first", 1, 0.5, since=1)
    put(b"second", 2, 0.7, since=4)
    put(b"last", 0, 1.1)
    due = time.time() + 1.1
    _, moves = open_forwarder()
    moves.wait_for(4)
    assert moves.bodies() == [b"first", b"second", b"third", b"last"]
    assert time.time() >= due - 0.002


def test_without_room_the_rest_is_waited_for_in_lower_tiers(
    put: Callable[..., None],
    open_forwarder: Open,
    address: str,
    topic: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_forwarder, "_MOST_PARKED", 0)
    put(b"long", 3, 10, since=16)
    put(b"short", 2, 3, since=4)
    put(b"shortest", 1, 0.8, since=1)
    _, moves = open_forwarder()
    moves.wait_for(3)
    where = {job.entry.message.body: job for job in moves.jobs}
    assert {body: (job.topic, job.partition) for body, job in where.items()} == {
        b"long": (delay_topic(topic), 2),
        b"short": (delay_topic(topic), 1),
        b"shortest": (delay_topic(topic), 0),
    }
    # There it needs what it needs here.
    assert [name for name, _ in where[b"long"].headers or ()] == ["unimq-id", "mine", SENT_AT, DUE]
    assert committed(address, topic, 3) == 0
    moves.confirm(*moves.jobs)
    until(lambda: [committed(address, topic, tier) for tier in (1, 2, 3)] == [1, 1, 1])


def test_without_room_in_the_lowest_tier_it_waits_in_line(
    put: Callable[..., None], open_forwarder: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_forwarder, "_MOST_PARKED", 1)
    for body, due_in in ((b"kept", 0.9), (b"in line", 0.6), (b"behind", 0.5)):
        put(body, 0, due_in)
    due = time.time() + 0.5
    _, moves = open_forwarder()
    moves.wait_for(3)
    assert moves.bodies() == [b"in line", b"behind", b"kept"]
    assert time.time() >= due


def test_a_long_line_is_not_read_to_its_end_and_none_of_it_is_lost(
    put: Callable[..., None], open_forwarder: Open, address: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_forwarder, "_MOST_IN_LINE", 10)
    monkeypatch.setattr(_forwarder, "_LARGEST_FETCH", 3)
    bodies = [b"%03d" % number for number in range(100)]
    due = time.time() + 3
    for body in bodies:
        put(body, 2, due - time.time())
    forwarder, moves = open_forwarder()
    moves.confirms = True
    until(lambda: forwarder._member.stopped == {2})
    (tier,) = [tier for tier in forwarder._tiers.values() if tier.line]
    assert 10 <= len(tier.line) <= 12
    # Another tier goes on meanwhile.
    put(b"elsewhere", 0, -1)
    moves.wait_for(1)
    assert moves.bodies() == [b"elsewhere"]
    moves.wait_for(101)
    assert moves.bodies()[1:] == bodies
    assert time.time() >= due - 0.002
    until(lambda: committed(address, topic, 2) == 100)


def test_one_that_is_kept_here_for_long_does_not_stop_its_tier(
    put: Callable[..., None], open_forwarder: Open, address: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit cannot pass it, and reaches only so far beyond."""
    monkeypatch.setattr(_forwarder, "SPAN_LIMIT", 40)
    put(b"kept", 3, 20, since=16)
    forwarder, moves = open_forwarder()
    moves.confirms = True
    until(lambda: forwarder._parked)
    for number in range(100):
        put(b"%03d" % number, 3, -1, since=17)
    moves.wait_for(101)
    kept = next(job for job in moves.jobs if job.entry.message.body == b"kept")
    assert (kept.topic, kept.partition) == (delay_topic(topic), 3)
    until(lambda: committed(address, topic, 3) == 101)


def test_what_is_under_way_is_bounded(
    put: Callable[..., None], open_forwarder: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_forwarder, "_MOST_UNDER_WAY", 3)
    for number in range(10):
        put(b"%d" % number, 0, -1)
    _, moves = open_forwarder()
    for step in range(1, 11):
        moves.wait_for(min(10, step + 2))
        time.sleep(0.02)
        assert len(moves.jobs) <= step + 2
        moves.confirm(moves.jobs[step - 1])
    assert moves.bodies() == [b"%d" % number for number in range(10)]


def test_purged_ones_are_forgotten_and_no_later_ones(
    put: Callable[..., None], open_forwarder: Open, address: str, topic: str
) -> None:
    put(b"kept", 1, 20, since=1)
    put(b"in line", 2, 4.2, since=2)
    forwarder, moves = open_forwarder()
    until(lambda: forwarder._parked and any(tier.line for tier in forwarder._tiers.values()))
    # These came between the purge and the word of it.
    put(b"later", 1, 2.0, since=1)
    put(b"marker", 2, 2.5, since=1.7)
    until(lambda: len(forwarder._parked) == 2 and any(len(tier.line) == 2 for tier in forwarder._tiers.values()))
    forwarder.forget_waiting({1: 1, 2: 1})
    until(lambda: [committed(address, topic, tier) for tier in (1, 2)] == [1, 1])
    moves.wait_for(2)
    assert moves.bodies() == [b"later", b"marker"]


def test_a_deleted_topic_ends_it_and_nothing_is_committed(
    put: Callable[..., None], open_forwarder: Open, address: str, topic: str
) -> None:
    put(b"x", 0, -1)
    forwarder, moves = open_forwarder()
    moves.wait_for(1)
    forwarder.end(NotFound("deleted"), 5)
    assert forwarder.is_over
    moves.confirm(*moves.jobs)
    assert committed(address, topic, 0) == 0


def test_a_deleted_topic_is_noticed(put: Callable[..., None], open_forwarder: Open) -> None:
    put(b"x", 0, -1)
    forwarder, moves = open_forwarder()
    moves.wait_for(1)
    forwarder._member._is_topic_missing = lambda: True
    forwarder._mail.post(forwarder._member._look_for_topic)
    until(lambda: forwarder.is_over)
    assert forwarder.failure is None


def test_who_may_not_write_to_the_destination_leaves_it_to_others(
    put: Callable[..., None], open_forwarder: Open, address: str, topic: str
) -> None:
    put(b"x", 0, -1)
    forwarder, moves = open_forwarder()
    moves.wait_for(1)
    refusal = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)
    moves.jobs[0].sender.take_reports([], [(moves.jobs[0].entry, refusal)])
    until(lambda: forwarder.is_over)
    assert isinstance(forwarder.failure, AuthError)
    assert topic in str(forwarder.failure)
    assert committed(address, topic, 0) == 0
    _, other = open_forwarder()
    other.wait_for(1)


def test_it_says_what_is_done_for_certain(put: Callable[..., None], open_forwarder: Open) -> None:
    for body in (b"1", b"2", b"3"):
        put(body, 0, -1)
    forwarder, moves = open_forwarder()
    moves.wait_for(3)
    assert forwarder.finished() == ("", {})
    moves.confirm(moves.jobs[0], moves.jobs[2])
    until(lambda: forwarder.finished() == ("", {0: 1}))
    moves.confirm(moves.jobs[1])
    until(lambda: forwarder.finished() == ("", {0: 3}))


def test_an_unexpected_error_ends_it(
    put: Callable[..., None], open_forwarder: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(headers: object) -> float:
        raise RuntimeError("made for this test")

    monkeypatch.setattr(_forwarder, "due_time", fault)
    put(b"x", 0, -1)
    forwarder, moves = open_forwarder()
    until(lambda: forwarder.is_over)
    assert isinstance(forwarder.failure, ConnectionLost)
    assert not moves.is_attached
