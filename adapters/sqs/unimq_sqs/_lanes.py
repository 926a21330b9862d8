"""Order within one receiver: which of the messages that it holds wait here, and for what (O1).

SQS gives several messages of a FIFO group in one answer, and no other of the group until all of them are settled or
back. One at a time goes on to the user. `unimq.adapter.Lanes` does not do: here it matters who waits behind whom, since
a lane is given back from its end, or a later message could be received before an earlier one.
"""

import heapq
import itertools
from collections import deque
from math import inf

from unimq_sqs._held import Held, Place


class Lanes:
    """Places of held messages; of a standard queue none ever waits. Guarded by the lock of the receiver."""

    def __init__(self) -> None:
        self._groups: dict[str, deque[Held]] = {}
        """In the order of the queue. The first is the head: ready, with the user, or parked."""
        self._ready: deque[Held] = deque()
        self._parked: list[tuple[float, int, Held]] = []
        """A heap by the end of the delay."""
        self._numbers = itertools.count()
        self._behind = 0

    @property
    def waiting(self) -> int:
        """How many are behind others, or parked: they take nobody's place in the `prefetch`."""
        return self._behind + len(self._parked)

    @property
    def ready(self) -> int:
        """How many only need room."""
        return len(self._ready)

    @property
    def parked(self) -> int:
        """How many wait for a delay."""
        return len(self._parked)

    def admit(self, held: Held) -> None:
        """Take a message that was received."""
        if held.group:
            lane = self._groups.setdefault(held.group, deque())
            lane.append(held)
            if len(lane) > 1:
                held.place = Place.BEHIND
                self._behind += 1
                return
        self.offer(held)

    def offer(self, held: Held) -> None:
        """Let a head go to the user, as soon as there is room."""
        held.place = Place.READY
        self._ready.append(held)

    def take(self, limit: int) -> list[Held]:
        """Take out up to `limit` ready ones for the user."""
        taken: list[Held] = []
        while self._ready and len(taken) < limit:
            held = self._ready.popleft()
            held.place = Place.OUT
            taken.append(held)
        return taken

    def park(self, held: Held, due: float) -> None:
        """Keep a head that the user had until `due`."""
        held.place = Place.PARKED
        heapq.heappush(self._parked, (due, next(self._numbers), held))

    def wake(self, now: float) -> float:
        """Let those go to the user whose delay is over; return when the next one is."""
        while self._parked and self._parked[0][0] <= now:
            self.offer(heapq.heappop(self._parked)[2])
        return self._parked[0][0] if self._parked else inf

    def has_followers(self, held: Held) -> bool:
        """Tell whether others wait behind this head."""
        return len(self._groups.get(held.group, ())) > 1

    def lane_of(self, held: Held) -> list[Held]:
        """Return a head and those behind it, in their order."""
        return list(self._groups.get(held.group, (held,)))

    def finish(self, held: Held) -> None:
        """Forget a head that is settled; the next of its group goes to the user."""
        lane = self._groups.get(held.group)
        if lane is None:
            return
        lane.popleft()
        if lane:
            self._behind -= 1
            self.offer(lane[0])
        else:
            del self._groups[held.group]

    def drop(self, held: Held) -> list[Held]:
        """Forget a message and those behind it, wherever they are, and return them, last first."""
        lane = self._groups.get(held.group)
        dropped: list[Held] = []
        if lane is None:
            dropped.append(held)
        else:
            while held not in dropped:
                dropped.append(lane.pop())
            if not lane:
                del self._groups[held.group]
        for each in dropped:
            self._leave(each)
        return dropped

    def _leave(self, held: Held) -> None:
        if held.place is Place.READY:
            self._ready.remove(held)
        elif held.place is Place.BEHIND:
            self._behind -= 1
        elif held.place is Place.PARKED:
            self._parked = [parked for parked in self._parked if parked[2] is not held]
            heapq.heapify(self._parked)
