"""Errors: E1 to E3. Bad input, from the URL to the smallest argument: each a typed error that names what was wrong."""

import contextlib
import functools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self, cast
from urllib.parse import urlsplit

import pytest

import unimq
from unimq_contract.contract import Contract
from unimq_contract.guarantees import guarantee
from unimq_contract.harness import Backend, Connections, Destinations, Harness, family

SECRET = "Pa55-never-to-be-seen"


@dataclass(frozen=True, slots=True)
class Bad:
    """One wrong call: what it must raise, and the words without which the error would not help."""

    what: str
    call: Callable[[], object]
    error: type[unimq.UnimqError]
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BadMessage:
    """Fields of a message, one of which is wrong."""

    what: str
    fields: dict[str, Any]
    words: tuple[str, ...]


def bad_messages() -> Iterator[BadMessage]:

    yield BadMessage("text as body", {"body": "text"}, ("body", "bytes", "str"))
    yield BadMessage("no body", {"body": None}, ("body", "bytes", "NoneType"))
    yield BadMessage("number as body", {"body": 5}, ("body", "bytes", "int"))
    yield BadMessage("key no text", {"body": b"x", "key": 7}, ("key", "int"))
    yield BadMessage("half a surrogate", {"body": b"x", "key": "\ud800"}, ("key", "Unicode"))
    yield BadMessage("header no text", {"body": b"x", "headers": {"tries": 5}}, ("'tries'", "int"))
    yield BadMessage("header of None", {"body": b"x", "headers": {"tries": None}}, ("'tries'", "NoneType"))
    yield BadMessage("header name empty", {"body": b"x", "headers": {"": "x"}}, ("''",))
    yield BadMessage("header name no text", {"body": b"x", "headers": {5: "x"}}, ("5",))
    yield BadMessage("reserved header", {"body": b"x", "headers": {"unimq-key": "x"}}, ("'unimq-key'", "reserved"))
    yield BadMessage("headers no mapping", {"body": b"x", "headers": ["a"]}, ("headers", "list"))
    yield BadMessage("content type no text", {"body": b"x", "content_type": b"t"}, ("content_type", "bytes"))
    yield BadMessage("delay below 0", {"body": b"x", "delay": -1}, ("delay", "-1"))
    yield BadMessage("delay no number", {"body": b"x", "delay": "5"}, ("delay", "str"))
    yield BadMessage("ttl of 0", {"body": b"x", "ttl": 0}, ("ttl", "0"))


def told(error: BaseException | None) -> str:
    """Return everything that somebody could read of an error: itself, its notes and its causes."""
    text = ""
    while error is not None:
        notes: list[str] = getattr(error, "__notes__", [])
        text += f"{error} {error!r} {' '.join(notes)} "
        error = error.__cause__ or error.__context__
    return text


def check(bad: Bad, subtests: pytest.Subtests) -> None:
    with subtests.test(bad.what):
        with pytest.raises(unimq.UnimqError) as caught:
            bad.call()
        assert type(caught.value) is bad.error
        missing = [word for word in bad.words if word not in str(caught.value)]
        assert not missing, f"{caught.value} does not name {missing}"
        assert SECRET not in told(caught.value)


