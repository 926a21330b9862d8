"""Bad days of SQS, made by a proxy between botocore and an emulator, under load and judged: R1, S1, S2, A1, A3, A5, O1.

Each fault falls on each of the requests that carry messages. Nothing that was confirmed may be lost, nothing comes
twice without excuse, and no request hides a message for longer than its lease.
"""

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import pytest
from unimq_contract.brokers import RunningTap, sqs
from unimq_contract.faults.client import ClientProcess
from unimq_contract.faults.sqs import FAULTS, HOT, Request, SQSFaultProxy, Visibility, touches
from unimq_contract.history import Floors, History, Load, Recording, Rules, Verdict, judge, run
from unimq_contract.history.events import Delivered, Event, Sent

import unimq

pytestmark = pytest.mark.slow

WITHIN = 60.0
LEASE = 2
WAIT = 1

log = logging.getLogger("unimq.tests")


class Watching(Visibility):
    """Also sees to it that a send that is repeated is stored once in a FIFO queue (S2)."""

    def __init__(self, longest: int) -> None:
        super().__init__(longest)
        self._stored: dict[str, str] = {}

    def __call__(self, operation: str, asked: Request, answer: Request) -> None:
        super().__call__(operation, asked, answer)
        if operation != "SendMessageBatch":
            return
        entries = {entry["Id"]: entry for entry in asked["Entries"]}
        for stored in answer.get("Successful") or ():
            deduplication = entries[stored["Id"]].get("MessageDeduplicationId")
            if deduplication is not None:
                first = self._stored.setdefault(deduplication, stored["MessageId"])
                if first != stored["MessageId"]:
                    self.wrong.append(f"one send is stored twice: {first} and {stored['MessageId']}")


@dataclass
class Storm:
    """A queue behind the proxy, and what happened to it."""

    proxy: SQSFaultProxy
    history: History
    watch: Watching
    url: str
    queue: unimq.Queue

    def connect(self) -> unimq.Broker:
        # The timeout is also how long an answer may take: short, so that a slow one is soon too slow.
        return unimq.connect(self.url, timeout=5.0)

    def sent(self) -> int:
        return sum(isinstance(event, Sent) for event in self.history.events)

    def wait_for(self, condition: Callable[[Sequence[Event]], bool], what: str) -> None:
        """Wait for something in the history of this process."""
        deadline = time.monotonic() + WITHIN
        while not condition(self.history.events):
            assert time.monotonic() < deadline, f"not within {WITHIN} s: {what}"
            time.sleep(0.02)

    def flows(self, count: int) -> None:
        """Wait until so many more messages were delivered here (L3)."""
        seen = len(self.history.events)
        self.wait_for(
            lambda events: sum(isinstance(event, Delivered) for event in events[seen:]) >= count, f"{count} deliveries"
        )

    def rage(
        self,
        load: Load,
        faults: Callable[[], None],
        floors: Floors | None = None,
        elsewhere: Callable[[], Sequence[Event]] = tuple,
    ) -> Verdict:
        """Run the load with the faults in its middle, and judge."""
        run(load, Recording(self.history), self.connect, self.queue, meanwhile=faults, elsewhere=elsewhere)
        with unimq.connect(self.url) as broker:
            rules = Rules.of(broker.capabilities, self.queue, floors=floors or FLOORS)
            assert self.queue.dead_letters is not None
            broker.delete(self.queue, self.queue.dead_letters)
        verdict = judge(
            [*self.history.events, *elsewhere()],
            # By when all are settled is a matter of the machine; that nothing is hidden for long, the watch says.
            replace(rules, shadow=LEASE + WAIT + 5.0, tolerance=0.2, resumes_within=WITHIN),
        )
        verdict.raise_if_broken()
        assert self.watch.wrong == []
        assert self.watch.looked_at > 0
        log.info("%s; requests %s", "; ".join(verdict.counts.lines()), dict(self.proxy.requests))
        return verdict


