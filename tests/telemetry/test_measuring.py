"""What telemetry sees of a connection, and what it may be given to."""

import functools
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

import unimq
from unimq import ConnectionView, Delivery, Middleware, Queue, Stats, Topic
from unimq._depths import FRESH, Watched, broker_of, split_address
from unimq._measuring import measuring
from unimq._middleware import Settlement
from unimq.adapter import RequestCount

URL = "memory://?private=true"


class Looking:
    """An `unimq.Instrument` that keeps the views it gets."""

    def __init__(self) -> None:
        self.views: list[ConnectionView] = []

    def attach(self, connection: ConnectionView) -> Sequence[Middleware]:
        self.views.append(connection)
        return ()


class Noting:
    """A recorder that notes what it is told, but for durations."""

    def __init__(self) -> None:
        self.lines: list[tuple[object, ...]] = []
        self.durations: list[float] = []

    def sent(self, target: str, duration: float, error: unimq.UnimqError | None) -> None:
        self.durations.append(duration)
        self.lines.append(("sent", target, type(error)))

    def delivered(self, source: str, latency: float, attempt: int) -> None:
        self.durations.append(latency)
        self.lines.append(("delivered", source, attempt))

    def settled(self, source: str, how: Settlement) -> None:
        self.lines.append(("settled", source, how))

    def handled(self, source: str, messages: int, duration: float, error: BaseException | None) -> None:
        self.durations.append(duration)
        self.lines.append(("handled", source, messages, type(error)))


def test_every_step_of_a_message_is_measured_once() -> None:
    noting = Noting()
    queue = Queue("q", max_deliveries=2)
    with (
        unimq.connect(URL, middleware=[measuring(noting)]) as broker,
        broker.producer(queue) as producer,
        broker.consumer(queue) as consumer,
    ):
        producer.send(b"1")

        def handle(delivery: Delivery) -> None:
            if delivery.attempt == 2:
                consumer.stop()
            raise ValueError

        consumer.run(handle, retry=unimq.Retry(base=0))
    assert noting.lines == [
        ("sent", "q", type(None)),
        ("delivered", "q", 1),
        ("handled", "q", 1, ValueError),
        ("settled", "q", "nack"),
        ("delivered", "q", 2),
        ("handled", "q", 1, ValueError),
        ("settled", "q", "dead"),
    ]
    assert all(0 <= duration < 60 for duration in noting.durations)


def test_a_send_that_fails_is_measured_too() -> None:
    noting = Noting()
    queue = Queue("q", max_length=1)
    with unimq.connect(URL, middleware=[measuring(noting)]) as broker, broker.producer(queue) as producer:
        producer.send(b"1")
        with pytest.raises(unimq.QueueFull):
            producer.send(b"2")
    assert noting.lines == [("sent", "q", type(None)), ("sent", "q", unimq.QueueFull)]


def test_two_of_them_do_not_disturb_each_other_nor_does_a_hook_that_replaces_the_message() -> None:
    first, second = Noting(), Noting()

    def marked(message: unimq.Message, target: str) -> unimq.Message:
        return unimq.Message(message.body, headers={"mark": "x"}, id=message.id)

    hooks = [measuring(first), Middleware(publish=marked), measuring(second)]
    with unimq.connect(URL, middleware=hooks) as broker, broker.producer("q") as producer:
        producer.send_many([b"1", b"2"])
    assert first.lines == second.lines == [("sent", "q", type(None))] * 2


def test_a_view_shows_how_the_connection_stands() -> None:
    looking = Looking()
    events = Topic("events")
    with unimq.connect(URL, middleware=[looking]) as broker:
        (view,) = looking.views
        assert (view.backend, view.host, view.port, view.is_open) == ("memory", "", None, True)
        audit = events.subscription("audit")
        broker.declare(audit)
        with broker.producer(events) as producer, broker.consumer(audit) as consumer:
            producer.send_many([b"1", b"2"])
            (one, _) = consumer.receive(2, timeout=1)
            assert view.in_flight() == {"events--audit": 2}
            assert view.unconfirmed() == {"events": 0}
            one.ack()
            assert view.in_flight() == {"events--audit": 1}
            assert view.stats(audit).in_flight == 1
        assert view.in_flight() == view.unconfirmed() == {}
        assert view.reconnects() == 0
    assert not view.is_open
    with pytest.raises(unimq.Closed):
        view.stats("events")


def test_it_does_not_keep_a_connection_alive() -> None:
    looking = Looking()
    unimq.connect(URL, middleware=[looking]).close()
    (view,) = looking.views
    assert view.in_flight() == {}
    assert not view.is_open


