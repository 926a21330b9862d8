"""``python -m unimq_contract.brokers install [BACKEND…]`` and ``… start BACKEND``."""

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn, get_args

from . import BACKENDS, Backend, BrokerUnavailable, Rung, install, start


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 when a broker cannot be had, 2 for a wrong option."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "install":
            install(_backends(options.backends), generation=options.generation)
            return 0
        if options.install:
            install([options.backend], generation=options.generation, report=lambda line: print(line, file=sys.stderr))
        return _serve(options)
    except BrokerUnavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _backends(names: Sequence[str]) -> Sequence[Backend]:
    for name in names:
        if name not in BACKENDS:
            raise ValueError(f"unknown backend {name!r}; known: {', '.join(BACKENDS)}")
    return [backend for backend in BACKENDS if backend in names] or BACKENDS


def _serve(options: argparse.Namespace) -> int:
    """Keep a broker until SIGTERM, Ctrl-C or, if so asked, the end of standard input."""
    over = threading.Event()
    # Also while the broker still starts: leaving by an exception stops what is there.
    signal.signal(signal.SIGTERM, _leave)
    try:
        with start(
            options.backend,
            rung=options.rung,
            generation=options.generation,
            nodes=options.nodes,
            flavour=options.flavour,
        ) as running:
            if options.json:
                print(running.tap.to_json(), flush=True)
            else:
                print(running.tap.describe(), running.tap.public_url, sep="\n", flush=True)
            if options.until_eof:
                sys.stdin.read()
            else:
                over.wait()
    except KeyboardInterrupt:
        pass
    return 0


def _leave(number: int, frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # the clean stop that follows is not to be interrupted by impatience
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m unimq_contract.brokers", description="Real brokers on tap.")
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("install", help="fetch what the brokers need; quick when it is there")
    fetch.add_argument("backends", nargs="*", metavar="BACKEND", help=", ".join(BACKENDS))
    serve = commands.add_parser("start", help="start one broker and keep it until SIGTERM or Ctrl-C")
    serve.add_argument("backend", choices=BACKENDS)
    serve.add_argument("--rung", choices=get_args(Rung), help="use this rung of the ladder and no other")
    serve.add_argument("--nodes", type=int, default=1, help="RabbitMQ: size of the cluster")
    serve.add_argument("--flavour", help="SQS: ministack or elasticmq; Kafka: mock")
    serve.add_argument("--json", action="store_true", help="print one JSON line instead of text")
    serve.add_argument("--until-eof", action="store_true", help="end when standard input ends")
    serve.add_argument("--install", action="store_true", help="install what is missing first")
    for command in (fetch, serve):
        command.add_argument("--generation", help="RabbitMQ: 3, 4 or newest")
    return parser


if __name__ == "__main__":
    sys.exit(main())
