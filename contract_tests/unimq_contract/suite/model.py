"""A random program of sends, receives and settlements against a model of the contract, judged at every step.

Hypothesis shrinks a failing program to a short one and prints it in the form in which it can be run again.
"""

import itertools
import sys
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

import unimq
from unimq_contract.contract import Contract
from unimq_contract.guarantees import guarantee
from unimq_contract.harness import Destinations, Harness

_LARGE = 65_537
"""Bytes of the body that no single frame, packet or page holds."""

keys = st.one_of(st.none(), st.text(st.characters(codec="utf-8"), max_size=4))
headers = st.dictionaries(
    st.text("abcXYZ-_é", min_size=1, max_size=4),
    st.one_of(st.binary(max_size=4), st.text(st.characters(codec="utf-8"), max_size=4)),
    max_size=3,
)


@dataclass(slots=True)
class Draft:
    """A message to send, short enough to be printed in a failing program."""

    body: bytes
    large: bool
    key: str | None
    headers: dict[str, str | bytes]

    def message(self, message_id: str) -> unimq.Message:
        """Return what is sent; a large body repeats both ends of the range of bytes."""
        body = self.body + b"\x00\xff" * (_LARGE // 2) if self.large else self.body
        return unimq.Message(body, key=self.key, headers=self.headers, id=message_id)


drafts = st.builds(
    Draft,
    body=st.binary(max_size=8),
    large=st.sampled_from([False] * 9 + [True]),
    key=keys,
    headers=headers,
)


@dataclass(slots=True)
class Waiting:
    """What the model knows of a message that is not settled for good."""

    message: unimq.Message
    least_attempt: int = 1
    most_attempt: int = 1
    held: bool = False
    seen: bool = False


@dataclass(slots=True)
class Coverage:
    """What the programs of one run did: a run that did too little proves nothing."""

    counts: Counter[str] = field(default_factory=Counter[str])

    def missing(self) -> list[str]:
        """Return the kinds of step that did not happen."""
        wanted = ("acked", "nacked", "rejected", "reopened", "refused", "redelivered")
        return [name for name in wanted if not self.counts[name]]

    def check(self) -> None:
        """Fail unless every kind of step happened often enough."""
        counts, thin = self.counts, self.missing()
        assert not thin, f"proved nothing of {', '.join(thin)}: {dict(counts)}"
        assert counts["acked"] * 10 >= counts["sent"], f"too few acks: {dict(counts)}"


class QueueMachine(RuleBasedStateMachine):
    """One queue, one producer, one consumer at a time; handles of closed consumers are kept, to be used once more."""

    def __init__(self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness, coverage: Coverage) -> None:
        super().__init__()
        self.broker = broker
        self.queue = queue
        self.harness = harness
        self.did = coverage.counts
        self.waiting: dict[str, Waiting] = {}
        self.dead: set[str] = set()
        self.live: list[unimq.Delivery] = []
        self.spent: list[unimq.Delivery] = []
        self.numbers = itertools.count(1)
        self.producer = broker.producer(queue)
        self.consumer = broker.consumer(queue)

    # Sending.

    @rule(draft=drafts)
    def send(self, draft: Draft) -> None:
        message = self._noted(draft)
        receipt = self.producer.send(message)
        assert receipt.message_id == message.id

    @rule(several=st.lists(drafts, min_size=2, max_size=6))
    def send_many(self, several: list[Draft]) -> None:
        noted = [self._noted(draft) for draft in several]
        receipts = self.producer.send_many(noted)
        assert [receipt.message_id for receipt in receipts] == [message.id for message in noted]

    @rule(draft=drafts)
    def enqueue_and_flush(self, draft: Draft) -> None:
        self.producer.enqueue(self._noted(draft))
        self.producer.flush()

    # Receiving.

    @rule(most=st.integers(1, 5))
    def receive(self, most: int) -> None:
        ready = sum(not waiting.held for waiting in self.waiting.values())
        bounds = self.harness.bounds
        received = self.consumer.receive(most, timeout=bounds.within if ready else bounds.quiet)
        assert len(received) <= most
        assert received or not ready, f"{ready} messages wait, and none came within {bounds.within} s"
        for delivery in received:
            self._judge(delivery)

    # Settling.

    @precondition(lambda self: self.live)
    @rule(position=st.integers(0, 1000))
    def ack(self, position: int) -> None:
        delivery = self._pick(self.live, position)
        delivery.ack()
        del self.waiting[delivery.id]
        self.spent.append(delivery)
        self.did["acked"] += 1

    @precondition(lambda self: self.live)
    @rule()
    def ack_all(self) -> None:
        self.consumer.ack(self.live)
        for delivery in self.live:
            del self.waiting[delivery.id]
        self.did["acked"] += len(self.live)
        self.spent += self.live
        self.live = []

    @precondition(lambda self: self.live)
    @rule(position=st.integers(0, 1000))
    def nack(self, position: int) -> None:
        delivery = self._pick(self.live, position)
        delivery.nack()
        waiting = self.waiting[delivery.id]
        waiting.held = False
        waiting.least_attempt = waiting.most_attempt = delivery.attempt + 1
        self.spent.append(delivery)
        self.did["nacked"] += 1

    @precondition(lambda self: self.live)
    @rule(position=st.integers(0, 1000))
    def reject(self, position: int) -> None:
        delivery = self._pick(self.live, position)
        delivery.reject("by the machine")
        del self.waiting[delivery.id]
        self.dead.add(delivery.id)
        self.spent.append(delivery)
        self.did["rejected"] += 1

    @precondition(lambda self: self.spent)
    @rule(position=st.integers(0, 1000), settle=st.sampled_from(["ack", "nack", "reject"]))
    def settle_again(self, position: int, settle: str) -> None:
        delivery = self.spent[position % len(self.spent)]
        try:
            getattr(delivery, settle)()
        except (unimq.AlreadySettled, unimq.LeaseLost):
            self.did["refused"] += 1
        else:
            raise AssertionError(f"a second {settle} of message {delivery.id} was accepted")

    @precondition(lambda self: self.spent)
    @rule()
    def settle(self) -> None:
        self.consumer.settle()

    @precondition(lambda self: self.live)
    @rule()
    def reopen(self) -> None:
        """Close the consumer with what it holds, and open another."""
        self.consumer.close()
        for delivery in self.live:
            waiting = self.waiting[delivery.id]
            waiting.held = False
        # What the closed one held or had fetched counts as delivered where the backend counts so; where attempts are
        # not exact, they may start again.
        capabilities = self.harness.capabilities
        for waiting in self.waiting.values():
            waiting.most_attempt += 1
            if not capabilities.attempts_exact:
                waiting.least_attempt = 1
        self.spent += self.live
        self.live = []
        self.consumer = self.broker.consumer(self.queue)
        self.did["reopened"] += 1

    def teardown(self) -> None:
        try:
            self.reopen()
            while self.waiting:
                self.receive(100)
                self.ack_all()
            self.consumer.settle()
            self.harness.nothing_else(self.queue, self.broker, self.consumer)
            self._drain_dead_letters()
        finally:
            self.consumer.close()
            self.producer.close()

    # The model.

    def _noted(self, draft: Draft) -> unimq.Message:
        message = draft.message(f"{self.queue.name}-{next(self.numbers)}")
        self.waiting[message.id] = Waiting(message)
        self.did["sent"] += 1
        return message

    def _judge(self, delivery: unimq.Delivery) -> None:
        waiting = self.waiting.get(delivery.id)
        assert waiting is not None, f"message {delivery.id} was settled or never sent, and came (A1, R5)"
        assert not waiting.held, f"message {delivery.id} came while it was held (R1)"
        sent = waiting.message
        assert (delivery.body, delivery.key) == (sent.body, sent.key)
        assert dict(delivery.headers) == dict(sent.headers)
        # Where attempts are not exact, what was fetched and handed back unseen may count too, and often.
        most = waiting.most_attempt if self.harness.capabilities.attempts_exact else sys.maxsize
        assert waiting.least_attempt <= delivery.attempt <= most, (
            f"message {delivery.id} came as attempt {delivery.attempt}, expected {waiting.least_attempt} to {most} (A7)"
        )
        waiting.held = True
        waiting.least_attempt = waiting.most_attempt = delivery.attempt
        self.live.append(delivery)
        self.did["received"] += 1
        if waiting.seen:
            self.did["redelivered"] += 1
        waiting.seen = True

    @staticmethod
    def _pick(deliveries: list[unimq.Delivery], position: int) -> unimq.Delivery:
        return deliveries.pop(position % len(deliveries))

    def _drain_dead_letters(self) -> None:
        target = self.queue.dead_letters
        if target is None or not self.dead:
            return
        with self.broker.consumer(target) as consumer:
            found = self.harness.receive(consumer, len(self.dead))
            assert {delivery.id for delivery in found} == self.dead
            assert {delivery.headers["unimq-dead-reason"] for delivery in found} == {"by the machine"}
            consumer.ack(found)
            self.harness.nothing_else(target, self.broker, consumer)


class ModelContract(Contract):
    @pytest.mark.timeout(600)
    @guarantee(
        "R1",
        "R2",
        "R5",
        "A1",
        "A2",
        "A3",
        "A4",
        "A5",
        "A6",
        "A7",
        "L1",
        kills=(
            "lose-some",
            "store-twice",
            "ack-dropped",
            "cumulative-ack",
            "nack-acks",
            "redelivers-acked",
            "attempt-stuck",
            "acked-at-delivery",
            "batch-loses-one",
            "nack-returns-all",
            "phantom",
            "nacks-lost-at-close",
        ),
    )
    def test_random_programs_agree_with_the_model(
        self, broker: unimq.Broker, destinations: Destinations, harness: Harness
    ) -> None:
        examples, steps = harness.bounds.programs
        coverage = Coverage()

        def machine() -> QueueMachine:
            return QueueMachine(broker, destinations.queue(), harness, coverage)

        for number in range(5):
            # A program leaves some rules out, on purpose; with few programs, one rule may be left out of all.
            run_state_machine_as_test(
                seed(number)(machine),  # type: ignore[arg-type] # typed as a class, documented as a factory
                settings=settings(
                    # That a mutant fails is enough: nobody reads its shortest program.
                    phases=[each for each in Phase if each is not Phase.shrink or not harness.backend.mutant],
                    max_examples=examples,
                    stateful_step_count=steps,
                    deadline=None,
                    database=None,
                    suppress_health_check=[
                        HealthCheck.too_slow,
                        HealthCheck.data_too_large,
                        HealthCheck.filter_too_much,
                    ],
                ),
            )
            if not coverage.missing():
                break
        coverage.check()
