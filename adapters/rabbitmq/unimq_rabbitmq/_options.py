"""From a URL to the parameters of a connection."""

import ssl
from typing import Annotated, Literal

import msgspec
import pika
from pika.credentials import ExternalCredentials

from unimq import ConfigError
from unimq.adapter import BrokerURL

_PORT = 5672
_TLS_PORT = 5671
_STACK_TIMEOUT = 15.0
"""Seconds that TCP, TLS and AMQP may take together to come up."""


class RabbitMQOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Options of an ``amqp://`` or ``amqps://`` URL."""

    heartbeat: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 30
    """Seconds; a broker that hangs is noticed after at most twice this and ten seconds more."""
    frame_max: Annotated[int, msgspec.Meta(ge=8192, le=131072)] = 131072
    """Bytes of a frame; the headers of a message must fit into one."""
    connection_name: Annotated[str, msgspec.Meta(max_length=200)] = "unimq"
    """Shown by the broker's management pages."""
    ca_file: str = ""
    """PEM file of the authorities to trust instead of the system's (``amqps`` only)."""
    cert_file: str = ""
    """PEM file of the client's certificate (``amqps`` only)."""
    key_file: str = ""
    """PEM file of its key, if it is not in ``cert_file`` (``amqps`` only)."""
    login: Literal["password", "certificate"] = "password"
    """Who logs in: the user of the URL, or whom the client's certificate names (SASL EXTERNAL; ``amqps`` with
    ``cert_file`` only). The broker needs its plugin ``rabbitmq_auth_mechanism_ssl`` for that."""
    key_lanes: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """Queues of the broker over which what is declared with ``ordering="key"`` is spread by key, so that as many
    consumers work at once. More than one need the plugin ``rabbitmq_consistent_hash_exchange``."""
    frames: Literal["own", "pika"] | None = None
    """Who writes and parses the frames of messages: unimq itself, or pika by its public API, which takes five times as
    long. Without it the environment variable UNIMQ_RABBITMQ_FRAMES decides, and then it is ``own``."""


class Endpoint:
    """Where to connect, and as whom. Immutable; its text form has no password."""

    def __init__(self, url: BrokerURL, options: RabbitMQOptions) -> None:
        tls = url.scheme == "amqps"
        if not url.hosts:
            raise ConfigError(f"{url}: expected a host, as in {url.scheme}://localhost/")
        self.hosts = [(host, port or (_TLS_PORT if tls else _PORT)) for host, port in url.hosts]
        # "amqp://host", "amqp://host/" and "amqp://host/%2F" all mean the default virtual host, as in most clients.
        self.vhost = url.path or "/"
        self._credentials = _credentials(url, options, tls=tls)
        self._options = options
        self._tls = _tls_context(options) if tls else None
        if not tls and (options.ca_file or options.cert_file or options.key_file):
            raise ConfigError(f"{url}: ca_file, cert_file and key_file need amqps://, amqp:// is not encrypted")

    def __str__(self) -> str:
        return ", ".join(f"{host}:{port}" for host, port in self.hosts)

    def parameters(self, number: int, purpose: str, timeout: float) -> pika.ConnectionParameters:
        """Return the parameters of attempt `number`, which goes to the next host in turn."""
        host, port = self.hosts[number % len(self.hosts)]
        return pika.ConnectionParameters(
            host=host,
            port=port,
            virtual_host=self.vhost,
            credentials=self._credentials,
            frame_max=self._options.frame_max,
            heartbeat=self._options.heartbeat,
            ssl_options=pika.SSLOptions(self._tls, host) if self._tls is not None else None,
            connection_attempts=1,
            socket_timeout=min(timeout, _STACK_TIMEOUT),
            stack_timeout=min(timeout, _STACK_TIMEOUT),
            client_properties={"connection_name": f"{self._options.connection_name} ({purpose})"},
        )


def _credentials(url: BrokerURL, options: RabbitMQOptions, *, tls: bool) -> pika.PlainCredentials | ExternalCredentials:
    if options.login == "certificate":
        if not tls or not options.cert_file:
            raise ConfigError(f"{url}: login=certificate needs amqps:// and cert_file")
        if url.user is not None or url.password is not None:
            raise ConfigError(f"{url}: with login=certificate the certificate names the user, leave it out of the URL")
        return ExternalCredentials()
    return pika.PlainCredentials(
        url.user or "guest", "guest" if url.password is None and url.user is None else url.password or ""
    )


def _tls_context(options: RabbitMQOptions) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.ca_file or None)
        if options.cert_file:
            context.load_cert_chain(options.cert_file, options.key_file or None)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"ca_file, cert_file or key_file cannot be used: {error}") from error
    return context
