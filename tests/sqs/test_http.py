"""The fast path beside botocore's client, against one scripted server: the same requests, answers and errors."""

import base64
import datetime as dt
import json
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

import botocore
import botocore.session
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.credentials import Credentials, RefreshableCredentials
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError, SSLError
from unimq_sqs._counting import RequestCounts
from unimq_sqs._errors import NATIVE_ERRORS, NativeError, code_of, kind_of
from unimq_sqs._http import FastCalls, Route, RouteFinder, ca_bundle

import unimq
from unimq import AuthError, ConfigError, ConnectionLost, NotFound

if TYPE_CHECKING:
    from unimq_sqs import Clients

WITHIN = 60.0
REGION = "eu-west-1"
SESSION = botocore.session.Session()
"""Reads its configuration anew for each client; the models of the services only once."""
KEYS = Credentials("AKID", "secret", "a-session-token")

Misbehaviour = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Answers every request with `status`, `headers` and `body`, or as `misbehave` does; keeps what it was sent."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body = b"{}"
        self.misbehave: Misbehaviour | None = None
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.connections = 0
        self.ended = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                server.connections += 1

            def do_POST(self) -> None:
                asked = self.rfile.read(int(self.headers["Content-Length"]))
                server.requests.append((self.path, dict(self.headers.items()), asked))
                if server.misbehave is not None:
                    server.misbehave(self)
                    return
                self.send_response(server.status)
                for name, value in server.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(server.body)))
                self.end_headers()
                self.wfile.write(server.body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Listener(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """Clients that refuse the certificate leave: that is a test's business."""

        self.listener = Listener(("127.0.0.1", 0), Handler)
        if tls is not None:
            self.listener.socket = tls.wrap_socket(self.listener.socket, server_side=True)
        self.port = self.listener.server_port
        threading.Thread(target=self.listener.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self.ended.set()
        self.listener.shutdown()
        self.listener.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


def botocore_client(url: str, read_timeout: float = WITHIN, **more: Any) -> Any:
    return SESSION.create_client(
        "sqs",
        region_name=REGION,
        endpoint_url=url,
        aws_access_key_id=KEYS.access_key,
        aws_secret_access_key=KEYS.secret_key,
        aws_session_token=KEYS.token,
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=WITHIN, read_timeout=read_timeout, **more),
    )


def fast_calls(client: Any, url: str, credentials: Any = KEYS, read_timeout: float = WITHIN) -> FastCalls:
    return FastCalls(
        client,
        lambda: None if credentials is None else credentials.get_frozen_credentials(),
        Route(f"{url}/", REGION, "sqs"),
        RequestCounts(),
        authorities=lambda: ca_bundle(SESSION),
        connections=8,
        connect_timeout=WITHIN,
        read_timeout=read_timeout,
        poll_timeout=read_timeout,
    )


@pytest.fixture
def both(server: Server) -> Iterator[tuple[Any, FastCalls]]:
    client = botocore_client(server.url)
    fast = fast_calls(client, server.url)
    yield client, fast
    fast.close()
    client.close()


QUEUE = "https://sqs.eu-west-1.amazonaws.com/123456789012/q"
CALLS: dict[str, dict[str, Any]] = {
    "send_message_batch": {
        "QueueUrl": QUEUE,
        "Entries": [
            {
                "Id": "0",
                "MessageBody": 'text with "quotes", é, \U0001f600 and a tab\t',
                "MessageAttributes": {"unimq": {"DataType": "String", "StringValue": '{"id":"1"}'}},
                "DelaySeconds": 3,
            },
            {"Id": "1", "MessageBody": "x", "MessageGroupId": "g", "MessageDeduplicationId": "d"},
        ],
    },
    "receive_message": {
        "QueueUrl": QUEUE,
        "MaxNumberOfMessages": 10,
        "WaitTimeSeconds": 5,
        "VisibilityTimeout": 65,
        "MessageAttributeNames": ["All"],
        "MessageSystemAttributeNames": ["ApproximateReceiveCount", "SentTimestamp"],
        "ReceiveRequestAttemptId": "abc",
    },
    "delete_message_batch": {"QueueUrl": QUEUE, "Entries": [{"Id": "0", "ReceiptHandle": "AQEB/+=="}]},
    "change_message_visibility_batch": {
        "QueueUrl": QUEUE,
        "Entries": [{"Id": "0", "ReceiptHandle": "AQEB", "VisibilityTimeout": 0}],
    },
}


@pytest.mark.parametrize("call", CALLS)
def test_the_request_is_the_one_of_botocore(call: str, server: Server, both: tuple[Any, FastCalls]) -> None:
    for calls in both:
        getattr(calls, call)(**CALLS[call])
    (path, theirs, body), (our_path, ours, our_body) = server.requests
    assert our_path == path == "/"
    assert json.loads(our_body) == json.loads(body) == CALLS[call]
    for name in ("Host", "Content-Type", "X-Amz-Target", "X-Amz-Security-Token", "Content-Length"):
        # botocore escapes what is no ASCII, so that its body may be longer.
        assert name == "Content-Length" or ours[name] == theirs[name]
    assert ours["x-amzn-query-mode".title()] == theirs["x-amzn-query-mode"] == "true"


def test_what_arrives_is_what_was_signed(server: Server, both: tuple[Any, FastCalls]) -> None:
    _, fast = both
    fast.send_message_batch(**CALLS["send_message_batch"])
    ((_, headers, body),) = server.requests
    names = headers["Authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    arrived = {name.lower(): value for name, value in headers.items()}
    signed = {name: arrived[name] for name in names if name not in {"host", "x-amz-date", "x-amz-security-token"}}
    request = AWSRequest("POST", f"http://{arrived['host']}/", signed, body)
    moment = dt.datetime.strptime(arrived["x-amz-date"], "%Y%m%dT%H%M%SZ")  # noqa: DTZ007 - botocore's are naive
    with patch("botocore.auth.get_current_datetime", return_value=moment):
        SigV4Auth(KEYS, "sqs", REGION).add_auth(request)
    assert request.headers["Authorization"] == headers["Authorization"]


ANSWERS: dict[str, dict[str, Any]] = {
    "send_message_batch": {
        "Successful": [{"Id": "0", "MessageId": "m", "MD5OfMessageBody": "x", "SequenceNumber": "18"}],
        "Failed": [{"Id": "1", "Code": "InternalError", "Message": "ü", "SenderFault": False}],
    },
    "receive_message": {
        "Messages": [
            {
                "MessageId": "m",
                "ReceiptHandle": "r",
                "MD5OfBody": "x",
                "Body": "é\U0001f600\n",
                "Attributes": {"ApproximateReceiveCount": "3", "MessageGroupId": "g"},
                "MD5OfMessageAttributes": "y",
                "MessageAttributes": {
                    "text": {"DataType": "String", "StringValue": "v"},
                    "raw": {"DataType": "Binary", "BinaryValue": base64.b64encode(bytes(range(256))).decode()},
                },
            },
            {"MessageId": "n", "ReceiptHandle": "s", "Body": "plain"},
        ]
    },
    "delete_message_batch": {"Successful": [{"Id": "0"}], "Failed": []},
    "change_message_visibility_batch": {
        "Successful": [],
        "Failed": [{"Id": "0", "Code": "ReceiptHandleIsInvalid", "SenderFault": True, "Message": "m"}],
    },
}


@pytest.mark.parametrize("call", CALLS)
def test_the_answer_is_the_one_of_botocore(call: str, server: Server, both: tuple[Any, FastCalls]) -> None:
    server.headers = {"Content-Type": "application/x-amz-json-1.0"}
    server.body = json.dumps(ANSWERS[call]).encode()
    theirs, ours = (dict(getattr(calls, call)(**CALLS[call])) for calls in both)
    theirs.pop("ResponseMetadata")
    assert ours == theirs


def problem(code: str) -> bytes:
    return json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": "why"}).encode()


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind"),
    [
        (400, {}, problem("QueueDoesNotExist"), NotFound),
        (
            400,
            {"x-amzn-query-error": "AWS.SimpleQueueService.NonExistentQueue;Sender"},
            problem("QueueDoesNotExist"),
            NotFound,
        ),
        (403, {}, problem("InvalidClientTokenId"), AuthError),
        (403, {}, problem("ExpiredTokenException"), AuthError),
        (403, {}, problem("AccessDeniedException"), AuthError),
        # A clock that is wrong: neither side corrects it.
        (403, {}, problem("InvalidSignatureException"), AuthError),
        (400, {}, problem("RequestThrottled"), ConnectionLost),
        (400, {}, problem("OverLimit"), ConnectionLost),
        (400, {}, problem("BatchRequestTooLong"), unimq.MessageTooLarge),
        (400, {}, problem("InvalidAttributeValue"), None),
        (429, {}, b"{}", ConnectionLost),
        (500, {}, problem("InternalFailure"), ConnectionLost),
        (500, {}, b"", ConnectionLost),
        (503, {"Content-Type": "text/html"}, b"<html>come back later</html>", ConnectionLost),
        (302, {"Location": "http://127.0.0.1:1/"}, b"", None),
        (413, {}, b"too large", None),
    ],
)
def test_an_error_is_the_one_of_botocore(
    status: int,
    headers: dict[str, str],
    body: bytes,
    kind: type[unimq.UnimqError] | None,
    server: Server,
    both: tuple[Any, FastCalls],
) -> None:
    server.status, server.headers, server.body = status, headers, body
    caught: list[ClientError] = []
    for calls in both:
        with pytest.raises(ClientError) as found:
            calls.delete_message_batch(**CALLS["delete_message_batch"])
        caught.append(found.value)
    theirs, ours = caught
    assert type(ours) is type(theirs)
    assert str(ours) == str(theirs).replace(" (reached max retries: 0)", "")
    assert code_of(ours) == code_of(theirs)
    assert kind_of(ours) is kind_of(theirs) is kind
    assert len(server.requests) == 2, "neither repeats a request"


def _native(error: Exception) -> NativeError:
    assert isinstance(error, NATIVE_ERRORS)
    return error


def break_off(handler: BaseHTTPRequestHandler) -> None:
    """Reset the connection instead of an answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()


def end(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection instead of an answer."""
    handler.close_connection = True


def cut_off(handler: BaseHTTPRequestHandler) -> None:
    """Answer with half of what was announced."""
    handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"Messages": [')
    handler.close_connection = True


def no_http(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    handler.close_connection = True


@pytest.mark.parametrize("misbehave", [break_off, end, cut_off, no_http])
def test_a_broken_exchange_may_be_tried_again(
    misbehave: Misbehaviour, server: Server, both: tuple[Any, FastCalls]
) -> None:
    server.misbehave = misbehave
    for calls in both[1:] if misbehave is cut_off else both:
        # botocore reads half an answer as an empty one.
        with pytest.raises(NATIVE_ERRORS) as found:
            calls.receive_message(**CALLS["receive_message"])
        assert kind_of(_native(found.value)) is ConnectionLost
    server.misbehave = None
    assert both[1].receive_message(**CALLS["receive_message"]) == {}


def test_half_a_json_document_is_no_answer(server: Server, both: tuple[Any, FastCalls]) -> None:
    server.body = b'{"Successful": ['
    with pytest.raises(NATIVE_ERRORS, match="no JSON") as found:
        both[1].delete_message_batch(**CALLS["delete_message_batch"])
    assert kind_of(_native(found.value)) is ConnectionLost


def test_an_answer_that_does_not_come_times_out_as_with_botocore(server: Server) -> None:
    def hang(_: BaseHTTPRequestHandler) -> None:
        server.ended.wait(WITHIN)

    server.misbehave = hang
    client = botocore_client(server.url, read_timeout=0.2)
    fast = fast_calls(client, server.url, read_timeout=0.2)
    for calls in (client, fast):
        with pytest.raises(ReadTimeoutError) as found:
            calls.send_message_batch(**CALLS["send_message_batch"])
        assert kind_of(found.value) is ConnectionLost


def test_nobody_there_is_told_as_botocore_tells_it() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        client = botocore_client(url)
        for calls in (client, fast_calls(client, url)):
            with pytest.raises(EndpointConnectionError) as found:
                calls.delete_message_batch(**CALLS["delete_message_batch"])
            assert kind_of(found.value) is ConnectionLost


def test_connections_are_kept(server: Server, both: tuple[Any, FastCalls]) -> None:
    for _ in range(20):
        both[1].delete_message_batch(**CALLS["delete_message_batch"])
    server.status, server.body = 400, problem("QueueDoesNotExist")
    with pytest.raises(ClientError):
        both[1].delete_message_batch(**CALLS["delete_message_batch"])
    assert len(server.requests) == 21
    assert server.connections == 1


# Credentials.


def test_credentials_that_end_are_refreshed(server: Server, both: tuple[Any, FastCalls]) -> None:
    now = dt.datetime.now(dt.UTC)
    expiries = iter([now - dt.timedelta(hours=1), now + dt.timedelta(hours=6)])
    fetched: list[dict[str, Any]] = []

    def fetch() -> dict[str, Any]:
        number = len(fetched)
        fetched.append(
            {
                "access_key": f"AK{number}",
                "secret_key": f"s{number}",
                "token": f"t{number}",
                "expiry_time": next(expiries).isoformat(),
            }
        )
        return fetched[-1]

    credentials = RefreshableCredentials.create_from_metadata(fetch(), fetch, "test")
    fast = fast_calls(both[0], server.url, credentials)
    for _ in range(3):
        fast.delete_message_batch(**CALLS["delete_message_batch"])
    assert {headers["X-Amz-Security-Token"] for _, headers, _ in server.requests} == {"t1"}
    assert all("Credential=AK1/" in headers["Authorization"] for _, headers, _ in server.requests)
    assert len(fetched) == 2


def test_without_credentials_no_request_is_made(server: Server, both: tuple[Any, FastCalls]) -> None:
    with pytest.raises(NoCredentialsError) as found:
        fast_calls(both[0], server.url, None).delete_message_batch(**CALLS["delete_message_batch"])
    assert kind_of(found.value) is AuthError
    assert not server.requests


# The way there.


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"region_name": "eu-west-1"}, Route("https://sqs.eu-west-1.amazonaws.com/", "eu-west-1", "sqs")),
        ({"region_name": "cn-north-1"}, Route("https://sqs.cn-north-1.amazonaws.com.cn/", "cn-north-1", "sqs")),
        (
            {"region_name": "us-east-1", "config": Config(use_fips_endpoint=True)},
            Route("https://sqs-fips.us-east-1.amazonaws.com/", "us-east-1", "sqs"),
        ),
        (
            {"region_name": "us-east-1", "config": Config(use_dualstack_endpoint=True)},
            Route("https://sqs.us-east-1.api.aws/", "us-east-1", "sqs"),
        ),
        (
            {"region_name": "us-east-1", "endpoint_url": "https://vpce-1.example:8443"},
            Route("https://vpce-1.example:8443/", "us-east-1", "sqs"),
        ),
    ],
)
def test_the_route_is_the_one_that_botocore_takes(options: dict[str, Any], expected: Route) -> None:
    client: Any = SESSION.create_client("sqs", aws_access_key_id="AK", aws_secret_access_key="s", **options)
    finder = RouteFinder(client)
    sent: list[str] = []

    def swallow(request: Any, **_: object) -> AWSResponse:
        sent.append(request.url)
        return AWSResponse(request.url, 200, HTTPHeaders(), _Raw())

    client.meta.events.register_last("before-send.sqs", swallow)
    client.get_queue_url(QueueName="q")
    assert sent == [expected.url]
    assert finder.route() == expected


