"""The options of a ``kafka://`` or ``kafka+ssl://`` URL, and the settings of the client that follow from them."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from unimq import ConfigError
from unimq.adapter import BrokerURL

DEFAULT_PORT = 9092
DEFAULT_PARTITIONS = 4

Settings = dict[str, str | int | float | bool]


class KafkaOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Options of a ``kafka://`` or ``kafka+ssl://`` URL. Times are seconds."""

    partitions: Annotated[int, msgspec.Meta(ge=1, le=10_000)] | None = None
    """Partitions of the topics that are created, four unless given; so many consumers of a queue get work at the same
    time (G1). Topics that exist keep theirs; given, fewer than there are is a conflict."""
    replication: Annotated[int, msgspec.Meta(ge=1, le=1_000)] | None = None
    """Copies of the topics that are created; the broker's default unless given."""
    retention: Annotated[float, msgspec.Meta(gt=0, le=1e10)] | None = None
    """How long the topics that are created keep a message, acked or not; the broker's default unless given."""
    group_protocol: Literal["classic", "consumer"] | None = None
    """How consumers share partitions: ``consumer`` (KIP-848) where the broker has it unless given."""
    session_timeout: Annotated[float, msgspec.Meta(ge=1, le=1800)] = 10.0
    """After which silence of a consumer its partitions go to others, with the ``classic`` protocol; with ``consumer``
    the broker's own setting holds."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    """How user and password of the URL are presented."""
    plaintext_password: bool = False
    """Whether user and password may be sent over a connection that is not encrypted (``kafka://``)."""
    ca_file: str = ""
    """PEM file of the authorities to trust instead of the system's (``kafka+ssl`` only)."""
    cert_file: str = ""
    """PEM file of the client's certificate (``kafka+ssl`` only)."""
    key_file: str = ""
    """PEM file of its key, without a password, if it is not in ``cert_file`` (``kafka+ssl`` only)."""
    linger: Annotated[float, msgspec.Meta(ge=0, le=900)] = 0.0
    """How long a batch waits to fill up; every confirmed send waits as long. Batches form without it under load."""
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    """Codec of the batches."""
    message_timeout: Annotated[float, msgspec.Meta(ge=1, le=86_400)] = 30.0
    """How long the client retries a message; bounds the timeouts of producers from above (S2)."""


def addresses(url: BrokerURL) -> str:
    """Return the bootstrap servers of a URL."""
    hosts = url.hosts or (("localhost", None),)
    return ",".join(
        f"[{host}]:{port or DEFAULT_PORT}" if ":" in host else f"{host}:{port or DEFAULT_PORT}" for host, port in hosts
    )


def client_settings(url: BrokerURL, options: KafkaOptions) -> Settings:
    """Return what producer, consumer and administration share.

    Raises:
        ConfigError: the URL has a path, or a user without a password; a password or a certificate would be of no use,
            or go over the wire in plain text without a word that it may.

    """
    scheme = url.scheme
    if url.path:
        raise ConfigError(f"{url}: {scheme}:// takes no path; expected {scheme}://HOST:PORT,HOST:PORT")
    settings: Settings = {
        "bootstrap.servers": addresses(url),
        "client.id": "unimq",
        # The client would write to stderr; what it says reaches `error_cb` as well.
        "log_level": 0,
        # Partitions that are added are seen after this long, not after five minutes.
        "topic.metadata.refresh.interval.ms": 10_000,
        "allow.auto.create.topics": False,
        "reconnect.backoff.max.ms": 2_000,
    }
    settings |= _tls_settings(url, options)
    if url.user is not None:
        if url.password is None:
            raise ConfigError(f"{url}: a user needs a password; expected {scheme}://USER:PASSWORD@HOST:PORT")
        if scheme != "kafka+ssl" and not options.plaintext_password:
            raise ConfigError(
                f"{url}: kafka:// is not encrypted, and the password would be sent in plain text; expected kafka+ssl://,"
                " or the option plaintext_password=true where the network is trusted"
            )
        settings |= {
            "security.protocol": "SASL_SSL" if scheme == "kafka+ssl" else "SASL_PLAINTEXT",
            "sasl.mechanism": options.sasl_mechanism,
            "sasl.username": url.user,
            "sasl.password": url.password,
        }
    return settings


def check_files(url: BrokerURL, options: KafkaOptions) -> None:
    """Raise `ConfigError` for a file that is not there: the client would name it by a setting of its own."""
    for name, path in _files(options).items():
        if not Path(path).is_file():
            raise ConfigError(f"{url}: {name}={path!r} is no file; expected the path of a PEM file")


def _files(options: KafkaOptions) -> dict[str, str]:
    files = {"ca_file": options.ca_file, "cert_file": options.cert_file, "key_file": options.key_file}
    return {name: path for name, path in files.items() if path}


def _tls_settings(url: BrokerURL, options: KafkaOptions) -> Settings:
    files = _files(options)
    if url.scheme != "kafka+ssl":
        if files:
            raise ConfigError(f"{url}: {', '.join(files)} needs kafka+ssl://, as kafka:// is not encrypted")
        return {}
    if options.key_file and not options.cert_file:
        raise ConfigError(f"{url}: key_file needs cert_file, the certificate that the key is of")
    settings: Settings = {
        "security.protocol": "SSL",
        # The client's defaults; here they are promised (E3).
        "enable.ssl.certificate.verification": True,
        "ssl.endpoint.identification.algorithm": "https",
    }
    if options.ca_file:
        settings["ssl.ca.location"] = options.ca_file
    if options.cert_file:
        settings["ssl.certificate.location"] = options.cert_file
        settings["ssl.key.location"] = options.key_file or options.cert_file
    return settings


def producer_settings(shared: Settings, options: KafkaOptions, limit: int) -> Settings:
    """Return the settings of a producer whose messages and batches are at most `limit` bytes."""
    return {
        **shared,
        "acks": "all",
        # Without it a retry after a lost answer would store the message twice, and out of order.
        "enable.idempotence": True,
        "message.timeout.ms": int(options.message_timeout * 1000),
        # As the Java client does it: an empty key is a key, and programs of both languages agree on its partition (O1).
        "partitioner": "murmur2_random",
        "linger.ms": options.linger * 1000,
        "compression.type": options.compression,
        "message.max.bytes": limit,
        # A batch beyond the topic's limit would be refused with all the good messages in it.
        "batch.size": min(limit, 1_000_000),
        # How long a topic that is not in the metadata may still appear; the default of 30 s hides a missing one.
        "topic.metadata.propagation.max.ms": 1_000,
        # The windows of the producers bound what is outstanding; these are far above them.
        "queue.buffering.max.messages": 1_000_000,
        "queue.buffering.max.kbytes": 1_048_576,
    }


def forwarder_settings(consumer: Settings) -> Settings:
    """Return the settings of a consumer that holds most of what it reads back, from those of another one.

    It often stops fetching a partition, and what the client has prefetched of it then is fetched again.
    """
    return {
        **consumer,
        "fetch.message.max.bytes": 262_144,
        "queued.max.messages.kbytes": 4_096,
        "queued.min.messages": 2_000,
    }


def consumer_settings(shared: Settings, options: KafkaOptions, group: str, protocol: str, prefetch: int) -> Settings:
    """Return the settings of a member of `group`."""
    settings: Settings = {
        **shared,
        "group.id": group,
        "group.protocol": protocol,
        "enable.auto.commit": False,
        # A group without a commit starts where the topic starts; subscriptions commit when they are declared (G2).
        "auto.offset.reset": "earliest",
        # At its default of 1000 the client stands still for a second whenever its local queue is full.
        "fetch.queue.backoff.ms": 10,
        # How long a fetch waits for messages; a partition that is new or resumed waits for the one under way to end.
        "fetch.wait.max.ms": 100,
        # How long a topic that is not in the metadata may still appear; with the default of 30 s, a consumer of the
        # classic protocol hears of its topic's end after the next refresh only.
        "topic.metadata.propagation.max.ms": 1_000,
        # Memory that the client fills ahead of us (L5).
        "queued.max.messages.kbytes": 16_384,
        "queued.min.messages": min(100_000, max(2_000, 10 * prefetch)),
    }
    if protocol == "classic":
        settings["partition.assignment.strategy"] = "cooperative-sticky"
        settings["session.timeout.ms"] = int(options.session_timeout * 1000)
        # Members learn by it that others come and go; the client's default of 3 s makes every rebalance as long.
        settings["heartbeat.interval.ms"] = int(options.session_timeout * 100)
    return settings
