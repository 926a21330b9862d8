"""Whether a row keeps what the protocol says: run as a program by the interpreter of the row's own environment.

``python row_conformance.py MODULE URL LARGEST [peer]`` with the package on PYTHONPATH; it prints what the row says of
itself as JSON. Standard library only, as the rows themselves. Of a peer, messages that were acked just before a close
may come back: a quorum queue that is told of very many acks forgets some of them when the channel ends.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

FEW = 20
PATIENCE = 60.0
QUIET = 2.0


def bodies(count: int, mark: str) -> list[bytes]:
    """Different ones, with all 256 byte values."""
    return [f"{mark}-{number:06}-".encode() + bytes(range(256)) for number in range(count)]


def take(receiver: Any, count: int, at_most: int = 100, *, acking: bool = False) -> tuple[list[bytes], list[Any]]:
    """Receive `count` messages, and settle none of them, or each batch as it comes."""
    found: list[bytes] = []
    batches: list[Any] = []
    deadline = time.monotonic() + PATIENCE
    while len(found) < count and time.monotonic() < deadline:
        batch = receiver.receive(at_most, 0.2)
        assert len(batch.bodies) <= at_most
        if batch.bodies:
            found += batch.bodies
            batches.append(batch)
            if acking:
                receiver.ack(batch)
    assert len(found) == count, f"{len(found)} of {count} messages came"
    return found, batches


def assert_empty(connection: Any, queue: str, excused: Collection[bytes] = ()) -> None:
    """Nothing comes but `excused`: a broker may give back what it was told of a moment before the connection ended."""
    receiver = connection.open_receiver(queue, prefetch=FEW)
    deadline = time.monotonic() + QUIET
    while time.monotonic() < deadline:
        batch = receiver.receive(FEW, 0.2)
        strangers = [body[:20] for body in batch.bodies if body not in excused]
        assert not strangers, f"messages are there which must not be: {strangers[:3]}"
        receiver.ack(batch)
    receiver.close()


def send(connection: Any, queue: str, messages: list[bytes], window: int) -> None:
    sender = connection.open_sender(queue, window=window)
    for body in messages:
        sender.send(body)
    assert list(sender.flush()) == []
    assert list(sender.flush()) == []
    sender.close()
    sender.close()


def main(module: str, url: str, largest: int, *, is_peer: bool) -> None:
    connect = importlib.import_module(module).connect
    refusal = ""
    try:
        connect(url, {"no_such_option": "1"})
    except ValueError as error:
        refusal = str(error)
    assert "no_such_option" in refusal
    connection = connect(url, {})
    queue = f"row-{os.urandom(6).hex()}"
    connection.prepare(queue)

    sent = bodies(300, "all")
    send(connection, queue, sent, window=50)
    receiver = connection.open_receiver(queue, prefetch=300)
    found, batches = take(receiver, 1, at_most=1)
    receiver.ack(batches[0])
    found += take(receiver, len(sent) - 1, acking=True)[0]
    assert sorted(found) == sorted(sent)
    receiver.settle()
    receiver.close()
    receiver.close()
    assert_empty(connection, queue, sent if is_peer else ())

    sent = bodies(FEW, "unsettled")
    send(connection, queue, sent, window=1)
    receiver = connection.open_receiver(queue, prefetch=FEW)
    # A peer may fetch nothing more before what it fetched is acked.
    take(receiver, 1 if is_peer else FEW, at_most=1)
    receiver.close()
    receiver = connection.open_receiver(queue, prefetch=FEW)
    found, _ = take(receiver, FEW, acking=True)
    assert sorted(found) == sorted(sent)
    receiver.settle()
    receiver.close()

    large = bytes(range(256)) * (largest // 256)
    send(connection, queue, [large] * 4, window=2)
    connection.prepare(queue)
    assert_empty(connection, queue)
    send(connection, queue, [large] * 4, window=2)
    receiver = connection.open_receiver(queue, prefetch=FEW)
    found, _ = take(receiver, 4, acking=True)
    assert found == [large] * 4
    receiver.settle()
    receiver.close()

    description = connection.description
    assert all(isinstance(number, int) and number >= 0 for number in connection.counters().values())
    connection.remove(queue)
    connection.remove(queue)
    connection.close()
    connection.close()
    sys.stdout.write(json.dumps({**asdict(description), "counters": dict(connection.counters())}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), is_peer=sys.argv[4:] == ["peer"])