class _Raw:
    """The connection behind an answer that nobody sent."""

    def stream(self, *_: object, **__: object) -> Iterator[bytes]:
        yield b"{}"


def test_what_is_not_signed_by_signature_v4_is_refused(server: Server) -> None:
    client = botocore_client(server.url, signature_version=botocore.UNSIGNED)
    finder = RouteFinder(client)
    client.get_queue_url(QueueName="q")
    with pytest.raises(ConfigError, match="Signature Version 4"):
        finder.route()


def test_an_endpoint_with_a_path_is_refused(server: Server) -> None:
    client = botocore_client(f"{server.url}/aws")
    finder = RouteFinder(client)
    client.get_queue_url(QueueName="q")
    with pytest.raises(ConfigError, match="without a path"):
        finder.route()


def test_a_proxy_is_refused_unless_it_is_not_for_this_host(
    server: Server, both: tuple[Any, FastCalls], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(ConfigError, match="NO_PROXY"):
        fast_calls(both[0], server.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert fast_calls(both[0], server.url).receive_message(**CALLS["receive_message"]) == {}


# TLS.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of 127.0.0.1, which is its own authority."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "certificate.pem"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture
def tls_server(certificate: Path) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "certificate.pem", certificate / "key.pem")
    found = Server(context)
    yield found
    found.close()


def test_certificates_are_checked(tls_server: Server, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    here, elsewhere = (f"https://{host}:{tls_server.port}" for host in ("127.0.0.1", "localhost"))

    def ask(url: str) -> Mapping[str, Any]:
        fast = fast_calls(botocore_client(url), url)
        try:
            return fast.receive_message(**CALLS["receive_message"])
        finally:
            fast.close()

    with pytest.raises(SSLError):
        ask(here)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate / "certificate.pem"))
    with pytest.raises(SSLError) as found:
        ask(elsewhere)
    assert kind_of(found.value) is ConnectionLost
    assert not tls_server.requests
    assert ask(here) == {}
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate / "nowhere.pem"))
    with pytest.raises(ConfigError, match=r"nowhere\.pem"):
        fast_calls(botocore_client("http://127.0.0.1:1"), here)


