"""The tables of guarantees say what the suite last found, and what the adapters declare now.

`make guarantees` renews them. `contract_tests/test_declared.py` compares them with brokers; memory's is compared here.
"""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import cast

import pytest
from unimq_contract import suite, tables
from unimq_contract.guarantees import GUARANTEES

import unimq

ROOT = Path(__file__).parent.parent
DATA = ROOT / "docs" / "contract-results.json"
DOCUMENTS = ("README.md", "docs/guarantees.md")
STALE = "run `make guarantees`"


@pytest.fixture(scope="module")
def results() -> tables.Results:
    try:
        return tables.load(DATA)
    except ValueError as error:
        pytest.fail(f"{error}: {STALE}")


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
    # The second principle is explained with the capabilities.
    explained = set(re.findall(r"^\* \*\*([A-Z]\d+)\*\*", page, re.MULTILINE))
    assert explained == GUARANTEES.keys() - {"P2"}


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


def test_the_table_says_what_memory_declares(results: tables.Results) -> None:
    with unimq.connect("memory://") as broker:
        assert tables.differences(results, broker.capabilities) == [], f"the tables are stale: {STALE}"


def test_differences_are_found(results: tables.Results) -> None:
    declared = results.backends["memory"].capabilities
    assert tables.differences(results, replace(declared, client_version="2")) == []
    changed = replace(declared, max_delay=7.0, delay=unimq.Feature(unimq.Support.EMULATED, "a little"))
    assert tables.differences(results, changed) == [
        f"delay: {declared.delay} there, {changed.delay} now",
        "max_delay: None there, 7.0 now",
    ]
    assert tables.differences(results, replace(declared, backend="other")) == ["there is no column for other"]
    with pytest.raises(LookupError, match=r"of memory, not of memory toy"):
        tables.differences(results, replace(declared, emulator="toy"))
