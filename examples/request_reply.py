"""Request-reply: clients ask what customers have spent, competing services answer, and one of them leaves meanwhile.

    python examples/request_reply.py --url amqp://user:password@host:5672/

The accounts are those of a real shop (data/README.md). All clients share one connection and so one queue of replies;
each must get the reply to its own request. What a service holds unanswered when it leaves, the others answer.
"""

import contextlib
import gzip
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import msgspec
from _progress import Progress, progress
from _run import DATA, arguments, declared, own_name, positive, reconciled, run

import unimq

PREFETCH = 20
NO_ANSWER = 0.2
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


QUESTIONS = unimq.JSON(Question)
ACCOUNTS = unimq.JSON(Account)


class Service:
    """One of several competing services, which leaves after `leave_after` answers, whatever it holds then."""

    def __init__(
        self,
        consumer: unimq.Consumer[Question],
        accounts: dict[str, Account],
        leave_after: int | None = None,
    ) -> None:
        self.consumer = consumer
        self.answered = 0
        self._accounts = accounts
        self._leave_after = leave_after

    def work(self) -> None:
        """Answer until stopped or closed. The reply is stored before its request is acked: no crash loses a request."""
        self.consumer.run(self.answer)
        self.consumer.close()

    def answer(self, request: unimq.Delivery[Question]) -> unimq.Encoded:
        """Return the reply, or raise what its requester is told when the last attempt has failed."""
        self.answered += 1
        if self.answered == self._leave_after:
            self.consumer.stop()
        return ACCOUNTS.encode(self._accounts[request.value.customer])


def ask_all(
    broker: unimq.Broker, queue: unimq.Queue, customers: Sequence[str], clients: int, patience: float, seen: Progress
) -> dict[str, Account]:
    """Ask for each customer, so many at the same time; return the replies that came."""

    def ask(customer: str) -> Account | None:
        try:
            reply = broker.request(queue, Question(customer), timeout=patience, codec=QUESTIONS, reply_codec=ACCOUNTS)
        except unimq.RequestTimeout:
            return None
        seen.add("answered", 1)
        return reply.value

    with ThreadPoolExecutor(clients) as threads:
        replies = zip(customers, threads.map(ask, customers), strict=True)
        return {customer: account for customer, account in replies if account is not None}


def ask_nobody(broker: unimq.Broker, queue: unimq.Queue) -> int:
    """Ask where no service is; return how many requests timed out."""
    try:
        broker.request(queue, b"is anybody there?", timeout=NO_ANSWER)
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
    with (
        unimq.connect(options.url) as asking,
        unimq.connect(options.url) as answering,
        declared(asking, queue, empty),
        contextlib.ExitStack() as opened,
    ):
        consumers = [
            opened.enter_context(answering.consumer(queue, prefetch=PREFETCH, codec=QUESTIONS))
            for _ in range(options.services + 1)
        ]
        leaver, *stayers = services = [
            Service(consumer, accounts, None if number else max(1, len(customers) // 10))
            for number, consumer in enumerate(consumers)
        ]
        started = time.monotonic()
        with progress({"answered": len(customers)}) as seen, ThreadPoolExecutor(len(services)) as threads:
            running = [threads.submit(service.work) for service in services]
            try:
                replies = ask_all(asking, queue, customers, options.clients, options.patience, seen)
            finally:
                for consumer in consumers:
                    consumer.close()
            for each in running:
                each.result()
        elapsed = time.monotonic() - started
        timeouts = ask_nobody(asking, empty)
        backend = asking.capabilities.backend

    print(
        f"{len(customers)} requests, {options.clients} at a time, {len(stayers)} services and one that left after"
        f" {leaver.answered} answers, {backend}: {elapsed:.2f} s"
    )
    answered = sum(service.answered for service in services)
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
