"""What processes use, from ``/proc``: CPU and memory of client and broker, and what else the machine does.

Elsewhere than on Linux nothing can be seen; then everything is `None` or 0, and the result says so.
"""

import os
from collections.abc import Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_PROC = Path("/proc")
_LISTENING = "0A"


def can_count() -> bool:
    """Whether this machine tells."""
    return (_PROC / "self" / "stat").exists()


def _fields(pid: int) -> list[str] | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # The name, in parentheses, may hold anything.
    return text[text.rindex(")") + 2 :].split()


def family_of(roots: Iterable[int]) -> tuple[int, ...]:
    """Return the processes with all their descendants."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir() if _PROC.exists() else ():
        if entry.name.isdecimal():
            fields = _fields(int(entry.name))
            if fields is not None:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.append(pid)
            waiting += children.get(pid, [])
    return tuple(found)


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU seconds of processes that live, user and system."""
    return sum((int(fields[11]) + int(fields[12])) / _TICKS for pid in pids if (fields := _fields(pid)) is not None)


def resident_bytes(pids: Iterable[int]) -> int:
    """Return the memory of processes that live."""
    return sum(int(fields[21]) * _PAGE for pid in pids if (fields := _fields(pid)) is not None)


def busy_seconds() -> float:
    """Return the CPU seconds that all cores have been busy since the machine started; 0 if it does not tell."""
    try:
        line = (_PROC / "stat").read_text(encoding="ascii").partition("\n")[0]
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, soft, *_ = (int(value) for value in line.split()[1:])
    return (user + nice + system + irq + soft) / _TICKS


def listener_on(port: int) -> tuple[int, ...]:
    """Return the processes that listen on a TCP port of this machine, as far as we may see them."""
    sockets: set[str] = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            (
                _,
                local,
                _,
                state,
                *_,
            ) = fields = line.split()
            if state == _LISTENING and int(local.rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{fields[9]}]")
    if not sockets:
        return ()
    return tuple(
        int(entry.name)
        for entry in _PROC.iterdir()
        if entry.name.isdecimal() and any(link in sockets for link in _open_files(entry))
    )


def _open_files(process: Path) -> Iterable[str]:
    try:
        return [str(entry.readlink()) for entry in (process / "fd").iterdir()]
    except OSError:
        # It has ended, or belongs to somebody else.
        return ()


class Usage:
    """What client, broker and the rest of the machine used since it was made. Owned by one thread."""

    def __init__(self, clients: Iterable[int], brokers: Iterable[int]) -> None:
        self.clients = family_of(clients)
        self.brokers = family_of(brokers)
        self._client, self._broker = cpu_seconds(self.clients), cpu_seconds(self.brokers)
        self._harness = sum(os.times()[:2])
        self._busy = busy_seconds()

    def client_cpu(self) -> float:
        """CPU seconds of the client's processes."""
        return cpu_seconds(self.clients) - self._client

    def broker_cpu(self) -> float | None:
        """CPU seconds of the broker's processes; `None` if they cannot be seen, or one of them has ended."""
        if not self.brokers or not all((_PROC / str(pid)).exists() for pid in self.brokers):
            return None
        return max(0.0, cpu_seconds(self.brokers) - self._broker)

    def foreign_cpu(self) -> float:
        """CPU seconds of everything else but this process."""
        ours = self.client_cpu() + (self.broker_cpu() or 0.0) + sum(os.times()[:2]) - self._harness
        return max(0.0, busy_seconds() - self._busy - ours) if can_count() else 0.0
