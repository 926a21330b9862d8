"""Order processing: workers take orders from a queue, bad ones end as dead letters, statuses go out by a topic.

    python examples/order_processing.py --url amqp://user:password@host:5672/

The orders are real ones (data/README.md). The program is the same on every broker, and right with at-least-once
delivery: an order is fulfilled once, however often it is delivered. At the end it accounts for every order.
"""

import contextlib
import gzip
import itertools
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from decimal import Decimal

import msgspec
from _progress import Progress, progress
from _run import DATA, arguments, dead_letters_of, declared, own_name, positive, reconciled, run

import unimq

BATCH = 100
STATUSES = ("accepted", "fulfilled")


class Order(msgspec.Struct):
    """The body of a message in the queue of orders."""

    customer: str
    day: str
    quantity: int
    amount: Decimal


class Status(msgspec.Struct):
    """The body of a message to the topic of statuses."""

    order: str
    step: int
    """Index into `STATUSES`. The topic promises no order, so a status says itself which one is later."""


def check(order: Order) -> None:
    """Raise `ValueError` with the reason why an order cannot be fulfilled."""
    date.fromisoformat(order.day)
    if order.quantity <= 0:
        raise ValueError(f"quantity must be more than 0, not {order.quantity}")
    if order.amount <= 0:
        raise ValueError(f"amount must be more than 0, not {order.amount}")


class Ledger:
    """What became of each order, by message id; the lock guards it. A real shop keeps it in its database."""

    def __init__(self) -> None:
        self.fulfilled: dict[str, Decimal] = {}
        self.rejected: dict[str, str] = {}
        self.redelivered = 0
        """Repeated deliveries that say so by their ``attempt``: at-least-once allows them."""
        self.duplicates = 0
        """Repeated deliveries that claim to be the first: nothing allows them."""
        self._lock = threading.Lock()

    def enter(self, delivery: unimq.Delivery, outcome: Decimal | str) -> bool:
        """Enter the amount of a fulfilled order or the reason of a rejected one; tell whether the order is new."""
        with self._lock:
            if delivery.id in self.fulfilled or delivery.id in self.rejected:
                self.redelivered += delivery.attempt > 1
                self.duplicates += delivery.attempt == 1
                return False
            if isinstance(outcome, Decimal):
                self.fulfilled[delivery.id] = outcome
            else:
                self.rejected[delivery.id] = outcome
            return True


def read_orders(number: int) -> dict[str, Order]:
    """Read the first orders of the file as they are; to check them is the workers' part."""
    with gzip.open(DATA / "cdnow-orders.txt.gz", "rt") as file:
        rows = enumerate(map(str.split, itertools.islice(file, number)), start=1)
        return {f"order-{n}": Order(row[0], row[2], int(row[3]), Decimal(row[4])) for n, row in rows}


def expected(orders: dict[str, Order]) -> tuple[dict[str, Decimal], dict[str, str]]:
    """Return what must become of the orders, without any broker: amounts of good ones, reasons of bad ones."""
    amounts: dict[str, Decimal] = {}
    reasons: dict[str, str] = {}
    for number, order in orders.items():
        try:
            check(order)
        except ValueError as error:
            reasons[number] = str(error)
        else:
            amounts[number] = order.amount
    return amounts, reasons


def place(broker: unimq.Broker, queue: unimq.Queue, orders: dict[str, Order], seen: Progress) -> None:
    """Send all orders, pipelined: `enqueue` waits for no confirmation, `flush` waits for all."""
    with broker.producer(queue) as producer:
        for number, order in orders.items():
            producer.enqueue(msgspec.json.encode(order), key=order.customer, message_id=number)
            seen.add("placed", 1)
        producer.flush()


def fulfil(
    broker: unimq.Broker,
    queue: unimq.Queue,
    topic: unimq.Topic,
    ledger: Ledger,
    seen: Progress,
    stop: threading.Event,
) -> None:
    """Work as one of several competing workers, until told to stop."""
    decode = msgspec.json.Decoder(Order).decode
    with broker.consumer(queue, prefetch=2 * BATCH) as consumer, broker.producer(topic) as announcements:
        while not stop.is_set():
            good: list[unimq.Delivery] = []
            bad: list[tuple[unimq.Delivery, str]] = []
            new = 0
            for delivery in consumer.receive(BATCH, timeout=0.5):
                try:
                    order = decode(delivery.body)
                    check(order)
                except (msgspec.DecodeError, ValueError) as error:
                    bad.append((delivery, str(error)))
                    new += ledger.enter(delivery, str(error))
                    continue
                good.append(delivery)
                if ledger.enter(delivery, order.amount):
                    new += 1
                    for step in range(len(STATUSES)):
                        announcements.enqueue(msgspec.json.encode(Status(delivery.id, step)), key=order.customer)
            # Statuses first: an order that is acked has been announced, whatever crashes in between.
            announcements.flush()
            # A lost lease means that the order comes again, perhaps to another worker; the ledger will know it.
            with contextlib.suppress(unimq.LeaseLost):
                consumer.ack(good)
            for delivery, reason in bad:
                with contextlib.suppress(unimq.LeaseLost):
                    delivery.reject(reason)
            seen.add("processed", new)
        with contextlib.suppress(unimq.LeaseLost):
            consumer.settle()


