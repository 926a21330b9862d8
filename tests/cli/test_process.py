"""The command as a process: signals, pipes, what it loads, and what it starts."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

UNIMQ = Path(sys.executable).with_name("unimq")
REQUIRED = "UNIMQ_TAP_LOWEST" in os.environ
PEEKING = """
import sys, unimq
from unimq._cli import main

with unimq.connect("memory://") as broker, broker.producer("orders") as producer:
    producer.send_many([b"one", b"two", b"three"])
    code = 0
    try:
        code = main(["receive", "orders", "--peek", "--timeout", "60", "--url", "memory://"])
    except SystemExit as left:
        code = left.code
    print(code, broker.stats("orders").ready)
"""


def environment(**changed: str) -> dict[str, str]:
    # What is buffered at the end of the process is what can go wrong, so buffering is not to be switched off.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UNIMQ_", "PYTHONUNBUFFERED"))}
    return {**kept, **changed}


def run(*command: str | Path, **options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(part) for part in command],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=100,
        env=environment(**options),
    )


def started(*command: str | Path, **options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**options),
    )


def test_the_installed_command_sends() -> None:
    done = run(UNIMQ, "send", "orders", "hello", "--json", UNIMQ_URL="memory://")
    assert (done.returncode, done.stderr) == (0, "")
    assert set(json.loads(done.stdout)) == {"message_id", "position"}


def test_the_installed_command_passes_on_its_exit_code() -> None:
    done = run(UNIMQ, "stats", "orders")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no broker URL")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["verify", "--help"], ["send", "q", "x"]])
def test_starting_loads_no_client_and_no_pytest(arguments: list[str]) -> None:
    program = (
        "import sys; from unimq._cli import main; code = main(sys.argv[1:]); print(*sys.modules, sep='\\n',"
        " file=sys.stderr); sys.exit(code)"
    )
    done = run(sys.executable, "-I", "-c", program, *arguments, UNIMQ_URL="memory://")
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert done.returncode == 0
    assert "cyclopts" in loaded
    assert not loaded & {"pika", "confluent_kafka", "boto3", "botocore", "pytest", "unimq_contract"}


@pytest.mark.parametrize(
    ("client", "extra", "url"),
    [
        ("pika", "rabbitmq", "amqp://u:s3cret@127.0.0.1/"),
        ("confluent_kafka", "kafka", "kafka://127.0.0.1"),
        ("botocore", "sqs", "sqs://?region=eu-west-1"),
    ],
)
def test_a_missing_client_is_told_with_the_pip_line(client: str, extra: str, url: str) -> None:
    program = f"import sys; sys.modules[{client!r}] = None; from unimq._cli import main; sys.exit(main(sys.argv[1:]))"
    done = run(sys.executable, "-c", program, "stats", "orders", "--url", url)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert f"unimq[{extra}]" in done.stderr
    assert "s3cret" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_gives_back_what_is_held_and_shows_no_traceback(number: signal.Signals) -> None:
    with started(sys.executable, "-c", PEEKING) as process:
        assert process.stdout is not None
        printed = [process.stdout.readline() for _ in range(3)]
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert printed == ["one\n", "two\n", "three\n"]
    assert (out, err) == (f"{128 + number} 3\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_slow_line_is_sent_at_once_and_a_signal_ends_the_command(number: signal.Signals) -> None:
    with started(UNIMQ, "send", "orders", "--url", "memory://") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("one\n")
        process.stdin.flush()
        receipt = process.stdout.readline()
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert receipt.strip()
    assert (process.returncode, out, err) == (128 + number, "", "")


@pytest.mark.parametrize("arguments", [["send", "q", "x"], ["capabilities"], ["capabilities", "--json"], ["--help"]])
def test_a_reader_that_left_is_no_traceback(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [UNIMQ, *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=60,
            env=environment(UNIMQ_URL="memory://"),
        )
    finally:
        os.close(writing)
    # The help is printed by the parser's own console, which knows another code for it.
    assert (done.returncode, done.stderr) == (1 if arguments == ["--help"] else 141, b"")


def test_a_full_disk_is_an_error() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [UNIMQ, "send", "q", "x"],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            env=environment(UNIMQ_URL="memory://"),
        )
    assert (done.returncode, done.stderr) == (1, b"error: [Errno 28] No space left on device\n")


# Brokers on tap.


def unless_missing(done: "subprocess.CompletedProcess[str]") -> "subprocess.CompletedProcess[str]":
    """Skip where the broker is not installed, unless CI says that it must be."""
    if done.returncode == 1 and "Run: make brokers" in done.stderr and not REQUIRED:
        pytest.skip(done.stderr.strip())
    return done


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "scheme"), [("rabbitmq", "amqp"), ("sqs", "sqs+http")])
def test_up_runs_a_command_with_the_url_and_stops_the_broker(backend: str, scheme: str) -> None:
    program = "import os, sys; print(os.environ['UNIMQ_URL']); sys.exit(7)"
    done = unless_missing(run(UNIMQ, "up", backend, "--", sys.executable, "-c", program))
    assert done.returncode == 7
    # Standard output is the command's alone.
    (url,) = done.stdout.splitlines()
    assert url.startswith(f"{scheme}://")
    assert done.stderr.startswith(f"{backend}: ")
    assert done.stderr.count("\n") == 1
    assert not listens(url)


def listens(url: str) -> bool:
    import socket
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname, parts.port or 0), 1).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_alone_stays_until_a_signal(number: signal.Signals) -> None:
    with started(UNIMQ, "up", "sqs", "--json") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        listened = bool(line) and listens(json.loads(line)["url"])
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    if not line:
        unless_missing(subprocess.CompletedProcess([], process.returncode, out, err))
    assert (process.returncode, out, err) == (0, "", "")
    tap: dict[str, str] = json.loads(line)
    assert (tap["backend"], listened) == ("sqs", True)
    assert not listens(tap["url"])


@pytest.mark.slow
def test_up_passes_sigterm_on_and_outlives_its_command() -> None:
    program = (
        "import os, signal, socket, sys, time; from urllib.parse import urlsplit\n"
        "def end(*_):\n"
        "    parts = urlsplit(os.environ['UNIMQ_URL'])\n"
        "    socket.create_connection((parts.hostname, parts.port), 1).close()\n"
        "    sys.exit(9)\n"
        "signal.signal(signal.SIGTERM, end); print('ready', flush=True); signal.pause()"
    )
    with started(UNIMQ, "up", "sqs", "--", sys.executable, "-c", program) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    if not ready:
        unless_missing(subprocess.CompletedProcess([], process.returncode, out, err))
    assert (process.returncode, out) == (9, "")
    assert "Traceback" not in err


@pytest.mark.slow
def test_up_says_when_the_command_does_not_exist() -> None:
    done = unless_missing(run(UNIMQ, "up", "sqs", "--", "/no/such/program"))
    assert done.returncode == 127
    assert done.stderr.splitlines()[1:] == ["error: /no/such/program: No such file or directory"]


@pytest.mark.slow
def test_up_passes_on_the_signal_that_killed_its_command() -> None:
    done = unless_missing(run(UNIMQ, "up", "sqs", "--", "sh", "-c", "kill -9 $$"))
    assert done.returncode == 128 + signal.SIGKILL


def test_up_says_what_is_wrong_with_a_broker_that_is_given() -> None:
    done = run(UNIMQ, "up", "rabbitmq", UNIMQ_TEST_RABBITMQ_URL="amqp://user:s3cret@127.0.0.1:1/")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: the broker in UNIMQ_TEST_RABBITMQ_URL is not available")
    assert "s3cret" not in done.stderr


# The contract suite.


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--collect-only", "-q"], 0, "tests collected"),
        (["-q", "-k", "no_such_test"], 5, "deselected"),
        (["--no-such-option"], 4, "unrecognized arguments: --no-such-option"),
    ],
)
def test_verify_runs_the_suite_and_passes_on_its_exit_code(options: list[str], code: int, text: str) -> None:
    done = run(UNIMQ, "verify", "memory://", "--", *options)
    assert (done.returncode, text in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr


def test_verify_takes_the_url_from_the_environment() -> None:
    done = run(UNIMQ, "verify", UNIMQ_URL="memory://?nonsense=1")
    assert done.returncode == 1
    assert done.stderr.startswith("error: unknown option 'nonsense'")
