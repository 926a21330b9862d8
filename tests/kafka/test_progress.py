"""What a group has done in a partition: commits that acknowledge nothing but what is acknowledged."""

import random

import pytest
from unimq_kafka._progress import PartitionProgress, decode_metadata, encode_metadata

TOPIC_ID = "tKzpZ+2FSuaXzuQav7sUsQ"


def received(*offsets: int, start: int = -1, skip: set[int] | None = None) -> PartitionProgress[str]:
    progress = PartitionProgress[str](0, TOPIC_ID, start, skip or set())
    for offset in offsets:
        progress.receive(offset)
    return progress


def done_above(progress: PartitionProgress[str]) -> tuple[int, set[int]]:
    base, metadata = progress.commit_point()
    is_ours, done = decode_metadata(metadata, TOPIC_ID, base)
    assert is_ours
    return base, done


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 1.0])
def test_a_map_comes_back_equal_and_fits(share: float) -> None:
    chance = random.Random(7)
    done = {1000 + i for i in range(60_000) if chance.random() < share}
    metadata, complete = encode_metadata(TOPIC_ID, 1000, done)
    assert complete
    assert len(metadata) <= 4095
    assert decode_metadata(metadata, TOPIC_ID, 1000) == (True, done)


def test_what_lies_beyond_the_map_is_left_out_and_said() -> None:
    metadata, complete = encode_metadata(TOPIC_ID, 0, {5, 60_000})
    assert not complete
    assert decode_metadata(metadata, TOPIC_ID, 0) == (True, {5})


def test_what_lies_below_the_base_is_left_out() -> None:
    metadata, complete = encode_metadata(TOPIC_ID, 10, {3, 12})
    assert complete
    assert decode_metadata(metadata, TOPIC_ID, 10) == (True, {12})


@pytest.mark.parametrize(
    "metadata", [None, "", "somebody else's", "unimq1:", "unimq1::zzz", f"unimq1:{TOPIC_ID}:㐀㐁㐂"]
)
def test_foreign_or_damaged_metadata_is_no_map(metadata: str | None) -> None:
    assert decode_metadata(metadata, TOPIC_ID, 10) == (True, set())


def test_a_commit_of_a_deleted_topic_of_the_same_name_is_told_apart() -> None:
    metadata, _ = encode_metadata("another-id", 10, {12})
    assert decode_metadata(metadata, TOPIC_ID, 10) == (False, set())
    assert decode_metadata(metadata, "", 10)[0]


def test_the_commit_never_passes_an_unfinished_message() -> None:
    progress = received(*range(10, 20))
    for offset in (19, 12, 11):
        progress.ack(offset)
    assert done_above(progress) == (10, {11, 12, 19})
    progress.ack(10)
    assert done_above(progress) == (13, {19})


def test_gaps_between_the_offsets_are_no_unfinished_messages() -> None:
    progress = received(5, 9, 14)
    for offset in (5, 9):
        progress.ack(offset)
    assert done_above(progress) == (14, set())
    progress.ack(14)
    assert done_above(progress) == (15, set())


def test_what_a_former_owner_did_is_skipped_and_kept_in_the_next_commit() -> None:
    progress = PartitionProgress[str](0, TOPIC_ID, 10, {12, 15})
    assert [progress.receive(offset) for offset in (10, 11, 12)] == [True, True, False]
    progress.ack(11)
    # 15 was not received again so far.
    assert done_above(progress) == (10, {11, 12, 15})


def test_random_histories_lose_nothing() -> None:
    chance = random.Random(3)
    for _ in range(50):
        offsets = sorted(chance.sample(range(200), 60))
        progress, acked = received(*offsets), set[int]()
        for offset in chance.sample(offsets, chance.randrange(1, 60)):
            progress.ack(offset)
            acked.add(offset)
            base, done = done_above(progress)
            assert {each for each in offsets if each < base} | done == acked


def test_acks_are_proven_by_the_answer_to_their_own_commit() -> None:
    progress = received(0, 1, 2)
    progress.ack(2)
    first = progress.commit_point()
    progress.ack(0)
    second = progress.commit_point()
    assert progress.committed(*first)
    assert progress.proven == 1
    assert progress.committed(*second)
    assert progress.proven == 2
    assert not progress.committed(7, "of another assignment")


def test_without_a_map_acks_above_a_gap_stay_unproven() -> None:
    progress = received(0, 1, 2)
    progress.with_map = False
    progress.ack(2)
    base, metadata = progress.commit_point()
    assert base == 0
    progress.committed(base, metadata)
    assert progress.proven == 0
    progress.ack(0)
    progress.ack(1)
    progress.committed(*progress.commit_point())
    assert progress.proven == 3
