"""TLS, accounts and rights, against a real broker that has them."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from unimq_contract.brokers import BrokerUnavailable, RunningTap
from unimq_contract.brokers import kafka as tap
from unimq_contract.brokers.kafka_security import Security, make_security

import unimq

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("kafka-security")]

PASSWORD = "Pa55neverseen"
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
PATIENCE = 60.0
"""Seconds that a connection may try; whoever tries a refused one again says so after that time."""


@pytest.fixture(scope="module")
def security(tmp_path_factory: pytest.TempPathFactory) -> Security:
    """Accounts: ``all`` gets every right, ``none`` no right at all."""
    try:
        return make_security(tmp_path_factory.mktemp("security"), {"all": PASSWORD, "none": PASSWORD})
    except BrokerUnavailable as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def running(
    security: Security, start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap]
) -> Iterator[RunningTap]:
    """A broker with these accounts."""
    settings = {"super.users": "User:ANONYMOUS;User:all;User:CN=client"}
    with start_or_skip(lambda: tap.start(security=security, settings=settings)) as broker:
        yield broker


@pytest.fixture
def queue(running: RunningTap) -> unimq.Queue:
    """A queue that exists."""
    queue = unimq.Queue(f"secured-{uuid4().hex[:8]}")
    with unimq.connect(running.tap.url) as broker:
        broker.declare(queue)
    return queue


def url_of(security: Security, user: str = "all", password: str = PASSWORD, **options: str | Path) -> str:
    """Return the URL of an account; `options` are added or replaced."""
    given = {"ca_file": security.ca_file, **options}
    query = "&".join(f"{name}={value}" for name, value in given.items())
    return f"kafka+ssl://{user}:{password}@127.0.0.1:{security.sasl_port}?{query}"


def refused(url: str, caplog: pytest.LogCaptureFixture) -> unimq.UnimqError:
    """Return the error of a connection that is refused at once, having checked that it tells no secret."""
    began = time.monotonic()
    with caplog.at_level(logging.DEBUG), pytest.raises(unimq.UnimqError) as caught:
        unimq.connect(url, timeout=PATIENCE)
    assert time.monotonic() - began < PATIENCE, "it was tried again"
    told = f"{caught.value!r} {caught.value} {caught.value.__cause__!r} {caplog.text}"
    assert PASSWORD not in told
    assert "wrong-secret" not in told
    return caught.value


def goes_through(url: str, queue: unimq.Queue) -> None:
    """Send, receive and ack."""
    with unimq.connect(url) as broker:
        assert PASSWORD not in repr(broker) + repr(broker.capabilities)
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send(b"secret business")
            (delivery,) = consumer.receive(1, timeout=30)
            assert delivery.body == b"secret business"
            delivery.ack()
            consumer.settle()
            assert PASSWORD not in repr(producer) + repr(consumer) + repr(broker.stats(queue))


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_user_with_a_password(running: RunningTap, security: Security, queue: unimq.Queue, mechanism: str) -> None:
    assert running.pids
    goes_through(url_of(security, sasl_mechanism=mechanism), queue)


def test_a_client_certificate(running: RunningTap, security: Security, queue: unimq.Queue) -> None:
    files = f"ca_file={security.ca_file}&cert_file={security.client_file}"
    goes_through(f"kafka+ssl://127.0.0.1:{security.mutual_port}?{files}", queue)
    assert running.pids


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize(("user", "password"), [("all", "wrong-secret"), ("nobody", PASSWORD)])
@pytest.mark.usefixtures("running")
def test_wrong_password_and_unknown_user(
    security: Security, caplog: pytest.LogCaptureFixture, mechanism: str, user: str, password: str
) -> None:
    error = refused(url_of(security, user, password, sasl_mechanism=mechanism), caplog)
    assert type(error) is unimq.AuthError
    assert not error.retryable


@pytest.mark.usefixtures("running")
def test_an_authority_that_is_not_trusted(security: Security, caplog: pytest.LogCaptureFixture) -> None:
    error = refused(url_of(security, ca_file=security.other_ca_file), caplog)
    assert type(error) is unimq.AuthError
    assert "certificate verify failed" in str(error)


@pytest.mark.usefixtures("running")
def test_the_authorities_of_the_system_do_not_know_the_server(
    security: Security, caplog: pytest.LogCaptureFixture
) -> None:
    error = refused(url_of(security, ca_file=""), caplog)
    assert type(error) is unimq.AuthError


@pytest.mark.usefixtures("running")
def test_a_certificate_for_another_host(security: Security, caplog: pytest.LogCaptureFixture) -> None:
    error = refused(url_of(security).replace("127.0.0.1", "localhost"), caplog)
    assert type(error) is unimq.AuthError
    assert "certificate verify failed" in str(error)


def _declare(broker: unimq.Broker, queue: unimq.Queue) -> None:
    broker.declare(queue)


def _send(broker: unimq.Broker, queue: unimq.Queue) -> None:
    with broker.producer(queue) as producer:
        producer.send(b"x")


def _receive(broker: unimq.Broker, queue: unimq.Queue) -> None:
    with broker.consumer(queue) as consumer:
        consumer.receive(1, timeout=20)


@pytest.mark.parametrize("act", [_declare, _send, _receive])
@pytest.mark.parametrize("declares", ["true", "false"])
@pytest.mark.usefixtures("running")
def test_no_right_on_a_topic(
    security: Security, queue: unimq.Queue, act: Callable[[unimq.Broker, unimq.Queue], None], declares: str
) -> None:
    with (
        unimq.connect(url_of(security, "none", declare=declares)) as broker,
        pytest.raises(unimq.AuthError) as caught,
    ):
        act(broker, queue)
    assert "TOPIC_AUTHORIZATION_FAILED" in str(caught.value)
    assert not caught.value.retryable


@pytest.mark.parametrize("act", [_send, _receive])
def test_no_right_to_write_or_read(
    running: RunningTap, security: Security, queue: unimq.Queue, act: Callable[[unimq.Broker, unimq.Queue], None]
) -> None:
    """Who may describe a topic sees it, and is refused only by what it does with it."""
    describe = ("--add", "--allow-principal", "User:none", "--operation", "Describe", "--topic", queue.name)
    running.tool("org.apache.kafka.tools.AclCommand", *describe)
    with (
        unimq.connect(url_of(security, "none")) as broker,
        pytest.raises(unimq.AuthError, match="AUTHORIZATION_FAILED") as caught,
    ):
        act(broker, queue)
    assert not caught.value.retryable
