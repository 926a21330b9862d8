"""A benchmark that nobody watches."""

import random
from collections.abc import Callable

import pytest
from unimq_bench.collection import Collection
from unimq_bench.measuring import Bench


class Unseen:
    """A reporter whom nobody watches."""

    def step(self, text: str, seconds: float) -> None:
        pass

    def live(self, text: str, rate: float, p99: float | None) -> None:
        pass


@pytest.fixture
def make_bench() -> Callable[..., Bench]:
    """Make one whose roles look in `paths` first. Others may use 1000 cores: these tests run beside others."""

    def make(*paths: str) -> Bench:
        generator = random.Random(5)
        return Bench(Collection(1000.0, generator), generator, Unseen(), paths)

    return make
