"""Compressed bodies, marked by the header ``content-encoding`` and never larger than declared when unpacked."""

import importlib
import sys
import zlib
from collections.abc import Callable
from typing import Any, Generic, Literal, Protocol

import msgspec

from unimq._capabilities import Capabilities
from unimq._codec import Codec, Encoded, T, bound
from unimq._codecs import CONTENT_ENCODING, LARGEST_BODY, text_of
from unimq._destinations import count
from unimq._errors import ConfigError, DecodeError, InvalidMessage, MissingDependency
from unimq._message import NO_HEADERS, Message

Encoding = Literal["gzip", "zstd"]

_GZIP = 16 + zlib.MAX_WBITS
"""Asks zlib for the format of gzip."""
_LEAST = 256
"""Bytes below which compression costs more than it saves."""


class Compressed(Generic[T]):
    """Another codec's bodies, compressed: ``unimq.Compressed(unimq.JSON(Order), "zstd")``.

    A compressed body is marked by the header ``content-encoding``; the content type stays that of the inner codec. Both
    encodings are read, whichever is written, and so are bodies that are not marked: producers can change over one by
    one. Nothing is unpacked beyond `max_bytes`, whatever a body claims (D3).

    Args:
        codec: makes what is compressed.
        encoding: ``"gzip"`` (standard library) or ``"zstd"`` (faster and smaller; the extra ``unimq[zstd]``).
        level: of the encoding's own scale; its default if left out.
        min_bytes: smaller bodies are sent as they are.
        max_bytes: size of the largest body before compression.

    Raises:
        ConfigError: no such encoding, or an argument is wrong.
        MissingDependency: zstd has no library here; the error holds the pip line.

    """

    def __init__(
        self,
        codec: Codec[T],
        encoding: Encoding = "gzip",
        *,
        level: int | None = None,
        min_bytes: int = _LEAST,
        max_bytes: int = LARGEST_BODY,
    ) -> None:
        if encoding not in _COMPRESSORS:
            raise ConfigError(f"encoding must be one of {', '.join(map(repr, _COMPRESSORS))}, not {encoding!r}")
        self.codec = codec
        self.encoding: Encoding = encoding
        self.level = level
        self.min_bytes: int = count(min_bytes, "min_bytes")
        self.max_bytes: int = count(max_bytes, "max_bytes")
        try:
            self._compress: Callable[[bytes], bytes] = _COMPRESSORS[encoding](level)
            self._compress(b"")
        except (ValueError, TypeError, zlib.error) as error:
            raise ConfigError(f"level {level!r} of {encoding}: {error}") from error

    def __repr__(self) -> str:
        return f"Compressed({self.codec!r}, {self.encoding!r})"

    def bind(self, capabilities: Capabilities) -> "Compressed[T]":
        """Return this codec for one backend; see `unimq.Codec`."""
        return Compressed(
            bound(self.codec, capabilities),
            self.encoding,
            level=self.level,
            min_bytes=self.min_bytes,
            max_bytes=self.max_bytes,
        )

    def encode(self, value: T) -> Encoded:
        """See `Codec.encode`."""
        encoded = self.codec.encode(value)
        if CONTENT_ENCODING in encoded.headers:
            raise InvalidMessage(f"{self.codec!r} compresses already")
        if len(encoded.body) < self.min_bytes:
            return encoded
        if len(encoded.body) > self.max_bytes:
            raise InvalidMessage(f"{len(encoded.body)} bytes; {self!r} takes at most {self.max_bytes}")
        headers = {**encoded.headers, CONTENT_ENCODING: self.encoding}
        return Encoded(self._compress(encoded.body), encoded.content_type, headers)

    def decode(self, message: Message) -> T:
        """See `Codec.decode`."""
        encoding = text_of(message.headers.get(CONTENT_ENCODING))
        if encoding is None:
            return self.codec.decode(message)
        decompress = _DECOMPRESSORS.get(encoding.lower())
        if decompress is None:
            raise DecodeError(f"content encoding {encoding!r}; {self!r} reads {', '.join(map(repr, _DECOMPRESSORS))}")
        headers = {name: value for name, value in message.headers.items() if name != CONTENT_ENCODING}
        body = decompress(message.body, self.max_bytes)
        return self.codec.decode(msgspec.structs.replace(message, body=body, headers=headers or NO_HEADERS))


class _Decompressor(Protocol):
    """What zlib and zstd have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _unpack(name: str, decompressor: _Decompressor, body: bytes, largest: int) -> bytes:
    """Return at most `largest` bytes, or raise.

    One stream only: many empty ones behind each other would take time without ever exceeding the size.
    """
    # One byte more than allowed tells an exact fit from a bomb.
    unpacked = decompressor.decompress(body, largest + 1)
    if len(unpacked) > largest:
        raise DecodeError(f"{name} body of {len(body)} bytes unpacks to more than the {largest} bytes allowed")
    if not decompressor.eof:
        raise DecodeError(f"{name} body of {len(body)} bytes is cut off")
    if decompressor.unused_data:
        raise DecodeError(f"{len(decompressor.unused_data)} bytes follow the {name} stream")
    return unpacked


def _gzip(level: int | None) -> Callable[[bytes], bytes]:
    chosen = zlib.Z_DEFAULT_COMPRESSION if level is None else level
    # No time in the head, unlike `gzip.compress`: equal values make equal bodies.
    return lambda body: zlib.compress(body, chosen, _GZIP)


def _gunzip(body: bytes, largest: int) -> bytes:
    try:
        return _unpack("gzip", zlib.decompressobj(_GZIP), body, largest)
    except zlib.error as error:
        raise DecodeError(f"gzip: {error}") from error


def _zstd_library() -> Any:
    if sys.version_info >= (3, 14):
        return importlib.import_module("compression.zstd")
    try:
        return importlib.import_module("backports.zstd")
    except ModuleNotFoundError as error:
        if error.name not in {"backports", "backports.zstd"}:
            raise
        raise MissingDependency(
            "zstd needs the library backports.zstd; install it by: pip install 'unimq[zstd]'"
        ) from error


def _zstd(level: int | None) -> Callable[[bytes], bytes]:
    compress = _zstd_library().compress
    return lambda body: compress(body, level)


def _unzstd(body: bytes, largest: int) -> bytes:
    zstd = _zstd_library()
    # A frame may ask for a window that is larger than anything it is allowed to unpack to.
    window = min(max(largest.bit_length(), 20), 27)
    options = {zstd.DecompressionParameter.window_log_max: window}
    try:
        return _unpack("zstd", zstd.ZstdDecompressor(options=options), body, largest)
    except zstd.ZstdError as error:
        raise DecodeError(f"zstd: {error}") from error


_COMPRESSORS: dict[str, Callable[[int | None], Callable[[bytes], bytes]]] = {"gzip": _gzip, "zstd": _zstd}
_DECOMPRESSORS: dict[str, Callable[[bytes, int], bytes]] = {"gzip": _gunzip, "zstd": _unzstd}
