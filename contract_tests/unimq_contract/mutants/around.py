"""Which mutants are made around the adapter of a real broker: those whose fault its driver, too, could have."""

from urllib.parse import urlsplit

from unimq_contract.brokers import BACKENDS
from unimq_contract.harness import Backend, family

_EVERYWHERE = (
    "ack-dropped",
    "acked-at-delivery",
    "batch-loses-one",
    "confirmed-at-once",
    "dead-letter-lost",
    "headers-dropped",
    "lose-some",
    "nack-acks",
    "password-in-errors",
    "prefetch-ignored",
    "store-twice",
)

_OF_SERVERS = ("hangs-when-nobody-listens", "outage-looks-like-refusal")

AROUND = {
    "rabbitmq": (
        *_EVERYWHERE,
        *_OF_SERVERS,
        "attempt-stuck",
        "lost-destination-accepted",
        "wrong-credentials-look-like-an-outage",
        "wrong-credentials-retried",
    ),
    "kafka": (*_EVERYWHERE, *_OF_SERVERS, "subscriptions-compete"),
    "sqs": (*_EVERYWHERE, *_OF_SERVERS, "cumulative-ack"),
    "sqlite": (*_EVERYWHERE, "cumulative-ack", "attempt-stuck", "lost-destination-accepted"),
}
"""By kind of broker. RabbitMQ itself closes the channel of a cumulative ack, which kills by an error of the broker."""


def around(kind: str) -> tuple[str, ...]:
    """Return the mutants for a kind of broker; for one that is not known here, those that any driver could be."""
    return AROUND.get(kind, _EVERYWHERE)


_SCHEMES = {"rabbitmq": "amqp", "kafka": "kafka", "sqs": "sqs"}


def kind_of(backend: Backend, *, scheme: bool = False) -> str:
    """Return the kind of a broker, also before it is started, or one scheme of its adapter."""
    name = backend.name.partition("(")[0].partition("-")[0]
    kind = name if name in BACKENDS else {"amqp": "rabbitmq"}.get(family(backend.url), family(backend.url))
    return _SCHEMES.get(kind, urlsplit(backend.url).scheme or kind) if scheme else kind
