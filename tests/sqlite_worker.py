"""A producer or consumer in a process of its own, for the tests of the SQLite adapter. What it does, it writes down.

python sqlite_worker.py produce URL LOG COUNT
python sqlite_worker.py consume URL LOG STOP [HOLD RELEASE]

A consumer ends when the file STOP exists. With HOLD it keeps what it receives, once that many were acked, until RELEASE
exists; then it acks all of it.
"""

import sys
from pathlib import Path

import unimq

QUEUE = "work"
PREFETCH = 10


def produce(url: str, log: Path, count: int) -> None:
    with unimq.connect(url) as broker, broker.producer(QUEUE) as producer, log.open("a", buffering=1) as written:
        batch = 7
        for first in range(0, count, batch):
            bodies = [f"{log.stem}-{number}".encode() for number in range(first, min(first + batch, count))]
            receipts = producer.send_many(bodies) if first % 2 else [producer.send(body) for body in bodies]
            written.writelines(f"sent {receipt.message_id}\n" for receipt in receipts)


def consume(url: str, log: Path, stop: Path, hold: int, release: Path | None) -> None:
    held: list[unimq.Delivery] = []
    acked = 0
    with (
        unimq.connect(url) as broker,
        broker.consumer(QUEUE, prefetch=PREFETCH) as consumer,
        log.open("a", buffering=1) as written,
    ):
        written.write("open -\n")
        while not stop.exists():
            for delivery in consumer.receive(5, timeout=0.1):
                written.write(f"got {delivery.id} {delivery.attempt}\n")
                held.append(delivery)
            if release is not None and acked >= hold and not release.exists():
                if len(held) == PREFETCH:
                    written.write("holding -\n")
                continue
            mine: list[unimq.Delivery] = []
            for delivery in held:
                try:
                    delivery.ack()
                except unimq.LeaseLost:
                    written.write(f"refused {delivery.id}\n")
                else:
                    mine.append(delivery)
            held.clear()
            try:
                consumer.settle()
            except unimq.LeaseLost as error:
                written.write(f"lost - {error}\n")
            else:
                written.writelines(f"acked {delivery.id}\n" for delivery in mine)
            acked += len(mine)


if __name__ == "__main__":
    what, url, log, *rest = sys.argv[1:]
    if what == "produce":
        produce(url, Path(log), int(rest[0]))
    else:
        consume(url, Path(log), Path(rest[0]), int(rest[1]) if rest[1:] else 0, Path(rest[2]) if rest[1:] else None)
