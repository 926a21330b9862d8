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
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import date
from decimal import Decimal

import msgspec
from _progress import Progress, progress
from _run import DATA, arguments, dead_letters_of, declared, own_name, positive, reconciled, run

import unimq

BATCH = 100
PREFETCH = 2 * BATCH
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


ORDER_BODIES = unimq.JSON(Order)
STATUS_BODIES = unimq.JSON(Status)


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

    def enter(self, delivery: unimq.Delivery[Order], outcome: Decimal | str) -> bool:
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
    with broker.producer(queue, codec=ORDER_BODIES) as producer:
        for number, order in orders.items():
            producer.enqueue(order, key=order.customer, message_id=number)
            seen.add("placed", 1)
        producer.flush()


class Fulfilment:
    """The handler of the workers; several of them call it at the same time."""

    def __init__(self, announcements: unimq.Producer[Status], ledger: Ledger, seen: Progress) -> None:
        self._announcements = announcements
        self._ledger = ledger
        self._seen = seen

    def fulfil(self, batch: list[unimq.Delivery[Order]]) -> list[unimq.Reject | None]:
        """Handle a batch: `None` for each order that is done, its dead letter's reason for one that is bad."""
        results: list[unimq.Reject | None] = []
        new = 0
        for delivery in batch:
            order = delivery.value
            try:
                check(order)
            except ValueError as error:
                new += self._ledger.enter(delivery, str(error))
                results.append(unimq.Reject(str(error)))
                continue
            if self._ledger.enter(delivery, order.amount):
                new += 1
                for step in range(len(STATUSES)):
                    self._announcements.enqueue(Status(delivery.id, step), key=order.customer)
            results.append(None)
        # Statuses first: the orders are acked when this returns, and by then announced, whatever crashes in between.
        self._announcements.flush()
        self._seen.add("processed", new)
        return results


class Followers:
    """The handler of a subscription to the statuses; it has one worker, so that nothing needs a lock."""

    def __init__(self, seen: Progress) -> None:
        self.statuses: dict[str, set[int]] = {}
        """Steps by order."""
        self._seen = seen

    def follow(self, delivery: unimq.Delivery[Status]) -> None:
        """Note one status, which may have come before."""
        steps = self.statuses.setdefault(delivery.value.order, set())
        self._seen.add("announced", delivery.value.step not in steps)
        steps.add(delivery.value.step)


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
    ledger = Ledger()
    totals = {"placed": len(orders), "processed": len(orders), "announced": len(orders) * len(STATUSES)}

    with (
        unimq.connect(options.url) as broker,
        declared(broker, queue, topic, subscription),
        progress(totals) as seen,
        ThreadPoolExecutor(options.workers + 1) as threads,
        contextlib.ExitStack() as opened,
    ):
        workers = [
            opened.enter_context(broker.consumer(queue, prefetch=PREFETCH, codec=ORDER_BODIES))
            for _ in range(options.workers)
        ]
        follower = opened.enter_context(broker.consumer(subscription, prefetch=PREFETCH, codec=STATUS_BODIES))
        announcements = opened.enter_context(broker.producer(topic, codec=STATUS_BODIES))
        fulfilment, followers = Fulfilment(announcements, ledger, seen), Followers(seen)
        started = time.monotonic()
        running = [threads.submit(worker.run, fulfilment.fulfil, batch=BATCH) for worker in workers]
        running.append(threads.submit(follower.run, followers.follow))
        try:
            place(broker, queue, orders, seen)
            seen.wait("processed", len(orders), running, options.patience)
            seen.wait("announced", len(ledger.fulfilled) * len(STATUSES), running, options.patience)
        finally:
            for consumer in (*workers, follower):
                consumer.stop()
            # Before the consumers are closed, which would take from the handlers what they have in hand.
            wait(running)
        for thread in running:
            thread.result()
        elapsed = time.monotonic() - started
        dead = read_dead_letters(broker, dead_letters_of(queue), len(ledger.rejected), options.patience)
        backend = broker.capabilities.backend

    print(f"{len(orders)} orders, {options.workers} workers, {backend}: {elapsed:.2f} s")
    for reason, number in Counter(dead.values()).most_common():
        print(f"  {number} dead-lettered: {reason}")
    amounts, reasons = expected(orders)
    statuses = followers.statuses
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
