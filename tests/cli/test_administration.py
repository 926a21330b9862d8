"""`unimq stats`, `purge`, `declare`, `delete`, `capabilities`, `--version` and `--help`."""

import re
from importlib.metadata import version

import pytest

import unimq

from .conftest import Command

COMMANDS = [
    "up",
    "send",
    "receive",
    "stats",
    "purge",
    "declare",
    "delete",
    "seek",
    "capabilities",
    "verify",
    "redrive",
    "check",
    "plan",
    "apply",
    "bench",
]


@pytest.fixture
def filled(broker: unimq.Broker) -> unimq.Broker:
    audit = unimq.Topic("events").subscription("audit")
    broker.declare("orders", audit)
    with broker.producer("orders") as producer:
        producer.send_many([b"1", b"2", b"3"])
    with broker.producer(unimq.Topic("events")) as producer:
        producer.send(b"4")
    return broker


def test_stats_of_queues_and_subscriptions_as_json(command: Command, filled: unimq.Broker) -> None:
    documents = command("stats", "orders", "events--audit", "--json").documents
    assert [document["source"] for document in documents] == ["orders", "events--audit"]
    assert [document["ready"] for document in documents] == [3, 1]
    assert set(documents[0]) == {
        "source",
        "ready",
        "in_flight",
        "delayed",
        "oldest_age",
        "consumers",
        "dead_letters",
        "exact",
        "trouble",
    }
    assert command("stats", "events", "--subscription", "audit", "--json").documents[0]["ready"] == 1


def test_stats_as_a_table(command: Command, filled: unimq.Broker) -> None:
    lines = [line.split() for line in command("stats", "orders", "events--audit").lines]
    assert [line[:2] for line in lines if len(line) > 1] == [
        ["source", "ready"],
        ["orders", "3"],
        ["events--audit", "1"],
    ]


def test_stats_tell_of_trouble_with_the_connection(
    command: Command, filled: unimq.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stats(_broker: unimq.Broker, _source: unimq.Queue) -> unimq.Stats:
        return unimq.Stats(ready=3, trouble="no messages are taken")

    monkeypatch.setattr(unimq.Broker, "stats", stats)
    result = command("stats", "orders", "events--audit")
    assert (result.code, result.err) == (0, "warning: no messages are taken\n")
    assert b"trouble" not in result.out


def test_stats_of_what_is_missing_says_so(command: Command) -> None:
    result = command("stats", "orders")
    assert (result.code, result.out) == (1, b"")
    assert result.err.startswith("error: queue 'orders' does not exist")


def test_purge_drops_what_waits_and_says_how_many(command: Command, filled: unimq.Broker) -> None:
    assert command("purge", "orders", "--yes").lines == ["orders: 3 messages dropped"]
    assert command("purge", "orders", "events--audit", "--yes", "--json").documents == [
        {"source": "orders", "dropped": 0},
        {"source": "events--audit", "dropped": 1},
    ]


@pytest.mark.parametrize("arguments", [("purge", "orders"), ("delete", "orders")])
def test_what_cannot_be_undone_needs_a_yes(command: Command, filled: unimq.Broker, arguments: tuple[str, ...]) -> None:
    result = command(*arguments)
    assert (result.code, result.out) == (2, b"")
    assert "give --yes" in result.err
    assert filled.stats("orders").ready == 3


@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, 0), ("YES", 0, 0), ("n", 130, 3), ("", 130, 3)])
def test_at_a_terminal_the_question_is_asked(
    command: Command, filled: unimq.Broker, answer: str, code: int, left: int
) -> None:
    result = command("purge", "orders", stdin=f"{answer}\n".encode(), terminal=True)
    assert result.code == code
    assert result.err == "dropping all messages of orders cannot be undone. Go on? [y/N] "
    assert filled.stats("orders").ready == left


def test_declare_sets_policies(command: Command, broker: unimq.Broker) -> None:
    policies = ["--ordering", "key", "--ttl", "60", "--lease", "5", "--max-length", "9", "--max-deliveries", "3"]
    assert command("declare", "orders", *policies, "--overflow", "drop_oldest", "--no-dead-letter").lines == []
    broker.declare(
        unimq.Queue(
            "orders",
            ordering="key",
            ttl=60,
            lease=5,
            max_length=9,
            overflow="drop_oldest",
            max_deliveries=3,
            dead_letter=False,
        )
    )
    assert command("declare", "events", "--subscription", "audit", "--max-deliveries", "2").lines == []
    broker.declare(unimq.Topic("events").subscription("audit", max_deliveries=2))
    assert command("declare", "news", "--topic", "--ordering", "key").lines == []
    broker.declare(unimq.Topic("news", ordering="key"))


def test_declare_refuses_other_policies(command: Command, broker: unimq.Broker) -> None:
    broker.declare(unimq.Queue("orders", ttl=60))
    result = command("declare", "orders", "--ttl", "61")
    assert result.code == 1
    assert "ttl is 60.0, not 61.0" in result.err


def test_delete_takes_queues_subscriptions_and_topics(command: Command, filled: unimq.Broker) -> None:
    assert command("delete", "orders", "events--audit", "--yes").lines == []
    for gone in ("orders", unimq.Topic("events").subscription("audit")):
        with pytest.raises(unimq.NotFound):
            filled.stats(gone)
    assert command("send", "events", "x", "--topic", "--url", f"{filled._core.url}?declare=false").code == 0
    assert command("delete", "events", "--topic", "--yes").lines == []
    assert command("send", "events", "x", "--topic", "--url", f"{filled._core.url}?declare=false").code == 1


@pytest.mark.parametrize("by_argument", [False, True])
def test_capabilities_as_json(command: Command, broker: unimq.Broker, url: str, by_argument: bool) -> None:
    (document,) = command("capabilities", *([url] if by_argument else []), "--json").documents
    assert document["backend"] == "memory"
    for name, feature in broker.capabilities.features():
        assert document.pop(name) == {
            "support": feature.support.value,
            "note": feature.note,
            "alternative": feature.alternative,
        }
    assert document["attempts_exact"] is True
    assert document["max_message_bytes"] == broker.capabilities.max_message_bytes
    assert document["max_delay"] is None


def test_capabilities_as_a_table(command: Command, broker: unimq.Broker) -> None:
    text = "\n".join(command("capabilities").lines)
    for name, feature in broker.capabilities.features():
        (line,) = (line for line in text.splitlines() if line.split()[:1] == [name])
        assert feature.support.value in line
        assert feature.note in line
        assert feature.alternative in line
    assert re.search(rf"max_message_bytes +{broker.capabilities.max_message_bytes}\b", text)


def test_the_version_is_that_of_the_distribution(command: Command) -> None:
    assert command("--version").lines == [version("unimq")]


@pytest.mark.parametrize("arguments", [["--help"], [], *([name, "--help"] for name in COMMANDS)])
def test_help(command: Command, arguments: list[str]) -> None:
    text = "\n".join(command(*arguments).lines)
    assert text.startswith("Usage: unimq")
    for name in COMMANDS if len(arguments) < 2 else []:
        assert f" {name} " in text
