"""What docs/request-reply.md shows is what happens."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import unimq
from unimq import _requests

PAGE = (Path(__file__).parents[2] / "docs" / "request-reply.md").read_text(encoding="utf-8")
EXCHANGES = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
IMPORTS = "import threading, unimq\n"


def test_every_block_is_tested() -> None:
    assert len(EXCHANGES) == len(re.findall(r"^```python", PAGE, re.MULTILINE)) >= 3


@pytest.mark.parametrize(("program", "shown"), EXCHANGES)
def test_each_program_prints_what_is_shown(program: str, shown: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORTS + program],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, "")


def test_the_limits_and_errors_that_it_names_are_so() -> None:
    assert f"{_requests.MOST_REQUESTS} requests" in PAGE
    assert f"{_requests.MOST_BYTES >> 20} MiB" in PAGE
    named = set(re.findall(r"`([A-Z]\w+)`", PAGE)) - {"Delivery", "None", "TimeoutError"}
    assert named <= set(unimq.__all__), named
    assert {"RequestTimeout", "RequestFailed"} <= named
