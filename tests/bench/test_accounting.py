"""What is written in messages, and what the accounting makes of it: every class of fault is told apart."""

from pathlib import Path

import pytest
from unimq_bench.accounting import account, added
from unimq_bench.bodies import PROBE, SMALLEST, Maker, head_of, is_intact
from unimq_bench.ledger import Ledger, read_times
from unimq_bench.tasks import Receiving, Report, Sending, document_of, report_of, task_of

RUN = 0xDEADBEEF


def bodies(count: int, producer: int = 0, run: int = RUN, size: int = 100) -> list[bytes]:
    maker = Maker(run, producer, size, "random")
    return [maker.body(number, 1000 * number, 1000 * number + 10) for number in range(count)]


def received(folder: Path, messages: list[bytes], name: str = "a") -> Report:
    ledger = Ledger(RUN)
    ledger.take(messages, 1_000_000)
    return Report(
        received=ledger.received,
        reordered=ledger.reordered,
        corrupted=ledger.corrupted,
        unknown=ledger.unknown,
        files=ledger.write(folder, name),
    )


@pytest.mark.parametrize("size", [SMALLEST, 100, 70_000])
@pytest.mark.parametrize("content", ["random", "compressible"])
def test_a_body_says_whose_and_which_it_is_and_shows_each_change(size: int, content: str) -> None:
    body = Maker(RUN, 7, size, content).body(123_456, 11, 22)
    head = head_of(body)
    assert head is not None
    assert len(body) == size
    assert (head.run, head.producer, head.sequence, head.intended, head.sent) == (RUN, 7, 123_456, 11, 22)
    assert is_intact(body)
    for place in {4, 20, SMALLEST - 1, size - 1}:
        changed = bytearray(body)
        changed[place] ^= 1
        assert not is_intact(bytes(changed)), place


@pytest.mark.parametrize(("size", "content", "reason"), [(10, "random", "at least 34"), (99, "prose", "one of random")])
def test_a_body_that_cannot_be_is_refused(size: int, content: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Maker(RUN, 0, size, content)


def test_a_clean_run_has_nothing_to_tell(tmp_path: Path) -> None:
    counts = account([(0, 0, Report(sent=500))], [received(tmp_path, bodies(500))])
    assert (counts.sent, counts.acked, counts.received) == (500, 500, 500)
    faults = ("failed", "lost", "duplicated", "reordered", "corrupted", "unknown", "unacked_delivered")
    assert [getattr(counts, name) for name in faults] == [0] * len(faults)


def test_a_lost_message_is_not_made_up_for_by_a_duplicate(tmp_path: Path) -> None:
    messages = bodies(500)
    messages[200] = messages[100]
    counts = account([(0, 0, Report(sent=500))], [received(tmp_path, messages)])
    assert (counts.received, counts.lost, counts.duplicated) == (500, 1, 1)


def test_duplicates_are_seen_across_consumers(tmp_path: Path) -> None:
    messages = bodies(100)
    counts = account(
        [(0, 0, Report(sent=100))], [received(tmp_path, messages[:60], "a"), received(tmp_path, messages[50:], "b")]
    )
    assert (counts.lost, counts.duplicated) == (0, 10)


def test_what_failed_is_not_lost_and_may_be_delivered(tmp_path: Path) -> None:
    report = Report(sent=10, failed=[(0, 3), (0, 4)])
    counts = account([(0, 0, report)], [received(tmp_path, [m for n, m in enumerate(bodies(10)) if n != 3])])
    assert (counts.acked, counts.failed, counts.lost, counts.unacked_delivered) == (8, 2, 0, 1)


def test_order_is_that_of_each_producer(tmp_path: Path) -> None:
    one, other = bodies(3, 0), bodies(3, 1)
    mixed = [one[0], other[0], one[1], other[1], other[2], one[2]]
    producers = [(0, 0, Report(sent=3)), (1, 0, Report(sent=3))]
    assert account(producers, [received(tmp_path, mixed)]).reordered == 0
    assert account(producers, [received(tmp_path, [one[1], one[0], one[2], *other])]).reordered == 1


def test_strangers_and_damaged_ones_are_told_apart(tmp_path: Path) -> None:
    messages = bodies(10)
    messages[5] = messages[5][:-1] + bytes([messages[5][-1] ^ 1])
    strangers = [b"short", b"x" * 100, *bodies(1, run=1), bodies(12)[11], *bodies(1, producer=9)]
    counts = account([(0, 0, Report(sent=10))], [received(tmp_path, messages + strangers)])
    assert (counts.corrupted, counts.lost, counts.unknown) == (1, 1, 5)


def test_probes_are_not_counted(tmp_path: Path) -> None:
    probe = Maker(RUN, 0, 100, "random").body(0, 0, 0, PROBE)
    counts = account([(0, 0, Report(sent=2))], [received(tmp_path, [probe, *bodies(2)])])
    assert (counts.received, counts.duplicated) == (2, 0)


def test_without_a_verdict_nothing_is_called_lost(tmp_path: Path) -> None:
    counts = account([(0, 0, Report(sent=9))], [received(tmp_path, bodies(3))], judged=False)
    assert (counts.lost, counts.judged) == (0, False)


def test_dead_letters_are_found_and_counted(tmp_path: Path) -> None:
    messages = bodies(10)
    counts = account(
        [(0, 0, Report(sent=10))],
        [received(tmp_path, messages[:8], "a")],
        dead=[received(tmp_path, messages[8:], "b")],
    )
    assert (counts.lost, counts.dead_lettered) == (0, 2)


def test_parts_add_up(tmp_path: Path) -> None:
    part = account([(0, 0, Report(sent=10))], [received(tmp_path, bodies(9))])
    both = added([part, part])
    assert (both.sent, both.lost, both.judged, both.dead_lettered) == (20, 2, True, None)


def test_times_survive_the_way_through_a_file(tmp_path: Path) -> None:
    report = received(tmp_path, bodies(3))
    assert list(read_times([report.files["response"]])) == [1_000_000, 999_000, 998_000]
    assert list(read_times([report.files["service"]])) == [999_990, 998_990, 997_990]


def test_tasks_and_reports_survive_the_way_as_json() -> None:
    for task in (
        Sending(run=1, producer=2, queue="q", window=3, size=100, rate=0.5, probing=True),
        Receiving(run=1, queue="q", prefetch=5, at_most=6, nack_every=20),
    ):
        assert task_of(document_of(task)) == task
    document = {"failed": [[0, 3]], "events": [[5, "cut"]], "sent": 4}
    assert report_of(document) == Report(failed=[(0, 3)], events=[(5, "cut")], sent=4)
