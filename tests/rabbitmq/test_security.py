"""TLS, accounts and rights, against a real broker that has them."""

import logging
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from unimq_contract.brokers import BrokerUnavailable, RunningTap
from unimq_contract.brokers import rabbitmq as tap
from unimq_contract.brokers.certificates import certificate
from unimq_contract.brokers.rabbitmq_security import Account, Security, make_security
from unimq_contract.harness import Background

import unimq

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("rabbitmq-security")]

PASSWORD = "Pa55neverseen"
PATIENCE = 60.0
"""Seconds that a connection may try; whoever tries a refused one again says so after that time."""
ACCOUNTS = {
    "all": Account(PASSWORD),
    "none": Account(PASSWORD, configure="", write="", read=""),
    "reader": Account(PASSWORD, configure="", write=""),
    "outsider": Account(PASSWORD, enters=False),
    # Whom the client's certificate names.
    "client": Account(PASSWORD),
}
BY_CERTIFICATE = {
    **{f"auth_mechanisms.{number}": name for number, name in enumerate(("PLAIN", "AMQPLAIN", "EXTERNAL"), 1)},
    "ssl_cert_login_from": "common_name",
}


def make_or_skip(folder: Path, *, client_certificates: bool) -> Security:
    """Make certificates, where there is a program that can."""
    try:
        return make_security(folder, ACCOUNTS, client_certificates=client_certificates)
    except BrokerUnavailable as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def security(tmp_path_factory: pytest.TempPathFactory) -> Security:
    """Of a broker that asks clients for a certificate."""
    return make_or_skip(tmp_path_factory.mktemp("security"), client_certificates=True)


@pytest.fixture(scope="module")
def running(
    security: Security, start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap]
) -> Iterator[RunningTap]:
    """A broker with these accounts, which may log in by certificate."""
    plugins = (*tap.PLUGINS, "rabbitmq_auth_mechanism_ssl")
    with start_or_skip(lambda: tap.start(security=security, plugins=plugins, settings=BY_CERTIFICATE)) as broker:
        yield broker


@pytest.fixture
def queue(running: RunningTap) -> unimq.Queue:
    """A queue that exists."""
    queue = unimq.Queue(f"secured-{uuid4().hex[:8]}")
    with unimq.connect(running.tap.url, timeout=PATIENCE) as broker:
        broker.declare(queue)
    return queue


def url_of(
    security: Security,
    user: str = "all",
    password: str = PASSWORD,
    *,
    host: str = "127.0.0.1",
    vhost: str = "",
    **options: str | Path | None,
) -> str:
    """Return the URL of an account; `options` are added or replaced, or left out if they are `None`."""
    given = {"ca_file": security.ca_file, "cert_file": security.client_file, **options}
    query = "&".join(f"{name}={value}" for name, value in given.items() if value is not None)
    return f"amqps://{user}:{password}@{host}:{security.port}/{vhost}?{query}"


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