def closed_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Listener:
    """A server on 127.0.0.1 that speaks no TLS: it keeps what it hears first on each connection, and hangs up."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._thread = threading.Thread(target=self._listen, name="contract-listener", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone does not wake a thread that accepts.
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(1.0)
                with contextlib.suppress(OSError):
                    self.heard.append(connection.recv(1024))


def with_tls(backend: Backend, port: int) -> str:
    """Return the URL that asks this adapter for TLS, at this port."""
    match family(backend.url):
        case "sqs":
            address = f"https://127.0.0.1:{port}"
            return f"sqs://?region=eu-west-1&endpoint={address}&sns_endpoint={address}"
        case "amqp":
            return f"amqps://guest:{SECRET}@127.0.0.1:{port}/"
        case "kafka":
            return f"kafka+ssl://user:{SECRET}@127.0.0.1:{port}"
        case _:
            # Without a network there is nothing to protect, and nothing may pretend to.
            return f"{backend.scheme}+ssl://127.0.0.1:{port}"


class ErrorsContract(Contract):
    @guarantee("E1")
    def test_a_bad_url_is_refused(self, connect: Connections, backend: Backend, subtests: pytest.Subtests) -> None:
        scheme = backend.scheme

        def at(url: str) -> Callable[[], object]:
            return lambda: connect(url)

        for bad in (
            Bad("no URL", at("localhost"), unimq.ConfigError, ("scheme://",)),
            Bad("unknown scheme", at("carrier-pigeon://h"), unimq.ConfigError, ("'carrier-pigeon'", "kafka", "memory")),
            Bad("mistyped scheme", at("kafak://h"), unimq.ConfigError, ("'kafak'", "did you mean 'kafka'")),
            Bad(
                "unknown option",
                at(backend.with_options(ttlInSecond="5")),
                unimq.ConfigError,
                ("'ttlInSecond'", "valid", "declare"),
            ),
            Bad(
                "wrong value",
                at(backend.with_options(declare="maybe")),
                unimq.ConfigError,
                ("declare", "true or false"),
            ),
            Bad(
                "option twice",
                at(backend.with_options(declare="true") + "&declare=true"),
                unimq.ConfigError,
                ("'declare'", "twice"),
            ),
            Bad("port no number", at(f"{scheme}://u:{SECRET}@127.0.0.1:x/"), unimq.ConfigError, ("port", "65535")),
            Bad("port too high", at(f"{scheme}://u:{SECRET}@127.0.0.1:99999/"), unimq.ConfigError, ("99999", "65535")),
            Bad("no host", at(f"{scheme}://:{SECRET}/"), unimq.ConfigError, ("host",)),
            Bad("no text", cast("Any", lambda: connect(cast("str", 5))), unimq.ConfigError, ("str", "int")),
        ):
            check(bad, subtests)

    @guarantee("E1", "S2")
    def test_a_broker_that_is_not_there_is_an_error_in_time(
        self, connect: Connections, backend: Backend, harness: Harness
    ) -> None:
        parts = urlsplit(backend.url)
        if not parts.port:
            pytest.skip("this broker has no address")
        account = "" if backend.scheme == "kafka" else f"user:{SECRET}@"
        query = f"?{parts.query}" if parts.query else ""
        nobody = f"{parts.scheme}://{account}127.0.0.1:{closed_port()}{parts.path}{query}"
        began = time.monotonic()
        with pytest.raises(unimq.ConnectionLost) as caught:
            connect.front.connect(nobody, timeout=harness.bounds.wake)
        assert time.monotonic() - began < harness.bounds.wake + harness.bounds.within
        assert caught.value.retryable
        assert SECRET not in told(caught.value)

    @guarantee("E2")
    def test_wrong_credentials_fail_fast(self, connect: Connections, backend: Backend, harness: Harness) -> None:
        parts = urlsplit(backend.url)
        if parts.scheme not in {"amqp", "amqps"}:
            pytest.skip("this broker asks for no password")
        query = f"?{parts.query}" if parts.query else ""
        wrong = f"{parts.scheme}://guest:{SECRET}@{parts.netloc.rpartition('@')[2]}{parts.path}{query}"
        began = time.monotonic()
        with pytest.raises(unimq.AuthError) as caught:
            connect(wrong)
        assert time.monotonic() - began < harness.bounds.within
        assert not caught.value.retryable
        assert SECRET not in told(caught.value)

    @pytest.mark.fronts("sync")
    @guarantee("E3", "E1", kills=("plain-text-for-tls",))
    def test_nothing_is_said_in_plain_text_where_tls_is_asked_for(
        self, connect: Connections, backend: Backend, harness: Harness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither to a server that speaks no TLS, nor because TLS is not offered: then that is what is said."""
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA-of-nobody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        with Listener() as listener:

            def speaks() -> None:
                with connect.front.connect(with_tls(backend, listener.port), timeout=harness.bounds.wake) as broker:
                    broker.producer("to-nobody")

            with pytest.raises((unimq.ConnectionLost, unimq.Unsupported, unimq.ConfigError)) as caught:
                speaks()
            assert SECRET not in told(caught.value)
            assert not isinstance(caught.value, unimq.ConfigError) or "no adapter for scheme" in str(caught.value)
        # A record of a TLS handshake begins with 22.
        plain = [said for said in listener.heard if said and said[0] != 22]
        assert not plain, f"sent in plain text: {plain[0][:40]!r}"

    @guarantee("E1")
    def test_a_password_is_never_shown(self, backend: Backend, broker: unimq.Broker, queue: unimq.Queue) -> None:
        password = urlsplit(backend.url).password
        shown = [repr(broker), repr(broker.producer(queue)), repr(broker.consumer(queue)), repr(broker.capabilities)]
        assert all(shown)
        if password is not None:
            assert not [text for text in shown if f":{password}@" in text]

    @pytest.mark.fronts("sync")
    @guarantee("E1")
    def test_a_missing_client_library_is_an_error_with_the_pip_line(self, backend: Backend, harness: Harness) -> None:
        extras = {"amqp": "rabbitmq", "amqps": "rabbitmq", "kafka": "kafka", "sqs": "sqs", "sqs+http": "sqs"}
        extra = extras.get(backend.scheme)
        if extra is None:
            pytest.skip("this adapter needs no client library, or is not one of unimq's own")
        done = subprocess.run(
            [sys.executable, "-c", _WITHOUT_CLIENTS],
            env={**os.environ, "UNIMQ_URL": backend.url},
            capture_output=True,
            text=True,
            timeout=harness.bounds.within,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("MissingDependency:")
        assert f"unimq[{extra}]" in done.stdout
        assert "pip install" in done.stdout

    @guarantee("E1", "S4")
    def test_a_bad_destination_is_refused(
        self, broker: unimq.Broker, destinations: Destinations, subtests: pytest.Subtests
    ) -> None:
        good = destinations.name()
        config = unimq.ConfigError
        no_source = config if broker.capabilities.topics else unimq.Unsupported
        for bad in (
            Bad("empty name", lambda: broker.producer(""), config, ("''",)),
            Bad("space in name", lambda: broker.producer("two words"), config, ("'two words'", "letters")),
            Bad("slash in name", lambda: broker.consumer("a/b"), config, ("'a/b'", "letters")),
            Bad("name too long", lambda: broker.declare("x" * 81), config, ("81", "80")),
            Bad("name no text", lambda: broker.producer(cast("str", 7)), config, ("int",)),
            Bad("bytes as name", lambda: unimq.Queue(cast("str", b"q")), config, ("b'q'",)),
            Bad("consumer of a topic", lambda: broker.consumer(cast("Any", unimq.Topic(good))), no_source, ("topic",)),
            Bad("ttl below 0", lambda: unimq.Queue(good, ttl=-1), config, ("ttl", "-1")),
            Bad("lease of 0", lambda: unimq.Queue(good, lease=0), config, ("lease", "0")),
            Bad(
                "max_length no number", lambda: unimq.Queue(good, max_length=cast("int", "5")), config, ("max_length",)
            ),
            Bad("max_deliveries of 0", lambda: unimq.Queue(good, max_deliveries=0), config, ("max_deliveries", "0")),
            Bad(
                "unknown ordering", lambda: unimq.Queue(good, ordering=cast("Any", "total")), config, ("'total'", "key")
            ),
            Bad(
                "unknown overflow",
                lambda: unimq.Queue(good, overflow=cast("Any", "wait")),
                config,
                ("'wait'", "reject"),
            ),
            Bad(
                "unknown policy",
                lambda: unimq.Topic(good).subscription("audit", **cast("Any", {"ttlInSecond": 5})),
                config,
                ("'ttlInSecond'", "ttl"),
            ),
            Bad("prefetch of 0", lambda: broker.consumer(good, prefetch=0), config, ("prefetch", "0")),
            Bad("window of 0", lambda: broker.producer(good, window=0), config, ("window", "0")),
            Bad("timeout below 0", lambda: broker.producer(good, timeout=-1), config, ("timeout", "-1")),
        ):
            check(bad, subtests)

    @guarantee("E1", "S4", kills=("greets-consumers",))
    def test_a_bad_message_is_refused(
        self, broker: unimq.Broker, queue: unimq.Queue, harness: Harness, subtests: pytest.Subtests
    ) -> None:
        wrong = unimq.InvalidMessage
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            for bad in bad_messages():
                for send in (producer.send, producer.enqueue):
                    call = functools.partial(cast("Callable[..., object]", send), **bad.fields)
                    check(Bad(bad.what, call, wrong, bad.words), subtests)
            assert [type(outcome) for outcome in producer.send_many([cast("bytes", "text")], return_errors=True)] == [
                wrong
            ]
            harness.nothing_else(queue, broker, consumer)

    @guarantee("E1", kills=("reject-requeues",))
    def test_a_bad_argument_is_refused(
        self,
        broker: unimq.Broker,
        queue: unimq.Queue,
        harness: Harness,
        connect: Connections,
        subtests: pytest.Subtests,
    ) -> None:
        config = unimq.ConfigError
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            producer.send(b"held")
            held = harness.receive_one(consumer)
            for bad in (
                Bad("receive timeout", lambda: consumer.receive(timeout=-1), config, ("timeout", "-1")),
                Bad(
                    "timeout no number", lambda: consumer.receive(timeout=cast("Any", "1")), config, ("timeout", "str")
                ),
                Bad("timeout no value", lambda: consumer.receive(timeout=float("nan")), config, ("timeout", "nan")),
                Bad("receive none", lambda: consumer.receive(0), config, ("max_messages", "0")),
                Bad("receive some", lambda: consumer.receive(cast("int", 1.5)), config, ("max_messages", "1.5")),
                Bad("settle timeout", lambda: consumer.settle(timeout=-1), config, ("timeout", "-1")),
                Bad("close timeout", lambda: consumer.close(timeout=-1), config, ("timeout", "-1")),
                Bad("flush timeout", lambda: producer.flush(timeout=-1), config, ("timeout", "-1")),
                Bad("producer's close", lambda: producer.close(timeout=-1), config, ("timeout", "-1")),
                Bad("broker's close", lambda: broker.close(timeout=-1), config, ("timeout", "-1")),
                Bad("connect timeout", lambda: connect.front.connect(connect.backend.url, timeout=-1), config, ("-1",)),
                Bad("nack delay", lambda: held.nack(delay=-1), config, ("delay", "-1")),
                Bad("reject reason", lambda: held.reject(cast("str", 5)), config, ("reason", "int")),
            ):
                check(bad, subtests)
            # Nothing of that closed anything or settled the delivery.
            held.ack()
            producer.send(b"goes on")
            harness.receive_one(consumer).ack()

    @guarantee("E1")
    def test_there_is_one_tree_of_errors(self) -> None:
        names = [name for name in unimq.__all__ if isinstance(getattr(unimq, name), type)]
        raised = [found for name in names if issubclass(found := getattr(unimq, name), Exception)]
        errors = [found for found in raised if issubclass(found, unimq.UnimqError)]
        assert len(errors) == len(raised) >= 18
        retryable = {error.__name__ for error in errors if error.retryable}
        assert retryable == {"BufferFull", "ConnectionLost", "QueueFull", "RequestTimeout", "SendUnknown"}
        assert issubclass(unimq.MissingDependency, ImportError)


_WITHOUT_CLIENTS = """
import sys

class NoClients:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top.startswith("_") or top.partition("_")[0] in {"unimq", "msgspec"}:
            return None
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoClients())
import unimq
try:
    unimq.connect()
except unimq.MissingDependency as error:
    print(f"MissingDependency: {error}")
"""
"""A program in which nothing but Python, unimq and msgspec can be imported."""
