"""Faults of processes: a client that is killed or frozen, a broker's, and members that come and go."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from unimq_contract.brokers import BrokerUnavailable, RunningTap, Tap
from unimq_contract.faults.broker import BrokerFaults
from unimq_contract.faults.churn import Churn, Leave
from unimq_contract.faults.client import ClientFailed, ClientProcess
from unimq_contract.faults.orders import Where
from unimq_contract.history import NO_FLOORS, History, Kind, Recording, Rules, judge, run
from unimq_contract.history import events as ev
from unimq_contract.history.log import merged
from unimq_contract.history.workload import Load

import unimq

WITHIN = 10.0
QUEUE = unimq.Queue("q")
RULES = Rules(floors=NO_FLOORS)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(") ")[2][0]


def faults_in(history: History) -> list[tuple[str, str]]:
    return [(type(event).__name__, event.what) for event in history.events if isinstance(event, ev.Down | ev.Up)]


@pytest.fixture
def client(tmp_path: Path) -> ClientProcess:
    return ClientProcess("memory://", tmp_path / "client.jsonl", History())


def test_a_client_does_what_it_is_told_and_its_history_is_clean(client: ClientProcess) -> None:
    with client:
        client.consume(QUEUE, prefetch=10)
        assert client.send(QUEUE, 5, keys=("a", "b"), size=200) == 5
        assert client.receive(5, timeout=WITHIN) == 5
        assert client.settle(1, nack=True) == 1
        assert client.settle(4) == 4
        assert client.receive(1, timeout=WITHIN) == 1
        assert client.settle(1) == 1
    verdict = judge(client.events(), RULES)
    assert verdict.proved, verdict.report()
    assert (verdict.counts.sent, verdict.counts.acks, verdict.counts.nacks) == (5, 5, 1)
    keys = [event.content.key for event in client.events() if isinstance(event, ev.Sending)]
    assert keys == ["a", "b", "a", "b", "a"]


def test_a_client_works_in_the_background_until_it_rests(client: ClientProcess) -> None:
    with client:
        client.consume(QUEUE)
        client.work(nack=10)
        client.send(QUEUE, 100)
        deadline = time.monotonic() + WITHIN
        while sum(isinstance(event, ev.Settling) for event in client.events()) < 110:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert client.rest() == 110
    verdict = judge(client.events(), RULES)
    assert verdict.proved, verdict.report()
    assert verdict.counts.acks == 100
    assert verdict.counts.nacks == 10


def test_a_killed_client_leaves_its_history_up_to_the_end(tmp_path: Path) -> None:
    log = History()
    with ClientProcess("memory://", tmp_path / "client.jsonl", log) as client:
        client.consume(QUEUE)
        client.send(QUEUE, 10)
        client.receive(10, timeout=WITHIN)
        client.settle(3)
        client.settle(2, confirm=False)
        client.kill()
        assert not Path(f"/proc/{client.pid}").exists()
        with pytest.raises(ClientFailed, match="ended with -9"):
            client.send(QUEUE)
    events = merged(log.events, client.events())
    assert isinstance(events[-1], ev.Crashed)
    verdict = judge(events, Rules(floors=NO_FLOORS, drained=False))
    assert verdict.proved, verdict.report()
    counts = verdict.counts
    assert (counts.sent, counts.deliveries, counts.acks, counts.crashes) == (10, 10, 3, 1)
    # Its broker died with it: the five that it held are gone, and of the two unconfirmed acks nobody knows.
    lost = judge(events, RULES)
    assert lost.found == {Kind.LOST: 5}
    assert lost.counts.uncertain == 2


def test_a_frozen_client_does_nothing_until_it_thaws(tmp_path: Path) -> None:
    log = History()
    with ClientProcess("memory://", tmp_path / "client.jsonl", log) as client:
        client.send(QUEUE)
        client.freeze()
        assert state_of(client.pid) == "T"
        client.thaw()
        assert client.send(QUEUE) == 1
        client.freeze()
    assert faults_in(log) == [("Down", "client frozen"), ("Up", "client frozen")] * 2
    assert not Path(f"/proc/{client.pid}").exists()


def test_a_frozen_client_can_be_killed(client: ClientProcess) -> None:
    with client:
        client.freeze()
        client.kill()
    assert not Path(f"/proc/{client.pid}").exists()


def test_what_a_client_cannot_do_is_told(client: ClientProcess) -> None:
    with client, pytest.raises(ClientFailed, match="no consumer is open"):
        client.receive(1, timeout=0.1)


def test_a_client_with_a_wrong_url_fails_at_its_first_order(tmp_path: Path) -> None:
    wrong = ClientProcess("nonsense://", tmp_path / "client.jsonl")
    with wrong as client, pytest.raises(ClientFailed, match="ended with 1"):
        client.send(QUEUE)


@pytest.mark.parametrize(
    "place",
    [
        unimq.Queue("q", "key", lease=3.0, max_deliveries=2),
        unimq.Topic("t", "key"),
        unimq.Topic("t").subscription("s", lease=3.0),
    ],
    ids=["queue", "topic", "subscription"],
)
def test_destinations_reach_the_client_as_they_are(place: unimq.Queue | unimq.Topic | unimq.Subscription) -> None:
    assert Where.of(place).place() == place


def test_a_policy_that_would_be_lost_on_the_way_is_refused() -> None:
    with pytest.raises(ValueError, match="ttl=5"):
        Where.of(unimq.Queue("q", ttl=5))


@dataclass
class FakeControl:
    """A broker's process as the tap sees it; notes what is done to it, and how many faults were noted before."""

    history: History
    calls: list[tuple[str, int, int]] = field(default_factory=list[tuple[str, int, int]])
    pids: tuple[int, ...] = ()

    def _note(self, name: str, node: int) -> None:
        self.calls.append((name, node, len(self.history.events)))

    def stop(self) -> None:
        self._note("stop", 0)

    def kill(self, node: int) -> None:
        self._note("kill", node)

    def restart(self, node: int) -> None:
        self._note("restart", node)

    def suspend(self, node: int) -> None:
        self._note("suspend", node)

    def resume(self, node: int) -> None:
        self._note("resume", node)

    def tool(self, name: str, arguments: Sequence[str]) -> str:
        return ""

    def log(self) -> str:
        return ""


