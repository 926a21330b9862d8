"""``unimq check``, ``plan`` and ``apply``: a configuration against what a backend can do, and against what is there."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unimq._adapters import load_adapter, read_options
from unimq._broker import BrokerCore
from unimq._capabilities import Capabilities, Support
from unimq._cli._output import fail, write_json, write_line, write_table
from unimq._configuration import Configuration, find_configuration
from unimq._destinations import Queue, Subscription, Topic, queue_of
from unimq._errors import ConfigError, DeclarationConflict, MissingDependency, NotFound, UnimqError, Unsupported
from unimq._policies import demands, require
from unimq._sync import Broker
from unimq._url import BrokerURL
from unimq.adapter import OfflineAdapter

Destination = Queue | Topic | Subscription


def read(file: Path | None) -> Configuration:
    """Read the file, or find it.

    Raises:
        ConfigError: there is none, or something in it is wrong.

    """
    found = find_configuration(file)
    if found.path is None:
        raise ConfigError(
            f"no unimq.toml or [tool.unimq] from {Path.cwd()} upwards; name the file, or set UNIMQ_CONFIG"
        )
    return found


# Check.


def check(configuration: Configuration, url: BrokerURL, place: str, *, json: bool) -> int:
    """Tell for every policy of every destination whether the backend has it; return 1 if it lacks one."""
    try:
        assumed = _offline(url)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}" if place else str(error)) from error.__cause__
    broken = [problem for name in configuration.brokers if (problem := _broker_problem(configuration, name))]
    verdicts = [_verdicts(assumed, one) for one in configuration.destinations.values()]
    missing = sum(policy["support"] == "unsupported" for verdict in verdicts for policy in verdict["policies"])
    if json:
        version = {"backend": assumed.backend, "assumed_version": assumed.broker_version, "emulator": assumed.emulator}
        write_json({"file": str(configuration.path), "broker": str(url), **version, "problems": broken})
        for verdict in verdicts:
            write_json(verdict)
    else:
        write_table(
            ("destination", "kind", "policy", "support", "note", "use instead"),
            [
                (verdict["destination"], verdict["kind"], *(policy[column] for column in _COLUMNS))
                for verdict in verdicts
                for policy in verdict["policies"] or [dict.fromkeys(_COLUMNS, "")]
            ],
            title=f"{configuration.path} on {url}, not connected: {_assumption(assumed)}",
        )
    for problem in broken:
        fail(problem)
    if missing:
        fail(f"{_number(missing, 'policy', 'policies')} unsupported on {assumed.backend}")
    elif not json:
        write_line(f"{_number(len(verdicts), 'destination', 'destinations')} can be declared".encode())
    return 1 if missing or broken else 0


_COLUMNS = ("policy", "support", "note", "alternative")


def _offline(url: BrokerURL) -> Capabilities:
    adapter = load_adapter(url.scheme)
    options, _ = read_options(adapter, url)
    if not isinstance(adapter, OfflineAdapter):
        raise ConfigError(f"the adapter of {url.scheme}:// knows nothing without a connection; unimq plan connects")
    return adapter.offline_capabilities(url, options)


def _broker_problem(configuration: Configuration, name: str) -> str | None:
    """Return what is wrong with a broker of the file; without its variables or client it is not for this machine."""
    if configuration.brokers[name].unset_variables():
        return None
    try:
        url, place = configuration.named(name)
    except ConfigError as error:
        return str(error)
    try:
        _offline(url)
    except MissingDependency:
        return None
    except UnimqError as error:
        return f"{place}: {error}"
    return None


def _verdicts(capabilities: Capabilities, destination: Destination) -> dict[str, Any]:
    policies: list[dict[str, str]] = []
    for policy, feature in demands(destination):
        found = getattr(capabilities, feature)
        support, note, alternative = found.support, found.note, found.alternative
        try:
            require(capabilities, feature, destination)
        except Unsupported as error:
            support, note, alternative = Support.UNSUPPORTED, error.reason, error.alternative
        policies.append(dict(zip(_COLUMNS, (policy, support.value, note, alternative), strict=True)))
    return {"destination": _name_of(destination), "kind": _kind_of(destination), "policies": policies}


def _assumption(assumed: Capabilities) -> str:
    if assumed.emulator:
        return f"{assumed.backend} ({assumed.emulator}) is assumed"
    return f"{assumed.backend} {assumed.broker_version or 'of any version'} is assumed"


# Plan and apply.

State = Literal["missing", "there", "conflict", "unsupported", "made", "failed", "not tried"]


@dataclass(slots=True)
class Step:
    """What there is, or has become, of one destination."""

    destination: Destination
    state: State
    reason: str = ""
    alternative: str = ""

    @property
    def is_problem(self) -> bool:
        """Whether it keeps the configuration from being in force."""
        return self.state not in {"missing", "there", "made"}


def plan(broker: Broker, destinations: Iterable[Destination]) -> list[Step]:
    """Look at every destination with its dead letters, and change nothing."""
    return [_look(broker._core, one) for one in _with_dead_letters(destinations)]


def _with_dead_letters(destinations: Iterable[Destination]) -> list[Destination]:
    """Topics stand before their subscriptions, as in the file; dead letters before their source."""
    listed: dict[str, Destination] = {}
    given = {_name_of(one): one for one in destinations}
    for name, destination in given.items():
        dead = None if isinstance(destination, Topic) else queue_of(destination).dead_letters
        if dead is not None and dead.name not in given:
            listed[dead.name] = dead
        listed[name] = destination
    return list(listed.values())


def _look(core: BrokerCore, destination: Destination) -> Step:
    try:
        core.check_policies(destination)
        core.driver.check(destination, timeout=core.timeout)
        if (compared := _compared(core, destination)) is not None:
            dead = isinstance(destination, Queue) and destination.name not in core.configuration.destinations
            core.driver.declare(compared, as_is=dead, timeout=core.timeout)
    except Unsupported as error:
        return Step(destination, "unsupported", f"{error.feature}: {error.reason}", error.alternative)
    except NotFound:
        return Step(destination, "missing")
    except DeclarationConflict as error:
        return Step(destination, "conflict", str(error))
    return Step(destination, "there")


def _compared(core: BrokerCore, destination: Destination) -> Destination | None:
    """Return what compares its policies with those of an existing destination, and changes nothing, when declared."""
    if not isinstance(destination, Subscription):
        return destination
    # The subscription itself might be bound anew. Where its queue is not one by itself (Kafka), nothing is kept there.
    try:
        core.driver.check(destination.queue, timeout=core.timeout)
    except NotFound:
        return None
    return destination.queue


def apply(broker: Broker, steps: Sequence[Step]) -> None:
    """Make what is missing, unless one destination cannot be as it should: then nothing. Sets what became of each."""
    if any(step.is_problem for step in steps):
        return
    failed = False
    for step in steps:
        if failed:
            step.state = "not tried" if step.state == "missing" else step.state
            continue
        try:
            is_dead = _name_of(step.destination) not in broker._core.configuration.destinations
            broker._core.declare(step.destination, as_is=is_dead)
        except UnimqError as error:
            step.state, step.reason, failed = "failed", f"{type(error).__name__}: {error}", True
        else:
            step.state = "made" if step.state == "missing" else step.state


def tell(steps: Sequence[Step], title: str, *, json: bool) -> int:
    """Print what was found or done; return 1 if there is a problem."""
    rows = [
        (_name_of(step.destination), _kind_of(step.destination), step.state, step.reason, step.alternative)
        for step in steps
    ]
    if json:
        for row in rows:
            write_json(dict(zip(("destination", "kind", "state", "reason", "alternative"), row, strict=True)))
    else:
        write_table(("destination", "kind", "state", "reason", "use instead"), rows, title=title)
    problems = sum(step.is_problem for step in steps)
    if not problems:
        return 0
    made = sum(step.state == "made" for step in steps)
    return fail(f"{problems} of {len(steps)} destinations cannot be as configured; made: {made or 'nothing'}")


def _name_of(destination: Destination) -> str:
    return destination.name if isinstance(destination, Topic) else queue_of(destination).name


def _kind_of(destination: Destination) -> str:
    return type(destination).__name__.lower()


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
