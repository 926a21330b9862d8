"""Sending and receiving from the command line."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec

from unimq._cli._output import UsageError, body_line, fail, message_object, write_json, write_line
from unimq._destinations import Queue, Subscription, Target, Topic, queue_of
from unimq._errors import UnimqError
from unimq._message import Message
from unimq._receipt import Receipt
from unimq._sync import Broker, Producer

if TYPE_CHECKING:
    from io import BufferedReader

_CHUNK = 256 * 1024
"""Bytes of input that are read, and whose lines are sent together, at most."""
_PREFETCH = 100
PEEK_MAX = 100
PEEK_TIMEOUT = 5.0
"""Limits of `--peek` where none are given: what it looks at stays held until it ends."""


def as_it_is(broker: Broker, destination: Queue | Topic | Subscription) -> Queue | Topic | Subscription:
    """Accept an existing destination whatever its policies are, which a command line does not know.

    A missing one is declared, with the policies of the configuration if it has any, unless the URL says
    ``declare=false``; then opening it looks it up.
    """
    core = broker._core
    name = destination.name if isinstance(destination, Topic) else queue_of(destination).name
    known = core.configuration.destinations.get(name)
    destination = known if isinstance(known, type(destination)) else destination
    return core.declare(destination, as_is=True) if core.declares else destination


def name_of(source: Queue | Subscription) -> str:
    """Return the name by which a command is given the source."""
    return queue_of(source).name


def headers_of(items: Sequence[str]) -> dict[str, str]:
    """Return the headers given as ``NAME=VALUE``."""
    headers: dict[str, str] = {}
    for item in items:
        name, separator, value = item.partition("=")
        if not separator:
            raise UsageError(f"--header {item!r}: expected NAME=VALUE")
        if name in headers:
            raise UsageError(f"--header {name!r} is given twice")
        headers[name] = value
    return headers


class Input:
    """The messages to send: one body, or a stream of lines. Opened before any broker is asked, close it at the end."""

    def __init__(self, body: str | None, file: Path | None, *, lines: bool) -> None:
        if body is not None and (file is not None or lines):
            raise UsageError("a BODY is one message: leave out --file and --lines, or leave out BODY")
        self._opened = ExitStack()
        self.body: bytes | None = None
        self.stream = cast("BufferedReader", sys.stdin.buffer)
        if body is not None:
            # What the shell gave may be any bytes.
            self.body = os.fsencode(body)
            return
        try:
            if file is not None and str(file) != "-":
                self.stream = self._opened.enter_context(file.open("rb"))
            if file is not None and not lines:
                self.body = self.stream.read()
        except OSError as error:
            raise UsageError(f"--file {str(file)!r}: {error.strerror}") from None

    def batches(self) -> Iterator[list[bytes]]:
        """Yield the lines that are there, without their line ends, as soon as any are there."""
        pending = bytearray()
        # read1 returns what a pipe or terminal has, so that a slow producer's lines are not kept back.
        while chunk := self.stream.read1(_CHUNK):
            pending += chunk
            if b"\n" in chunk:
                *lines, pending = pending.split(b"\n")
                yield [bytes(line) for line in lines]
        if pending:
            yield [bytes(pending)]

    def close(self) -> None:
        """Close the file."""
        self._opened.close()


def send(broker: Broker, target: Target, given: Input, template: Message, *, timeout: float, json: bool) -> int:
    """Send everything and print the receipts; the messages have all but the body of `template`."""
    in_force = as_it_is(broker, target)
    with broker.producer(cast("Target", in_force), timeout=timeout) as producer:
        if given.body is None:
            return _send_lines(producer, given, template, json=json)
        _write_receipt(producer.send(msgspec.structs.replace(template, body=given.body)), {}, json=json)
    return 0


def _send_lines(producer: Producer, given: Input, template: Message, *, json: bool) -> int:
    sent = 0
    for lines in given.batches():
        outcomes = producer.send_many(
            (msgspec.structs.replace(template, body=line) for line in lines), return_errors=True
        )
        failed = 0
        for number, outcome in enumerate(outcomes, sent + 1):
            if isinstance(outcome, Receipt):
                _write_receipt(outcome, {"line": number}, json=json)
            else:
                failed += 1
                fail(f"line {number}: {type(outcome).__name__}: {outcome}")
        sent += len(lines)
        if failed:
            raise UnimqError(f"{failed} of {len(lines)} lines failed; nothing after line {sent} was sent")
    return 0


def _write_receipt(receipt: Receipt, line: dict[str, int], *, json: bool) -> None:
    if json:
        write_json({**line, "message_id": receipt.message_id, "position": receipt.position})
    else:
        position = "" if receipt.position is None else f" {receipt.position}"
        write_line(f"{receipt.message_id}{position}".encode())


def receive(
    broker: Broker, source: Queue | Subscription, *, limit: int | None, timeout: float | None, peek: bool, json: bool
) -> None:
    """Print messages and ack each after it was printed, so that none is lost when the output breaks."""
    if peek:
        limit = PEEK_MAX if limit is None else limit
        timeout = PEEK_TIMEOUT if timeout is None else timeout
    # No more than wanted: what is fetched and not printed is delivered once more, to somebody else.
    prefetch = _PREFETCH if limit is None else limit if peek else min(limit, _PREFETCH)
    in_force = cast("Queue | Subscription", as_it_is(broker, source))
    with broker.consumer(in_force, prefetch=prefetch) as consumer:
        printed = 0
        while limit is None or printed < limit:
            batch = consumer.receive(prefetch if limit is None else min(prefetch, limit - printed), timeout)
            if not batch:
                break
            for delivery in batch:
                if json:
                    write_json(message_object(delivery))
                else:
                    write_line(body_line(delivery))
                if not peek:
                    delivery.ack()
            printed += len(batch)
        consumer.settle()
