"""What makes a run invalid: its data are kept, and none of its numbers is ranked.

Each gate says in words what is wrong; a reader who does not believe the tool can look at the same data.
"""

from collections.abc import Sequence
from statistics import median

from unimq_bench.recording import count_of, percentile
from unimq_bench.results import Accounting, Row, Run

LATE_SHARE = 0.10
"""Of the reported p99 that the load generator may be late by itself."""
LATENESS_THAT_MATTERS = 0.0005
"""Seconds below which a late generator is the clock's doing: no sleep ends more exactly."""
FOREIGN_CORES = 0.2
DISTURBED = "busy with something else"
SATURATED = 0.95
"""Of a core: a client that uses more is the bottleneck itself."""
FEWEST_MESSAGES_FOR_P99 = 10_000
FEWEST_BATCHES_FOR_P99 = 100
DRIFT = 0.25
"""Between the halves of a run beyond which it was not stationary."""
FEWEST_SLICES_FOR_DRIFT = 6
"""Of one metric; fewer differ by chance."""


def broken(
    run: Run, *, latencies: bool, foreign_cores: float = FOREIGN_CORES, excused: bool = False
) -> tuple[str, ...]:
    """Return the reasons why a run is invalid; none for a valid one.

    Args:
        run: with everything that was measured.
        latencies: whether percentiles of it are reported.
        foreign_cores: cores that may have been busy with something else.
        excused: duplicates may occur, because something was cut, closed or given back on purpose.

    """
    found = [*_coverage(run), *faults(run.accounting, excused=excused)]
    if run.foreign_cpu > foreign_cores:
        found.append(f"{run.foreign_cpu:.2f} cores were {DISTURBED}, on average; {foreign_cores:g} are allowed")
    if latencies:
        found += _percentiles(run)
    if run.foreign_cpu <= foreign_cores:
        # Else the cause is known, and is told above.
        found += _drift(run)
    return tuple(found)


def _coverage(run: Run) -> list[str]:
    counts = run.accounting
    if not counts.sent:
        return ["nothing was sent: the run proves nothing"]
    found: list[str] = []
    if not counts.acked:
        found.append("no send was confirmed: the run proves nothing")
    if counts.judged and not counts.received:
        found.append("nothing was received: the run proves nothing")
    return found


def faults(counts: Accounting, *, excused: bool = False) -> list[str]:
    """Return what the client or the broker did wrong with messages: never measured again, always told."""
    found: list[str] = []
    if counts.lost:
        found.append(f"{counts.lost} of {counts.acked} acked messages were lost")
    if counts.corrupted:
        found.append(f"{counts.corrupted} messages were corrupted")
    if counts.unknown:
        found.append(f"{counts.unknown} messages came that nobody sent in this run")
    if counts.duplicated and not excused:
        found.append(f"{counts.duplicated} deliveries were duplicates without a cause")
    return found


def _percentiles(run: Run) -> list[str]:
    response = run.histograms.get("response")
    if response is None:
        return ["no latency was recorded"]
    found: list[str] = []
    messages, batches = count_of(response), run.counters.batches
    if messages < FEWEST_MESSAGES_FOR_P99:
        found.append(f"{messages} messages are too few for a p99, which needs {FEWEST_MESSAGES_FOR_P99}")
    if batches < FEWEST_BATCHES_FOR_P99:
        found.append(f"{batches} batches are too few for a p99, which needs {FEWEST_BATCHES_FOR_P99}")
    lateness = run.histograms.get("lateness")
    if lateness is not None:
        late, p99 = percentile(lateness, 99), percentile(response, 99)
        if late > max(LATE_SHARE * p99, LATENESS_THAT_MATTERS):
            found.append(
                f"the load generator was late: p99 {late * 1e3:.3g} ms, more than {LATE_SHARE:.0%} of the response p99"
                f" of {p99 * 1e3:.3g} ms"
            )
    return found


def _drift(run: Run) -> list[str]:
    found: list[str] = []
    for metric in dict.fromkeys(part.metric for part in run.slices):
        rates = [part.messages / part.seconds for part in run.slices if part.metric == metric and part.seconds > 0]
        half = len(rates) // 2
        if len(rates) < FEWEST_SLICES_FOR_DRIFT:
            continue
        change = median(rates[half:]) / median(rates[:half]) - 1
        if abs(change) > DRIFT:
            found.append(f"{metric}: the second half was {change:+.0%} against the first, the run was not stationary")
    return found


def bottleneck(run: Run, processes: int) -> str | None:
    """Return a note if the client was the bottleneck: then the figure is a lower bound of the broker's."""
    if run.seconds <= 0 or processes < 1:
        return None
    cores = run.cpu_seconds / run.seconds / processes
    if cores < SATURATED:
        return None
    return f"the client was the bottleneck: {cores:.2f} cores for each process; the broker can do more"


def unequal(rows: Sequence[Row]) -> str | None:
    """Return why rows must not be ranked against each other, or `None` if they may."""
    kinds = {row.durability for row in rows}
    if len(kinds) > 1:
        told = ", ".join(f"{row.name}: {row.durability}" for row in rows)
        return f"their durability differs ({told})"
    if any(row.emulated for row in rows):
        return "an emulator answers, which measures the client library alone"
    if len({row.in_process for row in rows}) > 1:
        return "some ran in one process and some over a network"
    return None
