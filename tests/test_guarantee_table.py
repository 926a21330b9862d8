"""The tables of guarantees say what the suite last found, and what the adapters declare now.

`make guarantees` renews them. The comparison with brokers is part of a run that has some (`make test`); memory's is
always made.
"""

import re
from dataclasses import fields
from pathlib import Path
from typing import cast

import pytest
from unimq_contract import suite, tables
from unimq_contract.guarantees import GUARANTEES
from unimq_contract.harness import Backend, backend_at
from unimq_contract.plugin import _backends

import unimq

ROOT = Path(__file__).parent.parent
DATA = ROOT / "docs" / "contract-results.json"
DOCUMENTS = ("README.md", "docs/guarantees.md")
STALE = "run `make guarantees`"
VERSIONS = {"backend", "broker_version", "client_version", "emulator"}


@pytest.fixture(scope="module")
def results() -> tables.Results:
    try:
        return tables.load(DATA)
    except ValueError as error:
        pytest.fail(f"{error}: {STALE}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "declaring" in metafunc.fixturenames:
        none: list[Backend] = []
        running = [backend for backend in metafunc.config.stash.get(_backends, none) if backend.url]
        backends = [backend for backend in running if not backend.in_process]
        backends.append(backend_at("memory://", stress=1.0, name="memory"))
        metafunc.parametrize("declaring", backends, ids=[backend.name for backend in backends])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_document_has_the_table_of_the_data_file(results: tables.Results, name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert tables.with_table(text, results) == text, f"the table in {name} is stale: {STALE}"


def test_the_data_file_is_as_the_command_writes_it(results: tables.Results) -> None:
    assert DATA.read_text(encoding="utf-8") == tables.dump(results)


def test_nothing_is_broken(results: tables.Results) -> None:
    broken = [
        f"{number} on {name}"
        for name, result in results.backends.items()
        for number, verdict in result.guarantees.items()
        if verdict.status == "broken"
    ]
    assert broken == []


def test_every_guarantee_has_its_row_and_its_text() -> None:
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([A-Z]\d+) \|", page, re.MULTILINE)
    assert rows == list(GUARANTEES)
    # The second principle is explained with the capabilities, and what is not there yet in one sentence.
    explained = set(re.findall(r"^\* \*\*([A-Z]\d+)\*\*", page, re.MULTILINE))
    announced = page.partition("## Not there yet")[2]
    assert GUARANTEES.keys() - explained - {"P2", "Q2"} == {
        number for number in GUARANTEES.keys() - explained if f"({number}" in announced or f"–{number})" in announced
    }


def test_the_brief_table_names_every_family_and_feature() -> None:
    block = re.search(r"<!-- guarantees:begin brief -->\n(.*?)\n\n", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    rows = [re.split(r" *\| *", line)[1] for line in block[1].splitlines()[2:]]
    features = [f"`{field.name}`" for field in fields(unimq.Capabilities) if field.type is unimq.Feature]
    assert rows[-len(features) :] == features
    families = {re.findall(r"[A-Z]\d+", row)[0][0] for row in rows[: -len(features)]}
    assert families == {number[0] for number in quoted_now()}


def test_what_has_no_test_is_said_to_have_none(results: tables.Results) -> None:
    for name, result in results.backends.items():
        tested = {number for number, verdict in result.guarantees.items() if verdict.status != "untested"}
        assert tested == quoted_now(), f"{name}: {STALE}"


def quoted_now() -> set[str]:
    """Guarantees that a test of the suite quotes."""
    return {
        number
        for name in suite.__all__
        for member in cast("dict[str, object]", vars(getattr(suite, name))).values()
        for mark in getattr(member, "pytestmark", [])
        if mark.name == "guarantee"
        for number in mark.args
    }


def test_the_table_says_what_the_backend_declares(results: tables.Results, declaring: Backend) -> None:
    with unimq.connect(declaring.given or declaring.url, timeout=declaring.bounds.within) as broker:
        declared = broker.capabilities
    assert declared.backend in results.backends, f"the table has no column for {declared.backend}: {STALE}"
    recorded = results.backends[declared.backend].capabilities
    if kind(recorded) != kind(declared):
        pytest.skip(f"the table is of {kind(recorded)}, this is {kind(declared)}")
    differences = {
        field.name: (getattr(recorded, field.name), getattr(declared, field.name))
        for field in fields(unimq.Capabilities)
        if field.name not in VERSIONS and getattr(recorded, field.name) != getattr(declared, field.name)
    }
    assert not differences, f"the table does not say what {declared.backend} declares: {STALE}"


def kind(capabilities: unimq.Capabilities) -> str:
    """What decides about capabilities: the emulator, if it is one, or the generation of the broker."""
    return f"{capabilities.backend} {capabilities.emulator or capabilities.broker_version.partition('.')[0]}".strip()
