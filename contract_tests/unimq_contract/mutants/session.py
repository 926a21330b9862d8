"""The pytest plugin that runs each test on the mutants that it claims to kill; `unimq_contract.mutants` loads it.

Each backend of the command line, memory if there is none, is replaced by its mutants: one backend each, whose adapter
has one fault. Around memory that is every mutant there is, around another adapter those of `around.AROUND`. The mutant
called ``none`` has no fault, and every test must pass on it: what kills the others is their fault and not the seam.
"""

from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
from rich.console import Console
from rich.table import Table

from unimq._adapters import load_adapter, register_adapter, unregister_adapter
from unimq_contract.brokers import BACKENDS
from unimq_contract.harness import Backend, backend_at
from unimq_contract.mutants import mutants
from unimq_contract.mutants.around import around, kind_of
from unimq_contract.mutants.judgement import KILLED, SKIPPED, SURVIVED, Judgement
from unimq_contract.mutants.seam import FaultyAdapter, Mutant
from unimq_contract.plugin import backends_of

if TYPE_CHECKING:
    from unimq.adapter import Adapter

STRESS = 0.2
"""Limits of time on a mutant in memory: most of them are found out by something that does not come."""

RANDOM_PROGRAMS = "test_random_programs_agree_with_the_model"

BY_ASSERTION = (AssertionError, pytest.fail.Exception)

_claims = pytest.StashKey[Counter[str]]()
_verdicts = pytest.StashKey["Verdicts"]()


