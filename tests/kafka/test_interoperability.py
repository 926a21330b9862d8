"""What Kafka's own console tools write we read, and what we write they read; and a topic that is compacted."""

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import confluent_kafka
import confluent_kafka.admin
import pytest
from unimq_contract.brokers import RunningTap
from unimq_contract.brokers import kafka as tap

import unimq

from .judged import PATIENCE, awaited

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("kafka-operations")]

PRODUCER = "org.apache.kafka.tools.ConsoleProducer"
CONSUMER = "org.apache.kafka.tools.consumer.ConsoleConsumer"


@pytest.fixture(scope="module")
def running(start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap]) -> Iterator[RunningTap]:
    """A broker whose cleaner does not rest."""
    with start_or_skip(lambda: tap.start(settings={"log.cleaner.backoff.ms": "100"})) as broker:
        yield broker


@pytest.fixture
def broker(running: RunningTap) -> Iterator[unimq.Broker]:
    """A connection to it."""
    with unimq.connect(f"{running.url}?partitions=3", timeout=PATIENCE) as connection:
        yield connection


class Console:
    """Kafka's console programs, each of which takes a Java of its own."""

    def __init__(self, running: RunningTap, folder: Path) -> None:
        java, _ = tap.find_installed()
        self.command = tap.tool_command(java)
        self.environment = tap.environment(folder)
        (self.address,) = running.tap.nodes

    def run(self, name: str, topic: str, *arguments: str, properties: Mapping[str, str], given: str = "") -> list[str]:
        """Run one to its end and return the lines that it prints."""
        option = "--reader-property" if name == PRODUCER else "--formatter-property"
        joined = [each for key, value in properties.items() for each in (option, f"{key}={value}")]
        done = subprocess.run(
            [*self.command, name, "--bootstrap-server", self.address, "--topic", topic, *arguments, *joined],
            env=self.environment,
            input=given.encode(),
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode("utf-8", "surrogateescape").splitlines()


@pytest.fixture
def console(running: RunningTap, tmp_path: Path) -> Console:
    """Kafka's console programs."""
    return Console(running, tmp_path)


def receive(broker: unimq.Broker, source: str, count: int) -> list[unimq.Delivery[bytes]]:
    """Receive and ack so many."""
    found: list[unimq.Delivery[bytes]] = []
    with broker.consumer(source) as consumer:
        while len(found) < count:
            received = consumer.receive(count - len(found), timeout=PATIENCE)
            assert received, f"{count - len(found)} of {count} did not come"
            found += received
            consumer.ack(received)
        consumer.settle(PATIENCE)
    return found


def test_the_console_reads_what_we_write(broker: unimq.Broker, console: Console) -> None:
    name = f"ours-{uuid4().hex[:8]}"
    with broker.producer(name) as producer:
        producer.send("naïve ✓".encode(), key="customer-7", headers={"source": "web", "note": "ünï"})
        producer.send(b"without key")
        producer.send(b"", key="")
    lines = console.run(
        CONSUMER,
        name,
        *("--from-beginning", "--max-messages", "3", "--timeout-ms", "60000"),
        properties={"print.key": "true", "print.headers": "true", "key.separator": "|", "headers.separator": ";",
                    "null.literal": "NULL"},
    )  # fmt: skip
    rows = sorted(tuple(line.rsplit("|", 2)) for line in lines if "|" in line)
    assert [row[1:] for row in rows if row[2] == "naïve ✓"] == [("customer-7", "naïve ✓")]
    (first,) = [row[0].split(";") for row in rows if row[1] == "customer-7"]
    assert {"source:web", "note:ünï"} <= set(first)
    assert [row[1] for row in rows if row[2] == "without key"] == ["NULL"]
    assert [row[2] for row in rows if row[1] == ""] == [""]


def test_we_read_what_the_console_writes(broker: unimq.Broker, console: Console) -> None:
    name = f"theirs-{uuid4().hex[:8]}"
    broker.declare(name)
    keys = [f"key-{number}" for number in range(12)]
    rows = [
        "source:web,n:1,n:2|k|naïve ✓",
        "source:web|gone|NULL",
        "source:web|NULL|nobody's",
        *(f"source:many|{key}|{key}" for key in keys),
    ]
    console.run(
        PRODUCER,
        name,
        properties={"parse.headers": "true", "parse.key": "true", "key.separator": "|", "headers.delimiter": "|",
                    "null.marker": "NULL"},
        given="".join(f"{row}\n" for row in rows),
    )  # fmt: skip
    received = {delivery.body or delivery.key: delivery for delivery in receive(broker, name, len(rows))}
    first = received["naïve ✓".encode()]
    assert (first.key, dict(first.headers)) == ("k", {"source": "web", "n": "2"})
    native: Any = first.native
    assert native.headers() == [("source", b"web"), ("n", b"1"), ("n", b"2")]
    assert first.id == f"{name}-{native.partition()}-{native.offset()}"
    gone = received["gone"]
    tombstone: Any = gone.native
    assert (gone.body, tombstone.value()) == (b"", None)
    assert received[b"nobody's"].key is None
    # A key is in the same partition, whichever program sends it (O1).
    with broker.producer(name) as producer:
        for key in keys:
            theirs: Any = received[key.encode()].native
            ours: Any = producer.send(b"again", key=key).position
            assert ours.partition == theirs.partition()


def test_acks_are_by_message_where_compaction_left_gaps(running: RunningTap) -> None:
    name = f"compacted-{uuid4().hex[:8]}"
    address = running.tap.nodes[0]
    typed: Any = confluent_kafka.admin
    config = {"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.001"}
    with unimq.connect(running.url, timeout=PATIENCE) as broker:
        native: Any = broker.native
        native.admin.create_topics([typed.NewTopic(name, 1, 1, config=config)])[name].result(timeout=PATIENCE)
        with broker.producer(name) as producer:
            for number in range(60):
                producer.send(b"%d" % number, key=f"key-{number % 4}")

            def is_compacted() -> bool:
                # What is newest is never cleaned: each look rolls a segment.
                producer.send(b"roll", key="roll")
                return len([record for record in _read(address, name) if record.key() != b"roll"]) == 4

            awaited(is_compacted, "the topic is compacted")
        last = _read(address, name)[-1].offset()
        with broker.consumer(name, prefetch=100) as consumer:
            held: list[unimq.Delivery[bytes]] = []
            while not held or _offset(held[-1]) < last:
                held += consumer.receive(100, timeout=PATIENCE)
            assert len(held) < last
            assert {delivery.body for delivery in held if delivery.key != "roll"} == {b"56", b"57", b"58", b"59"}
            # All but the first, so that the rest is known by the map of what is done above it.
            consumer.ack(held[1:])
            consumer.settle(PATIENCE)
        with broker.consumer(name) as consumer:
            (again,) = consumer.receive(1, timeout=PATIENCE)
            assert again.body == held[0].body
            again.ack()
            awaited(lambda: broker.stats(name).ready == 0, "the rest is passed over")
            assert consumer.receive(1, timeout=0) == []


def _offset(delivery: unimq.Delivery[bytes]) -> int:
    native: Any = delivery.native
    return int(native.offset())


def _read(address: str, topic: str) -> Sequence[Any]:
    """Read a topic of one partition by a client that is in no group."""
    consumer: Any = confluent_kafka.Consumer(
        {"bootstrap.servers": address, "group.id": "reading", "enable.auto.commit": False, "log_level": 0}
    )
    try:
        place = confluent_kafka.TopicPartition(topic, 0, 0)
        _, end = consumer.get_watermark_offsets(place, timeout=PATIENCE)
        consumer.assign([place])
        found: list[Any] = []
        deadline = time.monotonic() + PATIENCE
        while not found or found[-1].offset() < end - 1:
            assert time.monotonic() < deadline
            record = consumer.poll(1.0)
            if record is not None and record.error() is None:
                found.append(record)
        return found
    finally:
        consumer.close()
