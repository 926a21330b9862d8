"""What others on the machine disturbed is measured again, as long as there is time set aside for it.

What is dropped is chosen by the load of others alone, never by what was measured, and stays in the result as
`unimq_bench.results.Run.discarded`.
"""

from dataclasses import dataclass

MOST = 1
"""Times that one slice or stream is measured again: a machine that is busy then will be busy after."""


@dataclass(slots=True)
class Redos:
    """The time for measuring again. Belongs to the harness's thread."""

    foreign_cores: float
    """Cores beyond which something is disturbed."""
    seconds: float
    """That are left."""

    def wants(self, foreign_cores: float, seconds: float) -> bool:
        """Whether what took so many seconds, while others used so many cores, is to be measured again.

        A true answer takes these seconds.
        """
        if foreign_cores <= self.foreign_cores or seconds > self.seconds:
            return False
        self.seconds -= seconds
        return True


def never() -> Redos:
    """Return what measures nothing again."""
    return Redos(float("inf"), 0.0)
