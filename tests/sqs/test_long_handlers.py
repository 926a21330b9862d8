"""Work on a message that takes three times as long as SQS hides it: it is done once (A10)."""

import time
from collections.abc import Callable

import pytest
from unimq_contract.brokers import RunningTap, sqs

import unimq

VISIBILITY = 10
WITHIN = 60.0


@pytest.mark.soak
@pytest.mark.parametrize("http", ["botocore", "fast"])
@pytest.mark.parametrize(("ordering", "flavour"), [("none", "ministack"), ("key", "elasticmq")])
def test_work_of_three_visibility_timeouts_is_done_once(
    http: str, ordering: str, flavour: str, start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap]
) -> None:
    queue = unimq.Queue("slow", ordering="key" if ordering == "key" else "none")
    with start_or_skip(lambda: sqs.start(flavour=sqs.flavour(flavour))) as running:
        url = f"{running.tap.url}&http={http}&wait=1&visibility={VISIBILITY}"
        with unimq.connect(url) as broker, unimq.connect(url) as other:
            with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
                producer.send(b"long work", key="k")
                (delivery,) = consumer.receive(1, WITHIN)
                until = time.monotonic() + 3 * VISIBILITY
                with other.consumer(queue) as rival:
                    while (left := until - time.monotonic()) > 0:
                        assert rival.receive(1, left) == [], "given to somebody else meanwhile"
                    delivery.ack()
                    consumer.settle(WITHIN)
                    assert rival.receive(1, 1.5 * VISIBILITY) == []
            assert delivery.attempt == 1
            stats = other.stats(queue)
            assert (stats.ready, stats.in_flight) == (0, 0)
