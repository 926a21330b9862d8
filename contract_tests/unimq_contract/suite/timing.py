"""Time and limits: T1 to T4."""

import time

import pytest

import unimq
from unimq_contract.contract import Contract
from unimq_contract.guarantees import guarantee, needs
from unimq_contract.harness import Destinations, Harness, bodies, numbered


class TimingContract(Contract):
    @needs("ttl")
    @guarantee("T1", kills=("ttl-ignored", "lose-some"))
    def test_the_expired_is_not_delivered_and_the_live_is(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        """A short ttl behind a long one too: some brokers expire at the head only."""
        ttl = harness.bounds.delay
        with broker.producer(queue) as producer, broker.consumer(queue, prefetch=1) as consumer:
            producer.send(b"holds the place")
            holder = harness.receive_one(consumer)
            producer.send(b"long", ttl=3600)
            producer.send(b"short", ttl=ttl)
            producer.send(b"endless")
            expired_at = time.monotonic() + ttl + harness.bounds.tolerance
            while (left := expired_at - time.monotonic()) > 0:
                assert consumer.receive(timeout=left) == []
            holder.ack()
            received: list[bytes] = []
            for _ in range(2):
                delivery = harness.receive_one(consumer)
                received.append(delivery.body)
                delivery.ack()
            assert sorted(received) == [b"endless", b"long"]
            harness.nothing_else(queue, broker, consumer)

    @needs("ttl")
    @guarantee("T1", kills=("ttl-ignored",))
    def test_the_earlier_of_two_ttls_counts(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        ttl = harness.bounds.delay
        short, long = destinations.queue(ttl=ttl), destinations.queue(ttl=3600)
        broker.declare(short, long)
        with broker.producer(short) as to_short, broker.producer(long) as to_long:
            to_short.send(b"own ttl longer", ttl=3600)
            to_short.send(b"no own ttl")
            to_long.send(b"own ttl shorter", ttl=ttl)
            to_long.send(b"stays", ttl=7200)
            expired_at = time.monotonic() + ttl + harness.bounds.tolerance
        with broker.consumer(long, prefetch=1) as from_long:
            while (left := expired_at - time.monotonic()) > 0:
                time.sleep(left)
            # Fetched or not before they expired: what counts is the moment of receiving.
            assert harness.receive_one(from_long).body == b"stays"
        harness.is_empty(short, broker) if ttl > 2 * harness.bounds.quiet else self._drained(short, broker, harness)

    @staticmethod
    def _drained(queue: unimq.Queue, broker: unimq.Broker, harness: Harness) -> None:
        """Fail if the queue still gives anything; a marker would expire itself before it can be looked for."""
        with broker.consumer(queue) as consumer:
            assert consumer.receive(10, timeout=harness.bounds.quiet * 2) == []

    @needs("ttl", "dead_letter")
    @guarantee("T1", "A4", kills=("ttl-ignored",))
    def test_the_expired_is_dead_lettered_if_so_declared(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        queue = destinations.queue(dead_letter_expired=True)
        dead = queue.dead_letters
        assert dead is not None
        with broker.producer(queue) as producer, broker.consumer(queue, prefetch=1) as consumer:
            producer.send(b"holds the place")
            holder = harness.receive_one(consumer)
            producer.send(b"late", ttl=harness.bounds.delay)
            expired_at = time.monotonic() + harness.bounds.delay + harness.bounds.tolerance
            while (left := expired_at - time.monotonic()) > 0:
                assert consumer.receive(timeout=left) == []
            holder.ack()
            harness.nothing_else(queue, broker, consumer)
            consumer.settle()
        with broker.consumer(dead) as consumer:
            delivery = harness.receive_one(consumer)
            assert delivery.body == b"late"
            assert delivery.headers["unimq-dead-reason"] == "expired"
            delivery.ack()

    @needs("delay")
    @guarantee("T2", kills=("delay-ignored",))
    def test_a_delayed_message_comes_after_its_delay(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        delay = harness.bounds.delay
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            began = time.monotonic()
            producer.send(b"later", delay=delay)
            producer.send(b"now")
            assert harness.receive_one(consumer).body == b"now"
            assert time.monotonic() - began < harness.bounds.within
            delivery = harness.receive_one(consumer)
            assert (delivery.body, delivery.attempt) == (b"later", 1)
            assert time.monotonic() - began >= delay - harness.bounds.tolerance

    @needs("delay")
    @guarantee("T2", kills=("delay-ignored",))
    def test_a_short_delay_overtakes_a_long_one(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        delay = harness.bounds.delay
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send(b"long", delay=delay * 3)
            producer.send(b"short", delay=delay)
            assert [harness.receive_one(consumer).body for _ in range(2)] == [b"short", b"long"]

    @needs("delay", "topics")
    @guarantee("T2", "G2", kills=("delay-ignored",))
    def test_a_delayed_message_to_a_topic_comes_late_to_every_subscription(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        topic = destinations.topic()
        subscriptions = [topic.subscription("first"), topic.subscription("second")]
        broker.declare(*subscriptions)
        with broker.producer(topic) as producer:
            began = time.monotonic()
            try:
                producer.send(b"later", delay=harness.bounds.delay)
            except unimq.Unsupported as refused:
                # One service of a backend may have it and another not; then it says so, and sends nothing.
                pytest.skip(str(refused))
        for subscription in subscriptions:
            with broker.consumer(subscription) as consumer:
                assert harness.receive_one(consumer).body == b"later"
                assert time.monotonic() - began >= harness.bounds.delay - harness.bounds.tolerance

    @needs("max_length")
    @guarantee("T3", "S4", kills=("max-length-ignored",))
    def test_a_full_queue_refuses(self, broker: unimq.Broker, destinations: Destinations, harness: Harness) -> None:
        queue = destinations.queue(max_length=5)
        stored: list[bytes] = []
        with broker.producer(queue) as producer:
            # Some brokers are late by a few messages, and say so in the note of the capability.
            with pytest.raises(unimq.QueueFull, match=queue.name):  # noqa: PT012 - the refusal is what ends the loop
                for body in numbered(15):
                    producer.send(body)
                    stored.append(body)
            assert len(stored) >= 5
            with broker.consumer(queue) as consumer:
                received = harness.receive(consumer, len(stored))
                assert bodies(received) == stored
                consumer.ack(received)
                consumer.settle()
                producer.send(b"room again")
                harness.receive_one(consumer).ack()

    @needs("drop_oldest")
    @guarantee("T3", kills=("max-length-ignored",))
    def test_a_full_queue_may_drop_its_oldest(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        queue = destinations.queue(max_length=5, overflow="drop_oldest", dead_letter=False)
        with broker.producer(queue) as producer:
            for body in numbered(20):
                producer.send(body)
        with broker.consumer(queue) as consumer:
            received = bodies(harness.receive(consumer, 5))
            received += bodies(consumer.receive(20, timeout=harness.bounds.quiet))
            assert len(received) <= 8
            assert received == numbered(len(received), first=21 - len(received))

    @needs("stats")
    @guarantee("T4", kills=("stats-stale",))
    def test_stats_tell_the_depth(self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness) -> None:
        def ready() -> int | None:
            return broker.stats(queue).ready

        with broker.producer(queue) as producer:
            producer.send_many(numbered(7))
        harness.eventually(lambda: ready() == 7, "7 messages are ready")
        if broker.stats(queue).exact:
            assert ready() == 7
        with broker.consumer(queue) as consumer:
            consumer.ack(harness.receive(consumer, 7))
            consumer.settle()
            harness.eventually(lambda: ready() == 0, "nothing is ready")
            assert broker.stats(queue).dead_letters in {0, None}

    @needs("stats", "dead_letter")
    @guarantee("T4", "A4", kills=("dead-letter-lost", "reject-requeues"))
    def test_stats_count_dead_letters(self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness) -> None:
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send_many(numbered(3))
            for delivery in harness.receive(consumer, 3):
                delivery.reject()
            consumer.settle()
            harness.eventually(lambda: broker.stats(queue).dead_letters == 3, "3 dead letters are counted")

    @needs("purge")
    @guarantee("T4", "R5", kills=("phantom",))
    def test_purge_drops_what_waits(self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness) -> None:
        with broker.producer(queue) as producer:
            producer.send_many(numbered(6))
        assert broker.purge(queue) in {6, None}
        harness.is_empty(queue, broker)
