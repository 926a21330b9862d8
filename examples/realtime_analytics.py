"""Real-time analytics: events are replayed with their own pace, sliding windows over them go out by a topic. Asyncio.

    python examples/realtime_analytics.py --url sqs://?region=eu-west-1

The events are a week of the world's earthquakes (data/README.md): per seismic network, how many there were within 24
hours, and how strong; every 6 hours. What the dashboard shows at the end must equal the figures of the file.
"""

import asyncio
import contextlib
import gzip
import itertools
import time
from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec
from _progress import Progress, progress
from _run import DATA, arguments, own_name, positive, reconciled, require_all, run, to_delete

import unimq

BATCH = 100
HOUR = 3_600_000
"""Milliseconds, the unit of all times here."""
WINDOW = 24 * HOUR
HOP = 6 * HOUR


class Quake(msgspec.Struct):
    """An event: the body of a message in the queue."""

    id: str
    time: int
    network: str
    magnitude: float
    place: str


class Activity(msgspec.Struct, frozen=True):
    """Figures of one network in one window: the body of a message to the topic. Magnitudes are in hundredths."""

    network: str
    start: int
    quakes: int = 0
    """Only ever grows for one window, so of two figures for it the one with more quakes is the later one."""
    total: int = 0
    strongest: int = -1000

    def with_quake(self, magnitude: int) -> "Activity":
        """Return the figures with one quake more."""
        return Activity(
            self.network, self.start, self.quakes + 1, self.total + magnitude, max(self.strongest, magnitude)
        )


QUAKES = unimq.JSON(Quake)
FIGURES = unimq.JSON(Activity)

Key = tuple[str, int]
"""Network and start."""
Windows = dict[Key, Activity]


def count(windows: Windows, quake: Quake) -> list[Key]:
    """Count a quake in each window that it falls into; return which ones these are."""
    last = quake.time // HOP * HOP
    keys = [(quake.network, start) for start in range(last, last - WINDOW, -HOP)]
    for key in keys:
        windows[key] = windows.get(key, Activity(*key)).with_quake(round(quake.magnitude * 100))
    return keys


async def replay(
    broker: unimq.AsyncBroker, queue: unimq.Queue, quakes: Iterable[Quake], hours_per_second: float, seen: Progress
) -> None:
    """Send each event when its time has come; with a pace of 0 as fast as the broker takes them."""
    clock = asyncio.get_running_loop().time
    began, first = clock(), 0
    async with broker.producer(queue, codec=QUAKES) as producer:
        for quake in quakes:
            first = first or quake.time
            if hours_per_second:
                await asyncio.sleep(began + (quake.time - first) / HOUR / hours_per_second - clock())
            await producer.enqueue(quake, key=quake.network, message_id=quake.id)
            seen.add("replayed", 1)
        await producer.flush()


async def publish(results: unimq.AsyncProducer[Activity], windows: Windows, keys: Iterable[Key]) -> None:
    """Send the present figures of these windows, and wait until they are stored."""
    for key in keys:
        await results.enqueue(windows[key], key=key[0])
    await results.flush()


async def analyse(
    broker: unimq.AsyncBroker, queue: unimq.Queue, topic: unimq.Topic, events: int, patience: float, seen: Progress
) -> Windows:
    """Count events into windows; publish a window when event time has passed its end, and again when it changes later.

    The windows live in memory here. To survive a crash they belong into a database, written before the ack.
    """
    windows: Windows = {}
    counted: set[str] = set()
    unpublished: set[Key] = set()
    now = 0
    async with (
        broker.consumer(queue, prefetch=2 * BATCH, codec=QUAKES) as consumer,
        broker.producer(topic, codec=FIGURES) as results,
    ):
        while len(counted) < events and (batch := await consumer.receive(BATCH, timeout=patience)):
            for delivery in batch:
                quake = delivery.value
                if quake.id not in counted:
                    counted.add(quake.id)
                    unpublished.update(count(windows, quake))
                    seen.add("analysed", 1)
                now = max(now, quake.time)
            over = {key for key in unpublished if key[1] + WINDOW <= now}
            await publish(results, windows, over)
            unpublished -= over
            # A lost lease means that the event comes again; `counted` will know it.
            with contextlib.suppress(unimq.LeaseLost):
                consumer.ack(batch)
        await publish(results, windows, unpublished)
        with contextlib.suppress(unimq.LeaseLost):
            await consumer.settle()
    return windows


