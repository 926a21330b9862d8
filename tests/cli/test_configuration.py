"""`unimq check`, `plan` and `apply`, and what a configuration means to the other commands."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

import unimq
from unimq import Queue, Topic
from unimq._adapters import register_adapter, unregister_adapter

from .conftest import Command

TEXT = """
default = "here"
[brokers.here]
url = "memory://"
[brokers.amqp]
url = "amqp://app@rabbit/"
password = "${CLI_SECRET}"
[queues.orders]
max_length = 10
lease = "30s"
[queues.plain]
dead_letter = false
[topics.events]
require_subscription = true
[topics.events.subscriptions.audit]
max_deliveries = 5
start = "now"
"""
ALL = ["orders-dead", "orders", "plain", "events", "events--audit-dead", "events--audit"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNIMQ_BROKER", raising=False)
    monkeypatch.delenv("UNIMQ_CONFIG", raising=False)
    path = tmp_path / "unimq.toml"
    path.write_text(TEXT)
    return path


def states(command: Command, *arguments: str) -> dict[str, str]:
    return {document["destination"]: document["state"] for document in command(*arguments, "--json").documents}


# Check.


@pytest.mark.parametrize(
    ("on", "assumed", "unsupported"),
    [
        ("memory://", "memory", set[tuple[str, str]]()),
        ("amqp://h", "rabbitmq 4 is assumed", {("orders", "lease")}),
        ("kafka://h", "kafka of any version", {("orders", "lease"), ("orders", "max_length"), ("events", "require_s")}),
        ("sqs://?region=eu-west-1", "sqs of any version", {("orders", "max_length"), ("events", "require_s")}),
        ("sqs+http://k:s@127.0.0.1:1/", "sqs (SQS emulator)", {("orders", "max_length"), ("events", "require_s")}),
    ],
)
def test_check_tells_without_a_broker_what_each_backend_lacks(
    command: Command, file: Path, on: str, assumed: str, unsupported: set[tuple[str, str]]
) -> None:
    result = command("check", "--on", on)
    text = result.out.decode()
    assert assumed in " ".join(text.split())
    # A subscription needs its topic's policies, too.
    expected = unsupported | {("events--audit", policy) for name, policy in unsupported if name == "events"}
    rows = [line.split() for line in text.splitlines() if " unsupported " in f"{line} "]
    assert {(row[0], row[2][:9] if row[2].startswith("require") else row[2]) for row in rows} == expected
    assert result.code == (1 if unsupported else 0)
    if unsupported:
        count = f"{len(expected)} polic{'y' if len(expected) == 1 else 'ies'}"
        assert result.err == f"error: {count} unsupported on {assumed.split(maxsplit=1)[0]}\n"
    else:
        assert text.splitlines()[-1] == "4 destinations can be declared"


def test_check_as_json_gives_reason_and_alternative(command: Command, file: Path) -> None:
    result = command("check", str(file), "--on", "amqp://h", "--json")
    assert result.code == 1
    head, *documents = [json.loads(line) for line in result.out.splitlines()]
    assert head == {
        "file": str(file),
        "broker": "amqp://h",
        "backend": "rabbitmq",
        "assumed_version": "4",
        "emulator": "",
        "problems": [],
    }
    assert [document["destination"] for document in documents] == ["orders", "plain", "events", "events--audit"]
    (lease,) = (policy for policy in documents[0]["policies"] if policy["policy"] == "lease")
    assert lease["support"] == "unsupported"
    assert lease["note"]
    assert lease["alternative"]


def test_check_of_a_lease_beyond_the_limit(command: Command, file: Path) -> None:
    file.write_text("queues.q.lease = '13h'")
    result = command("check", "--on", "sqs://?region=eu-west-1")
    assert result.code == 1
    assert "the longest is 43200 s" in result.out.decode()


def test_check_chooses_the_broker_as_connect_does(
    command: Command, file: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("check", "--json").documents[0]["broker"] == url
    monkeypatch.delenv("UNIMQ_URL")
    assert command("check", "--json").documents[0]["broker"] == "memory://"
    monkeypatch.setenv("CLI_SECRET", "s3cr3t")
    result = command("check", "--broker", "amqp")
    assert "amqp://app:***@rabbit/" in result.out.decode()
    assert "s3cr3t" not in f"{result}"
    monkeypatch.setenv("UNIMQ_BROKER", "amqp")
    assert command("check").err.endswith("unsupported on rabbitmq\n")


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["--broker", "amqp"], 1, "brokers.amqp.password: the environment variable CLI_SECRET is not set"),
        (["--broker", "amqq"], 1, "did you mean 'amqp'?"),
        (["--on", "memory://h:1"], 1, "expected memory:// or memory://NAME"),
        (["--on", "memory://?privte=1"], 1, "did you mean 'private'?"),
        (["--on", "memory://", "--broker", "here"], 2, "give one of them"),
        (["other.toml"], 1, "other.toml: cannot be read: No such file"),
    ],
)
def test_check_that_cannot_be_made(command: Command, file: Path, arguments: list[str], code: int, what: str) -> None:
    result = command("check", *arguments)
    assert (result.code, result.out) == (code, b"")
    assert what in result.err
    assert len(result.err.splitlines()) == 1


def test_check_finds_wrong_options_of_the_other_brokers(command: Command, file: Path) -> None:
    file.write_text("brokers.a.url = 'memory://'\n[brokers.b]\nurl = 'kafka://h'\npartitons = 3")
    result = command("check")
    assert result.code == 1
    assert "brokers.b: unknown option 'partitons' for kafka://; did you mean 'partitions'?" in result.err


def test_check_without_a_file(command: Command, file: Path) -> None:
    file.unlink()
    for name in ("check", "plan", "apply"):
        assert "no unimq.toml or [tool.unimq] from" in command(name).err


class Silent:
    schemes: ClassVar[Sequence[str]] = ("silent",)
    options: ClassVar[type[msgspec.Struct]] = msgspec.defstruct("Nothing", [])

    def connect(self, url: Any, options: Any, *, timeout: float) -> Any:
        raise AssertionError


def test_check_on_an_adapter_that_knows_nothing_offline(command: Command, file: Path) -> None:
    adapter = Silent()
    register_adapter(adapter)
    try:
        assert "knows nothing without a connection; unimq plan connects" in command("check", "--on", "silent://").err
    finally:
        unregister_adapter(adapter)


def test_what_is_known_offline_is_what_a_connection_says(tmp_path: Path) -> None:
    from unimq._adapters import load_adapter, read_options
    from unimq._url import parse_url
    from unimq.adapter import OfflineAdapter

    for url in ("memory://", f"sqlite:///{tmp_path}/q.db"):
        try:
            adapter = load_adapter(url.partition(":")[0])
        except unimq.ConfigError:
            continue  # The adapter of the example is not installed.
        assert isinstance(adapter, OfflineAdapter)
        options, _ = read_options(adapter, parse_url(url))
        with unimq.connect(url) as broker:
            assert adapter.offline_capabilities(parse_url(url), options) == broker.capabilities


# Plan and apply.


def test_plan_changes_nothing_and_apply_makes_everything_once(
    command: Command, file: Path, broker: unimq.Broker
) -> None:
    assert states(command, "plan") == dict.fromkeys(ALL, "missing")
    assert states(command, "plan") == dict.fromkeys(ALL, "missing")
    with pytest.raises(unimq.NotFound):
        broker.stats(Queue("plain"))
    assert states(command, "apply") == dict.fromkeys(ALL, "made")
    assert states(command, "apply") == dict.fromkeys(ALL, "there")
    assert states(command, "plan") == dict.fromkeys(ALL, "there")
    broker.declare(Queue("orders", max_length=10, lease=30))
    broker.delete(Queue("plain"))
    assert states(command, "plan") == {**dict.fromkeys(ALL, "there"), "plain": "missing"}
    assert states(command, "apply") == {**dict.fromkeys(ALL, "there"), "plain": "made"}


def test_a_conflict_is_told_and_then_nothing_is_made(command: Command, file: Path, broker: unimq.Broker) -> None:
    broker.declare(Queue("orders", max_length=11, lease=30))
    for name in ("plan", "apply"):
        result = command(name)
        assert result.code == 1
        assert "max_length is 11, not 10" in " ".join(result.out.decode().split())
        assert result.err == "error: 1 of 6 destinations cannot be as configured; made: nothing\n"
    with pytest.raises(unimq.NotFound):
        broker.stats(Queue("plain"))


def test_what_is_unsupported_is_told_and_then_nothing_is_made(
    command: Command, file: Path, broker: unimq.Broker
) -> None:
    file.write_text("queues.plain = {}\n[topics.events.subscriptions.old]\nstart = 'earliest'")
    result = command("apply", "--json")
    assert result.code == 1
    assert b'"events--old","kind":"subscription","state":"unsupported","reason":"start_earliest on memory' in result.out
    assert b"declare the subscription before sending" in result.out
    with pytest.raises(unimq.NotFound):
        broker.stats(Queue("plain"))


def test_an_apply_that_fails_half_way_says_how_far_it_came(
    command: Command, file: Path, broker: unimq.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unimq._broker import BrokerCore

    declare: Any = BrokerCore.declare

    def failing(core: BrokerCore, wanted: Any, **options: Any) -> Any:
        if wanted == Topic("events", require_subscription=True):
            raise unimq.ConnectionLost("gone")
        return declare(core, wanted, **options)

    monkeypatch.setattr(BrokerCore, "declare", failing)
    result = command("apply")
    assert result.code == 1
    assert "ConnectionLost: gone" in result.out.decode()
    assert result.err == "error: 3 of 6 destinations cannot be as configured; made: 3\n"
    monkeypatch.setattr(BrokerCore, "declare", declare)
    assert set(states(command, "apply").values()) == {"there", "made"}


def test_a_subscription_with_other_policies_is_told_and_then_nothing_is_made(
    command: Command, file: Path, broker: unimq.Broker
) -> None:
    broker.declare(Topic("events", require_subscription=True).subscription("audit", max_deliveries=6))
    for name in ("plan", "apply"):
        result = command(name)
        assert result.code == 1
        assert "max_deliveries is 6, not 5" in " ".join(result.out.decode().split())
        assert result.err == "error: 1 of 6 destinations cannot be as configured; made: nothing\n"
    with pytest.raises(unimq.NotFound):
        broker.stats(Queue("plain"))


# The other commands.


def test_url_takes_a_name_and_bare_names_have_their_policies(
    command: Command, file: Path, broker: unimq.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("send", "orders", "x")
    broker.declare(Queue("orders", max_length=10, lease=30))
    name = f"memory://named-{os.urandom(4).hex()}"
    file.write_text(TEXT.replace('"memory://"', f'"{name}"'))
    command("send", "orders", "y", "--url", "here")
    with unimq.connect(name) as other:
        assert other.stats("orders").ready == 1
    monkeypatch.delenv("UNIMQ_URL")
    assert command("receive", "orders", "--timeout", "0").lines == ["y"]
    assert command("capabilities", "here", "--json").documents[0]["backend"] == "memory"
