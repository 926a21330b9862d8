"""Virtual environments for peers, made on demand and kept: the pins of one clash with those of another, and with ours.

An environment is named after what is in it, so that a change of a requirement makes another one. It holds the peer and
what the peer asks for, nothing of ours: rows need only the standard library beside their client.
"""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from unimq_bench.rows.catalogue import Entry

_MARK = "complete.json"
_MAKING = 120.0
_INSTALLING = 900.0
_LINES = 3


class NoEnvironment(ValueError):
    """An environment cannot be made; the message says what failed and what to do about it."""


def home() -> Path:
    """Return the folder of all environments: ``UNIMQ_BENCH_HOME``, else ``unimq/bench`` in the user's cache folder."""
    given = os.environ.get("UNIMQ_BENCH_HOME")
    if given:
        return Path(given).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unimq" / "bench"


def interpreter_of(entry: Entry) -> str:
    """Return the interpreter in which a row runs: this one, or that of the row's environment, which is made if need be.

    Processes that want the same environment wait for each other; one that was interrupted is made anew.

    Raises:
        NoEnvironment: it cannot be made.

    """
    if not entry.requirements:
        return sys.executable
    folder = folder_of(entry.library, entry.requirements)
    python = folder / "bin" / "python"
    if not (folder / _MARK).exists():
        with _alone(folder):
            if not (folder / _MARK).exists():
                _make(folder, python, entry)
    return str(python)


def folder_of(library: str, requirements: Sequence[str]) -> Path:
    """Return where the environment with these requirements is, made or not."""
    made_of = json.dumps([platform.python_version(), sys.prefix, *sorted(requirements)])
    return home() / f"{library}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder.parent / f".{folder.name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise NoEnvironment(
            f"environments of peers are kept in {folder.parent}, which cannot be written ({error.strerror});"
            " UNIMQ_BENCH_HOME names another folder"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _make(folder: Path, python: Path, entry: Entry) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    what = f"no environment for the row {entry.library}"
    _run([sys.executable, "-m", "venv", str(folder)], _MAKING, what)
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-input"]
    _run([*pip, *entry.requirements], _INSTALLING, f"{what}: pip install {' '.join(entry.requirements)}")
    mark = folder / f".{_MARK}"
    mark.write_text(json.dumps({"requirements": entry.requirements}), "utf-8")
    mark.rename(folder / _MARK)


def _run(command: Sequence[str], timeout: float, what: str) -> None:
    # What is in this process's path is not for others.
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as error:
        raise NoEnvironment(f"{what}: not done after {timeout:g} s") from error
    except OSError as error:
        raise NoEnvironment(f"{what}: {error.strerror}") from error
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()[-_LINES:]
        raise NoEnvironment(f"{what}: {' / '.join(lines) or f'code {done.returncode}'}")
