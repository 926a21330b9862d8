"""What the commands print: JSON lines and bodies as bytes, tables for people, errors as one line."""

import base64
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from unimq._delivery import Delivery

if TYPE_CHECKING:
    from rich.console import RenderableType


class UsageError(Exception):
    """Arguments that do not go together, which the parser cannot see: exit code 2."""


def fail(text: str, *, code: int = 1) -> int:
    """Print an error as one line and return the exit code."""
    print(f"error: {' '.join(text.split())}", file=sys.stderr, flush=True)
    return code


def warn(text: str) -> None:
    """Print a line about what is not as it should be, and is no error."""
    print(f"warning: {' '.join(text.split())}", file=sys.stderr, flush=True)


def write_line(line: bytes) -> None:
    """Write one line of output and hand it to the reader, who may be gone: then `BrokenPipeError`."""
    out = sys.stdout.buffer
    rest = memoryview(line + b"\n")
    while rest:
        # Unbuffered output may take a part only.
        rest = rest[out.write(rest) :]
    out.flush()


def write_json(value: object) -> None:
    """Write one JSON document on one line."""
    write_line(msgspec.json.encode(value, enc_hook=str))


def write_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "") -> None:
    """Write a table; columns without any content are left out."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    rows = list(rows)
    used = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for index in used:
        table.add_column(columns[index], overflow="fold")
    for row in rows:
        table.add_row(*(row[index] for index in used))
    write_renderable(table)


def write_renderable(content: "RenderableType") -> None:
    """Write what rich can render, as wide as the terminal."""
    from rich.console import Console

    # What a file or another program gets should not depend on the width of a terminal that is not there.
    width = None if sys.stdout.isatty() else 160
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    # Captured, because rich ends the program by itself when the reader of the output is gone.
    with console.capture() as captured:
        console.print(content)
    for line in captured.get().strip("\n").splitlines():
        write_line(line.rstrip().encode())


def body_line(delivery: Delivery) -> bytes:
    """Return the body for a line of output: as it is, except that a terminal gets no control characters."""
    if not sys.stdout.isatty():
        return delivery.body
    text = delivery.body.decode(errors="backslashreplace")
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in text).encode()


def message_object(delivery: Delivery) -> dict[str, object]:
    """Return a delivery for JSON: ``body_encoding`` says whether the body is text or base64."""
    body, encoding = _text_or_base64(delivery.body)
    return {
        "id": delivery.id,
        "source": delivery.source,
        "attempt": delivery.attempt,
        "sent_at": delivery.sent_at,
        "key": delivery.key,
        "headers": {
            name: value if isinstance(value, str) else {"base64": base64.b64encode(value).decode()}
            for name, value in delivery.headers.items()
        },
        "content_type": delivery.content_type,
        "correlation_id": delivery.correlation_id,
        "reply_to": delivery.reply_to,
        "body": body,
        "body_encoding": encoding,
    }


def _text_or_base64(data: bytes) -> tuple[str, str]:
    try:
        return data.decode(), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(data).decode(), "base64"
