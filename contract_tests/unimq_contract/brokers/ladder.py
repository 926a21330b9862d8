"""Which broker to use: a given URL, else Docker, else a native private broker, else an emulator."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import get_args
from urllib.parse import SplitResult, urlsplit

from .tap import BACKENDS, Backend, BrokerUnavailable, Label, Rung, RunningTap, Tap, mask_password
from .wire import amqp_version, kafka_answers, sqs_answers, tcp_answers

RUNGS: tuple[Rung, ...] = get_args(Rung)
LOWEST = "UNIMQ_TAP_LOWEST"
_DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671, "kafka": 9092, "sqs": 443, "sqs+http": 80}
_SCHEMES: dict[Backend, tuple[str, ...]] = {
    "rabbitmq": ("amqp", "amqps"),
    "kafka": ("kafka",),
    "sqs": ("sqs", "sqs+http"),
}
# A missing rung: nobody publishes SQS, and the real RabbitMQ and Kafka start so fast that no emulator is needed.
_RUNGS_OF: dict[Backend, tuple[Rung, ...]] = {
    "rabbitmq": ("url", "docker", "native"),
    "kafka": ("url", "docker", "native"),
    "sqs": ("url", "docker", "emulator"),
}
_PRODUCTS: dict[Backend, str] = {"rabbitmq": "RabbitMQ", "kafka": "Apache Kafka", "sqs": "SQS"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a caller wants beyond "some broker"; see :func:`start`."""

    generation: str | None = None
    nodes: int = 1
    plugins: tuple[str, ...] | None = None
    flavour: str | None = None
    settings: Mapping[str, str] | None = None
    timeout: float | None = None

    def check(self, backend: Backend) -> None:
        """An option that the backend does not have is an error, not a decoration."""
        known: dict[Backend, tuple[str, ...]] = {
            "rabbitmq": ("generation", "nodes", "plugins"),
            "kafka": ("flavour",),
            "sqs": ("flavour",),
        }
        given = {
            "generation": self.generation is not None,
            "nodes": self.nodes != 1,
            "plugins": self.plugins is not None,
            "flavour": self.flavour is not None,
        }
        for option, is_given in given.items():
            if is_given and option not in known[backend]:
                owners = " and ".join(name for name, options in known.items() if option in options)
                raise ValueError(f"{option} is an option of {owners}, not of {backend}")
        if self.nodes < 1:
            raise ValueError(f"nodes must be at least 1, not {self.nodes}")

    @property
    def needs_private(self) -> bool:
        """Whether only a broker made for the purpose can fulfil it; neither somebody else's nor an image's can."""
        return any((self.generation, self.nodes != 1, self.plugins is not None, self.flavour, self.settings))


def url_variable(backend: Backend) -> str:
    """Environment variable that gives a broker: UNIMQ_TEST_KAFKA_URL."""
    return f"UNIMQ_TEST_{backend.upper()}_URL"


