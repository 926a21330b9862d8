"""Who holds what, settlement, expiry and dead letters of the portable layer, against a driver that the test plays."""

# What the tests hand around as `Any` and as lambdas is theirs alone; mypy checks it strictly all the same.
# pyright: reportUnknownLambdaType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

import asyncio
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

import unimq
from unimq import (
    AlreadySettled,
    Closed,
    ConfigError,
    ConnectionLost,
    LeaseLost,
    MessageTooLarge,
    NotFound,
    Queue,
    SendUnknown,
    Unsupported,
)


@pytest.fixture
def broker(driver: Any) -> Iterator[Any]:
    with unimq.connect("manual://") as broker:
        yield broker


@pytest.fixture
def consumer(broker: unimq.Broker) -> Any:
    return broker.consumer("orders")


@pytest.fixture
def receiver(consumer: unimq.Consumer, driver: Any) -> Any:
    return driver.receivers[-1]


@pytest.fixture
def dead_letters(consumer: unimq.Consumer, driver: Any) -> Any:
    assert driver.senders[-1].target.name == "orders-dead"
    return driver.senders[-1]


def test_receive_gives_what_is_there_and_never_more(consumer: unimq.Consumer, receiver: Any) -> None:
    """R4."""
    for number in range(5):
        receiver.give(b"%d" % number)
    assert [each.body for each in consumer.receive(3, timeout=0)] == [b"0", b"1", b"2"]
    assert [each.body for each in consumer.receive(3)] == [b"3", b"4"]
    assert consumer.receive(3, timeout=0) == []


def test_receive_is_woken_by_a_delivery(consumer: unimq.Consumer, receiver: Any) -> None:
    """R4."""
    received = []
    thread = threading.Thread(target=lambda: received.extend(consumer.receive(10, timeout=5)))
    thread.start()
    receiver.give(b"x")
    thread.join(5)
    assert [each.body for each in received] == [b"x"]


