"""Compressed bodies: marked, smaller, bounded when unpacked."""

import gzip
import sys
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import unimq
from unimq import JSON, Compressed, ConfigError, DecodeError, InvalidMessage, Message, MessagePack
from unimq._codec import decode, encode
from unimq._compression import Encoding

ENCODINGS: list[Encoding] = ["gzip", "zstd"]
encodings = pytest.mark.parametrize("encoding", ENCODINGS)
TEXT = "a long text " * 100


def compressed(codec: unimq.Codec[Any], value: object) -> Message:
    body, headers, content_type = encode(codec, value, None, None)
    return Message(body, headers=headers or {}, content_type=content_type, id="m")


@encodings
@given(text=st.text())
def test_every_text_survives(encoding: Encoding, text: str) -> None:
    """R2."""
    codec = Compressed(MessagePack(str), encoding, min_bytes=1)
    assert decode(codec, compressed(codec, text)) == text


@encodings
@given(body=st.binary(max_size=100))
def test_any_bytes_give_a_value_or_a_decode_error(encoding: Encoding, body: bytes) -> None:
    """D3."""
    with pytest.raises(DecodeError):
        decode(Compressed(JSON(list[int])), Message(body, headers={"content-encoding": encoding}))


@encodings
def test_it_is_marked_smaller_and_reproducible(encoding: Encoding) -> None:
    codec = Compressed(JSON(str), encoding)
    sent = compressed(codec, TEXT)
    assert sent.headers == {"content-encoding": encoding}
    assert sent.content_type == "application/json"
    assert len(sent.body) < len(TEXT) / 10
    assert compressed(codec, TEXT).body == sent.body


def test_gzip_is_that_of_the_standard_library() -> None:
    codec = Compressed(JSON(str), "gzip", level=9)
    assert gzip.decompress(compressed(codec, TEXT).body) == JSON(str).encode(TEXT).body
    foreign = Message(gzip.compress(JSON(str).encode(TEXT).body), headers={"content-encoding": b"GZIP"})
    assert decode(codec, foreign) == TEXT


def test_either_encoding_and_plain_bodies_are_read() -> None:
    reader = Compressed(JSON(str), "gzip")
    assert decode(reader, compressed(Compressed(JSON(str), "zstd"), TEXT)) == TEXT
    assert decode(reader, compressed(JSON(str), TEXT)) == TEXT


def test_small_bodies_are_sent_as_they_are() -> None:
    sent = compressed(Compressed(JSON(str)), "small")
    assert (sent.body, sent.headers) == (b'"small"', {})


@encodings
def test_bombs_are_refused_at_the_limit(encoding: Encoding) -> None:
    """L5."""
    writer = Compressed(JSON(str), encoding)
    bomb = compressed(writer, "0" * 10_000_000)
    assert len(bomb.body) < 20_000
    with pytest.raises(DecodeError, match="more than the 9999999 bytes allowed"):
        decode(Compressed(JSON(str), encoding, max_bytes=9_999_999), bomb)
    exact = Compressed(JSON(str), encoding, max_bytes=10_000_002)
    assert len(decode(exact, bomb)) == 10_000_000


@encodings
def test_what_is_cut_off_or_followed_by_more_is_refused(encoding: Encoding) -> None:
    """D3; many streams behind each other would be a bomb of another kind."""
    codec = Compressed(JSON(str), encoding)
    whole = compressed(codec, TEXT)
    for body in (whole.body[:-1], whole.body * 2, b"", b"x" + whole.body):
        whole.body, kept = body, whole.body
        with pytest.raises(DecodeError, match=encoding):
            decode(codec, whole)
        whole.body = kept


def test_an_unknown_encoding_is_refused_naming_both() -> None:
    with pytest.raises(DecodeError, match=r"'br'; Compressed\(JSON\(str\), 'gzip'\) reads 'gzip', 'zstd'"):
        decode(Compressed(JSON(str)), Message(b"", headers={"content-encoding": "br"}))


def test_the_content_type_is_still_checked() -> None:
    with pytest.raises(DecodeError, match=r"'application/json'; MessagePack\(str\)"):
        decode(Compressed(MessagePack(str)), compressed(Compressed(JSON(str)), TEXT))


def test_what_makes_no_sense_is_refused() -> None:
    wrong: list[dict[str, Any]] = [
        {"encoding": "lz4"},
        {"level": 77},
        {"encoding": "zstd", "level": 777},
        {"max_bytes": 0},
    ]
    for arguments in wrong:
        with pytest.raises(ConfigError):
            Compressed(JSON(str), **arguments)
    with pytest.raises(InvalidMessage, match="compresses already"):
        compressed(Compressed(Compressed(JSON(str))), TEXT)
    with pytest.raises(InvalidMessage, match="at most 300"):
        compressed(Compressed(JSON(str), max_bytes=300), TEXT)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="the standard library has zstd")
def test_without_its_library_zstd_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    with pytest.raises(unimq.MissingDependency, match=r"pip install 'unimq\[zstd\]'"):
        Compressed(JSON(str), "zstd")
    Compressed(JSON(str), "gzip")


def test_a_stream_of_gzip_without_its_checksum_is_refused() -> None:
    body = bytearray(zlib.compress(b'"x"', wbits=31))
    body[-5] ^= 1
    with pytest.raises(DecodeError, match="gzip: Error"):
        decode(Compressed(JSON(str)), Message(bytes(body), headers={"content-encoding": "gzip"}))
