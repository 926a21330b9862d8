"""What `run` of the asyncio front has of its own: the loop goes on beside it, and it can be cancelled."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable

import pytest

import unimq
from unimq import Delivery, Retry

URL = "memory://?private=true"


async def send(broker: unimq.AsyncBroker, *bodies: bytes) -> None:
    async with broker.producer("q") as producer:
        await producer.send_many(bodies)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_plain_handlers_run_in_threads_beside_the_loop(concurrency: int) -> None:
    async def main() -> None:
        async with unimq.connect_async(URL) as broker, broker.consumer("q") as consumer:
            ticked = threading.Event()

            def handle(delivery: Delivery) -> None:
                assert threading.current_thread() is not threading.main_thread()
                assert ticked.wait(10), "the loop goes on while the handler blocks"
                consumer.stop()

            await send(broker, b"1")
            run = asyncio.create_task(consumer.run(handle, concurrency=concurrency, retry=Retry(attempts=1)))
            await asyncio.sleep(0.05)
            ticked.set()
            await asyncio.wait_for(run, 10)
            stats = await broker.stats("q")
            assert (stats.ready, stats.in_flight, stats.dead_letters) == (0, 0, 0)

    asyncio.run(main())


def test_a_cancelled_run_gives_back_what_is_in_hand() -> None:
    async def main() -> None:
        async with unimq.connect_async(URL) as broker:
            async with broker.consumer("q") as consumer:
                begun = asyncio.Event()

                async def handle(delivery: Delivery) -> None:
                    begun.set()
                    await asyncio.sleep(60)

                await send(broker, b"1", b"2", b"3")
                run = asyncio.create_task(consumer.run(handle, concurrency=2))
                await asyncio.wait_for(begun.wait(), 10)
                run.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await run
            async with broker.consumer("q") as consumer:
                back = await consumer.receive(10, timeout=1)
                assert {(delivery.body, delivery.attempt) for delivery in back} == {(b"1", 1), (b"2", 1), (b"3", 1)}

    asyncio.run(main())


def test_a_handler_that_is_cancelled_by_others_has_failed() -> None:
    async def main() -> None:
        async with unimq.connect_async(URL) as broker, broker.consumer("q") as consumer:

            async def handle(delivery: Delivery) -> None:
                consumer.stop()
                raise asyncio.CancelledError

            await send(broker, b"1")
            await asyncio.wait_for(consumer.run(handle, retry=Retry(attempts=1)), 10)
            stats = await broker.stats("q")
            assert (stats.ready, stats.in_flight, stats.dead_letters) == (0, 0, 1)

    asyncio.run(main())


def test_the_first_signal_drains() -> None:
    async def main() -> list[bytes]:
        handled: list[bytes] = []
        async with unimq.connect_async(URL) as broker, broker.consumer("q") as consumer:

            async def handle(delivery: Delivery) -> None:
                os.kill(os.getpid(), signal.SIGTERM)
                await asyncio.sleep(0.05)
                handled.append(delivery.body)

            await send(broker, b"1", b"2")
            await asyncio.wait_for(consumer.run(handle), 10)
            stats = await broker.stats("q")
            assert stats.in_flight == 1
        return handled

    before = signal.getsignal(signal.SIGTERM)
    assert asyncio.run(main()) == [b"1"]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_signal_that_interrupts_no_wait_is_seen_all_the_same(
    kind: str, signal_from_another_thread: Callable[[str], threading.Thread]
) -> None:
    def handle(delivery: Delivery) -> None:
        raise AssertionError("nothing was sent")

    async def handle_async(delivery: Delivery) -> None:
        handle(delivery)

    async def main() -> None:
        async with unimq.connect_async(URL) as broker, broker.consumer("q") as consumer:
            sender = signal_from_another_thread("select")
            await asyncio.wait_for(consumer.run(handle if kind == "plain" else handle_async), 10)
            sender.join(10)

    asyncio.run(main())
    assert signal.set_wakeup_fd(-1) == -1
