"""What `run` costs: messages per second through a handler that does nothing, against a bare loop. Run it by hand:

    python tests/worker/throughput.py
    python tests/worker/throughput.py --hooks

The bare loop is ``receive(100)``, a call of the handler for each message, and ``ack(batch)``: what `run` would cost at
the least. It is the one of the same front, save that only the asyncio front can await an ``async`` handler. With
``--no-call`` it calls nothing, and is always the one of the same front. Every slice of a worker has one of its bare
loop beside it, in random order, and what counts is the ratio of the two: figures of different minutes cannot be
compared. A slice lasts from the call to its return, so that the start of the threads and the confirmation of every ack
are in it. The last column is the ratio by the time of the processor, which other programs disturb less. ``--hooks`` has
a worker with one middleware that does nothing against the same worker without.
"""

# ruff: noqa: T201 - what it prints is its result

import argparse
import asyncio
import functools
import gc
import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import unimq
from unimq import Middleware

URL = "memory://?private=true"
QUEUE = "throughput"
AT_ONCE = 100
NOTHING: AbstractContextManager[None] = nullcontext()


def _deliver(_delivery: unimq.Delivery[Any]) -> bool:
    return True


def _handling(_deliveries: Sequence[unimq.Delivery[Any]]) -> AbstractContextManager[None]:
    return NOTHING


def _settled(_delivery: unimq.Delivery[Any], _settlement: str) -> None: ...


HOOKS = {
    "none": None,
    "deliver": Middleware(deliver=_deliver),
    "handling": Middleware(handling=_handling),
    "settled": Middleware(settled=_settled),
}


@dataclass(frozen=True)
class Way:
    """One way to handle messages."""

    front: str
    kind: str
    """Of the handler; the bare loop may have none."""
    concurrency: int = 0
    """0 is the bare loop."""
    hook: str = "none"


@dataclass(frozen=True)
class Slice:
    """What handling so many messages took."""

    seconds: float
    processor_seconds: float


@dataclass
class Pair:
    """Two ways that are compared, and the slices of each."""

    way: Way
    base: Way
    slices: list[Slice] = field(default_factory=list[Slice])
    base_slices: list[Slice] = field(default_factory=list[Slice])


class Stopwatch:
    """Runs from its making on."""

    def __init__(self) -> None:
        gc.collect()
        self.began = time.perf_counter()
        self.processor_began = time.process_time()

    def stop(self) -> Slice:
        """Return the time since then."""
        return Slice(time.perf_counter() - self.began, time.process_time() - self.processor_began)


def load(broker: unimq.Broker, count: int) -> None:
    """Have so many messages ready."""
    with broker.producer(QUEUE) as producer:
        for _ in range(count):
            producer.enqueue(b"x" * 100)
        producer.flush()


def counted(kind: str, count: int, stop: Callable[[], None]) -> Callable[[Any], Any]:
    """Return a handler that calls `stop` at the last message; counting is all it does."""
    numbers: Iterator[int] = itertools.count(1)

    def plain(_delivery: unimq.Delivery[Any]) -> None:
        if next(numbers) == count:
            stop()

    async def working(_delivery: unimq.Delivery[Any]) -> None:
        if next(numbers) == count:
            stop()

    return working if kind == "async" else plain


def measure_sync(way: Way, count: int) -> Slice:
    """Handle so many messages on the synchronous front."""
    hook = HOOKS[way.hook]
    with unimq.connect(URL) as broker:
        load(broker, count)
        with broker.consumer(QUEUE, middleware=[] if hook is None else [hook]) as consumer:
            watch = Stopwatch()
            if way.concurrency:
                handler = counted(way.kind, count, consumer.stop)
                consumer.run(handler, concurrency=way.concurrency, signals=False)
            else:
                handler = counted("plain", count, lambda: None)
                left = count
                while left:
                    batch = consumer.receive(AT_ONCE)
                    if way.kind:
                        for delivery in batch:
                            handler(delivery)
                    consumer.ack(batch)
                    left -= len(batch)
                consumer.settle()
            took = watch.stop()
        check_empty(broker.stats(QUEUE))
    return took


