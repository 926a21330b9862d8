"""What all tests on real brokers share: taking what is installed, and saying loudly what is not."""

import os
from collections.abc import Callable

import pytest
from unimq_contract.brokers import BrokerUnavailable, RunningTap

REQUIRED = "UNIMQ_TAP_LOWEST" in os.environ


@pytest.fixture(scope="session")
def skip_if_missing() -> Callable[[str], None]:
    """Skip for an error that says what is not installed, unless CI says that it must be; other errors are failures."""

    def judge(error: str) -> None:
        if not REQUIRED and "Run: make brokers" in error:
            pytest.skip(error)

    return judge


@pytest.fixture(scope="session")
def start_or_skip(skip_if_missing: Callable[[str], None]) -> Callable[[Callable[[], RunningTap]], RunningTap]:
    """Start a broker, which the caller stops."""

    def take(start: Callable[[], RunningTap]) -> RunningTap:
        try:
            return start()
        except BrokerUnavailable as error:
            skip_if_missing(str(error))
            raise

    return take
