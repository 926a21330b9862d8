"""`seek`: what is a position, and that backends which keep no settled messages say so before anything happens."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

import unimq
from unimq._positions import checked_position


@pytest.mark.parametrize("to", ["earliest", "now", {0: 0}, {3: 17, 4: 0}])
def test_what_is_a_position_reaches_the_driver_as_it_is(to: Any) -> None:
    assert checked_position(to) == to


def test_a_time_means_the_same_moment_in_each_time_zone() -> None:
    noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
    there = noon.astimezone(timezone(timedelta(hours=9)))
    assert checked_position(noon) == checked_position(there) == noon.timestamp()


@pytest.mark.parametrize(
    "to",
    [datetime(2026, 1, 31, 12), "latest", "", 5, 5.0, None, {}, {0: -1}, {-1: 0}, {0: True}, {"0": 0}, {0: "0"}],  # noqa: DTZ001
)
def test_anything_else_is_refused(to: Any) -> None:
    with pytest.raises(unimq.ConfigError, match="seek"):
        checked_position(to)


def test_a_mapping_is_copied() -> None:
    given = {0: 1}
    checked = checked_position(given)
    given[0] = 2
    assert isinstance(checked, Mapping)
    assert checked[0] == 1


def test_where_nothing_is_kept_it_is_unsupported() -> None:
    with unimq.connect("memory://") as broker:
        with pytest.raises(unimq.Unsupported, match="Kafka") as caught:
            broker.seek("orders", "earliest")
        assert caught.value.reason == broker.capabilities.seek.note
        with pytest.raises(unimq.NotFound):
            broker.stats("orders")
        with pytest.raises(unimq.ConfigError):
            broker.seek("orders", {0: -1})
    with pytest.raises(unimq.Closed):
        broker.seek("orders", "earliest")


def test_it_is_the_same_with_asyncio() -> None:
    async def seek() -> None:
        async with unimq.connect_async("memory://") as broker:
            await broker.seek("orders", "now")

    with pytest.raises(unimq.Unsupported, match="Kafka"):
        asyncio.run(seek())