async def measure_async(way: Way, count: int) -> Slice:
    """Handle so many messages on the asyncio front."""
    hook = HOOKS[way.hook]
    async with unimq.connect_async(URL) as broker:
        async with broker.producer(QUEUE) as producer:
            for _ in range(count):
                await producer.enqueue(b"x" * 100)
            await producer.flush()
        async with broker.consumer(QUEUE, middleware=[] if hook is None else [hook]) as consumer:
            watch = Stopwatch()
            if way.concurrency:
                handler = counted(way.kind, count, consumer.stop)
                await consumer.run(handler, concurrency=way.concurrency, signals=False)
            else:
                handler = counted(way.kind, count, lambda: None)
                left = count
                while left:
                    batch = await consumer.receive(AT_ONCE)
                    if way.kind == "async":
                        for delivery in batch:
                            await handler(delivery)
                    elif way.kind:
                        for delivery in batch:
                            handler(delivery)
                    consumer.ack(batch)
                    left -= len(batch)
                await consumer.settle()
            took = watch.stop()
        check_empty(await broker.stats(QUEUE))
    return took


def check_empty(stats: unimq.Stats) -> None:
    """Speed that leaves something behind is none."""
    if stats.ready or stats.in_flight:
        raise SystemExit(f"FAILED: {stats.ready} messages are left, {stats.in_flight} of them in flight")


def measure(way: Way, count: int) -> Slice:
    """Handle so many messages."""
    if way.front == "sync":
        return measure_sync(way, count)
    return asyncio.run(measure_async(way, count))


def bare_loop(way: Way, *, is_called: bool) -> Way:
    """Return the bare loop that does what a worker does."""
    if not is_called:
        return Way(way.front, "")
    return Way("asyncio" if way.kind == "async" else way.front, way.kind)


def show(pairs: Sequence[Pair], count: int) -> None:
    """Print each way's ratio to what it is compared with: the median of the pairs, and their middle half."""
    print("front    handler  conc. hook         msg/s      base  ratio  middle half   processor")
    for pair in pairs:
        way = pair.way
        both = list(zip(pair.slices, pair.base_slices, strict=True))
        seconds = statistics.median(mine.seconds for mine in pair.slices)
        base_seconds = statistics.median(base.seconds for base in pair.base_slices)
        low, ratio, high = statistics.quantiles([base.seconds / mine.seconds for mine, base in both], n=4)
        processor = statistics.median(base.processor_seconds / mine.processor_seconds for mine, base in both)
        print(
            f"{way.front:8} {way.kind:8} {way.concurrency:5} {way.hook:8} {count / seconds:9,.0f}"
            f" {count / base_seconds:9,.0f} {ratio:6.2f}  {low:.2f} to {high:.2f} {processor:11.2f}"
        )


def main() -> None:
    """Measure in rounds, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=400_000, help="in each slice")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--hooks", action="store_true", help="what one hook costs, instead of what `run` costs")
    parser.add_argument("--no-call", action="store_true", help="the bare loop calls no handler")
    options = parser.parse_args()
    count: int = options.messages
    concurrency: list[int] = options.concurrency
    ways = [
        Way(front, kind, workers)
        for front, kind, workers in itertools.product(("sync", "asyncio"), ("plain", "async"), concurrency)
    ]
    if options.hooks:
        hooked = itertools.product(ways, [hook for hook in HOOKS if hook != "none"])
        pairs = [Pair(Way(way.front, way.kind, way.concurrency, hook), way) for way, hook in hooked]
    else:
        pairs = [Pair(way, bare_loop(way, is_called=not options.no_call)) for way in ways]
    run = functools.partial(measure, count=count)
    for base in {pair.base.front: pair.base for pair in pairs}.values():
        # The first slice pays for imports.
        run(base)
    for _ in range(options.rounds):
        for pair in random.sample(pairs, len(pairs)):
            sides = [(pair.way, pair.slices), (pair.base, pair.base_slices)]
            for way, slices in random.sample(sides, 2):
                slices.append(run(way))
    show(pairs, count)


if __name__ == "__main__":
    main()
