"""An HTTP proxy on 127.0.0.1 that answers for SQS as SQS does on a bad day: errors, lost answers, halves of batches.

    with SQSFaultProxy(("127.0.0.1", 4566)) as proxy:
        connect(f"sqs+http://key:secret@127.0.0.1:{proxy.port}/?region=us-east-1")
        with proxy.injecting("throttled", "SendMessageBatch"):
            ...
        assert proxy.hits["throttled", "SendMessageBatch"]

`unimq_contract.faults.proxy` knows connections and bytes; this one knows requests, so that a fault falls on one side of
what the server stored. Requests to SNS are counted, and refused where a `Gate` says so; no fault falls on them.
"""

import contextlib
import http.client
import json
import re
import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias, get_args
from urllib.parse import parse_qs

from unimq_contract.faults.proxy import FaultLog

Fault: TypeAlias = Literal[
    "error 500",
    "error 503",
    "throttled",
    "reset before",
    "reset after",
    "lost answer",
    "slow",
    "partial",
    "partial but done",
    "truncated",
    "garbled",
    "wrong MD5",
    "short lease",
    "long lease",
]
"""``error 500`` and ``503``, ``throttled``, ``reset before``: the server hears nothing of the request.

``reset after``, ``lost answer`` (an error 500 in its place), ``slow`` (no answer until the client gives up),
``truncated`` (the connection ends in its middle), ``garbled`` (half of it, as if it were all): it did what was asked.
``partial``: entries of a batch fail by no fault of the sender; ``partial but done``: and are done all the same.
``wrong MD5``: the checksums of bodies that were sent or received are others.
``short lease``, ``long lease``: the server's clock is fast or slow; it hides messages for half of the time that it is
asked for (a second at least), or for half as much again.
"""

FAULTS: tuple[Fault, ...] = get_args(Fault)
BATCHES = ("SendMessageBatch", "DeleteMessageBatch", "ChangeMessageVisibilityBatch")
HOT = (*BATCHES, "ReceiveMessage")
"""The operations that carry messages."""
WITHIN = 60.0
"""Seconds after which a client that does not give up is given up."""

Request: TypeAlias = Mapping[str, Any]
Watch: TypeAlias = Callable[[str, Request, Request], None]
"""Gets operation, request and answer of what the server did, whatever became of the answer; one call at a time."""

Gate: TypeAlias = Callable[[str, Request], bool]
"""Gets action (``sqs:SendMessageBatch``, ``sns:Publish``) and request; tells whether a policy allows it."""

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)
_WRONG_MD5 = "0" * 32
_SNS_REFUSAL = (
    b'<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><Error><Type>Sender</Type>'
    b"<Code>AuthorizationError</Code><Message>made by a test</Message></Error></ErrorResponse>"
)
_REFUSALS: Mapping[str, tuple[int, str]] = {
    "error 500": (500, "InternalError"),
    "lost answer": (500, "InternalError"),
    "error 503": (503, "ServiceUnavailable"),
    "throttled": (400, "RequestThrottled"),
}
_OF_BATCHES = {"partial", "partial but done"}
_WITH_MD5 = {"SendMessageBatch", "ReceiveMessage"}
_OF_LEASES = {"short lease", "long lease"}
_WITH_LEASE = {"ReceiveMessage", "ChangeMessageVisibilityBatch"}


def touches(fault: Fault, operation: str) -> bool:
    """Tell whether this operation has what the fault is about."""
    if fault in _OF_BATCHES:
        return operation in BATCHES
    if fault == "wrong MD5":
        return operation in _WITH_MD5
    if fault in _OF_LEASES:
        return operation in _WITH_LEASE
    return operation in HOT


@dataclass(frozen=True, slots=True)
class _Plan:
    fault: Fault
    operations: frozenset[str]
    every: int


@dataclass(slots=True)
class _Answer:
    status: int
    headers: list[tuple[str, str]]
    data: bytes


