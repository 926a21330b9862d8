"""How the suite is found, parametrised and reported: the plugin in sessions of its own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from unimq_contract.brokers.kafka_mock import LIMITS as MOCK_LIMITS

Run = Callable[..., subprocess.CompletedProcess[str]]

ONE_TEST = "test_a_message_arrives_once_and_is_gone_after_its_ack"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs pytest with the plugin in an empty folder."""

    def runs(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "unimq_contract.plugin", "-p", "no:cacheprovider", *arguments],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    return runs


def test_the_installed_suite_runs_on_a_url_in_both_fronts(run: Run) -> None:
    done = run("--pyargs", "unimq_contract", "--unimq-url", "memory://mine", "-v", "-k", ONE_TEST)
    assert done.returncode == 0, done.stdout + done.stderr
    for front in ("sync", "asyncio"):
        assert f"{ONE_TEST}[memory://mine-{front}] PASSED" in done.stdout
    assert "unimq contract on memory://mine" in done.stdout
    assert "holds:       S1 R1 A1" in done.stdout


def test_urls_may_be_several_and_passwords_are_not_shown(run: Run) -> None:
    done = run(
        *("--pyargs", "unimq_contract", "--collect-only", "-q", "-k", ONE_TEST),
        *("--unimq-url", "memory://a", "--unimq-url", "amqp://guest:s3cret@127.0.0.1:1/?x=y"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{ONE_TEST}[memory://a-sync]" in done.stdout
    assert f"{ONE_TEST}[amqp://127.0.0.1:1-sync]" in done.stdout
    assert "s3cret" not in done.stdout


def test_without_a_broker_nothing_passes(run: Run) -> None:
    done = run("--pyargs", "unimq_contract")
    assert done.returncode != 0
    assert "--unimq-url URL" in done.stdout + done.stderr


def test_an_unknown_backend_is_an_error_that_names_the_known(run: Run) -> None:
    done = run("--pyargs", "unimq_contract", "--unimq-backends", "memory,pigeons")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "pigeons" in done.stderr
    assert "memory, rabbitmq, kafka, sqs, sqs-elasticmq" in done.stderr


def test_the_emulators_of_sqs_are_backends_that_show_what_they_are(run: Run) -> None:
    done = run(
        *("--pyargs", "unimq_contract", "--collect-only", "-q", "-k", ONE_TEST),
        *("--unimq-backends", "sqs,sqs-elasticmq"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{ONE_TEST}[sqs(emulator)-sync]" in done.stdout
    assert f"{ONE_TEST}[sqs-elasticmq(emulator)-sync]" in done.stdout


def test_what_the_mock_of_kafka_cannot_show_is_skipped_by_name_with_the_reason(run: Run) -> None:
    done = run(
        *("--pyargs", "unimq_contract", "--unimq-backends", "kafka-mock"),
        *("-rs", "-k", " or ".join((ONE_TEST, *MOCK_LIMITS))),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed, " in done.stdout
    for why in MOCK_LIMITS.values():
        assert f"not on kafka-mock(emulator): {why}" in done.stdout
    assert "mock cluster of librdkafka of confluent-kafka" in done.stdout


def test_a_missing_broker_is_skipped_loudly(run: Run) -> None:
    done = run(
        *("--pyargs", "unimq_contract", "--unimq-backends", "memory,rabbitmq", "-k", ONE_TEST),
        UNIMQ_TAP_LOWEST="url",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert "NOT TESTED: " in done.stdout
    assert "UNIMQ_TEST_RABBITMQ_URL" in done.stdout


def test_a_missing_broker_is_an_error_where_all_are_required(run: Run) -> None:
    done = run(
        *("--pyargs", "unimq_contract", "--unimq-backends", "memory,rabbitmq"),
        UNIMQ_TAP_LOWEST="url",
        UNIMQ_REQUIRE_BACKENDS="1",
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "UNIMQ_TEST_RABBITMQ_URL" in done.stderr


def test_third_parties_subclass_a_family_and_give_a_url(run: Run, tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "from unimq_contract.suite import OrderingContract, SendContract\n"
        "class TestSend(SendContract):\n"
        "    url = 'memory://theirs'\n"
    )
    done = run("test_mine.py", "-v", "-k", ONE_TEST)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"TestSend::{ONE_TEST}[memory://theirs-sync] PASSED" in done.stdout
    # Importing a family does not run it once more.
    assert "2 passed" in done.stdout


def test_a_failing_assertion_shows_its_values(run: Run, tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "import unimq\n"
        "from unimq_contract.suite import SendContract\n"
        "def broken(self, *args, **named):\n"
        "    return unimq.Receipt('nobody')\n"
        "unimq.Producer.send = broken\n"
        "class TestSend(SendContract):\n"
        "    url = 'memory://theirs'\n"
    )
    done = run("test_mine.py", "-k", "test_the_receipt_names_the_message and sync")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "AssertionError: assert 'nobody' == 'my-own-id'" in done.stdout
    assert "BROKEN:      S1 R2" in done.stdout


def test_brokers_can_be_started_without_pytest(tmp_path: Path) -> None:
    program = "import sys; sys.modules['pytest'] = None; import unimq_contract.brokers as b; print(b.BACKENDS)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "rabbitmq" in done.stdout


def test_a_test_without_a_guarantee_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "from unimq_contract.contract import Contract\n"
        "class TestMine(Contract):\n"
        "    url = 'memory://theirs'\n"
        "    def test_something(self, broker):\n"
        "        assert broker\n"
    )
    done = run("test_mine.py")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "test_something" in done.stderr


def test_a_feature_that_is_declared_and_tested_by_nothing_fails_the_run(run: Run, tmp_path: Path) -> None:
    """All tests that need it are skipped, for whatever other reason than that it is declared unsupported."""
    (tmp_path / "test_family.py").write_text(
        """
import pytest
from unimq_contract.contract import Contract
from unimq_contract.guarantees import guarantee, needs

class TestFamily(Contract):
    url = "memory://"

    @needs("delay")
    @guarantee("T2")
    def test_delay(self, broker, harness):
        pytest.skip("not today")

    @needs("ttl")
    @guarantee("T1")
    def test_ttl(self, broker, harness, request):
        if request.config.getoption("--unimq-stress") > 1:
            pytest.skip("not under stress")
        assert broker.capabilities.ttl

    @needs("durable")
    @guarantee("S1")
    def test_durable(self, broker, harness):
        raise AssertionError("memory declares that unsupported")
"""
    )
    done = run("test_family.py", "--import-mode=importlib")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "memory:// declares delay, and no test of it ran" in done.stdout
    assert "declares ttl" not in done.stdout
    assert "declares durable, and" not in done.stdout
    assert run("test_family.py", "--import-mode=importlib", "-k", "not delay").returncode == pytest.ExitCode.OK
    stressed = run("test_family.py", "--import-mode=importlib", "-k", "not delay", "--unimq-stress", "2")
    assert stressed.returncode == pytest.ExitCode.TESTS_FAILED, stressed.stdout
