"""Topics of delays: made once somebody sends there, served while somebody consumes; requests fail at times."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence

import pytest
from unimq_kafka import _delays
from unimq_kafka._delays import Delays
from unimq_kafka._tiers import LONGEST, TIERS

from unimq import AuthError, ConnectionLost, NotFound, UnimqError

from .conftest import until


class Topics:
    """In the place of the administration: topics by name, and errors that the next requests get."""

    where = "somewhere"

    def __init__(self) -> None:
        self.made: dict[str, int] = {}
        self.settings: dict[str, Mapping[str, str]] = {"orders": {"retention.ms": "1000", "min.insync.replicas": "2"}}
        self.errors: list[UnimqError] = []
        self.created: list[tuple[str, int, int | None, dict[str, str]]] = []
        self.looks = 0
        self.ids: dict[str, str] = {}
        self.deleted: list[tuple[str, dict[int, int]]] = []

    def find_partitions(self, name: str, timeout: float) -> list[int] | None:
        if self.errors:
            raise self.errors.pop(0)
        return list(range(self.made[name])) if name in self.made else None

    def topic_settings(self, name: str, timeout: float) -> Mapping[str, str]:
        return self.settings.get(name, {})

    def copies(self, name: str, timeout: float) -> int:
        return 3

    def create_topic(
        self, name: str, partitions: int, replication: int | None, config: dict[str, str], timeout: float
    ) -> None:
        self.created.append((name, partitions, replication, config))
        self.made[name] = partitions

    def offsets(self, name: str, *, end: bool, timeout: float) -> dict[int, int]:
        return dict.fromkeys(range(self.made[name]), 0)

    def topic_id(self, name: str, timeout: float) -> str:
        return self.ids.get(name, "")

    def delete_records(self, name: str, ends: Mapping[int, int], timeout: float) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.deleted.append((name, dict(ends)))

    def existing(self, names: Sequence[str], timeout: float) -> dict[str, int]:
        self.looks += 1
        if self.errors:
            raise self.errors.pop(0)
        return {name: self.made[name] for name in names if name in self.made}


class Forwarding:
    """In the place of a forwarder."""

    def __init__(self, topic: str, partitions: int) -> None:
        self.topic = topic
        self.partitions = partitions
        self.is_over = False
        self.said: list[str] = []
        self.failure: UnimqError | None = None
        self.done: tuple[str, dict[int, int]] = ("", {})

    def finished(self) -> tuple[str, dict[int, int]]:
        return self.done

    def begin_close(self, close_by: float) -> None:
        self.said.append("begin_close")

    def join(self, timeout: float) -> None:
        self.said.append("join")
        self.is_over = True

    def end(self, error: UnimqError, timeout: float) -> None:
        assert isinstance(error, NotFound)
        self.said.append("end")
        self.is_over = True

    def forget_waiting(self, ends: Mapping[int, int]) -> None:
        self.said.append(f"forget {dict(ends)}")


class Setting:
    def __init__(self) -> None:
        self.topics = Topics()
        self.opened: list[Forwarding] = []
        self.delays = Delays(self.topics, self.open)  # type: ignore[arg-type]

    def open(self, topic: str, partitions: int) -> Forwarding:
        self.opened.append(Forwarding(topic, partitions))
        return self.opened[-1]

    def wait_for(self, count: int) -> Forwarding:
        until(lambda: len(self.opened) >= count)
        return self.opened[-1]


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Setting]:
    monkeypatch.setattr(_delays, "_LOOK_INTERVAL", 0.05)
    monkeypatch.setattr(_delays, "_RETRY", 0.02)
    setting = Setting()
    yield setting
    setting.delays.close(time.monotonic() + 5)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("unimq-kafka")]


class Answers:
    def __init__(self) -> None:
        self.found: list[int] = []
        self.errors: list[UnimqError] = []

    def ask(self, setting: Setting, topic: str = "orders", seconds: float = 20.0) -> None:
        setting.delays.provide(topic, time.monotonic() + seconds, self.found.append, self.errors.append)


def test_a_topic_of_delays_is_made_as_safe_as_its_destination(setting: Setting) -> None:
    answers = Answers()
    answers.ask(setting)
    until(lambda: answers.found)
    assert answers.found == [TIERS]
    assert setting.topics.created == [
        (
            "orders.unimq-delay",
            TIERS,
            3,
            {
                "min.insync.replicas": "2",
                "retention.ms": str(1000 + int(LONGEST * 1000)),
                "message.timestamp.type": "LogAppendTime",
                "cleanup.policy": "delete",
            },
        )
    ]
    answers.ask(setting)
    until(lambda: len(answers.found) == 2)
    assert len(setting.topics.created) == 1
    # Nobody consumes.
    assert not setting.opened


@pytest.mark.parametrize("settings", [{}, {"retention.ms": "-1"}])
def test_what_waits_does_not_end_before_its_destination_does(setting: Setting, settings: dict[str, str]) -> None:
    setting.topics.settings["orders"] = settings
    answers = Answers()
    answers.ask(setting)
    until(lambda: answers.found)
    assert setting.topics.created[0][3]["retention.ms"] == "-1"


def test_a_topic_that_exists_is_taken_as_it_is(setting: Setting) -> None:
    setting.topics.made["orders.unimq-delay"] = 3
    answers = Answers()
    answers.ask(setting)
    until(lambda: answers.found)
    assert (answers.found, setting.topics.created) == ([3], [])


def test_a_lost_connection_is_waited_out_and_other_errors_are_told(setting: Setting) -> None:
    setting.topics.errors = [ConnectionLost("no answer"), ConnectionLost("no answer")]
    answers = Answers()
    answers.ask(setting)
    until(lambda: answers.found)
    assert not answers.errors
    setting.topics.errors = [AuthError("no right")]
    answers.ask(setting)
    until(lambda: answers.errors)
    assert isinstance(answers.errors[0], AuthError)


def test_nobody_waits_beyond_the_deadline(setting: Setting) -> None:
    setting.topics.errors = [ConnectionLost("no answer") for _ in range(1000)]
    answers = Answers()
    answers.ask(setting, seconds=0.1)
    until(lambda: answers.errors)
    assert isinstance(answers.errors[0], ConnectionLost)
    assert not answers.found


def test_who_waits_is_told_when_the_connection_is_closed(setting: Setting) -> None:
    setting.topics.errors = [ConnectionLost("no answer") for _ in range(100_000)]
    answers = Answers()
    for _ in range(3):
        answers.ask(setting)
    until(lambda: len(setting.topics.errors) < 99_990)
    setting.delays.close(time.monotonic() + 5)
    assert len(answers.errors) == 3
    assert not answers.found


def test_receivers_of_a_topic_share_one_forwarder_which_ends_with_the_last(setting: Setting) -> None:
    first, second = setting.delays.join("orders"), setting.delays.join("orders")
    until(lambda: setting.topics.looks > 2)
    assert not setting.opened
    # Made by another connection.
    setting.topics.made["orders.unimq-delay"] = TIERS
    forwarder = setting.wait_for(1)
    assert (forwarder.topic, forwarder.partitions) == ("orders", TIERS)
    first.end(time.monotonic() + 1)
    first.wait(1)
    assert forwarder.said == []
    for _ in range(2):
        second.end(time.monotonic() + 1)
    second.wait(1)
    assert forwarder.said == ["begin_close", "begin_close", "join"]
    # A new receiver gets a new one.
    setting.delays.join("orders")
    assert setting.wait_for(2) is not forwarder


def test_a_receiver_need_not_wait_for_what_the_same_connection_makes(setting: Setting) -> None:
    setting.delays.join("orders")
    until(lambda: setting.topics.looks)
    answers = Answers()
    answers.ask(setting)
    setting.wait_for(1)
    assert answers.found


def test_one_that_ended_by_itself_is_replaced_once_there_is_a_topic_again(setting: Setting) -> None:
    setting.topics.made["orders.unimq-delay"] = TIERS
    setting.delays.join("orders")
    forwarder = setting.wait_for(1)
    del setting.topics.made["orders.unimq-delay"]
    setting.delays.end("orders", 1)
    assert forwarder.said == ["end"]
    looks = setting.topics.looks
    until(lambda: setting.topics.looks > looks + 1)
    assert len(setting.opened) == 1
    setting.topics.made["orders.unimq-delay"] = TIERS
    setting.wait_for(2)


def test_one_that_failed_is_replaced_after_a_rest(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_delays, "_REST", 0.3)
    setting.topics.made["orders.unimq-delay"] = TIERS
    setting.delays.join("orders")
    forwarder = setting.wait_for(1)
    failed_at = time.monotonic()
    forwarder.failure, forwarder.is_over = AuthError("no right to write there"), True
    setting.wait_for(2)
    assert time.monotonic() - failed_at >= 0.3


def test_what_is_done_is_deleted(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_delays, "_TRIM_INTERVAL", 0.0)
    name = "orders.unimq-delay"
    setting.topics.made[name], setting.topics.ids[name] = TIERS, "one"
    setting.delays.join("orders")
    forwarder = setting.wait_for(1)
    setting.delays._trim_at = 0.0
    forwarder.done = "one", {0: 5, 3: 7}
    until(lambda: setting.topics.deleted)
    forwarder.done = "one", {0: 5, 3: 8}
    until(lambda: len(setting.topics.deleted) > 1)
    assert setting.topics.deleted == [(name, {0: 5, 3: 7}), (name, {3: 8})]
    # The topic was made again, of which the forwarder has not heard yet.
    setting.topics.ids[name] = "two"
    forwarder.done = "one", {0: 9, 3: 9}
    looks = setting.topics.looks
    setting.delays.join("others")
    until(lambda: setting.topics.looks > looks + 2)
    assert len(setting.topics.deleted) == 2
    forwarder.done = "two", {0: 1}
    until(lambda: len(setting.topics.deleted) > 2)
    assert setting.topics.deleted[2:] == [(name, {0: 1})]


def test_a_request_that_fails_is_made_again(setting: Setting) -> None:
    setting.topics.made["orders.unimq-delay"] = TIERS
    setting.topics.errors = [ConnectionLost("no answer")]
    setting.delays.join("orders")
    setting.wait_for(1)


def test_closing_ends_the_forwarders_that_are_left(setting: Setting) -> None:
    setting.topics.made["orders.unimq-delay"] = TIERS
    setting.delays.join("orders")
    forwarder = setting.wait_for(1)
    until(lambda: setting.delays._forwarders)
    setting.delays.forget_waiting("orders", {0: 3})
    setting.delays.forget_waiting("others", {0: 3})
    setting.delays.close(time.monotonic() + 5)
    assert forwarder.said == ["forget {0: 3}", "begin_close", "join"]
