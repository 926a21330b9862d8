"""``key_lanes``: an ordered queue over several queues of the broker, on a real one."""

import time
from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

import pytest
from unimq_contract.brokers import RunningTap
from unimq_contract.brokers import rabbitmq as tap
from unimq_contract.history import Floors, History, Load, Recording, Rules, judge, run
from unimq_contract.history.events import Delivered
from unimq_rabbitmq import _key_lanes

import unimq

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("rabbitmq")]

PATIENCE = 60.0
"""Seconds that anything may take on a busy machine."""
KEYS = 40


@pytest.fixture
def queue() -> unimq.Queue:
    return unimq.Queue(f"laned-{uuid4().hex[:8]}", ordering="key")


def connected(running: RunningTap, key_lanes: int = 4) -> unimq.Broker:
    return unimq.connect(f"{running.url}?key_lanes={key_lanes}", timeout=PATIENCE)


def numbered(count: int) -> list[unimq.Message]:
    """Return messages of several keys, whose bodies are their numbers."""
    return [unimq.Message(b"%d" % number, key=f"key-{number % KEYS}") for number in range(count)]


def awaited(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def received(consumer: unimq.Consumer, count: int) -> list[unimq.Delivery]:
    found: list[unimq.Delivery] = []
    while len(found) < count:
        some = consumer.receive(count - len(found), timeout=PATIENCE)
        assert some, f"{len(found)} of {count} came"
        found += some
    return found


@pytest.mark.parametrize("lanes", [2, 4, 16])
def test_nobody_is_ahead_everywhere(lanes: int) -> None:
    """Whoever comes second to an idle queue gets some of its lanes, and leaves some, but for equal ranks."""
    for _ in range(200):
        first, second = _key_lanes.priorities(lanes), _key_lanes.priorities(lanes)
        ranks = [[each >> 16 for each in one] for one in (first, second)]
        assert sorted(ranks[0]) == sorted(ranks[1]) == list(range(lanes))
        if ranks[0] != ranks[1]:
            ahead = sum(one > other for one, other in zip(first, second, strict=True))
            assert 0 < ahead < lanes


def test_every_operation_reaches_all_lanes(running: RunningTap, queue: unimq.Queue) -> None:
    """Also where only the name is known: the lanes are found on the broker."""
    with connected(running) as broker, connected(running, 1) as other:
        with broker.producer(queue) as producer:
            producer.send_many(numbered(5 * KEYS))
        lanes = [
            unimq.Queue(_key_lanes.lane_of(queue.name, number), portable_name=False, dead_letter=False)
            for number in range(4)
        ]
        depths = [other.stats(lane).ready for lane in lanes]
        assert all(depths), f"a lane got nothing: {depths}"
        assert broker.stats(queue).ready == other.stats(queue.name).ready == 5 * KEYS
        with other.producer(queue.name) as producer, other.consumer(queue.name, prefetch=KEYS) as consumer:
            heads = received(consumer, KEYS)
            assert len({delivery.key for delivery in heads}) == KEYS, "one of a key in work at a time"
            heads[0].reject("no good")
            consumer.ack(heads[1:])
            consumer.settle()
            producer.send(b"last", key="key-0")
        # Closing gives back what waited in the consumer, as soon as the queue has noticed it.
        awaited(lambda: broker.stats(queue.name).ready == 4 * KEYS + 1)
        assert broker.stats(queue).dead_letters == 1
        assert broker.redrive(queue).moved == 1
        assert broker.purge(queue) == 4 * KEYS + 2
        broker.delete(queue)
        with pytest.raises(unimq.NotFound):
            broker.stats(queue)
        for lane in lanes:
            with pytest.raises(unimq.NotFound):
                other.stats(lane)


def test_consumers_share_the_lanes_and_keep_the_order(running: RunningTap, queue: unimq.Queue) -> None:
    with (
        connected(running, 16) as broker,
        broker.producer(queue) as producer,
        broker.consumer(queue) as first,
        broker.consumer(queue) as second,
    ):
        # The first one gives lanes up as soon as it has nothing of them.
        producer.send_many(numbered(20 * KEYS))
        seen: dict[str | None, list[int]] = {}
        worked: set[int] = set()
        for _ in range(20 * KEYS):
            found: list[unimq.Delivery] = []
            while not found:
                for number, consumer in enumerate((first, second)):
                    some = consumer.receive(1, timeout=0.05)
                    worked |= {number} if some else set()
                    found += some
            for delivery in found:
                seen.setdefault(delivery.key, []).append(int(delivery.body))
                delivery.ack()
            if sum(map(len, seen.values())) == 20 * KEYS:
                break
        assert sum(map(len, seen.values())) == 20 * KEYS
        assert all(numbers == sorted(numbers) for numbers in seen.values())
        assert worked == {0, 1}


def test_the_prefetch_holds_over_all_lanes(running: RunningTap, queue: unimq.Queue) -> None:
    with connected(running, 8) as broker:
        with broker.producer(queue) as producer, broker.consumer(queue, prefetch=3) as consumer:
            producer.send_many(numbered(KEYS))
            held = received(consumer, 3)
            assert consumer.receive(1, timeout=0.3) == []
            seen = {delivery.key for delivery in held}
            while len(seen) < KEYS:
                held.pop(0).ack()
                (delivery,) = received(consumer, 1)
                held.append(delivery)
                seen.add(delivery.key)
            consumer.ack(held)
            consumer.settle()
        assert broker.stats(queue).ready == 0


def test_a_nacked_head_makes_room_for_another_key(running: RunningTap, queue: unimq.Queue) -> None:
    """With a prefetch of one, with and without lanes: what waits for its delay is not in work."""
    for key_lanes in (1, 4):
        name = replace(queue, name=f"{queue.name}-{key_lanes}")
        with (
            connected(running, key_lanes) as broker,
            broker.producer(name) as producer,
            broker.consumer(name, prefetch=1) as consumer,
        ):
            producer.send_many([unimq.Message(b"a1", key="a"), unimq.Message(b"b1", key="b")])
            (first,) = received(consumer, 1)
            first.nack(delay=PATIENCE)
            (other,) = received(consumer, 1)
            assert {first.body, other.body} == {b"a1", b"b1"}
            other.ack()
            consumer.settle()


def test_a_topic_is_in_front_of_the_lanes(running: RunningTap) -> None:
    topic = unimq.Topic(f"laned-{uuid4().hex[:8]}", ordering="key", require_subscription=True)
    audit = topic.subscription("audit")
    with connected(running) as broker:
        broker.declare(topic, audit)
        with broker.producer(topic) as producer, broker.consumer(audit) as consumer:
            producer.send_many(numbered(3 * KEYS))
            seen: dict[str | None, list[int]] = {}
            for _ in range(3 * KEYS):
                (delivery,) = received(consumer, 1)
                seen.setdefault(delivery.key, []).append(int(delivery.body))
                delivery.ack()
            assert all(numbers == sorted(numbers) for numbers in seen.values())
            consumer.settle()
            broker.delete(topic)
            with pytest.raises(unimq.NotFound):
                broker.stats(audit)


def test_a_delayed_message_comes_to_its_lane(running: RunningTap, queue: unimq.Queue) -> None:
    with connected(running) as broker, broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        producer.send_many([unimq.Message(b"%d" % n, key=f"key-{n}", delay=0.2) for n in range(20)])
        found = received(consumer, 20)
        assert {delivery.key for delivery in found} == {f"key-{n}" for n in range(20)}
        consumer.ack(found)
        consumer.settle()


def test_dead_letters_go_to_a_queue_with_lanes_as_it_is(running: RunningTap, queue: unimq.Queue) -> None:
    """Whoever made it: a dead-letter queue is accepted with whatever policies it has."""
    plain = replace(queue, ordering="none")
    dead = queue.dead_letters
    assert dead is not None
    with connected(running) as other:
        other.declare(dead)
    with connected(running) as broker, broker.producer(plain) as producer, broker.consumer(plain) as consumer:
        producer.send(b"bad", key="k")
        received(consumer, 1)[0].reject("no good")
        consumer.settle()
        assert broker.stats(plain).dead_letters == 1
        assert broker.redrive(plain).moved == 1


def test_another_number_of_lanes_is_a_conflict(running: RunningTap, queue: unimq.Queue) -> None:
    plain = replace(queue, name=f"{queue.name}-plain")
    with connected(running, 4) as four, connected(running, 8) as eight, connected(running, 1) as one:
        four.declare(queue)
        four.declare(queue)
        with pytest.raises(unimq.DeclarationConflict, match="key_lanes is 4 there, 8 here"):
            eight.declare(queue)
        for other in (queue, replace(queue, ordering="none")):
            with pytest.raises(unimq.DeclarationConflict, match="key_lanes is 4 there, 1 here"):
                one.declare(other)
        one.declare(plain)
        with pytest.raises(unimq.DeclarationConflict, match="it has no lanes there, key_lanes is 4 here"):
            four.declare(plain)


def test_max_length_is_shared_by_the_lanes(running: RunningTap, queue: unimq.Queue) -> None:
    bounded = replace(queue, max_length=8)
    with connected(running) as broker, broker.producer(bounded) as producer:
        outcomes = producer.send_many(numbered(20 * KEYS), return_errors=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, unimq.QueueFull)]
        assert refused
        awaited(lambda: broker.stats(bounded).ready == len(outcomes) - len(refused))
        with connected(running) as other, pytest.raises(unimq.DeclarationConflict, match="max_length"):
            other.declare(replace(queue, max_length=800))


