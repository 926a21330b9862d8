"""One private in-memory broker per test."""

from collections.abc import Iterator

import pytest

import unimq


@pytest.fixture
def broker() -> Iterator[unimq.Broker]:
    with unimq.connect("memory://?private=true") as opened:
        yield opened
