"""Broker URLs: ``scheme://user:password@host:port,host:port/path?option=value``."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from unimq._errors import ConfigError

_SHAPE = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?:(?P<user>[^/?#@]*)@)?(?P<hosts>[^/?#@]*)(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?"
)
_HOST = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*)(?::(?P<port>.*))?")
_LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class BrokerURL:
    """A parsed broker URL. Its text form never shows the password or option values."""

    scheme: str
    hosts: tuple[tuple[str, int | None], ...]
    """Hosts in the order given, each with its port or ``None`` for the default; empty if none was given."""
    user: str | None = field(repr=False)
    password: str | None = field(repr=False)
    path: str | None
    """What follows the hosts, without its slash and decoded; ``None`` if there was no slash, ``""`` for a bare one."""
    options: dict[str, str] = field(repr=False)

    def __str__(self) -> str:
        named = [(f"[{host}]" if ":" in host else host, port) for host, port in self.hosts]
        hosts = ",".join(host if port is None else f"{host}:{port}" for host, port in named)
        account = f"{self.user}:***@" if self.user else ""
        return f"{self.scheme}://{account}{hosts}" + (f"/{self.path}" if self.path is not None else "")


def parse_url(url: str) -> BrokerURL:
    """Parse a broker URL.

    Raises:
        ConfigError: it has no scheme, a malformed host, port or option; the error never shows the password.

    """
    if not isinstance(url, str):
        raise ConfigError(f"a broker URL must be str, not {type(url).__name__}")
    shape = _SHAPE.fullmatch(url)
    if shape is None:
        raise ConfigError("a broker URL looks like scheme://host:port, for example memory:// or amqp://localhost")
    user, password = None, None
    if shape["user"]:
        name, colon, secret = shape["user"].partition(":")
        user, password = unquote(name), unquote(secret) if colon else None
    hosts = tuple(_parse_host(part) for part in shape["hosts"].split(",")) if shape["hosts"] else ()
    options: dict[str, str] = {}
    for name, value in parse_qsl(shape["query"] or "", keep_blank_values=True):
        if name in options:
            raise ConfigError(f"option {name!r} is given twice in the URL")
        options[name] = value
    path = shape["path"]
    return BrokerURL(
        shape["scheme"].lower(), hosts, user, password, None if path is None else unquote(path[1:]), options
    )


def is_name(url: object) -> bool:
    """Whether it is no URL, but may be the name of a broker in the configuration."""
    return isinstance(url, str) and "://" not in url


def _parse_host(text: str) -> tuple[str, int | None]:
    shape = _HOST.fullmatch(text)
    if shape is None or not shape["host"]:
        # The text is not shown, here and below: where somebody forgot the host, it is the password.
        raise ConfigError("a host in the URL is missing or malformed: expected host or host:port")
    if shape["port"] is None:
        return shape["host"].strip("[]"), None
    port = shape["port"]
    if not (port.isascii() and port.isdecimal()):
        raise ConfigError(f"the port of host {shape['host']!r} in the URL is no number; expected 1 to {_LAST_PORT}")
    if not 0 < int(port) <= _LAST_PORT:
        raise ConfigError(f"port {port} of host {shape['host']!r} in the URL: expected 1 to {_LAST_PORT}")
    return shape["host"].strip("[]"), int(port)


def nearest(word: str, valid: Iterable[str]) -> str:
    """Return a hint that names the valid word nearest to `word`, and all of them."""
    known = sorted(valid)
    close = difflib.get_close_matches(word, known, n=1)
    listed = ", ".join(known) or "none"
    return f"did you mean {close[0]!r}? Valid: {listed}" if close else f"valid: {listed}"
