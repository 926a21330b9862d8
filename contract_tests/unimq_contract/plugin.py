"""Pytest plugin of the contract suite: ``pytest -p unimq_contract.plugin --pyargs unimq_contract --unimq-url URL``.

``--unimq-url`` names a broker that runs already; ``--unimq-backends`` starts some for this session. Not registered as
an entry point of pytest: that would rewrite the assertions of every program that has unimq installed.

With pytest-xdist (``-n 5``) the tests of one backend run in one worker, which starts that broker when its first test
needs it: the suites of slow brokers, which mostly wait, run side by side.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

import unimq
from unimq_contract.brokers import BACKENDS, BrokerUnavailable, RunningTap, start, url_variable
from unimq_contract.brokers import Backend as TapName
from unimq_contract.brokers.kafka_mock import LIMITS as MOCK_LIMITS
from unimq_contract.claims import UNPROBED
from unimq_contract.contract import Contract
from unimq_contract.fronts import AsyncioFront, Front, FrontName, SyncFront
from unimq_contract.guarantees import GUARANTEES
from unimq_contract.harness import Backend, Connections, Destinations, Harness, backend_at
from unimq_contract.leaks import Holdings, wait_until_released
from unimq_contract.report import Recorder

REQUIRED = "UNIMQ_REQUIRE_BACKENDS"
"""Environment variable under which a backend that cannot be started is an error instead of a loud skip."""

TAPS: Mapping[str, tuple[TapName, str | None]] = {
    **{name: (name, None) for name in BACKENDS},
    # No emulator of SQS is right alone: `sqs` is the one with SNS, this one is closer in delivery and order.
    "sqs-elasticmq": ("sqs", "elasticmq"),
    # In seconds and without Java, for whoever works on the adapter; the real one proves.
    "kafka-mock": ("kafka", "mock"),
}
"""What ``--unimq-backends`` can start besides memory: the broker, and which of its emulators where it matters."""

CANNOT: Mapping[str, Mapping[str, str]] = {"kafka-mock": MOCK_LIMITS}
"""Tests that cannot pass on an emulator by no fault of unimq, and why: the real broker has to pass them."""

_SUITE = Path(__file__).parent / "suite"
_FRONTS: tuple[FrontName, ...] = ("sync", "asyncio")
_backends = pytest.StashKey[list[Backend]]()
_missing = pytest.StashKey[list[BrokerUnavailable]]()
_tally = pytest.StashKey["Tally"]()
_failed = pytest.StashKey[bool]()


# Options and brokers.


def backends_of(config: pytest.Config) -> list[Backend]:
    """Return the backends of this session; a plugin may change them before the tests are collected."""
    return config.stash[_backends]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("unimq", "contract suite of unimq")
    group.addoption("--unimq-url", action="append", default=[], metavar="URL", help="broker to verify; repeatable")
    group.addoption(
        "--unimq-backends",
        default="",
        metavar="LIST",
        help=f"brokers to start for this session and verify: memory, {', '.join(TAPS)}",
    )
    group.addoption(
        "--unimq-stress", type=float, default=1.0, metavar="FACTOR", help="multiplies every limit of time (default: 1)"
    )
    group.addoption("--unimq-report", type=Path, metavar="FILE", help="write the result as JSON to this file")
    group.addoption("--unimq-no-summary", action="store_true", help="print no summary: whoever calls prints its own")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "guarantee(*numbers, kills): the guarantees that a test of the contract proves")
    config.addinivalue_line("markers", "needs(*features): capabilities without which a test has nothing to prove")
    config.addinivalue_line("markers", "fronts(*names): the only fronts for which a scenario exists")
    config.stash[_backends] = []
    config.stash[_missing] = []
    config.stash[_tally] = Tally()
    config.pluginmanager.register(config.stash[_tally])
    if config.option.unimq_report is not None:
        config.pluginmanager.register(Recorder(config.option.unimq_report, config.stash[_missing]))


def _options(config: pytest.Config) -> tuple[list[str], str, float]:
    option = config.option
    return option.unimq_url, option.unimq_backends, option.unimq_stress


def _is_parallel(config: pytest.Config) -> bool:
    """Tell whether pytest-xdist spreads this session, seen from its controller or from a worker."""
    return hasattr(config, "workerinput") or config.getoption("dist", "no") != "no"


def pytest_sessionstart(session: pytest.Session) -> None:
    config = session.config
    urls, listed, stress = _options(config)
    backends = [backend_at(url, stress=stress) for url in urls]
    wanted = [name.strip() for name in listed.split(",") if name.strip()]
    unknown = set(wanted) - {"memory", *TAPS}
    if unknown:
        raise pytest.UsageError(
            f"--unimq-backends: unknown {', '.join(sorted(unknown))}; known: memory, {', '.join(TAPS)}"
        )
    if "memory" in wanted:
        backends.append(backend_at("memory://contract", stress=stress, name="memory"))
    taps = [name for name in TAPS if name in wanted]
    if config.option.collectonly or _is_parallel(config):
        # The names must be known to every worker, before anybody knows how the broker will be found.
        backends += [Backend(_name_unstarted(name), "", backend_at("memory://", stress=stress).bounds) for name in taps]
    elif taps:
        backends += _start(config, taps, stress)
    for number, backend in enumerate(backends, 1):
        if any(other.name == backend.name for other in backends[: number - 1]):
            # The same hosts with another account, virtual host or option.
            backend.name += f"#{number}"
    config.stash[_backends] = backends


def _start(config: pytest.Config, names: Sequence[str], stress: float) -> list[Backend]:
    """Start brokers side by side; each is stopped when the session ends, however it ends."""

    def attempt(name: str) -> RunningTap | BrokerUnavailable:
        broker, flavour = TAPS[name]
        try:
            return start(broker, flavour=flavour)
        except BrokerUnavailable as error:
            return error

    backends: list[Backend] = []
    with ThreadPoolExecutor(len(names)) as starters:
        for name, running in zip(names, starters.map(attempt, names), strict=True):
            if isinstance(running, BrokerUnavailable):
                config.stash[_missing].append(running)
                continue
            config.add_cleanup(running.stop)
            shown = f"{name}(emulator)" if running.tap.label == "emulator" else name
            backends.append(backend_at(running.url, stress=stress, name=shown, tap=running))
    missing = config.stash[_missing]
    if missing and os.environ.get(REQUIRED, "") not in {"", "0"}:
        raise pytest.UsageError(f"{REQUIRED} is set, and " + "; ".join(map(str, missing)))
    return backends


def _name_unstarted(name: str) -> str:
    broker, flavour = TAPS[name]
    is_given = flavour is None and os.environ.get(url_variable(broker))
    return f"{name}(emulator)" if (broker == "sqs" or flavour is not None) and not is_given else name


def _start_late(config: pytest.Config, backend: Backend) -> None:
    """Start the broker of a worker, the first time that a test needs it; all its mutants share it."""
    if backend.mutant_of is not None:
        shared = backend.mutant_of
        if not shared.url:
            _start_late(config, shared)
        backend.url, backend.bounds, backend.tap, backend.emulator = (
            shared.url,
            shared.bounds,
            shared.tap,
            shared.emulator,
        )
        return
    broker, flavour = TAPS[backend.name.partition("(")[0]]
    try:
        running = start(broker, flavour=flavour)
    except BrokerUnavailable as error:
        if os.environ.get(REQUIRED, "") not in {"", "0"}:
            pytest.fail(f"{REQUIRED} is set, and {error}")
        pytest.skip(f"{_NOT_TESTED}{error.what}: {error.why}. {error.how_to_get_it}")
    config.add_cleanup(running.stop)
    started = backend_at(running.url, stress=_options(config)[2], name=backend.name, tap=running)
    backend.url, backend.bounds, backend.tap, backend.emulator = (
        started.url,
        started.bounds,
        started.tap,
        started.emulator,
    )


def pytest_report_header(config: pytest.Config) -> list[str]:
    lines = [f"unimq contract on {_described(backend)}" for backend in config.stash[_backends]]
    return lines + [f"unimq contract NOT on {error.what}: {error.why}" for error in config.stash[_missing]]


def _described(backend: Backend) -> str:
    if backend.tap is None:
        return backend.name if backend.url else f"{backend.name}, started when it is needed"
    return backend.tap.tap.describe()


# Collection: the suite's modules and classes are not called test_* and Test*, so that importing them to subclass them
# does not run them a second time.


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    if parent.session.isinitpath(file_path):
        # Named on the command line: pytest itself collects it.
        return None
    if file_path.parent == _SUITE and file_path.suffix == ".py" and not file_path.stem.startswith("_"):
        return pytest.Module.from_parent(parent, path=file_path)  # pyright: ignore[reportUnknownMemberType]
    return None


def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> pytest.Collector | None:
    in_suite = isinstance(collector, pytest.Module) and collector.path.parent == _SUITE
    if in_suite and isinstance(obj, type) and issubclass(obj, Contract) and obj.__module__ == collector.obj.__name__:
        return pytest.Class.from_parent(collector, name=name, obj=obj)  # pyright: ignore[reportUnknownMemberType]
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    contract = cast("type | None", metafunc.cls)  # pyright: ignore[reportUnknownMemberType]
    if contract is None or not issubclass(contract, Contract) or "backend" not in metafunc.fixturenames:
        return
    backends = metafunc.config.stash[_backends]
    if contract.url is not None:
        backends = [backend_at(contract.url, stress=_options(metafunc.config)[2])]
    elif not backends and not metafunc.config.stash[_missing]:
        raise pytest.UsageError(f"{contract.__name__} needs a broker: --unimq-url URL, or --unimq-backends LIST")
    metafunc.parametrize("backend", backends, ids=[backend.name for backend in backends], indirect=True)
    if "front" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("fronts")
        metafunc.parametrize("front", mark.args if mark else _FRONTS, indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not isinstance(item, pytest.Function) or item.cls is None or not issubclass(item.cls, Contract):
            continue
        mark = item.get_closest_marker("guarantee")
        if mark is None:
            raise pytest.UsageError(f"{item.nodeid} says of no guarantee that it proves it")
        item.user_properties.append(("guarantees", mark.args))
        needed = tuple(feature for needs in item.iter_markers("needs") for feature in needs.args)
        item.user_properties.append(("needs", needed))
        tested = getattr(item, "callspec", None)
        if tested is not None and "backend" in tested.params:
            name = tested.params["backend"].name
            item.user_properties.append(("backend", name))
            why = CANNOT.get(name.partition("(")[0], {}).get(item.originalname)
            if why is not None:
                item.user_properties.append(("cannot", why))
                item.add_marker(pytest.mark.skip(f"not on {name}: {why}"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    names = [backend.name for backend in config.stash[_backends]]
    if not names:
        return None
    from unimq_contract.spreading import OneBackendPerWorker

    return OneBackendPerWorker(config, log, names)


# Fixtures.


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> Backend:
    """The broker under test."""
    tested = cast("Backend", request.param)
    if not tested.url:
        _start_late(request.config, tested)
    return tested


@pytest.fixture(scope="session")
def _event_loop_front() -> Iterator[AsyncioFront]:  # pyright: ignore[reportUnusedFunction]
    front = AsyncioFront()
    yield front
    front.close()


@pytest.fixture
def front(request: pytest.FixtureRequest) -> Front:
    """The front under test: synchronous or asyncio."""
    return SyncFront() if request.param == "sync" else cast("Front", request.getfixturevalue("_event_loop_front"))


@pytest.fixture
def connect(
    backend: Backend, front: Front, destinations: Destinations, request: pytest.FixtureRequest
) -> Iterator[Connections]:
    """Opens connections to the broker under test; after the last one nothing may be left of them (L4)."""
    before = Holdings.now()
    connections = Connections(front, backend)
    yield connections
    connections.close()
    with unimq.connect(backend.url, timeout=backend.bounds.within) as cleaning:
        destinations.delete(cleaning)
    if not request.node.stash.get(_failed, False):
        left = wait_until_released(before, backend.bounds.wake * 2)
        assert not left, f"still there after every connection was closed (L4): {', '.join(left)}"


@pytest.fixture
def broker(connect: Connections) -> unimq.Broker:
    """One connection to the broker under test."""
    return connect()


@pytest.fixture
def harness(backend: Backend, broker: unimq.Broker, request: pytest.FixtureRequest) -> Harness:
    """Waits, within the limits of the backend. Skips the test if it needs a feature that is declared unsupported."""
    for mark in request.node.iter_markers("needs"):
        for name in mark.args:
            feature: unimq.Feature = getattr(broker.capabilities, name)
            if not feature:
                request.node.user_properties.append(("unsupported", name))
                pytest.skip(f"{broker.capabilities.backend} declares {name} unsupported: {feature.note}")
    return Harness(backend, broker.capabilities)


@pytest.fixture
def destinations(request: pytest.FixtureRequest) -> Destinations:
    """Fresh names with the name of the test in them; everything made under them is deleted by `connect`."""
    return Destinations(cast("pytest.Function", request.node).originalname)


@pytest.fixture
def queue(destinations: Destinations) -> unimq.Queue:
    """A queue of this test alone, with no policy but the default dead-letter queue."""
    return destinations.queue()


# Report.


_NOT_TESTED = "NOT TESTED: "


class Tally:
    """What became of each guarantee, from the reports of this process or of all workers."""

    def __init__(self) -> None:
        self.outcomes: dict[str, dict[str, Counter[str]]] = {}
        self.described: dict[str, str] = {}
        self.missing: dict[str, None] = {}
        self.ran: dict[str, dict[str, bool]] = {}
        """By backend and feature it has: whether any of the tests that need it came to a verdict."""

    def untested(self) -> list[str]:
        """Return the features that a backend declares and no test of this run proves, though some were to."""
        return [
            f"{name} declares {feature}, and no test of it ran"
            for name, features in self.ran.items()
            for feature, ran in features.items()
            # Only where a broker can be killed is it seen what survives that.
            if not ran and feature not in UNPROBED
        ]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.untested() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        said = dict(report.user_properties)
        if "backend" not in said or (report.when != "call" and report.outcome == "passed"):
            return
        name = str(said["backend"])
        if report.skipped and _NOT_TESTED in report.longreprtext:
            self.missing[report.longreprtext.partition(_NOT_TESTED)[2].partition("'")[0]] = None
            return
        if "described" in said:
            self.described[name] = str(said["described"])
        by_number = self.outcomes.setdefault(name, {})
        for number in cast("tuple[str, ...]", said["guarantees"]):
            by_number.setdefault(number, Counter())[report.outcome] += 1
        if not said.keys() & {"unsupported", "cannot"}:
            ran = self.ran.setdefault(name, {})
            for feature in cast("tuple[str, ...]", said["needs"]):
                ran[feature] = ran.get(feature, False) or not report.skipped


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = cast("pytest.TestReport", (yield))
    if report.failed:
        item.stash[_failed] = True
    tested = getattr(item, "callspec", None)
    if tested is not None and isinstance(tested.params.get("backend"), Backend):
        report.user_properties.append(("described", _described(tested.params["backend"])))
    return cast("None", report)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    tally = config.stash[_tally]
    outcomes, described = tally.outcomes, tally.described
    missing = [f"{error.what}: {error.why}. {error.how_to_get_it}" for error in config.stash[_missing]]
    missing += tally.missing
    if config.option.unimq_no_summary or (not outcomes and not missing):
        return
    terminalreporter.section("unimq contract")
    for name, by_number in outcomes.items():
        order = [number for number in GUARANTEES if number in by_number]
        failed = [number for number in order if by_number[number]["failed"]]
        held = [number for number in order if number not in failed and by_number[number]["passed"]]
        unproven = [number for number in order if number not in failed and number not in held]
        terminalreporter.write_line(described.get(name, name), bold=True)
        terminalreporter.write_line(f"  holds:       {' '.join(held) or 'nothing'}", green=not failed)
        if failed:
            terminalreporter.write_line(f"  BROKEN:      {' '.join(failed)}", red=True)
        if unproven:
            terminalreporter.write_line(f"  not proven:  {' '.join(unproven)}", yellow=True)
    for line in tally.untested():
        terminalreporter.write_line(line, red=True, bold=True)
    for error in missing:
        terminalreporter.write_line(f"{_NOT_TESTED}{error}", red=True, bold=True)
