"""What one consumer received, by producer and sequence number; the harness adds up those of all consumers."""

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

from unimq_bench.bodies import DATA, PROBE, head_of, is_intact

_MOST = 255
"""Deliveries of one message that are told apart."""


class Ledger:
    """Belongs to one thread. Memory: a byte for each message, and 16 for the times of each that is timed."""

    def __init__(self, run: int) -> None:
        self.run = run
        self.seen: dict[int, bytearray] = {}
        self.received = 0
        self.reordered = 0
        self.corrupted = 0
        self.unknown = 0
        self.probes = 0
        self.response = array("q")
        self.service = array("q")
        self.given_back: set[tuple[int, int]] = set()
        """Producer and number of what was nacked on purpose."""
        self._highest: dict[int, int] = {}

    def take(self, bodies: Iterable[bytes], now: int, *, timed: bool = True) -> None:
        """Write down what one receive brought at `now` (nanoseconds)."""
        for body in bodies:
            head = head_of(body)
            if head is None or head.run != self.run:
                self.unknown += 1
                continue
            if not is_intact(body):
                self.corrupted += 1
                continue
            if head.kind == PROBE:
                self.probes += 1
                continue
            self.received += 1
            first = self.count(head.producer, head.sequence) == 1
            if first:
                if head.sequence < self._highest.get(head.producer, -1):
                    self.reordered += 1
                else:
                    self._highest[head.producer] = head.sequence
                if timed and head.kind == DATA:
                    self.response.append(now - head.intended)
                    self.service.append(now - head.sent)

    def count(self, producer: int, sequence: int) -> int:
        """Count a delivery; return how many this message has had here."""
        seen = self.seen.get(producer)
        if seen is None:
            seen = self.seen[producer] = bytearray(1024)
        if sequence >= len(seen):
            seen.extend(bytes(max(sequence + 1 - len(seen), len(seen))))
        times = min(seen[sequence] + 1, _MOST)
        seen[sequence] = times
        return times

    def write(self, folder: Path, name: str) -> dict[str, str]:
        """Write times and counts to files, and return their names: ``response``, ``service``, ``seen-<producer>``."""
        files: dict[str, bytes] = {"response": self.response.tobytes(), "service": self.service.tobytes()}
        files |= {f"seen-{producer}": bytes(seen) for producer, seen in self.seen.items()}
        return write_files(folder, name, files)


def write_files(folder: Path, name: str, files: dict[str, bytes]) -> dict[str, str]:
    """Write each to a file of its own; return the paths by what they hold."""
    paths: dict[str, str] = {}
    for what, content in files.items():
        path = folder / f"{name}-{what}"
        path.write_bytes(content)
        paths[what] = str(path)
    return paths


def read_times(paths: Sequence[str]) -> "array[int]":
    """Return what `Ledger.write` or a producer wrote as times."""
    times = array("q")
    for path in paths:
        times.frombytes(Path(path).read_bytes())
    return times
