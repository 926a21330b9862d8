"""Dead letters: A4, A8, A9, D1, D4."""

import time

import unimq
from unimq_contract.contract import Contract
from unimq_contract.guarantees import guarantee, needs
from unimq_contract.harness import Connections, Destinations, Harness, bodies, numbered
from unimq_contract.suite.receiving import content

PROVENANCE = {
    "unimq-dead-reason",
    "unimq-dead-source",
    "unimq-dead-attempts",
    "unimq-dead-sent-at",
    "unimq-dead-at",
    "unimq-dead-id",
}


def dead_letters_of(queue: unimq.Queue) -> unimq.Queue:
    dead = queue.dead_letters
    assert dead is not None
    return dead


class DeadLettersContract(Contract):
    @needs("dead_letter")
    @guarantee("A4", "R2", kills=("dead-letter-lost", "reject-requeues", "headers-dropped"))
    def test_a_rejected_message_moves_with_all_it_has_and_why(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        original = unimq.Message(
            bytes(range(256)),
            key="customer-7",
            headers={"source": "web", "binary": b"\x00\xff"},
            id="the-original",
            content_type="text/plain",
            correlation_id="c-1",
            reply_to="answers",
        )
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            before = time.time()
            producer.send(original)
            harness.receive_one(consumer).nack()
            delivery = harness.receive_one(consumer)
            sent_at = delivery.sent_at
            delivery.reject("no such customer")
            consumer.settle()
            harness.nothing_else(queue, broker, consumer)
        with broker.consumer(dead_letters_of(queue)) as consumer:
            dead = harness.receive_one(consumer)
            why = {name: value for name, value in dead.headers.items() if name in PROVENANCE}
            assert why.keys() == PROVENANCE
            dead_at = float(why.pop("unimq-dead-at"))
            assert before - 0.001 <= dead_at <= time.time() + 0.001
            assert abs(float(why.pop("unimq-dead-sent-at")) - sent_at) <= 0.001
            assert why == {
                "unimq-dead-reason": "no such customer",
                "unimq-dead-source": queue.name,
                "unimq-dead-attempts": "2",
                "unimq-dead-id": "the-original",
            }
            plain = {name: value for name, value in dead.headers.items() if name not in PROVENANCE}
            copy = unimq.Message(
                dead.body, dead.key, plain, dead.id, dead.content_type, dead.correlation_id, dead.reply_to
            )
            assert content(copy) == content(original)
            dead.ack()

    @needs("dead_letter")
    @guarantee("A8", "A3", kills=("limit-off-by-one", "dead-letter-lost", "attempt-stuck"))
    def test_the_failure_of_the_last_allowed_delivery_dead_letters(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        queue = destinations.queue(max_deliveries=3)
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send(b"poison")
            for attempt in (1, 2, 3):
                delivery = harness.receive_one(consumer)
                assert (delivery.body, delivery.attempt) == (b"poison", attempt)
                delivery.nack()
            consumer.settle()
            harness.nothing_else(queue, broker, consumer)
        with broker.consumer(dead_letters_of(queue)) as consumer:
            dead = harness.receive_one(consumer)
            assert dead.body == b"poison"
            why = {name: value for name, value in dead.headers.items() if name in PROVENANCE}
            assert why.keys() == PROVENANCE
            assert (why["unimq-dead-reason"], why["unimq-dead-attempts"]) == ("max_deliveries", "3")
            assert (why["unimq-dead-source"], why["unimq-dead-id"]) == (queue.name, delivery.id)
            dead.ack()
            consumer.settle()

    @needs("dead_letter")
    @guarantee("A8", kills=("limit-too-early",))
    def test_the_last_allowed_delivery_may_still_succeed(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        queue = destinations.queue(max_deliveries=2)
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send(b"second try")
            harness.receive_one(consumer).nack()
            delivery = harness.receive_one(consumer)
            assert delivery.attempt == 2
            delivery.ack()
            harness.nothing_else(queue, broker, consumer)
        harness.is_empty(dead_letters_of(queue), broker)

    @needs("dead_letter")
    @guarantee("D1", "A8", kills=("dead-letter-lost",))
    def test_poison_blocks_nobody(self, broker: unimq.Broker, destinations: Destinations, harness: Harness) -> None:
        queue = destinations.queue(max_deliveries=3)
        poison, good = numbered(5), numbered(20, first=101)
        with broker.producer(queue) as producer, broker.consumer(queue, prefetch=4) as consumer:
            producer.send_many(poison + good)
            acked: list[bytes] = []
            failures = 0
            while len(acked) < len(good) or failures < 3 * len(poison):
                delivery = harness.receive_one(consumer)
                if delivery.body in poison:
                    failures += 1
                    delivery.nack()
                else:
                    acked.append(delivery.body)
                    delivery.ack()
            assert sorted(acked) == good
            consumer.settle()
            harness.nothing_else(queue, broker, consumer)
        with broker.consumer(dead_letters_of(queue)) as consumer:
            dead = harness.receive(consumer, len(poison))
            assert bodies(dead) == poison
            consumer.ack(dead)

    @guarantee("D1", kills=("nacked-goes-first",))
    def test_poison_without_a_limit_blocks_nobody(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        """Also where one message at a time is taken, in whichever order: everything else gets its turn meanwhile."""
        good = numbered(5)
        with broker.producer(queue) as producer, broker.consumer(queue, prefetch=1) as consumer:
            producer.send_many([b"poison", *good])
            acked: list[bytes] = []
            deadline = time.monotonic() + harness.bounds.within
            while len(acked) < len(good):
                delivery = harness.receive_one(consumer)
                if delivery.body == b"poison":
                    # No order is promised (O2): it may come many times before the others are there, but not for ever.
                    assert time.monotonic() < deadline, f"{len(acked)} of {len(good)} came besides the poison"
                    delivery.nack()
                else:
                    acked.append(delivery.body)
                    delivery.ack()
            assert sorted(acked) == good

    @guarantee("D4", "A8", kills=("limit-off-by-one",))
    def test_without_dead_letters_the_limit_drops(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        queue = destinations.queue(max_deliveries=2, dead_letter=False)
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send(b"poison")
            for _ in range(2):
                harness.receive_one(consumer).nack()
            consumer.settle()
            harness.nothing_else(queue, broker, consumer)
        harness.is_empty(queue, broker)

    @needs("dead_letter")
    @guarantee("A4", "A1", "L1", kills=("dead-letter-lost", "reject-requeues"))
    def test_closing_right_after_a_reject_loses_nothing(
        self, connect: Connections, queue: unimq.Queue, harness: Harness
    ) -> None:
        first = connect()
        with first.producer(queue) as producer, first.consumer(queue) as consumer:
            producer.send_many(numbered(20))
            for delivery in harness.receive(consumer, 20):
                delivery.reject()
        first.close()
        second = connect()
        with second.consumer(dead_letters_of(queue)) as consumer:
            dead = harness.receive(consumer, 20)
            assert bodies(dead) == numbered(20)
            consumer.ack(dead)
            harness.nothing_else(dead_letters_of(queue), second, consumer)
        harness.is_empty(queue, second)

    @needs("dead_letter", "topics")
    @guarantee("A4", "G2", kills=("dead-letter-lost",))
    def test_each_subscription_has_its_own_dead_letters(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        topic = destinations.topic()
        audit, stock = destinations.subscription(topic, "audit"), destinations.subscription(topic, "stock")
        broker.declare(audit, stock)
        with broker.producer(topic) as producer:
            producer.send(b"bad for audit")
        with broker.consumer(audit) as consumer:
            harness.receive_one(consumer).reject("unaudited")
            consumer.settle()
        with broker.consumer(stock) as consumer:
            harness.receive_one(consumer).ack()
        with broker.consumer(dead_letters_of(audit.queue)) as consumer:
            dead = harness.receive_one(consumer)
            assert dead.headers["unimq-dead-source"] == audit.queue.name
            dead.ack()
        harness.is_empty(dead_letters_of(stock.queue), broker)

    @needs("dead_letter")
    @guarantee("A4", "R2", kills=("dead-letter-lost", "attempt-sticks-to-message"))
    def test_a_dead_letter_can_be_sent_again(self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness) -> None:
        """By hand, as it is: the headers of its provenance are no obstacle."""
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send(b"second chance", headers={"source": "web"})
            harness.receive_one(consumer).reject()
            consumer.settle()
            with broker.consumer(dead_letters_of(queue)) as morgue:
                dead = harness.receive_one(morgue)
                producer.send(dead.body, headers=dead.headers, message_id=dead.id)
                dead.ack()
            again = harness.receive_one(consumer)
            assert (again.body, again.id, again.attempt) == (b"second chance", dead.id, 1)
            assert again.headers["source"] == "web"
            again.ack()
