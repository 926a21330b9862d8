"""What a group has done in one partition: the tracker of a consumer, and its form as a commit.

A commit is one offset, below which everything is done. What is done above it travels in the metadata of the commit, so
that an ack behind an unfinished message is final as well (A1, A2). The next owner of the partition skips it.

The metadata reads ``unimq1:<topic id>:<map>``. The topic id tells a topic that was deleted and made again, whose
offsets mean other messages. The map is a bitmap from the committed offset on, deflated, 15 bits to a character: the
broker's limit of ``offset.metadata.max.bytes`` counts characters.
"""

import zlib
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

H = TypeVar("H")

_MARK = "unimq1:"
_FIRST_CHARACTER = 0x3400
"""15 bits from here end before the surrogates."""
_MAP_OFFSETS = 60_000
"""Offsets that a map covers: 7500 bytes, which fit in the broker's 4095 characters even if nothing can be deflated."""
SPAN_LIMIT = 50_000
"""Offsets behind the oldest unfinished one at which a partition is stopped, so that its map always fits (L5)."""


def encode_metadata(topic_id: str, base: int, done: Iterable[int]) -> tuple[str, bool]:
    """Return the metadata for a commit of `base` with the offsets done above it, and whether all of them fit."""
    bits = bytearray()
    complete = True
    for offset in done:
        index = offset - base
        if not 0 <= index < _MAP_OFFSETS:
            # Below the base lies what a former owner did and compaction removed since.
            complete = complete and index < 0
            continue
        byte = index >> 3
        if byte >= len(bits):
            bits.extend(bytes(byte + 1 - len(bits)))
        bits[byte] |= 1 << (index & 7)
    return f"{_MARK}{topic_id}:{_pack(zlib.compress(bits, 6)) if bits else ''}", complete


def decode_metadata(metadata: str | None, topic_id: str, base: int) -> tuple[bool, set[int]]:
    """Return whether the commit is of this topic, and the offsets done above `base`.

    Somebody else's metadata, or none, is no reason to doubt the offset; an unreadable map is as good as none.
    """
    if not metadata or not metadata.startswith(_MARK):
        return True, set()
    committed_id, _, packed = metadata.removeprefix(_MARK).partition(":")
    if committed_id and topic_id and committed_id != topic_id:
        return False, set()
    try:
        bits = zlib.decompressobj().decompress(_unpack(packed), _MAP_OFFSETS // 8)
    except (zlib.error, ValueError, OverflowError):
        return True, set()
    return True, {
        base + 8 * index + bit for index, byte in enumerate(bits) if byte for bit in range(8) if byte >> bit & 1
    }


def _pack(data: bytes) -> str:
    # In pieces of 120 bits, as arithmetic on one large number would be quadratic.
    data += bytes(-len(data) % 15)
    return "".join(
        chr(_FIRST_CHARACTER + (piece >> shift & 0x7FFF))
        for start in range(0, len(data), 15)
        for piece in (int.from_bytes(data[start : start + 15]),)
        for shift in range(105, -1, -15)
    )


def _unpack(text: str) -> bytes:
    pieces: list[bytes] = []
    for start in range(0, len(text), 8):
        piece = 0
        for character in text[start : start + 8]:
            value = ord(character) - _FIRST_CHARACTER
            if not 0 <= value <= 0x7FFF:
                raise ValueError(f"{character!r} is not of a map")
            piece = piece << 15 | value
        pieces.append(piece.to_bytes(15))
    return b"".join(pieces)


class PartitionProgress(Generic[H]):
    """One partition during one assignment; being another object in the next one, it is the epoch as well (A6).

    Owned by the thread of its consumer. It goes by the offsets that were received, as compaction and transactions leave
    gaps between them.
    """

    __slots__ = (
        "_done",
        "_order",
        "_sent",
        "_skip",
        "acked",
        "base",
        "dirty",
        "held",
        "next",
        "over",
        "partition",
        "proven",
        "topic_id",
        "with_map",
    )

    def __init__(self, partition: int, topic_id: str, start: int, skip: set[int]) -> None:
        self.partition = partition
        self.next = start
        """The offset behind the last received one; -1 while that is not known."""
        self.held: dict[int, H] = {}
        """What was delivered and is unsettled."""
        self.over = False
        """The assignment has ended: nothing of it may reach the broker any more."""
        self.dirty = False
        """There is something to commit."""
        self.acked = 0
        self.base = 0
        """Below it all is done by a commit that the broker has confirmed during this assignment."""
        self.proven = 0
        """The first so many acks are in a commit that the broker has confirmed (A1)."""
        self.with_map = True
        """False once the broker refused the size of the metadata; then acks above a gap stay unproven."""
        self.topic_id = topic_id
        self._order: deque[int] = deque()
        self._done: set[int] = set()
        self._skip = skip
        self._sent: dict[tuple[int, str], int] = {}

    @property
    def head(self) -> int:
        """The oldest unfinished offset; `next` if there is none."""
        return self._order[0] if self._order else self.next

    @property
    def span(self) -> int:
        """Offsets from the oldest unfinished one to the last received."""
        return self.next - self._order[0] if self._order else 0

    def receive(self, offset: int) -> bool:
        """Note a received offset; false if the commit says that it is done already."""
        self.next = offset + 1
        self._order.append(offset)
        if self._skip and offset in self._skip:
            self._skip.remove(offset)
            self.finish(offset)
            return False
        return True

    def ack(self, offset: int) -> None:
        """Note that a message is done."""
        self.acked += 1
        order, done = self._order, self._done
        if order and order[0] == offset:
            # In order, as most are: what `finish` comes to.
            self.dirty = True
            order.popleft()
            if done:
                while order and order[0] in done:
                    done.remove(order.popleft())
        else:
            self.finish(offset)

    def finish(self, offset: int) -> None:
        """Note that a message needs no ack, or no more."""
        self.dirty = True
        order, done = self._order, self._done
        done.add(offset)
        while order and order[0] in done:
            done.remove(order.popleft())

    def commit_point(self) -> tuple[int, str]:
        """Return offset and metadata to commit now."""
        base = self._order[0] if self._order else self.next
        if self.with_map:
            # What the previous owner did above is done, received again or not.
            metadata, complete = encode_metadata(self.topic_id, base, (*self._done, *self._skip))
        else:
            metadata, complete = encode_metadata(self.topic_id, base, ())
            complete = not self._done
        self._sent[base, metadata] = self.acked if complete else self.proven
        self.dirty = False
        return base, metadata

    def committed(self, offset: int, metadata: str | None) -> bool:
        """Note that the broker has confirmed a commit; false if it is none of this assignment."""
        proven = self._sent.pop((offset, metadata or ""), None)
        if proven is None:
            return False
        self.proven = max(self.proven, proven)
        self.base = max(self.base, offset)
        self._sent = {point: acked for point, acked in self._sent.items() if acked > self.proven}
        return True
