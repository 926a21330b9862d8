"""The cache folder in which brokers are unpacked, and the marks that say what is in it."""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

MARK = "installed.json"


def brokers_home() -> Path:
    """``UNIMQ_BROKERS_HOME``, else ``unimq/brokers`` in the user's cache folder."""
    given = os.environ.get("UNIMQ_BROKERS_HOME")
    if given:
        return Path(given).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unimq" / "brokers"


def read_mark(folder: Path) -> dict[str, str] | None:
    """What ``install_folder`` recorded there, None when nothing (complete) is installed."""
    try:
        # Written by install_folder alone, which writes texts.
        mark: dict[str, str] = json.loads((folder / MARK).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return mark


def install_folder(folder: Path, fill: Callable[[Path], Mapping[str, str]]) -> dict[str, str]:
    """Make ``folder`` by filling a new one beside it and renaming: an interrupted installation leaves no half.

    ``fill`` gets the new folder and returns what to record. Programs that install the same thing wait for each other.
    """
    with _exclusive(folder):
        mark = read_mark(folder)
        if mark is not None:
            return mark
        new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            new.chmod(0o755)
            mark = dict(fill(new))
            (new / MARK).write_text(json.dumps(mark), "utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            new.rename(folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        return mark


@contextmanager
def _exclusive(folder: Path) -> Generator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder.parent / f".{folder.name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
