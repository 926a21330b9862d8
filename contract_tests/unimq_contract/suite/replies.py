"""Request-reply: Q1 to Q3."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial

import pytest

import unimq
from unimq_contract.contract import Contract
from unimq_contract.guarantees import guarantee, needs
from unimq_contract.harness import Background, Connections, Harness, in_background, numbered


def ask(broker: unimq.Broker, queue: unimq.Queue, body: bytes, harness: Harness) -> bytes:
    """Return the body of the reply, or fail."""
    try:
        return broker.request(queue, body, timeout=harness.bounds.within).body
    except unimq.RequestTimeout as error:
        pytest.fail(str(error))


def reply_queue(request: unimq.Delivery) -> unimq.Queue:
    """Return where the reply goes."""
    assert request.reply_to is not None, "a request says where its reply goes"
    return unimq.Queue(request.reply_to, dead_letter=False)


def answer(broker: unimq.Broker, request: unimq.Delivery, body: bytes) -> None:
    """Reply as any program can, with a producer."""
    with broker.producer(reply_queue(request)) as producer:
        producer.send(body, correlation_id=request.correlation_id)


@contextmanager
def working(
    broker: unimq.Broker, queue: unimq.Queue, handler: Callable[[unimq.Delivery], object], harness: Harness
) -> Generator[None]:
    """Run a worker. It has begun when the first request is answered; before, `stop` would have nothing to stop."""
    with broker.consumer(queue) as consumer:
        running = Background(lambda: consumer.run(handler, retry=unimq.Retry(base=0)))
        try:
            yield
        finally:
            consumer.stop()
            running.result(harness.bounds.within)


class RepliesContract(Contract):
    @guarantee("Q1", kills=("correlation-id-dropped", "replies-swapped", "late-reply-delivered"))
    def test_requests_side_by_side_get_each_its_own_reply(
        self, connect: Connections, queue: unimq.Queue, harness: Harness
    ) -> None:
        """Of two connections, which have a queue of replies each; the replies come in another order."""
        requesters, responder = (connect(), connect()), connect()
        wanted = numbered(50)
        with responder.consumer(queue) as consumer:
            asking = in_background(
                partial(ask, requesters[number % 2], queue, body, harness) for number, body in enumerate(wanted)
            )
            requests = harness.receive(consumer, len(wanted))
            names = {reply_queue(request).name for request in requests}
            assert len(names) == len(requesters)
            for name in names:
                with responder.producer(unimq.Queue(name, dead_letter=False)) as producer:
                    for request in reversed(requests):
                        if request.reply_to == name:
                            reply = b"reply to " + request.body
                            producer.enqueue(reply, correlation_id=request.correlation_id)
            consumer.ack(requests)
            replies = [asked.result(harness.bounds.within * 2) for asked in asking]
        assert replies == [b"reply to " + body for body in wanted]

    @guarantee("Q1", "R2", "A6", kills=("headers-dropped",))
    def test_a_reply_is_a_whole_message_and_settled(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        with broker.consumer(queue) as consumer:
            asking = Background(
                lambda: broker.request(
                    queue,
                    bytes(range(256)),
                    timeout=harness.bounds.within,
                    key="customer-7",
                    headers={"source": "web"},
                    message_id="the-request",
                    content_type="text/plain",
                )
            )
            request = harness.receive_one(consumer)
            assert (request.body, request.key, request.headers, request.id, request.content_type) == (
                bytes(range(256)),
                "customer-7",
                {"source": "web"},
                "the-request",
                "text/plain",
            )
            with broker.producer(reply_queue(request)) as producer:
                producer.send(
                    b"",
                    headers={"seen": b"\x00\xff"},
                    message_id="the-reply",
                    content_type="application/json",
                    correlation_id=request.correlation_id,
                )
            request.ack()
            reply = asking.result(harness.bounds.within)
        assert (reply.body, reply.headers, reply.id, reply.content_type) == (
            b"",
            {"seen": b"\x00\xff"},
            "the-reply",
            "application/json",
        )
        assert reply.correlation_id == request.correlation_id
        with pytest.raises(unimq.AlreadySettled):
            reply.ack()

    @guarantee("Q2", "L5", kills=("late-reply-delivered",))
    def test_a_timeout_raises_and_late_replies_are_dropped(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        """So are second replies to one request."""
        delay = harness.bounds.delay
        with broker.consumer(queue) as consumer:
            asking = Background(lambda: ask(broker, queue, b"first", harness))
            first = harness.receive_one(consumer)
            answer(broker, first, b"reply to first")
            assert asking.result(harness.bounds.within) == b"reply to first"
            began = time.monotonic()
            with pytest.raises(unimq.RequestTimeout, match=queue.name):
                broker.request(queue, b"second", timeout=delay)
            took = time.monotonic() - began
            assert delay - harness.bounds.tolerance <= took <= delay + harness.bounds.wake
            second = harness.receive_one(consumer)
            assert second.body == b"second"
            asking = Background(lambda: ask(broker, queue, b"third", harness))
            third = harness.receive_one(consumer)
            answer(broker, first, b"another reply to first")
            answer(broker, second, b"late reply to second")
            answer(broker, third, b"reply to third")
            assert asking.result(harness.bounds.within) == b"reply to third"
            consumer.ack((first, second, third))
            replies = reply_queue(third)

            def is_empty() -> bool:
                stats = broker.stats(replies)
                return not stats.ready and not stats.in_flight

            harness.eventually(is_empty, "late replies are acked")

    @guarantee("Q3", "A5", kills=("acked-at-delivery",))
    def test_the_request_of_a_crashed_responder_goes_to_another(
        self, broker: unimq.Broker, connect: Connections, queue: unimq.Queue, harness: Harness
    ) -> None:
        crashing = connect()
        consumer = crashing.consumer(queue)
        asking = Background(lambda: ask(broker, queue, b"question", harness))
        request = harness.receive_one(consumer)
        crashing.close()
        other = connect()
        with other.consumer(queue) as consumer:
            again = harness.receive_one(consumer)
            assert (again.body, again.correlation_id) == (request.body, request.correlation_id)
            answer(other, again, b"reply")
            again.ack()
            assert asking.result(harness.bounds.within) == b"reply"
            harness.nothing_else(queue, other, consumer)

    @guarantee("L1", "L4", kills=("reply-queue-left-behind",))
    def test_close_wakes_whoever_waits_and_deletes_the_reply_queue(
        self, connect: Connections, queue: unimq.Queue, harness: Harness
    ) -> None:
        requester, other = connect(), connect(declare="false")
        requester.declare(queue)
        with other.consumer(queue) as consumer:
            asking = Background(lambda: requester.request(queue, b"question", timeout=10 * harness.bounds.within))
            request = harness.receive_one(consumer)
            requester.close()
            with pytest.raises(unimq.Closed):
                asking.result(harness.bounds.wake)
            with pytest.raises(unimq.Closed):
                requester.request(queue, b"another", timeout=harness.bounds.within)
            with pytest.raises(unimq.NotFound, match=request.reply_to):
                other.consumer(reply_queue(request))
            request.ack()

    @guarantee("Q1", "Q3", kills=("ack-dropped", "correlation-id-dropped"))
    def test_what_a_handler_returns_is_the_reply(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        with working(broker, queue, lambda request: b"reply to " + request.body, harness):
            for body in numbered(10):
                assert ask(broker, queue, body, harness) == b"reply to " + body
        harness.is_empty(queue, broker)

    @guarantee("Q3", "A3", kills=("nack-acks", "attempt-stuck"))
    def test_a_handler_that_fails_is_tried_again_and_then_replies(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        def fail_first(request: unimq.Delivery) -> bytes:
            if request.attempt == 1:
                raise ValueError("not yet")
            return b"at the second attempt"

        with working(broker, queue, fail_first, harness):
            assert ask(broker, queue, b"question", harness) == b"at the second attempt"
        harness.is_empty(queue, broker)

    @needs("dead_letter")
    @guarantee("Q2", "A4", kills=("headers-dropped",))
    def test_a_requester_is_told_that_its_request_is_given_up(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness
    ) -> None:
        with (
            working(broker, queue, lambda _: unimq.Reject("no such customer"), harness),
            pytest.raises(unimq.RequestFailed, match="no such customer") as failed,
        ):
            broker.request(queue, b"question", timeout=harness.bounds.within)
        assert failed.value.reason == "no such customer"
        assert queue.dead_letters is not None
        with broker.consumer(queue.dead_letters) as dead:
            delivery = harness.receive_one(dead)
            assert delivery.headers["unimq-dead-reason"] == "no such customer"
            delivery.ack()

    @guarantee("Q2", "D4", kills=("ack-dropped",))
    def test_a_reply_to_nowhere_is_dropped_with_its_request(
        self, connect: Connections, queue: unimq.Queue, harness: Harness
    ) -> None:
        """The requester is gone when its request is handled."""
        leaving, broker = connect(), connect()
        broker.declare(queue)
        with pytest.raises(unimq.RequestTimeout):
            leaving.request(queue, b"first", timeout=harness.bounds.delay)
        leaving.close()
        handled: list[bytes] = []

        def handle(request: unimq.Delivery) -> bytes:
            handled.append(request.body)
            return b"reply"

        with working(broker, queue, handle, harness):
            assert ask(broker, queue, b"second", harness) == b"reply"
            harness.eventually(lambda: b"first" in handled, "the first request is handled")
        assert sorted(handled) == [b"first", b"second"]
        harness.is_empty(queue, broker)
