"""Workers of one run that wait for a message: one arrival wakes one of them, and it wakes the next if more is there."""

from collections import deque

from unimq._receiving import ConsumerCore
from unimq._waiting import Wake


class Idle:
    """The wake-ups of a run's idle workers; towards the consumer all of them are one waiter.

    A hundred deliveries that arrive together would wake a hundred workers, of which most find nothing because those
    that are awake have taken it. Here one is woken. It takes its delivery and calls `wake` before it handles it, so the
    next one is awake while there is more: with handlers that wait for something all of them are at work soon, and with
    quick ones few are.

    No message waits while a worker is idle: a worker leaves its wake-up before it looks, and while there are
    idle workers, the consumer has a wake-up from here, or one of them is awake and about to call `wake`. No lock: every
    step is atomic, and signals' handlers come here, too.
    """

    def __init__(self, core: ConsumerCore) -> None:
        self._core = core
        self._wakes: deque[Wake] = deque()
        self._places: deque[None] = deque((None,))
        """Holds its one item while the consumer has no wake-up from here: who pops it leaves one."""

    def add(self, wake: Wake) -> None:
        """Have a worker woken; it looks for work after this call and, when woken, calls `wake`."""
        self._wakes.append(wake)
        self._wait()

    def discard(self, wake: Wake) -> bool:
        """Take a worker's wake-up back; false if it was called already."""
        try:
            self._wakes.remove(wake)
        except ValueError:
            return False
        return True

    def wake(self) -> None:
        """Wake the next one if there is work; every worker that was idle calls this once it has taken its own."""
        if self._wakes:
            # In this order, so that an arrival is either seen here or wakes somebody.
            self._wait()
        core = self._core
        if (core.buffer or core.error is not None) and not self._wake_one():
            core.arrived.wake()

    def wake_all(self) -> None:
        """Have every idle worker look again."""
        for _ in range(len(self._wakes)):
            self._wake_one()

    def _wait(self) -> None:
        try:
            self._places.pop()
        except IndexError:
            return
        self._core.arrived.add(self._on_arrival)

    def _on_arrival(self) -> None:
        self._places.append(None)
        if not self._wake_one():
            # All are at work. It is for somebody else, who receives from the same consumer.
            self._core.arrived.wake()

    def _wake_one(self) -> bool:
        try:
            wake = self._wakes.popleft()
        except IndexError:
            return False
        wake()
        return True
