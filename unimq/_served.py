"""What senders and receivers may offer besides, so that fewer threads wake for each message."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from unimq._outgoing import Outgoing

T = TypeVar("T")


@runtime_checkable
class ServedSender(Protocol):
    """What a `Sender` may offer besides: two switches of threads less for a send that is waited for.

    `submit` is for callers who wait in another way, or not at all: there a thread of the driver brings the outcome as
    soon as it is there.
    """

    def submit_quietly(self, entries: Sequence[Outgoing]) -> None:
        """As `submit`, but the thread of the driver is not hurried. An enqueued message, which has a group, gets its
        outcome within milliseconds all the same; for any other the caller calls `serve`.
        """
        ...

    def serve(self, attempt: Callable[[], T | None], deadline: float) -> T | None:
        """Bring outcomes in the calling thread until `attempt` returns something, and return that.

        Returns `None` if that is better done by a thread of the driver, or is done by another caller: then it is seen
        to, and the caller waits. Callbacks of users (`Outgoing.on_outcome`) never run in the calling thread, which may
        hold a lock that they take.
        """
        ...


@runtime_checkable
class HurriedReceiver(Protocol):
    """What a `Receiver` may offer besides, so that it need not wake for every settlement."""

    def wanted(self) -> None:
        """Make haste: somebody waits for messages, and no more are buffered. From any thread, often; never blocks."""
        ...
