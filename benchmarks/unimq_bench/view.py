"""A result as its readers ask for it: which rows stand together, what they are called, which runs count."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from unimq_bench import notation
from unimq_bench.results import Result, Row, Run

Point = dict[str, int | float | str]
Key = tuple[tuple[str, int | float | str], ...]
"""A point as something to look up by."""

_FIGURES = re.compile(r"[+-]?\d+(?:[.,]\d+)*")
_OURS = "c0"
_RAW = ("c1", "c2")
_PEERS = ("c3", "c4", "c5", "c6", "c7")


def key_of(point: Mapping[str, int | float | str]) -> Key:
    """Return what is equal for equal points."""
    return tuple(sorted(point.items()))


@dataclass(frozen=True, slots=True)
class View:
    """Looks things up in a result; made once for a page."""

    result: Result
    rows: dict[str, Row]
    colours: dict[str, str]
    """Of each library, the same in every chart."""
    _runs: dict[tuple[str, str, Key], list[Run]] = field(default_factory=dict[tuple[str, str, Key], list[Run]])

    @property
    def backends(self) -> list[str]:
        """Backends in the order in which their rows came."""
        return list(dict.fromkeys(row.backend for row in self.result.rows))

    @property
    def workloads(self) -> list[str]:
        """Workloads that were asked for, and any other that there is something of."""
        found = (*self.result.workloads, *(run.workload for run in self.result.runs))
        found += tuple(figure.workload for figure in self.result.figures)
        return list(dict.fromkeys(found + tuple(ratio.workload for ratio in self.result.ratios)))

    def row(self, name: str) -> Row:
        """Return a row; one that the document only mentions is a row of which nothing is known."""
        return self.rows.get(name) or Row(name=name, library=name, kind="raw", backend="")

    def colour(self, name: str) -> str:
        """Return the class of a row's colour."""
        return self.colours.get(self.row(name).library, "c2")

    def label(self, name: str) -> str:
        """Return what a row is called below a heading that names its backend."""
        row = self.row(name)
        apart = row.in_process and not self._is_within(row.backend)
        return f"{row.library} (in one process)" if apart else row.library

    def heading(self, backend: str) -> str:
        """Return the backend's name, with what keeps its rows from being ranked with others."""
        emulators = {row.emulated for row in self.result.rows if row.backend == backend and row.emulated}
        if emulators:
            return f"{backend} (emulated by {' and '.join(sorted(emulators))}, not ranked)"
        return f"{backend} (in one process)" if self._is_within(backend) else backend

    def _is_within(self, backend: str) -> bool:
        return all(row.in_process for row in self.result.rows if row.backend == backend)

    def runs(self, row: str, workload: str, point: Mapping[str, int | float | str] | None = None) -> list[Run]:
        """Return the runs of a row in a workload, at one point or at all."""
        if point is not None:
            return self._runs.get((row, workload, key_of(point)), [])
        return [run for (of, at, _), runs in self._runs.items() if of == row and at == workload for run in runs]

    def points(self, workload: str) -> list[Point]:
        """Return the points of a workload that there is something of, in their order."""
        found: dict[Key, Point] = {}
        at = [(run.workload, run.point) for run in self.result.runs]
        at += [(figure.workload, figure.point) for figure in self.result.figures]
        for name, point in at:
            if name == workload:
                found.setdefault(key_of(point), dict(point))
        return list(found.values())


def view_of(result: Result) -> View:
    """Prepare a result."""
    runs: dict[tuple[str, str, Key], list[Run]] = {}
    for run in result.runs:
        runs.setdefault((run.row, run.workload, key_of(run.point)), []).append(run)
    return View(result, {row.name: row for row in result.rows}, _colours(result.rows), runs)


def _colours(rows: Iterable[Row]) -> dict[str, str]:
    """Give each library its colour: ours one of its own, raw clients greys, peers the others."""
    colours: dict[str, str] = {}
    raw: dict[str, int] = {}
    peers = 0
    for row in rows:
        if row.library in colours:
            continue
        if row.kind == "unimq":
            colours[row.library] = _OURS
        elif row.kind == "raw":
            # Raw clients of different backends never share a chart, and may share their grey.
            colours[row.library] = _RAW[raw.get(row.backend, 0) % len(_RAW)]
            raw[row.backend] = raw.get(row.backend, 0) + 1
        else:
            colours[row.library] = _PEERS[peers % len(_PEERS)]
            peers += 1
    return colours


def valid(runs: Iterable[Run]) -> list[Run]:
    """Return the runs that broke no gate."""
    return [run for run in runs if not run.invalid]


def reasons(runs: Iterable[Run]) -> list[str]:
    """Return why runs are invalid, each reason once."""
    return told_once(reason for run in runs for reason in run.invalid)


def told_once(texts: Iterable[str]) -> list[str]:
    """Return each text once: of those that differ in their figures alone, the first."""
    found: dict[str, str] = {}
    for text in texts:
        found.setdefault(_FIGURES.sub("#", text), text)
    return list(found.values())


def invalidity(runs: Sequence[Run]) -> str:
    """Return why figures made of these runs are no figures; empty if all of them are valid."""
    broken = [run for run in runs if run.invalid]
    if not broken:
        return ""
    share = f"{len(broken)} of {len(runs)} runs " if len(broken) < len(runs) else ""
    return f"{share}invalid: {'; '.join(reasons(broken))}"


def varying(points: Iterable[Mapping[str, int | float | str]]) -> list[str]:
    """Return the parameters that are not the same at all of these points, in the order in which they came."""
    points = list(points)
    names = dict.fromkeys(name for point in points for name in point)
    return [name for name in names if len({str(point.get(name)) for point in points}) > 1]


def point_label(point: Mapping[str, int | float | str], names: Iterable[str] | None = None) -> str:
    """Return a point in words: `1000/s, 100 B, window 10`; only these parameters, if they are named."""
    kept = [name for name in point if names is None or name in set(names)]
    return ", ".join(_parameter(name, point[name]) for name in kept)


def _parameter(name: str, value: float | str) -> str:
    if name == "rate" and not isinstance(value, str):
        return notation.rate(value)
    if name == "size" and not isinstance(value, str):
        return notation.size(value)
    shown = notation.count(value) if isinstance(value, int) else value
    return f"{name} {shown}"
