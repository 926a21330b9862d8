"""Measures the SQS adapter against a responder that costs little: what the client side can do, and what it costs.

    python tests/sqs/throughput.py consume --http fast --delay 0.01 --consumers 10
    python tests/sqs/throughput.py cpu

The responder runs in a process of its own, answers from prepared text, and holds back each for `--delay` seconds.
No emulator is fast enough to measure the client: with one of them one measures the emulator (`docs/sqs.md`).
"""

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import unimq

BATCH = 10
ATTRIBUTE = '{"id":"0190-1","sent_at":1700000000123}'
BODY = "x" * 100


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def attribute_md5(value: str) -> str:
    parts = (b"unimq", b"String", b"\1", value.encode())
    return md5(b"".join(part if part == b"\1" else struct.pack(">I", len(part)) + part for part in parts))


def _message(number: int) -> Mapping[str, Any]:
    return {
        "MessageId": f"00000000-0000-0000-0000-{number:012}",
        "ReceiptHandle": f"AQEB{number:060}",
        "MD5OfBody": md5(BODY.encode()),
        "Body": BODY,
        "Attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1700000000123"},
        "MD5OfMessageAttributes": attribute_md5(ATTRIBUTE),
        "MessageAttributes": {"unimq": {"StringValue": ATTRIBUTE, "DataType": "String"}},
    }


RECEIVED = json.dumps({"Messages": [_message(number) for number in range(BATCH)]}).encode()
DONE = [json.dumps({"Successful": [{"Id": str(n)} for n in range(size)]}).encode() for size in range(BATCH + 1)]


class Responder(asyncio.Protocol):
    """One connection."""

    def __init__(self, delay: float, counts: Counter[str]) -> None:
        self._delay = delay
        self._counts = counts
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while True:
            head, found, rest = self._data.partition(b"\r\n\r\n")
            if not found:
                return
            fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
            length = int(fields[b"content-length"])
            if len(rest) < length:
                return
            self._data = rest[length:]
            action = fields.get(b"x-amz-target", b"sns").rpartition(b".")[2].decode()
            body = self._answer(action, rest[:length])
            answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: %d\r\n\r\n%b" % (
                len(body),
                body,
            )
            if self._delay:
                asyncio.get_running_loop().call_later(self._delay, self._transport.write, answer)
            else:
                self._transport.write(answer)

    def _answer(self, action: str, asked: bytes) -> bytes:
        self._counts[action] += 1
        if action == "receivemessage":
            return RECEIVED
        if action in {"deletemessagebatch", "changemessagevisibilitybatch"}:
            size = asked.count(b'"ReceiptHandle"')
            self._counts[f"{action} entries"] += size
            return DONE[size]
        if action == "sendmessagebatch":
            entries = json.loads(asked)["Entries"]
            self._counts[f"{action} entries"] += len(entries)
            return json.dumps({"Successful": [_stored(entry) for entry in entries]}).encode()
        return b'{"QueueUrl": "http://127.0.0.1/000000000000/q", "Attributes": {}}'


def _stored(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "Id": entry["Id"],
        "MessageId": "00000000-0000-0000-0000-000000000000",
        "MD5OfMessageBody": md5(entry["MessageBody"].encode()),
        "MD5OfMessageAttributes": attribute_md5(entry["MessageAttributes"]["unimq"]["StringValue"]),
    }


