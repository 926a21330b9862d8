"""The requesting side: checks, correlation, timeouts, bounds, and what is left behind."""

import asyncio
import json
import logging
import os
import re
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import unimq
from unimq import _requests

from .conftest import Disturbed, reply_queues, responder, source_of


class Number:
    """A codec."""

    def encode(self, value: int) -> unimq.Encoded:
        return unimq.Encoded(str(value).encode(), "text/number")

    def decode(self, message: unimq.Message) -> int:
        return int(message.body)


class Words:
    """Another one."""

    def encode(self, value: list[str]) -> unimq.Encoded:
        return unimq.Encoded(" ".join(value).encode())

    def decode(self, message: unimq.Message) -> list[str]:
        return message.body.decode().split()


def in_thread(call: Callable[[], Any]) -> "threading.Thread":
    thread = threading.Thread(target=call)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"queue": unimq.Topic("t")}, unimq.ConfigError, "a request goes to a queue .* not to a Topic"),
        ({"timeout": 0}, unimq.ConfigError, "timeout must be more than 0"),
        ({"body": "text"}, unimq.InvalidMessage, "body must be bytes"),
        ({"body": unimq.Message(b"x", reply_to="mine")}, unimq.InvalidMessage, "sets correlation_id and reply_to"),
        ({"body": unimq.Message(b"x", correlation_id="1")}, unimq.InvalidMessage, "sets correlation_id and reply_to"),
        ({"body": "five", "codec": object()}, unimq.InvalidMessage, "cannot encode str"),
        ({"ttl": -1}, unimq.InvalidMessage, "ttl"),
        ({"queue": "not a name"}, unimq.ConfigError, "not a name"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(
    broker: unimq.Broker, arguments: dict[str, Any], error: type[Exception], said: str
) -> None:
    call: dict[str, Any] = {"queue": "q", "body": b"x", "timeout": 1.0} | arguments
    with pytest.raises(error, match=said):
        broker.request(call.pop("queue"), call.pop("body"), **call)


def test_a_queue_known_as_a_topic_is_refused(broker: unimq.Broker) -> None:
    broker.declare(unimq.Topic("news"))
    with pytest.raises(unimq.ConfigError, match="'news' is a topic"):
        broker.request("news", b"x", timeout=1)


def test_a_connection_has_one_reply_queue_and_deletes_it(broker: unimq.Broker) -> None:
    with responder(broker, "q"):
        assert reply_queues(broker) == set()
        names: set[str | None] = set()
        for number in range(3):
            body = b"%d" % number
            reply = broker.request("q", body, timeout=5)
            assert (reply.body, reply.source) == (b"reply to " + body, reply.settler.source_name)
            names.add(reply.source)
        assert names == reply_queues(broker)
        (name,) = names
        assert name is not None
        assert re.fullmatch(r"unimq-reply-[0-9a-f]{24}", name)
    broker.close()
    assert reply_queues(broker) == set()


def test_many_threads_get_each_its_own_reply(broker: unimq.Broker) -> None:
    def ask(body: bytes) -> bytes:
        return broker.request("q", body, timeout=5).body

    with responder(broker, "q"), ThreadPoolExecutor(20) as threads:
        bodies = [b"%d" % number for number in range(500)]
        assert list(threads.map(ask, bodies)) == [b"reply to " + body for body in bodies]


def test_codecs_make_request_and_reply(broker: unimq.Broker) -> None:
    with responder(broker, "q", lambda request, replier, settle: replier.submit(request, request.body, None, settle)):
        same: unimq.Delivery[int] = broker.request("q", 5, timeout=5, codec=Number())
        assert (same.value, same.body) == (5, b"5")
        words: unimq.Delivery[list[str]] = broker.request("q", 5, timeout=5, codec=Number(), reply_codec=Words())
        assert words.value == ["5"]
        plain = broker.request("q", b"a b", timeout=5, reply_codec=Words())
        assert plain.value == ["a", "b"]
        with pytest.raises(unimq.DecodeError, match=r"Number .* cannot decode message"):
            broker.request("q", b"no number", timeout=5, reply_codec=Number())
        assert broker.request("q", unimq.Message(b"7", content_type="t"), timeout=5, codec=Number()).value == 7
    assert broker.stats(source_of(same.source)).in_flight == 0


def test_a_request_that_cannot_be_sent_fails_at_once(broker: unimq.Broker) -> None:
    broker.declare("q")
    with pytest.raises(unimq.MessageTooLarge, match="100000") as caught:
        broker.request("q", bytes(200_000), timeout=60, message_id="large")
    assert caught.value.message_id == "large"


def test_a_queue_that_went_is_said_and_made_again(broker: unimq.Broker) -> None:
    with responder(broker, "q"):
        assert broker.request("q", b"1", timeout=float("inf")).body == b"reply to 1"
    broker.delete("q")
    with pytest.raises(unimq.NotFound, match="'q'"):
        broker.request("q", b"2", timeout=60)
    with responder(broker, "q"):
        assert broker.request("q", b"3", timeout=5).body == b"reply to 3"


def test_a_timeout_says_whether_the_request_is_stored(broker: unimq.Broker, driver: Disturbed) -> None:
    with pytest.raises(unimq.RequestTimeout, match=r"no reply to message m-1 to 'q' within 0.01 s; it is stored") as e:
        broker.request("q", b"x", timeout=0.01, message_id="m-1")
    assert isinstance(e.value, TimeoutError)
    assert e.value.retryable
    driver.on_submit = lambda name, entries, sink: False
    with pytest.raises(unimq.RequestTimeout, match="not confirmed as stored"):
        broker.request("q", b"x", timeout=0.01)


def test_an_unknown_outcome_before_the_timeout_is_said(broker: unimq.Broker, driver: Disturbed) -> None:
    def fail(name: str, entries: Any, sink: Any) -> bool:
        sink.failed(entries, unimq.SendUnknown("no answer"))
        return False

    driver.on_submit = fail
    with pytest.raises(unimq.SendUnknown, match="no answer"):
        broker.request("q", b"x", timeout=60)


def test_a_repeated_request_with_the_same_id_does_not_get_the_late_reply_to_the_first(broker: unimq.Broker) -> None:
    with broker.consumer("q") as consumer:
        with pytest.raises(unimq.RequestTimeout):
            broker.request("q", b"x", timeout=0.01, message_id="same")
        (first,) = consumer.receive()
        replies: list[bytes] = []
        asking = in_thread(lambda: replies.append(broker.request("q", b"x", timeout=5, message_id="same").body))
        (second,) = consumer.receive()
        assert (first.id, second.id) == ("same", "same")
        with broker.producer(source_of(first.reply_to or "")) as producer:
            producer.send(b"to first", correlation_id=first.correlation_id)
            producer.send(b"to nobody")
            producer.send(b"expired", correlation_id=second.correlation_id, ttl=1e-9)
            producer.send(b"to second", correlation_id=second.correlation_id)
        asking.join(5)
        assert replies == [b"to second"]
        consumer.ack([first, second])


def test_waiting_requests_are_bounded(broker: unimq.Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_requests, "MOST_REQUESTS", 1)
    replies: list[bytes] = []

    def ask(body: bytes) -> None:
        replies.append(broker.request("q", body, timeout=5).body)

    with broker.consumer("q") as consumer:
        first = in_thread(lambda: ask(b"first"))
        (request,) = consumer.receive()
        with pytest.raises(unimq.BufferFull, match=r"1 requests .* \(at most 1 and"):
            broker.request("q", b"second", timeout=0.02)
        third = in_thread(lambda: ask(b"third"))
        with broker.producer(source_of(request.reply_to or "")) as producer:
            producer.send(b"to first", correlation_id=request.correlation_id)
            first.join(5)
            (request,) = consumer.receive()
            assert request.body == b"third"
            producer.send(b"to third", correlation_id=request.correlation_id)
        third.join(5)
    assert replies == [b"to first", b"to third"]
    requests = broker._core.requests
    assert requests is not None
    assert (requests.outstanding, requests.outstanding_bytes, requests.pending) == (0, 0, {})


def test_a_reply_queue_that_is_deleted_ends_its_requests_and_the_next_one_makes_another(broker: unimq.Broker) -> None:
    with broker.consumer("q") as consumer:
        errors: list[unimq.UnimqError] = []

        def ask() -> None:
            try:
                broker.request("q", b"x", timeout=60)
            except unimq.NotFound as error:
                errors.append(error)

        asking = in_thread(ask)
        (request,) = consumer.receive()
        before = reply_queues(broker)
        broker.delete(source_of(request.reply_to or ""))
        asking.join(5)
        assert len(errors) == 1
        request.ack()
    with responder(broker, "q"):
        assert broker.request("q", b"y", timeout=5).body == b"reply to y"
    assert len(reply_queues(broker)) == 1
    assert reply_queues(broker) != before


def test_a_reply_queue_that_cannot_be_deleted_is_logged(
    broker: unimq.Broker, driver: Disturbed, caplog: pytest.LogCaptureFixture
) -> None:
    with responder(broker, "q"):
        broker.request("q", b"x", timeout=5)

    def refuse(name: str) -> None:
        raise unimq.ConnectionLost("gone")

    driver.on_delete = refuse
    with caplog.at_level(logging.WARNING, "unimq"):
        broker.close()
    (name,) = reply_queues(broker)
    assert [record.getMessage() for record in caplog.records] == [
        f"reply queue {name!r} could not be deleted and stays on the broker: gone"
    ]


def test_middleware_sees_requests_and_cannot_unaddress_them() -> None:
    seen: list[tuple[str, str | None]] = []

    def replace(message: unimq.Message, target: str) -> unimq.Message:
        seen.append((target, message.reply_to))
        return unimq.Message(message.body.upper()) if target == "q" else message

    with (
        unimq.connect("memory://?private=true", middleware=[unimq.Middleware(publish=replace)]) as broker,
        responder(broker, "q"),
    ):
        assert broker.request("q", b"x", timeout=5).body == b"reply to X"
    (to_q, reply_to), (to_requester, _) = seen
    assert to_q == "q"
    assert reply_to == to_requester


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_gets_a_clear_error(broker: unimq.Broker) -> None:
    with responder(broker, "q"):
        broker.request("q", b"x", timeout=5)
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if not child:
            try:
                broker.request("q", b"y", timeout=1)
            except BaseException as error:
                os.write(writing, json.dumps([type(error).__name__, str(error)]).encode())
            finally:
                broker.close()
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as answer:
            kind, text = json.loads(answer.read())
        os.waitpid(child, 0)
        assert kind == "Closed"
        assert str(os.getpid()) in text
        assert broker.request("q", b"z", timeout=5).body == b"reply to z"


def test_tasks_wait_on_futures_and_cancelling_one_leaves_nothing() -> None:
    async def scenario() -> None:
        async with unimq.connect_async("memory://requests") as broker, broker.consumer("q") as consumer:
            cancelled = asyncio.create_task(broker.request("q", b"cancelled", timeout=60))
            (first,) = await consumer.receive()
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            requests = broker._core.requests
            assert requests is not None
            assert (requests.pending, requests.outstanding) == ({}, 0)
            asked = [asyncio.create_task(broker.request("q", b"%d" % n, timeout=5)) for n in range(50)]
            async with broker.producer(source_of(first.reply_to or "")) as producer:
                await producer.send(b"late", correlation_id=first.correlation_id)
                for _ in asked:
                    (request,) = await consumer.receive()
                    await producer.send(request.body, correlation_id=request.correlation_id)
                    request.ack()
            assert [(await each).body for each in asked] == [b"%d" % n for n in range(50)]
            with pytest.raises(unimq.RequestTimeout):
                await broker.request("q", b"x", timeout=0.01)
            waiting = asyncio.create_task(broker.request("q", b"x", timeout=60))
            await consumer.receive(2)
            await broker.close()
            with pytest.raises(unimq.Closed):
                await waiting

    asyncio.run(scenario())
    with unimq.connect("memory://requests") as broker:
        assert reply_queues(broker) == set()


def test_close_while_the_reply_queue_is_being_made_leaves_none(
    broker: unimq.Broker, driver: Disturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    making, go_on = threading.Event(), threading.Event()
    declare = driver.driver.declare

    def slowly(destination: Any, **options: Any) -> Any:
        if destination.name.startswith("unimq-reply-"):
            making.set()
            go_on.wait(5)
        return declare(destination, **options)

    monkeypatch.setattr(driver.driver, "declare", slowly)
    errors: list[type[Exception]] = []

    def ask() -> None:
        try:
            broker.request("q", b"x", timeout=5)
        except unimq.UnimqError as error:
            errors.append(type(error))

    asking = in_thread(ask)
    making.wait(5)
    broker.close()
    go_on.set()
    asking.join(5)
    assert errors == [unimq.Closed]
    assert reply_queues(broker) == set()


def test_late_replies_are_acked_by_nobody_who_waits(broker: unimq.Broker) -> None:
    with broker.consumer("q") as consumer:
        with pytest.raises(unimq.RequestTimeout):
            broker.request("q", b"x", timeout=0.01)
        (request,) = consumer.receive()
        queue = source_of(request.reply_to or "")
        with broker.producer(queue) as producer:
            producer.send_many([unimq.Message(b"late", correlation_id=request.correlation_id)] * 2000)
        request.ack()
        deadline = time.monotonic() + 5
        while (stats := broker.stats(queue)).ready or stats.in_flight:
            assert time.monotonic() < deadline, stats
            time.sleep(0.001)
    assert "unimq-late-replies" not in {thread.name for thread in threading.enumerate()}
