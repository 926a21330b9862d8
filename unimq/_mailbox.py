"""How any thread hands work to the one thread, or event loop, that owns a client."""

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """A queue with many writers and one reader, which is woken once per batch and not once per item.

    Writers `post`; the owner's `wake` is called only when the owner has not been woken since it last looked. The owner
    calls `drain`, which takes all that is there. No lock: `deque.append` and `popleft` are atomic, and the flag is
    cleared *before* the queue is read, so an item that is posted meanwhile is either read or wakes the owner again.
    """

    __slots__ = ("_awake", "_items", "_wake")

    def __init__(self, wake: Callable[[], None]) -> None:
        self._items: deque[T] = deque()
        self._awake = False
        self._wake = wake

    def post(self, item: T) -> None:
        """Leave `item` for the owner and wake it if it sleeps. Any thread; never blocks if `wake` does not."""
        self._items.append(item)
        if not self._awake:
            self._awake = True
            self._wake()

    def drain(self) -> list[T]:
        """Take everything that was posted, in order. The owner's thread only."""
        self._awake = False
        take = self._items.popleft
        return [take() for _ in range(len(self._items))]

    def __len__(self) -> int:
        return len(self._items)