def refused_for_its_certificate(url: str, caplog: pytest.LogCaptureFixture) -> unimq.UnimqError:
    """Return the error of a client whose certificate the broker does not take.

    With TLS 1.3 the broker judges it when the client thinks that all is well. If the client's first words come after
    the verdict, the network says that nobody listens, and the verdict cannot be read.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        error = refused(url, caplog)
        if type(error) is not unimq.ConnectionLost:
            return error
    raise AssertionError("the verdict never came")


def goes_through(url: str, queue: unimq.Queue, caplog: pytest.LogCaptureFixture) -> None:
    """Send, receive and ack."""
    with caplog.at_level(logging.DEBUG), unimq.connect(url, timeout=PATIENCE) as broker:
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send(b"secret business")
            (delivery,) = consumer.receive(1, timeout=PATIENCE)
            assert delivery.body == b"secret business"
            delivery.ack()
            consumer.settle()
            told = repr(producer) + repr(consumer) + repr(broker.stats(queue))
        told += repr(broker) + repr(broker.capabilities) + caplog.text
    assert PASSWORD not in told


def test_a_client_with_a_certificate(security: Security, queue: unimq.Queue, caplog: pytest.LogCaptureFixture) -> None:
    goes_through(url_of(security), queue, caplog)


def test_its_key_in_a_file_of_its_own(security: Security, queue: unimq.Queue, caplog: pytest.LogCaptureFixture) -> None:
    files = {name: security.client_file.with_name(f"client.{name}") for name in ("crt", "key")}
    goes_through(url_of(security, cert_file=files["crt"], key_file=files["key"]), queue, caplog)


def test_a_broker_that_asks_for_no_certificate(
    tmp_path: Path,
    start_or_skip: Callable[[Callable[[], RunningTap]], RunningTap],
    caplog: pytest.LogCaptureFixture,
) -> None:
    security = make_or_skip(tmp_path, client_certificates=False)
    with start_or_skip(lambda: tap.start(security=security)) as broker:
        queue = unimq.Queue("secured")
        with unimq.connect(broker.tap.url, timeout=PATIENCE) as plain:
            plain.declare(queue)
        goes_through(url_of(security, cert_file=None), queue, caplog)
        error = refused(by_certificate(security), caplog)
        assert type(error) is unimq.AuthError
        assert "rabbitmq_auth_mechanism_ssl" in str(error)


def by_certificate(security: Security) -> str:
    """Return a URL without user and password."""
    return url_of(security, login="certificate").replace(f"all:{PASSWORD}@", "")


def test_a_certificate_instead_of_a_password(
    security: Security, running: RunningTap, queue: unimq.Queue, caplog: pytest.LogCaptureFixture
) -> None:
    """SASL EXTERNAL: the broker knows the client as whom its certificate names."""
    url = by_certificate(security)
    goes_through(url, queue, caplog)
    with unimq.connect(url, timeout=PATIENCE) as broker:
        assert broker.stats(queue).ready == 0
        users = running.tool("rabbitmqctl", "-q", "list_connections", "user").split()
    assert "client" in users
    assert "all" not in users


def test_a_certificate_of_nobody(security: Security, running: RunningTap, caplog: pytest.LogCaptureFixture) -> None:
    """It is trusted, and there is no such user."""
    running.tool("rabbitmqctl", "delete_user", "client")
    try:
        error = refused(by_certificate(security), caplog)
        assert type(error) is unimq.AuthError
        assert not error.retryable
    finally:
        running.tool("rabbitmqctl", "add_user", "client", PASSWORD)
        running.tool("rabbitmqctl", "set_permissions", "client", ".*", ".*", ".*")


@pytest.mark.usefixtures("running")
def test_no_certificate_where_one_is_asked_for(security: Security, caplog: pytest.LogCaptureFixture) -> None:
    error = refused_for_its_certificate(url_of(security, cert_file=None), caplog)
    assert type(error) is unimq.AuthError
    # TLS 1.2 says it in other words.
    assert "certificate required" in str(error) or "handshake failure" in str(error)
    assert not error.retryable


@pytest.mark.usefixtures("running")
def test_a_certificate_of_a_stranger(security: Security, caplog: pytest.LogCaptureFixture) -> None:
    error = refused_for_its_certificate(url_of(security, cert_file=security.stranger_file), caplog)
    assert type(error) is unimq.AuthError
    assert "unknown ca" in str(error)


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("other", ["another authority", "those of the system"])
def test_an_authority_that_is_not_trusted(security: Security, caplog: pytest.LogCaptureFixture, other: str) -> None:
    ca_file = security.other_ca_file if other == "another authority" else None
    error = refused(url_of(security, ca_file=ca_file), caplog)
    assert type(error) is unimq.AuthError
    assert "certificate verify failed" in str(error)
    assert not error.retryable


@pytest.mark.usefixtures("running")
def test_a_certificate_for_another_host(security: Security, caplog: pytest.LogCaptureFixture) -> None:
    error = refused(url_of(security, host="localhost"), caplog)
    assert type(error) is unimq.AuthError
    assert "certificate verify failed" in str(error)


def test_the_name_of_the_host_is_told_in_the_handshake(
    security: Security, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """So that one address may serve several names (SNI); this one serves no AMQP behind it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate(tmp_path, security.ca_file, "named", "DNS:localhost"))
    names: list[str | None] = []
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with context.wrap_socket(connection, server_side=True) as secured:
                assert secured.recv(4) == b"AMQP"

        serving = Background(serve)
        url = url_of(security, host="localhost").replace(f":{security.port}/", f":{server.getsockname()[1]}/")
        assert type(refused(url, caplog)) is unimq.ConnectionLost
        serving.result(PATIENCE)
    assert names == ["localhost"]


