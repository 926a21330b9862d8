"""Running the command in this process, on an in-memory broker of the test's own."""

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import unimq
from unimq._cli import main


@dataclass(frozen=True, slots=True)
class Result:
    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        """Standard output of a command that has to succeed."""
        assert (self.code, self.err) == (0, "")
        return self.out.decode().splitlines()

    @property
    def documents(self) -> list[Any]:
        """The same, as JSON."""
        return [json.loads(line) for line in self.lines]


Command = Callable[..., Result]


class Terminal(io.TextIOWrapper):
    """A stream behind which there is a person."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> str:
    """A broker that nobody else uses; it is what the environment names."""
    name = f"memory://cli-{os.urandom(4).hex()}"
    monkeypatch.setenv("UNIMQ_URL", name)
    return name


@pytest.fixture
def broker(url: str) -> Iterator[unimq.Broker]:
    """The same broker, for the test itself."""
    with unimq.connect(url) as connected:
        yield connected


@pytest.fixture
def command(url: str, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs one command to its end."""

    def run(*arguments: str, stdin: bytes = b"", out: io.BytesIO | None = None, terminal: bool = False) -> Result:
        wrapper = Terminal if terminal else io.TextIOWrapper
        written = io.BytesIO() if out is None else out
        complaints = io.BytesIO()
        stdout, stderr = wrapper(written), wrapper(complaints, write_through=True)
        with monkeypatch.context() as streams:
            streams.setattr(sys, "stdin", wrapper(io.BufferedReader(io.BytesIO(stdin))))
            streams.setattr(sys, "stdout", stdout)
            streams.setattr(sys, "stderr", stderr)
            code = main(arguments)
        return Result(code, written.getvalue(), complaints.getvalue().decode())

    return run
