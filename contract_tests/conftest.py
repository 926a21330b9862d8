"""Lets ``pytest contract_tests`` run the suite of this checkout; without options, on ``memory://``."""  # noqa: INP001 - a folder of a checkout, no package

import pytest

pytest_plugins = ["unimq_contract.plugin"]


def pytest_configure(config: pytest.Config) -> None:
    if not config.option.unimq_url and not config.option.unimq_backends:
        config.option.unimq_backends = "memory"
