"""What docs/command-line.md shows is what happens: its commands are run, their output compared."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import unimq

from .conftest import Command

PAGE = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
DIALOGUE = [block for kind, block in BLOCKS if kind == "console"]
SCRIPTS = [block.strip() for kind, block in BLOCKS if kind == "sh"]


def exchanges() -> list[tuple[str, str]]:
    """Each command with the output that is shown for it."""
    found: list[tuple[str, str]] = []
    for block in DIALOGUE:
        assert block.startswith("$ ")
        for part in block.split("\n$ "):
            line, _, output = part.removeprefix("$ ").partition("\n")
            found.append((line, output.rstrip("\n")))
    return found


def test_the_dialogue_goes_as_shown(command: Command, broker: unimq.Broker) -> None:
    ran: set[str] = set()
    for line, shown in exchanges():
        before, _, call = line.rpartition(" | ")
        stdin = subprocess.run(["sh", "-c", before], check=True, capture_output=True).stdout if before else b""
        program, *arguments = shlex.split(call)
        assert program == "unimq"
        result = command(*arguments, stdin=stdin)
        pattern = re.escape(shown).replace("…", ".+")
        assert re.fullmatch(pattern, (result.out.decode() + result.err).rstrip("\n")), f"{line}\n{result}"
        assert (result.code == 0) == (not shown.startswith("error: "))
        ran.add(arguments[0])
    assert ran == {"send", "receive", "declare", "stats", "purge", "redrive", "delete"}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_runs(script: str) -> None:
    binaries = Path(sys.executable).parent
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UNIMQ_TEST_", "UNIMQ_URL"))}
    done = subprocess.run(
        ["sh", "-c", script],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=100,
        env={**kept, "PATH": f"{binaries}:{os.environ['PATH']}"},
    )
    if "Run: make brokers" in done.stderr and "UNIMQ_TAP_LOWEST" not in os.environ:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_page_shows_every_command() -> None:
    from unimq._cli._commands import app

    shown = set(re.findall(r"unimq ([a-z]+)", PAGE))
    assert {name for name in app if not name.startswith("-")} <= shown
