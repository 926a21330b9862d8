"""When a failed message comes again, and when it does not."""

from dataclasses import dataclass
from typing import Any

from unimq._delivery import Delivery
from unimq._destinations import Seconds, count, seconds
from unimq._errors import ConfigError
from unimq._middleware import Nack, Reject

BATCH_WAIT = 0.05
DRAIN_TIMEOUT = 30.0
"""Seconds that a batch waits for company, and that a worker has to end, unless `run` is told otherwise."""

NOT_RETRYABLE = "not_retryable"
ATTEMPTS = "attempts"
"""Reasons of dead letters that a policy gives; its exception stands beside them in the provenance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Exponential back-off with full jitter: a random time between 0 and ``min(cap, base * factor ** (attempt - 1))``.

    The jitter is the "full" one of the AWS Architecture Blog (2015), which spreads the retries of many messages that
    failed together. A policy is also a middleware's hook: ``Middleware(error=Retry(...))``.

    Raises:
        ConfigError: a number is out of range, or `never` holds something else than exception types.

    """

    attempts: int | None = None
    """Deliveries after which a failure is final, where fewer than the queue's ``max_deliveries``."""
    base: Seconds = 0.5
    """Longest wait in seconds after the first failure; 0 has every message come again at once."""
    factor: float = 2.0
    """By how much the longest wait grows with each failure; at least 1."""
    cap: Seconds = 60.0
    """Longest wait of all, in seconds."""
    never: tuple[type[BaseException], ...] = ()
    """Exceptions after which the message goes to the dead letters at once, whatever its attempt."""

    def __post_init__(self) -> None:
        """Check the numbers, and give durations in seconds."""
        if self.attempts is not None:
            count(self.attempts, "attempts")
        object.__setattr__(self, "base", seconds(self.base, "base", zero=True))
        object.__setattr__(self, "cap", seconds(self.cap, "cap", zero=True))
        # Checked at run time too, for callers who use no type checker.
        factor: object = self.factor
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 <= factor < 1e6:
            raise ConfigError(f"factor must be a number of at least 1, not {factor!r}")
        never: object = self.never
        kinds: tuple[object, ...] = never if isinstance(never, tuple) else (never,)
        for kind in kinds:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise ConfigError(f"never must hold exception types, not {kind!r}")
        object.__setattr__(self, "never", kinds)

    def longest_wait(self, attempt: int) -> float:
        """Return the seconds within which the failure of delivery number `attempt` is retried."""
        base, cap = float(self.base), float(self.cap)  # type: ignore[arg-type] # made seconds in __post_init__
        # Beyond this exponent every base has reached every cap, and a float would overflow.
        return min(cap, base * self.factor ** min(attempt - 1, 40)) if base else 0.0

    def __call__(self, delivery: Delivery[Any], error: BaseException) -> Nack | Reject:
        """Decide about a delivery whose handler raised `error`."""
        if isinstance(error, self.never):
            return Reject(NOT_RETRYABLE)
        if self.attempts is not None and delivery.attempt >= self.attempts:
            return Reject(ATTEMPTS)
        # Costs as much to import as the module that needs it only after a failure.
        import random

        return Nack(random.uniform(0.0, self.longest_wait(delivery.attempt)))
