"""The broker of every example is one line of examples/unimq.toml; every broker of that file is one that can be used."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unimq._adapters import load_adapter, read_options
from unimq._configuration import read_configuration
from unimq._url import parse_url
from unimq.adapter import OfflineAdapter

EXAMPLES = Path(__file__).parents[2] / "examples"
TEXT = (EXAMPLES / "unimq.toml").read_text(encoding="utf-8")
SMALL = {
    "order_processing.py": ("--orders", "100"),
    "log_processing.py": ("--lines", "100"),
    "realtime_analytics.py": ("--events", "100", "--hours-per-second", "0"),
    "pubsub.py": (),
    "request_reply.py": (),
}


def run(example: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / example, *SMALL[example], "--patience", "5", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=dict(os.environ) | environment,
    )


@pytest.mark.slow
@pytest.mark.parametrize("example", SMALL)
def test_the_broker_is_one_line_of_the_file(example: str, folder: Path) -> None:
    # What this broker takes is too small for the messages of any example, which proves that it is the one in use.
    text = TEXT + '\n[brokers.tiny]\nurl = "memory://"\nmax_message_bytes = 1\n'
    config = folder / "examples.toml"
    config.write_text(text)
    assert run(example, UNIMQ_CONFIG=str(config)).returncode == 0
    config.write_text(text.replace('default = "memory"', 'default = "tiny"'))
    for done in (run(example, UNIMQ_CONFIG=str(config)), run(example, "--url", "tiny", UNIMQ_CONFIG=str(config))):
        assert done.returncode == 2
        assert "MessageTooLarge" in done.stderr
    assert run(example, "--url", "memory://", UNIMQ_CONFIG=str(config)).returncode == 0


def test_the_file_of_the_examples_is_one_for_every_backend() -> None:
    found = read_configuration(EXAMPLES / "unimq.toml")
    backends: set[str] = set()
    for name in found.brokers:
        url, _ = found.named(name)
        adapter = load_adapter(url.scheme)
        assert isinstance(adapter, OfflineAdapter)
        backends.add(adapter.offline_capabilities(url, read_options(adapter, url)[0]).backend)
    assert backends == {"memory", "rabbitmq", "kafka", "sqs"}


def test_what_the_example_adapter_knows_offline_is_what_a_connection_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(EXAMPLES / "sqlite-adapter"), *sys.path])
    adapter = importlib.import_module("unimq_sqlite").SQLiteAdapter()
    assert isinstance(adapter, OfflineAdapter)
    url = parse_url(f"sqlite:///{folder}/q.db")
    options, _ = read_options(adapter, url)
    known = adapter.offline_capabilities(url, options)
    assert not (folder / "q.db").exists()
    driver = adapter.connect(url, options, timeout=5)
    try:
        assert driver.capabilities == known
    finally:
        driver.close(5)
