"""The command from start to end: the smoke profile, which checks accounting and never speed, Ctrl-C, and bad input."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from unimq_bench import results

UNIMQ = Path(sys.executable).with_name("unimq")
SMOKE = ("calibrate", "publish_max", "e2e_low", "fault")


def run(*arguments: str | Path, timeout: float = 110) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UNIMQ_")}
    return subprocess.run(
        [UNIMQ, "bench", *map(str, arguments)], check=False, capture_output=True, text=True, timeout=timeout, env=kept
    )


@pytest.mark.slow
def test_the_smoke_profile_accounts_for_every_message(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    done = run(*SMOKE, "--on", "memory", "--rows", "unimq", "--profile", "smoke", "--seed", "7", "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    found = results.read(out)
    assert found.workloads == SMOKE
    assert (found.profile, found.seed, found.partial) == ("smoke", 7, False)
    assert {run.workload for run in found.runs} == set(SMOKE)
    for each in found.runs:
        counts = each.accounting
        assert counts.sent == counts.acked > 0
        assert counts.judged
        faults = (counts.lost, counts.corrupted, counts.unknown, counts.duplicated)
        assert faults == (0, 0, 0, counts.duplicated if each.workload == "fault" else 0)
        assert counts.received == counts.sent + counts.duplicated
    assert {row.durability for row in found.rows} == {"memory"}
    assert all(row.in_process for row in found.rows)
    assert found.ratios
    assert found.environment.python
    assert found.environment.switch_interval > 0
    assert found.environment.recorder_ns > 0
    latency = next(each for each in found.runs if each.workload == "e2e_low")
    assert set(latency.histograms) == {"response", "service", "blocked", "lateness"}
    assert len(latency.timeline) > 3
    assert "messages sent" in done.stdout


@pytest.mark.slow
def test_an_opened_gate_is_told_in_the_result(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    arguments = ("publish_max", "--on", "memory", "--rows", "unimq", "--profile", "smoke", "--out", out)
    assert run(*arguments, "--foreign", "1.5").returncode == 0
    assert any("allowed 1.5 cores instead of 0.2" in note for note in results.read(out).notes)
    assert run(*arguments).returncode == 0
    assert not any("allowed" in note for note in results.read(out).notes)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_what_was_found(tmp_path: Path, number: int, code: int) -> None:
    out = tmp_path / "result.json"
    arguments = ["publish_max", "e2e_low", "--on", "memory", "--rows", "unimq", "--profile", "smoke"]
    process = subprocess.Popen(
        [UNIMQ, "bench", *arguments, "--set", "seconds=20", "--set", "messages=500", "--out", out],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(100, process.kill)
    watchdog.start()
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("e2e_low"):
                process.send_signal(number)
                break
        text, errors = process.communicate()
    finally:
        watchdog.cancel()
    assert process.returncode == code, text + errors
    found = results.read(out)
    assert found.partial
    assert {each.workload for each in found.runs} == {"publish_max"}
    assert any("interrupted" in note for note in found.notes)
    if number == signal.SIGINT:
        assert "(PARTIAL)" in text


@pytest.mark.slow
def test_the_document_on_standard_output_is_the_result(tmp_path: Path) -> None:
    done = run("publish_max", "--on", "memory", "--rows", "unimq", "--profile", "smoke", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["schema"] == results.SCHEMA
    assert results.decoded(done.stdout.encode()).runs


def test_without_a_workload_they_are_listed() -> None:
    done = run()
    assert done.returncode == 0
    for name in (*SMOKE, "overhead", "article_table"):
        assert name in done.stdout
