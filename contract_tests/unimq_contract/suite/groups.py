"""Groups and fan-out: G1 and G2."""

import time

import pytest

import unimq
from unimq_contract.contract import Contract
from unimq_contract.guarantees import guarantee, needs
from unimq_contract.harness import Connections, Destinations, Harness, bodies, numbered


class GroupsContract(Contract):
    @guarantee("G1", "R3", kills=("prefetch-ignored",))
    def test_a_consumer_that_stands_still_starves_nobody(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        """It keeps what it may hold, and everything else goes to the other."""
        if harness.capabilities.idle_consumers:
            pytest.skip(f"not on {harness.capabilities.backend}: {harness.capabilities.idle_consumers}")
        with broker.producer(queue) as producer, broker.consumer(queue, prefetch=1) as slow:
            producer.send(b"00000")
            stuck = harness.receive_one(slow)
            with broker.consumer(queue, prefetch=1) as fast:
                producer.send_many(numbered(20))
                seen: list[bytes] = []
                for _ in range(20):
                    delivery = harness.receive_one(fast)
                    seen.append(delivery.body)
                    delivery.ack()
                assert sorted(seen) == numbered(20)
            stuck.ack()

    @guarantee("G1", "R1", kills=("everybody-gets-all", "store-twice"))
    def test_competing_consumers_share_everything_without_overlap(
        self, connect: Connections, queue: unimq.Queue, harness: Harness
    ) -> None:
        """Both get work, and together they get each message once."""
        one, other = connect(), connect()
        with (
            one.producer(queue) as producer,
            one.consumer(queue, prefetch=5) as first,
            other.consumer(queue, prefetch=5) as second,
        ):
            acked: dict[str, list[bytes]] = {"first": [], "second": []}
            sent = 0
            deadline = time.monotonic() + harness.bounds.within
            # Rounds until both took part: a group may need a while until its second member has its share.
            while not all(acked.values()) or sent < 100:
                assert time.monotonic() < deadline, f"one got nothing: { {k: len(v) for k, v in acked.items()} }"
                round_of = numbered(20, first=sent + 1)
                producer.send_many([unimq.Message(body, key=body.decode()) for body in round_of])
                sent += len(round_of)
                while sum(map(len, acked.values())) < sent:
                    assert time.monotonic() < deadline, f"{sum(map(len, acked.values()))} of {sent} came"
                    for name, consumer in (("first", first), ("second", second)):
                        found = consumer.receive(5, timeout=harness.bounds.quiet / 10)
                        consumer.ack(found)
                        acked[name] += bodies(found)
            together = sorted(acked["first"] + acked["second"])
            assert together == numbered(sent)
            harness.nothing_else(queue, one, first, second)

    @guarantee("G1", "A5", "R1", kills=("acks-lost-at-close",))
    def test_joining_and_leaving_loses_nothing(
        self, connect: Connections, queue: unimq.Queue, harness: Harness
    ) -> None:
        """The second joins amid the work and leaves with messages in hand; the first gets all that it left."""
        one, other = connect(), connect()
        count = harness.bounds.backlog // 3
        acked: list[bytes] = []
        with one.producer(queue) as producer, one.consumer(queue, prefetch=5) as stays:
            producer.send_many([unimq.Message(body, key=body.decode()) for body in numbered(count)])
            for _ in range(10):
                delivery = harness.receive_one(stays)
                acked.append(delivery.body)
                delivery.ack()
            with other.consumer(queue, prefetch=5) as leaves:
                for _ in range(3):
                    for delivery in leaves.receive(2, timeout=harness.bounds.quiet):
                        acked.append(delivery.body)
                        delivery.ack()
                    for delivery in stays.receive(2, timeout=harness.bounds.quiet):
                        acked.append(delivery.body)
                        delivery.ack()
                leaves.receive(5, timeout=harness.bounds.quiet)
                leaves.settle()
                stays.settle()
            while len(set(acked)) < count:
                delivery = harness.receive_one(stays)
                acked.append(delivery.body)
                delivery.ack()
            assert sorted(acked) == numbered(count)
            harness.nothing_else(queue, one, stays)

    @guarantee("G1", "L1", kills=("delivers-after-close",))
    def test_a_closed_consumer_gets_nothing_more(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        stays = broker.consumer(queue)
        leaves = broker.consumer(queue)
        leaves.close()
        with broker.producer(queue) as producer:
            producer.send_many(numbered(20))
        received = harness.receive(stays, 20)
        assert bodies(received) == numbered(20)
        stays.ack(received)
        with pytest.raises(unimq.Closed):
            leaves.receive(timeout=0)

    @needs("topics")
    @guarantee("G2", "R1", kills=("subscriptions-compete",))
    def test_each_subscription_gets_everything(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        topic = destinations.topic()
        audit, stock = destinations.subscription(topic, "audit"), destinations.subscription(topic, "stock")
        broker.declare(audit, stock)
        with (
            broker.producer(topic) as producer,
            broker.consumer(audit) as from_audit,
            broker.consumer(stock) as from_stock,
        ):
            receipts = producer.send_many(numbered(20))
            for consumer, subscription in ((from_audit, audit), (from_stock, stock)):
                received = harness.receive(consumer, 20)
                assert bodies(received) == numbered(20)
                assert {delivery.id for delivery in received} == {receipt.message_id for receipt in receipts}
                assert {delivery.source for delivery in received} == {subscription.queue.name}
                consumer.ack(received)
            harness.nothing_else(topic, broker, from_audit, from_stock)

    @needs("topics")
    @guarantee("G2", "G1", kills=("everybody-gets-all",))
    def test_consumers_of_one_subscription_compete(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        topic = destinations.topic()
        audit = destinations.subscription(topic, "audit")
        with (
            broker.consumer(audit, prefetch=10) as first,
            broker.consumer(audit, prefetch=10) as second,
            broker.producer(topic) as producer,
        ):
            producer.send_many(numbered(40))
            acked: list[bytes] = []
            deadline = time.monotonic() + harness.bounds.within
            while len(acked) < 40:
                assert time.monotonic() < deadline, f"{len(acked)} of 40 came"
                for consumer in (first, second):
                    found = consumer.receive(10, timeout=harness.bounds.quiet / 10)
                    consumer.ack(found)
                    acked += bodies(found)
            assert sorted(acked) == numbered(40)
            first.settle()
            second.settle()
            assert first.receive(timeout=harness.bounds.quiet) + second.receive(timeout=harness.bounds.quiet) == []

    @needs("topics")
    @guarantee("G2", "A2", "A3", kills=("nack-acks", "attempt-stuck"))
    def test_settling_in_one_subscription_does_not_touch_another(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        topic = destinations.topic()
        audit, stock = destinations.subscription(topic, "audit"), destinations.subscription(topic, "stock")
        broker.declare(audit, stock)
        with broker.producer(topic) as producer, broker.consumer(audit) as from_audit:
            producer.send_many([b"one", b"two"])
            for delivery in harness.receive(from_audit, 2):
                delivery.ack() if delivery.body == b"one" else delivery.nack()
            again = harness.receive_one(from_audit)
            assert (again.body, again.attempt) == (b"two", 2)
            again.ack()
            from_audit.settle()
            with broker.consumer(stock) as from_stock:
                received = harness.receive(from_stock, 2)
                assert bodies(received) == [b"one", b"two"]
                assert {delivery.attempt for delivery in received} == {1}
                from_stock.ack(received)
                harness.nothing_else(topic, broker, from_audit, from_stock)

    @needs("topics")
    @guarantee("G2", "S1", kills=("lose-some", "batch-loses-one"))
    def test_a_declared_subscription_loses_nothing_before_its_first_consumer(
        self, connect: Connections, destinations: Destinations, harness: Harness
    ) -> None:
        topic = destinations.topic()
        audit = destinations.subscription(topic, "audit")
        first = connect()
        first.declare(audit)
        with first.producer(topic) as producer:
            producer.send_many(numbered(10))
        first.close()
        with connect().consumer(audit) as consumer:
            received = harness.receive(consumer, 10)
            assert bodies(received) == numbered(10)
            consumer.ack(received)

    @needs("topics")
    @guarantee("G2", kills=("room-only-when-empty",))
    def test_a_new_subscription_starts_now(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        topic = destinations.topic()
        early, late = destinations.subscription(topic, "early"), destinations.subscription(topic, "late")
        broker.declare(early)
        with broker.producer(topic) as producer:
            producer.send(b"before")
            broker.declare(late)
            producer.send(b"after")
        with broker.consumer(early) as from_early, broker.consumer(late) as from_late:
            received = harness.receive(from_early, 2)
            assert bodies(received) == [b"after", b"before"]
            from_early.ack(received)
            delivery = harness.receive_one(from_late)
            assert delivery.body == b"after"
            delivery.ack()
            harness.nothing_else(topic, broker, from_early, from_late)

    @needs("topics", "start_earliest")
    @guarantee("G2", "P2", kills=("claims-history",))
    def test_a_subscription_may_ask_for_history(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        topic = destinations.topic()
        broker.declare(topic)
        with broker.producer(topic) as producer:
            producer.send(b"before")
        audit = destinations.subscription(topic, "audit", start="earliest")
        with broker.consumer(audit) as consumer:
            delivery = harness.receive_one(consumer)
            assert delivery.body == b"before"
            delivery.ack()

    @needs("seek")
    @guarantee("P2", "A1", kills=("claims-to-seek",))
    def test_a_queue_is_read_again_from_where_it_is_told(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        with broker.producer(queue) as producer:
            producer.send_many(numbered(3))
            with broker.consumer(queue) as consumer:
                consumer.ack(harness.receive(consumer, 3))
                consumer.settle()
            broker.seek(queue, "earliest")
            with broker.consumer(queue) as consumer:
                again = harness.receive(consumer, 3)
                assert bodies(again) == numbered(3)
                consumer.ack(again)
                harness.nothing_else(queue, broker, consumer)
            producer.send(b"passed over")
            broker.seek(queue, "now")
            producer.send(b"after")
            with broker.consumer(queue) as consumer:
                delivery = harness.receive_one(consumer)
                assert delivery.body == b"after"
                delivery.ack()

    @needs("topics")
    @guarantee("G2", "L5", kills=("room-only-when-empty",))
    def test_a_slow_subscription_does_not_slow_another(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        topic = destinations.topic()
        slow, fast = destinations.subscription(topic, "slow"), destinations.subscription(topic, "fast")
        broker.declare(slow, fast)
        with (
            broker.producer(topic) as producer,
            broker.consumer(slow, prefetch=1) as from_slow,
            broker.consumer(fast, prefetch=10) as from_fast,
        ):
            producer.send_many(numbered(60))
            stuck = harness.receive_one(from_slow)
            received: list[bytes] = []
            while len(received) < 60:
                delivery = harness.receive_one(from_fast)
                received.append(delivery.body)
                delivery.ack()
            assert sorted(received) == numbered(60)
            stuck.ack()
            harness.receive_one(from_slow).ack()

    @needs("topics")
    @guarantee("G2", "R5", kills=("greets-consumers", "first-lost"))
    def test_other_topics_are_not_heard(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        topic, other = destinations.topic(), destinations.topic()
        audit = destinations.subscription(topic, "audit")
        elsewhere = destinations.subscription(other, "audit")
        broker.declare(audit, elsewhere)
        with broker.producer(other) as to_other, broker.consumer(audit) as consumer:
            to_other.send(b"elsewhere")
            harness.nothing_else(topic, broker, consumer)
        with broker.consumer(elsewhere) as consumer:
            delivery = harness.receive_one(consumer)
            assert delivery.body == b"elsewhere"
            delivery.ack()

    @needs("topics")
    @guarantee("G2", "S4", kills=("greets-consumers",))
    def test_a_topic_without_subscriptions_accepts_and_forgets(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        topic = destinations.topic()
        with broker.producer(topic) as producer:
            assert producer.send(b"to nobody").message_id
            audit = destinations.subscription(topic, "audit")
            with broker.consumer(audit) as consumer:
                harness.nothing_else(topic, broker, consumer)

    @needs("topics", "require_subscription")
    @guarantee("G2", "S4", kills=("lost-destination-accepted",))
    def test_a_topic_may_require_a_subscription(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        topic = destinations.topic(require_subscription=True)
        with broker.producer(topic) as producer:
            with pytest.raises(unimq.Unroutable, match=topic.name):
                producer.send(b"to nobody")
            audit = destinations.subscription(topic, "audit")
            with broker.consumer(audit) as consumer:
                producer.send(b"to somebody")
                delivery = harness.receive_one(consumer)
                assert delivery.body == b"to somebody"
                delivery.ack()
