"""The role of a consumer: receive, ack, write down."""

import time
from pathlib import Path
from typing import cast

from unimq_bench.bodies import PROBE, head_of
from unimq_bench.ledger import Ledger
from unimq_bench.progress import Progress
from unimq_bench.rows.protocol import Batch, Connection, Receiver, Redelivering
from unimq_bench.tasks import Receiving, Report

_POLL = 0.05
"""Seconds of an empty receive, after which the role looks whether it is to stop."""


def consume(connection: Connection, task: Receiving, progress: Progress, name: str) -> Report:
    """Receive until there is nothing more to expect, and say what came."""
    receiver = connection.open_receiver(task.queue, prefetch=task.prefetch)
    ledger = Ledger(task.run)
    report = Report()
    try:
        if task.deferred:
            _drain(receiver, task, ledger, report, progress)
        else:
            receiver = _listening(connection, receiver, task, ledger, report, progress)
    finally:
        report.close(receiver)
    report.received = ledger.received
    report.reordered = ledger.reordered
    report.corrupted = ledger.corrupted
    report.unknown = ledger.unknown
    if task.folder:
        report.files = ledger.write(Path(task.folder), f"receiving-{task.run}-{name}")
    return report


def _drain(receiver: Receiver, task: Receiving, ledger: Ledger, report: Report, progress: Progress) -> None:
    """Take `expected` messages that are there, as fast as the row gives them; look at them afterwards.

    The clock starts when the first batch is there, which does not count: joining is not draining.
    """
    progress.wait_for_start()
    clock, at_most = time.monotonic_ns, task.at_most
    receive, ack = receiver.receive, receiver.ack
    kept: list[Batch] = []
    cpu = 0.0
    left = task.expected
    last = clock()
    while left > 0 and not progress.is_stopped:
        batch = receive(at_most, _POLL)
        count = len(batch.bodies)
        if not count:
            if clock() - last > task.patience * 1e9:
                report.errors.append(f"{left} of {task.expected} messages did not come within {task.patience:g} s")
                break
            continue
        last = clock()
        if not report.started:
            report.started = last
            cpu = time.process_time()
            report.counted = -count
        ack(batch)
        left -= count
        report.batches += 1
        kept.append(batch)
        progress.received += count
    receiver.settle()
    # Nothing is waited for when the last message is in, so the patience at the end of a loss is not counted as work.
    report.ended = clock() if left <= 0 else last
    report.cpu = time.process_time() - cpu
    report.counted += task.expected - max(left, 0)
    report.last = last
    for batch in kept:
        report.largest = max(report.largest, len(batch.bodies))
        ledger.take(batch.bodies, last, timed=False)


def _listening(
    connection: Connection,
    receiver: Receiver,
    task: Receiving,
    ledger: Ledger,
    report: Report,
    progress: Progress,
) -> Receiver:
    """Listen, and tell a failure in the report: a broker that dies must not take the accounting with it."""
    try:
        return _listen(connection, receiver, task, ledger, report, progress)
    except Exception as error:  # noqa: BLE001 - told by the report, whatever it is
        report.fail("receiving", error)
        report.ended = report.last = time.monotonic_ns()
        return receiver


def _listen(
    connection: Connection,
    receiver: Receiver,
    task: Receiving,
    ledger: Ledger,
    report: Report,
    progress: Progress,
) -> Receiver:
    """Receive what comes, until told to stop; return the receiver, which may have become another one.

    It begins at once, and joins by the probes that are sent before the start.
    """
    clock = time.monotonic_ns
    pause_at, reopen_at = int(task.pause_at * 1e9) if task.pause else 0, int(task.reopen_at * 1e9)
    cpu = time.process_time()
    report.started = last = clock()
    progress.ready.set()
    if task.waits:
        report.started = last = progress.wait_for_start()
    while not progress.is_stopped:
        batch = receiver.receive(task.at_most, _POLL)
        now = clock()
        since = now - progress.start if progress.start else -1
        if pause_at and since >= pause_at:
            report.events.append((now, "consumers stand still"))
            progress.stopped.wait(task.pause)
            report.events.append((clock(), "consumers go on"))
            pause_at = 0
            # What was received before is dealt with afterwards, as in an application that stood still.
            now = clock()
        if not batch.bodies:
            if task.expected and ledger.received >= task.expected:
                break
            if task.expected and now - last > task.patience * 1e9:
                break
            continue
        if reopen_at and since >= reopen_at:
            report.events.append((now, f"consumer closed with {len(batch.bodies)} unsettled"))
            receiver.close()
            receiver = connection.open_receiver(task.queue, prefetch=task.prefetch)
            report.events.append((clock(), "consumer opened"))
            reopen_at = 0
            continue
        last = now
        report.batches += 1
        report.largest = max(report.largest, len(batch.bodies))
        if task.nack_every or task.reject_every:
            _settle_each(receiver, batch, task, ledger, report, now)
        else:
            ledger.take(batch.bodies, now)
            receiver.ack(batch)
        progress.received = ledger.received
        progress.note(ledger.response)
        if ledger.probes and not progress.joined:
            progress.joined = now
    receiver.settle()
    report.ended = clock()
    report.cpu = time.process_time() - cpu
    report.counted = ledger.received
    report.last = last
    return receiver


def _settle_each(receiver: Receiver, batch: Batch, task: Receiving, ledger: Ledger, report: Report, now: int) -> None:
    """Give some back on their first delivery and dead-letter some; what is given back is not written down yet."""
    nacked: list[int] = []
    rejected: list[int] = []
    kept: list[bytes] = []
    for index, body in enumerate(batch.bodies):
        head = head_of(body)
        number = -1 if head is None or head.run != task.run or head.kind == PROBE else head.sequence
        key = (0 if head is None else head.producer, number)
        if number >= 0 and task.reject_every and number % task.reject_every == 1:
            rejected.append(index)
            report.rejected += 1
        elif number >= 0 and task.nack_every and number % task.nack_every == 0 and key not in ledger.given_back:
            nacked.append(index)
            ledger.given_back.add(key)
            report.nacked += 1
        else:
            kept.append(body)
    ledger.take(kept, now)
    cast("Redelivering", receiver).settle_each(batch, nacked, rejected)
