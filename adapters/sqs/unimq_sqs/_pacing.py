"""When a poller asks again: at once while much is waiting, after a short while where messages trickle in."""

PLENTY = 3
"""Messages that an answer must bring at least, without any waiting before, to show that more of them are there."""
PAUSES_IN_A_ROW = 8
"""Pauses before it is tried again whether more is there: SQS may answer with a part of what it has."""


class Pace:
    """The pauses of one poller. Owned by its thread.

    A message that arrives at an empty queue is fetched at once, by a poll that waits for it. If the next one is fetched
    at once, too, each message of a stream costs a request of its own; a pause of `window` seconds lets several share
    it. Not so for a backlog, of which full answers come, or parts that are as large without a pause as with one.
    """

    def __init__(self, window: float) -> None:
        self._window = window
        self._has_paused = False
        self._in_a_row = 0
        self._usual = 0.0
        """Messages that an answer brings after a pause, lately."""

    def pause_after(self, count: int, asked: int) -> float:
        """Return for how many seconds to wait after an answer with `count` of the `asked` messages."""
        had_paused, self._has_paused = self._has_paused, False
        if not self._window or not count or count >= asked:
            self._in_a_row = 0
            return 0.0
        if had_paused:
            self._usual = count if not self._usual else (self._usual + count) / 2
            self._in_a_row += 1
            if self._in_a_row >= PAUSES_IN_A_ROW:
                self._in_a_row = 0
                return 0.0
        elif count >= max(PLENTY, self._usual / 2):
            return 0.0
        self._has_paused = True
        return self._window


class Idleness:
    """How long nothing has come. Guarded by the lock of the receiver."""

    AFTER = 60.0
    """Seconds after which a consumer is idle."""

    def __init__(self, now: float) -> None:
        self._since = now

    def note(self, now: float) -> None:
        """Note that something came."""
        self._since = max(self._since, now)

    def is_idle(self, now: float) -> bool:
        """Tell whether long polls may be as long as SQS lets them, though closing waits for the last one."""
        return now >= self._since + self.AFTER
