"""Order: O1 and O2."""

import random
import time

import unimq
from unimq_contract.contract import Contract
from unimq_contract.guarantees import guarantee, needs
from unimq_contract.harness import Destinations, Harness, bodies, numbered


def keyed(keys: int, each: int) -> list[unimq.Message]:
    """Return messages of several keys, interleaved: bodies are the key and the number within it."""
    return [
        unimq.Message(b"%d:%04d" % (key, number), key=f"key-{key}") for number in range(each) for key in range(keys)
    ]


class OrderingContract(Contract):
    @guarantee("O2", "R1", kills=("lanes-for-everybody", "lose-some"))
    def test_without_ordering_a_key_holds_nothing_up(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        """No promise of order, but of everything else: all of a key may be in work at once, in whatever order."""
        with broker.producer(queue) as producer, broker.consumer(queue, prefetch=60) as consumer:
            producer.send_many([unimq.Message(body, key="the same") for body in numbered(30)])
            held = harness.receive(consumer, 30)
            assert bodies(held) == numbered(30)
            held.pop(7).nack()
            again = harness.receive_one(consumer)
            assert again.attempt == 2
            consumer.ack([*held, again])
            harness.nothing_else(queue, broker, consumer)

    @needs("ordering_key")
    @guarantee("O1", kills=("shuffled",))
    def test_messages_of_a_key_arrive_in_the_order_sent(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        """Over the edges of batches, and with single sends among them."""
        queue = destinations.queue(ordering="key")
        messages = keyed(keys=3, each=20)
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send_many(messages[:25])
            for message in messages[25:35]:
                producer.send(message)
            for message in messages[35:]:
                producer.enqueue(message)
            producer.flush()
            seen: dict[str | None, list[bytes]] = {}
            for _ in messages:
                delivery = harness.receive_one(consumer)
                seen.setdefault(delivery.key, []).append(delivery.body)
                delivery.ack()
            for key in range(3):
                assert seen[f"key-{key}"] == [b"%d:%04d" % (key, number) for number in range(20)]

    @needs("ordering_key")
    @guarantee("O1", "G1", kills=("shuffled",))
    def test_competing_consumers_keep_the_order_of_keys(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        """One message of a key in flight at a time, over all consumers."""
        queue = destinations.queue(ordering="key")
        chance = random.Random(4)
        messages = keyed(keys=6, each=10)
        seen: dict[str | None, list[bytes]] = {}
        in_flight: list[unimq.Delivery] = []
        with (
            broker.producer(queue) as producer,
            broker.consumer(queue) as first,
            broker.consumer(queue) as second,
        ):
            producer.send_many(messages)
            deadline = time.monotonic() + harness.bounds.within
            while sum(map(len, seen.values())) < len(messages):
                assert time.monotonic() < deadline, f"{sum(map(len, seen.values()))} of {len(messages)} came"
                for consumer in (first, second):
                    in_flight += consumer.receive(4, timeout=0 if in_flight else harness.bounds.quiet / 10)
                keys = [delivery.key for delivery in in_flight]
                assert len(keys) == len(set(keys)), f"two of one key in flight: {sorted(map(str, keys))}"
                if in_flight:
                    delivery = in_flight.pop(chance.randrange(len(in_flight)))
                    seen.setdefault(delivery.key, []).append(delivery.body)
                    delivery.ack()
        for key in range(6):
            assert seen[f"key-{key}"] == [b"%d:%04d" % (key, number) for number in range(10)]

    @needs("ordering_key")
    @guarantee("O1", "A3", kills=("nacked-head-behind",))
    def test_a_nacked_head_stays_ahead_of_its_key(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        """Whether its successors wait in the consumer or, as with a prefetch of one, still in the queue."""
        for prefetch in (1, 100):
            queue = destinations.queue(ordering="key")
            with broker.producer(queue) as producer, broker.consumer(queue, prefetch=prefetch) as consumer:
                producer.send_many(keyed(keys=1, each=4))
                seen: list[bytes] = []
                for attempt in (1, 2, 3):
                    head = harness.receive_one(consumer)
                    assert (head.body, head.attempt) == (b"0:0000", attempt)
                    if attempt < 3:
                        head.nack()
                head.ack()
                for _ in range(3):
                    delivery = harness.receive_one(consumer)
                    seen.append(delivery.body)
                    delivery.ack()
                assert seen == [b"0:0001", b"0:0002", b"0:0003"]

    @needs("ordering_key")
    @guarantee("A7", "A9", "O1", "A5", kills=("attempt-stuck",))
    def test_the_attempts_of_a_head_outlive_its_consumer(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        """Whether they wait in the consumer or in the queue; unless the backend declares that they do not."""
        capabilities = harness.capabilities
        queue = destinations.queue(ordering="key")
        with broker.producer(queue) as producer:
            producer.send_many(keyed(keys=1, each=2))
        with broker.consumer(queue) as consumer:
            for attempt in (1, 2, 3):
                head = harness.receive_one(consumer)
                assert (head.body, head.attempt) == (b"0:0000", attempt)
                if attempt < 3:
                    head.nack()
        with broker.consumer(queue) as consumer:
            head = harness.receive_one(consumer)
            assert head.body == b"0:0000"
            if capabilities.attempts_exact and not capabilities.ordered_attempts:
                assert head.attempt == (4 if capabilities.shutdown_counts else 3)
            else:
                assert head.attempt >= 1
            head.ack()
            last = harness.receive_one(consumer)
            assert last.body == b"0:0001"
            last.ack()
            harness.nothing_else(queue, broker, consumer)

    @needs("ordering_key", "nack_delay")
    @guarantee("O1", "A3", kills=("nacked-head-behind",))
    def test_a_head_that_waits_for_its_delay_blocks_its_own_key_only(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        queue = destinations.queue(ordering="key")
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send_many([unimq.Message(b"a1", key="a"), unimq.Message(b"a2", key="a")])
            head = harness.receive_one(consumer)
            assert head.body == b"a1"
            head.nack(delay=harness.bounds.delay)
            producer.send(b"b1", key="b")
            other = harness.receive_one(consumer)
            assert other.body == b"b1"
            other.ack()
            for expected in (b"a1", b"a2"):
                delivery = harness.receive_one(consumer)
                assert delivery.body == expected
                delivery.ack()

    @needs("ordering_key")
    @guarantee("O1", kills=("room-only-when-empty", "shuffled"))
    def test_a_slow_key_does_not_delay_others(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        queue = destinations.queue(ordering="key")
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send_many([unimq.Message(b"slow-%d" % number, key="slow") for number in range(5)])
            stuck = harness.receive_one(consumer)
            producer.send_many([unimq.Message(b"fast-%d" % number, key=f"fast-{number}") for number in range(5)])
            received = harness.receive(consumer, 5)
            assert sorted(delivery.body for delivery in received) == [b"fast-%d" % number for number in range(5)]
            consumer.ack(received)
            stuck.ack()
            for number in range(1, 5):
                delivery = harness.receive_one(consumer)
                assert delivery.body == b"slow-%d" % number
                delivery.ack()

    @needs("ordering_key")
    @guarantee("O1", "A5", kills=("acked-at-delivery",))
    def test_a_restart_goes_on_at_the_lowest_unacked(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        queue = destinations.queue(ordering="key")
        seen: list[bytes] = []
        with broker.producer(queue) as producer:
            producer.send_many(keyed(keys=1, each=9))
        for _ in range(3):
            with broker.consumer(queue) as consumer:
                for number in range(4):
                    delivery = harness.receive_one(consumer)
                    if number < 3:
                        seen.append(delivery.body)
                        delivery.ack()
                    elif len(seen) == 9:
                        break
                    if len(seen) == 9:
                        break
        assert seen == [b"0:%04d" % number for number in range(9)]

    @needs("ordering_key", "topics")
    @guarantee("O1", "G2", kills=("shuffled",))
    def test_every_subscription_has_the_order_of_its_topic(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        topic = destinations.topic(ordering="key")
        subscriptions = [destinations.subscription(topic, name) for name in ("audit", "stock")]
        broker.declare(*subscriptions)
        messages = keyed(keys=2, each=8)
        with broker.producer(topic) as producer:
            producer.send_many(messages)
        for subscription in subscriptions:
            seen: dict[str | None, list[bytes]] = {}
            with broker.consumer(subscription) as consumer:
                for _ in messages:
                    delivery = harness.receive_one(consumer)
                    seen.setdefault(delivery.key, []).append(delivery.body)
                    delivery.ack()
            for key in range(2):
                assert seen[f"key-{key}"] == [b"%d:%04d" % (key, number) for number in range(8)]