def test_every_waiting_thread_gets_its_own_message(consumer: unimq.Consumer, receiver: Any) -> None:
    """R4, L2: one batch for many waiters wakes each of them."""
    received = []
    threads = [threading.Thread(target=lambda: received.extend(consumer.receive(1, timeout=10))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for number in range(8):
        receiver.give(b"%d" % number)
    for thread in threads:
        thread.join(10)
    assert sorted(each.body for each in received) == [b"%d" % number for number in range(8)]


def test_settlements_reach_the_driver_one_by_one(consumer: unimq.Consumer, receiver: Any) -> None:
    """A2: acking one never acks another."""
    first, second, third = [receiver.give(b"%d" % number) for number in range(3)]
    third.ack()
    first.nack()
    assert receiver.acked == [third]
    assert receiver.nacked == [(first, 0.0)]
    second.extend(9)
    assert receiver.extended == [(second, 9.0)]


@pytest.mark.parametrize("first", ["ack", "nack", "reject"])
@pytest.mark.parametrize("second", ["ack", "nack", "reject", "extend"])
def test_a_second_settlement_raises_and_touches_nothing(
    consumer: unimq.Consumer, receiver: Any, dead_letters: Any, first: Any, second: Any
) -> None:
    """A6."""
    delivery = receiver.give(b"x")
    getattr(delivery, first)()
    before = (list(receiver.acked), list(receiver.nacked), len(dead_letters.submitted))
    with pytest.raises(AlreadySettled, match="message x from 'orders'"):
        getattr(delivery, second)(*[1] * (second == "extend"))
    assert (receiver.acked, receiver.nacked, len(dead_letters.submitted)) == before
    dead_letters.sink.stored(dead_letters.submitted)


def test_a_lost_delivery_raises_lease_lost_and_is_not_handed_out(consumer: unimq.Consumer, receiver: Any) -> None:
    """A6."""
    held, buffered = receiver.give(b"held"), receiver.give(b"buffered")
    assert consumer.receive() == [held]
    receiver.sink.lost([held, buffered])
    assert consumer.receive(timeout=0) == []
    for settle in (held.ack, held.nack, held.reject):
        with pytest.raises(LeaseLost):
            settle()
    assert receiver.acked == receiver.nacked == []


def test_a_lease_that_is_over_by_our_clock_is_lost(consumer: unimq.Consumer, receiver: Any) -> None:
    """A6: where the broker does not tell, as SQS."""
    delivery = receiver.give(b"x")
    delivery.lease_until = time.monotonic() - 1
    with pytest.raises(LeaseLost):
        delivery.ack()
    assert receiver.acked == []


def test_one_of_two_racing_settlements_wins(consumer: unimq.Consumer, receiver: Any) -> None:
    """A6, L2."""
    for _ in range(200):
        delivery = receiver.give(b"x")
        errors: list[AlreadySettled] = []
        barrier = threading.Barrier(2)

        def settle(delivery: Any = delivery, errors: Any = errors, barrier: Any = barrier) -> None:
            barrier.wait()
            try:
                delivery.ack()
            except AlreadySettled as error:
                errors.append(error)

        threads = [threading.Thread(target=settle) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(errors) == 1
    assert len(receiver.acked) == 200


def test_acking_many_acks_the_good_ones_before_it_raises(consumer: unimq.Consumer, receiver: Any) -> None:
    """A2, A6."""
    deliveries = [receiver.give(b"%d" % number) for number in range(3)]
    deliveries[1].ack()
    with pytest.raises(AlreadySettled):
        consumer.ack(deliveries)
    assert receiver.acked == [deliveries[1], deliveries[0], deliveries[2]]


def test_reject_settles_only_after_the_copy_is_confirmed(
    consumer: unimq.Consumer, receiver: Any, dead_letters: Any
) -> None:
    """A4, A8."""
    delivery = receiver.give(b"x", attempt=3, key="k", headers={"a": b"b"}, content_type="text/plain")
    delivery.reject("no stock")
    (copy,) = dead_letters.submitted
    assert receiver.acked == []
    dead_letters.sink.stored((copy,))
    assert receiver.acked == [delivery]
    message = copy.message
    assert (message.body, message.key, message.id, message.content_type) == (b"x", "k", "x", "text/plain")
    headers = dict(message.headers)
    assert headers["a"] == b"b"
    assert headers["unimq-dead-reason"] == "no stock"
    assert headers["unimq-dead-source"] == "orders"
    assert headers["unimq-dead-attempts"] == "3"
    assert headers["unimq-dead-id"] == "x"
    assert float(headers["unimq-dead-at"]) == pytest.approx(time.time(), abs=60)


def test_a_dead_letter_without_room_for_its_provenance_goes_without_it(
    consumer: unimq.Consumer, receiver: Any, dead_letters: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """D1: the original fits by itself, since it was sent; only the copy of the copy may fail for good."""
    delivery = receiver.give(b"x", headers={"mine": "y"})
    with caplog.at_level(logging.WARNING, "unimq"):
        delivery.reject("no stock")
        (copy,) = dead_letters.submitted
        dead_letters.sink.failed((copy,), MessageTooLarge("1 byte too many"))
    assert "dead letter x from 'orders' has no room for its provenance" in caplog.text
    assert (receiver.acked, receiver.nacked) == ([], [])
    bare = dead_letters.submitted[1]
    assert (bare.message.body, dict(bare.message.headers), bare.message.id) == (b"x", {"mine": "y"}, "x")
    dead_letters.sink.stored((bare,))
    assert (receiver.acked, receiver.nacked) == ([delivery], [])


def test_a_dead_letter_copy_that_fails_loses_nothing(
    consumer: unimq.Consumer, receiver: Any, dead_letters: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A8: the message is delivered again, and `settle` says why."""
    delivery = receiver.give(b"x")
    with caplog.at_level(logging.ERROR, "unimq"):
        delivery.reject()
        dead_letters.sink.failed(dead_letters.submitted, SendUnknown("cut"))
    assert receiver.acked == []
    assert receiver.nacked == [(delivery, 0.0)]
    assert "dead-letter copy of message x" in caplog.text
    receiver.barrier = lambda done: done(())
    with pytest.raises(SendUnknown, match="cut"):
        consumer.settle()


def test_settle_waits_for_copies_and_then_for_the_driver(
    consumer: unimq.Consumer, receiver: Any, dead_letters: Any
) -> None:
    """A1."""
    receiver.give(b"x").reject()
    asked = threading.Event()
    original = receiver.barrier

    def barrier(done: Any) -> None:
        original(done)
        asked.set()

    receiver.barrier = barrier
    finished = threading.Event()

    def settle() -> None:
        consumer.settle()
        finished.set()

    thread = threading.Thread(target=settle)
    thread.start()
    assert not asked.wait(0.05)
    dead_letters.sink.stored(dead_letters.submitted)
    assert asked.wait(5)
    assert not finished.is_set()
    receiver.barriers[0](())
    assert finished.wait(5)
    thread.join()


def test_settle_raises_what_was_not_confirmed(consumer: unimq.Consumer, receiver: Any) -> None:
    """A1: with the number of the others."""
    receiver.errors = (LeaseLost("late"), LeaseLost("later"))
    with pytest.raises(LeaseLost, match="late") as caught:
        consumer.settle()
    assert caught.value.__notes__ == ["and 1 more settlements failed"]


def test_settle_is_bounded(consumer: unimq.Consumer) -> None:
    """A1."""
    with pytest.raises(ConnectionLost, match="not confirmed in time"):
        consumer.settle(timeout=0.01)


def test_the_failure_of_the_last_delivery_dead_letters(broker: unimq.Broker, driver: Any) -> None:
    """A8: by nack, and by a crash or lease that ended the last allowed delivery."""
    consumer = broker.consumer(Queue("orders", max_deliveries=2))
    receiver, dead_letters = driver.receivers[-1], driver.senders[-1]
    receiver.give(b"a", attempt=1).nack()
    assert len(receiver.nacked) == 1
    receiver.give(b"b", attempt=2).nack()
    receiver.give(b"c", attempt=3)
    alive = receiver.give(b"d", attempt=2)
    assert [each.body for each in consumer.receive(10)] == [b"a", b"b", b"d"]
    assert [entry.message.body for entry in dead_letters.submitted] == [b"b", b"c"]
    assert {entry.message.headers["unimq-dead-reason"] for entry in dead_letters.submitted} == {"max_deliveries"}
    dead_letters.sink.stored(dead_letters.submitted)
    assert [each.body for each in receiver.acked] == [b"b", b"c"]
    alive.ack()


def test_without_dead_letters_the_exhausted_message_is_dropped_with_a_warning(
    broker: unimq.Broker, driver: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """D4."""
    broker.consumer(Queue("orders", max_deliveries=1, dead_letter=False))
    assert driver.senders == []
    with caplog.at_level(logging.WARNING, "unimq"):
        delivery = driver.receivers[-1].give(b"x")
        delivery.nack()
    assert driver.receivers[-1].acked == [delivery]
    assert "dropped (max_deliveries, delivery 1)" in caplog.text


def test_expired_messages_are_settled_and_not_handed_out(broker: unimq.Broker, driver: Any) -> None:
    """T1: by their own ttl and by that of the queue, at the moment of hand-over."""
    consumer = broker.consumer(Queue("orders", ttl=100))
    receiver, now = driver.receivers[-1], time.time()
    expired = receiver.give(b"own", sent_at=now, expires_at=now - 0.001)
    older = receiver.give(b"queue", sent_at=now - 101)
    alive = receiver.give(b"alive", sent_at=now, expires_at=now + 50)
    assert consumer.receive(10) == [alive]
    assert receiver.acked == [expired, older]


def test_expired_messages_are_dead_lettered_if_so_declared(broker: unimq.Broker, driver: Any) -> None:
    """T1."""
    consumer = broker.consumer(Queue("orders", dead_letter_expired=True))
    driver.receivers[-1].give(b"x", expires_at=time.time() - 1)
    assert consumer.receive(timeout=0) == []
    (copy,) = driver.senders[-1].submitted
    assert copy.message.headers["unimq-dead-reason"] == "expired"
    assert copy.message.expires_at is None
    driver.senders[-1].sink.stored((copy,))


def test_a_failed_receiver_ends_every_receive(consumer: unimq.Consumer, receiver: Any) -> None:
    """L3: never silence."""
    errors = []

    def receive() -> None:
        try:
            consumer.receive(timeout=5)
        except NotFound as error:
            errors.append(error)

    thread = threading.Thread(target=receive)
    thread.start()
    native = RuntimeError("404")
    failure = NotFound("queue 'orders' was deleted")
    failure.__cause__ = native
    receiver.sink.failed(failure)
    thread.join(5)
    with pytest.raises(NotFound, match="deleted"):
        consumer.receive()
    assert len(errors) == 1


def test_close_wakes_receive_and_iteration(consumer: unimq.Consumer, receiver: Any) -> None:
    """L1."""
    results: list[object] = []

    def receive() -> None:
        try:
            consumer.receive()
        except Closed as error:
            results.append(error)

    threads = [threading.Thread(target=receive), threading.Thread(target=lambda: results.append(list(consumer)))]
    for thread in threads:
        thread.start()
    consumer.close()
    for thread in threads:
        thread.join(5)
    assert {type(result) for result in results} == {Closed, list}
    assert receiver.closed == 1
    consumer.close()
    assert receiver.closed == 1


def test_nothing_is_handed_out_after_close_and_late_settlements_are_refused(
    consumer: unimq.Consumer, receiver: Any
) -> None:
    """L1, A6."""
    handed, buffered = receiver.give(b"1"), receiver.give(b"2")
    assert consumer.receive() == [handed]
    consumer.close()
    with pytest.raises(Closed):
        consumer.receive()
    for delivery in (handed, buffered):
        with pytest.raises(LeaseLost):
            delivery.ack()


def test_a_close_that_is_not_clean_says_so(broker: unimq.Broker, driver: Any) -> None:
    """L1: what the driver could not confirm is raised once everything is released; of all consumers at once, too."""
    consumer, other = broker.consumer("orders"), broker.consumer("letters")
    for receiver in driver.receivers:
        receiver.unconfirmed = (LeaseLost("late"), LeaseLost("later"))
    with pytest.raises(LeaseLost, match="late") as caught:
        consumer.close()
    assert caught.value.__notes__ == ["and 1 more settlements failed"]
    consumer.close()
    with pytest.raises(LeaseLost, match="late"):
        broker.close()
    assert [receiver.closed for receiver in driver.receivers] == [1, 1]
    assert driver.closed == 1
    with pytest.raises(Closed):
        other.receive()


def test_a_close_that_is_not_clean_says_so_to_asyncio(driver: Any) -> None:
    """L1."""

    async def main() -> None:
        async with unimq.connect_async("manual://") as broker:
            for close in (lambda consumer: consumer.close(), lambda consumer: broker.close()):
                consumer = await broker.consumer("orders")
                driver.receivers[-1].unconfirmed = (LeaseLost("late"),)
                with pytest.raises(LeaseLost, match="late"):
                    await close(consumer)
                assert driver.receivers[-1].closed == 1

    asyncio.run(main())


def test_the_error_of_a_block_comes_before_that_of_its_close(broker: unimq.Broker, driver: Any) -> None:
    """L1."""
    consumer = broker.consumer("orders")
    driver.receivers[-1].unconfirmed = (ConnectionLost("cut"),)
    with pytest.raises(RuntimeError, match="mine") as caught, consumer:
        raise RuntimeError("mine")
    assert caught.value.__notes__ == ["while closing: ConnectionLost: cut"]


def test_an_ended_consumer_has_told_already(consumer: unimq.Consumer, receiver: Any) -> None:
    """L1: its close is silent, whatever became of its settlements."""
    receiver.sink.failed(NotFound("'orders' was deleted"))
    receiver.unconfirmed = (ConnectionLost("cut"),)
    with pytest.raises(NotFound):
        consumer.receive()
    consumer.close()
    assert receiver.barriers == []


def test_a_receiver_that_does_not_answer_did_not_close_cleanly(consumer: unimq.Consumer, receiver: Any) -> None:
    """L1: and is not waited for longer than for the close."""
    receiver.close = lambda timeout: None
    with pytest.raises(ConnectionLost, match="not confirmed in time"):
        consumer.close(timeout=0)


def test_nothing_is_settled_once_a_close_has_begun(consumer: unimq.Consumer, receiver: Any) -> None:
    """L1: who settles meanwhile is refused, and not told later that it came to nothing."""
    delivery = receiver.give(b"x")
    refused: list[LeaseLost] = []

    def close(timeout: float) -> None:
        receiver.closed += 1
        with pytest.raises(LeaseLost) as caught:
            delivery.ack()
        refused.append(caught.value)

    receiver.close = close
    consumer.close()
    assert len(refused) == 1
    assert receiver.acked == []


def test_unsupported_settlements_raise_before_the_driver_is_asked(consumer: unimq.Consumer, receiver: Any) -> None:
    """Principle 2: the delivery is still held, and can be settled otherwise."""
    delivery = receiver.give(b"x")
    with pytest.raises(Unsupported, match=r"nack_delay on manual: cannot wait\. Use instead: nack without delay"):
        delivery.nack(5)
    with pytest.raises(ConfigError, match="delay must be at least 0 seconds, not -1"):
        delivery.nack(-1)
    with pytest.raises(ConfigError, match="reason must be str"):
        delivery.reject(5)
    with pytest.raises(Unsupported, match=r"lease of 81 s on manual: the longest is 80 s"):
        delivery.extend(81)
    assert receiver.nacked == receiver.extended == []
    delivery.extend(80)
    assert receiver.extended == [(delivery, 80)]
    delivery.ack()
    assert receiver.acked == [delivery]


def test_a_lease_beyond_the_longest_raises_before_the_driver_is_asked(broker: unimq.Broker, driver: Any) -> None:
    with pytest.raises(Unsupported, match=r"lease of 80\.5 s on manual: the longest is 80 s.*a shorter lease"):
        broker.declare(Queue("q", lease=80.5, dead_letter=False))
    assert driver.declared == []
    broker.declare(Queue("q", lease=80, dead_letter=False))
    assert len(driver.declared) == 1


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "3"])
def test_wrong_limits_raise(consumer: unimq.Consumer, limit: Any) -> None:
    with pytest.raises(ConfigError, match="max_messages must be a whole number of at least 1"):
        consumer.receive(limit)


def test_wrong_timeouts_raise(consumer: unimq.Consumer) -> None:
    with pytest.raises(ConfigError, match="timeout must be at least 0 seconds, not -1"):
        consumer.receive(timeout=-1)
    with pytest.raises(ConfigError, match="timeout must be seconds"):
        consumer.receive(timeout=cast("float", "1"))


def test_a_cancelled_receive_loses_nothing(driver: Any) -> None:
    """A delivery that arrives with the cancellation goes to somebody else."""

    async def main() -> None:
        async with unimq.connect_async("manual://") as broker, broker.consumer("orders") as consumer:
            receiver = driver.receivers[-1]
            first, second = [asyncio.create_task(consumer.receive(1, 5)) for _ in range(2)]
            await asyncio.sleep(0)
            delivery = receiver.give(b"x")  # Wakes the first ...
            first.cancel()  # ... which is cancelled before it runs.
            assert await second == [delivery]

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_gets_a_clear_error(
    broker: unimq.Broker, driver: Any, consumer: unimq.Consumer, receiver: Any
) -> None:
    """L2: from every object, and the parent goes on."""
    producer = broker.producer("orders")
    delivery = receiver.give(b"x")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            refused = 0
            for call in (
                lambda: producer.send(b"x"),
                lambda: consumer.receive(timeout=0),
                delivery.ack,
                lambda: broker.stats("orders"),
            ):
                try:
                    call()
                except Closed as error:
                    refused += "connect again in this process" in str(error)
            code = 0 if refused == 4 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    delivery.ack()
    assert receiver.acked == [delivery]
