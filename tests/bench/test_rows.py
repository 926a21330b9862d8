"""Every row keeps the protocol on a real broker, is short enough to be checked, and imports only its client."""

import ast
import json
import os
import subprocess
import sys
import time
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest
import unimq_bench
from confluent_kafka import Consumer, Producer, TopicPartition
from unimq_bench.rows import raw_confluent_kafka
from unimq_bench.rows.assembled import checked, number_of
from unimq_bench.rows.catalogue import CATALOGUE
from unimq_bench.rows.environments import NoEnvironment, interpreter_of
from unimq_bench.rows.unimq_row import durability_of_topic
from unimq_contract.brokers import RunningTap, start

PACKAGE = Path(unimq_bench.__file__).parent
ROWS = PACKAGE / "rows"
CONFORMANCE = Path(__file__).with_name("row_conformance.py")
LONGEST = 120
"""Lines of code: so much a reader reads to check that a row is fair."""
LARGEST = 256 * 1024
CLIENTS = {"pika", "confluent_kafka", "boto3", "botocore"}
"""Of raw rows; peers are imported by name, because type checkers do not find them in this environment."""
RAW = [
    (entry.library, backend)
    for entry in CATALOGUE.values()
    if entry.kind == "raw"
    for backend in sorted(entry.backends or ())
]
QUICK = {("aio-pika", "rabbitmq"), ("kombu", "rabbitmq"), ("faststream", "kafka"), ("mq-bridge", "memory")}
"""One backend of each peer; `make soak` tries the others, too."""
PEERS = [
    pytest.param(entry.library, backend, marks=() if (entry.library, backend) in QUICK else pytest.mark.soak)
    for entry in CATALOGUE.values()
    if entry.kind == "peer"
    for backend in sorted(entry.backends or ())
]