class SQSFaultProxy:
    """The proxy. Faults add up until `heal`; of each request one fault takes hold. Its lock guards all that changes.

    With a `log` each fault is noted for as long as it is injected.
    """

    def __init__(
        self,
        server: tuple[str, int],
        *,
        log: FaultLog | None = None,
        watch: Watch | None = None,
        gate: Gate | None = None,
    ) -> None:
        self.hits: Counter[tuple[Fault, str]] = Counter()
        """By fault and operation, how often it took hold."""
        self.requests: Counter[str] = Counter()
        """By operation, how many came; those to SNS with ``sns:`` before the name."""
        self.signers: Counter[str] = Counter()
        """By access key, how many requests it signed; in the order of their first."""
        self._target = server
        self._log = log
        self._watch = watch
        self._gate = gate
        self._lock = threading.Condition()
        self._watching = threading.Lock()
        self._plans: list[_Plan] = []
        self._over = threading.Event()
        self._connections: set[socket.socket] = set()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        """Where clients connect, on 127.0.0.1."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="sqs-fault-proxy", daemon=True
        )
        self._thread.start()

    def inject(self, fault: Fault, *operations: str, every: int = 1) -> None:
        """Let every `every`-th of these requests (by default of all that carry messages) meet the fault, until `heal`.

        Raises:
            ValueError: the fault is about something that an operation has not.

        """
        wanted = frozenset(operations or (operation for operation in HOT if touches(fault, operation)))
        if wrong := [operation for operation in sorted(wanted) if not touches(fault, operation)]:
            raise ValueError(f"{fault!r} has no meaning for {', '.join(wrong)}")
        if self._log is not None:
            self._log.down(fault)
        with self._lock:
            self._plans.append(_Plan(fault, wanted, every))

    def heal(self) -> None:
        """End every fault; answers that are held back stay lost."""
        with self._lock:
            plans, self._plans = self._plans, []
            self._lock.notify_all()
        for plan in plans:
            if self._log is not None:
                self._log.up(plan.fault)

    @contextlib.contextmanager
    def injecting(self, fault: Fault, *operations: str, every: int = 1) -> Generator[Self]:
        """Inject one fault for the time of the block."""
        self.inject(fault, *operations, every=every)
        try:
            yield self
        finally:
            self.heal()

    def wait_for_hits(self, fault: Fault, operation: str, count: int, timeout: float = WITHIN) -> None:
        """Wait until the fault took hold so often.

        Raises:
            TimeoutError: it did not.

        """
        with self._lock:
            if not self._lock.wait_for(lambda: self.hits[fault, operation] >= count, timeout):
                raise TimeoutError(
                    f"{fault!r} met {self.hits[fault, operation]} of {count} requests {operation} within {timeout} s"
                )

    def close(self) -> None:
        """End with every connection; no thread or socket is left. Idempotent."""
        self.heal()
        self._over.set()
        self._server.shutdown()
        with self._lock:
            open_connections = list(self._connections)
        for connection in open_connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join(WITHIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The server's threads.

    def _choose(self, operation: str) -> Fault | None:
        with self._lock:
            self.requests[operation] += 1
            for plan in self._plans:
                if operation in plan.operations and self.requests[operation] % plan.every == 0:
                    self.hits[plan.fault, operation] += 1
                    self._lock.notify_all()
                    return plan.fault
        return None

    def _allows(self, action: str, asked: Request) -> bool:
        return self._gate is None or self._gate(action, asked)

    def _seen(self, operation: str, asked: Request, answer: _Answer) -> None:
        if self._watch is not None and answer.status == http.client.OK:
            with self._watching:
                self._watch(operation, asked, _read(answer.data))


class _Server(ThreadingHTTPServer):
    """Its threads end with it: `server_close` waits for them."""

    daemon_threads = False
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: connections that end in the middle are what this is about."""


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client, with its own connection to the server."""

    owner: SQSFaultProxy
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.upstream: http.client.HTTPConnection | None = None
        with self.owner._lock:
            self.owner._connections.add(self.connection)

    def finish(self) -> None:
        with self.owner._lock:
            self.owner._connections.discard(self.connection)
        if self.upstream is not None:
            self.upstream.close()
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        target = str(self.headers.get("X-Amz-Target", ""))
        signer = re.search(r"Credential=([^/]+)/", str(self.headers.get("Authorization", "")))
        with self.owner._lock:
            self.owner.signers[signer[1] if signer else ""] += 1
        if not target:
            self._pass_to_sns(body)
            return
        operation = target.rpartition(".")[2]
        fault = self.owner._choose(operation)
        if not self.owner._allows(f"sqs:{operation}", _read(body)):
            self._reply(_refusal(400, "AccessDeniedException"))
            return
        match fault:
            case "error 500" | "error 503" | "throttled":
                self._reply(_refusal(*_REFUSALS[fault]))
            case "reset before":
                self._reset()
            case "partial":
                self._partly(operation, body)
            case "short lease" | "long lease":
                answer = self._forward(_with_lease(body, fault))
                self.owner._seen(operation, _read(body), answer)
                self._reply(answer)
            case _:
                answer = self._forward(body)
                self.owner._seen(operation, _read(body), answer)
                self._answer_badly(fault, body, answer)

    def _pass_to_sns(self, body: bytes) -> None:
        """SNS speaks another protocol: forms, and XML."""
        asked = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        action = f"sns:{asked.get('Action', '')}"
        self.owner._choose(action)
        if self.owner._allows(action, asked):
            self._reply(self._forward(body))
        else:
            self._reply(_Answer(403, [("Content-Type", "text/xml")], _SNS_REFUSAL))

    def _answer_badly(self, fault: Fault | None, body: bytes, answer: _Answer) -> None:
        match fault:
            case None:
                self._reply(answer)
            case "reset after":
                self._reset()
            case "slow":
                self._wait_until_given_up()
            case "truncated":
                self._reply(answer, self._half(answer))
                self._reset()
            case "garbled":
                self._reply(_Answer(answer.status, answer.headers, self._half(answer)))
            case "partial but done":
                self._reply(_with_failures(answer, _read(body)["Entries"][::2]))
            case "wrong MD5":
                self._reply(_with_wrong_checksums(answer))
            case _:
                self._reply(_refusal(*_REFUSALS[fault]))

    @staticmethod
    def _half(answer: _Answer) -> bytes:
        return answer.data[: max(1, len(answer.data) // 2)]

    def _partly(self, operation: str, body: bytes) -> None:
        """Fail every second entry, the first included, and have the others done."""
        asked = _read(body)
        failing, others = asked["Entries"][::2], asked["Entries"][1::2]
        if others:
            part = {**asked, "Entries": others}
            answer = self._forward(json.dumps(part).encode())
            self.owner._seen(operation, part, answer)
        else:
            answer = _Answer(http.client.OK, [("Content-Type", "application/x-amz-json-1.0")], b"{}")
        self._reply(_with_failures(answer, failing))

    def _forward(self, body: bytes) -> _Answer:
        kept = {name: value for name, value in self.headers.items() if name.lower() not in {"host", "content-length"}}
        host, port = self.owner._target
        if self.upstream is None:
            self.upstream = http.client.HTTPConnection(host, port, timeout=WITHIN)
        try:
            self.upstream.request("POST", self.path, body, kept)
            response = self.upstream.getresponse()
            data = response.read()
        except (http.client.HTTPException, OSError):
            # The server is away, or closed an idle connection: told to the client as what it is, a broken connection.
            self._reset()
            raise
        headers = [
            (name, value)
            for name, value in response.getheaders()
            if name.lower() not in {"content-length", "connection", "transfer-encoding", "date"}
        ]
        return _Answer(response.status, headers, data)

    def _reply(self, answer: _Answer, data: bytes | None = None) -> None:
        """Send an answer, or only this `data` of it."""
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.data)))
        self.end_headers()
        self.wfile.write(answer.data if data is None else data)
        self.wfile.flush()

    def _reset(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)

    def _wait_until_given_up(self) -> None:
        """Wait for the client to close its connection: it sends nothing more while it waits for an answer."""
        self.close_connection = True
        for _ in range(int(WITHIN * 20)):
            if select.select([self.connection], [], [], 0.05)[0] or self.owner._over.is_set():
                return


def _read(data: bytes) -> dict[str, Any]:
    """Return the JSON of a request or an answer."""
    found: dict[str, Any] = json.loads(data or b"{}")
    return found


def _refusal(status: int, code: str) -> _Answer:
    data = json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": "made by a test"}).encode()
    return _Answer(status, [("Content-Type", "application/x-amz-json-1.0")], data)


def _with_failures(answer: _Answer, entries: list[Request]) -> _Answer:
    """Return the answer of a batch with these entries failed, by no fault of the sender."""
    if answer.status != http.client.OK:
        return answer
    said = _read(answer.data)
    failed = {entry["Id"] for entry in entries}
    failures = [{"Id": name, "SenderFault": False, "Code": "InternalError", "Message": "m"} for name in sorted(failed)]
    said["Successful"] = [entry for entry in said.get("Successful", ()) if entry["Id"] not in failed]
    said["Failed"] = [*(entry for entry in said.get("Failed", ()) if entry["Id"] not in failed), *failures]
    return _Answer(answer.status, answer.headers, json.dumps(said).encode())


def _with_lease(body: bytes, fault: Fault) -> bytes:
    """Return the request as a server with a wrong clock carries it out; what is given back is back at once."""

    def skewed(seconds: int) -> int:
        return seconds and (max(1, seconds // 2) if fault == "short lease" else seconds + seconds // 2)

    asked = _read(body)
    for each in (asked, *asked.get("Entries", ())):
        if "VisibilityTimeout" in each:
            each["VisibilityTimeout"] = skewed(each["VisibilityTimeout"])
    return json.dumps(asked).encode()


def _with_wrong_checksums(answer: _Answer) -> _Answer:
    """Return the answer with wrong checksums of all bodies."""
    if answer.status != http.client.OK:
        return answer
    said = _read(answer.data)
    for entry in said.get("Successful") or ():
        entry["MD5OfMessageBody"] = _WRONG_MD5
    for message in said.get("Messages") or ():
        message["MD5OfBody"] = _WRONG_MD5
    return _Answer(answer.status, answer.headers, json.dumps(said).encode())


class Visibility:
    """Watches what hides messages: nothing may do so for longer than allowed, or after it was given back (A3, A5).

    A renewal that goes on after the settlement makes a message invisible for hours, and nobody notices. A `Watch`.
    """

    def __init__(self, longest: int) -> None:
        self.longest = longest
        """Seconds for which one request may hide a message."""
        self.wrong: list[str] = []
        """What was against it, as text."""
        self.looked_at = 0
        """Receives and changes with messages in them: a run without them proves nothing."""
        self._back: set[str] = set()
        """Receipt handles of messages that were given back."""

    def __call__(self, operation: str, asked: Request, answer: Request) -> None:
        """See `Watch`."""
        done = {entry["Id"] for entry in answer.get("Successful") or ()}
        entries = [entry for entry in asked.get("Entries", ()) if entry["Id"] in done]
        match operation:
            case "ReceiveMessage" if answer.get("Messages"):
                self.looked_at += 1
                if asked["VisibilityTimeout"] > self.longest:
                    self.wrong.append(f"a receive hides for {asked['VisibilityTimeout']} s")
            case "ChangeMessageVisibilityBatch":
                self.looked_at += 1
                for entry in entries:
                    handle, seconds = entry["ReceiptHandle"], entry["VisibilityTimeout"]
                    if seconds > self.longest:
                        self.wrong.append(f"a change hides for {seconds} s")
                    if not seconds:
                        self._back.add(handle)
                    elif handle in self._back:
                        self.wrong.append(f"a message that was given back is hidden for {seconds} s more")
            case _:
                pass
