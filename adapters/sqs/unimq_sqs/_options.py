"""What a ``sqs://`` URL says: region, account, endpoints and the few settings of the request threads."""

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from unimq import ConfigError
from unimq.adapter import BrokerURL

LONGEST_VISIBILITY = 43_200
"""Seconds that SQS keeps a message invisible after its receive at most; extensions included."""
_REGION = re.compile(r"[a-z0-9]+(-[a-z0-9]+)+")
_HTTPS_PORT = 443


class SQSOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Options of a ``sqs://`` or ``sqs+http://`` URL; durations are whole seconds, as SQS has no others."""

    region: str = ""
    """AWS region; without it the one of botocore's configuration, and ``us-east-1`` for ``sqs+http``."""
    profile: str = ""
    """Named profile of the AWS configuration files, for ``sqs`` only."""
    endpoint: str = ""
    """``https://host[:port]`` of SQS instead of the region's own, for VPC endpoints; ``sqs`` only."""
    sns_endpoint: str = ""
    """The same for SNS."""
    wait: Annotated[int, msgspec.Meta(ge=1, le=20)] = 5
    """Seconds that one long poll waits. `Consumer.close` waits for the last one, so that no message is stranded in an
    aborted request (L1): longer ones cost a slower close, shorter ones more requests."""
    idle_wait: Annotated[int, msgspec.Meta(ge=1, le=20)] = 20
    """The same once nothing has come for a minute; at least `wait`."""
    collect_ms: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 60
    """Milliseconds for which enqueued messages, and those of a queue, collect after the request before, so that a
    steady stream shares requests. Nobody waits who waits for an outcome, nor the first message after a quiet time."""
    visibility: Annotated[int, msgspec.Meta(ge=2, le=LONGEST_VISIBILITY)] = 60
    """Seconds after which the messages of a dead consumer return, where no lease is declared; renewed while held."""
    pollers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    """Long polls that one consumer has open at most; it starts with one and adds more while they come back full."""
    senders: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8
    """Requests that one producer has open at most."""
    http: Literal["botocore", "fast"] = "botocore"
    """Who makes the requests that carry messages: botocore, or a short path with a sixth of its CPU."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A checked URL with its options."""

    options: SQSOptions
    is_emulator: bool
    region: str | None
    endpoint: str | None
    sns_endpoint: str | None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)

    @property
    def longest_wait(self) -> int:
        """Seconds that a long poll may wait."""
        return max(self.options.wait, self.options.idle_wait)


def read_settings(url: BrokerURL, options: SQSOptions) -> Settings:
    """Check what the two schemes allow.

    Raises:
        ConfigError: a part of the URL is missing, wrong or not for this scheme; secrets are not shown.

    """
    if url.path:
        raise ConfigError(f"{url}: nothing may follow the host but options; queues are named in the program")
    if options.region and not _REGION.fullmatch(options.region):
        raise ConfigError(f"option 'region' of {url.scheme}://: expected one like eu-west-1, not {options.region!r}")
    return _emulator_settings(url, options) if url.scheme == "sqs+http" else _aws_settings(url, options)


def _emulator_settings(url: BrokerURL, options: SQSOptions) -> Settings:
    for name in ("profile", "endpoint", "sns_endpoint"):
        if getattr(options, name):
            raise ConfigError(f"option {name!r} is for sqs:// only; sqs+http:// names its endpoint as host and port")
    if len(url.hosts) != 1 or url.user is None or url.password is None:
        raise ConfigError(f"{url}: expected sqs+http://KEY:SECRET@HOST:PORT/?region=us-east-1")
    host, port = url.hosts[0]
    host = f"[{host}]" if ":" in host else host
    endpoint = f"http://{host}" + ("" if port is None else f":{port}")
    return Settings(options, True, options.region or "us-east-1", endpoint, endpoint, url.user, url.password)  # noqa: FBT003 - second field


def _aws_settings(url: BrokerURL, options: SQSOptions) -> Settings:
    if url.user is not None or url.password is not None:
        raise ConfigError(
            "sqs:// takes no credentials in the URL: they come from AWS's own chain (environment, profile, role);"
            " use the option 'profile' to choose"
        )
    if url.hosts:
        raise ConfigError(f"{url}: expected sqs://?region=eu-west-1; a VPC endpoint goes into the option 'endpoint'")
    return Settings(
        options,
        is_emulator=False,
        region=options.region or None,
        endpoint=_https("endpoint", options.endpoint),
        sns_endpoint=_https("sns_endpoint", options.sns_endpoint),
    )


def _https(name: str, text: str) -> str | None:
    if not text:
        return None
    try:
        parts = urlsplit(text)
        port = parts.port or _HTTPS_PORT
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme != "https" or not parts.hostname or "@" in parts.netloc or parts.path.strip("/") or parts.query:
        # The text is not shown: it might hold credentials.
        raise ConfigError(f"option {name!r} of sqs://: expected https://host or https://host:port")
    return f"https://{parts.hostname}:{port}"
