"""Send: S1 to S7."""

import contextlib
from collections.abc import Callable

import pytest

import unimq
from unimq_contract.contract import Contract
from unimq_contract.fronts import Front
from unimq_contract.guarantees import guarantee
from unimq_contract.harness import Backend, Connections, Destinations, Harness, bodies, in_background, numbered


class SendContract(Contract):
    @guarantee("S1", "R1", "A1", kills=("lose-some", "store-twice"))
    def test_a_message_arrives_once_and_is_gone_after_its_ack(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        with broker.producer(queue) as producer:
            receipts = [producer.send(body) for body in numbered(20)]
        with broker.consumer(queue) as consumer:
            received = harness.receive(consumer, 20)
            assert bodies(received) == numbered(20)
            assert {delivery.id for delivery in received} == {receipt.message_id for receipt in receipts}
            assert {delivery.attempt for delivery in received} == {1}
            consumer.ack(received)
            harness.nothing_else(queue, broker, consumer)
        harness.is_empty(queue, broker)

    @guarantee("S1", "R1", kills=("first-lost",))
    def test_a_message_waits_for_the_first_consumer(
        self, connect: Connections, queue: unimq.Queue, harness: Harness
    ) -> None:
        sender = connect()
        with sender.producer(queue) as producer:
            producer.send(b"early")
        sender.close()
        with connect().consumer(queue) as consumer:
            delivery = harness.receive_one(consumer)
            assert delivery.body == b"early"
            delivery.ack()

    @guarantee("S1", "L2", "R5", kills=("lose-some",))
    def test_what_threads_send_side_by_side_arrives_completely(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        with broker.producer(queue) as producer:

            def sends(first: int) -> Callable[[], list[unimq.Receipt]]:
                return lambda: [producer.send(body) for body in numbered(25, first)]

            workers = in_background(sends(first) for first in (1, 26, 51, 76))
            receipts = [receipt for worker in workers for receipt in worker.result(harness.bounds.within)]
        assert len({receipt.message_id for receipt in receipts}) == 100
        with broker.consumer(queue) as consumer:
            received = harness.receive(consumer, 100)
            assert bodies(received) == numbered(100)
            consumer.ack(received)

    @guarantee("S1", "R2", kills=("room-only-when-empty",))
    def test_the_receipt_names_the_message(self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness) -> None:
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            assert producer.send(b"mine", message_id="my-own-id").message_id == "my-own-id"
            given = producer.send(b"made").message_id
            received = harness.receive(consumer, 2)
            assert {(delivery.body, delivery.id) for delivery in received} == {(b"mine", "my-own-id"), (b"made", given)}
            consumer.ack(received)

    @guarantee("S3", kills=("batch-loses-one",))
    def test_send_many_of_any_number_arrives(self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness) -> None:
        with broker.producer(queue) as producer, broker.consumer(queue, prefetch=250) as consumer:
            for count in (0, 1, 250):
                receipts = producer.send_many(numbered(count))
                received = harness.receive(consumer, count)
                assert bodies(received) == numbered(count)
                assert {delivery.id for delivery in received} == {receipt.message_id for receipt in receipts}
                consumer.ack(received)
            harness.nothing_else(queue, broker, consumer)

    @guarantee("S3", "S4", kills=("shared-verdict", "batch-loses-one"))
    def test_bad_entries_of_a_batch_fail_alone(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        too_large = b"x" * (self.largest(harness) + 1)
        batch: list[unimq.Message | bytes] = [b"1", too_large, b"2", unimq.Message(b"3", headers={"n": 5}), b"4"]  # type: ignore[dict-item] # pyright: ignore[reportArgumentType]
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            outcomes = producer.send_many(batch, return_errors=True)
            kinds = [type(outcome) for outcome in outcomes]
            good = unimq.Receipt
            assert kinds == [good, unimq.MessageTooLarge, good, unimq.InvalidMessage, good]
            with pytest.raises(unimq.SendRejected) as caught:
                producer.send_many([b"5", too_large, b"6"])
            assert [type(outcome) for outcome in caught.value.outcomes] == [good, unimq.MessageTooLarge, good]
            received = harness.receive(consumer, 5)
            assert bodies(received) == [b"1", b"2", b"4", b"5", b"6"]
            consumer.ack(received)
            harness.nothing_else(queue, broker, consumer)

    @guarantee("S3", kills=("batch-loses-one", "body-truncated"))
    def test_a_batch_may_mix_tiny_and_huge(self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness) -> None:
        huge = self.largest(harness) * 2 // 5
        batch = [b"%d" % number + b"x" * (huge if number % 2 else 1) for number in range(8)]
        with broker.producer(queue) as producer, broker.consumer(queue, prefetch=2) as consumer:
            producer.send_many(batch)
            received: list[bytes] = []
            while len(received) < len(batch):
                delivery = harness.receive_one(consumer)
                received.append(delivery.body)
                delivery.ack()
            assert sorted(received) == batch

    @guarantee("S4", kills=("too-large-accepted", "confirmed-at-once"))
    def test_size_is_checked_with_headers_counted(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        largest = self.largest(harness)
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            for body, headers in ((b"a" * (largest + 1), {}), (b"a" * (largest - 500), {"note": "b" * 1000})):
                with pytest.raises(unimq.MessageTooLarge) as caught:
                    producer.send(body, headers=headers)
                assert str(largest) in str(caught.value).replace(",", "").replace("_", "")
            fitting = b"a" * (largest - 4096)
            producer.send(fitting)
            delivery = harness.receive_one(consumer)
            assert delivery.body == fitting
            delivery.ack()
            harness.nothing_else(queue, broker, consumer)

    @guarantee("S4", kills=("lost-destination-accepted",))
    def test_a_missing_destination_is_an_error(
        self, broker: unimq.Broker, connect: Connections, destinations: Destinations, harness: Harness
    ) -> None:
        missing = destinations.queue()
        with pytest.raises(unimq.NotFound, match=missing.name):
            connect(declare="false").producer(missing)
        with pytest.raises(unimq.NotFound, match=missing.name):
            connect(declare="false").consumer(missing)
        harness.is_empty(missing, broker)

    @guarantee("S4", kills=("lost-destination-accepted",))
    def test_sending_to_a_deleted_queue_is_an_error(
        self, broker: unimq.Broker, connect: Connections, queue: unimq.Queue
    ) -> None:
        with broker.producer(queue) as producer:
            producer.send(b"before")
            connect().delete(queue)
            with pytest.raises((unimq.NotFound, unimq.SendRejected)):
                producer.send(b"after")

    @guarantee("S5", kills=("lingers-for-ever",))
    def test_an_enqueued_message_leaves_without_a_flush(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            given = producer.enqueue(b"lingering")
            delivery = harness.receive_one(consumer)
            assert delivery.id == given
            delivery.ack()

    @guarantee("S5", "L5", kills=("lose-some",))
    def test_more_than_the_window_can_be_enqueued(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        with broker.consumer(queue) as consumer:
            with broker.producer(queue, window=10) as producer:
                for body in numbered(100):
                    producer.enqueue(body)
            received = harness.receive(consumer, 100)
            assert bodies(received) == numbered(100)
            consumer.ack(received)

    @guarantee("S6", kills=("flush-drops-pending",))
    def test_close_loses_nothing_that_was_enqueued(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        count = harness.bounds.backlog
        with broker.producer(queue) as producer:
            for body in numbered(count):
                producer.enqueue(body)
        with broker.consumer(queue) as consumer:
            received: list[bytes] = []
            while len(received) < count:
                found = harness.receive(consumer, 1)
                found += consumer.receive(100, timeout=0)
                received += bodies(found)
                consumer.ack(found)
            assert sorted(received) == numbered(count)

    @guarantee("S6", "S1", kills=("flush-drops-pending", "lose-some"))
    def test_a_callback_that_raises_harms_no_other_message(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        told: list[object] = []

        def fails(outcome: object) -> None:
            told.append(outcome)
            raise ValueError("a mistake of the program")

        with broker.producer(queue) as producer, broker.consumer(queue, prefetch=100) as consumer:
            for body in numbered(20):
                producer.enqueue(body, on_outcome=fails)
            producer.flush()
            assert [type(outcome) for outcome in told] == [unimq.Receipt] * 20
            producer.send(b"00021")
            received = harness.receive(consumer, 21)
            assert bodies(received) == numbered(21)
            consumer.ack(received)

    @guarantee("S6", kills=("flush-drops-pending",))
    def test_flush_returns_after_every_outcome_was_told_once(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        told: list[str] = []

        def on_outcome(outcome: unimq.Receipt | unimq.UnimqError) -> None:
            assert isinstance(outcome, unimq.Receipt)
            told.append(outcome.message_id)

        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            given = [producer.enqueue(body, on_outcome=on_outcome) for body in numbered(100)]
            producer.flush()
            assert sorted(told) == sorted(given)
            assert len(set(given)) == 100
            received = harness.receive(consumer, 100)
            assert sorted(delivery.id for delivery in received) == sorted(given)
            consumer.ack(received)

    @guarantee("S6", "S4", kills=("too-large-accepted",))
    def test_flush_and_close_report_what_failed(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        too_large = b"x" * (self.largest(harness) + 1)
        producer = broker.producer(queue)
        producer.enqueue(b"good")
        bad = producer.enqueue(too_large)
        with pytest.raises(unimq.SendRejected) as caught:
            producer.flush()
        (failure,) = caught.value.outcomes
        assert isinstance(failure, unimq.MessageTooLarge)
        assert failure.message_id == bad
        producer.flush()
        producer.enqueue(too_large)
        with pytest.raises(unimq.SendRejected):
            producer.close()
        with broker.consumer(queue) as consumer:
            harness.receive_one(consumer).ack()
            harness.nothing_else(queue, broker, consumer)

    @guarantee("S7", kills=("buffer-of-the-sender", "headers-of-the-sender"))
    def test_later_changes_of_the_sender_do_not_arrive(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            body = bytearray(b"before")
            headers: dict[str, str | bytes] = {"state": "before"}
            producer.enqueue(body, headers=headers)
            body[:] = b"after!"
            headers["state"] = "after"
            producer.flush()
            delivery = harness.receive_one(consumer)
            assert (delivery.body, dict(delivery.headers)) == (b"before", {"state": "before"})
            delivery.ack()

    @guarantee("S2", "L1", kills=("confirmed-at-once",))
    def test_a_broker_that_does_not_answer_ends_the_send_within_its_timeout(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness, backend: Backend, front: Front
    ) -> None:
        """The link is there and nobody answers: the message may be stored or not, so nothing else may be said."""
        if backend.tap is None or not backend.tap.pids:
            pytest.skip("this broker cannot be frozen")
        assert front.name in {"sync", "asyncio"}
        producer = broker.producer(queue, timeout=harness.bounds.wake)
        producer.send(b"before")
        backend.tap.suspend()
        try:
            with pytest.raises(unimq.SendUnknown) as caught:
                producer.send(b"into the void")
            assert caught.value.retryable
            assert caught.value.message_id
        finally:
            backend.tap.resume()
        producer.close()
        with broker.consumer(queue) as consumer:
            first = harness.receive_one(consumer)
            assert first.body in {b"before", b"into the void"}
            first.ack()

    @guarantee("S5", "L5", kills=("confirmed-at-once",))
    def test_a_full_window_blocks_and_then_says_so(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness, backend: Backend
    ) -> None:
        if backend.tap is None or not backend.tap.pids:
            pytest.skip("this broker cannot be frozen")
        producer = broker.producer(queue, timeout=harness.bounds.wake, window=5)
        producer.send(b"0")
        taken: list[str] = []
        outcomes: list[object] = []
        refused: list[str] = []
        backend.tap.suspend()
        try:
            # The first ones may give up just before the one that waits for their room does: then it gets that room.
            # So it goes on until one is refused, or until all but the last window have given up.
            try:
                taken.extend(producer.enqueue(body, on_outcome=outcomes.append) for body in numbered(25))
            except unimq.BufferFull as full:
                refused.append(str(full))
            harness.eventually(lambda: len(taken) - len(outcomes) <= 5 or None, "no more than the window is out")
            assert refused or len(taken) == 25
            assert all("window is 5" in text for text in refused)
            assert not [each for each in outcomes if isinstance(each, unimq.Receipt)], "the broker stood still"
        finally:
            backend.tap.resume()
        with contextlib.suppress(unimq.SendUnknown):
            producer.flush()
        with contextlib.suppress(unimq.SendUnknown):
            producer.close()

    @staticmethod
    def largest(harness: Harness) -> int:
        """Return the largest message of the backend, or a size that is too large for the window of no producer."""
        largest = harness.capabilities.max_message_bytes
        assert largest is not None, "every backend has a limit; say it in Capabilities.max_message_bytes (S4)"
        return largest
