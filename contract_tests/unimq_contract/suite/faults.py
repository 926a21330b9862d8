"""One test per fault, on every backend that has a process or a socket: R1, S2, A1, A5 and L3 under load.

Producers and consumers work before, during and after the fault; the judge of `unimq_contract.history` says what was
lost, invented, or given twice without excuse, and whether enough happened to mean anything.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import unimq
from unimq_contract.brokers import RunningTap
from unimq_contract.contract import Contract
from unimq_contract.faults.broker import BrokerFaults
from unimq_contract.faults.churn import Churn, Leave
from unimq_contract.faults.client import ClientFailed, ClientProcess
from unimq_contract.faults.proxy import FaultProxy
from unimq_contract.guarantees import guarantee
from unimq_contract.harness import Backend, Background, Connections, Destinations, Harness, family, numbered
from unimq_contract.history import Counts, Floors, History, Load, Recording, Rules, judge, run
from unimq_contract.history.events import Delivered, Event

log = logging.getLogger("unimq.contract")

MESSAGES = 1600
RATE = 250.0
"""Messages per second of one producer: fast enough to be in the middle of something, slow enough to be drained soon."""
BETWEEN = 150
"""Deliveries before the first fault and between two: each meets a load that flows."""
TURNS = 50
"""Deliveries before the fault that went to another consumer than the one before: several hold messages at once."""
CUTS = 3
MEMBERS = 4


def door(backend: Backend) -> tuple[tuple[str, int], int, str]:
    """Return where a proxy leads, the port where it listens (0 for any), and the URL with ``PORT`` for that port."""
    tap = None if backend.tap is None else backend.tap.tap
    parts = urlsplit(backend.url)
    if tap is not None and tap.proxied is not None:
        listener, advertised = tap.proxied
        return ("127.0.0.1", listener), advertised, backend.url.replace(f":{parts.port}", ":PORT", 1)
    if family(backend.url) == "kafka":
        pytest.skip("this broker tells its clients its own address: they would go around the proxy")
    if parts.scheme not in {"amqp", "sqs+http"} or "," in parts.netloc or parts.hostname is None or parts.port is None:
        pytest.skip(f"{parts.scheme}:// has no single address that a proxy could stand in for")
    account, at, _ = parts.netloc.rpartition("@")
    return (parts.hostname, parts.port), 0, parts._replace(netloc=f"{account}{at}127.0.0.1:PORT").geturl()


class Run:
    """One run of the load on a queue of its own, and its judgement."""

    def __init__(self, harness: Harness, destinations: Destinations, url: str) -> None:
        self.harness = harness
        self.bounds = harness.bounds
        # Where messages have leases, those of a lost consumer return when these end.
        self.lease = max(2.0, harness.bounds.delay) if harness.capabilities.lease else 0.0
        self.queue = destinations.queue(**({"lease": self.lease} if self.lease else {}))
        self.url = url
        self.history = History()
        self.recording = Recording(self.history)

    def connect(self) -> unimq.Broker:
        """Open a connection of one worker."""
        return unimq.connect(self.url, timeout=self.bounds.within)

    def flows(self, count: int = BETWEEN) -> None:
        """Wait until so many more deliveries came: the load is on, or on again (L3)."""
        seen, deadline = len(self.history.events), time.monotonic() + self.bounds.within + self.bounds.crash
        while sum(isinstance(event, Delivered) for event in self.history.events[seen:]) < count:
            assert time.monotonic() < deadline, f"less than {count} deliveries came in time (L3)"
            time.sleep(self.bounds.quiet / 10)

    def is_shared(self) -> None:
        """Wait until consumers work side by side: some backends need a while to give each its part (G1)."""
        deadline = time.monotonic() + self.bounds.within + self.bounds.crash
        while True:
            takers = [event.consumer for event in self.history.events if isinstance(event, Delivered)]
            if sum(one != other for one, other in pairwise(takers)) >= TURNS:
                return
            assert time.monotonic() < deadline, f"consumers did not take turns {TURNS} times in time (G1)"
            time.sleep(self.bounds.quiet / 10)

    def under_load(
        self,
        fault: Callable[[], None],
        *names: str,
        elsewhere: Callable[[], Sequence[Event]] = tuple,
        shadow: float = 0.0,
    ) -> Counts:
        """Run the load with `fault` in its middle and judge it; `names` are the faults that must have happened."""
        load = Load(
            seed=1,
            messages=MESSAGES,
            rate=RATE,
            quiet=self.bounds.quiet,
            patience=self.lease * 2 + self.bounds.crash,
            limit=3 * self.bounds.within + self.bounds.crash,
        )
        began = time.monotonic()

        def meanwhile() -> None:
            self.flows()
            self.is_shared()
            # A queue may have to reach a certain age before it survives everything.
            time.sleep(max(0.0, began + self.bounds.young - time.monotonic()))
            fault()
            self.flows()

        run(load, self.recording, self.connect, self.queue, meanwhile=meanwhile, elsewhere=elsewhere)
        rules = Rules.of(
            self.harness.capabilities, self.queue, floors=Floors(acks=MESSAGES // 2, faults=dict.fromkeys(names, 1))
        )
        rules = replace(
            rules,
            rebalance=self.bounds.within if family(self.url) == "kafka" else None,
            resumes_within=self.bounds.within + self.bounds.crash if names else None,
            shadow=max(rules.shadow, shadow, self.lease),
            tolerance=self.bounds.tolerance,
        )
        verdict = judge([*self.history.events, *elsewhere()], rules)
        verdict.raise_if_broken()
        log.info("%.1f s; %s", time.monotonic() - began, "; ".join(verdict.counts.lines()))
        return verdict.counts


# A load may take its own limits of time, and its check another; what hangs has to end all the same.
@pytest.mark.timeout(400)
@pytest.mark.fronts("sync")
class FaultsContract(Contract):
    @pytest.fixture
    def load(self, harness: Harness, destinations: Destinations, backend: Backend) -> Run:
        """A load on a backend whose process or socket can fail."""
        if backend.in_process:
            pytest.skip("this broker has neither a process nor a socket of its own")
        return Run(harness, destinations, backend.url)

    @pytest.fixture
    def proxy(self, load: Run, backend: Backend) -> Iterator[FaultProxy]:
        """A proxy through which the load goes."""
        server, port, url = door(backend)
        with FaultProxy(server, port=port, log=load.history) as proxy:
            load.url = url.replace("PORT", str(proxy.port), 1)
            yield proxy

    @guarantee("R1", "S1", "S2", "A5", "L3", kills=("lose-some",))
    def test_the_broker_is_killed_and_comes_back(self, load: Run, backend: Backend) -> None:
        broker = BrokerFaults(self.ours(backend), load.history)
        if not self.ours(backend).tap.durable:
            pytest.skip(f"{self.ours(backend).tap.product} keeps everything in memory")

        def kill() -> None:
            with broker.killed():
                pass

        load.under_load(kill, "broker killed")

    @guarantee("R1", "S2", "A5", "L3", kills=("lose-some",))
    def test_the_broker_stands_still(self, load: Run, backend: Backend) -> None:
        broker = BrokerFaults(self.ours(backend), load.history)

        def freeze() -> None:
            with broker.frozen():
                time.sleep(load.bounds.wake)

        load.under_load(freeze, "broker frozen", shadow=load.bounds.wake)

    @guarantee("R1", "S2", "A1", "A5", "L3", kills=("lose-some",))
    def test_every_connection_is_cut(self, load: Run, proxy: FaultProxy) -> None:
        def cut() -> None:
            for _ in range(CUTS):
                proxy.cut()
                load.flows()

        load.under_load(cut, "cut")
        assert proxy.counters().hits["cut"] >= CUTS

    @guarantee("R1", "S2", "A5", "L3", kills=("lose-some",))
    def test_the_network_is_a_black_hole(self, load: Run, proxy: FaultProxy) -> None:
        def stall() -> None:
            with proxy.healing():
                proxy.stall()
                time.sleep(load.bounds.wake)

        load.under_load(stall, "stall", shadow=load.bounds.wake)
        assert proxy.counters().hits["stall"]

    @guarantee("R1", "S2", "A5", "L3", kills=("lose-some",))
    def test_no_connection_is_accepted_for_a_while(self, load: Run, proxy: FaultProxy) -> None:
        def refuse() -> None:
            with proxy.healing():
                proxy.refuse()
                proxy.cut()
                time.sleep(load.bounds.wake)

        load.under_load(refuse, "refuse", "cut", shadow=load.bounds.wake)
        assert proxy.counters().hits["refuse"]

    @guarantee("R1", "A5", "S2", kills=("lose-some",))
    def test_clients_are_killed(self, load: Run, backend: Backend, tmp_path: Path) -> None:
        """One that consumes, with what it holds, and one that sends."""
        consuming = ClientProcess(load.url, tmp_path / "consuming", load.history)
        sending = ClientProcess(load.url, tmp_path / "sending", load.history)
        with consuming, sending:

            def kill() -> None:
                consuming.consume(load.queue, prefetch=20)
                assert consuming.receive(5, timeout=load.bounds.within)
                consuming.work(nack=10, hold=load.bounds.quiet / 10)
                stream = Background(lambda: sending.send(load.queue, 1_000_000))
                load.flows()
                consuming.kill()
                sending.kill()
                with pytest.raises(ClientFailed):
                    stream.result(load.bounds.within)

            counts = load.under_load(kill, elsewhere=lambda: [*consuming.events(), *sending.events()])
        assert counts.crashes == 1
        assert counts.sent > MESSAGES, "the client that was killed while it sent confirmed nothing"

    @guarantee("R1", "A5", "G1", kills=("lose-some",))
    def test_members_join_and_leave(self, load: Run) -> None:
        def join() -> Leave:
            broker = load.connect()
            consumer = load.recording.consumer(broker, load.queue, prefetch=20)
            leaving = threading.Event()

            def work() -> None:
                while not leaving.is_set():
                    for delivery in consumer.receive(5, timeout=load.bounds.quiet):
                        with contextlib.suppress(unimq.LeaseLost):
                            delivery.ack()

            working = Background(work)

            def leave() -> None:
                # Some deliveries are on their way, or wait in the consumer: they go to the others.
                leaving.set()
                working.result(load.bounds.within)
                # An ack that raced the loss of a message is told here, as nobody settles before (L1).
                with contextlib.suppress(unimq.LeaseLost):
                    consumer.close()
                broker.close()

            return leave

        def churn() -> None:
            with Churn(join, interval=load.bounds.quiet * 3, at_once=2) as storm:
                storm.wait_for(MEMBERS, MEMBERS * load.bounds.within)

        counts = load.under_load(churn)
        assert counts.closes >= MEMBERS

    @guarantee("A1", kills=("ack-dropped",))
    def test_a_confirmed_ack_survives_a_cut_at_once(
        self, load: Run, proxy: FaultProxy, connect: Connections, harness: Harness
    ) -> None:
        """Every second of many is acked, last first, `settle` returns, and the connection is gone; the rest returns."""
        direct = connect()
        with direct.producer(load.queue) as producer:
            for _ in range(CUTS):
                producer.send_many(numbered(load.bounds.backlog))
                with self.connected(load) as broker:
                    consumer, received = self.all_received(load, broker, harness)
                    for delivery in received[::-2]:
                        delivery.ack()
                    consumer.settle(load.bounds.within)
                    proxy.cut()
                with direct.consumer(load.queue) as other:
                    must_return = {delivery.body for delivery in received[-2::-2]}
                    self.they_return(harness, other, must_return, set(), "acked and confirmed, yet it came again (A1)")
                    harness.nothing_else(load.queue, direct, other)
        assert proxy.counters().hits["cut"] >= CUTS

    @guarantee("L1", "A1", kills=("ack-dropped",))
    def test_a_clean_close_right_after_a_cut_is_the_truth(
        self, load: Run, proxy: FaultProxy, connect: Connections, harness: Harness
    ) -> None:
        """Every second of many is acked, the connection is gone, and the close says whether these may come again."""
        direct = connect()
        with direct.producer(load.queue) as producer:
            for _ in range(CUTS):
                producer.send_many(numbered(load.bounds.backlog))
                with self.connected(load) as broker:
                    consumer, received = self.all_received(load, broker, harness)
                    acked = received[::2]
                    for delivery in acked:
                        delivery.ack()
                    proxy.cut()
                    may_return: set[bytes] = set()
                    try:
                        consumer.close(load.bounds.within)
                    except (unimq.LeaseLost, unimq.ConnectionLost):
                        may_return = {delivery.body for delivery in acked}
                must_return = {delivery.body for delivery in received[1::2]}
                with direct.consumer(load.queue) as other:
                    self.they_return(harness, other, must_return, may_return, "acked, cleanly closed, came again (L1)")
                    if may_return:
                        # When they come, if they come, is open: what follows could not be told from them.
                        return
                    harness.nothing_else(load.queue, direct, other)

    @staticmethod
    def all_received(load: Run, broker: unimq.Broker, harness: Harness) -> tuple[unimq.Consumer, list[unimq.Delivery]]:
        """Return a consumer that holds the whole backlog, and what it holds."""
        consumer = broker.consumer(load.queue, prefetch=load.bounds.backlog + 100)
        return consumer, harness.receive(consumer, load.bounds.backlog)

    @staticmethod
    def they_return(
        harness: Harness, consumer: unimq.Consumer, must: set[bytes], may: set[bytes], otherwise: str
    ) -> None:
        """Ack what comes until all came that must; nothing may come but that and what may, each once."""
        while must:
            delivery = harness.receive_one(consumer)
            assert delivery.body in must | may, otherwise
            must.discard(delivery.body)
            may.discard(delivery.body)
            delivery.ack()

    @staticmethod
    @contextlib.contextmanager
    def connected(load: Run) -> Generator[unimq.Broker]:
        """A connection through the proxy, whose end may fail."""
        broker = load.connect()
        try:
            yield broker
        finally:
            broker.close(timeout=load.bounds.within)

    @staticmethod
    def ours(backend: Backend) -> RunningTap:
        """Return the broker on tap, whose process is ours to maltreat."""
        if backend.tap is None or not backend.tap.pids:
            pytest.skip("the process of this broker is not ours")
        return backend.tap
