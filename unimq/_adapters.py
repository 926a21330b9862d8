"""From the scheme of a URL to its adapter: a built-in table first, then the entry points of ``unimq.adapters``."""

import importlib
from typing import TYPE_CHECKING, Literal, get_args, get_origin, get_type_hints

import msgspec

from unimq._errors import ConfigError
from unimq._url import BrokerURL, nearest

if TYPE_CHECKING:
    from unimq.adapter import Adapter

_BUILT_IN = {
    "memory": "unimq_memory:MemoryAdapter",
    "amqp": "unimq_rabbitmq:RabbitMQAdapter",
    "amqps": "unimq_rabbitmq:RabbitMQAdapter",
    "kafka": "unimq_kafka:KafkaAdapter",
    "kafka+ssl": "unimq_kafka:KafkaAdapter",
    "sqs": "unimq_sqs:SQSAdapter",
    "sqs+http": "unimq_sqs:SQSAdapter",
}
"""Strings, so that nothing is imported before it is asked for, and no metadata is scanned (40 ms) for these."""

_registered: dict[str, "Adapter"] = {}

COMMON_OPTIONS = {"declare"}
"""URL options that the portable layer itself reads."""


def register_adapter(adapter: "Adapter") -> None:
    """Use `adapter` for its schemes in this process, before the built-in ones: for tests and wrappers."""
    for scheme in adapter.schemes:
        _registered[scheme] = adapter


def unregister_adapter(adapter: "Adapter") -> None:
    """Undo `register_adapter`."""
    for scheme in adapter.schemes:
        if _registered.get(scheme) is adapter:
            del _registered[scheme]


def load_adapter(scheme: str) -> "Adapter":
    """Return the adapter for a scheme.

    Raises:
        ConfigError: no adapter has this scheme; the error lists those that exist.
        MissingDependency: its client library is not installed.

    """
    if scheme in _registered:
        return _registered[scheme]
    if scheme in _BUILT_IN:
        module_name, _, attribute = _BUILT_IN[scheme].partition(":")
        return getattr(importlib.import_module(module_name), attribute)()  # type: ignore[no-any-return]
    from importlib.metadata import entry_points

    found = {point.name: point for point in entry_points(group="unimq.adapters")}
    if scheme in found:
        return found[scheme].load()()  # type: ignore[no-any-return]
    raise ConfigError(f"no adapter for scheme {scheme!r}; {nearest(scheme, [*_BUILT_IN, *_registered, *found])}")


def read_options(adapter: "Adapter", url: BrokerURL) -> tuple[msgspec.Struct, bool]:
    """Return the adapter's options and whether destinations are declared on use.

    Raises:
        ConfigError: an option is unknown or has a wrong value; the error names the option and what is valid.

    """
    given = dict(url.options)
    declare = _read_declare(given.pop("declare", "true"))
    names = {field.encode_name for field in msgspec.structs.fields(adapter.options)}
    for name in given:
        if name not in names:
            raise ConfigError(f"unknown option {name!r} for {url.scheme}://; {nearest(name, names | COMMON_OPTIONS)}")
    try:
        return msgspec.convert(given, adapter.options, strict=False), declare
    except msgspec.ValidationError as error:
        text, _, path = str(error).partition(" - at `$.")
        name = path.rstrip("`")
        if text.startswith("Invalid enum value"):
            # The value may be a secret in the wrong place.
            text = f"invalid value; valid: {', '.join(_choices(adapter.options, name))}"
        raise ConfigError(f"option {name or '?'!r} of {url.scheme}://: {text}") from None


def _choices(options: type[msgspec.Struct], name: str) -> list[str]:
    hint = get_type_hints(options)[name]
    literals = (hint, *get_args(hint))
    return [str(choice) for literal in literals if get_origin(literal) is Literal for choice in get_args(literal)]


def _read_declare(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ConfigError('option "declare" must be true or false')
    return text == "true"
