"""What documents say of a benchmark: made from a result, so that no figure in them is written by hand.

    python -m unimq_bench.tables docs/benchmark-sample.json README.md docs/benchmark.md

A document has its figures between ``<!-- benchmark:begin brief -->`` (or ``full``) and ``<!-- benchmark:end -->``.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from unimq_bench import notation, results
from unimq_bench.gates import FOREIGN_CORES
from unimq_bench.results import Figure, Ratio, Result, Row

_BLOCK = re.compile(r"(<!-- benchmark:begin (\w+) -->\n).*?(<!-- benchmark:end -->)", re.DOTALL)
_METRICS = ("publish time", "publish CPU", "consume time", "consume CPU")


def _milliseconds(value: float) -> str:
    return notation.duration(value * 1e6)


_FIGURES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("overhead", "publish rate", notation.rate),
    ("overhead", "consume rate", notation.rate),
    ("e2e_low", "response p50", _milliseconds),
    ("e2e_low", "response p99", _milliseconds),
)


def with_figures(document: str, result: Result) -> str:
    """Return a document with its blocks made anew.

    Raises:
        ValueError: it has no block, or one of an unknown kind.

    """
    kinds: dict[str, Callable[[Result], Iterator[str]]] = {"brief": _brief, "full": _full}

    def made(found: re.Match[str]) -> str:
        if found[2] not in kinds:
            raise ValueError(f"a block of figures is one of {', '.join(kinds)}, not {found[2]!r}")
        return found[1] + "\n".join(kinds[found[2]](result)) + "\n" + found[3]

    text, count = _BLOCK.subn(made, document)
    if not count:
        raise ValueError("no <!-- benchmark:begin brief --> … <!-- benchmark:end --> is in the document")
    return text


def _brief(result: Result) -> Iterator[str]:
    """Yield what a reader of the README wants: the overhead, and what was reached."""
    yield (
        "What a message takes with `unimq`, as a multiple of what it takes with another client, with 95 % intervals;"
        " below 1 `unimq` takes less:"
    )
    yield ""
    yield from _table(("on", "against", *_METRICS), _overheads(result))
    yield ""
    if any(result.row(ratio.b).library == "simplequeue" for ratio in result.ratios):
        yield "`queue.SimpleQueue` hands over a reference: it has no acks, no leases, no limits and no other process."
        yield ""
    if requests := list(_requests(result)):
        yield "What a service bills for a message, sent, received and deleted, in the workload that compares both:"
        yield ""
        yield from _table(("on", "against", "requests", "of `unimq`", "ratio"), iter(requests))
        yield ""
    yield "What was reached, with a window of 1000 unconfirmed messages, and the latency at a modest rate:"
    yield ""
    heads = ("", "a confirm means", "publish", "consume", "p50", "p99")
    yield from _table(heads, (cells for row in result.rows if (cells := _reached(result, row))))
    yield ""
    yield from _said(result)


def _full(result: Result) -> Iterator[str]:
    """Yield every ratio with its noise floor."""
    yield from _said(result)
    yield ""
    heads = ("on", "against", "in", "of", "median", "95 %", "noise floor", "verdict")
    yield from _table(heads, (_ratio_row(result, ratio) for ratio in result.ratios))


def _said(result: Result) -> Iterator[str]:
    machine, counts = result.environment, [run.accounting for run in result.runs]
    invalid = sum(1 for run in result.runs if run.invalid)
    foreign = sum(run.foreign_cpu for run in result.runs) / max(1, len(result.runs))
    duplicated = sum(each.duplicated for each in counts)
    excused = sum(run.accounting.duplicated for run in result.runs if run.workload == "fault")
    brokers = {row.backend: row.broker_settings.get("version", "") for row in result.rows}
    emulators = {row.backend: row.emulated for row in result.rows if row.emulated}
    named = [f"{emulators.get(each, each)} {version}".strip() for each, version in brokers.items() if each != "memory"]
    where = f"{machine.cores} cores ({machine.cpu}{', a virtual machine' if machine.virtual else ''})"
    yield (
        f"Measured on {result.started_at[:10]} in {max(1, round(result.seconds / 60))} minutes"
        f" (profile {result.profile}), on {where} that client and broker share,"
    )
    yield f"{machine.implementation} {machine.python}{', ' + ', '.join(named) if named else ''}."
    yield (
        f"{sum(each.sent for each in counts):,} messages were sent and {sum(each.lost for each in counts):,} lost;"
        f" {duplicated:,} came twice, {excused:,} of them in the workload that resets connections."
    )
    yield f"{invalid} of {len(result.runs)} runs are invalid; others used {foreign:.2f} cores on average."
    if max((run.foreign_cpu for run in result.runs), default=0.0) > FOREIGN_CORES:
        yield (
            "The load of others makes rates too low and latencies too high; it meets both sides of a ratio alike, slice"
            " by slice."
        )
    if any(row.emulated for row in result.rows):
        yield "An emulator shows what the client library takes and nothing of the service; nothing on it is ranked."
    if any(not figure.ranked for figure in result.figures):
        yield "What is in parentheses is not ranked: the page says why."


def _overheads(result: Result) -> Iterator[tuple[str, ...]]:
    pairs = dict.fromkeys((ratio.a, ratio.b) for ratio in result.ratios if ratio.a != ratio.b)
    for a, b in pairs:
        if result.row(a).kind == "unimq" and result.row(b).kind != "unimq":
            # The raw client is in two workloads; that with more processes counts.
            of_pair = sorted((ratio for ratio in result.ratios if (ratio.a, ratio.b) == (a, b)), key=_processes)
            found = {ratio.metric: ratio for ratio in of_pair}
            other = result.row(b)
            unequal = "" if other.durability == result.row(a).durability else f" ({other.durability})"
            yield (other.backend, other.library + unequal, *(_ratio(found.get(metric)) for metric in _METRICS))


def _requests(result: Result) -> Iterator[tuple[str, ...]]:
    """Yield the counted requests of each pair of rows in its workload, as far as both were counted."""
    counted = {
        (figure.row, figure.point.get("of"), figure.point.get("size")): figure.value
        for figure in result.figures
        if (figure.workload, figure.metric) == ("cost", "billed requests")
    }
    # The raw client is in two workloads, here as above.
    compared = sorted((ratio for ratio in result.ratios if ratio.a != ratio.b), key=_processes)
    for (a, b), workload in {(ratio.a, ratio.b): ratio.workload for ratio in compared}.items():
        for (name, of, size), theirs in counted.items():
            ours = counted.get((a, of, size))
            if (name, of) == (b, workload) and ours is not None and result.row(a).kind == "unimq":
                other = result.row(b)
                yield (other.backend, other.library, f"{theirs:.2f}", f"{ours:.2f}", f"{ours / theirs:.2f}")


def _processes(ratio: Ratio) -> int:
    return ratio.processes


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return "–"
    verdict = {"slower": "more", "faster": "less", "no difference": "the same"}.get(ratio.verdict, "cannot tell")
    if any(word in ratio.why for word in ("durability differs", "emulator")):
        verdict = "not ranked"
    return f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f}) {verdict}"


def _ratio_row(result: Result, ratio: Ratio) -> tuple[str, ...]:
    interval, floor = (ratio.low, ratio.high), (ratio.floor_low, ratio.floor_high)
    written = [f"{low:.2f} … {high:.2f}" for low, high in (interval, floor)]
    rows = (result.row(ratio.a).backend, result.row(ratio.b).library)
    return (*rows, ratio.workload, ratio.metric, f"{ratio.median:.2f}", *written, ratio.verdict)


def _reached(result: Result, row: Row) -> tuple[str, ...]:
    """Return a row's figures; those that may not be ranked are in parentheses. Empty if there are none."""
    found = {(figure.workload, figure.metric): figure for figure in result.figures if figure.row == row.name}
    cells = [
        _figure(found.get((workload, metric)) or found.get(("peers", metric)), written)
        for workload, metric, written in _FIGURES
    ]
    return (row.name, row.durability, *cells) if any(each != "–" for each in cells) else ()


def _figure(figure: Figure | None, written: Callable[[float], str]) -> str:
    if figure is None:
        return "–"
    return written(figure.value) if figure.ranked else f"({written(figure.value)})"


def _table(heads: Sequence[str], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    for cells in (heads, ["---"] * len(heads), *rows):
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Renew the documents."""
    parser = argparse.ArgumentParser(prog="python -m unimq_bench.tables", description="Renew figures in documents.")
    parser.add_argument("result", type=Path, help="a result by --out")
    parser.add_argument("documents", type=Path, nargs="+", help="documents with the markers in them")
    given = parser.parse_args()
    try:
        result = results.read(given.result)
        for document in given.documents:
            document.write_text(with_figures(document.read_text(encoding="utf-8"), result), encoding="utf-8")
    except (OSError, ValueError, results.ResultError) as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