def start(
    backend: Backend,
    *,
    rung: Rung | None = None,
    generation: str | None = None,
    nodes: int = 1,
    plugins: Iterable[str] | None = None,
    flavour: str | None = None,
    settings: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> RunningTap:
    """Give a broker that answers, from the highest rung of the ladder that has one.

    * ``rung`` names the only rung to try. Without it UNIMQ_TAP_LOWEST names the lowest one accepted: one rung for all
      backends, or a list such as ``native,sqs=emulator``.
    * ``generation`` ("3", "4", "newest"), ``nodes`` (a cluster) and ``plugins`` are RabbitMQ's, ``flavour`` is SQS's
      ("ministack", "elasticmq") and Kafka's ("mock", which nobody gets who does not name it), ``settings`` are lines of
      the broker's own configuration. Any of these asks for a private broker and skips the rungs that give somebody
      else's.
    * ``timeout``: seconds until the broker must answer; each backend has a generous default.

    Raises :class:`BrokerUnavailable` saying of each rung why it has none, ``ValueError`` for an unfitting option.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
    if rung is not None and rung not in _RUNGS_OF[backend]:
        raise ValueError(f"{backend} has no rung {rung!r}; it has: {', '.join(_RUNGS_OF[backend])}")
    wish = Wish(
        generation=generation,
        nodes=nodes,
        plugins=None if plugins is None else tuple(plugins),
        flavour=flavour,
        settings=settings,
        timeout=timeout,
    )
    wish.check(backend)
    if backend == "kafka" and flavour is not None:
        if flavour != "mock":
            raise ValueError(f"kafka has no flavour {flavour!r}; it has: mock")
        if settings:
            raise ValueError("the mock of Kafka takes no settings")
        # Only who names it gets it: it is no rung below the real broker.
        rung = "emulator"
    refused: list[BrokerUnavailable] = []
    for candidate in (rung,) if rung else accepted_rungs(backend):
        if rung is None and wish.needs_private and candidate in ("url", "docker"):
            continue
        try:
            running = _CLIMB[candidate](backend, wish)
        except BrokerUnavailable as error:
            if candidate == "url" and os.environ.get(url_variable(backend)):
                raise  # the user named a broker; another one in its place would prove something else
            refused.append(error)
            continue
        return running
    raise _nothing(backend, refused)


def accepted_rungs(backend: Backend) -> tuple[Rung, ...]:
    """The ladder down to the lowest rung that UNIMQ_TAP_LOWEST accepts for this backend."""
    lowest: str = RUNGS[-1]
    setting = os.environ.get(LOWEST, "")
    for item in filter(None, (part.strip() for part in setting.split(","))):
        name, separator, value = item.rpartition("=")
        if value not in RUNGS or (separator and name not in BACKENDS):
            raise ValueError(
                f"{LOWEST}={setting!r}: {item!r} is not RUNG or BACKEND=RUNG; "
                f"rungs: {', '.join(RUNGS)}; backends: {', '.join(BACKENDS)}"
            )
        if name in ("", backend):
            lowest = value
    allowed = RUNGS[: [*RUNGS].index(lowest) + 1]  # type: ignore[arg-type]
    return tuple(rung for rung in _RUNGS_OF[backend] if rung in allowed)


def _nothing(backend: Backend, refused: list[BrokerUnavailable]) -> BrokerUnavailable:
    if len(refused) == 1:
        return refused[0]
    why = "; ".join(f"{error.what}: {error.why}" for error in refused)
    lower = [rung for rung in _RUNGS_OF[backend] if rung not in accepted_rungs(backend)]
    # The lowest rung that was tried is the easiest to reach.
    how = f"{LOWEST} forbids: {', '.join(lower)}." if lower else refused[-1].how_to_get_it
    return BrokerUnavailable(f"a broker for {backend}", why or "no rung of the ladder is allowed", how)


def _from_url(backend: Backend, wish: Wish) -> RunningTap:
    """Use the broker that the environment names. It is checked to be there, and never stopped."""
    variable = url_variable(backend)
    url = os.environ.get(variable, "")
    if not url:
        raise BrokerUnavailable("a given URL", f"{variable} is not set", f"Set {variable}.")
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES[backend]:
        raise BrokerUnavailable(
            f"the broker in {variable}",
            f"{parts.scheme or 'no scheme'!r} is not a scheme of {backend}",
            f"It is one of: {', '.join(_SCHEMES[backend])}.",
        )
    nodes = tuple(filter(None, parts.netloc.rpartition("@")[2].split(",")))
    try:
        addresses = [(node.hostname or "", node.port or _DEFAULT_PORTS[parts.scheme]) for node in map(_address, nodes)]
    except ValueError as error:
        raise BrokerUnavailable(f"the broker in {variable}", f"not a URL: {error}", f"Correct {variable}.") from None
    version = _version_at(parts.scheme, addresses)
    if version is None:
        raise BrokerUnavailable(
            f"the broker in {variable}",
            f"{mask_password(url)} does not answer",
            f"Start it, correct or unset {variable}.",
        )
    label: Label = "emulator" if parts.scheme == "sqs+http" else "real"
    return RunningTap(
        Tap(
            backend=backend,
            url=url,
            product=_PRODUCTS[backend],
            version=version,
            how=f"given in {variable}",
            label=label,
            rung="url",
            nodes=nodes,
        ),
        None,
    )


def _address(node: str) -> SplitResult:
    return urlsplit(f"//{node}")


def _version_at(scheme: str, addresses: list[tuple[str, int]]) -> str | None:
    """Version of the first node that answers, "unknown" if the protocol does not tell, None if none answers."""
    if not addresses:
        return "unknown"  # real AWS has no address in its URL
    if scheme == "amqp":
        return next(filter(None, (amqp_version(host, port) for host, port in addresses)), None)
    answers: Callable[[str, int], bool] = {"kafka": kafka_answers, "sqs+http": sqs_answers}.get(scheme, tcp_answers)
    return "unknown" if any(answers(host, port) for host, port in addresses) else None


def _from_docker(backend: Backend, wish: Wish) -> RunningTap:
    if wish.needs_private:
        raise BrokerUnavailable(
            "Docker", "its images take none of these options", 'Use rung="native" or rung="emulator".'
        )
    from . import containers

    return containers.start(backend, timeout=wish.timeout)


def _native(backend: Backend, wish: Wish) -> RunningTap:
    _only_linux(backend)
    if backend == "kafka":
        from . import kafka

        return kafka.start(settings=wish.settings, timeout=wish.timeout or kafka.TIMEOUT)
    from . import rabbitmq

    return rabbitmq.start(
        generation=wish.generation,
        nodes=wish.nodes,
        plugins=rabbitmq.PLUGINS if wish.plugins is None else wish.plugins,
        settings=wish.settings,
        timeout=wish.timeout or rabbitmq.TIMEOUT,
    )


def _emulator(backend: Backend, wish: Wish) -> RunningTap:
    _only_linux(backend)
    if backend == "kafka":
        from . import kafka_mock

        return kafka_mock.start(timeout=wish.timeout or kafka_mock.TIMEOUT)
    from . import sqs

    return sqs.start(flavour=sqs.flavour(wish.flavour), settings=wish.settings, timeout=wish.timeout or sqs.TIMEOUT)


def _only_linux(backend: Backend) -> None:
    if sys.platform != "linux":
        raise BrokerUnavailable(
            f"a private {backend}",
            "it needs Linux, to die with its owner",
            f"Start Docker, or set {url_variable(backend)}.",
        )


_CLIMB: dict[Rung, Callable[[Backend, Wish], RunningTap]] = {
    "url": _from_url,
    "docker": _from_docker,
    "native": _native,
    "emulator": _emulator,
}
