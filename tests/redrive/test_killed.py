"""A redrive that is killed: on a file, which outlives the process."""

import importlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import unimq
from unimq._adapters import load_adapter, register_adapter, unregister_adapter

ADAPTER = Path(__file__).parents[2] / "examples" / "sqlite-adapter"
QUEUE = unimq.Queue("orders")
COUNT = 1_000
PROGRAM = """
import sys, unimq, unimq_sqlite
from unimq._adapters import register_adapter
register_adapter(unimq_sqlite.SQLiteAdapter())
with unimq.connect(sys.argv[1]) as broker:
    broker.redrive("orders", rate=400)
"""


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(sys, "path", [str(ADAPTER), *sys.path])
    adapter = importlib.import_module("unimq_sqlite").SQLiteAdapter()
    register_adapter(adapter)
    assert load_adapter("sqlite") is adapter
    yield f"sqlite:///{tmp_path / 'orders.db'}?synchronous=normal&heartbeat=0.2"
    unregister_adapter(adapter)


@pytest.mark.slow
def test_a_killed_redrive_goes_on_with_at_most_one_window_twice(url: str) -> None:
    with unimq.connect(url) as broker:
        with broker.consumer(QUEUE, prefetch=COUNT) as consumer:
            with broker.producer(QUEUE) as producer:
                producer.send_many([unimq.Message(b"", id=f"m{number}") for number in range(COUNT)])
            rejected = 0
            while rejected < COUNT:
                for delivery in consumer.receive(COUNT, timeout=10):
                    delivery.reject()
                    rejected += 1
            consumer.settle()
        seen: Counter[str] = Counter()
        with broker.consumer(QUEUE, prefetch=COUNT) as consumer:
            for stop_at in (150, 450):
                path = os.pathsep.join([str(ADAPTER), *sys.path])
                process = subprocess.Popen([sys.executable, "-c", PROGRAM, url], env={**os.environ, "PYTHONPATH": path})
                try:
                    while len(seen) < stop_at:
                        received = consumer.receive(COUNT, timeout=20)
                        assert received, "nothing more was redriven"
                        seen.update(delivery.id for delivery in received)
                        consumer.ack(received)
                finally:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
            done = broker.redrive(QUEUE, timeout=20)
            assert done.complete
            while received := consumer.receive(COUNT, timeout=0.2):
                seen.update(delivery.id for delivery in received)
                consumer.ack(received)
            consumer.settle()
        assert broker.stats(QUEUE).dead_letters == 0
    assert seen.keys() == {f"m{number}" for number in range(COUNT)}
    assert seen.total() <= COUNT + 2 * 200