def storm_on(
    flavour: str,
    ordering: Literal["none", "key"],
    start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap],
) -> Generator[Storm]:
    history = History()
    watch = Watching(longest=LEASE + WAIT)
    with start_or_skip(lambda: sqs.start(flavour=sqs.flavour(flavour))) as running:
        parts = urlsplit(running.tap.url)
        assert parts.port is not None
        with SQSFaultProxy(("127.0.0.1", parts.port), log=history, watch=watch) as proxy:
            url = f"{running.tap.url.replace(f':{parts.port}', f':{proxy.port}')}&wait={WAIT}"
            queue = unimq.Queue(f"q-{os.urandom(4).hex()}", ordering=ordering, lease=LEASE)
            yield Storm(proxy, history, watch, url, queue)


STORMS = [f"{ordering}-{flavour}" for flavour in sqs.FLAVOURS for ordering in ("none", "key")]


@pytest.fixture(params=["none-ministack", "key-elasticmq"])
def storm(
    request: pytest.FixtureRequest, start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap]
) -> Iterator[Storm]:
    ordering, _, flavour = request.param.partition("-")
    yield from storm_on(flavour, ordering, start_or_skip)


def each_fault(proxy: SQSFaultProxy) -> Callable[[], None]:
    """Return what lets each fault take hold of each operation that it can."""

    def rage() -> None:
        for fault in FAULTS:
            operations = [operation for operation in HOT if touches(fault, operation)]
            before = dict(proxy.hits)
            # Every third request, so that the load goes on, and its repetitions succeed.
            with proxy.injecting(fault, every=3):
                for operation in operations:
                    proxy.wait_for_hits(fault, operation, before.get((fault, operation), 0) + 1, WITHIN)

    return rage


LOAD = Load(seed=1, messages=300, rate=60.0, keys=40, nack=0.1, quiet=0.3, patience=2.0 * (LEASE + WAIT), limit=200.0)
FLOORS = Floors(acks=100, nacks=10, redeliveries=10, out_of_order_acks=5, overlaps=0, faults=dict.fromkeys(FAULTS, 1))
SHORT = replace(LOAD, messages=150)
SHORT_FLOORS = Floors(acks=30, nacks=3, redeliveries=3, out_of_order_acks=3, overlaps=0)


@pytest.mark.timeout(300)
def test_every_fault_under_load(storm: Storm) -> None:
    storm.rage(LOAD, each_fault(storm.proxy))


def kills_in(storm: Storm, folder: Path, count: int) -> Verdict:
    """Kill consumers one after the other: each with what it has just received, or while it works."""
    clients = [ClientProcess(storm.url, folder / f"client-{number}", storm.history) for number in range(count)]

    def kill() -> None:
        for number, client in enumerate(clients):
            client.consume(storm.queue, prefetch=20)
            assert client.receive(3, timeout=WITHIN) == 3
            if number % 2:
                client.work(nack=10, hold=0.02)
                storm.flows(30)
            client.kill()

    with contextlib.ExitStack() as stack:
        for client in clients:
            stack.enter_context(client)
        return storm.rage(SHORT, kill, SHORT_FLOORS, lambda: [event for client in clients for event in client.events()])


# Of what the suite does not do to SQS by itself, the harder half; `make soak` has the rest.
@pytest.mark.timeout(300)
@pytest.mark.parametrize("storm", ["key-elasticmq"], indirect=True)
def test_consumers_are_killed_with_what_they_hold(storm: Storm, tmp_path: Path) -> None:
    """What they held is hidden for its lease and no longer, and nobody renews it (A5)."""
    assert kills_in(storm, tmp_path, 2).counts.crashes == 2


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("storm", STORMS, indirect=True)
def test_consumers_are_killed_over_and_over(storm: Storm, tmp_path: Path) -> None:
    assert kills_in(storm, tmp_path, 20).counts.crashes == 20