def _respond(delay: float, pipe: Connection) -> None:
    async def serve() -> None:
        counts: Counter[str] = Counter()
        server = await asyncio.get_running_loop().create_server(lambda: Responder(delay, counts), "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        asked = asyncio.Event()
        asyncio.get_running_loop().add_reader(pipe.fileno(), asked.set)
        await asked.wait()
        pipe.send(dict(counts))

    asyncio.run(serve())


@contextmanager
def responder(delay: float) -> Generator[tuple[int, Callable[[], Mapping[str, int]]]]:
    """Yield the port, and what ends the responder and returns what it counted."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_respond, args=(delay, theirs), daemon=True)
    process.start()

    def end() -> Mapping[str, int]:
        ours.send("end")
        found: Mapping[str, int] = ours.recv()
        return found

    try:
        yield ours.recv(), end
    finally:
        process.terminate()
        process.join()


def url_of(port: int, http: str, more: str = "") -> str:
    return f"sqs+http://key:secret@127.0.0.1:{port}/?http={http}&declare=false{more}"


class Measured:
    """Messages, and what they took, between two looks."""

    def __init__(self) -> None:
        self.messages = 0
        self.wall = self.cpu = 0.0
        self._began = time.perf_counter(), time.process_time()

    def end(self, messages: int) -> "Measured":
        self.messages = messages
        self.wall, self.cpu = time.perf_counter() - self._began[0], time.process_time() - self._began[1]
        return self

    def told(self, what: str) -> str:
        each = self.cpu / max(1, self.messages) * 1e6
        rate, cores = self.messages / self.wall, self.cpu / self.wall
        return f"{what}: {rate:,.0f} msg/s, {each:.1f} µs of CPU each, {cores:.2f} cores"


def consume(port: int, http: str, consumers: int, seconds: float, prefetch: int, more: str) -> Measured:
    with unimq.connect(url_of(port, http, more)) as broker:
        ends = threading.Event()
        totals = [0] * consumers

        def work(number: int) -> None:
            with broker.consumer("q", prefetch=prefetch) as consumer:
                while not ends.is_set():
                    deliveries = consumer.receive(100, 1)
                    consumer.ack(deliveries)
                    totals[number] += len(deliveries)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(consumers)]
        for thread in threads:
            thread.start()
        time.sleep(1.0)
        before, measured = sum(totals), Measured()
        time.sleep(seconds)
        measured.end(sum(totals) - before)
        ends.set()
        for thread in threads:
            thread.join()
        return measured


def consume_in_processes(
    processes: int, port: int, http: str, consumers: int, seconds: float, prefetch: int, more: str
) -> Measured:
    """Spread the consumers over processes: one has one core, whatever it does, because of Python's lock."""
    each = [consumers // processes + (number < consumers % processes) for number in range(processes)]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        # All have started before one measures.
        list(pool.map(time.sleep, [0.5] * processes))
        running = [pool.submit(consume, port, http, count, seconds, prefetch, more) for count in each]
        found = [one.result() for one in running]
    total = Measured()
    total.wall = max(one.wall for one in found)
    total.cpu = sum(one.cpu for one in found)
    total.messages = sum(one.messages for one in found)
    return total


def produce(port: int, http: str, messages: int) -> Measured:
    with unimq.connect(url_of(port, http)) as broker, broker.producer("q") as producer:
        producer.send_many([BODY.encode()] * BATCH)
        measured = Measured()
        for _ in range(messages // 1000):
            producer.send_many([BODY.encode()] * 1000)
        return measured.end(messages // 1000 * 1000)


def cpu(port: int, rounds: int) -> Iterator[str]:
    """Compare what a batch of ten costs: sent, received and deleted, by boto3 as it is and by unimq."""
    import botocore.session

    client: Any = botocore.session.Session().create_client(
        "sqs",
        region_name="us-east-1",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    attributes = {"unimq": {"DataType": "String", "StringValue": ATTRIBUTE}}
    entries = [{"Id": str(n), "MessageBody": BODY, "MessageAttributes": attributes} for n in range(BATCH)]
    for part in ("warm up", "measured"):
        measured = Measured()
        for _ in range(rounds):
            client.send_message_batch(QueueUrl="q", Entries=entries)
        sent = measured.end(rounds * BATCH)
        measured = Measured()
        for _ in range(rounds):
            found = client.receive_message(
                QueueUrl="q",
                MaxNumberOfMessages=BATCH,
                WaitTimeSeconds=5,
                MessageAttributeNames=["All"],
                MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp", "MessageGroupId"],
            )["Messages"]
            client.delete_message_batch(
                QueueUrl="q",
                Entries=[{"Id": str(n), "ReceiptHandle": each["ReceiptHandle"]} for n, each in enumerate(found)],
            )
        if part == "measured":
            yield sent.told("raw boto3, send")
            yield measured.end(rounds * BATCH).told("raw boto3, receive and delete")
    for http in ("botocore", "fast"):
        yield produce(port, http, rounds * BATCH).told(f"unimq http={http}, send")
        yield consume(port, http, 1, rounds / 500, 100, "&pollers=1").told(f"unimq http={http}, receive and delete")


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["consume", "cpu"])
    parser.add_argument("--http", choices=["botocore", "fast"], default="fast")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--consumers", type=int, default=10)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--prefetch", type=int, default=200)
    parser.add_argument("--more", default="", help="further options of the URL, with a leading &")
    parser.add_argument("--rounds", type=int, default=1000)
    asked = parser.parse_args()
    with responder(asked.delay) as (port, end):
        if asked.what == "cpu":
            for line in cpu(port, asked.rounds):
                tell(line)
        else:
            found = consume_in_processes(
                asked.processes, port, asked.http, asked.consumers, asked.seconds, asked.prefetch, asked.more
            )
            tell(found.told(f"{asked.consumers} consumers in {asked.processes} processes, http={asked.http}"))
        tell(str(dict(end())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
