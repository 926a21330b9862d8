"""Publish-subscribe: who is subscribed gets everything from then on, together, apart, or long after it was sent.

    python examples/pubsub.py --url kafka://host:9092

The events are a week of the world's earthquakes (data/README.md), published to one topic. Four subscriptions read it:
an archive keeps all of them, two counters share the second one, the third is read only when all has been published, and
the fourth begins in the middle of the week. Each must have got exactly what it is promised.
"""

import contextlib
import gzip
import itertools
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec
from _progress import Progress, progress
from _run import DATA, arguments, declared, own_name, positive, reconciled, run

import unimq

BATCH = 100


class Quake(msgspec.Struct):
    """An event: the body of a message."""

    id: str
    network: str
    magnitude: float


class Reader:
    """What one consumer got. Only its own thread writes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.networks: dict[str, str] = {}
        """The network of each event, by message id."""
        self.firsts: list[str] = []
        """Ids of the deliveries that claim to be the first of their event."""

    def read(
        self, broker: unimq.Broker, subscription: unimq.Subscription, seen: Progress, stop: threading.Event
    ) -> None:
        """Take what comes until told to stop."""
        decode = msgspec.json.Decoder(Quake).decode
        with broker.consumer(subscription, prefetch=BATCH) as consumer:
            while not stop.is_set():
                batch = consumer.receive(BATCH, timeout=0.5)
                before = len(self.networks)
                for delivery in batch:
                    if delivery.attempt == 1:
                        self.firsts.append(delivery.id)
                    self.networks[delivery.id] = decode(delivery.body).network
                # A lost lease means that the event comes again, perhaps to another reader of this subscription.
                with contextlib.suppress(unimq.LeaseLost):
                    consumer.ack(batch)
                seen.add(self.name, len(self.networks) - before)
            with contextlib.suppress(unimq.LeaseLost):
                consumer.settle()


def read_quakes(number: int) -> list[Quake]:
    """Read the first events of the file."""
    with gzip.open(DATA / "earthquakes.jsonl.gz", "rb") as file:
        return [msgspec.json.decode(line, type=Quake) for line in itertools.islice(file, number)]


def publish(broker: unimq.Broker, topic: unimq.Topic, quakes: Sequence[Quake], seen: Progress) -> None:
    """Send to the topic, pipelined; every subscription that is declared by now gets its own copy."""
    with broker.producer(topic) as producer:
        for quake in quakes:
            producer.enqueue(msgspec.json.encode(quake), key=quake.network, message_id=quake.id)
            seen.add("published", 1)
        producer.flush()


def differences(quakes: Sequence[Quake], *readers: Reader) -> int:
    """Return how many events the readers of one subscription did not get, got wrong, or should not have got."""
    found = set[tuple[str, str]]().union(*(reader.networks.items() for reader in readers))
    return len(found ^ {(quake.id, quake.network) for quake in quakes})


def duplicates(*readers: Reader) -> int:
    """Return how many deliveries to the readers of one subscription claim wrongly to be the first: none may."""
    firsts = [event for reader in readers for event in reader.firsts]
    return len(firsts) - len(set(firsts))


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--events", type=positive, default=1707, help="how many (default: %(default)s, all of them)")
    options = parser.parse_args()
    quakes = read_quakes(options.events)
    first, second = quakes[: len(quakes) // 2], quakes[len(quakes) // 2 :]

    topic = unimq.Topic(own_name("quakes"))
    archive, counters, afterwards, latecomer = (
        topic.subscription(name, dead_letter=False) for name in ("archive", "counters", "afterwards", "latecomer")
    )
    archivist, late_reader, patient = Reader("archived"), Reader("from the middle"), Reader("afterwards")
    sharing = [Reader("counted"), Reader("counted")]
    subscriptions = [archivist], sharing, [patient], [late_reader]
    totals = {"published": len(quakes), "archived": len(quakes), "counted": len(quakes)}
    totals |= {"from the middle": len(second), "afterwards": len(quakes)}
    stop, running = threading.Event(), list[Future[None]]()

    with (
        unimq.connect(options.url) as broker,
        declared(broker, topic, archive, counters, afterwards),
        contextlib.ExitStack() as later,
    ):
        started = time.monotonic()
        with progress(totals) as seen, ThreadPoolExecutor(6) as threads:
            try:
                running.append(threads.submit(archivist.read, broker, archive, seen, stop))
                running += [threads.submit(reader.read, broker, counters, seen, stop) for reader in sharing]
                threads.submit(publish, broker, topic, first, seen).result()
                later.enter_context(declared(broker, latecomer))
                running.append(threads.submit(late_reader.read, broker, latecomer, seen, stop))
                threads.submit(publish, broker, topic, second, seen).result()
                running.append(threads.submit(patient.read, broker, afterwards, seen, stop))
                for name, total in totals.items():
                    seen.wait(name, total, running, options.patience)
            finally:
                stop.set()
            for thread in running:
                thread.result()
        elapsed = time.monotonic() - started
        backend = broker.capabilities.backend

    print(f"{len(quakes)} events, 4 subscriptions, 5 readers, {backend}: {elapsed:.2f} s")
    return reconciled(
        [
            ("archived", len(quakes), len(archivist.networks)),
            ("counted by the two that share", len(quakes), len(sharing[0].networks | sharing[1].networks)),
            ("read after all was published", len(quakes), len(patient.networks)),
            ("read by who came in the middle", len(second), len(late_reader.networks)),
            (
                "missing, changed or unexpected events",
                0,
                sum(differences(second if late_reader in of_one else quakes, *of_one) for of_one in subscriptions),
            ),
            ("events that came twice as if new", 0, sum(duplicates(*of_one) for of_one in subscriptions)),
        ],
        f"{len(quakes)} events out = {len(archivist.networks)} archived, {len(sharing[0].networks)} +"
        f" {len(sharing[1].networks)} counted, {len(patient.networks)} afterwards,"
        f" {len(late_reader.networks)} from the middle on",
    )


if __name__ == "__main__":
    run(main)