def lines_of_code(file: Path) -> int:
    """Lines that hold anything but comments and docstrings."""
    tree = ast.parse(file.read_text("utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    prose = {
        line
        for node in ast.walk(tree)
        if isinstance(node, documented) and ast.get_docstring(node) is not None
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    with file.open("rb") as source:
        skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}
        code = {
            line
            for token in tokenize.tokenize(source.readline)
            if token.type not in {*skipped, tokenize.ENDMARKER}
            for line in range(token.start[0], token.end[0] + 1)
        }
    return len(code - prose)


def row_files() -> list[Path]:
    return sorted(file for file in ROWS.glob("*.py") if file.name != "__init__.py")


@pytest.mark.parametrize("file", row_files(), ids=lambda file: file.name)
def test_a_row_is_short_enough_to_be_checked(file: Path) -> None:
    assert lines_of_code(file) <= LONGEST


def imported_by(file: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(file.read_text("utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("file", sorted({*ROWS.glob("raw_*.py"), *ROWS.glob("peer_*.py")}), ids=lambda file: file.name)
def test_a_row_imports_its_client_the_standard_library_and_rows(file: Path) -> None:
    others = {
        name
        for name in imported_by(file)
        if name.partition(".")[0] not in {*sys.stdlib_module_names, *CLIENTS}
        and not name.startswith("unimq_bench.rows.")
    }
    assert not others


def test_every_file_of_a_row_is_in_the_catalogue() -> None:
    modules = {f"unimq_bench.rows.{file.stem}" for pattern in ("raw_*.py", "peer_*.py") for file in ROWS.glob(pattern)}
    assert modules == {entry.module for entry in CATALOGUE.values() if entry.kind != "unimq"}


def test_options_are_checked() -> None:
    assert checked("row", {"a": "2"}, {"a": "1", "b": "3"}) == {"a": "2", "b": "3"}
    with pytest.raises(ValueError, match="unknown option of row: c; known: a, b"):
        checked("row", {"c": "2"}, {"a": "1", "b": "3"})
    assert number_of("row", {"partitions": "4"}, "partitions", least=1) == 4
    for text in ("0", "-3", "many", "1.5", ""):
        with pytest.raises(ValueError, match="option partitions of row is a whole number from 1 on"):
            number_of("row", {"partitions": text}, "partitions", least=1)


@pytest.mark.parametrize(
    ("replicas", "told"), [([1, 1], "leader memory"), ([3, 3], "replicated(3)"), ([3, 2], "replicated(2)")]
)
def test_what_acks_mean_is_as_the_topic_is(replicas: list[int], told: str) -> None:
    partitions = {number: SimpleNamespace(replicas=range(each)) for number, each in enumerate(replicas)}
    metadata = SimpleNamespace(topics={"orders": SimpleNamespace(partitions=partitions)})

    def list_topics(topic: str, timeout: float) -> SimpleNamespace:
        assert topic == "orders"
        assert timeout > 0
        return metadata

    assert durability_of_topic(SimpleNamespace(list_topics=list_topics), "orders") == told


@pytest.fixture(scope="module")
def urls(start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap]) -> Iterator[dict[str, str]]:
    """Of brokers that were started so far, by backend."""
    started: dict[str, str] = {"memory": "memory://"}
    running: list[Any] = []

    class Urls(dict[str, str]):
        def __missing__(self, backend: str) -> str:
            broker = start_or_skip(lambda: start(cast("Literal['rabbitmq', 'kafka', 'sqs']", backend)))
            running.append(broker)
            self[backend] = broker.tap.url
            return broker.tap.url

    yield Urls(started)
    for broker in running:
        broker.stop()


def description_by(python: str, module: str, url: str, *more: str) -> dict[str, Any]:
    """Run the conformance program; return what the row says of itself."""
    done = subprocess.run(
        [python, "-W", "error", str(CONFORMANCE), module, url, str(LARGEST), *more],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # Whatever a client printed comes before.
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document


@pytest.mark.slow
@pytest.mark.parametrize(("library", "backend"), RAW)
def test_a_raw_row_keeps_the_protocol(library: str, backend: str, urls: dict[str, str]) -> None:
    said = description_by(sys.executable, CATALOGUE[library].module, urls[backend])
    durability = {"memory": "memory", "rabbitmq": "fsync", "kafka": "leader memory", "sqs": "memory"}
    assert said["durability"] == durability[backend]
    assert bool(said["emulated"]) == (backend == "sqs")
    assert said["versions"]
    if backend == "sqs":
        counted = said["counters"]
        assert counted["billed_requests"] > counted["requests"] > counted["empty_receives"] > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("library", "backend"), PEERS)
def test_a_peer_keeps_the_protocol_in_an_environment_of_its_own(
    library: str, backend: str, urls: dict[str, str]
) -> None:
    entry = CATALOGUE[library]
    try:
        python = interpreter_of(entry)
    except NoEnvironment as error:
        pytest.skip(str(error))
    assert python != sys.executable
    said = description_by(python, entry.module, urls[backend], "peer")
    weaker = {("kombu", "kafka"): "at-most-once", ("mq-bridge", "rabbitmq"): "leader memory"}
    usual = {"memory": "memory", "rabbitmq": "fsync", "kafka": "leader memory", "sqs": "memory"}
    assert said["durability"] == weaker.get((library, backend), usual[backend])
    assert bool(said["emulated"]) == (backend == "sqs")
    assert any(pin.partition("==")[2] in said["versions"].values() for pin in entry.requirements)


def test_settling_what_the_client_has_committed_by_itself() -> None:
    """At low rates its commit in the background is mostly first; the raw client calls that an error."""
    cluster = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    node = next(iter(cluster.list_topics(timeout=60).brokers.values()))
    shared = {"bootstrap.servers": f"{node.host}:{node.port}", "group.id": "orders"}
    receiving = {**shared, "auto.offset.reset": "earliest", "enable.auto.offset.store": False, "log_level": 0}
    receiver = raw_confluent_kafka._Receiver({**receiving, "auto.commit.interval.ms": 100}, "orders")
    watching = Consumer({**shared, "log_level": 0})
    try:
        cluster.produce("orders", b"1", partition=0)
        assert cluster.flush(60) == 0
        deadline = time.monotonic() + 60
        while not (batch := receiver.receive(1, 0.1)).bodies:
            assert time.monotonic() < deadline
        receiver.ack(batch)
        while watching.committed([TopicPartition("orders", 0)], timeout=60)[0].offset != 1:
            assert time.monotonic() < deadline
            receiver.receive(1, 0.1)
        receiver.settle()
    finally:
        receiver.close()
        watching.close()
        cluster.close()
