"""Adds up what every producer and consumer of a run wrote down, and says what became of every message."""

from collections.abc import Sequence
from pathlib import Path

from unimq_bench.results import Accounting
from unimq_bench.tasks import Report

_SEEN = "seen-"


def account(
    producers: Sequence[tuple[int, int, Report]],
    consumers: Sequence[Report],
    *,
    dead: Sequence[Report] | None = None,
    judged: bool = True,
) -> Accounting:
    """Judge one run.

    Args:
        producers: number of the producer, its first sequence number, and its report.
        consumers: reports of everything that received from the queue.
        dead: reports of what received from the dead-letter queue, if there was to be something.
        judged: whether everything in flight was waited for; without that nothing is called lost.

    """
    seen = _added([*consumers, *(dead or ())])
    sent = failed = lost = unacked_delivered = duplicated = unknown = 0
    for producer, first, report in producers:
        deliveries = seen.pop(producer, bytearray())
        not_acked = {number for who, number in report.failed if who == producer}
        sent += report.sent
        failed += len(not_acked)
        last = first + report.sent
        for number in range(first, last):
            count = deliveries[number] if number < len(deliveries) else 0
            if not count:
                lost += number not in not_acked
            else:
                duplicated += count - 1
                unacked_delivered += number in not_acked
        # Whole numbers that nobody sent: neither before nor behind those that were.
        unknown += sum(deliveries[:first]) + sum(deliveries[last:])
    unknown += sum(sum(deliveries) for deliveries in seen.values())
    return Accounting(
        sent=sent,
        acked=sent - failed,
        failed=failed,
        received=sum(report.received for report in consumers),
        lost=lost if judged else 0,
        unacked_delivered=unacked_delivered,
        duplicated=duplicated,
        reordered=sum(report.reordered for report in consumers),
        corrupted=sum(report.corrupted for report in [*consumers, *(dead or ())]),
        unknown=unknown + sum(report.unknown for report in [*consumers, *(dead or ())]),
        dead_lettered=None if dead is None else sum(report.received for report in dead),
        redelivered_on_purpose=sum(report.nacked for report in consumers),
        judged=judged,
    )


def added(parts: Sequence[Accounting]) -> Accounting:
    """Add up the accounting of the parts of one run, each judged by itself."""
    dead = [part.dead_lettered for part in parts if part.dead_lettered is not None]
    counts = {
        name: sum(getattr(part, name) for part in parts)
        for name in Accounting.__struct_fields__
        if name not in {"dead_lettered", "judged"}
    }
    return Accounting(**counts, dead_lettered=sum(dead) if dead else None, judged=all(part.judged for part in parts))


def _added(reports: Sequence[Report]) -> dict[int, bytearray]:
    """Return, by producer, how often each of its messages was received by all together."""
    total: dict[int, bytearray] = {}
    for report in reports:
        for what, path in report.files.items():
            if not what.startswith(_SEEN):
                continue
            counts = Path(path).read_bytes()
            sums = total.setdefault(int(what.removeprefix(_SEEN)), bytearray())
            sums.extend(bytes(max(0, len(counts) - len(sums))))
            for number, count in enumerate(counts):
                if count:
                    sums[number] = min(255, sums[number] + count)
    return total
