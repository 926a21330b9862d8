"""Which broker and which file: argument, UNIMQ_URL, UNIMQ_BROKER, default; and what bare names then mean."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import unimq
from unimq import ConfigError, DeclarationConflict, Queue, Subscription, Topic
from unimq._configuration import find_configuration
from unimq.adapter import BrokerURL

from .conftest import Write

BROKERS = """
default = "first"
[brokers]
first.url = "memory://first"
second.url = "memory://second"
"""


def connected(*arguments: Any, **options: Any) -> str:
    """Where both fronts connect to."""
    with unimq.connect(*arguments, **options) as broker:
        url: BrokerURL = broker._core.url

    async def asynchronously() -> BrokerURL:
        async with unimq.connect_async(*arguments, **options) as broker:
            return broker._core.url

    assert asyncio.run(asynchronously()) == url
    return str(url)


def test_precedence(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write(BROKERS)
    assert connected() == "memory://first"
    monkeypatch.setenv("UNIMQ_BROKER", "second")
    assert connected() == "memory://second"
    monkeypatch.setenv("UNIMQ_URL", "memory://third")
    assert connected() == "memory://third"
    assert connected("first") == "memory://first"
    assert connected("memory://fourth") == "memory://fourth"
    monkeypatch.setenv("UNIMQ_URL", "")
    monkeypatch.setenv("UNIMQ_BROKER", "")
    assert connected() == "memory://first"


def test_the_file_that_is_named_is_the_one(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write(BROKERS)
    other = write(BROKERS.replace("memory://first", "memory://other"), "other.toml")
    third = write(BROKERS.replace("memory://first", "memory://third"), "third.toml")
    monkeypatch.setenv("UNIMQ_CONFIG", str(other))
    assert connected() == "memory://other"
    assert connected(config=third) == "memory://third"
    assert connected("first", config=str(third)) == "memory://third"


def test_the_nearest_file_upwards_is_found(folder: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    upper = write(BROKERS)
    write("[tool.other]", "a/pyproject.toml")
    (folder / "a" / "b").mkdir()
    monkeypatch.chdir(folder / "a" / "b")
    assert find_configuration().path == upper
    middle = write("[tool.unimq]\nqueues.orders.ttl = 3", "a/pyproject.toml")
    assert find_configuration().path == middle
    assert find_configuration().destinations == {"orders": Queue("orders", ttl=3)}
    assert find_configuration(upper).path == upper
    near = write("", "a/unimq.toml")
    assert find_configuration().path == near


@pytest.mark.parametrize("end", ["repository", "home", "writable"])
def test_where_the_search_ends(folder: Path, write: Write, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    upper = write(BROKERS)
    inner = folder / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert find_configuration().path == upper
    if end == "repository":
        (folder / "a" / ".git").touch()
    elif end == "home":
        monkeypatch.setenv("HOME", str(folder / "a"))
    else:
        (folder / "a").chmod(0o777)
    assert find_configuration().path is None


def test_a_working_directory_that_is_gone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert find_configuration().path is None


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("frist", "no broker 'frist' in .*: did you mean 'first'"),
        ("", "no broker of that name in .*a broker URL looks like scheme://host:port"),
        ("amqp:/user:s3cr3t@host", "no broker of that name in"),
    ],
)
def test_names_that_are_not_there(write: Write, name: str, what: str) -> None:
    write(BROKERS)
    with pytest.raises(ConfigError, match=what) as caught:
        unimq.connect(name)
    assert "s3cr3t" not in str(caught.value)


def test_nothing_at_all(folder: Path, write: Write) -> None:
    with pytest.raises(ConfigError, match=r"there is no unimq\.toml; .* set UNIMQ_URL or UNIMQ_BROKER"):
        unimq.connect()
    path = write("")
    with pytest.raises(ConfigError, match=f"{path} names no default"):
        unimq.connect()


DESTINATIONS = """
queues.orders.max_deliveries = 3
topics.events.require_subscription = true
topics.events.subscriptions.audit.max_deliveries = 2
"""


@pytest.mark.parametrize("declare", ["", "&declare=false"])
def test_bare_names_have_the_policies_of_the_file(write: Write, declare: str) -> None:
    write(DESTINATIONS)
    topic = Topic("events", require_subscription=True)
    audit = topic.subscription("audit", max_deliveries=2)
    with unimq.connect(f"memory://bare{len(declare)}?max_message_bytes=9{declare}") as broker:
        if declare:
            broker.declare("orders", "events--audit")
        assert broker.producer("orders")._core.target == Queue("orders", max_deliveries=3)
        assert broker.producer("events")._core.target == topic
        assert broker.consumer("events--audit")._core.source == audit
        broker.declare(Queue("orders", max_deliveries=3), audit)
        with pytest.raises(ConfigError, match="is a topic"):
            broker.consumer("events")
        assert broker.consumer("elsewhere" if not declare else "orders-dead") is not None
        broker.delete("events")
        with pytest.raises(unimq.NotFound):
            broker.stats("events--audit")


def test_an_existing_destination_with_other_policies_is_a_conflict(write: Write) -> None:
    write(DESTINATIONS)
    with unimq.connect("memory://?private=true") as broker:
        broker.declare(Queue("orders", max_deliveries=4))
        assert broker.producer("orders")._core.target == Queue("orders", max_deliveries=4), "the program comes first"
    with unimq.connect("memory://conflict") as other, unimq.connect("memory://conflict") as broker:
        other.declare(Queue("orders", max_deliveries=4))
        with pytest.raises(DeclarationConflict, match="max_deliveries is 4, not 3"):
            broker.consumer("orders")
        other.delete(Queue("orders"))


def test_a_broken_file_is_told_when_a_bare_name_needs_it_and_not_before(write: Write) -> None:
    path = write("queues.orders.tll = 3")
    with unimq.connect("memory://") as broker:
        assert broker.stats(broker._core.declare(Queue("fine"))).ready == 0  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=f"{path}: queues.orders.tll: unknown key; did you mean 'ttl'"):
            broker.producer("orders")
        broker.delete(Queue("fine"))


def test_errors_of_a_broker_name_its_table(write: Write) -> None:
    path = write(
        "brokers.a = {url = 'memory://', privte = true}\nbrokers.b.url = 'memory://h:1'\n[brokers.c]\nurl='x:y'"
    )
    for name, what in (
        ("a", "unknown option 'privte' for memory://; did you mean 'private'"),
        ("b", "expected memory:// or memory://NAME"),
    ):
        with pytest.raises(ConfigError) as caught:
            unimq.connect(name)
        assert str(caught.value).startswith(f"{path}: brokers.{name}: ")
        assert what in str(caught.value)
    with pytest.raises(ConfigError, match=r"brokers\.c\.url: a broker URL looks like"):
        unimq.connect("c")


def test_nothing_of_it_is_imported_for_a_url_and_declared_objects(folder: Path) -> None:
    program = (
        "import sys, unimq\n"
        "with unimq.connect('memory://') as broker:\n"
        "    broker.producer(unimq.Queue('q')).send(b'')\n"
        "    assert not {'tomllib', 'unimq._configuration'} & sys.modules.keys()\n"
        "    broker.producer('r')\n"
        "    assert 'unimq._configuration' in sys.modules and 'tomllib' not in sys.modules\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, env=dict(os.environ)).returncode == 0


def test_a_subscription_of_the_file_is_one(write: Write) -> None:
    write(DESTINATIONS)
    assert isinstance(find_configuration().destinations["events--audit"], Subscription)
