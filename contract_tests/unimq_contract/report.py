"""The result of one run of the suite as data: ``--unimq-report FILE`` writes it as one JSON document.

``docs/verify.md`` describes the document. `SCHEMA` changes when a reader of the older form would misunderstand the new.
"""

import platform
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast
from urllib.parse import unquote, urlsplit

import msgspec
import pytest

import unimq
from unimq_contract.brokers import BrokerUnavailable
from unimq_contract.brokers.tap import mask_password
from unimq_contract.guarantees import FAMILIES, GUARANTEES
from unimq_contract.harness import Backend

SCHEMA = "unimq-contract-report/1"
_LONGEST_REASON = 4000
_OF_WORKER = "unimq_report"
_OURS = {"docker", "native", "emulator"}
"""Rungs on which we started the broker ourselves: its password is published in our own source."""

Outcome: TypeAlias = Literal["passed", "failed", "unsupported", "skipped"]
Status: TypeAlias = Literal["broken", "holds", "unsupported", "unproven", "untested"]


class Test(msgspec.Struct, frozen=True):
    """One test on one backend and front."""

    __test__ = False
    id: str
    """``Class::test[front]``; without the backend, so that the same test has the same id everywhere."""
    front: str | None
    """``sync``, ``asyncio``, or nothing where the front does not matter."""
    guarantees: tuple[str, ...]
    outcome: Outcome
    """``unsupported``: the backend declares a feature unsupported without which the test has nothing to prove."""
    reason: str
    """Why it failed or did not run; passwords are masked."""
    duration: float
    """Seconds, with setup and teardown."""


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """The tests of one guarantee, of one family, or all."""

    status: Status
    run: int
    """Tests that ran to a verdict: passed and failed."""
    passed: int
    failed: int
    unsupported: int
    skipped: int
    duration: float
    """Seconds."""
    tests: tuple[str, ...] = ()
    """Ids of the tests of a guarantee."""


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """One backend and what the suite found out about it."""

    name: str
    """How the ids of pytest call it."""
    described: str
    product: str
    version: str
    label: str
    """``real``, ``real in a container``, ``emulator``, ``in this process`` or ``given by URL``."""
    emulator: bool
    capabilities: unimq.Capabilities | None
    unreachable: str = ""
    """Why there are no capabilities."""
    total: Tally
    families: dict[str, Tally]
    guarantees: dict[str, Tally]
    """Every number of the contract, also those that no test proves yet."""
    tests: tuple[Test, ...]


class Missing(msgspec.Struct, frozen=True):
    """A backend that was wanted and could not be started."""

    what: str
    why: str
    how_to_get_it: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the suite."""

    schema: str = SCHEMA
    created: str
    """UTC, ISO 8601."""
    duration: float
    """Seconds."""
    exit_code: int
    """pytest's."""
    complete: bool
    """Whether every test of the suite came to an end: nothing deselected, nothing interrupted, no backend missing."""
    environment: dict[str, str]
    families: dict[str, str]
    guarantees: dict[str, str]
    backends: tuple[Verified, ...]
    missing: tuple[Missing, ...] = ()


def read(path: Path) -> Report:
    """Return the report in a file; `ValueError` when it is none, or one of another schema."""
    report = msgspec.json.decode(path.read_bytes(), type=Report)
    if report.schema != SCHEMA:
        raise ValueError(f"{path} has schema {report.schema!r}; this version reads {SCHEMA!r}")
    return report


def encoded(report: Report) -> bytes:
    """Return the report as JSON, in one line."""
    return msgspec.json.encode(report)


def tally(tests: Sequence[Test]) -> Tally:
    """Count tests and say what they prove together."""
    counts: Counter[Outcome] = Counter(test.outcome for test in tests)
    return Tally(
        status=_status(counts),
        run=counts["passed"] + counts["failed"],
        duration=round(sum(test.duration for test in tests), 3),
        passed=counts["passed"],
        failed=counts["failed"],
        unsupported=counts["unsupported"],
        skipped=counts["skipped"],
    )


def _status(counts: Counter[Outcome]) -> Status:
    if counts["failed"]:
        return "broken"
    if counts["passed"]:
        return "holds"
    if counts["skipped"]:
        return "unproven"
    return "unsupported" if counts["unsupported"] else "untested"


