"""Ready-checks that speak each broker's own protocol over a plain socket: an open port is not yet a broker."""

import http.client
import re
import socket
import struct

_KAFKA_FIND_COORDINATOR = 10
_KAFKA_METADATA = 3
_KAFKA_INIT_PRODUCER_ID = 22


def tcp_answers(host: str, port: int, timeout: float = 2.0) -> bool:
    """Whether anything accepts connections there."""
    try:
        socket.create_connection((host, port), timeout).close()
    except OSError:
        return False
    return True


def amqp_version(host: str, port: int, timeout: float = 2.0) -> str | None:
    """Server version from AMQP's ``connection.start``, ``"unknown"`` if it does not say; None when nobody answers."""
    try:
        with socket.create_connection((host, port), timeout) as peer:
            peer.settimeout(timeout)
            peer.sendall(b"AMQP\x00\x00\x09\x01")
            header = _exactly(peer, 7)
            body = _exactly(peer, min(int(struct.unpack(">I", header[3:])[0]), 65536))
    except OSError:
        return None
    found = re.search(rb"\x07versionS\x00\x00\x00.([0-9][0-9A-Za-z.+-]*)", body, re.DOTALL)
    return found[1].decode("ascii") if found else "unknown"


def kafka_answers(host: str, port: int, timeout: float = 2.0) -> bool:
    """Whether a metadata request names at least one live broker."""
    answer = _kafka_request(host, port, _KAFKA_METADATA, struct.pack(">i", 0), timeout)
    return answer is not None and len(answer) >= 4 and struct.unpack_from(">i", answer)[0] > 0


def kafka_group_coordinator_ready(host: str, port: int, group: str = "unimq-warm-up", timeout: float = 2.0) -> bool:
    """Ask for a group's coordinator, which makes a new broker create ``__consumer_offsets``; whether it is there."""
    answer = _kafka_request(host, port, _KAFKA_FIND_COORDINATOR, _kafka_string(group), timeout)
    return answer is not None and len(answer) >= 2 and struct.unpack_from(">h", answer)[0] == 0


def kafka_producer_ids_ready(host: str, port: int, timeout: float = 2.0) -> bool:
    """Ask for a producer id, as an idempotent producer does first; False while the broker still loads what it needs."""
    answer = _kafka_request(host, port, _KAFKA_INIT_PRODUCER_ID, struct.pack(">hi", -1, 1000), timeout)
    return answer is not None and len(answer) >= 6 and struct.unpack_from(">h", answer, 4)[0] == 0


def sqs_answers(host: str, port: int, timeout: float = 2.0) -> bool:
    """Whether ListQueues is understood; a refusal of the made-up credentials is an answer too."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request(
            "POST",
            "/",
            b"{}",
            {
                "Content-Type": "application/x-amz-json-1.0",
                "X-Amz-Target": "AmazonSQS.ListQueues",
                "Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/sqs/aws4_request, "
                "SignedHeaders=host, Signature=0",
            },
        )
        return connection.getresponse().status in (200, 400, 403)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _kafka_request(host: str, port: int, api: int, body: bytes, timeout: float) -> bytes | None:
    """Send one request in its version 0 and return the answer's body, None when there is none."""
    request = struct.pack(">hhi", api, 0, 1) + _kafka_string("unimq-tap") + body
    try:
        with socket.create_connection((host, port), timeout) as peer:
            peer.settimeout(timeout)
            peer.sendall(struct.pack(">i", len(request)) + request)
            (length,) = struct.unpack(">i", _exactly(peer, 4))
            return _exactly(peer, min(max(length, 0), 1_000_000))[4:]
    except OSError:
        return None


def _kafka_string(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">h", len(data)) + data


def _exactly(peer: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = peer.recv(count - len(data))
        if not piece:
            raise ConnectionError("closed in the middle of an answer")
        data += piece
    return data
