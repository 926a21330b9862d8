"""A worker under failures, counted: every message is handled or dead-lettered exactly as it should be. Run it by hand:

    python tests/worker/reconciliation.py --url memory:// --messages 100000 --handler plain --concurrency 8
    python tests/worker/reconciliation.py --url memory:// --drain

5 % of the messages fail once and 1 % always do. ``--drain`` stops the worker in the middle, with 64 handlers in
flight, and has a second one finish: nothing may be lost, and nothing acked may come again. ``--ahead 10000`` sends
while the worker works, and at most so many ahead of it: emulators of SQS become slow with a long backlog (on a busy
machine ElasticMQ did 404 a second with 20 000 waiting, and 26 with 77 000; ministack looks at all in each receive).
"""

# ruff: noqa: T201 - what it prints is its result

import argparse
import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import unimq

LIMIT = 3
PREFETCH = 500


def poison(number: int) -> bool:
    """1 % never succeed."""
    return number % 100 == 7


def flaky(number: int) -> bool:
    """5 % fail once."""
    return number % 20 == 3


class Ledger:
    """What happened to each message; `lock` guards it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.succeeded: Counter[int] = Counter()
        self.settled: Counter[int] = Counter()
        self.failures: Counter[int] = Counter()
        self.dead = 0
        self.changed = threading.Condition(self.lock)

    def wait_for(self, count: int) -> None:
        """Wait until so many are settled."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.settled) >= count)

    def on_settled(self, delivery: unimq.Delivery[Any], settlement: str) -> None:
        """Hook: what really went to the broker."""
        if settlement in {"ack", "dead"}:
            with self.changed:
                self.settled[int(delivery.body)] += 1
                self.dead += settlement == "dead"
                self.changed.notify_all()

    def handle(self, delivery: unimq.Delivery[Any]) -> None:
        """Fail as the number says."""
        number = int(delivery.body)
        with self.lock:
            fails = poison(number) or (flaky(number) and not self.failures[number])
            (self.failures if fails else self.succeeded)[number] += 1
        if fails:
            raise ValueError(f"message {number}")


def as_kind(handle: Callable[[unimq.Delivery[Any]], None], kind: str, pause: float) -> Callable[[Any], object]:
    """Return the handler as a plain or async function that takes at least `pause` seconds."""

    def plain(delivery: unimq.Delivery[Any]) -> None:
        if pause:
            time.sleep(pause)
        handle(delivery)

    async def working(delivery: unimq.Delivery[Any]) -> None:
        if pause:
            await asyncio.sleep(pause)
        handle(delivery)

    return working if kind == "async" else plain


def send(broker: unimq.Broker, queue: unimq.Queue, count: int, ledger: Ledger, ahead: int) -> None:
    """Send that many, confirmed, at most `ahead` of what is settled."""
    with broker.producer(queue, timeout=120) as producer:
        for number in range(count):
            if number >= ahead and number % 100 == 0:
                ledger.wait_for(number - ahead)
            producer.enqueue(b"%d" % number)
        producer.flush()


def drained(broker: unimq.Broker, queue: unimq.Queue) -> list[bytes]:
    """Return everything that is left in a queue."""
    found: list[bytes] = []
    with broker.consumer(queue, prefetch=PREFETCH) as consumer:
        while batch := consumer.receive(PREFETCH, timeout=5.0):
            found += [delivery.body for delivery in batch]
            consumer.ack(batch)
        consumer.settle()
    return found


def work(
    broker: unimq.Broker,
    queue: unimq.Queue,
    ledger: Ledger,
    enough: int,
    *,
    kind: Literal["plain", "async"],
    concurrency: int,
    pause: float,
) -> tuple[float, float]:
    """Run a worker until so many messages are settled; return the seconds of work and of the drain."""
    with broker.consumer(
        queue, prefetch=PREFETCH, middleware=[unimq.Middleware(settled=ledger.on_settled)]
    ) as consumer:
        handler = as_kind(ledger.handle, kind, pause)
        retry = unimq.Retry(base=0.05, cap=0.5)
        began = time.monotonic()
        run = threading.Thread(
            target=lambda: consumer.run(handler, concurrency=concurrency, retry=retry, signals=False, timeout=60.0)
        )
        run.start()
        with ledger.changed:
            is_done = ledger.changed.wait_for(lambda: len(ledger.settled) >= enough, timeout=900)
        worked = time.monotonic() - began
        consumer.stop()
        run.join(60)
        took = time.monotonic() - began - worked
    if not is_done or run.is_alive():
        raise SystemExit(f"FAILED: {len(ledger.settled)} of {enough} were settled, the worker lives: {run.is_alive()}")
    return worked, took


def main() -> None:
    """Run it and say whether the books balance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="memory://?private=true")
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--handler", choices=("plain", "async"), default="plain")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--drain", action="store_true")
    parser.add_argument("--ahead", type=int, default=0, help="messages sent before they are handled; 0 for all")
    options = parser.parse_args()
    count: int = options.messages
    ledger = Ledger()
    queue = unimq.Queue(f"reconciliation-{os.urandom(4).hex()}", max_deliveries=LIMIT)
    concurrency = 64 if options.drain else options.concurrency
    how: dict[str, Any] = {
        "kind": options.handler,
        "concurrency": concurrency,
        "pause": 0.01 if options.drain else 0.0,
    }
    with unimq.connect(options.url) as broker:
        broker.declare(queue)
        sending = threading.Thread(
            target=send, args=(broker, queue, count, ledger, options.ahead or count), name="sending", daemon=True
        )
        sending.start()
        if not options.ahead:
            sending.join()
        if options.drain:
            _, took = work(broker, queue, ledger, count // 3, **how)
            settled = Counter(ledger.settled)
            print(f"drained in {took:.3f} s with {concurrency} handlers, {len(settled)} of {count} settled")
            worked, _ = work(broker, queue, ledger, count, **how)
            again = sum(ledger.settled[number] > 1 for number in settled)
            print(f"settled before the drain and again after it: {again}")
        else:
            worked, _ = work(broker, queue, ledger, count, **how)
        dead = queue.dead_letters
        assert dead is not None
        letters = Counter(map(int, drained(broker, dead)))
        rest = drained(broker, queue)
        broker.delete(queue, dead)
    expected_dead = Counter(filter(poison, range(count)))
    expected = Counter(number for number in range(count) if not poison(number))
    speed = f"{worked:.1f} s, {count / worked:,.0f} per second"
    lost = expected - ledger.succeeded
    twice = ledger.succeeded - expected
    acked_twice = ledger.settled - Counter(range(count))
    print(f"{count} messages, {concurrency} {options.handler} handlers: {speed}")
    print(f"failures {ledger.failures.total()}, dead letters {letters.total()} of {expected_dead.total()}")
    print(f"left {len(rest)}, lost {lost.total()}, handled twice {twice.total()}, acked twice {acked_twice.total()}")
    if lost or rest or letters != expected_dead or twice or ledger.settled != Counter(range(count)):
        raise SystemExit("FAILED: the books do not balance")
    print("OK")


if __name__ == "__main__":
    main()
