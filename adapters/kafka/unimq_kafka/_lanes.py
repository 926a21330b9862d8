"""Order by key inside a partition: what waits because an earlier message of its key is in work (O1)."""

from collections import deque
from collections.abc import Iterator

from unimq.adapter import Delivery


class Lanes:
    """The keys of one partition during one assignment; owned by the thread of its consumer.

    The head of a key is whichever of its messages was let through and is not finished: it may be on its way to the
    user, in work, or nacked and waiting for its delay. What waits behind heads is bounded by the span of the partition.
    """

    def __init__(self) -> None:
        self._behind: dict[str, deque[Delivery] | None] = {}
        """Those behind the head, by key; most heads have nobody behind them."""

    def admit(self, delivery: Delivery) -> bool:
        """Let a new message through, or have it wait behind the head of its key."""
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
        return False

    def follow(self, finished: Delivery) -> Delivery | None:
        """Return who is the head of the key now that this one is done."""
        key = finished.message.key
        if key is None:
            return None
        lane = self._behind.get(key)
        if lane:
            return lane.popleft()
        self._behind.pop(key, None)
        return None

    def forget_waiting(self) -> Iterator[Delivery]:
        """Yield all that wait, and forget them; heads stay heads."""
        for key, lane in self._behind.items():
            yield from lane or ()
            self._behind[key] = None
