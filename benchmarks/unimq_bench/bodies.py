"""What is written in each message, so that a loss, a duplicate, a change and a delay can be seen from it alone.

A body begins with a head of 34 bytes: a tag, what it is for, the run, the producer, the sequence number, the intended
and the actual time of sending on ``CLOCK_MONOTONIC``, which all processes of a machine share, and a CRC-32 of all.
"""

import random
import struct
import zlib
from typing import Final, NamedTuple

_TAG: Final = b"uqb"
_SIGNED: Final = struct.Struct("<3sBIHIqq")
_DIGEST: Final = struct.Struct("<I")
SMALLEST: Final = _SIGNED.size + _DIGEST.size
"""Bytes of a body without filling."""
_PATTERN: Final = b'{"customer": 4711, "state": "paid", "amount": "12.50"} '

DATA: Final = 0
"""Counted and timed."""
WARM_UP: Final = 1
"""Counted, but its times are thrown away."""
PROBE: Final = 2
"""Only there to see that a consumer receives; not counted."""

CONTENTS: Final = ("random", "compressible")


class Head(NamedTuple):
    """What a body says of itself."""

    tag: bytes
    kind: int
    run: int
    producer: int
    sequence: int
    intended: int
    sent: int
    """Nanoseconds, as `intended`."""


class Maker:
    """Makes the bodies of one producer in one run. The filling is the same in each: its digest is computed once."""

    def __init__(self, run: int, producer: int, size: int, content: str, seed: int = 0) -> None:
        if size < SMALLEST:
            raise ValueError(f"a message has at least {SMALLEST} bytes, not {size}: they say whose and which it is")
        room = size - SMALLEST
        if content == "random":
            self._filling = random.Random(seed).randbytes(room)
        elif content == "compressible":
            self._filling = (_PATTERN * (room // len(_PATTERN) + 1))[:room]
        else:
            raise ValueError(f"content is one of {', '.join(CONTENTS)}, not {content!r}")
        self._of_filling = zlib.crc32(self._filling)
        self.run = run
        self.producer = producer

    def body(self, sequence: int, intended: int, sent: int, kind: int = DATA) -> bytes:
        """Return one body."""
        head = _SIGNED.pack(_TAG, kind, self.run, self.producer, sequence, intended, sent)
        return head + _DIGEST.pack(zlib.crc32(head, self._of_filling)) + self._filling


def head_of(body: bytes) -> Head | None:
    """Return what a body says of itself, or `None` if it is none of ours; whether it is intact is another question."""
    if len(body) < SMALLEST:
        return None
    head = Head._make(_SIGNED.unpack_from(body))
    return head if head.tag == _TAG else None


def is_intact(body: bytes) -> bool:
    """Whether head and filling are as they were sent."""
    view = memoryview(body)
    (digest,) = _DIGEST.unpack_from(body, _SIGNED.size)
    return bool(zlib.crc32(view[: _SIGNED.size], zlib.crc32(view[SMALLEST:])) == digest)
