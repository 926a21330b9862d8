"""Request-reply: clients ask what customers have spent, competing services answer, and one of them leaves meanwhile.

    python examples/request_reply.py --url amqp://user:password@host:5672/

The accounts are those of a real shop (data/README.md). All clients share one connection and so one queue of replies;
each must get the reply to its own request. What a service holds unanswered when it leaves, the others answer.
"""

import contextlib
import gzip
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from decimal import Decimal

import msgspec
from _progress import Progress, progress
from _run import DATA, arguments, declared, own_name, positive, reconciled, run

import unimq

PREFETCH = 20
NOBODY = 0.2
"""Seconds that a request waits which nobody can answer."""


class Question(msgspec.Struct):
    """The body of a request."""

    customer: str


class Account(msgspec.Struct, frozen=True):
    """The body of a reply."""

    customer: str
    orders: int = 0
    amount: Decimal = Decimal()


def read_accounts() -> dict[str, Account]:
    """Add up the orders of each customer."""
    accounts: dict[str, Account] = {}
    with gzip.open(DATA / "cdnow-orders.txt.gz", "rt") as file:
        for customer, _, _, _, amount in map(str.split, file):
            known = accounts.get(customer, Account(customer))
            accounts[customer] = Account(customer, known.orders + 1, known.amount + Decimal(amount))
    return accounts


def serve(
    broker: unimq.Broker,
    queue: unimq.Queue,
    accounts: dict[str, Account],
    stop: threading.Event,
    leave_after: int | None = None,
) -> int:
    """Answer as one of several competing services until told to stop; return how many answers were sent.

    With `leave_after` it leaves earlier, with all that it holds unanswered. The reply is stored before the request is
    acked, so that a service that crashes between the two makes a request be answered twice, and never not at all.
    """
    answered = 0
    decode = msgspec.json.Decoder(Question).decode
    with contextlib.ExitStack() as opened:
        consumer = opened.enter_context(broker.consumer(queue, prefetch=PREFETCH))
        producers: dict[str, unimq.Producer] = {}
        while not stop.is_set():
            for request in consumer.receive(PREFETCH, timeout=0.5):
                if answered == leave_after:
                    return answered
                if request.reply_to is None:
                    request.reject("no queue for the reply")
                    continue
                producer = producers.get(request.reply_to)
                if producer is None:
                    replies = unimq.Queue(request.reply_to, dead_letter=False)
                    producer = producers[request.reply_to] = opened.enter_context(broker.producer(replies))
                account = accounts[decode(request.body).customer]
                producer.send(msgspec.json.encode(account), correlation_id=request.correlation_id)
                answered += 1
                with contextlib.suppress(unimq.LeaseLost):
                    request.ack()
    return answered


def ask_all(
    broker: unimq.Broker, queue: unimq.Queue, customers: Sequence[str], clients: int, patience: float, seen: Progress
) -> dict[str, Account]:
    """Ask for each customer, so many at the same time; return the replies that came."""

    def ask(customer: str) -> Account | None:
        try:
            reply = broker.request(queue, msgspec.json.encode(Question(customer)), timeout=patience)
        except unimq.RequestTimeout:
            return None
        seen.add("answered", 1)
        return msgspec.json.decode(reply.body, type=Account)

    with ThreadPoolExecutor(clients) as threads:
        replies = zip(customers, threads.map(ask, customers), strict=True)
        return {customer: account for customer, account in replies if account is not None}


def ask_nobody(broker: unimq.Broker, queue: unimq.Queue) -> int:
    """Ask where no service is; return how many requests timed out."""
    try:
        broker.request(queue, b"is anybody there?", timeout=NOBODY)
    except unimq.RequestTimeout:
        return 1
    return 0


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--customers", type=positive, default=1000, help="how many (default: %(default)s, all: 2357)")
    parser.add_argument("--clients", type=positive, default=16, help="that ask at the same time (default: %(default)s)")
    parser.add_argument("--services", type=positive, default=2, help="that stay to the end (default: %(default)s)")
    options = parser.parse_args()
    accounts = read_accounts()
    customers = sorted(accounts)[: options.customers]

    queue = unimq.Queue(own_name("accounts"))
    empty = unimq.Queue(own_name("nobody"))
    stop = threading.Event()
    with (
        unimq.connect(options.url) as asking,
        unimq.connect(options.url) as answering,
        declared(asking, queue, empty),
    ):
        started = time.monotonic()
        with progress({"answered": len(customers)}) as seen, ThreadPoolExecutor(options.services + 1) as threads:
            try:
                leaver: Future[int] = threads.submit(serve, answering, queue, accounts, stop, len(customers) // 10)
                stayers = [threads.submit(serve, answering, queue, accounts, stop) for _ in range(options.services)]
                replies = ask_all(asking, queue, customers, options.clients, options.patience, seen)
            finally:
                stop.set()
            answered = leaver.result() + sum(service.result() for service in stayers)
        elapsed = time.monotonic() - started
        timeouts = ask_nobody(asking, empty)
        backend = asking.capabilities.backend

    print(
        f"{len(customers)} requests, {options.clients} at a time, {options.services} services and one that left after"
        f" {leaver.result()} answers, {backend}: {elapsed:.2f} s"
    )
    wrong = sum(account != accounts[customer] for customer, account in replies.items())
    return reconciled(
        [
            ("replies", len(customers), len(replies)),
            ("replies to another request", 0, wrong),
            (
                "amount in all replies",
                sum(accounts[customer].amount for customer in customers),
                sum(account.amount for account in replies.values()),
            ),
            ("requests to nobody that timed out", 1, timeouts),
        ],
        f"{len(customers)} requests = {len(replies)} replies ({answered - len(replies)} answered again)",
    )


if __name__ == "__main__":
    run(main)