def test_telemetry_belongs_to_a_connection() -> None:
    wrong: Any = [Looking()]
    with unimq.connect(URL) as broker:
        with pytest.raises(unimq.ConfigError, match=r"not Looking; telemetry is given to connect\(\)"):
            broker.producer("q", middleware=wrong)
        with pytest.raises(unimq.ConfigError, match="not str"):
            unimq.connect(URL, middleware="no")  # type: ignore[arg-type]
    with pytest.raises(unimq.ConfigError, match="in brackets"):
        unimq.connect(URL, middleware=Looking())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url_host", "port", "address"),
    [("broker", 5672, "broker:5672"), ("broker", None, "broker"), ("::1", 5672, "[::1]:5672"), ("::1", None, "[::1]")],
)
def test_an_address_can_be_taken_apart_again(url_host: str, port: int | None, address: str) -> None:
    view = ConnectionView.__new__(ConnectionView)
    view.backend, view.host, view.port = "rabbitmq", url_host, port
    assert broker_of(view) == ("rabbitmq", address)
    assert split_address(address) == (url_host, port)


class View:
    """As much of a `ConnectionView` as `Watched` asks for."""

    def __init__(self, restored: int = 0) -> None:
        self.backend, self.host, self.port = "rabbitmq", "broker", 5672
        self.is_open = True
        self.restored = restored
        self.asked: list[object] = []
        self.failing = False

        self.asked_for: dict[str, RequestCount] = {}

    def reconnects(self) -> int:
        return self.restored

    def requests(self) -> dict[str, RequestCount]:
        return self.asked_for

    def stats(self, source: object) -> Stats:
        self.asked.append(source)
        if self.failing:
            raise unimq.ConnectionLost("away")
        return Stats(ready=7)


def watched(*views: tuple[View, tuple[str | Queue, ...]]) -> Watched:
    found = Watched()
    for view, queues in views:
        found.add(view, queues)  # type: ignore[arg-type] # a stand-in
    return found


def test_reconnects_never_go_back_when_a_connection_closes() -> None:
    one, two = View(3), View(4)
    seen = watched((one, ()), (two, ()))
    broker = ("rabbitmq", "broker:5672")
    assert seen.reconnects() == {broker: 7}
    one.is_open = False
    two.restored = 5
    assert seen.reconnects() == {broker: 8}


def test_requests_are_added_up_and_never_go_back() -> None:
    one, two = View(), View()
    seen = watched((one, ()), (two, ()))
    broker = ("rabbitmq", "broker:5672")
    assert seen.requests() == {}
    one.asked_for = {"send": RequestCount(1, 2, 3, 4, 5)}
    two.asked_for = {"send": RequestCount(10, 10), "receive": RequestCount(7, empty=6)}
    assert seen.requests() == {
        (broker, "send"): RequestCount(11, 12, 3, 4, 5),
        (broker, "receive"): RequestCount(7, empty=6),
    }
    # What one asked between the last look and its end counts if it can still be seen; what the other asked before does.
    one.asked_for, one.is_open = {"send": RequestCount(2, 2, 3, 4, 5)}, False
    two.asked_for, two.is_open = {}, False
    for _ in range(2):
        assert seen.requests() == {
            (broker, "send"): RequestCount(12, 12, 3, 4, 5),
            (broker, "receive"): RequestCount(7, empty=6),
        }


def test_each_queue_of_a_broker_is_asked_once_by_whoever_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = View(), View()
    seen = watched((one, ("a", Queue("b"))), (two, ("b", "c")))
    found = [(name, stats.ready) for _, name, stats in seen.depths()]
    assert sorted(found) == [("a", 7), ("b", 7), ("c", 7)]
    assert len(one.asked) + len(two.asked) == 3
    assert len(list(seen.depths())) == 3
    assert len(one.asked) + len(two.asked) == 3, f"within {FRESH} s nothing is asked again"


def test_a_queue_that_cannot_be_read_is_left_out_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unimq._depths.FRESH", 0.0)
    view = View()
    view.failing = True
    seen = watched((view, ("a",)))
    assert list(seen.depths()) == list(seen.depths()) == []
    assert len(view.asked) == 2
    assert [record.getMessage() for record in caplog.records] == ["the depth of 'a' is not known: away"]


def test_counts_are_right_from_many_threads() -> None:
    noting = Noting()
    with unimq.connect(URL, middleware=[measuring(noting)]) as broker, broker.producer("q") as producer:
        sending = [threading.Thread(target=functools.partial(producer.send_many, [b"x"] * 200)) for _ in range(4)]
        for each in sending:
            each.start()
        for each in sending:
            each.join()
    assert len(noting.lines) == 800


def test_stats_of_a_view_are_those_of_the_broker() -> None:
    looking = Looking()
    with unimq.connect(URL, middleware=[looking]) as broker:
        with broker.producer("q") as producer:
            producer.send(b"1")
        shown = replace(looking.views[0].stats("q"), oldest_age=None)
        assert shown == replace(broker.stats("q"), oldest_age=None)
