"""The workload files: what is measured, with which parameters, on which backend and in which profile."""

import difflib
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from unimq_bench.bodies import CONTENTS, SMALLEST

PROFILES = ("smoke", "standard", "full")
Kind = Literal[
    "calibrate", "slices", "stream", "rates", "sustainable", "fan", "fault", "redeliver", "backlog", "article", "cost"
]
_POINTS = 200
_MIB = 1024 * 1024


class BadWorkload(ValueError):
    """A workload, key or value is wrong; the message names the nearest valid one or the range."""


Count = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
Rate = Annotated[float, msgspec.Meta(ge=0, le=10_000_000)]
Size = Annotated[int, msgspec.Meta(ge=SMALLEST, le=256 * _MIB)]
Length = Annotated[float, msgspec.Meta(gt=0, le=3600)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Few = Annotated[int, msgspec.Meta(ge=1, le=256)]


class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a workload can set. Times are seconds, sizes bytes, rates messages per second."""

    size: Size = 100
    content: Literal["random", "compressible"] = "random"
    window: Count = 1000
    """Unconfirmed messages of one producer."""
    prefetch: Count = 500
    """Unsettled messages of one consumer."""
    batch: Count = 500
    """Messages that one receive takes at most."""
    rate: Rate = 0.0
    """0: the share `load` of what the row can do flat out."""
    seconds: Length = 5.0
    """Of one slice, or of one stream."""
    warm_up: Length = 0.5
    """At the start of a stream; its times are thrown away."""
    processes: Annotated[int, msgspec.Meta(ge=1, le=100)] = 5
    """Fresh sets of processes."""
    rounds: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 2
    """Slices of each row in one set of processes."""
    messages: Annotated[int, msgspec.Meta(ge=0, le=200_000)] = 0
    """In one slice, instead of `seconds`."""
    twin: bool = False
    """Run the last row twice, for the noise floor."""
    producers: Few = 1
    consumers: Few = 1
    threads: Few = 1
    """Producers, or consumers, in one process."""
    queues: Few = 1
    partitions: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    """Of a Kafka topic; 0: the row's own number."""
    patience: Length = 20.0
    """Without any message, after which one that is missing is called lost."""
    sizes: Annotated[tuple[Size, ...], msgspec.Meta(max_length=_POINTS)] = ()
    contents: tuple[Literal["random", "compressible"], ...] = ()
    windows: Annotated[tuple[Count, ...], msgspec.Meta(max_length=_POINTS)] = ()
    shapes: Annotated[tuple[tuple[Few, Few, Few], ...], msgspec.Meta(max_length=_POINTS)] = ()
    """Producers, consumers, and queues or partitions."""
    fractions: Annotated[tuple[Share, ...], msgspec.Meta(max_length=_POINTS)] = ()
    """Of what the row can do flat out."""
    load: Share = 0.5
    """Of what the row can do flat out."""
    slo: Length = 0.1
    """Response p99 that a sustainable rate keeps."""
    trials: Annotated[int, msgspec.Meta(ge=1, le=50)] = 5
    confirmations: Annotated[int, msgspec.Meta(ge=1, le=50)] = 3
    build: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] = 50_000
    """Messages that wait before the consumers come."""
    pause_at: Length = 4.0
    pause: Annotated[float, msgspec.Meta(ge=0, le=600)] = 0.0
    fault_at: Length = 4.0
    nack_every: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    reject_every: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    max_rate: Rate = 0.0
    """Beyond which no rate is offered; 0: no limit."""


