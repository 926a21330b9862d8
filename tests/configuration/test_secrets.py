"""Environment variables in the file, and that nothing shows what they or the file hold."""

import pytest

import unimq
from unimq import ConfigError
from unimq._configuration import read_configuration

from .conftest import Write

SECRET = "s3cr/t@:%20?&#ü"


@pytest.mark.parametrize(
    ("table", "user", "password", "path"),
    [
        ("url = 'amqp://app:${SECRET}@h/v'", "app", SECRET, "v"),
        ("url = 'amqp://${SECRET}:${SECRET}@h/${SECRET}'", SECRET, SECRET, SECRET),
        ("url = 'amqp://h'\nuser = '${SECRET}'\npassword = 'a${SECRET}b'", SECRET, f"a{SECRET}b", None),
        ("url = '${WHOLE}'", "u", "p@", "x"),
        ("url = 'amqp://${HOST}/x'", None, None, "x"),
        ("url = 'amqp://h'\nuser = 'a$b$${SECRET}'\npassword='$'", "a$b${SECRET}", "$", None),
    ],
)
def test_variables(
    write: Write, monkeypatch: pytest.MonkeyPatch, table: str, user: str | None, password: str | None, path: str | None
) -> None:
    monkeypatch.setenv("SECRET", SECRET)
    monkeypatch.setenv("WHOLE", "amqp://u:p%40@h/x")
    monkeypatch.setenv("HOST", "h")
    url, _ = read_configuration(write(f"[brokers.a]\n{table}\nconnection_name = '${{HOST}}!'")).named("a")
    assert (url.user, url.password, url.path, url.hosts) == (user, password, path, (("h", None),))
    assert url.options == {"connection_name": "h!"}


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("${NOT_SET}", "the environment variable NOT_SET is not set"),
        ("${}", "takes the name of an environment variable"),
        ("${s3cr3t word}", "takes the name of an environment variable"),
        ("${OPEN", "takes the name of an environment variable"),
    ],
)
@pytest.mark.parametrize("key", ["url", "password", "connection_name"])
def test_variables_that_are_none(write: Write, key: str, value: str, what: str) -> None:
    other = "" if key == "url" else "url = 'amqp://h'\n"
    found = read_configuration(write(f"[brokers.a]\n{other}{key} = '{value}'"))
    with pytest.raises(ConfigError) as caught:
        found.named("a")
    assert f"brokers.a.{key}: " in str(caught.value)
    assert what in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_what_another_broker_lacks_is_of_no_matter(write: Write) -> None:
    write("default = 'a'\nbrokers.a.url = 'memory://'\nbrokers.b.url = 'amqp://${NOT_SET}'")
    with unimq.connect() as broker:
        assert "memory://" in repr(broker)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("[brokers.a]\nurl = 'memory://u:s3cr3t@h'", "a"),
        ("[brokers.a]\nurl = 'memory://h'\nuser = 'u'\npassword = 's3cr3t'", "a"),
        ("[brokers.a]\nurl = 'memory://u:x@h'\nuser = 's3cr3t'", "a"),
        ("[brokers.a]\nurl = 'memory://h?x=1'\nx = 's3cr3t'", "a"),
        ("[brokers.a]\nurl = 'kafka://h'\ncompression = 's3cr3t'", "a"),
        ("[brokers.a]\nurl = 'kafka://h'\ngroup_protocol = 's3cr3t'", "a"),
        ("[brokers.a]\nurl = 'kafka://h'\nlinger = 's3cr3t'", "a"),
        ("[brokers.a]\nurl = 'kafka://h'\ndeclare = 's3cr3t'", "a"),
        ("[brokers.a]\nurl = 'amqp://u:s3cr3t@h:port'", "a"),
        ("[brokers.a]\nurl = ['s3cr3t']", "a"),
        ("[brokers.a]\nurl = 'memory://h'\npassword = ['s3cr3t']", "a"),
        ("[brokers.a]\nurl = 'memory://h'\nx = {y = 's3cr3t'}", "a"),
        ("[brokers.a]\npassword = 's3cr3t'", "a"),
        ("[brokers.a]\npassword = 's3cr3t", "a"),
        ("default = 'amqp://u:s3cr3t@h'", "a"),
        ("[brokers.a]\nurl = 'memory://'", "kafka:/u:s3cr3t@h"),
    ],
)
def test_no_error_shows_a_secret(write: Write, text: str, name: str) -> None:
    write(text)
    with pytest.raises(ConfigError) as caught:
        unimq.connect(name)
    error: BaseException | None = caught.value
    while error is not None:
        assert "s3cr3t" not in f"{error} {error!r} {getattr(error, '__notes__', '')}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_no_text_form_shows_a_secret(write: Write) -> None:
    text = "[brokers.a]\nurl = 'amqp://u:s3cr3t@h/v?connection_name=s3cr3t'\nca_file = 's3cr3t'"
    found = read_configuration(write(text))
    url, place = found.named("a")
    assert url.password == "s3cr3t"
    assert "s3cr3t" not in f"{found} {found!r} {found.brokers} {url} {url!r} {place}"
