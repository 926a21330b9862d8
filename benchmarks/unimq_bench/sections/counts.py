"""What became of every message, what it took, and which runs count for nothing."""

from collections.abc import Iterable, Iterator

from unimq_bench import notation
from unimq_bench.markup import shown
from unimq_bench.results import Accounting, Counters, Run
from unimq_bench.sections.pieces import numbers, pill, swatch, table
from unimq_bench.view import View, point_label, reasons, valid


def _by_row(view: View) -> Iterator[tuple[str, str, list[Run]]]:
    for workload in view.workloads:
        for row in view.result.rows:
            runs = view.runs(row.name, workload)
            if runs:
                yield workload, row.name, runs


def _grouped(rows: Iterable[tuple[str, str]], columns: int) -> Iterator[str]:
    """Yield table rows below a heading for each workload: (workload, row as markup)."""
    before = None
    for workload, row in rows:
        if workload != before:
            yield f'<tr class="group"><th colspan="{columns}" scope="rowgroup">{shown(workload)}</th></tr>'
        before = workload
        yield row


def accounting(view: View) -> Iterator[str]:
    """Yield the ledger."""
    rows = list(_by_row(view))
    if not rows:
        return
    yield '<section><h2 id="accounting">Accounting</h2>'
    yield (
        "<p>Every message carries its producer, its number and a digest; every run, valid or not, waits for what is in"
        " flight and is judged. <em>Lost</em>: the client said that it is stored, and it never came.</p>"
    )
    columns = (
        "Row",
        "Sent#",
        "Acked#",
        "Failed#",
        "Received#",
        "Lost#",
        "Duplicates#",
        "Reordered#",
        "Corrupted#",
        "Unknown#",
        "Not acked, came#",
        "Dead letters#",
    )
    told = ((workload, _ledger(view, name, runs)) for workload, name, runs in rows)
    yield from table(columns, _grouped(told, len(columns)))
    yield "</section>"


def _ledger(view: View, name: str, runs: list[Run]) -> str:
    counts = [run.accounting for run in runs]

    def total(field: str) -> int:
        return sum(getattr(each, field) or 0 for each in counts)

    def wrong(field: str) -> str:
        number = total(field)
        told = notation.count(number)
        return f'<td class="n">{pill(told, "bad") if number else told}</td>'

    lost = wrong("lost") if all(each.judged for each in counts) else f'<td class="n">{_unjudged(counts)}</td>'
    dead = [each.dead_lettered for each in counts if each.dead_lettered is not None]
    return (
        f'<tr><th scope="row">{swatch(view, name)}{shown(name)}</th>'
        + numbers(notation.count(total(field)) for field in ("sent", "acked", "failed", "received"))
        + lost
        + numbers(notation.count(total(field)) for field in ("duplicated", "reordered"))
        + wrong("corrupted")
        + wrong("unknown")
        + numbers((notation.count(total("unacked_delivered")), notation.count(sum(dead)) if dead else "–"))
        + "</tr>"
    )


def _unjudged(counts: list[Accounting]) -> str:
    lost = sum(each.lost for each in counts if each.judged)
    return (pill(notation.count(lost), "bad") + " " if lost else "") + pill("not all judged", "half")


def resources(view: View) -> Iterator[str]:
    """Yield CPU, requests and bytes per message."""
    rows = [(workload, name, kept) for workload, name, runs in _by_row(view) if (kept := _told(runs))]
    if not rows:
        return
    yield '<section><h2 id="resources">What a message takes</h2>'
    yield (
        "<p>Counted, not estimated: CPU of the processes on either side, requests and bytes as the client counted them."
        " CPU per message travels to other machines better than messages per second do. A dash: not told.</p>"
    )
    columns = (
        "Row",
        "Client CPU#",
        "Broker CPU#",
        "Foreign cores#",
        "Requests#",
        "Billed requests#",
        "Empty receives#",
        "Bytes sent#",
        "Bytes received#",
        "Messages a receive#",
    )
    told = ((workload, _taken(view, name, runs)) for workload, name, runs in rows)
    yield from table(columns, _grouped(told, len(columns)))
    yield "</section>"


def _told(runs: Iterable[Run]) -> list[Run]:
    """Return the valid runs of which there is anything to tell here."""
    return [run for run in valid(runs) if run.cpu_seconds or run.broker_cpu_seconds or run.counters != Counters()]


def _taken(view: View, name: str, runs: list[Run]) -> str:
    messages = sum(max(run.accounting.acked, run.accounting.received) for run in runs)

    def each(total: float | None) -> float | None:
        return None if total is None or not messages else total / messages

    def counted(field: str) -> int | None:
        found = [getattr(run.counters, field) for run in runs]
        return None if any(value is None for value in found) else sum(found)

    received = sum(run.accounting.received for run in runs)
    batches = sum(run.counters.batches for run in runs)
    brokers = [run.broker_cpu_seconds for run in runs]
    broker = None if any(value is None for value in brokers) else sum(value or 0 for value in brokers)
    client = each(sum(run.cpu_seconds for run in runs) or None)
    cells = (
        notation.duration(None if client is None else client * 1e9),
        notation.duration(None if (per := each(broker)) is None else per * 1e9),
        notation.number(max(run.foreign_cpu for run in runs)),
        notation.number(each(counted("requests"))),
        notation.number(each(counted("billed_requests"))),
        notation.count(counted("empty_receives")),
        notation.size(each(counted("bytes_sent"))),
        notation.size(each(counted("bytes_received"))),
        notation.number(received / batches if batches else None),
    )
    apart = "apart" if view.row(name).emulated else ""
    return f'<tr class="{apart}"><th scope="row">{swatch(view, name)}{shown(name)}</th>{numbers(cells)}</tr>'


def invalid(view: View) -> Iterator[str]:
    """Yield the runs that broke a gate, with their reasons, and whatever was noted of others."""
    broken = [run for run in view.result.runs if run.invalid]
    if broken:
        yield '<section><h2 id="invalid">Invalid runs</h2>'
        yield (
            "<p>Their data is kept in this page; no curve, bar or ranking uses it. Of reasons that differ only in their"
            " figures, the first is shown.</p>"
        )
        body = (
            f'<tr><th scope="row">{swatch(view, name)}{shown(name)}</th><td>{shown(workload)}</td>'
            f'<td>{shown(point_label(point))}</td><td class="n">{len(bad)} of {len(runs)}</td>'
            f'<td class="remark">{"<br>".join(shown(reason) for reason in reasons(bad))}</td></tr>'
            for workload in view.workloads
            for name in dict.fromkeys(run.row for run in broken)
            for point in view.points(workload)
            if (runs := view.runs(name, workload, point)) and (bad := [run for run in runs if run.invalid])
        )
        yield from table(("Row", "Workload", "At", "Runs#", "Why"), body)
        yield "</section>"
    notes = {(run.row, run.workload, note) for run in view.result.runs for note in run.notes}
    if notes:
        yield "<section><h3>Notes of runs</h3>"
        body = (
            f'<tr><th scope="row">{shown(row)}</th><td>{shown(workload)}</td><td>{shown(note)}</td></tr>'
            for row, workload, note in sorted(notes)
        )
        yield from table(("Row", "Workload", "Note"), body)
        yield "</section>"
