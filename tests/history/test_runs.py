"""Whole runs with several threads, on the in-memory broker and on broken ones; and how fast they are judged."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from unimq_contract.history import NO_FLOORS, Floors, History, Kind, Load, Recording, Rules, Verdict, judge, run
from unimq_contract.history import events as ev

import unimq

LOAD = Load(seed=1, messages=1200, keys=200, quiet=0.1)


@pytest.fixture
def connect() -> Iterator[Callable[[], unimq.Broker]]:
    name = f"run-{os.urandom(4).hex()}"
    with unimq.connect(f"memory://{name}"):
        yield lambda: unimq.connect(f"memory://{name}")


@pytest.mark.parametrize("ordering", ["none", "key"])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_memory_broker_passes_and_enough_happens(
    ordering: str, seed: int, connect: Callable[[], unimq.Broker]
) -> None:
    queue = unimq.Queue("q", ordering="key" if ordering == "key" else "none")
    history = History()
    recording = Recording(history)
    run(replace(LOAD, seed=seed), recording, connect, queue)
    with connect() as broker:
        rules = Rules.of(broker.capabilities, queue)
        broker.delete(queue)
    verdict = judge(history.events, rules)
    verdict.raise_if_broken()
    assert verdict.counts.closes > 4
    assert verdict.counts.excused["close"] > 0
    assert verdict.counts.uncertain == 0


def test_leases_delays_and_rejections_pass(connect: Callable[[], unimq.Broker]) -> None:
    queue = unimq.Queue("q", lease=30.0, max_deliveries=3)
    history = History()
    recording = Recording(history)
    run(replace(LOAD, nack=0.2, nack_delay=0.01, reject=0.02), recording, connect, queue)
    with connect() as broker:
        with recording.dead_letters(broker, queue) as dead:
            given_up = dead.drain(quiet=0.1)
        rules = Rules.of(broker.capabilities, queue)
        broker.delete(queue)
    verdict = judge(history.events, rules)
    verdict.raise_if_broken()
    assert given_up >= verdict.counts.rejects > 0


def test_a_subscription_passes(connect: Callable[[], unimq.Broker]) -> None:
    topic = unimq.Topic("t")
    subscription = topic.subscription("s")
    history = History()
    run(LOAD, Recording(history), connect, topic, subscription)
    with connect() as broker:
        rules = Rules.of(broker.capabilities, subscription.queue)
        broker.delete(subscription, topic)
    judge(history.events, rules).raise_if_broken()


def test_the_load_goes_on_while_faults_are_under_way(connect: Callable[[], unimq.Broker]) -> None:
    history = History()
    least = 500

    def meanwhile() -> None:
        deadline = time.monotonic() + 20
        with history.fault("waiting"):
            while sum(isinstance(event, ev.Sent) for event in history.events) < least:
                assert time.monotonic() < deadline
                time.sleep(0.02)

    run(replace(LOAD, messages=0, rate=2000.0), Recording(history), connect, unimq.Queue("q"), meanwhile=meanwhile)
    verdict = judge(history.events, Rules(shutdown_counts=False, floors=Floors(faults={"waiting": 1})))
    verdict.raise_if_broken()
    assert verdict.counts.sent >= least


def test_a_run_waits_for_what_a_consumer_took_with_it(connect: Callable[[], unimq.Broker]) -> None:
    """Somebody holds messages until their leases end; a run without patience takes them for lost."""
    queue = unimq.Queue("q", lease=1.0)

    def verdict(patience: float) -> Verdict:
        history = History()
        recording = Recording(history)
        with connect() as broker, recording.consumer(broker, queue, prefetch=5) as holder:

            def meanwhile() -> None:
                assert holder.receive(5, timeout=10)

            load = replace(LOAD, messages=0, rate=500.0, quiet=0.05, patience=patience)
            run(load, recording, connect, queue, meanwhile=meanwhile)
            broker.delete(queue)
        return judge(history.events, Rules(attempts="skipping", shutdown_counts=False, floors=NO_FLOORS))

    assert verdict(0.0).found[Kind.LOST] > 0
    patient = verdict(5.0)
    assert patient.clean, patient.report()


def test_a_worker_that_fails_fails_the_run(connect: Callable[[], unimq.Broker]) -> None:
    def broken() -> unimq.Broker:
        if len(opened) > 2:
            raise RuntimeError("broken")
        opened.append(connect())
        return opened[-1]

    opened: list[unimq.Broker] = []
    with pytest.raises(RuntimeError, match="broken"):
        run(LOAD, Recording(History()), broken, unimq.Queue("q"))
    for broker in opened:
        broker.close()


def drop_every_hundredth(event: ev.Event, number: int) -> ev.Event | None:
    return None if number % 100 == 0 else event


def swap_attempt(event: ev.Event, number: int) -> ev.Event | None:
    if isinstance(event, ev.Delivered) and event.attempt > 1:
        event.attempt = 1
    return event


def change_body(event: ev.Event, number: int) -> ev.Event | None:
    if isinstance(event, ev.Delivered) and number % 50 == 0:
        event.content = ev.Content(event.content.id, "changed")
    return event


def forget_nacks(event: ev.Event, number: int) -> ev.Event | None:
    return None if isinstance(event, ev.Settling) and event.how == "nack" else event


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (drop_every_hundredth, Kind.LOST),
        (swap_attempt, Kind.ATTEMPTS),
        (change_body, Kind.CHANGED),
        (forget_nacks, Kind.LEASED_TWICE),
    ],
)
def test_a_damaged_history_of_a_real_run_is_flagged(
    damage: Callable[[ev.Event, int], ev.Event | None], kind: Kind, connect: Callable[[], unimq.Broker]
) -> None:
    history = History()
    run(replace(LOAD, messages=600), Recording(history), connect, unimq.Queue("q"))
    damaged = [
        kept
        for number, event in enumerate(history.events)
        if (kept := damage(event, number) if isinstance(event, ev.Delivered | ev.Settling) else event) is not None
    ]
    assert judge(damaged, Rules()).found[kind] > 0


def test_the_judge_takes_time_in_proportion_to_the_events(connect: Callable[[], unimq.Broker]) -> None:
    """Not by the clock, which others share: by the steps that Python makes."""

    def steps(messages: int) -> float:
        history = History()
        run(replace(LOAD, messages=messages, close=0.0), Recording(history), connect, unimq.Queue(f"q{messages}"))
        count = 0

        def profile(frame: object, what: str, argument: object) -> None:
            nonlocal count
            count += 1

        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            judge(history.events, Rules())
        finally:
            sys.setprofile(before)
        return count / len(history.events)

    assert steps(4000) < 1.5 * steps(400)
