"""`unimq send` and `unimq receive`."""

import base64
import io
import os
import time
from pathlib import Path
from typing import Any

import pytest

import unimq

from .conftest import Command


def bodies(broker: unimq.Broker, source: str | unimq.Subscription) -> list[bytes]:
    """What is in the queue; it stays there."""
    with broker.consumer(source) as consumer:
        return [delivery.body for delivery in consumer.receive(1000, timeout=0)]


class BreakingOutput(io.BytesIO):
    """Standard output whose reader leaves after some lines."""

    def __init__(self, lines: int) -> None:
        super().__init__()
        self.left = lines

    def write(self, data: Any, /) -> int:
        if self.left == 0:
            raise BrokenPipeError
        self.left -= 1
        return super().write(data)


# Sending.


def test_send_prints_the_message_id_of_what_is_stored(command: Command, broker: unimq.Broker) -> None:
    (printed,) = command("send", "orders", "hello").lines
    with broker.consumer("orders") as consumer:
        (delivery,) = consumer.receive(timeout=5)
    assert (delivery.id, delivery.body) == (printed, b"hello")


def test_send_passes_on_everything_that_belongs_to_a_message(command: Command, broker: unimq.Broker) -> None:
    options = ["--key", "k 1", "--header", "a=1", "--header", "b=x=y", "--header", "c=", "--content-type", "text/plain"]
    assert command("send", "orders", "hello", *options, "--delay", "0.01", "--ttl", "60").code == 0
    with broker.consumer("orders") as consumer:
        (delivery,) = consumer.receive(timeout=5)
    assert delivery.key == "k 1"
    assert delivery.headers == {"a": "1", "b": "x=y", "c": ""}
    assert delivery.content_type == "text/plain"
    assert delivery.message.delay == 0.01
    assert delivery.message.ttl == 60


@pytest.mark.parametrize("body", ["", "ünï", "-x", "--json", "two\nlines"])
def test_a_body_is_one_message_as_it_is(command: Command, broker: unimq.Broker, body: str) -> None:
    assert len(command("send", "orders", "--", body).lines) == 1
    assert bodies(broker, "orders") == [body.encode()]


def test_a_body_may_be_bytes_that_are_no_text(command: Command, broker: unimq.Broker) -> None:
    assert command("send", "orders", os.fsdecode(b"\xff\xfe")).code == 0
    assert bodies(broker, "orders") == [b"\xff\xfe"]


def test_each_line_of_the_input_is_a_message(command: Command, broker: unimq.Broker) -> None:
    result = command("send", "orders", "--json", stdin=b"one\n\n\xff\xfe\r\nlast")
    assert [document["line"] for document in result.documents] == [1, 2, 3, 4]
    assert bodies(broker, "orders") == [b"one", b"", b"\xff\xfe\r", b"last"]


def test_no_input_is_no_message(command: Command, broker: unimq.Broker) -> None:
    assert command("send", "orders").lines == []
    assert bodies(broker, "orders") == []


def test_lines_longer_than_what_is_read_at_once_stay_whole(command: Command, broker: unimq.Broker) -> None:
    lines = [bytes([65 + number]) * (150_000 * number) for number in range(6)]
    assert len(command("send", "orders", stdin=b"\n".join(lines)).lines) == 6
    assert bodies(broker, "orders") == lines


@pytest.mark.parametrize("as_stdin", [False, True])
def test_a_file_is_one_message_or_one_per_line(
    command: Command, broker: unimq.Broker, tmp_path: Path, as_stdin: bool
) -> None:
    content = b"a\nb\n\x00\xff"
    path = tmp_path / "input"
    path.write_bytes(content)
    name, stdin = ("-", content) if as_stdin else (str(path), b"")
    assert len(command("send", "whole", "--file", name, stdin=stdin).lines) == 1
    assert len(command("send", "lines", "--file", name, "--lines", stdin=stdin).lines) == 3
    assert bodies(broker, "whole") == [content]
    assert bodies(broker, "lines") == [b"a", b"b", b"\x00\xff"]


