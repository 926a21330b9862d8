"""A whole benchmark: what was asked for is checked first, then measured; what was found survives an interruption."""

import contextlib
import importlib
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import msgspec

from unimq_bench import environment, measuring, recording, results, workloads
from unimq_bench.collection import Collection
from unimq_bench.counting import can_count
from unimq_bench.gates import FOREIGN_CORES
from unimq_bench.redoing import Redos
from unimq_bench.results import Result
from unimq_bench.rows import environments
from unimq_bench.rows.catalogue import CATALOGUE, Entry, UnknownRow
from unimq_bench.targets import MEMORY, TAPS, BadBench, Candidate, Place, candidates, open_places
from unimq_bench.workloads import PROFILES, Parameters, Workload

ALL = "all"
EVERYWHERE = (MEMORY, *TAPS)
_COSTS = "unimq_bench.costs"
_AGAIN = 0.1
"""Of the time, for measuring again what others disturbed."""
_COVERED = {"publish_max", "consume_max"}
"""What ``overhead`` measures as well, of more processes; ``all`` has them in the profile ``full`` alone."""
_APART = {"peers"}
"""What is measured if it is named, because other libraries are installed for it."""
_ROOM = 256 * 1024 * 1024
"""Bytes of disk that the times and bodies of one run may need."""


