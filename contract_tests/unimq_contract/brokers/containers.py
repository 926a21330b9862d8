"""Brokers in containers, by testcontainers, when a Docker engine answers and the image is at hand."""

from .tap import Backend, BrokerUnavailable, RunningTap


def start(backend: Backend, *, timeout: float | None = None) -> RunningTap:
    raise BrokerUnavailable("Docker", "no engine is looked for yet", "Use a native broker.")
