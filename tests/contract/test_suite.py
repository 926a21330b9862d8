"""The suite as a whole: every guarantee and every capability has tests, and waits and leak checks do notice."""

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields
from socket import create_server

import pytest
from unimq_contract import suite
from unimq_contract.claims import PROBES, UNPROBED, claiming, declaring
from unimq_contract.contract import Contract
from unimq_contract.guarantees import FAMILIES, GUARANTEES, guarantee
from unimq_contract.harness import Background, Destinations, Harness, backend_at, numbered
from unimq_contract.leaks import Holdings, wait_until_released

import unimq

LATER: set[str] = set()
"""Guarantees of what unimq does not offer yet."""


def marks(name: str) -> Iterator[pytest.Mark]:
    for family in suite.__all__:
        kind: type[Contract] = getattr(suite, family)
        for member in vars(kind).values():
            yield from (mark for mark in getattr(member, "pytestmark", []) if mark.name == name)


def test_every_family_is_exported() -> None:
    assert {kind.__name__ for kind in Contract.__subclasses__() if kind.__module__.startswith("unimq_contract")} == set(
        suite.__all__
    )


def test_every_guarantee_has_tests() -> None:
    proven = {number for mark in marks("guarantee") for number in mark.args}
    assert proven | LATER == GUARANTEES.keys()
    assert not proven & LATER
    assert {number[0] for number in GUARANTEES} == FAMILIES.keys()


FEATURES = {field.name for field in fields(unimq.Capabilities) if field.type is unimq.Feature}


def test_every_capability_has_tests() -> None:
    needed = {feature for mark in marks("needs") for feature in mark.args}
    assert needed == FEATURES


def test_every_capability_is_tried_where_it_is_declared_unsupported() -> None:
    assert PROBES.keys() | UNPROBED == FEATURES
    assert not PROBES.keys() & UNPROBED


@pytest.mark.parametrize("feature", sorted(PROBES.keys() - {"start_earliest", "seek"}))
def test_a_probe_finds_what_works_and_a_false_declaration(feature: str) -> None:
    """On a broker that has the feature, through an adapter that denies it."""
    no = unimq.Feature(unimq.Support.UNSUPPORTED, "no", "none")
    harness = Harness(backend := backend_at("memory://", stress=1.0), unimq.connect(backend.url).capabilities)
    destinations = Destinations("test_probe")
    with declaring(backend.url, **{feature: no}) as denying, claiming(denying, feature) as claimed:
        with unimq.connect(denying) as broker, pytest.raises(unimq.Unsupported):
            PROBES[feature](broker, destinations, harness)
        with unimq.connect(claimed) as broker:
            PROBES[feature](broker, destinations, harness)
            destinations.delete(broker)


def test_a_probe_fails_on_what_does_not_work() -> None:
    with claiming("memory://", "start_earliest") as claimed, unimq.connect(claimed) as broker:
        assert broker.capabilities.start_earliest
        with pytest.raises(AssertionError):
            PROBES["start_earliest"](
                broker, Destinations("test"), Harness(backend_at("memory://", stress=0.02), broker.capabilities)
            )


def test_a_guarantee_must_exist() -> None:
    with pytest.raises(ValueError, match="S99"):
        guarantee("S99")
    with pytest.raises(ValueError, match="known"):
        guarantee()


def test_names_are_fresh_telling_and_short_enough_for_everything_derived_from_them() -> None:
    destinations = Destinations("test_with_a_very_long_name_that_goes_on_and_on_and_on_for_ever[memory-sync]")
    names = {destinations.name() for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith("test-with-a-very-long-name") for name in names)
    topic = destinations.topic(ordering="key")
    dead = destinations.subscription(topic, "audit").queue.dead_letters
    assert dead is not None
    assert len(dead.name) <= 75


@pytest.mark.parametrize(
    ("url", "name", "scheme"),
    [
        ("amqps://u:secret@h:1/v?x=y", "amqps://h:1", "amqps"),
        ("sqs+http://127.0.0.1:9", "sqs+http://127.0.0.1:9", "sqs+http"),
        ("unheard-of:///a", "unheard-of://", "unheard-of"),
    ],
)
def test_a_backend_is_named_without_secrets(url: str, name: str, scheme: str) -> None:
    backend = backend_at(url, stress=1.0)
    assert (backend.name, backend.scheme) == (name, scheme)


def test_stress_multiplies_limits_and_no_delays() -> None:
    calm, stressed = backend_at("memory://", stress=1.0).bounds, backend_at("memory://", stress=3.0).bounds
    assert stressed.within == 3 * calm.within
    assert stressed.delay == calm.delay


@pytest.fixture
def harness() -> Harness:
    backend = backend_at("memory://?private=true", stress=0.02)
    with unimq.connect(backend.url) as broker:
        return Harness(backend, broker.capabilities)


def test_receive_says_what_came_instead(harness: Harness) -> None:
    with unimq.connect("memory://?private=true") as broker, broker.consumer("q") as consumer:
        with broker.producer("q") as producer:
            producer.send_many(numbered(2))
        with pytest.raises(AssertionError, match=r"2 of 3 messages .*00001"):
            harness.receive(consumer, 3)


def test_nothing_else_notices_a_message_and_a_second_marker(harness: Harness) -> None:
    queue = unimq.Queue("q")
    with unimq.connect("memory://?private=true") as broker, broker.consumer(queue) as consumer:
        harness.nothing_else(queue, broker, consumer)
        with broker.producer(queue) as producer:
            producer.send(b"surplus")
        with pytest.raises(AssertionError, match="surplus"):
            harness.nothing_else(queue, broker, consumer)


def test_a_background_call_returns_raises_or_is_overdue() -> None:
    assert Background(lambda: 5).result(1.0) == 5
    with pytest.raises(ZeroDivisionError):
        Background(lambda: 1 // 0).result(1.0)
    release = threading.Event()
    waiting = Background(release.wait)
    with pytest.raises(AssertionError, match="did not end"):
        waiting.result(0.01)
    release.set()
    assert waiting.result(1.0)


def test_leaks_of_threads_and_sockets_are_named() -> None:
    before = Holdings.now()
    assert wait_until_released(before, 0.0) == []
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="left-over", daemon=True)
    thread.start()
    with closing(create_server(("127.0.0.1", 0))):
        left = wait_until_released(before, 0.05)
    assert "thread 'left-over'" in left
    assert any("socket" in line for line in left)
    release.set()
    thread.join()
    assert wait_until_released(before, 1.0) == []
