"""What RabbitMQ through unimq costs, against raw programs, in messages per second. Run it by hand:

    python tests/rabbitmq/throughput.py
    python tests/rabbitmq/throughput.py --url amqp://localhost/ --rounds 11 --work publish single

Persistent messages of 100 bytes and a quorum queue. The works:

* ``publish``: one producer sends every message pipelined, and waits for every confirm.
* ``many``: the same by ``send_many`` in lists of 1000.
* ``consume``: what lies in a queue is received, and each message acked by a call of its own; the last one is settled.
* ``single``: confirmed sends, one after the other; the figure is the median of their latency in microseconds.

The ways: ``own`` and ``pika`` are unimq with the two codecs of its adapter. ``raw pika`` is the benchmark's row of that
name: pika in a thread, confirms in a window, one ack for a whole batch; for ``single`` it is a ``BlockingConnection``.
``raw bytes`` is a bare socket, with frames joined and parsed by hand, without threads, ids, headers or bookkeeping.

Every way has a slice in every round, in random order. What counts is the ratio to ``own`` in the same round: the
machine's other work changes from minute to minute, and figures of different minutes cannot be compared. The last column
is the processor time of this process for each message, which other programs disturb less.
"""

# ruff: noqa: T201 - what it prints is its result

import argparse
import gc
import random
import socket
import statistics
import struct
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any
from urllib.parse import unquote, urlsplit

import pika
from pika import frame, spec
from unimq_bench.rows import raw_pika_select
from unimq_contract.brokers import start

import unimq

QUEUE = "throughput"
BODY = b"x" * 100
WINDOW = 5000
PREFETCH = 1000
AT_ONCE = 100
TIMEOUT = 60.0
UNIMQ = ("own", "pika")


