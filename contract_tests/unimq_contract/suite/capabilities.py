"""Principle 2: what is declared works, what is declared unsupported is refused before anything happens."""

import contextlib
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest

import unimq
from unimq_contract.claims import PROBES, UNPROBED, claiming
from unimq_contract.contract import Contract
from unimq_contract.guarantees import guarantee
from unimq_contract.harness import Backend, Connections, Destinations, Harness

if TYPE_CHECKING:
    from collections.abc import Callable

FEATURES = [field.name for field in fields(unimq.Capabilities) if field.type is unimq.Feature]


class CapabilitiesContract(Contract):
    @guarantee("P2", kills=("says-no-reason",))
    def test_capabilities_say_who_speaks_and_why_not(self, broker: unimq.Broker) -> None:
        capabilities = broker.capabilities
        assert capabilities.backend
        assert [name for name, _ in capabilities.features()] == FEATURES
        for name, feature in capabilities.features():
            if feature.support is unimq.Support.UNSUPPORTED:
                assert feature.note, f"{name} does not say why it is unsupported"
                assert feature.alternative, f"{name} does not say what to use instead"
            elif feature.support is unimq.Support.EMULATED:
                assert feature.note, f"{name} does not say within which limits it is emulated"

    @guarantee("P2", kills=("delivers-after-close",))
    def test_an_unsupported_call_is_refused_before_anything_happens(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness, subtests: pytest.Subtests
    ) -> None:
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send(b"held")
            held = harness.receive_one(consumer)
            audit = unimq.Topic(queue.name).subscription("audit")
            calls: dict[str, list[Callable[[], object]]] = {
                "delay": [
                    lambda: producer.send(b"never", delay=1),
                    lambda: producer.enqueue(b"never", delay=1),
                ],
                "ttl": [lambda: producer.send(b"never", ttl=1), lambda: producer.enqueue(b"never", ttl=1)],
                "nack_delay": [lambda: held.nack(delay=1)],
                "extend": [lambda: held.extend(1)],
                # Without topics, a subscription is refused as such.
                "redrive_subscription": [lambda: broker.redrive(audit)] if broker.capabilities.topics else [],
                "stats": [lambda: broker.stats(queue)],
                "purge": [lambda: broker.purge(queue)],
                "pause": [consumer.pause, consumer.resume],
                "seek": [lambda: broker.seek(queue, "earliest"), lambda: broker.seek(queue, {0: 0})],
            }
            for name, feature in broker.capabilities.features():
                for call in calls.get(name, []) if not feature else []:
                    with subtests.test(name):
                        with pytest.raises(unimq.Unsupported) as caught:
                            call()
                        self.explains(caught.value, name, feature)
            # Neither was anything sent, nor is the delivery settled.
            harness.nothing_else(queue, broker, consumer)
            held.ack()
            consumer.settle()
        harness.is_empty(queue, broker)

    @pytest.mark.fronts("sync")
    @guarantee("P2", kills=("refuses-what-works",))
    def test_what_is_declared_unsupported_does_not_work(
        self,
        broker: unimq.Broker,
        backend: Backend,
        connect: Connections,
        destinations: Destinations,
        harness: Harness,
    ) -> None:
        """An adapter may not refuse what it can do: each is tried on a connection that claims it."""
        patience = harness.bounds.wake + harness.bounds.delay * 1.5
        impatient = Harness(backend, harness.capabilities, within=patience)
        working: list[str] = []
        for name, feature in broker.capabilities.features():
            if feature or name in UNPROBED:
                continue
            # To be extended, a lease must be there.
            together = {name, "lease"} if name == "extend" else {name}
            # However it fails, it does not work.
            with contextlib.suppress(Exception), claiming(backend.url, *together) as url:
                PROBES[name](connect(url), destinations, impatient)
                working.append(name)
        assert not working, f"declared unsupported, and works: {', '.join(working)}"

    @staticmethod
    def explains(error: unimq.Unsupported, name: str, feature: unimq.Feature) -> None:
        """Check that the error says what the capability says."""
        assert name in error.feature
        assert error.reason == feature.note
        assert error.alternative == feature.alternative
        assert feature.note in str(error)
        assert feature.alternative in str(error)
        assert not error.retryable
