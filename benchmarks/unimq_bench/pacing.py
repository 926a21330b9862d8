"""When to send: a schedule that does not wait for the system under test, and waiting for its next moment."""

import time

SPIN = 150_000
"""Nanoseconds before the moment from which on the thread does not sleep any more: a sleep ends about so late."""


def wait_until(moment: int, *, spin: int = SPIN) -> int:
    """Wait until `moment` on the monotonic clock; return the time, which is `moment` or later, in nanoseconds."""
    while True:
        now = time.monotonic_ns()
        left = moment - now
        if left <= 0:
            return now
        if left > spin:
            time.sleep((left - spin) / 1e9)


def intended(start: int, number: int, rate: float) -> int:
    """Return the moment of message `number` of a schedule; computed from the start, so that no error adds up."""
    return start + int(number * 1e9 / rate)
