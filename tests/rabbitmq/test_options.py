import pytest
from pika import PlainCredentials
from unimq_rabbitmq._options import Endpoint, RabbitMQOptions

import unimq
from unimq._url import parse_url


@pytest.mark.parametrize(
    ("url", "host", "port", "vhost", "user", "password"),
    [
        ("amqp://localhost", "localhost", 5672, "/", "guest", "guest"),
        ("amqp://localhost/", "localhost", 5672, "/", "guest", "guest"),
        ("amqp://localhost/%2F", "localhost", 5672, "/", "guest", "guest"),
        ("amqp://u:p%40ss@h:1/my%2Fhost", "h", 1, "my/host", "u", "p@ss"),
        ("amqp://u@[::1]:7/v", "::1", 7, "v", "u", ""),
        ("amqps://h/", "h", 5671, "/", "guest", "guest"),
    ],
)
def test_urls(url: str, host: str, port: int, vhost: str, user: str, password: str) -> None:
    endpoint = Endpoint(parse_url(url), RabbitMQOptions())
    parameters = endpoint.parameters(0, "testing", 3.0)
    assert (parameters.host, parameters.port, parameters.virtual_host) == (host, port, vhost)
    assert isinstance(parameters.credentials, PlainCredentials)
    assert (parameters.credentials.username, parameters.credentials.password) == (user, password)
    assert (parameters.ssl_options is not None) is url.startswith("amqps")


def test_attempts_go_round_the_hosts() -> None:
    endpoint = Endpoint(parse_url("amqp://a,b:7,c/"), RabbitMQOptions())
    assert [endpoint.parameters(number, "testing", 3.0).host for number in range(4)] == ["a", "b", "c", "a"]
    assert str(endpoint) == "a:5672, b:7, c:5672"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("amqp://", "expected a host"),
        ("amqp://h?ca_file=/x", "need amqps"),
        ("amqps://h?ca_file=/does/not/exist", "ca_file"),
        ("amqp://h?login=certificate", "needs amqps:// and cert_file"),
        ("amqps://h?login=certificate", "needs amqps:// and cert_file"),
        ("amqps://me@h?login=certificate&cert_file=/x", "leave it out of the URL"),
        ("amqp://h?login=secret", "login"),
        ("amqp://h?heartbeat=0", "heartbeat"),
        ("amqp://h?frame_max=1", "frame_max"),
        ("amqp://h?hartbeat=9", "heartbeat"),
    ],
)
def test_wrong_options_are_named_before_any_connection(url: str, text: str) -> None:
    with pytest.raises(unimq.ConfigError, match=text):
        unimq.connect(url)