def verified(
    backend: Backend, tests: Iterable[Test], capabilities: unimq.Capabilities | None, unreachable: str = ""
) -> Verified:
    """Return what the tests of one backend prove."""
    tap = backend.tap.tap if backend.tap is not None else None
    emulator = capabilities.emulator if capabilities is not None else ""
    if tap is not None:
        product, shown, label = tap.product, tap.version, str(tap.label)
    else:
        product = emulator or (capabilities.backend if capabilities is not None else backend.scheme)
        shown = capabilities.broker_version if capabilities is not None else ""
        label = "emulator" if emulator else "in this process" if backend.in_process else "given by URL"
    return _judged(
        tests,
        name=backend.name,
        described=tap.describe() if tap is not None else f"{backend.name} ({f'{product} {shown}'.strip()}; {label})",
        product=product,
        version=shown,
        label=label,
        emulator=bool(emulator) or backend.emulator,
        capabilities=capabilities,
        unreachable=unreachable,
    )


def together(parts: Sequence[Verified]) -> Verified:
    """Return what several processes found out about the same backend as if it were one."""
    # Who ran tests knows most.
    told = max(parts, key=lambda part: (part.capabilities is not None, len(part.tests)))
    about = {name: getattr(told, name) for name in Verified.__struct_fields__ if name not in _JUDGED}
    return _judged([test for part in parts for test in part.tests], **about)


_JUDGED = {"total", "families", "guarantees", "tests"}


def _judged(tests: Iterable[Test], **about: Any) -> Verified:
    """Sort tests by guarantee and family, and say what they prove."""
    order = {number: place for place, number in enumerate(GUARANTEES)}
    tests = tuple(sorted(tests, key=lambda test: (order[test.guarantees[0]], test.id)))
    numbers: dict[str, list[Test]] = {number: [] for number in GUARANTEES}
    families: dict[str, list[Test]] = {letter: [] for letter in FAMILIES}
    for test in tests:
        for number in test.guarantees:
            numbers[number].append(test)
        for letter in dict.fromkeys(number[0] for number in test.guarantees):
            families[letter].append(test)
    return Verified(
        total=tally(tests),
        families={letter: tally(found) for letter, found in families.items() if found},
        guarantees={
            number: msgspec.structs.replace(tally(found), tests=tuple(test.id for test in found))
            for number, found in numbers.items()
        },
        tests=tests,
        **about,
    )


# Inside pytest.


class Part(msgspec.Struct, frozen=True):
    """What one process of a session knows: the only one, or a worker of pytest-xdist."""

    deselected: int
    collected: frozenset[str]
    """Node ids."""
    ended: frozenset[str]
    backends: tuple[Verified, ...]


