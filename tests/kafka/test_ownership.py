"""Whose a new partition is: nothing of it is fetched before the coordinator has said that it is ours (G1, O1)."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from unimq_contract.brokers import RunningTap
from unimq_contract.brokers import kafka as tap
from unimq_kafka import _member
from unimq_kafka._administration import Administration
from unimq_kafka._options import KafkaOptions, Settings, consumer_settings
from unimq_kafka._receiver import KafkaReceiver

import unimq

from .conftest import Deliveries, until

ALL = {0, 1, 2, 3}


class Coordinator:
    """Answers when the test wants it to."""

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[str, str, str], Future[set[int]]]] = []

    def __call__(self, group: str, topic: str, member: str) -> Future[set[int]]:
        answer: Future[set[int]] = Future()
        self.asked.append(((group, topic, member), answer))
        return answer

    def next_question(self) -> Future[set[int]]:
        """Wait for the question that is not answered yet."""
        until(lambda: self.asked and not self.asked[-1][1].done())
        return self.asked[-1][1]


@pytest.fixture
def topic(address: str, request: pytest.FixtureRequest) -> str:
    name = f"{request.node.name}-{time.time_ns()}".replace("[", "-").replace("]", "")
    producer = Producer({"bootstrap.servers": address, "log_level": 0})
    for partition in ALL:
        producer.produce(name, b"%d" % partition, partition=partition)
    assert producer.flush(10) == 0
    producer.close()
    return name


@pytest.fixture
def coordinator() -> Coordinator:
    return Coordinator()


Open = Callable[[str], Deliveries]


@pytest.fixture
def open_receiver(address: str, topic: str, coordinator: Coordinator) -> Iterator[Open]:
    opened: list[KafkaReceiver] = []

    def open_one(protocol: str) -> Deliveries:
        client: Settings = {"bootstrap.servers": address, "log_level": 0, "fetch.wait.max.ms": 10}
        sink = Deliveries()
        opened.append(
            KafkaReceiver(
                consumer_settings(client, KafkaOptions(), topic, protocol, 100),
                topic,
                sink,
                100,
                is_ordered=False,
                find_topic_id=str,
                is_topic_missing=bool,
                ask_owned=coordinator,
            )
        )
        return sink

    yield open_one
    for receiver in opened:
        receiver.close(10)


def test_only_what_is_ours_is_fetched(open_receiver: Open, coordinator: Coordinator, topic: str) -> None:
    sink = open_receiver("consumer")
    coordinator.next_question().set_result(set())
    coordinator.next_question().set_result({1, 3})
    sink.wait_for(2)
    last = coordinator.next_question()
    assert sorted(sink.bodies()) == [b"1", b"3"], "the others are asked for again, and were not fetched"
    last.set_result(ALL)
    sink.wait_for(4)
    assert sorted(sink.bodies()) == [b"0", b"1", b"2", b"3"]
    (group, asked, member), _ = coordinator.asked[-1]
    assert (group, asked) == (topic, topic)
    assert member


def test_who_may_not_ask_goes_by_what_the_client_says(open_receiver: Open, coordinator: Coordinator) -> None:
    sink = open_receiver("consumer")
    coordinator.next_question().set_exception(KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED)))
    sink.wait_for(4)
    assert len(coordinator.asked) == 1


def test_a_coordinator_that_does_not_answer_is_not_waited_for_for_ever(
    open_receiver: Open, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_member, "_MOST_DOUBT", 0.5)
    sink = open_receiver("consumer")
    coordinator.next_question()
    sink.wait_for(4)
    assert len(coordinator.asked) == 1


def test_the_classic_protocol_leaves_no_doubt(open_receiver: Open, coordinator: Coordinator) -> None:
    open_receiver("classic").wait_for(4)
    assert coordinator.asked == []


@pytest.mark.slow
def test_the_coordinator_says_who_has_what(start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap]) -> None:
    with start_or_skip(tap.start) as running, unimq.connect(f"{running.url}?partitions=4") as broker:
        broker.producer("owned").send(b"x")
        consumer = broker.consumer("owned")
        consumer.ack(consumer.receive(timeout=60))
        admin = Administration({"bootstrap.servers": running.url.removeprefix("kafka://"), "log_level": 0}, "test")
        try:
            (description,) = [
                member
                for answer in admin._client.describe_consumer_groups(["owned"]).values()
                for member in answer.result(60).members
            ]
            assert admin.ask_owned("owned", "owned", description.member_id).result(60) == ALL
            assert admin.ask_owned("owned", "owned", "somebody else").result(60) == set()
            assert admin.ask_owned("owned", "another topic", description.member_id).result(60) == set()
            assert admin.ask_owned("no such group", "owned", description.member_id).result(60) == set()
        finally:
            admin.close()
