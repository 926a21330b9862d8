"""Faults that change what a message carries."""

import itertools
from collections.abc import Sequence

from unimq.adapter import (
    NO_HEADERS,
    Message,
    Outgoing,
)
from unimq_contract.mutants.seam import FaultySender, Mutant, Rewriting


class HeadersDropped(Rewriting):
    """No message has headers."""

    def change(self, message: Message) -> None:
        message.headers = NO_HEADERS


class EleventhHeaderDropped(Rewriting):
    """Only ten headers arrive."""

    def change(self, message: Message) -> None:
        message.headers = dict(itertools.islice(message.headers.items(), 10))


class BinaryHeadersBecomeText(Rewriting):
    """A header of bytes that could be text arrives as text."""

    def change(self, message: Message) -> None:
        headers = {n: v.decode() if isinstance(v, bytes) and v.isascii() else v for n, v in message.headers.items()}
        message.headers = headers


class TextMangled(Rewriting):
    """The body passes through text and back."""

    def change(self, message: Message) -> None:
        message.body = message.body.decode(errors="replace").encode()


class BodyTruncated(Rewriting):
    """Bodies end at 64 KiB."""

    def change(self, message: Message) -> None:
        message.body = message.body[:65536]


class EmptyBodyLost(Mutant):
    """A message without a body is confirmed and not stored."""

    def submit(self, sender: FaultySender, entries: Sequence[Outgoing]) -> None:
        sender.real.submit([entry for entry in entries if entry.message.body])
        sender.stored([entry for entry in entries if not entry.message.body])


class EmptyKeyForNone(Rewriting):
    """A message without a key arrives with an empty one."""

    def change(self, message: Message) -> None:
        message.key = message.key or ""
