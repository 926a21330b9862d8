"""What a program may hand over by mistake: a typed error before the channel is harmed, on a real broker."""

from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

import pytest
from unimq_contract.brokers import RunningTap

import unimq

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("rabbitmq")]

PATIENCE = 60.0
LONG = "n" * 256
HUGE = b"x" * (16 * 1024 * 1024)
"""With its headers more than the broker takes."""
BAD: dict[str, tuple[Callable[[], unimq.Message], type[unimq.UnimqError]]] = {
    "header name": (lambda: unimq.Message(b"", headers={LONG: "v"}), unimq.InvalidMessage),
    "id": (lambda: unimq.Message(b"", id=LONG), unimq.InvalidMessage),
    "content type": (lambda: unimq.Message(b"", content_type=LONG), unimq.InvalidMessage),
    "correlation id": (lambda: unimq.Message(b"", correlation_id=LONG), unimq.InvalidMessage),
    "headers": (lambda: unimq.Message(b"", headers={"h": "v" * 131_072}), unimq.MessageTooLarge),
    "key": (lambda: unimq.Message(b"", key="k" * 131_072), unimq.MessageTooLarge),
    "body": (lambda: unimq.Message(HUGE), unimq.MessageTooLarge),
}


@pytest.fixture
def queue() -> unimq.Queue:
    return unimq.Queue(f"bad-{uuid4().hex[:8]}")


def connected(running: RunningTap, options: str = "") -> unimq.Broker:
    return unimq.connect(running.url + options, timeout=PATIENCE)


@pytest.mark.parametrize("frames", ["own", "pika"])
def test_a_thousand_bad_ones_lose_none_of_the_good_ones(running: RunningTap, queue: unimq.Queue, frames: str) -> None:
    kinds = list(BAD.values())
    with connected(running, f"?frames={frames}") as broker, broker.producer(queue) as producer:
        messages: list[unimq.Message] = []
        expected: list[type[unimq.UnimqError] | None] = []
        for number in range(1000):
            make, error = kinds[number % len(kinds)]
            messages += [unimq.Message(b"good-%d" % number), make()]
            expected += [None, error]
        outcomes = producer.send_many(messages, return_errors=True)
        found = [type(outcome) if isinstance(outcome, unimq.UnimqError) else None for outcome in outcomes]
        assert found == expected
        with broker.consumer(queue, prefetch=1000) as consumer:
            bodies: set[bytes] = set()
            while len(bodies) < 1000:
                deliveries = consumer.receive(1000, timeout=PATIENCE)
                assert deliveries, f"{len(bodies)} of 1000 came"
                bodies |= {delivery.body for delivery in deliveries}
                consumer.ack(deliveries)
            consumer.settle()
        assert bodies == {b"good-%d" % number for number in range(1000)}
        broker.delete(queue)


@pytest.mark.parametrize("kind", BAD)
def test_the_error_names_what_is_wrong(running: RunningTap, queue: unimq.Queue, kind: str) -> None:
    make, error = BAD[kind]
    with connected(running) as broker, broker.producer(queue) as producer:
        with pytest.raises(error, match=r"\d+ bytes") as caught:
            producer.send(make())
        assert not caught.value.retryable
        producer.send(b"as if nothing had happened")


def test_headers_that_would_route_do_not(running: RunningTap, queue: unimq.Queue) -> None:
    """``CC`` and ``BCC`` are headers like others: they arrive, and no copy goes anywhere."""
    other = replace(queue, name=f"{queue.name}-other")
    headers = {"CC": other.name, "BCC": other.name, "x-death": "mine", "x-delivery-count": "many"}
    with connected(running) as broker, broker.producer(queue) as producer, broker.consumer(queue) as consumer:
        broker.declare(other)
        producer.send(b"one", headers=headers)
        (delivery,) = consumer.receive(1, timeout=PATIENCE)
        assert dict(delivery.headers) == headers
        delivery.ack()
        consumer.settle()
        assert broker.stats(other).ready == 0


def test_names_longer_than_the_protocol_carries(running: RunningTap) -> None:
    with connected(running) as broker:
        for destination in (
            unimq.Queue(LONG, dead_letter=False, portable_name=False),
            unimq.Topic(LONG, portable_name=False),
        ):
            with pytest.raises(unimq.ConfigError, match="more than 255 bytes"):
                broker.declare(destination)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (unimq.Queue("q", max_length=20), "max_length is .*10.* there, .*20.* here"),
        (unimq.Queue("q"), "max_length is .*10.* there"),
        (
            unimq.Queue("q", max_length=10, overflow="drop_oldest"),
            "overflow is .*reject-publish.* there, .*drop-head.* here",
        ),
        (unimq.Queue("q", max_length=10, ordering="key"), "ordering .*is .* there, .* here"),
    ],
)
def test_a_conflict_names_the_difference(
    running: RunningTap, queue: unimq.Queue, other: unimq.Queue, difference: str
) -> None:
    with connected(running) as broker:
        broker.declare(replace(queue, max_length=10))
        with pytest.raises(unimq.DeclarationConflict, match=difference):
            broker.declare(replace(other, name=queue.name))


def test_a_virtual_host_that_does_not_exist(running: RunningTap) -> None:
    with pytest.raises(unimq.ConfigError, match="nowhere"):
        unimq.connect(running.url.rstrip("/") + "/nowhere", timeout=PATIENCE)
