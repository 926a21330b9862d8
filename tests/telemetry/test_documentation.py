"""docs/telemetry.md: its programs run, and it names what there is, no more and no less."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/telemetry.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"^\$ unimq top (.*)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_runs_and_prints_what_is_said(program: str, tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry")
    pytest.importorskip("prometheus_client")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    if done.stdout:
        assert f"It prints `{done.stdout.strip()}`" in PAGE


def test_there_are_such_programs() -> None:
    assert len(PROGRAMS) == 2
    assert len(COMMANDS) == 3


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_has_the_options_that_are_shown(words: str) -> None:
    app = pytest.importorskip("unimq._cli._commands").app
    command, bound, _ = app.parse_args(["top", *words.split()])
    assert command.__name__ == "top"
    assert bound.arguments


def section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_every_metric_for_prometheus_is_named() -> None:
    pytest.importorskip("prometheus_client")
    from prometheus_client import CollectorRegistry

    from unimq.prometheus import Prometheus

    registry = CollectorRegistry()
    Prometheus(registry=registry)
    there = {f"{family.name}{'_total' if family.type == 'counter' else ''}" for family in registry.collect()}
    assert set(re.findall(r"`(unimq_\w+)`", section("Prometheus"))) == there


def test_every_metric_of_opentelemetry_is_named() -> None:
    source = (ROOT / "unimq/telemetry.py").read_text(encoding="utf-8")
    there = set(re.findall(r'"((?:messaging\.(?:client|process)|unimq)\.[\w.]+)"', source))
    # Attributes, not metrics.
    there -= {"unimq.action", "unimq.delivery.attempt", "unimq.settlement"}
    named = set(re.findall(r"^\| `([\w.]+)` \| (?:counter|up-down|histogram)", section("OpenTelemetry"), re.MULTILINE))
    assert named == there
    for depth in ("ready", "in_flight", "delayed", "oldest_age", "consumers", "dead_letters"):
        assert f"`unimq.queue.{depth}`" in section("OpenTelemetry") or f"`.{depth}`" in section("OpenTelemetry")


def test_every_event_of_the_log_is_named() -> None:
    said = {
        event
        for folder in (ROOT / "unimq", ROOT / "adapters")
        for file in folder.rglob("*.py")
        for event in re.findall(r'\bsay\(\s*"([\w-]+)"', file.read_text(encoding="utf-8"))
    }
    rows = re.findall(r"^\| (`.*?`) \| (?:warning|error) \|", section("The log"), re.MULTILINE)
    assert {event for row in rows for event in re.findall(r"`([\w-]+)`", row)} == said
