"""From where a source is read again: what users say, checked, as drivers get it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, TypeAlias, cast

from unimq._errors import ConfigError

Position: TypeAlias = datetime | Literal["earliest", "now"] | Mapping[int, int]
"""A time, either end, or the backend's own positions by partition."""
CheckedPosition: TypeAlias = float | Literal["earliest", "now"] | Mapping[int, int]
"""The same with the time as seconds of the wall clock."""


def checked_position(to: object) -> CheckedPosition:
    """Return what drivers get.

    Raises:
        ConfigError: it is no position, or a time that means another one in each time zone.

    """
    if isinstance(to, datetime):
        if to.tzinfo is None:
            raise ConfigError(f"seek to {to.isoformat()}: the time needs a time zone, such as datetime.now(UTC) has")
        return to.timestamp()
    if isinstance(to, str) and to in {"earliest", "now"}:
        return cast("Literal['earliest', 'now']", to)
    if isinstance(to, Mapping):
        positions = dict(cast("Mapping[object, object]", to))
        if positions and all(_is_natural(each) for item in positions.items() for each in item):
            return cast("dict[int, int]", positions)
    raise ConfigError(f'seek takes a datetime, "earliest", "now", or positions by partition (integers), not {to!r}')


def _is_natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