@pytest.mark.timeout(300)
@pytest.mark.parametrize("storm", ["none-ministack"], indirect=True)
def test_who_stood_still_for_longer_than_its_lease_settles_nothing(storm: Storm, tmp_path: Path) -> None:
    """SQS says yes to a late delete; that it came too late is known by the consumer's own clock alone (A6)."""
    with ClientProcess(storm.url, tmp_path / "client", storm.history) as client:

        def freeze() -> None:
            client.consume(storm.queue, prefetch=5)
            assert client.receive(5, timeout=WITHIN) == 5
            client.freeze()
            held = {event.message: event.at for event in client.events() if isinstance(event, Delivered)}

            def all_came_again(events: Sequence[Event]) -> bool:
                elsewhere = {
                    event.message
                    for event in events
                    if isinstance(event, Delivered) and event.at > held.get(event.message, event.at)
                }
                return len(elsewhere) == len(held)

            storm.wait_for(all_came_again, "what a frozen consumer held is delivered to others (A5)")
            client.thaw()
            assert client.settle(5) == 0
            # Else it would fetch messages and hand them to nobody, over and over.
            client.close()

        storm.rage(SHORT, freeze, replace(SHORT_FLOORS, faults={"client frozen": 1}), client.events)


def test_an_answer_that_was_lost_comes_again_at_once_in_a_fifo_queue(
    start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap],
) -> None:
    """Else its key would be held up until the lease ends: here for hours, which is how the test would know."""
    with contextlib.contextmanager(storm_on)("elasticmq", "key", start_or_skip) as storm:
        queue = unimq.Queue(storm.queue.name, ordering="key", dead_letter=False)
        with unimq.connect(f"{storm.url}&visibility=40000", timeout=5.0) as broker, broker.producer(queue) as producer:
            for number in range(3):
                producer.send(b"%d" % number, key="k")
            with storm.proxy.injecting("lost answer", "ReceiveMessage"), broker.consumer(queue) as consumer:
                storm.proxy.wait_for_hits("lost answer", "ReceiveMessage", 2)
                storm.proxy.heal()
                for number in range(3):
                    (delivery,) = consumer.receive(timeout=WITHIN)
                    assert delivery.body == b"%d" % number
                    delivery.ack()
                consumer.settle()
            broker.delete(queue)


def gone(pid: int) -> bool:
    """Tell whether a child of this process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.timeout(300)
def test_an_emulator_that_keeps_its_messages_is_restarted_under_load(
    start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap], tmp_path: Path
) -> None:
    """It writes them down when it is asked to end, so it gets the time for that."""
    settings = {"PERSIST_STATE": "1", "STATE_DIR": str(tmp_path)}
    history = History()
    with start_or_skip(lambda: sqs.start(flavour="ministack", settings=settings)) as running:
        url = f"{running.tap.url}&wait={WAIT}"
        queue = unimq.Queue(f"q-{os.urandom(4).hex()}", lease=LEASE)

        def sent() -> int:
            return sum(isinstance(event, Sent) for event in history.events)

        def restart() -> None:
            for _ in range(2):
                before, deadline = sent(), time.monotonic() + WITHIN
                while sent() < before + 50:
                    assert time.monotonic() < deadline, "nothing is sent (L3)"
                    time.sleep(0.02)
                with history.fault("broker restarted"):
                    (pid,) = running.pids
                    os.kill(pid, signal.SIGTERM)
                    while not gone(pid):
                        assert time.monotonic() < deadline + WITHIN, "the emulator does not end"
                        time.sleep(0.02)
                    running.restart()

        run(LOAD, Recording(history), lambda: unimq.connect(url, timeout=5.0), queue, meanwhile=restart)
        with unimq.connect(url) as broker:
            rules = Rules.of(broker.capabilities, queue, floors=replace(FLOORS, faults={"broker restarted": 2}))
        verdict = judge(history.events, replace(rules, shadow=LEASE + WAIT + 5.0, tolerance=0.2))
        verdict.raise_if_broken()
        log.info("%s", "; ".join(verdict.counts.lines()))


@pytest.mark.soak
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("ordering", ["none", "key"])
@pytest.mark.parametrize("flavour", sqs.FLAVOURS)
def test_every_fault_over_and_over_under_a_long_load(
    flavour: str,
    ordering: Literal["none", "key"],
    start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap],
) -> None:
    load = replace(LOAD, messages=25_000, rate=None, keys=2_000, consumers=4, limit=2400.0)
    with contextlib.contextmanager(storm_on)(flavour, ordering, start_or_skip) as storm:

        def rage() -> None:
            while storm.sent() < load.messages * 0.9:
                each_fault(storm.proxy)()

        assert storm.rage(load, rage).counts.sent >= load.messages * 0.9
