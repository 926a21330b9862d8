"""Order by key for drivers whose broker gives several messages of a key at a time (O1)."""

from collections import deque
from collections.abc import Iterator

from unimq._delivery import Delivery


class Lanes:
    """What waits because an earlier message of its key is not finished; for one source of ordered messages.

    The head of a key is whichever of its messages was let through and is not finished: it may be on its way to the
    user, in work, or nacked and waiting for its delay. Owned by one thread of the driver, which bounds what waits.
    """

    __slots__ = ("_behind", "waiting")

    def __init__(self) -> None:
        self._behind: dict[str, deque[Delivery] | None] = {}
        """Those behind the head, by key; most heads have nobody behind them."""
        self.waiting: int = 0
        """How many wait behind heads."""

    def admit(self, delivery: Delivery) -> bool:
        """Let a new message through, or have it wait behind the head of its key; without a key nothing waits."""
        key = delivery.message.key
        if key is None:
            return True
        if key not in self._behind:
            self._behind[key] = None
            return True
        lane = self._behind[key]
        if lane is None:
            self._behind[key] = deque((delivery,))
        else:
            lane.append(delivery)
        self.waiting += 1
        return False

    def follow(self, finished: Delivery) -> Delivery | None:
        """Return who is the head of the key now that this one is done."""
        key = finished.message.key
        if key is None:
            return None
        lane = self._behind.get(key)
        if lane:
            self.waiting -= 1
            return lane.popleft()
        self._behind.pop(key, None)
        return None

    def forget_waiting(self) -> Iterator[Delivery]:
        """Yield all that wait, and forget them; heads stay heads."""
        for key, lane in self._behind.items():
            yield from lane or ()
            self._behind[key] = None
        self.waiting = 0
