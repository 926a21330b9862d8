"""Redrive: D2."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import pytest

import unimq
from unimq_contract.contract import Contract
from unimq_contract.guarantees import guarantee, needs
from unimq_contract.harness import Background, Connections, Destinations, Harness, bodies, numbered
from unimq_contract.suite.dead_letters import PROVENANCE, dead_letters_of
from unimq_contract.suite.receiving import content

HISTORY = {"unimq-dead-redrives", "unimq-dead-redrive-id"}
"""What a redriven message has besides what was sent."""
WINDOW = 200
"""Dead letters of a redrive that was interrupted of which copies may be there twice."""


def bury(
    broker: unimq.Broker,
    source: unimq.Queue | unimq.Subscription,
    messages: Sequence[unimq.Message | bytes],
    harness: Harness,
    reason: Callable[[unimq.Delivery], str] = lambda _: "unwanted",
) -> None:
    """Send messages to a queue, or to the topic of a subscription, and make dead letters of them."""
    target = source if isinstance(source, unimq.Queue) else source.topic
    with broker.consumer(source) as consumer:
        with broker.producer(target) as producer:
            producer.send_many(messages)
        for delivery in harness.receive(consumer, len(messages)):
            delivery.reject(reason(delivery))
        consumer.settle()


def has_dead_letters(broker: unimq.Broker, source: unimq.Queue, count: int, harness: Harness) -> None:
    """Fail unless the statistics come to say so."""
    if broker.capabilities.stats:
        harness.eventually(lambda: broker.stats(source).dead_letters == count, f"stats count {count} dead letters")


def plain(headers: Mapping[str, str | bytes]) -> dict[str, str | bytes]:
    """Return headers without the count of redrives."""
    return {name: value for name, value in headers.items() if name not in HISTORY}


class RedriveContract(Contract):
    @needs("dead_letter")
    @guarantee("D2", "R2", "A7", kills=("redrive-loses-one", "redrive-makes-new-ids", "headers-dropped"))
    def test_dead_letters_return_as_they_were_sent(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        sent = [
            unimq.Message(
                body,
                key=None if number % 2 else f"customer-{number}",
                headers={"source": "web", "binary": b"\x00\xff"},
                id=f"original-{number}",
                content_type="text/plain",
                correlation_id="c-1",
                reply_to="answers",
            )
            for number, body in enumerate(numbered(10))
        ]
        bury(broker, queue, sent, harness)
        has_dead_letters(broker, queue, 10, harness)
        done = broker.redrive(queue, timeout=harness.bounds.within)
        assert (done.source, done.moved, done.skipped, done.failed, done.remaining) == (queue.name, 10, 0, 0, 0)
        assert (done.reasons, done.complete, done.error) == ({"unwanted": 10}, True, None)
        with broker.consumer(queue) as consumer:
            received = sorted(harness.receive(consumer, 10), key=lambda delivery: delivery.body)
            for original, delivery in zip(sent, received, strict=True):
                assert delivery.attempt == 1
                assert not delivery.headers.keys() & PROVENANCE
                assert delivery.headers["unimq-dead-redrives"] == "1"
                copy = unimq.Message(
                    delivery.body,
                    delivery.key,
                    plain(delivery.headers),
                    delivery.id,
                    delivery.content_type,
                    delivery.correlation_id,
                    delivery.reply_to,
                )
                assert content(copy) == content(original)
            consumer.ack(received)
            harness.nothing_else(queue, broker, consumer)
        has_dead_letters(broker, queue, 0, harness)
        harness.is_empty(dead_letters_of(queue), broker)

    @needs("dead_letter")
    @guarantee("D2", kills=("dead-letters-acked-at-delivery", "redrive-loses-one"))
    def test_only_what_died_of_the_reason_returns_and_the_rest_stays(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        bury(
            broker, queue, numbered(20), harness, lambda each: "bad address" if int(each.body) % 4 == 0 else "no stock"
        )
        done = broker.redrive(queue, reason="bad address", timeout=harness.bounds.within)
        assert (done.moved, done.skipped, done.failed, done.remaining) == (5, 15, 0, 15)
        assert done.reasons == {"bad address": 5, "no stock": 15}
        with broker.consumer(queue) as consumer:
            received = harness.receive(consumer, 5)
            assert bodies(received) == numbered(20)[3::4]
            consumer.ack(received)
            harness.nothing_else(queue, broker, consumer)
        with broker.consumer(dead_letters_of(queue)) as consumer:
            left = harness.receive(consumer, 15)
            assert bodies(left) == [body for body in numbered(20) if int(body) % 4]
            assert {delivery.headers["unimq-dead-reason"] for delivery in left} == {"no stock"}
            consumer.ack(left)

    @needs("dead_letter")
    @guarantee("D2", kills=("dead-letters-acked-at-delivery", "redrive-loses-one"))
    def test_a_limit_ends_it_and_the_next_one_goes_on(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        bury(broker, queue, numbered(12), harness)
        first = broker.redrive(queue, limit=5, timeout=harness.bounds.within)
        assert (first.moved, first.complete) == (5, False)
        second = broker.redrive(queue, timeout=harness.bounds.within)
        assert (second.moved, second.remaining, second.complete) == (7, 0, True)
        with broker.consumer(queue) as consumer:
            received = harness.receive(consumer, 12)
            assert bodies(received) == numbered(12)
            consumer.ack(received)
            harness.nothing_else(queue, broker, consumer)

    @needs("dead_letter")
    @guarantee("D2", kills=("dead-letters-acked-at-delivery",))
    def test_a_dry_run_counts_and_changes_nothing(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        bury(broker, queue, numbered(9), harness, lambda each: "odd" if int(each.body) % 2 else "even")
        for reason, moved in ((None, 9), ("even", 4)):
            done = broker.redrive(queue, reason=reason, dry_run=True, timeout=harness.bounds.within)
            assert done.dry_run
            assert (done.moved, done.skipped, done.remaining) == (moved, 9 - moved, 9)
            assert done.reasons == {"odd": 5, "even": 4}
        harness.is_empty(queue, broker)
        with broker.consumer(dead_letters_of(queue)) as consumer:
            left = harness.receive(consumer, 9)
            assert bodies(left) == numbered(9)
            assert all("unimq-dead-redrives" not in delivery.headers for delivery in left)
            consumer.ack(left)

    @needs("dead_letter")
    @guarantee("D2", "L1", kills=("dead-letters-acked-at-delivery", "redrive-loses-one"))
    def test_an_interrupted_redrive_loses_nothing_and_goes_on(
        self, broker: unimq.Broker, connect: Connections, queue: unimq.Queue, harness: Harness
    ) -> None:
        bury(broker, queue, numbered(60), harness)
        interrupted = connect()
        with broker.consumer(queue) as consumer:
            redriving = Background(lambda: interrupted.redrive(queue, rate=40, timeout=harness.bounds.within))
            received = harness.receive(consumer, 10)
            interrupted.close()
            with pytest.raises(unimq.UnimqError):
                redriving.result(harness.bounds.within * 2)
            done = broker.redrive(queue, timeout=harness.bounds.within)
            assert done.complete
            assert 0 < done.moved < 60
            received += harness.receive(consumer, done.moved)
            while len({delivery.body for delivery in received}) < 60:
                received += harness.receive(consumer, 1)
            assert len(received) <= 60 + WINDOW
            assert {(delivery.body, delivery.attempt) for delivery in received} == {(body, 1) for body in numbered(60)}
            assert len({delivery.id for delivery in received}) == 60
            consumer.ack(received)
            consumer.settle()
        harness.is_empty(dead_letters_of(queue), broker)

    @needs("dead_letter")
    @pytest.mark.fronts("sync")
    @guarantee("D2", kills=("redrive-loses-one",))
    def test_what_dies_again_meanwhile_is_not_sent_round_in_circles(
        self, broker: unimq.Broker, connect: Connections, queue: unimq.Queue, harness: Harness
    ) -> None:
        bury(broker, queue, numbered(10), harness)
        stop, other = threading.Event(), connect()

        def reject_all() -> int:
            rejected = 0
            with other.consumer(queue) as consumer:
                while not stop.is_set():
                    for delivery in consumer.receive(10, timeout=harness.bounds.quiet):
                        delivery.reject("still unwanted")
                        rejected += 1
                consumer.settle()
            return rejected

        rejecting = Background(reject_all)
        done = broker.redrive(queue, rate=100, timeout=harness.bounds.within)
        assert done.moved == 10
        with broker.consumer(dead_letters_of(queue)) as consumer:
            again = harness.receive(consumer, 10)
            stop.set()
            assert rejecting.result(harness.bounds.within) == 10
            assert bodies(again) == numbered(10)
            assert {delivery.headers["unimq-dead-reason"] for delivery in again} == {"still unwanted"}
            assert {delivery.headers["unimq-dead-redrives"] for delivery in again} == {"1"}
            consumer.ack(again)

    @needs("dead_letter", "topics", "redrive_subscription")
    @guarantee("D2", "G2", kills=("redrive-reaches-all-subscriptions", "redrive-loses-one"))
    def test_the_other_subscriptions_do_not_notice(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        topic = destinations.topic()
        audit, stock = destinations.subscription(topic, "audit"), destinations.subscription(topic, "stock")
        broker.declare(audit, stock)
        bury(broker, audit, numbered(5), harness)
        with broker.consumer(stock) as watching, broker.consumer(audit) as consumer:
            watching.ack(harness.receive(watching, 5))
            done = broker.redrive(audit, timeout=harness.bounds.within)
            assert (done.source, done.moved, done.remaining) == (audit.queue.name, 5, 0)
            received = harness.receive(consumer, 5)
            assert bodies(received) == numbered(5)
            consumer.ack(received)
            harness.nothing_else(topic, broker, watching, consumer)

    @needs("dead_letter", "ttl")
    @pytest.mark.fronts("sync")
    @guarantee("D2", "T1", kills=("redrive-loses-one",))
    def test_what_expired_lives_again(self, broker: unimq.Broker, destinations: Destinations, harness: Harness) -> None:
        """For the ttl of its queue, from the redrive on; a ttl of its own has ended with the message."""
        queue = destinations.queue(dead_letter_expired=True)
        with broker.producer(queue) as producer:
            producer.send(b"late", ttl=harness.bounds.delay)
        time.sleep(harness.bounds.delay + harness.bounds.tolerance)
        with broker.consumer(queue) as consumer:

            def redriven() -> unimq.Redriven | None:
                assert consumer.receive(timeout=harness.bounds.quiet) == []
                consumer.settle()
                done = broker.redrive(queue, timeout=harness.bounds.within)
                return done if done.moved else None

            assert harness.eventually(redriven, "it is redriven").reasons == {"expired": 1}
            delivery = harness.receive_one(consumer)
            assert delivery.body == b"late"
            delivery.ack()
            consumer.settle()

    @needs("dead_letter")
    @guarantee("D2", "S4", "E1", kills=("missing-queues-are-found",))
    def test_without_both_ends_nothing_moves(
        self, broker: unimq.Broker, connect: Connections, destinations: Destinations, harness: Harness
    ) -> None:
        queue = destinations.queue()
        with pytest.raises(unimq.NotFound):
            broker.redrive(queue)
        with pytest.raises(unimq.ConfigError, match="no dead-letter queue"):
            broker.redrive(destinations.queue(dead_letter=False))
        with pytest.raises(unimq.ConfigError, match=queue.name):
            broker.redrive(dead_letters_of(queue))
        bury(broker, queue, numbered(3), harness)
        broker.delete(queue)
        # A connection that has not seen it knows no better than the broker.
        other = connect()
        harness.eventually(lambda: self.is_refused(other, queue), "the redrive to a deleted queue is refused")
        with broker.consumer(dead_letters_of(queue)) as consumer:
            left = harness.receive(consumer, 3)
            assert bodies(left) == numbered(3)
            consumer.ack(left)

    @staticmethod
    def is_refused(broker: unimq.Broker, queue: unimq.Queue) -> bool:
        try:
            broker.redrive(queue, dry_run=True)
        except unimq.NotFound:
            return True
        return False