def test_without_the_plugin_the_error_says_how_to_get_it(
    start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap], queue: unimq.Queue
) -> None:
    with start_or_skip(lambda: tap.start(plugins=())) as bare, connected(bare) as broker:
        with broker.producer("plain") as producer:
            with pytest.raises(unimq.Unsupported, match="rabbitmq-plugins enable rabbitmq_consistent_hash_exchange"):
                broker.declare(queue)
            producer.send(b"the connection is well")
        with connected(bare, 1) as single, single.producer(queue) as producer:
            producer.send(b"one lane needs no plugin", key="k")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("key_lanes", [1, 8])
def test_order_over_nacks_deaths_and_redeliveries(running: RunningTap, key_lanes: int) -> None:
    """Judged by the history: consumers nack, close with messages in hand, come and go, and lose their connections."""
    queue = unimq.Queue(f"laned-{uuid4().hex[:8]}", ordering="key")
    history = History()
    recording = Recording(history)

    def delivered() -> int:
        return sum(isinstance(event, Delivered) for event in history.events)

    def lose_connections() -> None:
        for _ in range(2):
            awaited_from = delivered()
            awaited(lambda: delivered() >= awaited_from + 200)  # noqa: B023 - it is called in this round only
            with history.fault("connections closed"):
                running.tool("rabbitmqctl", "close_all_connections", "as on a bad day")

    # With a rate: producers go on while a busy machine runs rabbitmqctl, and all they send has to be judged.
    load = Load(seed=7, messages=2000, rate=300.0, consumers=3, keys=KEYS, nack=0.1, close=0.01, limit=4 * PATIENCE)
    run(load, recording, lambda: connected(running, key_lanes), queue, meanwhile=lose_connections)
    # Of one lane one consumer at a time has work.
    floors = Floors(overlaps=10 if key_lanes > 1 else 0, faults={"connections closed": 1})
    with connected(running, key_lanes) as broker:
        rules = Rules.of(broker.capabilities, queue, floors=floors)
    judge(history.events, rules).raise_if_broken()