@pytest.mark.usefixtures("running")
def test_the_nodes_of_a_cluster_cannot_share_a_port(security: Security) -> None:
    with pytest.raises(ValueError, match="single node"):
        tap.start(nodes=2, security=security)


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize(("user", "password"), [("all", "wrong-secret"), ("nobody", PASSWORD)])
def test_wrong_password_and_unknown_user(
    security: Security, caplog: pytest.LogCaptureFixture, user: str, password: str
) -> None:
    error = refused(url_of(security, user, password), caplog)
    assert type(error) is unimq.AuthError
    assert not error.retryable


@pytest.mark.usefixtures("running")
def test_a_virtual_host_where_the_user_has_no_right(security: Security, caplog: pytest.LogCaptureFixture) -> None:
    error = refused(url_of(security, "outsider"), caplog)
    assert type(error) is unimq.AuthError
    assert "access to vhost" in str(error)


@pytest.mark.usefixtures("running")
def test_a_virtual_host_that_does_not_exist(security: Security, caplog: pytest.LogCaptureFixture) -> None:
    error = refused(url_of(security, vhost="nowhere"), caplog)
    assert type(error) is unimq.ConfigError
    assert "nowhere" in str(error)
    assert not error.retryable


@pytest.mark.usefixtures("running")
def test_plain_words_to_a_port_of_tls_and_the_other_way_round(
    running: RunningTap, security: Security, caplog: pytest.LogCaptureFixture
) -> None:
    for url in (
        f"amqp://all:{PASSWORD}@127.0.0.1:{security.port}/",
        f"amqps://all:{PASSWORD}@{running.tap.nodes[0]}/?ca_file={security.ca_file}",
    ):
        assert type(refused(url, caplog)) is unimq.ConnectionLost


def test_a_password_goes_over_a_plain_connection_only_where_the_url_says_so(
    running: RunningTap, queue: unimq.Queue, caplog: pytest.LogCaptureFixture
) -> None:
    goes_through(f"amqp://all:{PASSWORD}@{running.tap.nodes[0]}/", queue, caplog)


def _declare(broker: unimq.Broker, queue: unimq.Queue) -> None:
    broker.declare(queue)


def _send(broker: unimq.Broker, queue: unimq.Queue) -> None:
    with broker.producer(queue, timeout=PATIENCE) as producer:
        producer.send(b"x")


def _receive(broker: unimq.Broker, queue: unimq.Queue) -> None:
    with broker.consumer(queue) as consumer:
        consumer.receive(1, timeout=PATIENCE)


@pytest.mark.parametrize(
    ("user", "act", "declares"),
    [
        ("none", _declare, "true"),
        ("none", _send, "true"),
        ("none", _send, "false"),
        ("none", _receive, "true"),
        ("none", _receive, "false"),
        ("reader", _declare, "true"),
        ("reader", _send, "false"),
    ],
)
@pytest.mark.usefixtures("running")
def test_no_right_on_a_queue(
    security: Security,
    queue: unimq.Queue,
    user: str,
    act: Callable[[unimq.Broker, unimq.Queue], None],
    declares: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        caplog.at_level(logging.DEBUG),
        unimq.connect(url_of(security, user, declare=declares), timeout=PATIENCE) as broker,
        pytest.raises(unimq.AuthError, match="access to") as caught,
    ):
        act(broker, queue)
    assert not caught.value.retryable
    assert PASSWORD not in f"{caught.value!r}{caplog.text}"


@pytest.mark.usefixtures("running")
def test_a_right_to_read_is_enough_to_receive(running: RunningTap, security: Security, queue: unimq.Queue) -> None:
    with unimq.connect(running.tap.url, timeout=PATIENCE) as broker, broker.producer(queue) as producer:
        producer.send(b"for readers")
    with (
        unimq.connect(url_of(security, "reader", declare="false"), timeout=PATIENCE) as broker,
        broker.consumer(queue) as consumer,
    ):
        (delivery,) = consumer.receive(1, timeout=PATIENCE)
        delivery.ack()
        consumer.settle()
    assert delivery.body == b"for readers"
