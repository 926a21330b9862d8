"""The frame of every example: its arguments, destinations of its own, and an exit code that says whether it adds up."""

import argparse
import contextlib
import os
import secrets
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import unimq

Destination = unimq.Queue | unimq.Topic | unimq.Subscription
DATA = Path(__file__).parent / "data"
CONFIGURATION = Path(__file__).with_name("unimq.toml")


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with what all examples understand, and have the brokers named in ``examples/unimq.toml``."""
    os.environ.setdefault("UNIMQ_CONFIG", str(CONFIGURATION))
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument(
        "--url",
        help="broker: amqp://…, kafka://…, sqs://…, or a name from unimq.toml"
        " (default: UNIMQ_URL, UNIMQ_BROKER, the default in unimq.toml)",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="stop waiting when nothing has arrived for so long (default: %(default)g)",
    )
    return parser


def positive(text: str) -> int:
    """Return a command-line number of at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def own_name(name: str) -> str:
    """Return a name that no other run uses, so that nothing of an earlier run on a durable broker is counted."""
    return f"{name}-{secrets.token_hex(4)}"


@contextlib.contextmanager
def declared(broker: unimq.Broker, *destinations: Destination) -> Generator[None]:
    """Declare destinations, and leave nothing of them behind on the broker."""
    require_all(broker.capabilities)
    try:
        broker.declare(*destinations)
        yield
    finally:
        broker.delete(*to_delete(destinations))


def require_all(capabilities: unimq.Capabilities) -> None:
    """Raise `unimq.Unsupported`, which says why, on a broker without topics or dead letters."""
    capabilities.require("topics")
    capabilities.require("dead_letter")


def to_delete(destinations: Sequence[Destination]) -> list[Destination]:
    """Return what was declared with its dead-letter queues, which unimq keeps unless they are named."""
    queues = [
        each if isinstance(each, unimq.Queue) else each.queue
        for each in destinations
        if not isinstance(each, unimq.Topic)
    ]
    return [*reversed(destinations), *(queue.dead_letters for queue in queues if queue.dead_letters)]


def dead_letters_of(source: unimq.Queue | unimq.Subscription) -> unimq.Queue:
    """Return the dead-letter queue of a source that is declared with one, as is the default."""
    queue = (source if isinstance(source, unimq.Queue) else source.queue).dead_letters
    if queue is None:
        raise ValueError(f"{source} is declared without a dead-letter queue")
    return queue


def reconciled(checks: Sequence[tuple[str, object, object]], summary: str) -> int:
    """Print each check, expected against found, then the summary; return 0 if all agree, else 1."""
    for what, expected, found in checks:
        print(f"  {'ok   ' if expected == found else 'WRONG'}  {what}: expected {expected}, found {found}")
    wrong = sum(expected != found for _, expected, found in checks)
    print(f"DOES NOT ADD UP: {wrong} of {len(checks)} checks failed. {summary}" if wrong else f"Reconciled: {summary}")
    return 1 if wrong else 0


def run(main: Callable[[], int]) -> None:
    """Run an example: exit 0 if it adds up, 1 if it does not, 2 if the broker cannot carry it, 130 after Ctrl-C."""
    code = 0
    try:
        code = main()
    except* unimq.UnimqError as errors:  # Alone, or in the group of an asyncio.TaskGroup.
        for error in errors.exceptions:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = 2
    except* KeyboardInterrupt:
        print("Interrupted; what this run had declared is deleted.", file=sys.stderr)
        code = 130
    sys.exit(code)
