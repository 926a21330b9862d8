"""A task that gives up its send leaves the accounts of the producer right (L2, S5, S6): no adapter has a part in it."""

import asyncio
from typing import Any

import unimq


def test_a_cancelled_send_keeps_the_accounts(driver: Any) -> None:
    """The window of one is free again with each outcome, close waits for the last one, and no exception stays behind in
    the loop.
    """
    stray: list[object] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: stray.append(context))
        async with unimq.connect_async("manual://") as broker, broker.producer("orders", window=1) as producer:
            sender = driver.senders[-1]
            for number in range(5):
                sending = asyncio.create_task(producer.send(b"%d" % number))
                await asyncio.sleep(0)
                # It has the whole window, so that the next one waits until this one's outcome is there.
                waiting = asyncio.create_task(producer.send(b"never"))
                await asyncio.sleep(0)
                for task in (waiting, sending):
                    task.cancel()
                await asyncio.wait([waiting, sending])
                assert waiting.cancelled()
                assert sending.cancelled()
                sender.sink.stored(sender.submitted[-1:])
            last = asyncio.create_task(producer.send(b"last"))
            await asyncio.sleep(0)
            last.cancel()
            await asyncio.wait([last])
            closing = asyncio.create_task(producer.close())
            await asyncio.sleep(0)
            assert not closing.done()
            sender.sink.stored(sender.submitted[-1:])
            await closing
            assert [entry.message.body for entry in sender.submitted] == [b"0", b"1", b"2", b"3", b"4", b"last"]

    asyncio.run(main())
    assert stray == []
