"""What operators are told: one line per event, none per message, with fields for programs."""

import logging

import pytest

import unimq
from unimq import _events
from unimq._events import SeldomLog, say


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_line_has_fields_for_programs(caplog: pytest.LogCaptureFixture) -> None:
    say("dropped", "message %s dropped", "m1", message_id="m1")
    (record,) = caplog.records
    assert (record.name, record.levelno, record.filename) == ("unimq", logging.WARNING, "test_events.py")
    assert vars(record)["unimq"] == {"event": "dropped", "message_id": "m1"}


def test_what_befalls_every_message_is_said_once_and_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seldom = SeldomLog()
    for number in range(100):
        seldom.say("dropped", "message %d dropped", number)
    seldom.say("other", "other")
    assert told(caplog) == ["message 0 dropped", "other"]
    monkeypatch.setattr(_events, "EVERY", 0.0)
    seldom.say("dropped", "message %d dropped", 100)
    assert told(caplog)[2:] == ["message 100 dropped (and 99 more since the last such line)"]
    assert vars(caplog.records[2])["unimq"] == {"event": "dropped", "more": 99}


def test_at_the_end_the_rest_is_said(caplog: pytest.LogCaptureFixture) -> None:
    seldom = SeldomLog()
    for number in range(100):
        seldom.say("dropped", "message %d dropped", number, level=logging.ERROR)
    seldom.finish()
    seldom.finish()
    assert told(caplog) == ["message 0 dropped", "message 99 dropped (and 98 before it)"]
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


def test_a_closed_consumer_has_said_how_often(caplog: pytest.LogCaptureFixture) -> None:
    queue = unimq.Queue("q", max_deliveries=1, dead_letter=False)
    with unimq.connect("memory://?private=true") as broker:
        with broker.producer(queue) as producer:
            producer.send_many([b"1"] * 50)
        with broker.consumer(queue) as consumer:
            for delivery in consumer.receive(50, timeout=1):
                delivery.nack()
    assert [line.partition(" from ")[2] for line in told(caplog)] == [
        "'q' dropped (max_deliveries, delivery 1): no dead-letter queue is declared",
        "'q' dropped (max_deliveries, delivery 1): no dead-letter queue is declared (and 48 before it)",
    ]


def test_a_failing_hook_is_told_with_its_traceback_but_not_for_each_message(caplog: pytest.LogCaptureFixture) -> None:
    def broken(message: unimq.Message, target: str, outcome: object) -> None:
        raise ValueError("broken")

    with (
        unimq.connect("memory://?private=true", middleware=[unimq.Middleware(published=broken)]) as broker,
        broker.producer("q") as producer,
    ):
        producer.send_many([b"1"] * 50)
        assert len(caplog.records) == 1
    first, last = caplog.records
    assert first.exc_info is not None
    assert "and 48 before it" in last.getMessage()
