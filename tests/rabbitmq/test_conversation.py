"""Administration on a real broker, as the log of a user sees it."""

import logging
from uuid import uuid4

import pytest
from unimq_contract.brokers import RunningTap

import unimq

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("rabbitmq")]

PATIENCE = 60.0
"""Seconds that anything may take on a busy machine."""


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("ordering", ["none", "key"])
def test_to_make_something_new_and_to_delete_it_warns_of_nothing(
    running: RunningTap, ordering: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is asked whether it is there, and the broker's answer, a closed channel, is no news to the user."""
    queue = unimq.Queue(f"quiet-{uuid4().hex[:8]}", ordering="key" if ordering == "key" else "none")
    topic = unimq.Topic(f"quiet-{uuid4().hex[:8]}")
    with caplog.at_level(logging.INFO), unimq.connect(running.url, timeout=PATIENCE) as broker:
        broker.declare(queue, topic.subscription("all"))
        with broker.producer(queue) as producer:
            producer.send(b"1", key="k")
        assert broker.stats(queue).ready == 1
        broker.delete(queue)
        broker.delete(topic)
    assert warnings(caplog) == []
    assert any(record.name.startswith("pika") for record in caplog.records), "the rest of pika's log is there"


def test_what_should_be_there_and_is_not_is_still_told(running: RunningTap, caplog: pytest.LogCaptureFixture) -> None:
    name = f"nowhere-{uuid4().hex[:8]}"
    with (
        caplog.at_level(logging.INFO),
        unimq.connect(running.url + "?declare=false", timeout=PATIENCE) as broker,
        pytest.raises(unimq.NotFound, match=name),
    ):
        broker.consumer(unimq.Queue(name, dead_letter=False))
    assert warnings(caplog) != []
    assert all(name in line for line in warnings(caplog))
