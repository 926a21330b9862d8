"""The pytest plugin that runs each test on the mutants that it claims to kill; `unimq_contract.mutants` loads it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import pytest

from unimq._adapters import load_adapter, register_adapter
from unimq_contract.mutants import mutants
from unimq_contract.mutants.seam import FaultyAdapter

if TYPE_CHECKING:
    from unimq.adapter import Adapter

STRESS = 0.2
"""Limits of time on a mutant: most of them are found out by something that does not come."""


_verdicts = pytest.StashKey[dict[tuple[str, str], str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("unimq").addoption(
        "--unimq-mutants", default="", metavar="LIST", help="run the tests that must fail on these mutants, or on all"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    option = session.config.option
    known = mutants()
    wanted = list(known) if option.unimq_mutants == "all" else option.unimq_mutants.split(",")
    unknown = set(wanted) - known.keys()
    if unknown:
        raise pytest.UsageError(f"--unimq-mutants: unknown {sorted(unknown)}; known: all, {', '.join(known)}")
    memory = load_adapter("memory")
    for name in wanted:
        register_adapter(cast("Adapter", FaultyAdapter(known[name], memory)))
    option.unimq_url = [f"memory+{name}://mutant?max_message_bytes=1000000" for name in wanted]
    option.unimq_stress = STRESS
    session.config.stash[_verdicts] = {}


def _claims(item: pytest.Item) -> Iterator[str]:
    """Yield the mutant on which the item runs, if it claims to kill it."""
    mark = item.get_closest_marker("guarantee")
    tested = getattr(item, "callspec", None)
    if mark is None or tested is None or tested.params.get("front", "sync") != "sync":
        return
    name = tested.params["backend"].scheme.removeprefix("memory+")
    if name in mark.kwargs["kills"]:
        yield name


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    known = mutants()
    for item in items:
        mark = item.get_closest_marker("guarantee")
        unknown = set(mark.kwargs["kills"]) - known.keys() if mark is not None else ()
        if unknown:
            raise pytest.UsageError(f"{item.nodeid} claims to kill {sorted(unknown)}, which do not exist")
    chosen = [item for item in items if any(_claims(item))]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = cast("pytest.TestReport", (yield))
    verdicts = item.config.stash[_verdicts]
    key = (next(_claims(item)), cast("pytest.Function", item).originalname)
    if report.skipped:
        verdicts[key] = "skipped"
    elif call.excinfo is None:
        verdicts.setdefault(key, "survived")
    elif verdicts.get(key) != "killed":
        # At teardown too: leaks are judged there. An error that is no assertion says nothing about the guarantee.
        by_assertion = call.excinfo.errisinstance((AssertionError, pytest.fail.Exception))
        verdicts[key] = "killed" if by_assertion else f"killed by accident: {call.excinfo.exconly()[:100]}"
    return cast("None", report)


def pytest_sessionfinish(session: pytest.Session) -> None:
    verdicts = session.config.stash[_verdicts]
    if session.exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        is_proven = not _unclaimed(session.config) and all(verdict == "killed" for verdict in verdicts.values())
        session.exitstatus = pytest.ExitCode.OK if is_proven else pytest.ExitCode.TESTS_FAILED


def _unclaimed(config: pytest.Config) -> list[str]:
    wanted = [url.partition("://")[0].removeprefix("memory+") for url in config.option.unimq_url]
    return sorted(set(wanted) - {name for name, _ in config.stash[_verdicts]})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    verdicts = config.stash[_verdicts]
    terminalreporter.section("mutants")
    for (name, test), verdict in sorted(verdicts.items()):
        terminalreporter.write_line(f"{name}: {test}: {verdict}")
    for name in _unclaimed(config):
        terminalreporter.write_line(f"{name}: no test claims to kill it")
    killed = len({name for (name, _), verdict in verdicts.items() if verdict == "killed"})
    terminalreporter.write_line(f"{killed} of {len(config.option.unimq_url)} mutants killed")
