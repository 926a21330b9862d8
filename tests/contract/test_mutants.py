"""The contract suite can fail: each deliberately broken broker is killed by every test that claims to."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from unimq_contract.mutants import mutants
from unimq_contract.mutants.around import AROUND

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(600)
"""Whichever test comes first waits for the run of all mutants."""


def run(*options: str) -> tuple[dict[tuple[str, str], str], subprocess.CompletedProcess[str]]:
    """Return what became of each mutant around memory in each test that claims it, and what was said of the run."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "unimq_contract.plugin", "-p", "unimq_contract.mutants"),
            *("--pyargs", "unimq_contract", "-q", "--tb=short", *options),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    section = done.stdout.partition("= mutants =")[2].partition("= what the mutants show =")[0]
    found = re.findall(r"^memory: ([a-z-]+): (\w+): (.+)$", section, re.MULTILINE)
    assert found, done.stdout + done.stderr
    return {(name, test): verdict for name, test, verdict in found}, done


@pytest.fixture(scope="module")
def verdicts() -> dict[tuple[str, str], str]:
    said, done = run("--unimq-mutants", "all", "-n", "4")
    assert (done.returncode == 0) == (set(said.values()) <= {"killed", "skipped"}), done.stdout[-3000:]
    return said


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(name for name, mutant in mutants().items() if mutant.in_memory))
def test_a_mutant_is_killed_by_each_test_that_claims_it(verdicts: dict[tuple[str, str], str], name: str) -> None:
    mine = {test: verdict for (mutant, test), verdict in verdicts.items() if mutant == name}
    assert mine, "no test claims to kill it"
    assert "killed" in mine.values(), mine
    assert set(mine.values()) <= {"killed", "skipped"}, mine


@pytest.mark.slow
def test_without_a_fault_nothing_is_killed() -> None:
    """The same tests, through the same seam and within the same short limits: it is the fault that kills.

    A limit that is too short for a test is so every time; a busy machine is not. Random programs quote everything, and
    last.
    """
    said, _ = run("--unimq-mutants", "none", "-k", "not ModelContract")
    assert len(said) > 140
    late = {test for (_, test), verdict in said.items() if verdict not in {"survived", "skipped"}}
    if late:
        said, done = run("--unimq-mutants", "none", "-k", " or ".join(late))
        assert done.returncode == 0, done.stdout[-3000:]
        assert set(said.values()) == {"survived"}


def test_every_mutant_is_made_somewhere() -> None:
    """Those that memory cannot have, around the brokers that can."""
    made = {name for names in AROUND.values() for name in names}
    assert made <= mutants().keys()
    assert {name for name, mutant in mutants().items() if not mutant.in_memory} <= made
    assert all(len(set(names)) == len(names) >= 6 for names in AROUND.values())


def test_every_mutant_says_what_is_wrong_with_it() -> None:
    assert len(mutants()) >= 40
    docs = [mutant.__doc__ for mutant in mutants().values()]
    assert all(docs)
    assert len(set(docs)) == len(docs)
