"""Log processing: lines go to a topic; one subscription parses them, several at a time, another one archives all.

    python examples/log_processing.py --url kafka://host:9092

The lines are the package logs of a real machine (data/README.md), with everything that gets into such files. What no
rule understands becomes a dead letter with its reason. Counts from the stream must equal counts from the files.
"""

import gzip
import itertools
import re
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait

from _progress import Progress, progress
from _run import DATA, arguments, dead_letters_of, declared, own_name, positive, reconciled, run

import unimq

BATCH = 100
PREFETCH = 2 * BATCH
FILES = ("dpkg.log", "alternatives.log", "term.log")
RULES = {
    "dpkg.log": re.compile(r"[\d-]{10} [\d:]{8} (?:status )?(?P<event>[a-z-]+) (?P<component>[^ :]+)[ :].+"),
    "alternatives.log": re.compile(
        r"update-alternatives [\d-]{10} [\d:]{8}: "
        r"(?P<event>run|link)(?: group| with(?: --quiet)? --install \S+) (?P<component>\S+) .+"
    ),
    "term.log": re.compile(
        r"(?P<event>Selecting|Preparing|Unpacking|Setting up|Processing)"
        r"(?: previously unselected package| to unpack| triggers for)? "
        r"(?:\S*/(?:\d+-)?)?(?P<component>[a-z0-9][a-z0-9.+-]+)\S*(?s:.*)"
    ),
}
"""One rule per file: what happened, and to which package."""

Parsed = tuple[str, str]
"""Event and component."""


def parse(file: str, line: bytes) -> Parsed:
    """Parse one line, or raise `ValueError` with the reason why it cannot be parsed."""
    found = RULES[file].fullmatch(line.decode())
    if found is None:
        raise ValueError(f"{file}: " + ("no rule for this line" if line.strip() else "empty line"))
    return found["event"], found["component"]


class Findings:
    """What the workers made of each line, by message id; the lock guards it."""

    def __init__(self) -> None:
        self.parsed: dict[str, Parsed] = {}
        self.refused: dict[str, str] = {}
        self.redelivered = 0
        """Repeated deliveries that say so by their ``attempt``: at-least-once allows them."""
        self.duplicates = 0
        """Repeated deliveries that claim to be the first: nothing allows them."""
        self._lock = threading.Lock()

    def enter(self, delivery: unimq.Delivery, finding: Parsed | str) -> bool:
        """Enter what a line says or why it says nothing; tell whether the line is new."""
        with self._lock:
            if delivery.id in self.parsed or delivery.id in self.refused:
                self.redelivered += delivery.attempt > 1
                self.duplicates += delivery.attempt == 1
                return False
            if isinstance(finding, str):
                self.refused[delivery.id] = finding
            else:
                self.parsed[delivery.id] = finding
            return True


def read_lines(number: int) -> dict[str, dict[str, bytes]]:
    """Read the first lines of each file; return them by file and by the id under which they are sent."""
    lines: dict[str, dict[str, bytes]] = {}
    for name in FILES:
        with gzip.open(DATA / f"{name}.gz", "rb") as file:
            first = enumerate(itertools.islice(file, number), start=1)
            lines[name] = {f"{name}:{n}": line.removesuffix(b"\n") for n, line in first}
    return lines


def ship(broker: unimq.Broker, topic: unimq.Topic, name: str, lines: dict[str, bytes], seen: Progress) -> None:
    """Send the lines of one file as they are, as the agent on a machine does."""
    with broker.producer(topic) as producer:
        for number, line in lines.items():
            producer.enqueue(line, key=name, headers={"file": name}, message_id=number)
            seen.add("shipped", 1)
        producer.flush()


class Parsing:
    """The handler of the parsing workers; several of them call it at the same time."""

    def __init__(self, findings: Findings, seen: Progress) -> None:
        self._findings = findings
        self._seen = seen

    def parse(self, delivery: unimq.Delivery) -> None:
        """Parse one line; what it raises becomes the reason of a dead letter."""
        try:
            finding = parse(str(delivery.headers["file"]), delivery.body)
        except ValueError as error:
            self._enter(delivery, str(error))
            raise
        self._enter(delivery, finding)

    def _enter(self, delivery: unimq.Delivery, finding: Parsed | str) -> None:
        self._seen.add("parsed", self._findings.enter(delivery, finding))


class Archive:
    """The handler of the archive, which keeps every line, good or bad; it has one worker, so nothing needs a lock."""

    def __init__(self, seen: Progress) -> None:
        self.lines: dict[str, bytes] = {}
        self._seen = seen

    def keep(self, batch: list[unimq.Delivery]) -> None:
        """Keep a batch of lines, some of which may have come before."""
        before = len(self.lines)
        self.lines |= {delivery.id: delivery.body for delivery in batch}
        self._seen.add("archived", len(self.lines) - before)


