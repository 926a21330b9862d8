"""``unimq.toml``: brokers by name, and destinations with their policies. ``docs/configuration.md`` lists every key.

Imported on use only: where there is no URL, or a bare name is used. What the file says of a broker may be secret: it is
in no text form and in no error, whether it stands in the file or in an environment variable.
"""

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_type_hints
from urllib.parse import quote

import msgspec
from msgspec import UNSET, Meta, UnsetType

from unimq._destinations import Queue, Subscription, Topic
from unimq._errors import ConfigError
from unimq._url import BrokerURL, nearest, parse_url

FILE = "unimq.toml"
_PYPROJECT = "pyproject.toml"
_LARGEST = 1 << 20
"""Bytes of a file that are read; a configuration is a few kilobytes."""
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_VARIABLE = re.compile(r"(?P<escaped>\$?)\$\{(?P<name>[^}]*)(?P<end>\}?)")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BROKER_NAME = re.compile(r"[A-Za-z0-9_.-]{1,80}")
_URL_PARTS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<account>[^/?#]*@)?(?P<hosts>[^/?#]*)(?P<rest>.*)")

# Titles say what is right, in errors and in the documentation; descriptions are the documentation's.
Duration = Annotated[float | str, Meta(title='seconds, or a text such as "30s", "15m" or "1h30m"', examples=["1h"])]
Count = Annotated[int, Meta(ge=1, le=2**63 - 1, title="a whole number of at least 1", examples=[5])]
Flag = Annotated[bool, Meta(title="true or false", examples=[True])]
Ordering = Annotated[Literal["none", "key"], Meta(title='"none" or "key"', examples=["key"])]
Overflow = Annotated[Literal["reject", "drop_oldest"], Meta(title='"reject" or "drop_oldest"', examples=["reject"])]
Start = Annotated[Literal["now", "earliest"], Meta(title='"now" or "earliest"', examples=["now"])]
Text = Annotated[str, Meta(title="a text", examples=["local"])]
Tables = Annotated[dict[str, dict[str, Any]], Meta(title="tables", examples=[])]


class File(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The whole file, or the table ``[tool.unimq]``."""

    default: Text | UnsetType = UNSET
    """The broker that is used when nothing else names one."""
    brokers: Tables | UnsetType = UNSET
    """Brokers by name: ``[brokers.NAME]``."""
    queues: Tables | UnsetType = UNSET
    """Queues by name: ``[queues.NAME]``."""
    topics: Tables | UnsetType = UNSET
    """Topics by name: ``[topics.NAME]``."""


class BrokerTable(msgspec.Struct, kw_only=True):
    """``[brokers.NAME]``; every other key is an option of the URL's scheme."""

    url: Annotated[str, Meta(title="a URL", examples=["amqp://localhost/"])]
    """Scheme and hosts, and whatever else a URL of this broker has."""
    user: Text | UnsetType = UNSET
    """As in the URL, but as it is: nothing in it needs to be encoded."""
    password: Annotated[str, Meta(title="a text", examples=["${PASSWORD}"])] | UnsetType = UNSET
    """The same."""


class QueueTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``[queues.NAME]``"""

    ordering: Ordering | UnsetType = UNSET
    """``"key"`` delivers the messages of one key in the order in which they were sent, one in flight at a time (O1)."""
    ttl: Duration | UnsetType = UNSET
    """An undelivered message expires after it (T1)."""
    max_length: Count | UnsetType = UNSET
    """Messages that the queue holds (T3)."""
    overflow: Overflow | UnsetType = UNSET
    """Beyond ``max_length`` the sender gets `QueueFull`, or the oldest message is dropped (T3)."""
    lease: Duration | UnsetType = UNSET
    """An unsettled delivery returns after it (A5)."""
    max_deliveries: Count | UnsetType = UNSET
    """The failure of this delivery dead-letters the message (A8)."""
    dead_letter: Flag | UnsetType = UNSET
    """Rejected and exhausted messages move to ``NAME-dead``; ``false`` drops them (A4, D4)."""
    dead_letter_expired: Flag | UnsetType = UNSET
    """Expired messages move there, too (T1)."""
    portable_name: Flag | UnsetType = UNSET
    """``false`` allows a name that is not valid on every backend."""


class TopicTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``[topics.NAME]``"""

    ordering: Ordering | UnsetType = UNSET
    """The same as for a queue, for every subscription of the topic (O1)."""
    require_subscription: Flag | UnsetType = UNSET
    """``true`` refuses a message that no subscription takes (G2)."""
    portable_name: Flag | UnsetType = UNSET
    """``false`` allows a name that is not valid on every backend."""
    subscriptions: Tables | UnsetType = UNSET
    """Subscriptions by name: ``[topics.NAME.subscriptions.NAME]``; a program names one as ``"TOPIC--NAME"``."""


class SubscriptionTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``[topics.NAME.subscriptions.NAME]``"""

    start: Start | UnsetType = UNSET
    """``"earliest"`` asks for the messages sent before it was declared (G2)."""
    ttl: Duration | UnsetType = UNSET
    """As for a queue (T1)."""
    max_length: Count | UnsetType = UNSET
    """As for a queue (T3)."""
    overflow: Overflow | UnsetType = UNSET
    """As for a queue (T3)."""
    lease: Duration | UnsetType = UNSET
    """As for a queue (A5)."""
    max_deliveries: Count | UnsetType = UNSET
    """As for a queue (A8)."""
    dead_letter: Flag | UnsetType = UNSET
    """As for a queue; the dead letters are in ``TOPIC--NAME-dead`` (A4, D4)."""
    dead_letter_expired: Flag | UnsetType = UNSET
    """As for a queue (T1)."""


TABLES = (File, BrokerTable, QueueTable, TopicTable, SubscriptionTable)
T = TypeVar("T", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Configuration:
    """What one file says; without a file, nothing. Its text form shows nothing that may be secret."""

    path: Path | None
    default: str | None
    brokers: "Mapping[str, _Broker]"
    destinations: Mapping[str, Queue | Topic | Subscription]
    """By the name that a program uses: ``orders``, ``events``, ``events--audit``."""

    def named(self, broker: str | None) -> tuple[BrokerURL, str]:
        """Return a broker of the file, or its default: the URL with the environment variables filled in, and the place
        of its table, for errors about it.

        Raises:
            ConfigError: there is no such broker, one of its keys is wrong, or a variable is not set.

        """
        if broker is None:
            broker = self.default
        if broker is None:
            where = f"{self.path} names no default" if self.path else f"there is no {FILE}"
            raise ConfigError(f"no broker URL: {where}; give a URL or a name, or set UNIMQ_URL or UNIMQ_BROKER")
        found = self.brokers.get(broker)
        if found is not None:
            return found.address(), found.place
        # What is neither a URL nor the shape of a name may hold a password.
        shown = repr(broker) if _BROKER_NAME.fullmatch(broker) else "of that name"
        known = f"in {self.path}: {nearest(broker, self.brokers)}" if self.path else f"and no {FILE}"
        raise ConfigError(
            f"no broker {shown} {known}; a broker URL looks like scheme://host:port, for example memory:// or"
            " amqp://localhost"
        )


@dataclass(frozen=True, slots=True)
class _Broker:
    """One ``[brokers.NAME]``, as it stands in the file."""

    place: str
    table: BrokerTable = field(repr=False)
    options: Mapping[str, str] = field(repr=False)

    def unset_variables(self) -> list[str]:
        """Return the names of the environment variables that it uses and that are not set."""
        table = self.table
        texts = (table.url, table.user, table.password, *self.options.values())
        found = (match for text in texts if isinstance(text, str) for match in _VARIABLE.finditer(text))
        return sorted({match["name"] for match in found if not match["escaped"]} - os.environ.keys())

    def address(self) -> BrokerURL:
        table, place = self.table, self.place
        text = _url_with_variables(table.url, f"{place}.url")
        try:
            url = parse_url(text)
        except ConfigError as error:
            raise ConfigError(f"{place}.url: {error}") from None
        for key in ("user", "password"):
            value: str | UnsetType = getattr(table, key)
            if value is UNSET:
                continue
            if getattr(url, key) is not None:
                raise ConfigError(f"{place}: {key} is given twice, in the url and as a key")
            filled = _with_variables(value, f"{place}.{key}")
            url = replace(url, user=filled) if key == "user" else replace(url, password=filled)
        for name in self.options:
            if name in url.options:
                raise ConfigError(f"{place}: option {name!r} is given twice, in the url and as a key")
        options = {name: _with_variables(value, f"{place}.{name}") for name, value in self.options.items()}
        return replace(url, options={**url.options, **options})


# Finding.


def find_configuration(given: str | os.PathLike[str] | None = None) -> Configuration:
    """Read the file that is given, or that ``UNIMQ_CONFIG`` names, or the nearest one from the working directory up.

    The search ends with a repository's root, the home directory, and before a folder that everybody may write to.

    Raises:
        ConfigError: the file cannot be read, or something in it is wrong; the error names file and key.

    """
    if given is not None:
        return read_configuration(Path(given))
    named = os.environ.get("UNIMQ_CONFIG")
    if named:
        return read_configuration(Path(named))
    for folder in _folders():
        if _exists(folder / FILE):
            return read_configuration(folder / FILE)
        if _exists(folder / _PYPROJECT):
            tool = _load(folder / _PYPROJECT).get("tool")
            if isinstance(tool, dict) and "unimq" in tool:
                return read_configuration(folder / _PYPROJECT)
    return Configuration(None, None, {}, {})


def _folders() -> Iterable[Path]:
    home = os.path.expanduser("~")  # noqa: PTH111 - Path.home() raises where there is none
    try:
        start = Path.cwd()
        for folder in (start, *start.parents):
            if folder != start and folder.stat().st_mode & 0o002:
                # A file of somebody else there would decide where messages go.
                return
            yield folder
            if str(folder) == home or _exists(folder / ".git") or _exists(folder / ".hg"):
                return
    except OSError:
        # The working directory was deleted, or what is above it may not be seen.
        return


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except OSError:
        return False
    return True


# Reading.


def read_configuration(path: Path) -> Configuration:
    """Read one file; of a ``pyproject.toml`` its table ``[tool.unimq]``.

    Raises:
        ConfigError: see `find_configuration`.

    """
    content = _load(path)
    place = f"{path}: "
    if path.name == _PYPROJECT:
        for key in ("tool", "unimq"):
            place += f"{key}."
            inner = content.get(key, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{place.rstrip('.')}: expected a table, not {_kind_of(inner)}")
            content = cast("dict[str, Any]", inner)
    file = _converted(content, File, place)
    brokers = {
        name: _broker(table, f"{place}brokers.{_key(name)}") for name, table in _tables(file.brokers, f"{place}brokers")
    }
    default = None if file.default is UNSET else file.default
    if default is not None and default not in brokers:
        raise ConfigError(f"{place}default: no broker of that name; {nearest(default, brokers)}")
    return Configuration(path, default, brokers, _destinations(file, place))


def _load(path: Path) -> dict[str, Any]:
    import tomllib

    problem = ""
    try:
        with path.open("rb") as stream:
            data = stream.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise ConfigError(f"{path}: more than {_LARGEST} bytes, which is no configuration")
        return tomllib.loads(data.decode())
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        problem = "is no UTF-8 text"
    except RecursionError:
        problem = "is nested too deeply"
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        problem = f"is not valid TOML: {error}"
    # Raised here, because the errors above hold the whole text of the file, secrets included.
    raise ConfigError(f"{path}: {problem}")


def _broker(table: dict[str, Any], place: str) -> _Broker:
    known = {key: value for key, value in table.items() if key in BrokerTable.__struct_fields__}
    if "url" not in known:
        raise ConfigError(f'{place}: the key url is missing; for example url = "amqp://localhost/"')
    options: dict[str, str] = {}
    for name, value in table.items():
        if name in known:
            continue
        if not isinstance(value, str | int | float) or _is_huge(value):
            raise ConfigError(f"{place}.{_key(name)}: expected a text, number or flag, not {_kind_of(value)}")
        options[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return _Broker(place, _converted(known, BrokerTable, f"{place}."), options)


def _destinations(file: File, place: str) -> dict[str, Queue | Topic | Subscription]:
    found: dict[str, Queue | Topic | Subscription] = {}
    for name, table in _tables(file.queues, f"{place}queues"):
        where = f"{place}queues.{_key(name)}"
        policies = _policies(table, QueueTable, where)
        queue = _built(where, Queue, name, **policies)
        if queue.is_of_subscription:
            topic, _, subscription = name.partition("--")
            raise ConfigError(
                f"{where}: the queue of a subscription; use [topics.{topic}.subscriptions.{subscription}]"
            )
        found[name] = queue
    for name, table in _tables(file.topics, f"{place}topics"):
        where = f"{place}topics.{_key(name)}"
        policies = _policies(table, TopicTable, where)
        subscriptions = policies.pop("subscriptions", UNSET)
        topic = _built(where, Topic, name, **policies)
        if name in found:
            raise ConfigError(f"{where}: there is a queue of the same name, and a program could mean either")
        found[name] = topic
        for part, inner in _tables(subscriptions, f"{where}.subscriptions"):
            here = f"{where}.subscriptions.{_key(part)}"
            source = _built(here, topic.subscription, part, **_policies(inner, SubscriptionTable, here))
            found[source.queue.name] = source
    return found


def _built(place: str, make: Any, name: str, **policies: Any) -> Any:
    try:
        return make(name, **policies)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None


def _tables(tables: Any, place: str) -> Iterable[tuple[str, dict[str, Any]]]:
    return () if tables is UNSET else tables.items()


def _policies(table: dict[str, Any], shape: type[msgspec.Struct], place: str) -> dict[str, Any]:
    checked = _converted(table, shape, f"{place}.")
    given = {name: getattr(checked, name) for name in shape.__struct_fields__}
    return {
        name: _seconds(value, f"{place}.{name}") if name in {"ttl", "lease"} else value
        for name, value in given.items()
        if value is not UNSET
    }


def _seconds(value: float | str, place: str) -> float:
    if isinstance(value, str):
        if not _DURATION.fullmatch(value):
            raise ConfigError(f'{place}: expected seconds, or a text such as "30s", "15m" or "1h30m", not {value!r}')
        value = sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(value))
    if not math.isfinite(value) or value <= 0:
        raise ConfigError(f"{place}: must be more than 0 seconds, not {value:g}")
    return value


def _converted(table: dict[str, Any], shape: type[T], place: str) -> T:
    """Return a table as a struct; `place` is what stands before the names of its keys."""
    for key in table:
        if key not in shape.__struct_fields__:
            raise ConfigError(f"{place}{_key(key)}: unknown key; {nearest(key, shape.__struct_fields__)}")
    for key, value in table.items():
        # One key after the other, because an error of the whole does not name keys of tables of tables.
        try:
            msgspec.convert(value, get_type_hints(shape, include_extras=True)[key])
        except msgspec.ValidationError:
            raise ConfigError(_what_is_right(shape, key, value, f"{place}{key}")) from None
    return msgspec.convert(table, shape)


def _what_is_right(shape: type[msgspec.Struct], key: str, value: object, place: str) -> str:
    meta = meta_of(shape, key)
    if meta.title == "tables":
        if not isinstance(value, dict):
            return f"{place}: expected tables, [{place.rpartition(': ')[2]}.NAME], not {_kind_of(value)}"
        tables = cast("dict[str, object]", value)
        name = next(name for name in tables if not isinstance(tables[name], dict))
        return f"{place}.{_key(name)}: expected a table, not {_kind_of(tables[name])}"
    example = msgspec.json.encode((meta.examples or [None])[0]).decode()
    # A value is shown where it can be no secret.
    may_be_shown = shape is not BrokerTable and isinstance(value, str | int | float) and not _is_huge(value)
    shown = f"{value!r:.40}" if may_be_shown else _kind_of(value)
    return f"{place}: expected {meta.title}, for example {key} = {example}, not {shown}"


def meta_of(shape: type[msgspec.Struct], key: str) -> Meta:
    """Return what is known of a key: its title and examples."""
    hint = get_type_hints(shape, include_extras=True)[key]
    candidates = (hint, *get_args(hint))
    return next(meta for one in candidates for meta in getattr(one, "__metadata__", ()) if isinstance(meta, Meta))


def _kind_of(value: object) -> str:
    kinds: dict[type, str] = {
        bool: "a flag",
        int: "a whole number",
        float: "a number",
        str: "a text",
        list: "an array",
        dict: "a table",
    }
    return kinds.get(type(value), "a date or time")


def _is_huge(value: object) -> bool:
    """Whether it is a number that Python does not even write down."""
    return isinstance(value, int) and value.bit_length() > 64


def _key(name: str) -> str:
    """Return a key as it is written in TOML, and not longer than an error should be."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]{1,80}", name) else f"{name!r:.80}"


# Environment variables.


def _url_with_variables(url: str, place: str) -> str:
    """Fill in variables; what stands for a part that a URL encodes is encoded, so that any password can be meant."""
    parts = _URL_PARTS.fullmatch(url)
    if parts is None:
        return _with_variables(url, place)
    return (
        parts["scheme"]
        + _with_variables(parts["account"] or "", place, encoded=True)
        + _with_variables(parts["hosts"], place)
        + _with_variables(parts["rest"], place, encoded=True)
    )


def _with_variables(text: str, place: str, *, encoded: bool = False) -> str:
    def value_of(match: re.Match[str]) -> str:
        if match["escaped"]:
            return match[0][1:]
        name = match["name"]
        if not match["end"] or not _VARIABLE_NAME.fullmatch(name):
            raise ConfigError(
                f"{place}: ${{NAME}} takes the name of an environment variable; write $${{ for a plain ${{"
            )
        value = os.environ.get(name)
        if value is None:
            raise ConfigError(f"{place}: the environment variable {name} is not set")
        return quote(value, safe="") if encoded else value

    return _VARIABLE.sub(value_of, text)