def test_connections_are_kept_over_tls(tls_server: Server, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What TLS sends by itself after the handshake is no end of the connection."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate / "certificate.pem"))
    url = f"https://127.0.0.1:{tls_server.port}"
    fast = fast_calls(botocore_client(url), url)
    for _ in range(5):
        assert fast.receive_message(**CALLS["receive_message"]) == {}
    fast.close()
    assert tls_server.connections == 1


def test_a_connection_by_url_uses_the_fast_path(
    tls_server: Server, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Temporary credentials, a bundle of authorities and a VPC endpoint, from the environment and the URL."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AK",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_SESSION_TOKEN": "temporary",
        "AWS_CA_BUNDLE": str(certificate / "certificate.pem"),
    }.items():
        monkeypatch.setenv(name, value)
    refused = {"Id": "0", "SenderFault": True, "Code": "InvalidParameterValue", "Message": "m"}
    tls_server.body = json.dumps({"QueueUrl": QUEUE, "Failed": [refused], "Successful": []}).encode()
    address = f"sqs://?region={REGION}&endpoint=https://127.0.0.1:{tls_server.port}&http=fast"
    with unimq.connect(address, timeout=WITHIN) as broker, broker.producer("q", timeout=WITHIN) as producer:
        with pytest.raises(unimq.SendRejected):
            producer.send(b"refused")
        counted = cast("Clients", broker.native).requests()
    sent = [headers for _, headers, _ in tls_server.requests if headers["X-Amz-Target"].endswith("SendMessageBatch")]
    assert len(sent) == 1
    assert {headers["User-Agent"] for headers in sent} == {"unimq"}
    assert all("Amz-Sdk-Request" not in {name.title() for name in headers} for headers in sent), "that is botocore's"
    assert {headers["X-Amz-Security-Token"] for headers in sent} == {"temporary"}
    assert counted["SQS.SendMessageBatch"].requests == len(sent)