def test_lines_that_are_refused_are_named_and_the_others_are_stored(command: Command, broker: unimq.Broker) -> None:
    broker.declare(unimq.Queue("orders", max_length=2))
    result = command("send", "orders", stdin=b"one\ntwo\nthree\nfour\n")
    assert result.code == 1
    assert len(result.out.splitlines()) == 2
    first, second, last = result.err.splitlines()
    assert first.startswith("error: line 3: QueueFull: ")
    assert second.startswith("error: line 4: QueueFull: ")
    assert last == "error: 2 of 4 lines failed; nothing after line 4 was sent"
    assert bodies(broker, "orders") == [b"one", b"two"]


def test_send_to_a_topic_reaches_its_subscriptions(command: Command, broker: unimq.Broker) -> None:
    audit = unimq.Topic("events").subscription("audit")
    broker.declare(audit)
    assert len(command("send", "events", "hello", "--topic").lines) == 1
    assert bodies(broker, audit) == [b"hello"]


def test_policies_that_the_command_does_not_know_are_no_conflict(command: Command, broker: unimq.Broker) -> None:
    topic = unimq.Topic("events", ordering="key")
    broker.declare(topic.subscription("audit", max_deliveries=3), unimq.Queue("orders", ordering="key"))
    assert command("send", "events", "hello", "--topic", "--key", "k").code == 0
    assert command("send", "orders", "hello", "--key", "k").code == 0
    assert command("receive", "events", "--subscription", "audit", "--timeout", "0").lines == ["hello"]
    assert command("receive", "orders", "--timeout", "0").lines == ["hello"]


# Receiving.


def fill(broker: unimq.Broker, *messages: bytes | unimq.Message) -> list[str]:
    with broker.producer("orders") as producer:
        return [receipt.message_id for receipt in producer.send_many(messages)]


def test_receive_prints_and_acks(command: Command, broker: unimq.Broker) -> None:
    fill(broker, b"one", b"two", b"three")
    assert command("receive", "orders", "--max", "2").lines == ["one", "two"]
    assert command("receive", "orders", "--timeout", "0").lines == ["three"]
    assert broker.stats("orders") == unimq.Stats(
        ready=0, in_flight=0, delayed=0, oldest_age=None, consumers=0, dead_letters=0
    )


def test_receive_never_takes_more_than_it_was_told(command: Command, broker: unimq.Broker) -> None:
    fill(broker, *(b"%d" % number for number in range(250)))
    assert len(command("receive", "orders", "--max", "150").lines) == 150
    assert broker.stats("orders").ready == 100


def test_output_that_takes_a_part_gets_the_rest(command: Command, broker: unimq.Broker) -> None:
    """Without buffering, a full pipe or disk may take a part of a line and say so."""

    class Sipping(io.BytesIO):
        def write(self, data: Any, /) -> int:
            return super().write(data[:3])

    fill(broker, b"0123456789")
    assert command("receive", "orders", "--max", "1", out=Sipping()).out == b"0123456789\n"


def test_what_send_reads_receive_writes(command: Command, broker: unimq.Broker) -> None:
    assert command("send", "orders", stdin=b"a\n\n\xff\n").code == 0
    assert command("receive", "orders", "--timeout", "0").out == b"a\n\n\xff\n"


def test_receive_ends_when_nothing_came_in_time(command: Command) -> None:
    began = time.monotonic()
    assert command("receive", "orders", "--timeout", "0.2").lines == []
    assert time.monotonic() - began >= 0.2


