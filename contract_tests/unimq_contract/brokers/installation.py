"""Fetch what the brokers need into the cache folder. Idempotent, and quick when everything is there."""

import time
from collections.abc import Callable, Sequence

from . import kafka, rabbitmq, sqs
from .home import brokers_home
from .tap import BACKENDS, Backend


def install(
    backends: Sequence[Backend] = BACKENDS, *, generation: str | None = None, report: Callable[[str], None] = print
) -> None:
    """Install every named backend, saying each step.

    ``generation`` chooses among the RabbitMQ generations. Raises :class:`BrokerUnavailable` naming the missing program.
    """
    report(f"brokers are kept in {brokers_home()}")
    for backend in backends:
        if backend == "rabbitmq":
            _step(report, "RabbitMQ (Debian's packages, unpacked)", lambda: rabbitmq.install(generation))
        elif backend == "kafka":
            _step(report, "Apache Kafka (jars)", kafka.install)
        elif backend == "sqs":
            _step(report, "ministack (SQS and SNS)", lambda: sqs.install("ministack"))
            _step(report, "ElasticMQ (SQS)", lambda: sqs.install("elasticmq"))
        else:
            raise ValueError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")


def _step(report: Callable[[str], None], what: str, action: Callable[[], str]) -> None:
    began = time.monotonic()
    version = action()
    report(f"  {what}: {version}, {time.monotonic() - began:.1f} s")
