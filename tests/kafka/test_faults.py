"""The faults of the contract suite at length and one after the other, under a load that flows (R1, A1, A5, O1, L3)."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from unimq_contract.brokers import RunningTap
from unimq_contract.brokers import kafka as tap
from unimq_contract.faults.broker import BrokerFaults
from unimq_contract.faults.client import ClientProcess
from unimq_contract.faults.proxy import FaultProxy
from unimq_contract.history import Floors, Load

from .judged import PATIENCE, JudgedRun

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("kafka-faults")]

PROTOCOLS = ("classic", "consumer")
SESSION = 6.0
"""Seconds after which a member that is not heard is out of its group, with either protocol."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of it. `rate` is of each of two producers, `flow` the deliveries between two faults, `hold` seconds."""

    messages: int
    rate: float
    flow: int
    hold: float
    rounds: int


SHORT = Size(1500, 200, 150, 1.0, 1)
LONG = Size(200_000, 1000, 5000, 10.0, 3)
SOAK = (pytest.mark.soak, pytest.mark.timeout(1800))


@pytest.fixture(scope="module")
def running(start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap]) -> Iterator[RunningTap]:
    """A broker that is ours to maltreat."""
    with start_or_skip(tap.start) as broker:
        yield broker


@dataclass
class Scene:
    """One run, and what can be done to it."""

    run: JudgedRun
    size: Size
    proxy: FaultProxy
    broker: BrokerFaults
    client: ClientProcess

    def kill_broker(self) -> None:
        """Kill -9, and start again on the same data."""
        with self.broker.killed():
            pass

    def freeze_broker(self) -> None:
        """SIGSTOP, for the seconds that are the fault."""
        with self.broker.frozen():
            time.sleep(self.size.hold)

    def cut(self) -> None:
        """Reset every connection."""
        self.proxy.cut()

    def swallow(self) -> None:
        """Let everything that is sent disappear, for the seconds that are the fault."""
        with self.proxy.healing():
            self.proxy.stall()
            time.sleep(self.size.hold)

    def kill_consumer(self) -> None:
        """Kill -9 one that holds messages."""
        self.client.consume(self.run.queue, prefetch=20)
        assert self.client.receive(5, timeout=PATIENCE) >= 1
        self.client.work(nack=10)
        self.run.flows(self.size.flow)
        self.client.kill()


FAULTS: Mapping[str, Callable[[Scene], None]] = {
    "broker killed": Scene.kill_broker,
    "broker frozen": Scene.freeze_broker,
    "cut": Scene.cut,
    "stall": Scene.swallow,
    "consumer killed": Scene.kill_consumer,
}


@pytest.mark.parametrize(
    ("fault", "size", "protocol"),
    [
        pytest.param("broker frozen", SHORT, "consumer", id="broker frozen-short"),
        *(
            pytest.param(fault, LONG, protocol, id=f"{fault}-{protocol}", marks=SOAK)
            for fault in FAULTS
            for protocol in PROTOCOLS
        ),
    ],
)
def test_a_fault_under_load(running: RunningTap, tmp_path: Path, fault: str, size: Size, protocol: str) -> None:
    assert running.tap.proxied is not None
    listener, advertised = running.tap.proxied
    run = JudgedRun(
        f"kafka://127.0.0.1:{advertised}?group_protocol={protocol}&partitions=8"
        + (f"&session_timeout={SESSION}" if protocol == "classic" else "")
    )
    rounds = 1 if fault == "consumer killed" else size.rounds
    with (
        FaultProxy(("127.0.0.1", listener), port=advertised, log=run.history) as proxy,
        ClientProcess(run.url, tmp_path / "client", run.history) as client,
    ):
        scene = Scene(run, size, proxy, BrokerFaults(running, run.history), client)

        def befall() -> None:
            for _ in range(rounds):
                run.flows(size.flow)
                FAULTS[fault](scene)
            run.flows(size.flow)

        load = Load(
            seed=6,
            messages=size.messages,
            rate=size.rate,
            close=0.0,
            keys=200,
            patience=PATIENCE,
            limit=1200,
        )
        counts = run.under_load(
            load,
            befall,
            # On a busy machine one consumer may be done before the others have joined.
            floors=Floors(
                acks=size.messages // 2, overlaps=0, faults={} if fault == "consumer killed" else {fault: rounds}
            ),
            # Members that were silent for longer than their session hear late that they are out of the group.
            shadow=size.hold + SESSION,
            elsewhere=client.events,
        )
    assert counts.sent + counts.maybe_sent >= size.messages
    assert counts.crashes == (1 if fault == "consumer killed" else 0)
