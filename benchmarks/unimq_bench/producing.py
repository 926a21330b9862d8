"""The role of a producer: open loop by a schedule, or closed loop by the window of its row."""

import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

from unimq_bench.bodies import DATA, PROBE, WARM_UP, Maker, head_of
from unimq_bench.ledger import write_files
from unimq_bench.pacing import intended, wait_until
from unimq_bench.progress import Progress
from unimq_bench.rows.protocol import Connection, NotTaken, Sender
from unimq_bench.tasks import Report, Sending

_BEHIND = 1.0
"""A schedule that cannot be kept ends after so many times its length more; the rest was not offered."""
_LARGEST_PREBUILT = 64 * 1024 * 1024


def produce(connection: Connection, task: Sending, progress: Progress) -> Report:
    """Send, wait for every outcome, and say what became of it."""
    maker = Maker(task.run, task.producer, task.size, task.content)
    sender = connection.open_sender(task.queue, window=task.window)
    report = Report()
    try:
        blocked, lateness = array("q"), array("q")
        prebuilt = None
        if task.prebuilt:
            prebuilt = _prebuilt(maker, task)
            # The first confirmation of a new connection may take half a second, which is no part of any rate.
            _probing(sender, maker)()
        start = progress.wait_for_start(_probing(sender, maker) if task.probing else None)
        cpu = time.process_time()
        # What nobody scheduled begins when it begins, not when the word to start was given.
        report.started = start if task.rate else time.monotonic_ns()
        try:
            if prebuilt is not None:
                for body in prebuilt:
                    sender.send(body)
                report.sent = len(prebuilt)
                progress.sent += report.sent
            elif task.rate:
                _by_schedule(sender, maker, task, start, report, progress, blocked, lateness)
            else:
                _by_window(sender, maker, task, report.started, report, progress, blocked)
            report.sending_ended = time.monotonic_ns()
            failed = sender.flush()
        except Exception as error:
            if prebuilt is not None:
                raise
            # A broker that dies must not take the accounting with it. Nothing is known of what was sent.
            report.fail("sending", error)
            report.sending_ended = time.monotonic_ns()
            report.failed = [(maker.producer, number) for number in range(task.first, task.first + report.sent)]
            failed = ()
        report.ended = time.monotonic_ns()
        report.cpu = time.process_time() - cpu
        report.counted = report.sent
        for body in failed:
            head = head_of(body)
            if head is not None:
                report.failed.append((head.producer, head.sequence))
    finally:
        report.close(sender)
    if task.folder:
        files = {"blocked": blocked.tobytes(), "lateness": lateness.tobytes()}
        report.files = write_files(Path(task.folder), f"sending-{task.run}-{task.producer}", files)
    return report


def _probing(sender: Sender, maker: Maker) -> Callable[[], None]:
    def send() -> None:
        now = time.monotonic_ns()
        sender.send(maker.body(0, now, now, PROBE))
        sender.flush()

    return send


def _prebuilt(maker: Maker, task: Sending) -> list[bytes]:
    if task.count * task.size > _LARGEST_PREBUILT:
        raise ValueError(f"{task.count} messages of {task.size} bytes are too many to be made before they are sent")
    now = time.monotonic_ns()
    return [maker.body(number, now, now) for number in range(task.first, task.first + task.count)]


def _by_schedule(
    sender: Sender,
    maker: Maker,
    task: Sending,
    start: int,
    report: Report,
    progress: Progress,
    blocked: "array[int]",
    lateness: "array[int]",
) -> None:
    """Send each message at its moment. One that is late, because `send` blocked, does not shift those that follow."""
    clock = time.monotonic_ns
    timed_from = start + int(task.warm_up * 1e9)
    give_up = start + int(task.seconds * (1 + _BEHIND) * 1e9)
    free = start
    for number in range(task.count or int(task.rate * task.seconds)):
        moment = intended(start, number, task.rate)
        now = clock()
        if now < moment:
            now = wait_until(moment)
        elif now > give_up or progress.is_stopped:
            break
        kind = DATA if moment >= timed_from else WARM_UP
        try:
            sender.send(maker.body(task.first + number, moment, now, kind))
        except NotTaken:
            report.not_taken += 1
            # It counts as sent and failed: were it to arrive, it would be seen as delivered without an ack.
            report.failed.append((maker.producer, task.first + number))
        done = clock()
        if kind == DATA:
            # The generator's own fault only: while `send` blocked, the row kept it.
            lateness.append(now - max(moment, free))
            blocked.append(done - now)
        free = done
        report.sent += 1
        progress.sent += 1


def _by_window(
    sender: Sender,
    maker: Maker,
    task: Sending,
    start: int,
    report: Report,
    progress: Progress,
    blocked: "array[int]",
) -> None:
    """Send as fast as the row takes it. The intended moment is the actual one: nothing else was intended."""
    clock = time.monotonic_ns
    timed_from = start + int(task.warm_up * 1e9)
    deadline = start + int(task.seconds * 1e9) if task.seconds else 0
    for number in _numbers(task):
        now = clock()
        if (deadline and now >= deadline) or progress.is_stopped:
            break
        kind = DATA if now >= timed_from else WARM_UP
        try:
            sender.send(maker.body(number, now, now, kind))
        except NotTaken:
            report.not_taken += 1
            report.failed.append((maker.producer, number))
        if kind == DATA:
            blocked.append(clock() - now)
        report.sent += 1
        progress.sent += 1


def _numbers(task: Sending) -> Iterator[int]:
    number = task.first
    while not task.count or number < task.first + task.count:
        yield number
        number += 1