def follow(
    broker: unimq.Broker,
    subscription: unimq.Subscription,
    statuses: dict[str, set[int]],
    seen: Progress,
    stop: threading.Event,
) -> None:
    """Collect the statuses of each order, until told to stop. Only this thread writes to `statuses`."""
    with broker.consumer(subscription, prefetch=2 * BATCH) as consumer:
        while not stop.is_set():
            batch = consumer.receive(BATCH, timeout=0.5)
            for delivery in batch:
                status = msgspec.json.decode(delivery.body, type=Status)
                steps = statuses.setdefault(status.order, set())
                seen.add("announced", status.step not in steps)
                steps.add(status.step)
            with contextlib.suppress(unimq.LeaseLost):
                consumer.ack(batch)
        with contextlib.suppress(unimq.LeaseLost):
            consumer.settle()


def read_dead_letters(broker: unimq.Broker, queue: unimq.Queue, number: int, patience: float) -> dict[str, str]:
    """Read so many dead letters; return the reason of each by the id of its order."""
    reasons: dict[str, str] = {}
    with broker.consumer(queue) as consumer:
        while len(reasons) < number and (batch := consumer.receive(BATCH, timeout=patience)):
            reasons |= {dead.id: str(dead.headers["unimq-dead-reason"]) for dead in batch}
            consumer.ack(batch)
        consumer.settle()
    return reasons


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--orders", type=positive, default=2000, help="how many (default: %(default)s, all: 6919)")
    parser.add_argument("--workers", type=positive, default=4, help="competing workers (default: %(default)s)")
    options = parser.parse_args()
    orders = read_orders(options.orders)

    queue = unimq.Queue(own_name("orders"))
    topic = unimq.Topic(own_name("order-status"))
    subscription = topic.subscription("latest", dead_letter=False)
    ledger, statuses, stop = Ledger(), dict[str, set[int]](), threading.Event()
    totals = {"placed": len(orders), "processed": len(orders), "announced": len(orders) * len(STATUSES)}

    with unimq.connect(options.url) as broker, declared(broker, queue, topic, subscription):
        started = time.monotonic()
        with progress(totals) as seen, ThreadPoolExecutor(options.workers + 1) as threads:
            try:
                running = [
                    threads.submit(fulfil, broker, queue, topic, ledger, seen, stop) for _ in range(options.workers)
                ]
                running.append(threads.submit(follow, broker, subscription, statuses, seen, stop))
                place(broker, queue, orders, seen)
                seen.wait("processed", len(orders), running, options.patience)
                seen.wait("announced", len(ledger.fulfilled) * len(STATUSES), running, options.patience)
            finally:
                stop.set()
            for thread in running:
                thread.result()
        elapsed = time.monotonic() - started
        dead = read_dead_letters(broker, dead_letters_of(queue), len(ledger.rejected), options.patience)
        backend = broker.capabilities.backend

    print(f"{len(orders)} orders, {options.workers} workers, {backend}: {elapsed:.2f} s")
    for reason, number in Counter(dead.values()).most_common():
        print(f"  {number} dead-lettered: {reason}")
    amounts, reasons = expected(orders)
    latest = {order: STATUSES[max(steps)] for order, steps in statuses.items()}
    return reconciled(
        [
            ("orders fulfilled", len(amounts), len(ledger.fulfilled)),
            ("amount of the fulfilled orders", sum(amounts.values()), sum(ledger.fulfilled.values())),
            ("dead letters", len(reasons), len(dead)),
            ("dead letters of a wrong order or with a wrong reason", 0, len(reasons.items() ^ dead.items())),
            ("orders that came twice as if new", 0, ledger.duplicates),
            ("statuses", len(amounts) * len(STATUSES), sum(map(len, statuses.values()))),
            (
                "fulfilled orders with another latest status",
                0,
                len(latest.items() ^ dict.fromkeys(amounts, STATUSES[-1]).items()),
            ),
        ],
        f"{len(orders)} orders in = {len(ledger.fulfilled)} fulfilled + {len(dead)} dead-lettered"
        f" ({ledger.redelivered} redeliveries recognised)",
    )


if __name__ == "__main__":
    run(main)
