"""The few types of Kafka's protocol that the front of the mock reads and writes."""

import struct
from collections.abc import Sequence


class Reader:
    """Takes values off a request, one after the other."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self.at = at
        """Where the next value begins."""

    def int8(self) -> int:
        """Take one byte."""
        return self._integer(1)

    def int16(self) -> int:
        """Take two bytes."""
        return self._integer(2)

    def int32(self) -> int:
        """Take four bytes."""
        return self._integer(4)

    def array(self) -> range:
        """Take the length of an array, whose elements follow; none for a missing one."""
        return range(max(0, self.int32()))

    def compact_array(self) -> range:
        """Take the length of an array of the versions with tagged fields."""
        return range(max(0, self._varint() - 1))

    def string(self) -> str | None:
        """Take a string of the versions without tagged fields."""
        length = self.int16()
        return None if length < 0 else self._text(length)

    def compact_string(self) -> str | None:
        """Take a string of the versions with tagged fields."""
        length = self._varint() - 1
        return None if length < 0 else self._text(length)

    def tags(self) -> None:
        """Skip tagged fields."""
        for _ in range(self._varint()):
            self._varint()
            # Not augmented: the length is read after the present place would be.
            length = self._varint()
            self.at += length

    def _integer(self, size: int) -> int:
        start, self.at = self.at, self.at + size
        return int.from_bytes(self._data[start : self.at], signed=True)

    def _text(self, length: int) -> str:
        start, self.at = self.at, self.at + length
        return self._data[start : self.at].decode()

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value


def string(text: str | None) -> bytes:
    """Return a string of the versions without tagged fields."""
    if text is None:
        return struct.pack(">h", -1)
    data = text.encode()
    return struct.pack(">h", len(data)) + data


def compact_string(text: str) -> bytes:
    """Return a string of the versions with tagged fields."""
    data = text.encode()
    return _unsigned(len(data) + 1) + data


def compact_array(entries: Sequence[bytes]) -> bytes:
    """Return an array of the versions with tagged fields."""
    return _unsigned(len(entries) + 1) + b"".join(entries)


def _unsigned(value: int) -> bytes:
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)
