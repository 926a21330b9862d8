"""The suite can fail on an adapter outside the tree, too: mutants around the one in `examples/sqlite-adapter`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from unimq_contract.mutants.around import AROUND

ROOT = Path(__file__).parents[2]
ADAPTER = ROOT / "examples" / "sqlite-adapter"

CHOSEN = (
    "SendContract",
    "SettleContract",
    "test_a_dead_letter_can_be_sent_again",
    "test_a_password_is_never_shown",
    "test_every_message_arrives_equal",
    "test_no_more_than_prefetch_are_unsettled",
)
"""Tests that kill every mutant made around this adapter; all that claim one take minutes."""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_mutant_around_the_sqlite_adapter_is_killed(tmp_path: Path) -> None:
    site = tmp_path / "site"
    for command in (
        ["hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        ["pip", "install", "-q", "--no-deps", "--no-index", "-f", str(tmp_path), "--target", str(site), "unimq-sqlite"],
    ):
        subprocess.run([sys.executable, "-m", *command], cwd=ADAPTER, check=True, capture_output=True, timeout=60)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "unimq_contract.plugin", "-p", "unimq_contract.mutants"),
            *("--pyargs", "unimq_contract", "--unimq-mutants", "all", "-p", "no:cacheprovider", "-q", "--tb=no"),
            # Most are found out by what does not come, and are as late as a test waits for it.
            *(
                "--unimq-url",
                f"sqlite:///{tmp_path / 'mutants.db'}",
                "--unimq-stress",
                "0.1",
                "-k",
                " or ".join(CHOSEN),
            ),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    section = done.stdout.partition("= mutants =")[2].partition("= what the mutants show =")[0]
    killed = set(re.findall(r"^sqlite://: ([a-z-]+): \w+: killed$", section, re.MULTILINE))
    assert killed == set(AROUND["sqlite"])
    assert len(killed) >= 6
