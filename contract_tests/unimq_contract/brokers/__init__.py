"""Real brokers for tests, demonstration and benchmark, without hand work: ``start("rabbitmq")``.

The ladder is: a given URL, then Docker, then a native private broker, then an emulator. The standard library suffices;
testcontainers is imported only when a Docker engine answers.

Environment: UNIMQ_TEST_RABBITMQ_URL, UNIMQ_TEST_KAFKA_URL, UNIMQ_TEST_SQS_URL give a broker; UNIMQ_TAP_LOWEST names the
lowest rung accepted; UNIMQ_BROKERS_HOME is where brokers are installed; UNIMQ_TAP_KEEP=1 keeps a stopped broker's
folder; UNIMQ_TAP_PULL=1 allows Docker to pull, UNIMQ_TAP_IMAGE_KAFKA and the like name other images;
UNIMQ_TAP_DEBIAN_MIRROR replaces apt's mirror.
"""

import sys
from collections.abc import Callable, Sequence

from .ladder import accepted_rungs, start, url_variable
from .tap import BACKENDS, Backend, BrokerUnavailable, Label, Rung, RunningTap, Tap

__all__ = [
    "BACKENDS",
    "Backend",
    "BrokerUnavailable",
    "Label",
    "Rung",
    "RunningTap",
    "Tap",
    "accepted_rungs",
    "install",
    "start",
    "url_variable",
]


def install(
    backends: Sequence[Backend] = BACKENDS, *, generation: str | None = None, report: Callable[[str], None] = print
) -> None:
    """Fetch what the brokers need into the cache folder, saying each step; quick when it is there. Linux only.

    ``generation`` chooses among the RabbitMQ generations ("3", "4", "newest"). Raises :class:`BrokerUnavailable` naming
    the missing program and how to get it.
    """
    if sys.platform != "linux":
        raise BrokerUnavailable("private brokers", "they need Linux", "Start Docker, or give URLs.")
    from .installation import install as install_now

    install_now(backends, generation=generation, report=report)
