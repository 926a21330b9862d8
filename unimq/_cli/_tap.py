"""Brokers on tap: they come from `unimq_contract`, which is found by name, like an adapter."""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from types import ModuleType

from unimq._cli._output import UsageError, fail
from unimq._errors import MissingDependency

_NOT_FOUND = 127
"""Exit code of a shell for a command that does not exist."""


def up(
    backend: str, command: Sequence[str], *, flavour: str | None, generation: str | None, install: bool, json: bool
) -> int:
    """Start a broker; run `command` with its URL, or keep the broker until Ctrl-C or SIGTERM."""
    brokers = plug_in("unimq_contract.brokers")
    try:
        if install:
            brokers.install([backend], generation=generation, report=_report)
        with brokers.start(backend, flavour=flavour, generation=generation) as running:
            tap = running.tap
            if command:
                # Standard output is the command's.
                print(tap.to_json() if json else tap.describe(), file=sys.stderr, flush=True)
                return _run(command, {**os.environ, "UNIMQ_URL": running.url})
            with contextlib.suppress(KeyboardInterrupt, SystemExit):
                print(tap.to_json() if json else f"{tap.describe()}\n{tap.public_url}", flush=True)
                threading.Event().wait()
            return 0
    except brokers.BrokerUnavailable as error:
        # It may end with the last lines of the broker's log, which are not to be squeezed into one.
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        raise UsageError(str(error)) from error


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def plug_in(name: str) -> ModuleType:
    """Return a module of `unimq_contract`."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        raise MissingDependency(f"{error.name} is not installed; it is part of the distribution unimq") from None


def _run(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run a command to its end and return its exit code; SIGTERM is passed on, Ctrl-C reaches it by the terminal."""
    try:
        process = subprocess.Popen(command, env=environment)
    except OSError as error:
        return fail(f"{command[0]}: {error.strerror}", code=_NOT_FOUND)
    try:
        with _signals_for(process):
            code = process.wait()
    finally:
        # Only if a signal came before it could be passed on.
        if process.poll() is None:
            process.terminate()
            process.wait()
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _signals_for(process: "subprocess.Popen[bytes]") -> Generator[None]:
    """Let the child decide when to end: the broker must outlive it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pass_on(number: int, frame: object) -> None:
        process.send_signal(number)

    def leave_to_child(number: int, frame: object) -> None:
        """The terminal sends Ctrl-C to the child as well."""

    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, leave_to_child)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)
