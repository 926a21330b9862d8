"""Order by key where consumers follow each other on a long queue, on a real broker."""

from uuid import uuid4

import pytest
from unimq_contract.brokers import RunningTap

import unimq

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("rabbitmq")]

PATIENCE = 60.0
"""Seconds that anything may take on a busy machine."""


@pytest.mark.parametrize("prefetches", [(2000, 1, 1), (1, 2000, 1, 2000, 1)])
def test_what_a_consumer_leaves_fits_into_the_next(running: RunningTap, prefetches: tuple[int, ...]) -> None:
    """Whatever their prefetch: who got part of what another one has left would leave its part behind the rest (O1)."""
    queue = unimq.Queue(f"ordered-{uuid4().hex[:8]}", ordering="key")
    each = 3
    with unimq.connect(running.url, timeout=PATIENCE) as broker:
        with broker.producer(queue) as producer:
            producer.send_many([unimq.Message(b"%d" % number, key="one") for number in range(2500)])
        for turn, prefetch in enumerate(prefetches):
            with broker.consumer(queue, prefetch=prefetch) as consumer:
                for number in range(turn * each, (turn + 1) * each):
                    (delivery,) = consumer.receive(1, timeout=PATIENCE)
                    assert delivery.body == b"%d" % number
                    delivery.ack()
                # One is left in work, and the rest of what was looked ahead at.
                (held,) = consumer.receive(1, timeout=PATIENCE)
                assert held.body == b"%d" % ((turn + 1) * each)
        broker.delete(queue)
