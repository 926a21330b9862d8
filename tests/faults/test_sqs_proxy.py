"""The proxy of requests to SQS: what the server hears and what the client gets, for each fault."""

import http.client
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from unimq_contract.faults.sqs import BATCHES, FAULTS, HOT, Fault, SQSFaultProxy, Visibility, touches

WITHIN = 60.0
ENTRIES = [{"Id": str(number), "ReceiptHandle": f"h{number}", "VisibilityTimeout": 5} for number in range(4)]
UNHEARD: set[Fault] = {"error 500", "error 503", "throttled", "reset before"}


class Server:
    """Says of every batch that it is done; `heard` has what was asked."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                asked = json.loads(data)
                server.heard.append(asked)
                done = [{"Id": entry["Id"], "MD5OfMessageBody": "m"} for entry in asked.get("Entries", ())]
                answer = json.dumps({"Successful": done, "Messages": [{"MD5OfBody": "m"}]}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()
    server.thread.join(WITHIN)


def ask(
    port: int, operation: str, timeout: float = WITHIN, body: dict[str, Any] | None = None
) -> tuple[int, dict[str, Any]]:
    """Return status and JSON of an answer, or raise what a client would see."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        asked = body or ({"VisibilityTimeout": 5} if operation == "ReceiveMessage" else {"Entries": ENTRIES})
        connection.request("POST", "/", json.dumps(asked), {"X-Amz-Target": f"AmazonSQS.{operation}"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_without_a_fault_everything_passes_as_it_is(server: Server) -> None:
    with SQSFaultProxy(("127.0.0.1", server.http.server_port)) as proxy:
        status, answer = ask(proxy.port, "DeleteMessageBatch")
    assert (status, len(answer["Successful"]), "Failed" in answer) == (200, 4, False)
    assert proxy.hits.total() == 0
    assert proxy.requests == {"DeleteMessageBatch": 1}
    assert not [thread for thread in threading.enumerate() if thread.name == "sqs-fault-proxy"]


@pytest.mark.parametrize("fault", FAULTS)
def test_what_the_server_hears_and_the_client_gets(fault: Fault, server: Server) -> None:
    operation = next(operation for operation in HOT if touches(fault, operation))
    gone = (OSError, http.client.HTTPException)
    with SQSFaultProxy(("127.0.0.1", server.http.server_port)) as proxy:
        with proxy.injecting(fault, operation):
            match fault:
                case "error 500" | "lost answer":
                    assert ask(proxy.port, operation)[0] == 500
                case "error 503":
                    assert ask(proxy.port, operation)[0] == 503
                case "throttled":
                    status, answer = ask(proxy.port, operation)
                    assert (status, answer["__type"].rpartition("#")[2]) == (400, "RequestThrottled")
                case "reset before" | "reset after" | "truncated":
                    with pytest.raises(gone):
                        ask(proxy.port, operation)
                case "slow":
                    with pytest.raises(TimeoutError):
                        ask(proxy.port, operation, timeout=0.2)
                case "garbled":
                    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
                        ask(proxy.port, operation)
                case "partial" | "partial but done":
                    _, answer = ask(proxy.port, operation)
                    assert [entry["Id"] for entry in answer["Successful"]] == ["1", "3"]
                    assert [(entry["Id"], entry["SenderFault"]) for entry in answer["Failed"]] == [
                        ("0", False),
                        ("2", False),
                    ]
                case "wrong MD5":
                    _, answer = ask(proxy.port, operation)
                    assert {entry["MD5OfMessageBody"] for entry in answer["Successful"]} == {"0" * 32}
                    assert answer["Messages"][0]["MD5OfBody"] == "0" * 32
                case "short lease" | "long lease":
                    assert ask(proxy.port, operation)[0] == 200
        proxy.wait_for_hits(fault, operation, 1)
        heard = [] if fault in UNHEARD else [2 if fault == "partial" else 4 if operation in BATCHES else 0]
        assert [len(asked.get("Entries", ())) for asked in server.heard] == heard
        assert ask(proxy.port, operation)[0] == 200, "it is over at the end of the block"


@pytest.mark.parametrize(("fault", "heard"), [("short lease", {5: 2, 1: 1, 0: 0}), ("long lease", {5: 7, 1: 1, 0: 0})])
def test_a_wrong_clock_hides_for_another_time_and_gives_back_at_once(
    fault: Fault, heard: dict[int, int], server: Server
) -> None:
    with SQSFaultProxy(("127.0.0.1", server.http.server_port)) as proxy, proxy.injecting(fault):
        for seconds in heard:
            asked: tuple[dict[str, Any], ...] = (
                {"VisibilityTimeout": seconds},
                {"Entries": [{"Id": "0", "ReceiptHandle": "h", "VisibilityTimeout": seconds}]},
            )
            for operation, body in zip(("ReceiveMessage", BATCHES[-1]), asked, strict=True):
                ask(proxy.port, operation, body=body)
    assert [asked["VisibilityTimeout"] for asked in server.heard[::2]] == list(heard.values())
    assert [asked["Entries"][0]["VisibilityTimeout"] for asked in server.heard[1::2]] == list(heard.values())


def test_every_second_request_and_only_of_the_named_operations(server: Server) -> None:
    with SQSFaultProxy(("127.0.0.1", server.http.server_port)) as proxy:
        proxy.inject("error 500", "DeleteMessageBatch", every=2)
        statuses = [ask(proxy.port, "DeleteMessageBatch")[0] for _ in range(4)]
        assert statuses == [200, 500, 200, 500]
        assert ask(proxy.port, "SendMessageBatch")[0] == 200
        with pytest.raises(TimeoutError, match="2 of 3 requests"):
            proxy.wait_for_hits("error 500", "DeleteMessageBatch", 3, timeout=0.01)
        with pytest.raises(ValueError, match="no meaning for ReceiveMessage"):
            proxy.inject("partial", "ReceiveMessage")


def test_what_hides_for_too_long_or_after_it_was_given_back_is_found(server: Server) -> None:
    watch = Visibility(longest=5)
    with SQSFaultProxy(("127.0.0.1", server.http.server_port), watch=watch) as proxy:
        ask(proxy.port, "ReceiveMessage")
        ask(proxy.port, BATCHES[-1])
    assert (watch.looked_at, watch.wrong) == (2, [])
    back = {"Entries": [{"Id": "0", "ReceiptHandle": "h", "VisibilityTimeout": 0}]}
    more = {"Entries": [{"Id": "0", "ReceiptHandle": "h", "VisibilityTimeout": 3}]}
    done = {"Successful": [{"Id": "0"}]}
    watch(BATCHES[-1], back, {"Failed": [{"Id": "0"}]})
    watch(BATCHES[-1], more, done)
    assert watch.wrong == [], "what failed gave nothing back"
    watch(BATCHES[-1], back, done)
    watch(BATCHES[-1], more, done)
    watch("ReceiveMessage", {"VisibilityTimeout": 6}, {"Messages": [{}]})
    assert watch.wrong == ["a message that was given back is hidden for 3 s more", "a receive hides for 6 s"]