TAP = Tap("rabbitmq", "amqp://127.0.0.1", "Product", "1", "made up", "real", "native")


def test_faults_of_a_broker_are_noted_around_what_is_done() -> None:
    history = History()
    control = FakeControl(history)
    faults = BrokerFaults(RunningTap(TAP, control), history)
    with faults.killed(1):
        pass
    with pytest.raises(KeyError), faults.frozen():
        raise KeyError
    faults.restart(2)
    assert faults_in(history) == [
        ("Down", "broker killed"),
        ("Up", "broker killed"),
        ("Down", "broker frozen"),
        ("Up", "broker frozen"),
        ("Down", "broker restarted"),
        ("Up", "broker restarted"),
    ]
    assert control.calls == [("kill", 1, 1), ("restart", 1, 1), ("suspend", 0, 3), ("resume", 0, 3), ("restart", 2, 5)]


def test_a_broker_given_by_url_is_left_alone() -> None:
    history = History()
    faults = BrokerFaults(RunningTap(TAP, None), history)
    with pytest.raises(BrokerUnavailable, match="not ours"), faults.killed():
        pytest.fail("it was not killed")
    assert len(faults_in(history)) == 2


def test_members_come_and_go_under_load_and_nothing_is_lost() -> None:
    url = "memory://churn"
    history = History()
    recording = Recording(history)

    def join() -> Leave:
        broker = unimq.connect(url)
        consumer = recording.consumer(broker, QUEUE, prefetch=5)
        for delivery in consumer.receive(5, timeout=0.02):
            delivery.ack()
        consumer.receive(3, timeout=0.02)

        def leave() -> None:
            consumer.close()
            broker.close()

        return leave

    with unimq.connect(url) as keeper:
        storm = Churn(join, interval=0.01, at_once=3)

        def meanwhile() -> None:
            with storm:
                storm.wait_for(20, WITHIN)

        load = Load(seed=1, messages=500, rate=3000.0, quiet=0.1)
        run(load, recording, lambda: unimq.connect(url), QUEUE, meanwhile=meanwhile)
        keeper.delete(QUEUE)
    assert storm.joins == storm.leaves >= 20
    verdict = judge(history.events, Rules(shutdown_counts=False))
    verdict.raise_if_broken()
    assert verdict.counts.closes > 20


def test_at_most_so_many_members_are_there_at_once() -> None:
    present: list[int] = []
    most = 0
    numbers = iter(range(1000))

    def join() -> Leave:
        nonlocal most
        number = next(numbers)
        present.append(number)
        most = max(most, len(present))
        return lambda: present.remove(number)

    with Churn(join, interval=0.001, at_once=2) as storm:
        storm.wait_for(10, WITHIN)
    assert most == 2
    assert present == []
    assert storm.joins == storm.leaves


def test_a_member_that_cannot_join_ends_the_storm_and_the_others_leave() -> None:
    left = threading.Event()
    members = iter([left.set])

    def join() -> Leave:
        try:
            return next(members)
        except StopIteration:
            raise RuntimeError("no room") from None

    with pytest.raises(RuntimeError, match="no room"), Churn(join, interval=0.001, at_once=2) as storm:
        storm.wait_for(5, WITHIN)
    assert left.is_set()


def test_a_storm_that_does_not_turn_is_told() -> None:
    with pytest.raises(TimeoutError, match="0 of 1 members"), Churn(lambda: lambda: None, interval=60.0) as storm:
        storm.wait_for(1, 0.05)
