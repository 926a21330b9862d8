"""The tables of guarantees in the documents say what every backend of this run declares now."""  # noqa: INP001 - a folder of a checkout, no package

from pathlib import Path

import pytest
from unimq_contract import tables
from unimq_contract.harness import Backend
from unimq_contract.plugin import _backends

import unimq

DATA = Path(__file__).parent.parent / "docs" / "contract-results.json"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # Where workers share the backends, the one that has a broker runs this, too.
    grouped = metafunc.config.pluginmanager.hasplugin("xdist")
    backends = [
        pytest.param(found, id=found.name, marks=[pytest.mark.xdist_group(found.name)] if grouped else [])
        for found in metafunc.config.stash[_backends]
    ]
    metafunc.parametrize("backend", backends, indirect=True)


def test_the_tables_say_what_the_backend_declares(backend: Backend) -> None:
    url = backend.tap.url if backend.tap is not None else backend.given or backend.url
    with unimq.connect(url, timeout=backend.bounds.within) as broker:
        declared = broker.capabilities
    try:
        stale = tables.differences(tables.load(DATA), declared)
    except LookupError as error:
        pytest.skip(str(error))
    assert not stale, "run `make guarantees`"