class Bytes:
    """AMQP on a bare socket; the least that a Python program can do."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.socket = socket.create_connection((parts.hostname, parts.port), TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = b""
        login = f"\0{unquote(parts.username or 'guest')}\0{unquote(parts.password or 'guest')}"
        self.socket.sendall(b"AMQP\0\0\x09\x01")
        self._next()
        self.write(frame.Method(0, spec.Connection.StartOk({}, "PLAIN", login, "en_US")))
        self._next()
        self.write(frame.Method(0, spec.Connection.TuneOk(2047, 131072, 0)))
        self.ask(0, spec.Connection.Open(unquote(parts.path[1:]) or "/"))
        self.ask(1, spec.Channel.Open())

    def write(self, part: Any) -> None:
        self.socket.sendall(part.marshal())

    def ask(self, channel: int, method: Any) -> None:
        self.write(frame.Method(channel, method))
        self._next()

    def _next(self) -> None:
        while True:
            size, found = frame.decode_frame(self.rest)
            if found is not None:
                self.rest = self.rest[size:]
                return
            self.rest += self.socket.recv(65536)

    def publish(self, count: int) -> None:
        """Send in blobs of 200 messages, with `WINDOW` unconfirmed, until all are confirmed."""
        self.ask(1, spec.Confirm.Select())
        properties = spec.BasicProperties(delivery_mode=2)
        message = (
            frame.Method(1, spec.Basic.Publish(routing_key=QUEUE, mandatory=True)).marshal()
            + frame.Header(1, len(BODY), properties).marshal()
            + frame.Body(1, BODY).marshal()
        )
        sent = confirmed = lowest = 0
        while confirmed < count:
            if sent < count and sent - confirmed <= WINDOW - 200:
                number = min(200, count - sent)
                self.socket.sendall(message * number)
                sent += number
                continue
            data = self.rest + self.socket.recv(65536)
            whole = len(data) // 21 * 21
            for offset in range(0, whole, 21):
                tag, multiple = struct.unpack_from(">QB", data, offset + 11)
                if multiple:
                    # What was confirmed one by one below it is counted twice, save that the last one is multiple.
                    confirmed, lowest = confirmed + tag - lowest, tag
                else:
                    confirmed, lowest = confirmed + 1, max(lowest, tag)
            self.rest = data[whole:]

    def consume(self, count: int) -> None:
        """Receive, and ack everything that one read has brought by one frame."""
        self.ask(1, spec.Basic.Qos(prefetch_count=PREFETCH))
        self.ask(1, spec.Basic.Consume(queue=QUEUE))
        data, received = self.rest, 0
        while received < count:
            offset = tag = 0
            while len(data) >= offset + 7:
                kind, size = data[offset], int.from_bytes(data[offset + 3 : offset + 7], "big")
                if len(data) < offset + size + 8:
                    break
                if kind == 1:
                    after = offset + 12 + data[offset + 11]
                    tag = int.from_bytes(data[after : after + 8], "big")
                elif kind == 3:
                    received += 1
                offset += size + 8
            if tag:
                self.write(frame.Method(1, spec.Basic.Ack(tag, multiple=True)))
            data = data[offset:] + (self.socket.recv(65536) if received < count else b"")
        self.rest = data
        self.ask(1, spec.Queue.Declare(queue=QUEUE, passive=True))

    def close(self) -> None:
        self.socket.close()


def with_frames(url: str, frames: str) -> str:
    """Return the URL of unimq with this codec."""
    return f"{url}{'&' if '?' in url else '?'}frames={frames}"


def unimq_publish(frames: str) -> Callable[[str, int], float]:
    def work(url: str, count: int) -> float:
        with (
            unimq.connect(with_frames(url, frames)) as broker,
            broker.producer(QUEUE, window=WINDOW, timeout=TIMEOUT) as producer,
        ):
            began = time.perf_counter()
            for _ in range(count):
                producer.enqueue(BODY)
            producer.flush()
            return count / (time.perf_counter() - began)

    return work


def unimq_many(frames: str) -> Callable[[str, int], float]:
    def work(url: str, count: int) -> float:
        with (
            unimq.connect(with_frames(url, frames)) as broker,
            broker.producer(QUEUE, window=WINDOW, timeout=TIMEOUT) as producer,
        ):
            began = time.perf_counter()
            for _ in range(0, count, 1000):
                outcomes = producer.send_many([BODY] * 1000)
                assert all(isinstance(outcome, unimq.Receipt) for outcome in outcomes)
            return count / (time.perf_counter() - began)

    return work


def unimq_consume(frames: str) -> Callable[[str, int], float]:
    def work(url: str, count: int) -> float:
        with unimq.connect(with_frames(url, frames)) as broker:
            began = time.perf_counter()
            with broker.consumer(QUEUE, prefetch=PREFETCH) as consumer:
                left = count
                while left:
                    batch = consumer.receive(AT_ONCE, timeout=TIMEOUT)
                    for delivery in batch:
                        delivery.ack()
                    left -= len(batch)
                consumer.settle()
                return count / (time.perf_counter() - began)

    return work


def unimq_single(frames: str) -> Callable[[str, int], float]:
    def work(url: str, count: int) -> float:
        with unimq.connect(with_frames(url, frames)) as broker, broker.producer(QUEUE) as producer:
            return median_latency(lambda: producer.send(BODY), count)

    return work


def pika_publish(url: str, count: int) -> float:
    connection = raw_pika_select.connect(url, {})
    sender = connection.open_sender(QUEUE, window=WINDOW)
    began = time.perf_counter()
    for _ in range(count):
        sender.send(BODY)
    assert not sender.flush()
    took = time.perf_counter() - began
    sender.close()
    connection.close()
    return count / took


def pika_consume(url: str, count: int) -> float:
    connection = raw_pika_select.connect(url, {})
    began = time.perf_counter()
    receiver = connection.open_receiver(QUEUE, prefetch=PREFETCH)
    left = count
    while left:
        batch = receiver.receive(AT_ONCE, TIMEOUT)
        receiver.ack(batch)
        left -= len(batch.bodies)
    receiver.settle()
    took = time.perf_counter() - began
    receiver.close()
    connection.close()
    return count / took


def pika_single(url: str, count: int) -> float:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    properties = pika.BasicProperties(delivery_mode=2)
    result = median_latency(
        lambda: channel.basic_publish("", QUEUE, BODY, properties, mandatory=True),
        count,
    )
    connection.close()
    return result


def bytes_publish(url: str, count: int) -> float:
    raw = Bytes(url)
    began = time.perf_counter()
    raw.publish(count)
    took = time.perf_counter() - began
    raw.close()
    return count / took


def bytes_consume(url: str, count: int) -> float:
    raw = Bytes(url)
    began = time.perf_counter()
    raw.consume(count)
    took = time.perf_counter() - began
    raw.close()
    return count / took


def median_latency(send: Callable[[], object], count: int) -> float:
    """Return the median time of a call in microseconds."""
    times: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        send()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


WORKS: dict[str, dict[str, Callable[[str, int], float]]] = {
    "publish": {
        "own": unimq_publish("own"),
        "pika": unimq_publish("pika"),
        "raw pika": pika_publish,
        "raw bytes": bytes_publish,
    },
    "many": {"own": unimq_many("own"), "pika": unimq_many("pika")},
    "consume": {
        "own": unimq_consume("own"),
        "pika": unimq_consume("pika"),
        "raw pika": pika_consume,
        "raw bytes": bytes_consume,
    },
    "single": {"own": unimq_single("own"), "pika": unimq_single("pika"), "raw pika": pika_single},
}


def prepare(url: str, work: str, count: int) -> None:
    """Have the queue empty, or full of what is to be consumed."""
    with unimq.connect(url) as broker:
        broker.declare(QUEUE)
        broker.purge(QUEUE)
    if work == "consume":
        # Messages as unimq sends them, with id and time, for every way.
        unimq_publish("own")(url, count)


def check(url: str, work: str, count: int) -> None:
    """Speed that loses something is none."""
    with unimq.connect(url) as broker:
        ready = broker.stats(QUEUE).ready
    expected = 0 if work == "consume" else count
    if ready != expected:
        raise SystemExit(f"FAILED: {ready} messages are in the queue, not {expected}")


def show(work: str, figures: dict[str, list[float]], processor: Mapping[str, list[float]]) -> None:
    """Print the medians, and each way's figure over that of `own`: median and middle half of the rounds."""
    unit = "us" if work == "single" else "msg/s"
    for way, mine in figures.items():
        ratios = [base / figure for base, figure in zip(figures["own"], mine, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        print(
            f"{work:8} {way:10} {statistics.median(mine):10,.0f} {unit:5}"
            f"   own is {middle:.2f} times that ({low:.2f} to {high:.2f})"
            f"  {statistics.median(processor[way]):7.1f} us"
        )


def main() -> None:
    """Measure in rounds, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a RabbitMQ; without it one is started")
    parser.add_argument("--messages", type=int, default=50_000, help="in each slice, in thousands")
    parser.add_argument("--sends", type=int, default=1000, help="in each slice of single")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--way", nargs="+", help="of each work; own is always there")
    options = parser.parse_args()
    with ExitStack() as stack:
        url: str = options.url or stack.enter_context(start("rabbitmq")).url
        for work in options.work:
            ways = {way: run for way, run in WORKS[work].items() if way == "own" or way in (options.way or [way])}
            figures: defaultdict[str, list[float]] = defaultdict(list)
            processor: defaultdict[str, list[float]] = defaultdict(list)
            count = options.sends if work == "single" else options.messages
            for _ in range(options.rounds):
                for way, run in random.sample(list(ways.items()), len(ways)):
                    prepare(url, work, count)
                    gc.collect()
                    began = time.process_time()
                    figures[way].append(run(url, count))
                    processor[way].append((time.process_time() - began) / count * 1e6)
                    if way in UNIMQ or work != "consume":
                        # Acks of the raw programs may come to nothing: their connection ends before the queue has them.
                        check(url, work, count)
            show(work, {way: figures[way] for way in ways}, processor)


if __name__ == "__main__":
    main()