class Verdicts:
    """What became of each mutant in each test that claims it, from the reports of this process or of all workers."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str, str], str] = {}
        """By backend, mutant and test."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == "mutant":
                backend, mutant, test, verdict = cast("tuple[str, str, str, str]", value)
                key = (backend, mutant, test)
                # At teardown too: leaks are judged there. What passed a phase may fail in the next.
                if self.found.get(key, SURVIVED) == SURVIVED or verdict == KILLED:
                    self.found[key] = verdict


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("unimq").addoption(
        "--unimq-mutants",
        default="",
        metavar="LIST",
        help="run the tests that must fail on these mutants, on all, or none",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.option.unimq_no_summary = True
    config.stash[_verdicts] = Verdicts()
    config.stash[_claims] = Counter()
    config.pluginmanager.register(config.stash[_verdicts])


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    known = _known()
    option = cast("str", session.config.option.unimq_mutants)
    unknown = set(option.split(",")) - known.keys() - {"all"}
    if unknown:
        raise pytest.UsageError(f"--unimq-mutants: unknown {sorted(unknown)}; known: all, {', '.join(known)}")
    backends = backends_of(session.config)
    real = list(backends)
    if not real and not session.config.option.unimq_backends:
        real = [backend_at("memory://", stress=1.0, name="memory")]
    # The real ones stay known, so that one worker runs all their mutants; no test of theirs is chosen.
    backends[:] = [backend for backend in real if kind_of(backend) != "memory"]
    for backend in real:
        for name in _around(backend) if option == "all" else option.split(","):
            backends.append(_mutant(backend, known[name]))


def _known() -> dict[str, type[Mutant]]:
    return {Mutant.name: Mutant, **mutants()}


def _around(backend: Backend) -> list[str]:
    """Return the mutants that make sense at the driver of a backend."""
    if kind_of(backend) == "memory":
        return [name for name, mutant in mutants().items() if mutant.in_memory]
    return list(around(kind_of(backend)))


def _mutant(backend: Backend, mutant: type[Mutant]) -> Backend:
    if kind_of(backend) != "memory":
        return replace(backend, name=f"{backend.name}-{mutant.name}", mutant=mutant.name, mutant_of=backend)
    # A scheme of its own, so that a mutant never meets the destinations of another.
    scheme = f"memory+{mutant.name}"
    schemes = (scheme, f"{scheme}+ssl") if mutant.takes_tls else (scheme,)
    register_adapter(cast("Adapter", FaultyAdapter(mutant, load_adapter("memory"), schemes)))
    made = backend_at(f"{scheme}://mutant", stress=STRESS, name=f"memory-{mutant.name}")
    made.mutant, made.mutant_of = mutant.name, backend
    return made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Put the fault in its place for this test; what the test started in other processes has none."""
    backend = _backend(item)
    if backend is None:
        return (yield)  # pyright: ignore[reportUnknownVariableType]
    mutant = _known()[backend.mutant]
    with mutant.installed(), nullcontext() if backend.in_process else _around_adapter(backend, mutant):
        return (yield)  # pyright: ignore[reportUnknownVariableType]


@contextmanager
def _around_adapter(backend: Backend, mutant: type[Mutant]) -> Generator[None]:
    """Put the fault around the adapter of a real broker."""
    real = load_adapter(kind_of(backend, scheme=True))
    faulty = cast("Adapter", FaultyAdapter(mutant, real, real.schemes))
    register_adapter(faulty)
    try:
        yield
    finally:
        unregister_adapter(faulty)


def _backend(item: pytest.Item) -> Backend | None:
    """Return the mutant on which the item runs, if it claims to kill it; in one front, for both have one driver."""
    mark = item.get_closest_marker("guarantee")
    tested = getattr(item, "callspec", None)
    if mark is None or tested is None or "backend" not in tested.params:
        return None
    fronts = item.get_closest_marker("fronts")
    if tested.params.get("front", "sync") != "sync" and not (fronts and "sync" not in fronts.args):
        return None
    backend = cast("Backend", tested.params["backend"])
    if not backend.in_process and cast("pytest.Function", item).originalname == RANDOM_PROGRAMS:
        # There a random program may as well end by what the broker itself makes of the fault, which proves nothing.
        return None
    kills = mark.kwargs["kills"]
    return backend if backend.mutant in kills or (backend.mutant == Mutant.name and kills) else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    known = mutants()
    claims = config.stash[_claims]
    for item in items:
        mark = item.get_closest_marker("guarantee")
        if mark is None:
            continue
        unknown = set(mark.kwargs["kills"]) - known.keys()
        if unknown:
            raise pytest.UsageError(f"{item.nodeid} claims to kill {sorted(unknown)}, which do not exist")
        claims[cast("pytest.Function", item).originalname] += len(mark.kwargs["kills"])
    chosen = [item for item in items if _backend(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = cast("pytest.TestReport", (yield))
    backend = cast("Backend", _backend(item))
    if report.skipped:
        verdict = SKIPPED
    elif call.excinfo is None:
        verdict = SURVIVED
    elif call.excinfo.errisinstance(BY_ASSERTION) and "Timeout" not in call.excinfo.exconly()[:30]:
        verdict = KILLED
    else:
        # An error that is no assertion says nothing about the guarantee.
        verdict = f"killed by accident: {call.excinfo.exconly()[:100]}"
    told = (cast("Backend", backend.mutant_of).name, backend.mutant, cast("pytest.Function", item).originalname)
    report.user_properties.append(("mutant", (*told, verdict)))
    return cast("None", report)


def _judgement(config: pytest.Config) -> Judgement:
    mutated = [backend for backend in backends_of(config) if backend.mutant_of is not None]
    made: dict[str, set[str]] = {}
    for backend in mutated:
        made.setdefault(cast("Backend", backend.mutant_of).name, set()).add(backend.mutant)
    kinds = {kind_of(cast("Backend", backend.mutant_of)) for backend in mutated}
    is_all = config.option.unimq_mutants == "all" and not config.option.keyword
    claims: Counter[str] = config.stash[_claims]
    return Judgement(config.stash[_verdicts].found, made, claims, is_all and kinds >= {"memory", *BACKENDS})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Only the workers of pytest-xdist collect: learn from them what the tests claim."""
    told: dict[str, int] = getattr(node, "workeroutput", {}).get("claims", {})
    config = cast("pytest.Config", node.config)
    for test, count in told.items():
        config.stash[_claims][test] += count


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        claims = session.config.stash[_claims]
        cast("Any", session.config).workeroutput["claims"] = dict(claims)
        return
    if session.exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        is_proven = not _judgement(session.config).wrong()
        session.exitstatus = pytest.ExitCode.OK if is_proven else pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    judgement = _judgement(config)
    terminalreporter.section("mutants")
    for (backend, name, test), verdict in sorted(judgement.found.items()):
        terminalreporter.write_line(f"{backend}: {name}: {test}: {verdict}")
    terminalreporter.section("what the mutants show")
    for line in judgement.wrong():
        terminalreporter.write_line(line, red=True)
    table = Table("adapter", "mutants made", "killed", "tests that kill one")
    for backend, names in judgement.made.items():
        killed = judgement.killed_at(backend)
        counts = len(names), len({name for name, _ in killed}), len({test for _, test in killed})
        table.add_row(backend, *map(str, counts))
    console = Console(width=100)
    with console.capture() as shown:
        console.print(table)
    terminalreporter.write(shown.get())
    terminalreporter.write_line(f"{len(judgement.barren())} tests without a mutant")
    unshown = judgement.unshown()
    is_all = config.option.unimq_mutants == "all" and not config.option.keyword
    if unshown and is_all and "memory" in judgement.made and not judgement.is_whole:
        terminalreporter.write_line(
            f"{len(unshown)} tests kill theirs on other backends only, which a run of all backends must show: "
            f"{', '.join(unshown)}"
        )
