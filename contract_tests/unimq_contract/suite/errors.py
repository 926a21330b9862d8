"""Errors: E1 to E3. Bad input, and brokers that refuse or are not there: each a typed error that names what was wrong.

What the portable layer refuses before an adapter has a part in it is tested there (`tests/portable/test_refusals.py`).
"""

import contextlib
import functools
import logging
import socket
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
from unimq_contract.harness import Backend, Connections, Harness, family

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


def elsewhere(backend: Backend, account: str, port: int | None = None) -> str:
    """Return the URL of this backend with another account, at this port of 127.0.0.1 or where it is."""
    parts = urlsplit(backend.url)
    host = parts.netloc.rpartition("@")[2] if port is None else f"127.0.0.1:{port}"
    return f"{parts.scheme}://{account}{host}{parts.path}" + (f"?{parts.query}" if parts.query else "")


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
    @guarantee("E1", kills=("unread-option-taken",))
    def test_an_unknown_option_is_refused(self, connect: Connections, backend: Backend) -> None:
        """By the adapter's options, which nothing may be among that nobody reads."""
        with pytest.raises(unimq.UnimqError) as caught:
            connect(backend.with_options(ttlInSecond="5"))
        assert type(caught.value) is unimq.ConfigError
        missing = [word for word in ("'ttlInSecond'", "valid", "declare") if word not in str(caught.value)]
        assert not missing, f"{caught.value} does not name {missing}"

    @guarantee("E1", "S2", kills=("outage-looks-like-refusal", "hangs-when-nobody-listens"))
    def test_a_broker_that_is_not_there_is_an_error_in_time(
        self, connect: Connections, backend: Backend, harness: Harness
    ) -> None:
        parts = urlsplit(backend.url)
        if not parts.port:
            pytest.skip("this broker has no address")
        account = "" if backend.scheme == "kafka" else f"user:{SECRET}@"
        began = time.monotonic()
        with pytest.raises(unimq.UnimqError) as caught:
            connect.front.connect(elsewhere(backend, account, closed_port()), timeout=harness.bounds.wake)
        assert time.monotonic() - began < harness.bounds.wake + harness.bounds.within
        assert type(caught.value) is unimq.ConnectionLost
        assert caught.value.retryable
        assert SECRET not in told(caught.value)

    @guarantee("E2", kills=("wrong-credentials-retried", "wrong-credentials-look-like-an-outage"))
    def test_wrong_credentials_fail_fast(self, connect: Connections, backend: Backend, harness: Harness) -> None:
        parts = urlsplit(backend.url)
        if parts.scheme not in {"amqp", "amqps"}:
            pytest.skip("this broker asks for no password")
        began = time.monotonic()
        with pytest.raises(unimq.UnimqError) as caught:
            connect(elsewhere(backend, f"guest:{SECRET}@"))
        # The connection may take as long as that: whoever tries again until then is too late.
        assert time.monotonic() - began < harness.bounds.within
        assert type(caught.value) is unimq.AuthError
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

    @guarantee("E1", kills=("password-in-errors",))
    def test_a_password_is_never_shown(
        self,
        backend: Backend,
        connect: Connections,
        broker: unimq.Broker,
        queue: unimq.Queue,
        harness: Harness,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Neither by what is open, nor by the error of what could not be opened, nor in the log."""
        parts = urlsplit(backend.url)
        with broker.producer(queue) as producer, broker.consumer(queue) as consumer:
            shown = [repr(broker), repr(producer), repr(consumer), repr(broker.capabilities)]
        assert all(shown)
        if parts.password is not None:
            # An account, or a queue, may have a name with the same word in it.
            told_of = [text.replace(f"{parts.username}:***@", "").replace(queue.name, "") for text in shown]
            assert not [text for text in told_of if parts.password in text]
        with caplog.at_level(logging.DEBUG, logger="unimq"), pytest.raises(unimq.UnimqError) as caught:
            connect.front.connect(elsewhere(backend, f"user:{SECRET}@", closed_port()), timeout=harness.bounds.wake)
        assert SECRET not in told(caught.value)
        assert SECRET not in caplog.text

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
