"""The responding side: what is sent as a reply, when the request may be acked, and what is released."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import unimq
from unimq import _producer_cache
from unimq._replies import Replier
from unimq.adapter import NO_HEADERS, OutcomeSink, Outgoing

from .conftest import Answer, Disturbed, reply_queues, responder, source_of


class Shout:
    """A codec that cannot do everything."""

    def encode(self, value: str) -> unimq.Encoded:
        return unimq.Encoded(value.upper().encode(), "text/shout", {"loud": "yes"})

    def decode(self, message: unimq.Message) -> str:
        return message.body.decode().lower()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def giving(value: object, codec: unimq.Codec[Any] | None = None) -> Answer:
    return lambda request, replier, settle: replier.submit(request, value, codec, settle)


@pytest.mark.parametrize(
    ("value", "codec", "expected"),
    [
        (b"bytes", Shout(), (b"bytes", None, NO_HEADERS)),
        (bytearray(b"bytes"), None, (b"bytes", None, NO_HEADERS)),
        (unimq.Message(b"m", headers={"a": "b"}, content_type="t"), Shout(), (b"m", "t", {"a": "b"})),
        (Shout().encode("value"), None, (b"VALUE", "text/shout", {"loud": "yes"})),
        ("value", Shout(), (b"VALUE", "text/shout", {"loud": "yes"})),
        (None, None, (b"", None, NO_HEADERS)),
    ],
)
def test_what_a_handler_returns_is_the_reply(
    broker: unimq.Broker, value: object, codec: unimq.Codec[Any] | None, expected: object
) -> None:
    with responder(broker, "q", giving(value, codec)):
        reply = broker.request("q", b"x", timeout=5)
    assert (reply.body, reply.content_type, reply.headers) == expected


@pytest.mark.parametrize(
    ("value", "codec", "said"),
    [
        (5, None, "a handler's reply must be bytes, a Message or what a codec encoded, not int"),
        (5, Shout(), "cannot encode int"),
        (unimq.Message(b"x", headers={"unimq-x": "y"}), None, "reserved"),
        (bytes(200_000), None, "100000"),
    ],
)
def test_a_reply_that_cannot_be_sent_is_the_handlers_fault(
    broker: unimq.Broker, value: object, codec: unimq.Codec[Any] | None, said: str
) -> None:
    with responder(broker, "q", giving(value, codec)) as errors, pytest.raises(unimq.RequestTimeout):
        broker.request("q", b"x", timeout=0.05)
    (error,) = errors
    assert said in str(error)
    assert not error.retryable


def test_the_correlation_id_of_a_foreign_request_is_its_own_or_its_id(broker: unimq.Broker) -> None:
    with responder(broker, "q"), broker.producer("q") as producer, broker.consumer(source_of("answers")) as answers:
        producer.send(b"1", reply_to="answers", correlation_id="c-1", message_id="m-1")
        producer.send(b"2", reply_to="answers", message_id="m-2")
        found = {reply.body: reply.correlation_id for reply in (*answers.receive(), *answers.receive())}
    assert found == {b"reply to 1": "c-1", b"reply to 2": "m-2"}


def test_a_request_that_is_given_up_raises_at_once(broker: unimq.Broker) -> None:
    error = ValueError("no such customer \ud800" + "x" * 5000)

    def give_up(request: unimq.Delivery[Any], replier: Replier, settle: Callable[..., None]) -> None:
        replier.fail(request, "rejected", error if request.body == b"error" else None, settle)

    with responder(broker, "q", give_up):
        with pytest.raises(unimq.RequestFailed, match=r"'q' gave the request up at delivery 1 \(rejected\)$") as plain:
            broker.request("q", b"plain", timeout=5)
        with pytest.raises(unimq.RequestFailed, match=r"\(rejected\): ValueError: no such customer \?x+$") as caused:
            broker.request("q", b"error", timeout=5)
    assert (plain.value.reason, plain.value.error_type) == ("rejected", None)
    assert (caused.value.reason, caused.value.error_type) == ("rejected", "ValueError")
    assert len(str(caused.value)) < 1200


def test_replies_to_nowhere_are_logged_once_and_their_requests_acked(
    broker: unimq.Broker, caplog: pytest.LogCaptureFixture
) -> None:
    with responder(broker, "q") as errors, broker.producer("q") as producer:
        producer.send_many([unimq.Message(b"x", reply_to="unimq-reply-gone")] * 20)
        producer.send(b"x", reply_to="not a name")
        with broker.consumer(source_of("real")) as real:
            producer.send(b"last", reply_to="real")
            assert real.receive(timeout=5)[0].body == b"reply to last"
    assert errors == []
    assert reply_queues(broker) == set(), "a reply does not make a queue"
    assert broker.stats("q").ready == 0
    said = sorted(record.getMessage() for record in caplog.records)
    assert [line.partition(":")[0] for line in said] == [
        "replies to 'not a name' are dropped, and their requests acked",
        "replies to 'unimq-reply-gone' are dropped, and their requests acked",
    ]


def test_a_reply_queue_that_goes_is_noticed_and_its_producer_closed(
    broker: unimq.Broker, driver: Disturbed, caplog: pytest.LogCaptureFixture
) -> None:
    with responder(broker, "q") as errors, broker.producer("q") as producer:
        for name in ("one", "two"):
            with broker.consumer(source_of(name)) as answers:
                producer.send(b"x", reply_to=name)
                answers.receive(timeout=5)[0].ack()
            if name == "one":
                broker.delete(source_of("one"))
                producer.send(b"y", reply_to="one")
                wait_until(lambda: caplog.records)
                broker.declare(source_of("one"))
        assert driver.closed.count("one") == 1
        with broker.consumer(source_of("one")) as answers:
            producer.send(b"z", reply_to="one")
            assert answers.receive(timeout=5)[0].body == b"reply to z"
    assert errors == []
    assert ["'one'" in record.getMessage() for record in caplog.records] == [True]


def test_a_reply_of_unknown_fate_is_an_error_that_redelivers(broker: unimq.Broker, driver: Disturbed) -> None:
    def fail(name: str, entries: Sequence[Outgoing], sink: OutcomeSink) -> bool:
        if name != "answers":
            return True
        sink.failed(entries, unimq.SendUnknown("no answer"))
        return False

    driver.on_submit = fail
    outcomes: list[unimq.UnimqError | None] = []
    told = threading.Event()
    broker.declare(source_of("answers"))
    replier = Replier(broker._core)
    with broker.producer("q") as producer, broker.consumer("q") as consumer:
        producer.send(b"x", reply_to="answers")
        (request,) = consumer.receive()

        def done(error: unimq.UnimqError | None) -> None:
            outcomes.append(error)
            told.set()

        replier.submit(request, b"reply", None, done)
        told.wait(5)
        replier.close(5)
        (error,) = outcomes
        assert isinstance(error, unimq.SendUnknown)
        assert error.retryable
        assert error.message_id != request.id
        request.ack()


def test_a_connection_that_fails_while_opening_redelivers(broker: unimq.Broker, driver: Disturbed) -> None:
    def fail(name: str) -> None:
        raise unimq.ConnectionLost("away")

    driver.on_check = fail
    with responder(broker, "q") as errors, broker.producer("q") as producer:
        producer.send(b"x", reply_to="answers")
        wait_until(lambda: errors)
    assert [type(error) for error in errors] == [unimq.ConnectionLost]


def test_submit_does_not_wait_for_the_opening_and_close_does(broker: unimq.Broker, driver: Disturbed) -> None:
    go_on = threading.Event()

    def wait(name: str) -> None:
        go_on.wait(5)

    driver.on_check = wait
    broker.declare(source_of("answers"))
    outcomes: list[unimq.UnimqError | None] = []
    replier = Replier(broker._core)
    with broker.producer("q") as producer, broker.consumer("q") as consumer:
        producer.send_many([unimq.Message(b"x", reply_to="answers")] * 10)
        requests = consumer.receive(10)
        for request in requests:
            replier.submit(request, b"reply", None, outcomes.append)
        assert outcomes == []
        assert "unimq-replies" in {thread.name for thread in threading.enumerate()}
        closing = threading.Thread(target=replier.close, args=(5,))
        closing.start()
        go_on.set()
        closing.join(5)
        assert outcomes == [None] * 10, "what was submitted before is sent"
        consumer.ack(requests)
        replier.submit(requests[0], b"too late", None, outcomes.append)
        assert isinstance(outcomes[-1], unimq.Closed)
        replier.close(5)
    assert "unimq-replies" not in {thread.name for thread in threading.enumerate()}
    assert driver.opened.count("answers") == driver.closed.count("answers")


def test_producers_to_many_requesters_are_bounded(
    broker: unimq.Broker, driver: Disturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_producer_cache, "MOST", 3)
    names = [f"answers-{number}" for number in range(10)]
    broker.declare(*map(source_of, names))
    with responder(broker, "q"), broker.producer("q") as producer:
        for name in (*names, names[0]):
            with broker.consumer(source_of(name)) as answers:
                producer.send(b"x", reply_to=name)
                answers.receive(timeout=5)[0].ack()
            left_open = [n for n in names if driver.opened.count(n) > driver.closed.count(n)]
            assert len(left_open) <= 3
        assert driver.opened.count(names[0]) == 2
    assert {name for name in names if driver.opened.count(name) != driver.closed.count(name)} == set()
