"""Which rung is chosen, and what is said when there is none."""

import json
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from unimq_contract.brokers import BACKENDS, BrokerUnavailable, accepted_rungs, start
from unimq_contract.brokers.tap import Tap, mask_password

pytestmark = pytest.mark.usefixtures("bare_ladder")


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing is installed and no Docker engine is found."""
    monkeypatch.setenv("UNIMQ_BROKERS_HOME", str(tmp_path / "brokers"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    monkeypatch.setattr("unimq_contract.brokers.rabbitmq._SYSTEM", tmp_path)
    return tmp_path


@pytest.fixture
def amqp_port() -> Iterator[int]:
    """A server that greets like RabbitMQ 9.8.7 and knows nothing else."""
    version = b"\x07versionS" + struct.pack(">I", 5) + b"9.8.7"
    body = struct.pack(">HH", 10, 10) + b"\x00\x09" + struct.pack(">I", len(version)) + version
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer:
                    assert peer.recv(8) == b"AMQP\x00\x00\x09\x01"
                    peer.sendall(b"\x01\x00\x00" + struct.pack(">I", len(body)) + body + b"\xce")

        thread = threading.Thread(target=serve)
        thread.start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_given_url_is_used_and_its_broker_is_not_ours(amqp_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"amqp://me:hidden@127.0.0.1:{amqp_port}/"
    monkeypatch.setenv("UNIMQ_TEST_RABBITMQ_URL", url)
    with start("rabbitmq") as running:
        tap = running.tap
        assert (running.url, tap.rung, tap.version, tap.label) == (url, "url", "9.8.7", "real")
        assert running.pids == ()
        for told in (repr(tap), tap.describe(), tap.to_json(), tap.public_url):
            assert "hidden" not in told
        for fault in (running.kill, running.restart, running.suspend, running.resume):
            with pytest.raises(BrokerUnavailable, match="not ours"):
                fault()


def test_one_answering_node_of_a_given_cluster_suffices(amqp_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        dead = held.getsockname()[1]
    monkeypatch.setenv("UNIMQ_TEST_RABBITMQ_URL", f"amqp://me:hidden@127.0.0.1:{dead},127.0.0.1:{amqp_port}/")
    tap = start("rabbitmq").tap
    assert tap.version == "9.8.7"
    assert tap.nodes == (f"127.0.0.1:{dead}", f"127.0.0.1:{amqp_port}")


def test_a_given_url_that_does_not_answer_is_not_replaced_by_another_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    monkeypatch.setenv("UNIMQ_TEST_KAFKA_URL", f"kafka://me:hidden@127.0.0.1:{port}")
    with pytest.raises(BrokerUnavailable, match="does not answer") as caught:
        start("kafka")
    assert "UNIMQ_TEST_KAFKA_URL" in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("kafka://127.0.0.1:9092", "'kafka' is not a scheme of rabbitmq"),
        ("127.0.0.1", "'no scheme' is not a scheme"),
        ("amqp://127.0.0.1:notaport/", "not a URL"),
    ],
)
def test_a_wrong_url_is_named(url: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIMQ_TEST_RABBITMQ_URL", url)
    with pytest.raises(BrokerUnavailable, match=says):
        start("rabbitmq")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("empty_home")
def test_a_missing_broker_says_of_each_rung_why_and_how_to_get_it(backend: Literal["rabbitmq", "kafka", "sqs"]) -> None:
    with pytest.raises(BrokerUnavailable) as caught:
        start(backend)
    text = str(caught.value)
    assert f"UNIMQ_TEST_{backend.upper()}_URL is not set" in text
    assert "Docker: no engine answers" in text
    assert f"python -m unimq_contract.brokers install {backend}" in caught.value.how_to_get_it


@pytest.mark.usefixtures("empty_home")
def test_a_missing_generation_is_named_with_the_command_that_fetches_it() -> None:
    with pytest.raises(BrokerUnavailable, match="install rabbitmq --generation 3"):
        start("rabbitmq", generation="3")


@pytest.mark.parametrize(
    ("setting", "rabbitmq", "sqs"),
    [
        (None, "native", "emulator"),
        ("emulator", "native", "emulator"),
        ("native", "native", "docker"),
        ("url", "url", "url"),
        ("native, sqs=emulator", "native", "emulator"),
        ("sqs=url", "native", "url"),
    ],
)
def test_the_lowest_accepted_rung(
    setting: str | None, rabbitmq: str, sqs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if setting is not None:
        monkeypatch.setenv("UNIMQ_TAP_LOWEST", setting)
    assert accepted_rungs("rabbitmq")[-1] == rabbitmq
    assert accepted_rungs("sqs")[-1] == sqs


@pytest.mark.parametrize("setting", ["nativ", "redis=native", "sqs=", "native,,x"])
def test_a_misspelt_lowest_rung_is_an_error(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIMQ_TAP_LOWEST", setting)
    with pytest.raises(ValueError, match="UNIMQ_TAP_LOWEST"):
        start("sqs")


@pytest.mark.usefixtures("empty_home")
def test_a_forbidden_rung_fails_rather_than_slips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIMQ_TAP_LOWEST", "native")
    with pytest.raises(BrokerUnavailable, match="UNIMQ_TAP_LOWEST forbids: emulator"):
        start("sqs")


def test_an_option_of_another_backend_is_an_error() -> None:
    with pytest.raises(ValueError, match="generation is an option of rabbitmq, not of sqs"):
        start("sqs", generation="4")
    with pytest.raises(ValueError, match="flavour is an option of kafka and sqs, not of rabbitmq"):
        start("rabbitmq", flavour="elasticmq")
    with pytest.raises(ValueError, match="kafka has no flavour 'elasticmq'; it has: mock"):
        start("kafka", flavour="elasticmq")
    with pytest.raises(ValueError, match="known: ministack, elasticmq"):
        start("sqs", flavour="moto")
    with pytest.raises(ValueError, match="known: 3, 4, newest"):
        start("rabbitmq", generation="5")
    with pytest.raises(ValueError, match="at least 1"):
        start("rabbitmq", nodes=0)
    with pytest.raises(ValueError, match="sqs has no rung 'native'"):
        start("sqs", rung="native")
    with pytest.raises(ValueError, match="unknown backend 'redis'"):
        start("redis")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_private_wish_is_not_granted_with_somebody_elses_broker(
    amqp_port: int, empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIMQ_TEST_RABBITMQ_URL", f"amqp://127.0.0.1:{amqp_port}/")
    with pytest.raises(BrokerUnavailable, match="install rabbitmq"):
        start("rabbitmq", nodes=3)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("amqp://me:s3c:ret@host:5672/v", "amqp://me:***@host:5672/v"),
        ("amqp://me:p%40ss@host/", "amqp://me:***@host/"),
        ("amqp://me@host/", "amqp://me@host/"),
        ("kafka://host:9092,other:9092", "kafka://host:9092,other:9092"),
        ("sqs://?region=eu-central-1", "sqs://?region=eu-central-1"),
    ],
)
def test_passwords_are_masked(url: str, masked: str) -> None:
    assert mask_password(url) == masked


def test_the_json_line_of_an_own_broker_has_its_whole_url() -> None:
    url = "amqp://guest:guest@127.0.0.1:5672/"
    tap = Tap("rabbitmq", url, product="RabbitMQ", version="4", how="native", label="real", rung="native", pid=7)
    told = json.loads(tap.to_json())
    assert (told["url"], told["pid"], told["label"]) == (url, 7, "real")