def read_dead_letters(
    broker: unimq.Broker, queue: unimq.Queue, number: int, patience: float
) -> dict[str, tuple[bytes, str]]:
    """Read so many dead letters; return line and reason of each by the id of the line."""
    dead: dict[str, tuple[bytes, str]] = {}
    with broker.consumer(queue, prefetch=PREFETCH) as consumer:
        while len(dead) < number and (batch := consumer.receive(BATCH, timeout=patience)):
            dead |= {each.id: (each.body, str(each.headers["unimq-dead-error"])) for each in batch}
            consumer.ack(batch)
        consumer.settle()
    return dead


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument(
        "--lines", type=positive, default=1000, help="at most so many of each file (default: %(default)s, all: 4328)"
    )
    parser.add_argument("--workers", type=positive, default=4, help="handlers at a time (default: %(default)s)")
    options = parser.parse_args()
    files = read_lines(options.lines)
    lines = {number: line for each in files.values() for number, line in each.items()}

    topic = unimq.Topic(own_name("logs"))
    parsing = topic.subscription("parsing")
    archiving = topic.subscription("archive", dead_letter=False)
    findings = Findings()
    totals = {"shipped": len(lines), "parsed": len(lines), "archived": len(lines)}

    # A line that no rule understands will not be understood at the next attempt either.
    retry = unimq.Retry(never=(ValueError,))

    with (
        unimq.connect(options.url) as broker,
        declared(broker, topic, parsing, archiving),
        progress(totals) as seen,
        ThreadPoolExecutor(2 + len(files)) as threads,
        broker.consumer(parsing, prefetch=PREFETCH) as parsers,
        broker.consumer(archiving, prefetch=PREFETCH) as archivist,
    ):
        handler, archive = Parsing(findings, seen), Archive(seen)
        started = time.monotonic()
        running = [
            threads.submit(parsers.run, handler.parse, concurrency=options.workers, retry=retry),
            threads.submit(archivist.run, archive.keep, batch=BATCH),
        ]
        try:
            for shipping in [threads.submit(ship, broker, topic, *file, seen) for file in files.items()]:
                shipping.result()
            seen.wait("parsed", len(lines), running, options.patience)
            seen.wait("archived", len(lines), running, options.patience)
        finally:
            parsers.stop()
            archivist.stop()
            # Before the consumers are closed, which would take from the handlers what they have in hand.
            wait(running)
        for thread in running:
            thread.result()
        elapsed = time.monotonic() - started
        dead = read_dead_letters(broker, dead_letters_of(parsing), len(findings.refused), options.patience)
        backend = broker.capabilities.backend

    events = Counter(event for event, _ in findings.parsed.values())
    components = Counter(component for _, component in findings.parsed.values())
    print(f"{len(lines)} lines of {len(files)} files, {options.workers} workers, {backend}: {elapsed:.2f} s")
    print_table("event", events)
    print_table("component", components)
    print_table("dead letter", Counter(reason for _, reason in dead.values()))

    archived = archive.lines
    parsed, refused = expected(files)
    return reconciled(
        [
            ("lines parsed", len(parsed), len(findings.parsed)),
            ("lines parsed wrongly", 0, len(parsed.items() ^ findings.parsed.items())),
            ("dead letters", len(refused), len(dead)),
            ("dead letters with a wrong line or reason", 0, len(refused.items() ^ dead.items())),
            ("lines that came twice as if new", 0, findings.duplicates),
            ("lines archived", len(lines), len(archived)),
            ("lines archived wrongly", 0, len(lines.items() ^ archived.items())),
        ],
        f"{len(lines)} lines in = {len(findings.parsed)} parsed + {len(dead)} dead-lettered = {len(archived)} archived"
        f" ({findings.redelivered} redeliveries recognised)",
    )


def expected(files: dict[str, dict[str, bytes]]) -> tuple[dict[str, Parsed], dict[str, tuple[bytes, str]]]:
    """Return what must become of the lines, without any broker: what good ones say, reasons of bad ones."""
    parsed: dict[str, Parsed] = {}
    refused: dict[str, tuple[bytes, str]] = {}
    for name, lines in files.items():
        for number, line in lines.items():
            try:
                parsed[number] = parse(name, line)
            except ValueError as error:
                refused[number] = (line, str(error))
    return parsed, refused


def print_table(head: str, lines: Counter[str]) -> None:
    """Print the most frequent ones."""
    print(f"  {head:<34}   lines")
    for name, number in sorted(lines.items(), key=lambda item: (-item[1], item[0]))[:8]:
        print(f"  {name:<34} {number:>7}")


if __name__ == "__main__":
    run(main)
