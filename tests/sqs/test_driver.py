"""Connecting and declaring against a scripted endpoint: what only AWS answers, and no emulator."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NoReturn

import pytest

import unimq

Answer = tuple[int, dict[str, Any] | str]


class Endpoint:
    """Answers JSON requests from a script by operation; the last answer of an operation repeats."""

    def __init__(self) -> None:
        self.script: dict[str, list[Answer]] = {
            "GetQueueUrl": [missing()],
            "CreateQueue": [(200, {"QueueUrl": "http://x/000000000000/q"})],
        }
        self.operations: list[str] = []
        self.requests: list[tuple[str, dict[str, Any]]] = []
        """What SQS was asked for; SNS speaks another protocol, and is not here."""
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                asked = self.rfile.read(int(self.headers["Content-Length"]))
                operation = self.headers.get("X-Amz-Target", "SNS").rpartition(".")[2]
                endpoint.operations.append(operation)
                if operation != "SNS":
                    endpoint.requests.append((operation, json.loads(asked)))
                answers = endpoint.script.get(operation, [(404, {})])
                status, body = answers.pop(0) if len(answers) > 1 else answers[0]
                data = (body if isinstance(body, str) else json.dumps(body)).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.0")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"sqs+http://key:hunter2@127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


def refused(code: str, status: int = 400) -> Answer:
    return status, {"__type": f"com.amazonaws.sqs#{code}", "message": "m"}


def missing() -> Answer:
    return refused("QueueDoesNotExist")


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()


@pytest.mark.parametrize("code", ["InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken"])
def test_wrong_keys_are_refused_with_one_request(endpoint: Endpoint, code: str) -> None:
    endpoint.script["GetQueueUrl"] = [refused(code, 403)]
    with pytest.raises(unimq.AuthError, match=r"127\.0\.0\.1") as caught:
        unimq.connect(endpoint.url)
    assert "hunter2" not in str(caught.value)
    assert endpoint.operations == ["GetQueueUrl"]


NO_ANSWERS = ["", '{"Messages": [{"MessageId": "1", "Rec', "<html>Log in to the network first</html>"]


@pytest.mark.parametrize("text", NO_ANSWERS)
def test_what_is_no_answer_is_not_taken_for_an_empty_one(endpoint: Endpoint, text: str) -> None:
    """botocore reads all of these as empty: a queue without a URL, a receive that brought nothing."""
    endpoint.script["CreateQueue"] = [(200, text)]
    with unimq.connect(endpoint.url, timeout=0.5) as broker, pytest.raises(unimq.ConnectionLost, match="no JSON"):
        broker.declare(unimq.Queue("q", dead_letter=False))
    endpoint.script["GetQueueUrl"] = [(200, text)]
    with pytest.raises(unimq.ConnectionLost, match="no JSON"):
        unimq.connect(endpoint.url, timeout=0.5)


@pytest.mark.parametrize("http", ["botocore", "fast"])
@pytest.mark.parametrize("text", NO_ANSWERS)
def test_a_receive_whose_answer_is_none_is_tried_again(
    endpoint: Endpoint, http: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.script |= {
        "GetQueueUrl": [missing(), (200, {"QueueUrl": "http://x/000000000000/q"})],
        "ListQueueTags": [(200, {"Tags": {"unimq": "dead_letter=false"}})],
        "GetQueueAttributes": [(200, {"Attributes": {}})],
        # The second ends the consumer.
        "ReceiveMessage": [(200, text), refused("AccessDenied", 403)],
    }
    queue = unimq.Queue("q", dead_letter=False)
    with (
        unimq.connect(f"{endpoint.url}?http={http}") as broker,
        broker.consumer(queue) as consumer,
        pytest.raises(unimq.AuthError),
    ):
        consumer.receive(timeout=60.0)
    assert "ReceiveMessage was answered with what is no JSON" in caplog.text


def test_a_permission_for_other_queues_is_enough_to_connect(endpoint: Endpoint) -> None:
    endpoint.script["GetQueueUrl"] = [refused("AccessDenied", 403)]
    with unimq.connect(endpoint.url) as broker:
        assert not broker.capabilities.topics
        with pytest.raises(unimq.Unsupported, match="no SNS"):
            broker.declare(unimq.Topic("t"))
        with pytest.raises(unimq.AuthError):
            broker.declare("q")


def test_a_name_that_is_not_free_again_is_tried_until_the_timeout(endpoint: Endpoint) -> None:
    busy = refused("QueueDeletedRecently")
    endpoint.script["CreateQueue"] = [busy, busy, endpoint.script["CreateQueue"][0]]
    with unimq.connect(endpoint.url) as broker:
        broker.declare(unimq.Queue("q", dead_letter=False))
        assert endpoint.operations.count("CreateQueue") == 3
    endpoint.script["CreateQueue"] = [busy]
    with unimq.connect(endpoint.url, timeout=0.5) as broker, pytest.raises(unimq.DeclarationConflict, match="m"):
        broker.declare(unimq.Queue("q", dead_letter=False))


def test_a_queue_made_by_another_program_at_the_same_time_is_compared(endpoint: Endpoint) -> None:
    found = (200, {"QueueUrl": "http://x/000000000000/q"})
    endpoint.script |= {
        "CreateQueue": [refused("QueueNameExists")],
        # The probe, then the name with both orderings.
        "GetQueueUrl": [missing(), missing(), missing(), found],
        "ListQueueTags": [(200, {"Tags": {"unimq": "ttl=5.0 dead_letter=false"}})],
    }
    with (
        unimq.connect(endpoint.url) as broker,
        pytest.raises(unimq.DeclarationConflict, match=r"ttl is 5\.0, not None"),
    ):
        broker.declare(unimq.Queue("q", dead_letter=False))


def test_policies_that_nobody_may_read_are_taken_as_declared(endpoint: Endpoint) -> None:
    endpoint.script["GetQueueUrl"] = [missing(), (200, {"QueueUrl": "http://x/000000000000/q"})]
    endpoint.script["ListQueueTags"] = [refused("AccessDeniedException")]
    with unimq.connect(endpoint.url) as broker:
        broker.declare(unimq.Queue("q", ttl=5, dead_letter=False))
    assert "CreateQueue" not in endpoint.operations


@pytest.mark.parametrize(
    ("queue", "error"),
    [
        (unimq.Queue("q", lease=43_201, dead_letter=False), unimq.Unsupported),
        (unimq.Queue("q.fifo", portable_name=False, dead_letter=False), unimq.ConfigError),
    ],
    ids=["lease", "fifo"],
)
def test_what_sqs_cannot_is_refused_before_any_request(
    endpoint: Endpoint, queue: unimq.Queue, error: type[unimq.UnimqError]
) -> None:
    with unimq.connect(endpoint.url) as broker:
        before = list(endpoint.operations)
        with pytest.raises(error):
            broker.declare(queue)
        assert endpoint.operations == before


def test_an_ordered_queue_is_a_fifo_queue_for_high_throughput(endpoint: Endpoint) -> None:
    with unimq.connect(endpoint.url) as broker:
        broker.declare(unimq.Queue("q", ordering="key", dead_letter=False))
    (asked,) = (asked for operation, asked in endpoint.requests if operation == "CreateQueue")
    assert asked["QueueName"] == "q.fifo"
    assert (
        asked["Attributes"]
        | {
            "FifoQueue": "true",
            "ContentBasedDeduplication": "false",
            "DeduplicationScope": "messageGroup",
            "FifoThroughputLimit": "perMessageGroupId",
        }
        == asked["Attributes"]
    )


def test_a_name_is_looked_for_with_both_orderings_and_its_own_first(endpoint: Endpoint) -> None:
    with unimq.connect(endpoint.url) as broker:
        broker.declare(unimq.Queue("q", dead_letter=False))
        broker.declare(unimq.Queue("p", ordering="key", dead_letter=False))
        broker.declare(unimq.Queue("x" * 80, dead_letter=False))
    names = [asked["QueueName"] for operation, asked in endpoint.requests if operation == "GetQueueUrl"]
    # 80 characters are the most that a name has.
    assert names[1:] == ["q", "q.fifo", "p.fifo", "p", "x" * 80]


def test_permissions_need_not_cover_the_name_with_the_other_ordering(endpoint: Endpoint) -> None:
    endpoint.script["GetQueueUrl"] = [missing(), missing(), refused("AccessDenied", 403)]
    with unimq.connect(endpoint.url) as broker:
        broker.declare(unimq.Queue("q", dead_letter=False))
    assert endpoint.operations.count("CreateQueue") == 1
    endpoint.script["GetQueueUrl"] = [missing(), refused("AccessDenied", 403)]
    with unimq.connect(endpoint.url) as broker, pytest.raises(unimq.AuthError):
        broker.declare(unimq.Queue("q", dead_letter=False))


def test_what_was_looked_up_is_looked_up_once(endpoint: Endpoint) -> None:
    endpoint.script["GetQueueUrl"] = [missing(), missing(), (200, {"QueueUrl": "http://x/000000000000/q.fifo"})]
    endpoint.script["GetQueueAttributes"] = [(200, {"Attributes": {"ApproximateNumberOfMessages": "3"}})]
    with unimq.connect(endpoint.url) as broker:
        for _ in range(3):
            assert broker.stats(unimq.Queue("q", dead_letter=False)).ready == 3
    names = [asked["QueueName"] for operation, asked in endpoint.requests if operation == "GetQueueUrl"]
    assert names[1:] == ["q", "q.fifo"]


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No name has an address, as far as this process sees; and there are keys."""

    def unknown(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    ("wrong", "near"), [("eu-wset-1", "eu-west-1"), ("us-east-9", "us-east-1"), ("cn-nort-1", "cn-north-1")]
)
def test_a_region_that_does_not_exist_is_told_with_those_that_do(wrong: str, near: str) -> None:
    with pytest.raises(unimq.ConfigError, match=f"no region '{wrong}'.*{near}") as caught:
        unimq.connect(f"sqs://?region={wrong}")
    assert not caught.value.retryable


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("options", ["region=eu-west-1", "region=eu-west-9&endpoint=https://sqs.internal.example"])
def test_who_does_not_answer_in_a_known_region_or_at_a_chosen_endpoint_may_come_back(options: str) -> None:
    with pytest.raises(unimq.ConnectionLost) as caught:
        unimq.connect(f"sqs://?{options}")
    assert caught.value.retryable
