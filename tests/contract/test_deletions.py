"""Deleting any single guarantee from the memory adapter turns the suite red, and red where it says so: tried on some.

Mutants put a fault around an adapter; here the adapter itself loses the lines that keep a guarantee, in a copy of it,
and the suite runs on that. Every test that fails quotes the number of what was deleted, and no other test does.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from unimq_contract import report

ROOT = Path(__file__).parents[2]
ADAPTER = ROOT / "adapters" / "memory"

PROBE = "loaded_from_the_copy"
"""A plugin of the run that stops it if it would judge the adapter of this checkout."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """One guarantee and what keeps it: a text that a module of the adapter has exactly once."""

    guarantee: str
    what: str
    module: str
    text: str
    without: str = ""
    """What stands there instead."""


DELETIONS = (
    Deletion(
        "S4", "the limit of size", "_driver.py", "            if entry.size > limit:\n", "            if False:\n"
    ),
    Deletion(
        "R3",
        "a paused consumer gets nothing",
        "_driver.py",
        "            self.receiver.paused = True\n",
        "            return\n",
    ),
    Deletion(
        "A3",
        "the delay of a nack",
        "_store.py",
        "self.store.schedule(time.monotonic() + delay, self, stored, returned=True)",
        "self.store.schedule(time.monotonic(), self, stored, returned=True)",
    ),
    Deletion("A5", "the end of a lease", "_store.py", "            if over:\n", "            if False:\n"),
    Deletion(
        "A9",
        "shutdown is no delivery",
        "_store.py",
        "            if not counts:\n                stored.attempts -= 1\n",
    ),
    Deletion("A10", "a longer lease", "_store.py", "            receiver.held[stored] = delivery.lease_until\n"),
    Deletion(
        "O1",
        "one in flight of each key",
        "_store.py",
        "            if ordered and not self._takes_key(stored):\n                continue\n",
    ),
    Deletion(
        "O1",
        "a nacked head goes first",
        "_store.py",
        """            self.busy.discard(stored.message.key)
            self.ready.appendleft(stored)
        else:
            self.ready.append(stored)

    def return_held""",
        """            self.busy.discard(stored.message.key)
            self.ready.append(stored)
        else:
            self.ready.append(stored)

    def return_held""",
    ),
    Deletion(
        "G2",
        "every subscription",
        "_store.py",
        "return list(topic.queues.values())",
        "return list(topic.queues.values())[:1]",
    ),
    Deletion(
        "D1",
        "a nacked message goes behind",
        "_store.py",
        """            self.ready.appendleft(stored)
        else:
            self.ready.append(stored)

    def return_held""",
        """            self.ready.appendleft(stored)
        else:
            self.ready.appendleft(stored)

    def return_held""",
    ),
    Deletion(
        "T2",
        "the delay of a message",
        "_store.py",
        "self.store.schedule(time.monotonic() + message.delay, self, stored)",
        "self.ready.append(stored)",
    ),
    Deletion(
        "T3",
        "dropping the oldest",
        "_store.py",
        "            while self.waiting() > limit and self.ready:\n                self.ready.popleft()\n",
        "            pass\n",
    ),
)


@dataclass(frozen=True, slots=True)
class Run:
    """What the suite made of a copy: the guarantees quoted, and the reason, of each test that failed."""

    folder: Path
    passed: int
    failed: Mapping[str, report.Test]
    output: str


def copied(folder: Path, deletion: Deletion | None) -> Path:
    """Make a copy of the adapter with one deletion in it; return the folder to import it from."""
    shutil.copytree(ADAPTER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    if deletion is not None:
        module = folder / "unimq_memory" / deletion.module
        source = module.read_text(encoding="utf-8")
        assert source.count(deletion.text) == 1, f"{deletion.module} has not exactly one {deletion.text!r}"
        module.write_text(source.replace(deletion.text, deletion.without), encoding="utf-8")
    (folder / f"{PROBE}.py").write_text(
        f"import pathlib, unimq_memory\n"
        f"assert pathlib.Path(unimq_memory.__file__).is_relative_to({str(folder)!r}), unimq_memory.__file__\n",
        encoding="utf-8",
    )
    return folder


def run(folder: Path, only: str = "not ModelContract") -> Run:
    """Run the suite on the adapter in a folder, in one front; without the random programs, which quote everything."""
    written = folder / "report.json"
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", PROBE, "-p", "unimq_contract.plugin", "--pyargs", "unimq_contract"),
            *("--unimq-backends", "memory", "--unimq-stress", "0.3", "--unimq-report", str(written)),
            *("-k", f"not asyncio and ({only})", "-p", "no:cacheprovider", "-q", "--tb=short"),
            *("--timeout", "30"),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert written.exists(), done.stdout[-3000:] + done.stderr
    (backend,) = report.read(written).backends
    failed = {test.id: test for test in backend.tests if test.outcome == "failed"}
    assert (done.returncode == 1) == bool(failed), done.stdout[-3000:]
    return Run(folder, backend.total.passed, failed, done.stdout[-3000:])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[Deletion | None, Run]:
    """The runs on all copies, and on one from which nothing was deleted; two at a time."""
    each = (None, *DELETIONS)
    folders = [copied(tmp_path_factory.mktemp("adapter") / "memory", deletion) for deletion in each]
    with ThreadPoolExecutor(2) as runners:
        return dict(zip(each, runners.map(run, folders), strict=True))


pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_copy_from_which_nothing_is_deleted_is_green(runs: dict[Deletion | None, Run]) -> None:
    control = runs[None]
    assert control.passed > 100
    failed = set(control.failed)
    for _ in range(4):
        if not failed:
            break
        tests = " or ".join(name.partition("::")[2].partition("[")[0] for name in failed)
        failed &= set(run(control.folder, tests).failed)
    assert not failed, control.output


@pytest.mark.parametrize("deletion", DELETIONS, ids=lambda deletion: f"{deletion.guarantee}, {deletion.what}")
def test_deleting_a_guarantee_turns_its_tests_red_and_no_others(
    runs: dict[Deletion | None, Run], deletion: Deletion
) -> None:
    failed = runs[deletion].failed
    assert failed, f"no test noticed that {deletion.guarantee} was deleted: {deletion.what}"
    others = {name for name, test in failed.items() if deletion.guarantee not in test.guarantees}
    for _ in range(4):
        if not others:
            break
        # What a deletion breaks it breaks every time; a machine that is too busy for the short limits does not.
        tests = " or ".join(name.partition("::")[2].partition("[")[0] for name in others)
        again = run(runs[deletion].folder, tests)
        others &= {name for name, test in again.failed.items() if deletion.guarantee not in test.guarantees}
    assert not others, {name: failed[name].reason for name in others}
    by_assertion = [
        name
        for name, test in failed.items()
        if ("AssertionError" in test.reason or "DID NOT RAISE" in test.reason) and "Timeout (>" not in test.reason
    ]
    assert by_assertion, {name: test.reason for name, test in failed.items()}


def test_ten_guarantees_and_more_were_tried() -> None:
    assert len({deletion.guarantee for deletion in DELETIONS}) >= 10
    assert len(set(DELETIONS)) == len(DELETIONS)
