"""The command `unimq`: what every command shares, from a missing extra to the exit code.

Exit codes: 0 done · 1 an error of unimq or of the broker · 2 wrong use · 128 + number for a signal (130 Ctrl-C, 141 the
reader of the output left, 143 SIGTERM). `up` with a command passes on its code, `verify` also those of pytest.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import NoReturn

from unimq._cli._output import UsageError, fail
from unimq._errors import UnimqError

_OF_THE_EXTRA = {"cyclopts", "rich"}
_SIGPIPE = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `arguments` are those of the process if not given."""
    try:
        with _leaving_in_good_order():
            from unimq._cli._commands import run

            code = run(sys.argv[1:] if arguments is None else arguments)
            sys.stdout.flush()
            return code
    except UsageError as error:
        return fail(str(error), code=2)
    except UnimqError as error:
        return fail("; ".join([str(error), *getattr(error, "__notes__", ())]))
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _OF_THE_EXTRA:
            raise
        return fail(f"the command line needs {missing}, which is not installed: pip install 'unimq[cli]'")
    except BrokenPipeError:
        _close_output()
        return _SIGPIPE
    except OSError as error:
        # Input that cannot be read, or output to a full disk.
        _close_output()
        return fail(str(error))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


@contextlib.contextmanager
def _leaving_in_good_order() -> Generator[None]:
    """Let SIGTERM leave through every `with`, as Ctrl-C does, so that what was received and not settled returns."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: object) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)  # the clean end that follows is not to be interrupted by impatience
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)


def _close_output() -> None:
    """What Python still has to write at its own end must not fail again, visibly."""
    with contextlib.suppress(OSError), Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
