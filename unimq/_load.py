"""What a program is to send and receive, for an estimate of its requests."""

import math
from typing import NamedTuple

from unimq._errors import ConfigError


class Load(NamedTuple):
    """A steady stream through one queue."""

    rate: float
    """Messages per second, day and night; 0 is an idle consumer."""
    size: int
    """Bytes of body and headers."""
    producers: int = 1
    consumers: int = 1
    is_ordered: bool = False
    """The queue has ``ordering="key"``."""
    is_awaited: bool = False
    """Producers wait for each message (``send``), instead of enqueuing it."""

    def checked(self) -> "Load":
        """Return this load, or raise `ConfigError` for what makes no sense."""
        if not math.isfinite(self.rate) or self.rate < 0:
            raise ConfigError(f"a rate is at least 0 messages per second, not {self.rate:g}")
        if self.size < 1:
            raise ConfigError(f"a message has at least 1 byte, not {self.size}")
        for what, number in (("producers", self.producers), ("consumers", self.consumers)):
            if number < 1:
                raise ConfigError(f"there is at least one of {what}, not {number}")
        return self