class Reporter(Protocol):
    """Shows how a benchmark goes on, to whoever waits for it."""

    def plan(self, seconds: float) -> None:
        """Say about how long it takes in all."""
        ...

    def step(self, text: str, seconds: float) -> None:
        """Something begins that takes about so long; what was before is done."""
        ...

    def live(self, text: str, rate: float, p99: float | None) -> None:
        """Show how it goes: messages per second, and p99 of the response times in seconds."""
        ...

    def note(self, text: str) -> None:
        """Tell something that a person should know."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be measured."""

    workloads: tuple[str, ...]
    """Names, ``all``, or files."""
    on: tuple[str, ...] = EVERYWHERE
    """URLs, ``memory``, or backends that are started for it."""
    rows: tuple[str, ...] = ()
    """Libraries, ``raw`` for the raw client of each backend; empty: those of the workload."""
    profile: str = "standard"
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Parameters that differ from those of the workload file."""
    foreign_cores: float = FOREIGN_CORES
    out: Path | None = None


def run(
    request: Request,
    reporter: Reporter,
    *,
    interpreter: Callable[[Entry], str] | None = None,
    paths: tuple[str, ...] = (),
) -> Result:
    """Measure, and return what was found; after Ctrl-C what was found until then, marked as partial. SIGTERM writes
    the same and goes on its way.

    Raises:
        BadBench, BadWorkload, UnknownRow, ResultError: what was asked for cannot be done; nothing was measured.
        unimq.UnimqError: a broker cannot be used.

    """
    started, began = datetime.now(UTC), time.monotonic()
    chosen = _checked(request)
    seed = random.SystemRandom().getrandbits(32) if request.seed is None else request.seed
    generator = random.Random(seed)
    collection = Collection(request.foreign_cores, generator)
    ended: BaseException | None = None
    partial = False
    looked = results.Environment()
    try:
        with contextlib.ExitStack() as stack:
            places = open_places(request.on, stack, report=reporter.note)
            steps = _steps(request, chosen, places, interpreter or interpreter_of, collection)
            reporter.note("looking at the machine")
            looked = environment.look(quick=request.profile == "smoke")
            if not can_count():
                collection.notes.append("this system does not tell the CPU of processes: no foreign load is seen")
            if request.foreign_cores > FOREIGN_CORES:
                collection.notes.append(
                    f"others on the machine were allowed {request.foreign_cores:g} cores instead of {FOREIGN_CORES:g}:"
                    " only ratios and the accounting can be relied on"
                )
            planned = sum(measuring.estimate(*step.sizes) for step in steps)
            reporter.plan(planned)
            # A smoke test says nothing about speed, so that nothing disturbs it.
            again = 0.0 if request.profile == "smoke" else planned * _AGAIN
            bench = measuring.Bench(collection, generator, reporter, paths, Redos(request.foreign_cores, again))
            for step in steps:
                measuring.measure(bench, step.workload, step.place, step.rows, step.parameters)
    except (KeyboardInterrupt, SystemExit) as stopped:
        # The command makes SystemExit of SIGTERM.
        ended, partial = stopped, True
        collection.notes.append("interrupted: what is here is right, but not all")
    again = sum(len(run.discarded) for run in collection.runs)
    if again:
        collection.notes.append(
            f"{again} slices were measured again because others used more than {request.foreign_cores:g} cores"
            " meanwhile; the ones before are in the data and in no figure"
        )
    # A broker that dies takes rows with it: what was measured before is right, but not all.
    failures = ("the row failed", "the row could not start", "no send was confirmed")
    if any(reason.startswith(failures) for run in collection.runs for reason in run.invalid):
        partial = True
    found = Result(
        unimq=version("unimq"),
        started_at=started.isoformat(timespec="seconds"),
        seconds=time.monotonic() - began,
        workloads=tuple(workload.name for workload in chosen),
        profile=request.profile,
        seed=seed,
        partial=partial,
        environment=looked,
        rows=tuple(collection.rows.values()),
        runs=tuple(collection.runs),
        figures=tuple(collection.figures),
        ratios=tuple(collection.ratios),
        notes=tuple(collection.notes),
    )
    if any(workload.kind == "cost" for workload in chosen):
        found = msgspec.structs.replace(found, figures=(*found.figures, *costs_of(found)))
    if request.out is not None:
        results.write(found, request.out)
    if isinstance(ended, SystemExit):
        raise ended
    return found


@dataclass(slots=True)
class _Step:
    workload: Workload
    place: Place
    rows: list[Candidate]
    parameters: Parameters

    @property
    def sizes(self) -> tuple[Workload, int, Parameters]:
        return self.workload, len(self.rows), self.parameters


def _checked(request: Request) -> list[Workload]:
    """Check everything that can be checked without a broker."""
    if request.profile not in PROFILES:
        raise BadBench(workloads.nearest(request.profile, PROFILES, "profile"))
    left_out = _APART if request.profile == "full" else _APART | _COVERED
    everything = [name for name in workloads.names() if name not in left_out]
    names = [name for each in request.workloads for name in (everything if each == ALL else [each])]
    if not names:
        raise BadBench(f"name a workload: {', '.join(workloads.names())}, {ALL}, or a file")
    chosen = [workloads.load(name) for name in dict.fromkeys(names)]
    if all(workload.kind == "cost" for workload in chosen):
        raise BadBench("cost is made of what other workloads count: name one of them as well")
    for workload in chosen:
        for backend in EVERYWHERE:
            workload.parameters_for(backend, request.profile, dict(request.settings))
    for library in request.rows:
        if library != "raw" and library not in CATALOGUE:
            raise UnknownRow(workloads.nearest(library, [*CATALOGUE, "raw"], "row"))
    if request.foreign_cores <= 0:
        raise BadBench(f"the load that others may cause must be more than 0 cores, not {request.foreign_cores:g}")
    # What is missing is told now, not after minutes of measuring.
    recording.folded([1])
    if any(workload.kind == "cost" for workload in chosen):
        importlib.import_module(_COSTS)
    if request.out is not None:
        folder = request.out.parent
        if request.out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise BadBench(f"the result cannot be written to {request.out}")
    for place in {tempfile.gettempdir(), *([str(request.out.parent)] if request.out is not None else [])}:
        free = shutil.disk_usage(place).free
        if free < _ROOM:
            raise BadBench(f"{place} has {free // 2**20} MiB left; a run may need {_ROOM // 2**20} MiB")
    return chosen


def _steps(
    request: Request,
    chosen: Sequence[Workload],
    places: Sequence[Place],
    interpreter: Callable[[Entry], str],
    collection: Collection,
) -> list[_Step]:
    """Return what is to be measured. What cannot be done is an error if it was named, and a note if it was not."""
    steps: list[_Step] = []
    is_named = ALL not in request.workloads
    for workload in chosen:
        if workload.kind == "cost":
            continue
        # The raw client last: it is the one that runs twice for the noise floor.
        wanted = sorted(request.rows or workload.rows, key=lambda library: (library != "unimq", library == "raw"))
        for place in places:
            refusal = _refusal(workload, place)
            if refusal:
                if is_named and len(places) == 1:
                    raise BadBench(refusal)
                if is_named or workload.backends == ():
                    collection.notes.append(refusal)
                continue
            if request.rows:
                # One that speaks to none of the places was named in vain, and is an error.
                candidates(places, wanted)
            rows = candidates([place], _able(wanted, place), interpreter)
            if rows:
                parameters = workload.parameters_for(place.backend, request.profile, dict(request.settings))
                steps.append(_Step(workload, place, rows, parameters))
    if not steps:
        raise BadBench("nothing is left to be measured: " + "; ".join(collection.notes))
    return steps


def _able(wanted: Sequence[str], place: Place) -> list[str]:
    """Leave out the libraries that do not speak to a place."""
    found: list[str] = []
    for library in wanted:
        try:
            candidates([place], [library])
        except ValueError:
            continue
        found.append(library)
    return found


def _refusal(workload: Workload, place: Place) -> str:
    if workload.backends and place.backend not in workload.backends:
        return f"workload {workload.name} is for {', '.join(workload.backends)}, not for {place.backend}"
    for name in workload.requires:
        feature = getattr(place.capabilities, name)
        if not feature:
            return f"workload {workload.name} needs {name}, which {place.name} does not have: {feature.note}"
    return ""


def interpreter_of(entry: Entry) -> str:
    """Return the interpreter in which a row runs: this one, or that of an environment made for a peer."""
    try:
        return environments.interpreter_of(entry)
    except environments.NoEnvironment as error:
        raise BadBench(str(error)) from error


def costs_of(found: Result) -> Sequence[results.Figure]:
    """Return what a million messages cost, as figures, from what was counted."""
    costs: Any = importlib.import_module(_COSTS)
    figures: Sequence[results.Figure] = costs.figures(found)
    return figures
