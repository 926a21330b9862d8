"""The two fronts of unimq behind one synchronous face, so that each scenario is written once.

The synchronous front is used as it is. The asyncio front runs in an event loop in a thread of its own, and its objects
are used through `_Driven`, which runs every call as a coroutine of that loop and waits for it. A name that only one
front has therefore fails on the other.
"""

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeVar, cast

import unimq

T = TypeVar("T")

FrontName = Literal["sync", "asyncio"]


class Front(Protocol):
    """One way to use unimq."""

    @property
    def name(self) -> FrontName: ...
    def connect(self, url: str, *, timeout: float) -> unimq.Broker: ...


class SyncFront:
    """``unimq.connect``."""

    name: FrontName = "sync"

    def connect(self, url: str, *, timeout: float) -> unimq.Broker:
        """Connect to a broker."""
        return unimq.connect(url, timeout=timeout)


class AsyncioFront:
    """``unimq.connect_async`` in an event loop of its own thread. Close it to end the loop."""

    name: FrontName = "asyncio"

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="unimq-contract-loop", daemon=True)
        self._thread.start()

    def connect(self, url: str, *, timeout: float) -> unimq.Broker:
        """Connect to a broker; what is returned is used like a `unimq.Broker`."""

        async def opened() -> unimq.AsyncBroker:
            return await unimq.connect_async(url, timeout=timeout)

        return cast("unimq.Broker", _Driven(self.run(opened()), self))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def close(self) -> None:
        """End the loop and its thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class _Driven:
    """An object of the asyncio front, used like its synchronous twin."""

    def __init__(self, target: object, front: AsyncioFront) -> None:
        self._target = target
        self._front = front

    def __getattr__(self, name: str) -> object:
        member = getattr(self._target, name)
        return self._blocking(member) if callable(member) else member

    def _blocking(self, call: Callable[..., object]) -> Callable[..., object]:
        async def awaited(args: tuple[object, ...], named: dict[str, object]) -> object:
            result = call(*args, **named)
            return await result if inspect.isawaitable(result) else result

        def blocking(*args: object, **named: object) -> object:
            result = self._front.run(awaited(args, named))
            if isinstance(result, unimq.AsyncProducer | unimq.AsyncConsumer):
                return _Driven(cast("object", result), self._front)
            return result

        return blocking

    def __enter__(self) -> Self:
        self._blocking(cast("Any", self._target).__aenter__)()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._blocking(cast("Any", self._target).__aexit__)(kind, error, trace)

    def __iter__(self) -> Iterator[unimq.Delivery]:
        stream = cast("unimq.AsyncConsumer", self._target).__aiter__()

        async def following() -> unimq.Delivery | None:
            return await anext(stream, None)

        while (delivery := self._front.run(following())) is not None:
            yield delivery

    def __repr__(self) -> str:
        return repr(self._target)
