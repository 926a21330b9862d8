"""What operators are told, by `logging`: one line per event, with fields that programs can read, and none per message.

Each record has an attribute ``unimq``, a mapping with the name of the event and its fields. The events stand in
``docs/telemetry.md``.
"""

import logging
import threading
import time
from dataclasses import dataclass

log = logging.getLogger("unimq")

EVERY = 10.0
"""Seconds between two lines about what may befall every message."""


def say(
    event: str,
    text: str,
    *args: object,
    level: int = logging.WARNING,
    error: BaseException | None = None,
    **fields: object,
) -> None:
    """Say once what has happened; `error` adds its traceback, for what only a developer can understand."""
    if log.isEnabledFor(level):
        log.log(level, text, *args, exc_info=error, stacklevel=2, extra={"unimq": {"event": event, **fields}})


@dataclass(slots=True)
class _Said:
    """One event of a `SeldomLog`: when it was said last, and what was not said since."""

    at: float
    counted: int = 0
    level: int = logging.WARNING
    text: str = ""


class SeldomLog:
    """Says what may befall every message: at once, then at most once in `EVERY` seconds with the number in between.

    Owned by one producer or consumer; any thread may call it. `_lock` guards the table, which has an entry per event.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said: dict[str, _Said] = {}

    def say(
        self,
        event: str,
        text: str,
        *args: object,
        level: int = logging.WARNING,
        error: BaseException | None = None,
        **fields: object,
    ) -> None:
        """See `say` of this module."""
        if not log.isEnabledFor(level):
            return
        now = time.monotonic()
        with self._lock:
            said = self._said.get(event)
            if said is not None and now - said.at < EVERY:
                said.counted += 1
                said.level, said.text = level, text % args if args else text
                return
            self._said[event] = _Said(now)
        if said is not None and said.counted:
            text = f"{text} (and %d more since the last such line)"
            args = (*args, said.counted)
            fields["more"] = said.counted
        say(event, text, *args, level=level, error=error, **fields)

    def finish(self) -> None:
        """Say what is only counted yet: no more comes."""
        with self._lock:
            left = {event: said for event, said in self._said.items() if said.counted}
            self._said.clear()
        for event, said in left.items():
            say(event, "%s (and %d before it)", said.text, said.counted - 1, level=said.level, more=said.counted - 1)