class Recorder:
    """Plugin of one session that writes the report at its end. Called by pytest's thread alone."""

    def __init__(self, path: Path, missing: list[BrokerUnavailable]) -> None:
        if not path.parent.is_dir() or path.is_dir():
            raise pytest.UsageError(f"--unimq-report: {path} cannot be written")
        self._path = path
        self._missing = missing
        self._began = time.monotonic()
        self._deselected = 0
        self._backends: dict[str, Backend] = {}
        self._able: dict[str, unimq.Capabilities | str] = {}
        self._of_test: dict[str, tuple[str, str, str | None]] = {}
        """Backend, id and front, by node id."""
        self._reports: defaultdict[str, list[pytest.TestReport]] = defaultdict(list)
        self._of_workers: list[Part] = []

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        # A run may leave out tests of the project beside the suite.
        self._deselected += sum(_backend_of(item) is not None for item in items)

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        # In the order in which the backends were given; later, items may be in any.
        if (backend := _backend_of(item)) is not None:
            self._backends.setdefault(backend.name, backend)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            callspec, backend = getattr(item, "callspec", None), _backend_of(item)
            if callspec is None or backend is None:
                continue
            name = "::".join(item.nodeid.split("[", 1)[0].split("::")[1:])
            rest = str(callspec.id).removeprefix(backend.name).removeprefix("-")
            front = callspec.params.get("front")
            self._of_test[item.nodeid] = backend.name, f"{name}[{rest}]" if rest else name, front
        left = {backend for backend, _, _ in self._of_test.values()}
        self._backends = {name: backend for name, backend in self._backends.items() if name in left}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if (test := self._of_test.get(report.nodeid)) is None:
            return
        self._reports[report.nodeid].append(report)
        name, _, _ = test
        if report.when == "teardown" and name not in self._able:
            # After its first test: a broker may be started for that one, and the last one may leave it without answer.
            self._able[name] = _capabilities_of(self._backends[name])

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker of pytest-xdist says at its end; one that crashed says nothing."""
        if (said := getattr(node, "workeroutput", {}).get(_OF_WORKER)) is not None:
            self._of_workers.append(msgspec.json.decode(said, type=Part))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        to_controller: dict[str, str] | None = getattr(session.config, "workeroutput", None)
        if to_controller is not None:
            to_controller[_OF_WORKER] = msgspec.json.encode(self._part()).decode()
            return
        parts = self._of_workers or [self._part()]
        names = dict.fromkeys(backend.name for part in parts for backend in part.backends)
        backends = tuple(
            together([backend for part in parts for backend in part.backends if backend.name == name]) for name in names
        )
        ended = frozenset[str]().union(*(part.ended for part in parts))
        whole = all(part.collected <= ended and not part.deselected for part in parts)
        known = bool(backends) and all(backend.capabilities is not None for backend in backends)
        report = Report(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            duration=round(time.monotonic() - self._began, 3),
            exit_code=int(exitstatus),
            complete=whole and known and exitstatus in {0, 1} and not self._missing,
            environment=environment(),
            families=FAMILIES,
            guarantees=GUARANTEES,
            backends=backends,
            missing=tuple(Missing(error.what, error.why, error.how_to_get_it) for error in self._missing),
        )
        self._path.write_bytes(encoded(report) + b"\n")

    def _part(self) -> Part:
        tests: defaultdict[str, list[Test]] = defaultdict(list)
        for nodeid, reports in self._reports.items():
            of, shown, front = self._of_test[nodeid]
            tests[of].append(_test(shown, front, reports, self._backends[of]))
        found: list[Verified] = []
        for name, backend in self._backends.items():
            able = self._able.get(name, "no test of it ran")
            known = None if isinstance(able, str) else able
            found.append(verified(backend, tests[name], known, able if isinstance(able, str) else ""))
        ended = (test for test, said in self._reports.items() if any(report.when == "teardown" for report in said))
        return Part(self._deselected, frozenset(self._of_test), frozenset(ended), tuple(found))


def environment() -> dict[str, str]:
    """Return the versions with which a run was made. Clients are in the capabilities of each backend."""
    return {
        "unimq": version("unimq"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "pytest": pytest.__version__,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _backend_of(item: pytest.Item) -> Backend | None:
    """Return the backend of a test of the contract; others may use the fixture as well."""
    if item.get_closest_marker("guarantee") is None:
        return None
    callspec = getattr(item, "callspec", None)
    backend = callspec.params.get("backend") if callspec is not None else None
    return backend if isinstance(backend, Backend) else None


def _capabilities_of(backend: Backend) -> unimq.Capabilities | str:
    """Return what the backend declares, or why it does not say."""
    # As users see it: without the options that the harness adds.
    url = backend.tap.url if backend.tap is not None else backend.given or backend.url
    try:
        with unimq.connect(url, timeout=backend.bounds.within) as broker:
            return broker.capabilities
    except unimq.UnimqError as error:
        return f"{type(error).__name__}: {error}"


def _test(shown: str, front: str | None, reports: Sequence[pytest.TestReport], backend: Backend) -> Test:
    """Put together what pytest said of one test: setup, call, teardown, and each of its subtests."""
    said = [entry for report in reports for entry in report.user_properties]
    numbers = cast("tuple[str, ...]", dict(said)["guarantees"])
    phases = [report for report in reports if not isinstance(report, pytest.SubtestReport)]
    failures = [report for report in reports if report.failed or (hasattr(report, "wasxfail") and report.skipped)]
    outcome: Outcome = "passed"
    reason = ""
    if failures:
        outcome, reason = "failed", "\n".join(map(_failure, failures))
    elif skipped := [report for report in phases if report.skipped]:
        outcome, reason = "skipped", _skipped(skipped[0])
        if any(name == "unsupported" for name, _ in said):
            outcome = "unsupported"
    duration = round(sum(report.duration for report in phases), 3)
    return Test(shown, front, tuple(numbers), outcome, _masked(reason, backend)[:_LONGEST_REASON], duration)


def _failure(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    message = str(crash.message) if crash is not None else report.longreprtext.strip()
    if hasattr(report, "wasxfail"):
        # Somebody expects it; the guarantee is broken all the same.
        message = f"expected to fail: {report.wasxfail}\n{message}".strip()
    return message if report.when == "call" else f"at {report.when}: {message}"


def _skipped(report: pytest.TestReport) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
    return reason.removeprefix("Skipped: ")


def _masked(text: str, backend: Backend) -> str:
    """Hide passwords: in every URL, and wherever the one of somebody else's broker stands."""
    text = mask_password(text)
    password = urlsplit(backend.url).password
    if password and (backend.tap is None or backend.tap.tap.rung not in _OURS):
        for form in {password, unquote(password)}:
            text = re.sub(re.escape(form), "***", text)
    return text
