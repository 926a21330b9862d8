"""The examples run, account for every message, and say so when one is lost or comes twice."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
FAULTY = Path(__file__).parent / "faulty_example.py"

SMALL = {
    "order_processing.py": ("--orders", "1000", "--workers", "3"),
    "log_processing.py": ("--lines", "400", "--workers", "3"),
    "realtime_analytics.py": ("--events", "600", "--hours-per-second", "0"),
    "pubsub.py": ("--events", "600"),
    "request_reply.py": ("--customers", "400", "--clients", "8"),
}
RECONCILED = {
    "order_processing.py": "Reconciled: 1000 orders in = 996 fulfilled + 4 dead-lettered",
    "log_processing.py": "Reconciled: 901 lines in = 891 parsed + 10 dead-lettered = 901 archived",
    "realtime_analytics.py": "Reconciled: 600 events in = ",
    "pubsub.py": "Reconciled: 600 events out = 600 archived, ",
    "request_reply.py": "Reconciled: 400 requests = 400 replies",
}


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "UNIMQ_URL"}
    return subprocess.run(
        [sys.executable, "-W", "error", *command],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=clean | environment,
    )


@pytest.mark.parametrize("example", SMALL)
def test_it_reconciles_by_default_in_memory_and_is_quiet_without_a_terminal(example: str) -> None:
    done = run(EXAMPLES / example, *SMALL[example])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith(RECONCILED[example])
    assert "\x1b" not in done.stdout
    assert "WRONG" not in done.stdout


@pytest.mark.parametrize(
    ("example", "fault", "destination", "wrong"),
    [
        ("order_processing.py", "lose", "orders-", "orders fulfilled: expected 996, found 995"),
        ("order_processing.py", "repeat", "orders-", "orders that came twice as if new: expected 0, found 1"),
        ("order_processing.py", "lose", "order-status-", "statuses: expected 1992, found 1991"),
        ("log_processing.py", "lose", "logs-", "lines archived: expected 901, found "),
        ("log_processing.py", "repeat", "logs-", "lines that came twice as if new: expected 0, found "),
        ("realtime_analytics.py", "lose", "earthquakes-", "events in all windows: expected 2400, found 2396"),
        ("realtime_analytics.py", "lose", "activity-", "windows with other figures than the file's"),
        ("pubsub.py", "lose", "quakes-", "archived: expected 600, found 598"),
        ("pubsub.py", "repeat", "quakes-", "events that came twice as if new: expected 0, found 7"),
        ("request_reply.py", "lose", "accounts-", "replies: expected 400, found 399"),
        ("request_reply.py", "lose", "unimq-reply-", "replies: expected 400, found 39"),
    ],
)
def test_it_does_not_add_up_when_the_broker_loses_or_repeats_a_message(
    example: str, fault: str, destination: str, wrong: str
) -> None:
    done = run(FAULTY, fault, destination, example, *SMALL[example], "--patience", "1")
    assert (done.returncode, done.stderr) == (1, "")
    assert f"WRONG  {wrong}" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("DOES NOT ADD UP")


@pytest.mark.parametrize("example", SMALL)
def test_the_url_comes_from_the_environment_and_errors_are_one_line(example: str) -> None:
    done = run(EXAMPLES / example, UNIMQ_URL="nonsense://:secret@host")
    assert done.returncode == 2
    assert done.stderr.startswith("ConfigError: no adapter for scheme 'nonsense'")
    assert len(done.stderr.splitlines()) == 1
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    ("example", "destination"),
    [
        ("order_processing.py", "orders-"),
        ("log_processing.py", "logs-"),
        ("realtime_analytics.py", "earthquakes-"),
        ("pubsub.py", "quakes-"),
        ("request_reply.py", "accounts-"),
    ],
)
def test_interrupted_it_leaves_nothing_behind(example: str, destination: str) -> None:
    done = run(FAULTY, "interrupt", destination, example, *SMALL[example])
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "Interrupted; what this run had declared is deleted.\n"


@pytest.mark.parametrize("example", SMALL)
def test_progress_is_shown_on_a_terminal(example: str) -> None:
    pytest.importorskip("rich")
    import pty

    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, EXAMPLES / example, *SMALL[example]],
        stdin=subprocess.DEVNULL,
        stdout=follower,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    ) as running:
        os.close(follower)
        shown = b""
        try:
            while part := os.read(leader, 65536):
                shown += part
        except OSError:
            # Linux reports the end of a terminal whose other side is closed as an error.
            pass
        finally:
            os.close(leader)
    assert running.returncode == 0
    assert b"\x1b[" in shown
    assert RECONCILED[example].encode() in shown


def test_the_data_is_small_and_its_sources_are_named() -> None:
    described = (EXAMPLES / "data" / "README.md").read_text(encoding="utf-8")
    files = sorted((EXAMPLES / "data").glob("*.gz"))
    assert len(files) == 5
    for file in files:
        assert f"`{file.name}`" in described
        assert file.stat().st_size <= 400_000
        with gzip.open(file) as lines:
            assert sum(1 for _ in lines) > 100
