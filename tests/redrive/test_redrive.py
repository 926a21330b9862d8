"""Redrive on the in-memory broker: what the contract suite does not see, and what only a patched broker shows."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest
from unimq_memory._driver import MemorySender

import unimq
from unimq import _redrive
from unimq._waiting import block_until
from unimq.adapter import Outgoing

QUEUE = unimq.Queue("orders")
DEAD = unimq.Queue("orders-dead")


@pytest.fixture
def url() -> str:
    return f"memory://redrive-{os.urandom(4).hex()}"


@pytest.fixture
def broker(url: str) -> Iterator[unimq.Broker]:
    with unimq.connect(url) as connected:
        yield connected


def bury(
    broker: unimq.Broker,
    count: int,
    queue: unimq.Queue = QUEUE,
    reason: Callable[[int], str] = lambda _: "unwanted",
) -> None:
    with broker.consumer(queue, prefetch=count) as consumer:
        with broker.producer(queue) as producer:
            producer.send_many([unimq.Message(b"%d" % number, id=f"m{number}") for number in range(count)])
        for _ in range(count):
            (delivery,) = consumer.receive(1, timeout=5)
            delivery.reject(reason(int(delivery.body)))
        consumer.settle()


def depths(broker: unimq.Broker, queue: unimq.Queue = QUEUE) -> tuple[int | None, int | None]:
    """What is ready in the queue and in its dead letters."""
    stats = broker.stats(queue)
    return stats.ready, stats.dead_letters


def take(broker: unimq.Broker, queue: unimq.Queue = QUEUE) -> list[unimq.Delivery]:
    """Take everything that is there."""
    with broker.consumer(queue, prefetch=10_000) as consumer:
        found = consumer.receive(10_000, timeout=0)
        consumer.ack(found)
        consumer.settle()
    return found


# Arguments.


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": True}, "limit"),
        ({"reason": b"bytes"}, "reason"),
        ({"rate": 0}, "rate"),
        ({"rate": float("inf")}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"rate": True}, "rate"),
        ({"timeout": 0}, "timeout"),
    ],
)
def test_a_wrong_argument_is_named(broker: unimq.Broker, wrong: dict[str, object], said: str) -> None:
    with pytest.raises(unimq.ConfigError, match=said):
        broker.redrive("orders", **wrong)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def test_the_dead_letter_queue_is_not_the_source(broker: unimq.Broker) -> None:
    with pytest.raises(unimq.ConfigError, match="those of 'orders'"):
        broker.redrive("orders-dead")
    with pytest.raises(unimq.ConfigError, match="name one of its subscriptions"):
        broker.redrive(unimq.Topic("events"))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def test_a_missing_dead_letter_queue_is_not_found(broker: unimq.Broker) -> None:
    broker.declare(QUEUE)
    broker.delete(DEAD)
    with pytest.raises(unimq.NotFound, match="orders-dead"):
        broker.redrive("orders")


def test_a_closed_broker_says_so(url: str) -> None:
    broker = unimq.connect(url)
    broker.close()
    with pytest.raises(unimq.Closed):
        broker.redrive("orders")


# What arrives.


def test_order_is_kept_and_nothing_is_left(broker: unimq.Broker) -> None:
    bury(broker, 1000)
    done = broker.redrive(QUEUE)
    assert (done.moved, done.complete, depths(broker)) == (1000, True, (1000, 0))
    assert [int(delivery.body) for delivery in take(broker)] == list(range(1000))


def test_an_empty_dead_letter_queue_is_done_at_once(broker: unimq.Broker) -> None:
    broker.declare(QUEUE)
    assert broker.redrive(QUEUE) == unimq.Redriven(source="orders", complete=True)


def test_history_grows_and_provenance_is_of_the_last_death(broker: unimq.Broker) -> None:
    bury(broker, 1)
    with broker.consumer(DEAD) as consumer, broker.producer(QUEUE) as producer:
        (first,) = consumer.receive(1, timeout=5)
        # As it is, with an error that a handler once raised.
        producer.send(first.body, headers={**first.headers, "unimq-dead-error-type": "OldError"}, message_id=first.id)
        first.ack()
    for expected in ("1", "2"):
        with broker.consumer(QUEUE) as consumer:
            consumer.receive(1, timeout=5)[0].reject(f"death before {expected}")
            consumer.settle()
        with broker.consumer(DEAD) as consumer:
            (dead,) = consumer.receive(1, timeout=5)
            assert dead.headers["unimq-dead-reason"] == f"death before {expected}"
            assert "unimq-dead-error-type" not in dead.headers
            dead.nack()
        assert broker.redrive(QUEUE).moved == 1
    (delivery,) = take(broker)
    assert delivery.headers.keys() == {"unimq-dead-redrives", "unimq-dead-redrive-id"}
    assert delivery.headers["unimq-dead-redrives"] == "2"


def test_what_another_program_put_there_returns_and_what_belongs_elsewhere_stays(broker: unimq.Broker) -> None:
    broker.declare(QUEUE)
    with broker.producer(DEAD) as producer:
        # The ttl is over by the time of the redrive, which keeps the message all the same.
        producer.send(b"without provenance", ttl=0.001, headers={"unimq-dead-redrives": "many"})
        producer.send(b"of another queue", headers={"unimq-dead-source": b"bills", "unimq-dead-reason": b"x\xff"})
    time.sleep(0.002)
    done = broker.redrive(QUEUE)
    assert (done.moved, done.skipped, done.reasons) == (1, 1, {"": 1, "x\ufffd": 1})
    (delivery,) = take(broker)
    assert (delivery.body, delivery.headers["unimq-dead-redrives"]) == (b"without provenance", "1")


def test_the_ttl_of_the_queue_begins_anew(broker: unimq.Broker) -> None:
    queue = unimq.Queue("orders", ttl=0.2)
    bury(broker, 1, queue)
    time.sleep(0.2)
    assert broker.redrive(queue).moved == 1
    assert len(take(broker, queue)) == 1


def test_middleware_is_not_called(url: str, broker: unimq.Broker) -> None:
    bury(broker, 2)
    called: list[object] = []

    def publish(message: unimq.Message, target: str) -> unimq.Message:
        called.append(message)
        return message

    def deliver(delivery: unimq.Delivery) -> bool:
        called.append(delivery)
        return False

    with unimq.connect(url, middleware=[unimq.Middleware(publish=publish, deliver=deliver)]) as hooked:
        assert hooked.redrive(QUEUE).moved == 2
    assert called == []


# Bounds.


def test_rate_and_limit(broker: unimq.Broker) -> None:
    bury(broker, 30)
    began = time.monotonic()
    assert broker.redrive(QUEUE, rate=80, limit=25).moved == 25
    # 20 at once, a quarter of a second's worth, and then the rest.
    assert time.monotonic() - began >= 0.24
    assert depths(broker) == (25, 5)


def test_what_is_passed_over_is_bounded(broker: unimq.Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    bury(broker, 12, reason=lambda number: "odd" if number % 2 else "even")
    monkeypatch.setattr(_redrive, "WINDOW", 2)
    monkeypatch.setattr(_redrive, "MOST_HELD", 4)
    done = broker.redrive(QUEUE, reason="none of them")
    assert (done.moved, done.skipped, done.remaining, done.complete) == (0, 4, 12, False)
    done = broker.redrive(QUEUE, reason="even")
    assert (done.moved, done.skipped, done.remaining, done.complete) == (5, 4, 7, False)
    assert depths(broker) == (5, 7)


def test_the_bytes_of_what_is_passed_over_are_bounded(broker: unimq.Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    bury(broker, 9)
    monkeypatch.setattr(_redrive, "WINDOW", 2)
    monkeypatch.setattr(_redrive, "MOST_HELD_BYTES", 4)
    done = broker.redrive(QUEUE, dry_run=True)
    assert (done.moved, done.remaining, done.complete) == (4, 9, False)


def test_many_reasons_are_counted_together(broker: unimq.Broker) -> None:
    bury(broker, 150, reason=str)
    done = broker.redrive(QUEUE)
    assert done.moved == sum(done.reasons.values()) == 150
    assert (len(done.reasons), done.reasons["(other reasons)"]) == (101, 50)


def test_under_ordering_by_key_a_skipped_head_keeps_its_key_back(broker: unimq.Broker) -> None:
    queue = unimq.Queue("orders", ordering="key")
    with broker.consumer(queue) as consumer:
        with broker.producer(queue) as producer:
            producer.send_many([unimq.Message(body, key=body[:1].decode()) for body in (b"a1", b"a2", b"b1", b"b2")])
        for _ in range(4):
            (delivery,) = consumer.receive(1, timeout=5)
            delivery.reject("late" if delivery.body == b"a1" else "early")
            consumer.settle()
    done = broker.redrive(queue, reason="early")
    assert (done.moved, done.skipped, done.remaining, done.complete) == (2, 1, 2, False)
    assert broker.redrive(queue).moved == 2
    with broker.consumer(queue) as consumer:
        order: list[bytes] = []
        while len(order) < 4:
            for delivery in consumer.receive(4, timeout=5):
                order.append(delivery.body)
                delivery.ack()
    assert [body for body in order if body[:1] == b"a"] == [b"a1", b"a2"]
    assert [body for body in order if body[:1] == b"b"] == [b"b1", b"b2"]


def test_it_waits_for_what_somebody_else_holds(broker: unimq.Broker) -> None:
    bury(broker, 3)
    with broker.consumer(DEAD) as consumer:
        assert len(consumer.receive(3, timeout=5)) == 3
        done = broker.redrive(QUEUE, timeout=0.05)
        assert (done.moved, done.remaining, done.complete) == (0, 3, False)
    assert broker.redrive(QUEUE).moved == 3


# Faults.


def test_a_full_queue_ends_it(broker: unimq.Broker) -> None:
    queue = unimq.Queue("orders", max_length=300)
    bury(broker, 300, queue)
    with broker.producer(queue) as producer:
        producer.send_many([b"x"] * 250)
    done = broker.redrive(queue)
    assert (done.moved, done.failed, done.remaining, done.complete) == (50, 150, 250, False)
    assert isinstance(done.error, unimq.QueueFull)
    assert depths(broker, queue) == (300, 250)


def test_a_message_that_is_too_large_now_stays_alone(url: str, broker: unimq.Broker) -> None:
    broker.declare(QUEUE)
    with broker.producer(DEAD) as producer:
        producer.send_many([bytes(10), bytes(5_000), bytes(20)])
    with unimq.connect(f"{url}?max_message_bytes=1000") as limited:
        done = limited.redrive(QUEUE)
    assert (done.moved, done.failed, done.remaining, done.complete) == (2, 1, 1, True)
    assert isinstance(done.error, unimq.MessageTooLarge)
    assert depths(broker) == (2, 1)


def test_a_dead_letter_is_held_until_its_copy_is_stored(broker: unimq.Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    bury(broker, 5)
    submit = MemorySender.submit
    held: list[int | None] = []

    def looking(sender: MemorySender, entries: Sequence[Outgoing]) -> None:
        held.append(broker.stats(DEAD).in_flight)
        submit(sender, entries)

    monkeypatch.setattr(MemorySender, "submit", looking)
    assert broker.redrive(QUEUE).moved == 5
    assert held == [5]


@pytest.mark.parametrize("stored", [True, False])
def test_an_interrupt_amid_a_batch_loses_nothing(
    broker: unimq.Broker, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    bury(broker, 5)
    submit = MemorySender.submit
    monkeypatch.setattr(_redrive, "GRACE", -30.0)

    def interrupted(sender: MemorySender, entries: Sequence[Outgoing]) -> None:
        if stored:
            submit(sender, entries)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(MemorySender, "submit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            broker.redrive(QUEUE)
    assert depths(broker) == ((5, 0) if stored else (0, 5))
    assert broker.redrive(QUEUE).remaining == 0
    assert sorted(int(delivery.body) for delivery in take(broker)) == list(range(5))


def test_a_closed_connection_ends_it_with_a_note(url: str, broker: unimq.Broker) -> None:
    bury(broker, 40)
    with closing(unimq.connect(url)) as other:
        submit = MemorySender.submit

        def closing_after_the_first(sender: MemorySender, entries: Sequence[Outgoing]) -> None:
            submit(sender, entries)
            other.close()

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(MemorySender, "submit", closing_after_the_first)
            with pytest.raises(unimq.Closed) as caught:
                other.redrive(QUEUE, rate=40)
    assert "were moved before" in caught.value.__notes__[0]
    done = broker.redrive(QUEUE)
    assert {int(delivery.body) for delivery in take(broker)} == set(range(40))
    assert done.complete


def test_a_cancelled_task_ends_it_after_what_is_under_way(url: str, broker: unimq.Broker) -> None:
    bury(broker, 40)

    async def main() -> None:
        async with unimq.connect_async(url) as connected, connected.consumer(QUEUE) as consumer:
            redriving = asyncio.create_task(connected.redrive(QUEUE, rate=8))
            received = await consumer.receive(1, timeout=5)
            redriving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await redriving
            assert received
            assert (await connected.stats(DEAD)).in_flight == 0

    asyncio.run(main())
    waiting, dead = depths(broker)
    assert waiting is not None
    assert dead is not None
    assert 0 < dead < 40
    assert waiting + dead == 40
    assert broker.redrive(QUEUE).moved == dead


def test_what_arrives_just_after_a_look_is_moved_too(broker: unimq.Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a slow broker: the pass found nothing, and then all of it counts as held by the pass itself."""
    bury(broker, 3)
    looks: list[object] = []
    runs: list[_redrive.Redrive] = []

    def late(arrived: Any, attempt: Any, until: float) -> Any:
        looks.append(attempt)
        if len(looks) > 1:
            return block_until(arrived, attempt, until)
        while len(runs[0].consumer.held) < 3:
            time.sleep(0.001)
        return None

    def count_nothing(run: _redrive.Redrive) -> None:
        # As on a broker that only estimates how many there are.
        runs.append(run)

    monkeypatch.setattr(_redrive.Redrive, "_look", count_nothing)
    monkeypatch.setattr(_redrive, "block_until", late)
    result = broker.redrive("orders", timeout=10)
    assert (result.moved, result.remaining, result.complete) == (3, 0, True)