def test_a_message_as_json(command: Command, broker: unimq.Broker) -> None:
    headers: dict[str, str | bytes] = {"text": "ü", "data": b"\xff"}
    message = unimq.Message(
        "ü\n".encode(), "key", headers, "id-1", content_type="text/plain", correlation_id="c", reply_to="replies"
    )
    before = time.time()
    fill(broker, message)
    (document,) = command("receive", "orders", "--json", "--max", "1").documents
    assert before - 0.001 <= document.pop("sent_at") <= time.time()
    assert document == {
        "id": "id-1",
        "source": "orders",
        "attempt": 1,
        "key": "key",
        "headers": {"text": "ü", "data": {"base64": base64.b64encode(b"\xff").decode()}},
        "content_type": "text/plain",
        "correlation_id": "c",
        "reply_to": "replies",
        "body": "ü\n",
        "body_encoding": "utf-8",
    }


def test_a_body_that_is_no_text_is_base64_in_json(command: Command, broker: unimq.Broker) -> None:
    fill(broker, bytes(range(256)))
    (document,) = command("receive", "orders", "--json", "--max", "1").documents
    assert (document["body_encoding"], document["key"]) == ("base64", None)
    assert base64.b64decode(document["body"]) == bytes(range(256))


def test_a_terminal_gets_no_control_characters(command: Command, broker: unimq.Broker) -> None:
    body = b"\x1b[2Jgr\xc3\xbcn\t\x07\xff\r\n"
    fill(broker, body, body)
    result = command("receive", "orders", "--max", "1", terminal=True)
    assert result.lines == ["\\x1b[2Jgrün\t\\x07\\xff\\r\\n"]
    assert command("receive", "orders", "--max", "1").out == body + b"\n"


def test_peek_takes_nothing_away(command: Command, broker: unimq.Broker) -> None:
    fill(broker, b"one", b"two", b"three")
    assert command("receive", "orders", "--peek", "--max", "2").lines == ["one", "two"]
    assert command("receive", "orders", "--peek", "--timeout", "0").lines == ["one", "two", "three"]
    assert bodies(broker, "orders") == [b"one", b"two", b"three"]


def test_peek_holds_more_than_a_usual_prefetch(command: Command, broker: unimq.Broker) -> None:
    fill(broker, *(b"%d" % number for number in range(250)))
    assert len(command("receive", "orders", "--peek", "--max", "250", "--timeout", "5").lines) == 250


@pytest.mark.parametrize("arguments", [("events", "--subscription", "audit"), ("events--audit",)])
def test_receive_from_a_subscription_that_it_declares(
    command: Command, broker: unimq.Broker, arguments: tuple[str, ...]
) -> None:
    assert command("receive", *arguments, "--timeout", "0").lines == []
    assert command("send", "events", "hello", "--topic").code == 0
    assert command("receive", *arguments, "--timeout", "0").lines == ["hello"]


def test_dead_letters_of_a_subscription_are_an_ordinary_queue(command: Command, broker: unimq.Broker) -> None:
    topic = unimq.Topic("events")
    with broker.consumer(topic.subscription("audit")) as consumer, broker.producer(topic) as producer:
        producer.send(b"bad")
        consumer.receive(timeout=5)[0].reject("why")
        consumer.settle()
    (document,) = command("receive", "events--audit-dead", "--timeout", "0", "--json").documents
    assert document["headers"]["unimq-dead-reason"] == "why"


@pytest.mark.parametrize("mode", [(), ("--json",)])
@pytest.mark.parametrize("printed", [0, 1, 7])
def test_a_reader_that_leaves_costs_no_message(
    command: Command, broker: unimq.Broker, printed: int, mode: tuple[str, ...]
) -> None:
    sent = [b"%02d" % number for number in range(20)]
    fill(broker, *sent)
    result = command("receive", "orders", *mode, out=BreakingOutput(printed))
    assert (result.code, result.err) == (141, "")
    assert result.out.count(b"\n") == printed
    # The printed ones are settled, all others are there at once, and as if they had never been fetched.
    with broker.consumer("orders") as consumer:
        left = consumer.receive(100, timeout=0)
    assert [(delivery.body, delivery.attempt) for delivery in left] == [(body, 1) for body in sent[printed:]]
