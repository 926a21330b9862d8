"""Settle: A1 to A10."""

import threading
import time
from collections.abc import Callable

import pytest

import unimq
from unimq_contract.contract import Contract
from unimq_contract.guarantees import guarantee, needs
from unimq_contract.harness import Background, Connections, Destinations, Harness, bodies, in_background, numbered

SETTLEMENTS: dict[str, Callable[[unimq.Delivery], None]] = {
    "ack": unimq.Delivery.ack,
    "nack": unimq.Delivery.nack,
    "reject": unimq.Delivery.reject,
}


class SettleContract(Contract):
    @guarantee("A1", "L1", "A5", kills=("acks-lost-at-close", "ack-dropped"))
    def test_an_ack_that_races_a_close_is_honoured_or_refused(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        """What the next consumer gets is what was refused, neither more nor less."""
        with broker.producer(queue) as producer:
            producer.send_many(numbered(60))
        consumer = broker.consumer(queue, prefetch=60)
        held = harness.receive(consumer, 60)
        acked: list[bytes] = []
        some = threading.Event()

        def ack_all() -> None:
            for delivery in held:
                try:
                    delivery.ack()
                except (unimq.Closed, unimq.LeaseLost):
                    return
                acked.append(delivery.body)
                if len(acked) == 10:
                    some.set()

        acking = Background(ack_all)
        assert some.wait(harness.bounds.within)
        consumer.close()
        acking.result(harness.bounds.within)
        left = sorted({delivery.body for delivery in held} - set(acked))
        with broker.consumer(queue, prefetch=60) as consumer:
            again = harness.receive(consumer, len(left))
            assert bodies(again) == left
            consumer.ack(again)
            harness.nothing_else(queue, broker, consumer)

    @guarantee("A1", "L1", kills=("ack-dropped", "redelivers-acked"))
    def test_an_acked_message_never_comes_again(
        self, connect: Connections, queue: unimq.Queue, harness: Harness
    ) -> None:
        first = connect()
        with first.producer(queue) as producer:
            producer.send_many(numbered(10))
        with first.consumer(queue) as consumer:
            received = harness.receive(consumer, 10)
            for delivery in received[:5]:
                delivery.ack()
            consumer.ack(received[5:])
            consumer.settle()
        first.close()
        harness.is_empty(queue, connect())

    @guarantee("A1", "L1", kills=("ack-dropped", "acks-lost-at-close"))
    def test_a_clean_close_confirms_the_acks_before_it(
        self, connect: Connections, queue: unimq.Queue, harness: Harness
    ) -> None:
        first = connect()
        with first.producer(queue) as producer:
            producer.send_many(numbered(50))
        with first.consumer(queue) as consumer:
            consumer.ack(harness.receive(consumer, 50))
        first.close()
        harness.is_empty(queue, connect())

    @guarantee("A2", "A5", kills=("cumulative-ack", "acked-at-delivery", "nack-acks"))
    def test_only_what_was_acked_is_gone_after_a_restart_of_the_consumer(
        self, connect: Connections, queue: unimq.Queue, harness: Harness
    ) -> None:
        first = connect()
        with first.producer(queue) as producer:
            producer.send_many(numbered(5))
        with first.consumer(queue) as consumer:
            held = {delivery.body: delivery for delivery in harness.receive(consumer, 5)}
            one, two, three, four, five = (held[body] for body in numbered(5))
            four.ack()
            one.ack()
            five.nack()
            two.ack()
            assert three.attempt == 1
            try:
                consumer.close()
            except unimq.UnimqError as error:
                raise AssertionError("what was held and is settled did not count") from error
        first.close()
        second = connect()
        with second.consumer(queue) as consumer:
            back = harness.receive(consumer, 2)
            assert bodies(back) == [b"00003", b"00005"]
            consumer.ack(back)
            harness.nothing_else(queue, second, consumer)

    @guarantee("A2", kills=("cumulative-ack",))
    def test_acking_the_last_leaves_the_others(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        with broker.producer(queue) as producer:
            producer.send_many(numbered(5))
        with broker.consumer(queue) as consumer:
            held = harness.receive(consumer, 5)
            held[-1].ack()
            consumer.settle()
        with broker.consumer(queue) as consumer:
            back = harness.receive(consumer, 4)
            assert bodies(back) == bodies(held[:-1])
            consumer.ack(back)
            harness.nothing_else(queue, broker, consumer)

    @guarantee("A2", "L2", kills=("ack-dropped", "redelivers-acked"))
    def test_any_thread_may_ack_in_any_order(self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness) -> None:
        with broker.producer(queue) as producer:
            producer.send_many(numbered(60))
        with broker.consumer(queue) as consumer:
            held = harness.receive(consumer, 60)

            def acks(part: list[unimq.Delivery]) -> Callable[[], None]:
                def ack_backwards() -> None:
                    for delivery in reversed(part):
                        delivery.ack()

                return ack_backwards

            for worker in in_background(acks(held[start::3]) for start in range(3)):
                worker.result(harness.bounds.within)
            consumer.settle()
        harness.is_empty(queue, broker)

    @guarantee("A3", "A7", "R1", kills=("nack-acks", "nack-only-at-restart", "attempt-stuck"))
    def test_a_nacked_message_comes_again_with_the_next_attempt(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send(b"stubborn")
            for attempt in (1, 2, 3, 4):
                delivery = harness.receive_one(consumer)
                assert (delivery.body, delivery.attempt) == (b"stubborn", attempt)
                delivery.nack()
            last = harness.receive_one(consumer)
            assert last.attempt == 5
            last.ack()
            harness.nothing_else(queue, broker, consumer)

    @guarantee("A3", "A2", kills=("nack-acks", "nack-returns-all"))
    def test_a_nack_brings_back_that_message_alone(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send_many(numbered(5))
            held = {delivery.body: delivery for delivery in harness.receive(consumer, 5)}
            held[b"00003"].nack()
            again = harness.receive_one(consumer)
            assert (again.body, again.attempt) == (b"00003", 2)
            harness.nothing_else(queue, broker, consumer)
            again.ack()
            for body in (b"00001", b"00002", b"00004", b"00005"):
                held[body].ack()
        harness.is_empty(queue, broker)

    @guarantee("A3", "A5", kills=("nack-acks", "nacks-lost-at-close"))
    def test_a_nack_survives_a_close_right_after_it(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        with broker.producer(queue) as producer:
            producer.send_many(numbered(3))
        with broker.consumer(queue) as consumer:
            for delivery in harness.receive(consumer, 3):
                delivery.nack()
        with broker.consumer(queue) as consumer:
            back = harness.receive(consumer, 3)
            assert bodies(back) == numbered(3)
            consumer.ack(back)
            harness.nothing_else(queue, broker, consumer)

    @needs("nack_delay")
    @guarantee("A3", "T2", kills=("nack-delay-ignored",))
    def test_a_delayed_nack_comes_not_before_its_time(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        delay = harness.bounds.delay
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send(b"later")
            delivery = harness.receive_one(consumer)
            began = time.monotonic()
            delivery.nack(delay=delay)
            again = harness.receive_one(consumer)
            took = time.monotonic() - began
            assert (again.body, again.attempt) == (b"later", 2)
            assert took >= delay - harness.bounds.tolerance
            again.ack()

    @guarantee("A4", kills=("reject-requeues",))
    def test_a_rejected_message_is_dropped_where_no_dead_letters_are_kept(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        queue = destinations.queue(dead_letter=False)
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send_many([b"bad", b"good"])
            for delivery in harness.receive(consumer, 2):
                if delivery.body == b"bad":
                    delivery.reject()
                else:
                    delivery.ack()
            consumer.settle()
            harness.nothing_else(queue, broker, consumer)
        harness.is_empty(queue, broker)

    @guarantee("A5", "R1", kills=("acked-at-delivery",))
    def test_what_a_closed_consumer_held_goes_to_the_next(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        with broker.producer(queue) as producer:
            producer.send_many(numbered(8))
        with broker.consumer(queue) as consumer:
            # Some were received, others only fetched.
            assert len(harness.receive(consumer, 3)) == 3
        with broker.consumer(queue) as consumer:
            back = harness.receive(consumer, 8)
            assert bodies(back) == numbered(8)
            consumer.ack(back)
            harness.nothing_else(queue, broker, consumer)

    @guarantee("A5", "L1", kills=("acked-at-delivery",))
    def test_what_a_closed_connection_held_goes_to_the_next(
        self, connect: Connections, queue: unimq.Queue, harness: Harness
    ) -> None:
        first, second = connect(), connect()
        with first.producer(queue) as producer:
            producer.send_many(numbered(3))
        harness.receive(first.consumer(queue), 3)
        first.close()
        with second.consumer(queue) as consumer:
            back = harness.receive(consumer, 3)
            assert bodies(back) == numbered(3)
            consumer.ack(back)

    @guarantee("A6", kills=("second-settlement-accepted",))
    def test_the_first_settlement_stands(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        """Each settlement after each other one, on one consumer, which goes on; the bystander is touched by none."""
        queue = destinations.queue(dead_letter=False)
        pairs = [(first, second) for first in SETTLEMENTS for second in SETTLEMENTS]
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send_many([b"bystander", *(f"{first} {second}".encode() for first, second in pairs)])
            held = {delivery.body: delivery for delivery in harness.receive(consumer, len(pairs) + 1)}
            for first, second in pairs:
                delivery = held[f"{first} {second}".encode()]
                SETTLEMENTS[first](delivery)
                with pytest.raises(unimq.AlreadySettled, match=delivery.id):
                    SETTLEMENTS[second](delivery)
            again = harness.receive(consumer, len(SETTLEMENTS))
            assert bodies(again) == sorted(f"nack {second}".encode() for second in SETTLEMENTS)
            assert {delivery.attempt for delivery in again} == {2}
            consumer.ack(again)
            consumer.settle()
            harness.nothing_else(queue, broker, consumer)
        with broker.consumer(queue) as consumer:
            delivery = harness.receive_one(consumer)
            assert delivery.body == b"bystander"
            delivery.ack()

    @guarantee("A6", "A5", kills=("stale-settlement-accepted",))
    def test_a_stale_settlement_touches_nothing(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        queue = destinations.queue(dead_letter=False)
        with broker.producer(queue) as producer:
            producer.send_many([late.encode() for late in SETTLEMENTS])
        with broker.consumer(queue) as consumer:
            stale = {delivery.body.decode(): delivery for delivery in harness.receive(consumer, len(SETTLEMENTS))}
        with broker.consumer(queue) as consumer:
            fresh = harness.receive(consumer, len(SETTLEMENTS))
            for late, settle in SETTLEMENTS.items():
                with pytest.raises(unimq.LeaseLost, match=stale[late].id):
                    settle(stale[late])
            harness.nothing_else(queue, broker, consumer)
        # Not settled by the stale ones: they are still there, for whoever comes next.
        with broker.consumer(queue) as consumer:
            again = harness.receive(consumer, len(SETTLEMENTS))
            assert bodies(again) == bodies(fresh)
            consumer.ack(again)

    @needs("lease")
    @guarantee("A5", "A6", "A7", kills=("stale-settlement-accepted",))
    def test_a_message_returns_when_its_lease_is_over(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        queue = destinations.queue(lease=harness.bounds.delay)
        with broker.producer(queue) as producer:
            producer.send(b"slow")
        # The lease may begin as soon as there is a consumer, which fetches ahead.
        began = time.monotonic()
        with broker.consumer(queue) as sleeper:
            stale = harness.receive_one(sleeper)
            again = harness.receive_one(sleeper)
            assert time.monotonic() - began >= harness.bounds.delay - harness.bounds.tolerance
            assert (again.body, again.attempt) == (b"slow", 2)
            with pytest.raises(unimq.LeaseLost):
                stale.ack()
            again.ack()
            harness.nothing_else(queue, broker, sleeper)

    @needs("lease", "extend")
    @guarantee("A10", kills=("extend-ignored",))
    def test_an_extended_lease_keeps_the_message(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        lease = max(1.0, harness.bounds.delay * 2)
        queue = destinations.queue(lease=lease)
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send(b"long work")
            delivery = harness.receive_one(consumer)
            until = time.monotonic() + lease * 2
            while (left := until - time.monotonic()) > 0:
                delivery.extend(lease)
                assert consumer.receive(timeout=min(left, lease / 4)) == []
            delivery.ack()
            consumer.settle()
        harness.is_empty(queue, broker)

    @guarantee("A7", "A9", "L1", kills=("shutdown-counts",))
    def test_closing_consumers_does_not_wear_a_message_out(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        """More closes than `max_deliveries`: the message is alive, or the backend declares that they count."""
        counts = harness.capabilities.shutdown_counts
        queue = destinations.queue(max_deliveries=4)
        with broker.producer(queue) as producer:
            producer.send(b"patient")
        for close in range(3 if counts else 6):
            with broker.consumer(queue) as consumer:
                delivery = harness.receive_one(consumer)
                assert delivery.body == b"patient"
                assert delivery.attempt == (close + 1 if counts else 1)
        with broker.consumer(queue) as consumer:
            delivery = harness.receive_one(consumer)
            assert delivery.body == b"patient"
            delivery.ack()
            harness.nothing_else(queue, broker, consumer)
