"""A body that says which message it is: whoever reads it, in whatever program, can tell and can see that it is whole.

One line ``unimq-history ID SEQUENCE LENGTH DIGEST`` and then filling. The digest covers all the rest.
"""

import msgspec

from unimq_contract.history.events import digest

_MAGIC = b"unimq-history"
_LENGTH_DIGITS = 8
_DIGEST_DIGITS = 16


class Mark(msgspec.Struct, frozen=True):
    """What a body says of itself."""

    message: str
    sequence: int


def marked_body(message: str, sequence: int, size: int = 0) -> bytes:
    """Return a body of `size` bytes, or as few more as the mark needs. The filling holds every byte value.

    Raises:
        ValueError: the id has a space or a line end.

    """
    if not message or message.split() != [message]:
        raise ValueError(f"an id in a body has no spaces and is not empty, unlike {message!r}")
    name = message.encode()
    overhead = len(_MAGIC) + len(name) + len(str(sequence)) + _LENGTH_DIGITS + _DIGEST_DIGITS + len("    \n")
    length = max(0, size - overhead)
    filling = bytes(range(256)) * (length // 256) + bytes(range(length % 256))
    head = b"%s %s %d %08d" % (_MAGIC, name, sequence, length)
    return b"%s %s\n%s" % (head, digest(head + filling).encode(), filling)


def read_mark(body: bytes) -> Mark | None:
    """Return what a body says of itself; `None` if it is no such body, or not whole."""
    line, _, filling = body.partition(b"\n")
    parts = line.split(b" ")
    if len(parts) != 5 or parts[0] != _MAGIC:
        return None
    head, _, found = line.rpartition(b" ")
    if found != digest(head + filling).encode():
        return None
    try:
        return Mark(parts[1].decode(), int(parts[2]))
    except ValueError:
        return None