class Dashboard:
    """The latest figures of every window, as far as they have arrived."""

    def __init__(self, seen: Progress) -> None:
        self.windows: Windows = {}
        self._seen = seen
        self._changed = asyncio.Event()

    async def follow(self, broker: unimq.AsyncBroker, source: unimq.Subscription) -> None:
        """Show figures as they come, until cancelled."""
        async with broker.consumer(source, prefetch=2 * BATCH, codec=FIGURES) as consumer:
            # Ctrl-C ends the whole program, and not this task alone.
            await consumer.run(self.show, signals=False)

    async def show(self, delivery: unimq.Delivery[Activity]) -> None:
        """Show figures unless later ones of the same window are shown already."""
        activity = delivery.value
        key = activity.network, activity.start
        self._seen.add("windows", key not in self.windows)
        if key not in self.windows or activity.quakes > self.windows[key].quakes:
            self.windows[key] = activity
            self._changed.set()

    async def catch_up(self, published: Windows, patience: float) -> None:
        """Wait until everything published is shown, or until nothing has changed for `patience` seconds."""
        with contextlib.suppress(TimeoutError):
            while self.windows != published:
                self._changed.clear()
                await asyncio.wait_for(self._changed.wait(), patience)


async def analytics(
    url: str | None, quakes: list[Quake], pace: float, patience: float, seen: Progress
) -> tuple[str, Windows, Windows]:
    """Run replay, analysis and dashboard side by side; return the backend, what was published and what was shown."""
    queue = unimq.Queue(own_name("earthquakes"))
    topic = unimq.Topic(own_name("activity"))
    subscription = topic.subscription("dashboard", dead_letter=False)
    destinations = (queue, topic, subscription)
    dashboard = Dashboard(seen)
    async with unimq.connect_async(url) as broker:
        require_all(broker.capabilities)
        try:
            await broker.declare(*destinations)
            async with asyncio.TaskGroup() as tasks:
                following = tasks.create_task(dashboard.follow(broker, subscription))
                tasks.create_task(replay(broker, queue, quakes, pace, seen))
                published = await analyse(broker, queue, topic, len(quakes), patience, seen)
                await dashboard.catch_up(published, patience)
                following.cancel()
        finally:
            await broker.delete(*to_delete(destinations))
        return broker.capabilities.backend, published, dashboard.windows


def read_quakes(number: int) -> list[Quake]:
    """Read the first events of the file, which is in the order of their times."""
    with gzip.open(DATA / "earthquakes.jsonl.gz", "rb") as file:
        return [msgspec.json.decode(line, type=Quake) for line in itertools.islice(file, number)]


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--events", type=positive, default=1707, help="how many (default: %(default)s, which is all)")
    parser.add_argument(
        "--hours-per-second",
        type=float,
        default=24.0,
        metavar="HOURS",
        help="pace of the replay (default: %(default)g, the week in 7 seconds; 0: as fast as possible)",
    )
    options = parser.parse_args()
    quakes = read_quakes(options.events)
    expected: Windows = {}
    for quake in quakes:
        count(expected, quake)

    started = time.monotonic()
    with progress({"replayed": len(quakes), "analysed": len(quakes), "windows": len(expected)}) as seen:
        backend, published, shown = asyncio.run(
            analytics(options.url, quakes, options.hours_per_second, options.patience, seen)
        )
    elapsed = time.monotonic() - started

    print(f"{len(quakes)} events on {backend}: {elapsed:.2f} s")
    print_day(shown)
    return reconciled(
        [
            ("windows with events", len(expected), len(shown)),
            ("windows with other figures than the file's", 0, len(expected.items() ^ shown.items())),
            ("windows with other figures than published", 0, len(published.items() ^ shown.items())),
            (
                "events in all windows",
                len(quakes) * WINDOW // HOP,
                sum(activity.quakes for activity in shown.values()),
            ),
        ],
        f"{len(quakes)} events in = {len(shown)} windows out, with the file's figures",
    )


def print_day(shown: Windows) -> None:
    """Print the figures of the busiest window's time."""
    starts = {start for _, start in shown}
    busiest = max(starts, key=lambda start: sum(a.quakes for a in shown.values() if a.start == start), default=0)
    print(f"  24 hours from {datetime.fromtimestamp(busiest / 1000, UTC):%Y-%m-%d %H:%M} UTC: quakes, mean, strongest")
    for activity in sorted(shown.values(), key=lambda activity: -activity.quakes):
        if activity.start == busiest:
            mean, strongest = activity.total / activity.quakes / 100, activity.strongest / 100
            print(f"  {activity.network:<4} {activity.quakes:>6} {mean:>6.2f} {strongest:>6.2f}")


if __name__ == "__main__":
    run(main)