class Workload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One workload file."""

    kind: Kind
    title: str
    about: str = ""
    name: str = ""
    rows: tuple[str, ...] = ("unimq", "raw")
    """Which rows compete unless the command says otherwise."""
    backends: tuple[str, ...] = ()
    """Where it makes sense; empty: everywhere."""
    requires: tuple[str, ...] = ()
    """Features of `unimq.Capabilities` without which it cannot be done."""
    needs_percentiles: bool = False
    parameters: dict[str, Any] = {}
    on: dict[str, dict[str, Any]] = {}
    """By backend, what differs there."""
    profiles: dict[str, dict[str, Any]] = {}
    """By profile, what differs there."""

    def parameters_for(self, backend: str, profile: str, given: dict[str, Any] | None = None) -> Parameters:
        """Return the parameters in force: the file's, those of the backend, of the profile, and those given.

        Raises:
            BadWorkload: a key is unknown or a value out of range.

        """
        merged = {**self.parameters, **self.on.get(backend, {}), **self.profiles.get(profile, {}), **(given or {})}
        for key in merged:
            if key not in Parameters.__struct_fields__:
                raise BadWorkload(f"workload {self.name}: {nearest(key, Parameters.__struct_fields__, 'key')}")
        try:
            return msgspec.convert(merged, Parameters)
        except msgspec.ValidationError as error:
            raise BadWorkload(f"workload {self.name}: {error}") from error


def nearest(word: str, valid: tuple[str, ...] | list[str], what: str) -> str:
    """Say that a word is unknown, and which is meant, or which there are."""
    near = difflib.get_close_matches(word, valid, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(valid)}"
    return f"unknown {what} {word!r}; {hint}"


def names() -> list[str]:
    """Return the workloads of this version, in the order in which ``all`` runs them."""
    return sorted(_shipped(), key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))


_ORDER = (
    "calibrate",
    "publish_max",
    "consume_max",
    "e2e_low",
    "rate_sweep",
    "max_sustainable",
    "size_sweep",
    "window_sweep",
    "fan",
    "backlog",
    "stall",
    "fault",
    "redeliver",
    "overhead",
    "peers",
    "article_table",
    "cost",
)


def _shipped() -> dict[str, str]:
    folder = files("unimq_bench") / "workloads"
    return {
        entry.name.removesuffix(".toml"): entry.read_text(encoding="utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    }


def load(name: str) -> Workload:
    """Read a workload: one of `names`, or a file whose name ends in ``.toml``.

    Raises:
        BadWorkload: there is none of this name, or the file is wrong.

    """
    if name.endswith(".toml"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadWorkload(f"the workload file {name} cannot be read: {error}") from error
        return parsed(Path(name).stem, text)
    shipped = _shipped()
    if name not in shipped:
        raise BadWorkload(nearest(name, names(), "workload"))
    return parsed(name, shipped[name])


def parsed(name: str, text: str) -> Workload:
    """Read the text of a workload file.

    Raises:
        BadWorkload: it is no TOML, has an unknown key, or a value out of range.

    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadWorkload(f"workload {name} is no TOML: {error}") from error
    for key in document:
        if key not in Workload.__struct_fields__ or key == "name":
            valid = [field for field in Workload.__struct_fields__ if field != "name"]
            raise BadWorkload(f"workload {name}: {nearest(key, valid, 'key')}")
    try:
        workload = msgspec.convert({**document, "name": name}, Workload)
    except msgspec.ValidationError as error:
        raise BadWorkload(f"workload {name}: {error}") from error
    for profile in workload.profiles:
        if profile not in PROFILES:
            raise BadWorkload(f"workload {name}: {nearest(profile, PROFILES, 'profile')}")
    for backend in ("", *workload.on):
        for profile in PROFILES:
            workload.parameters_for(backend, profile)
    return workload


def settings_of(texts: tuple[str, ...]) -> dict[str, Any]:
    """Read ``key=value`` from the command line; values are TOML, and words may go without quotes.

    Raises:
        BadWorkload: one is no such pair, or its key is unknown.

    """
    found: dict[str, Any] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        key = key.strip()
        if not separator:
            raise BadWorkload(f"{text!r} is no setting; expected KEY=VALUE, for example rate=500")
        if key not in Parameters.__struct_fields__:
            raise BadWorkload(nearest(key, Parameters.__struct_fields__, "key"))
        try:
            found[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            if value not in CONTENTS:
                raise BadWorkload(f"the value of {text!r} is no TOML value") from None
            found[key] = value
    return found
