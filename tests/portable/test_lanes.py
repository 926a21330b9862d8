"""Lanes: one message of a key at a time, in the order of arrival, whatever is settled in between."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from unimq.adapter import Delivery, Lanes, Message

NOBODY: Any = None


def _delivery(key: str | None, number: int) -> Delivery:
    return Delivery(Message(b"%d" % number, key), 1, number, NOBODY)


@given(st.lists(st.sampled_from(["a", "b", "", None]), max_size=40), st.randoms())
def test_keys_go_through_in_order_and_one_at_a_time(keys: list[str | None], chance: Any) -> None:
    """O1."""
    lanes = Lanes()
    arriving = [_delivery(key, number) for number, key in enumerate(keys)]
    going: list[Delivery] = []
    seen: dict[str | None, list[object]] = {}
    while arriving or going:
        if arriving and (not going or chance.random() < 0.5):
            delivery = arriving.pop(0)
            if lanes.admit(delivery):
                going.append(delivery)
        else:
            done = going.pop(chance.randrange(len(going)))
            seen.setdefault(done.key, []).append(done.token)
            follower = lanes.follow(done)
            if follower is not None:
                going.append(follower)
        assert lanes.waiting == len(keys) - len(arriving) - len(going) - sum(map(len, seen.values()))
        busy = [delivery.key for delivery in going if delivery.key is not None]
        assert len(busy) == len(set(busy))
    for key in ("a", "b", ""):
        assert seen.get(key, []) == [number for number, each in enumerate(keys) if each == key]
    assert sum(map(len, seen.values())) == len(keys)


def test_what_waits_can_be_forgotten_while_heads_stay_heads() -> None:
    lanes = Lanes()
    first, second, third = (_delivery("a", number) for number in range(3))
    assert lanes.admit(first)
    assert not lanes.admit(second)
    assert list(lanes.forget_waiting()) == [second]
    assert not lanes.admit(third)
    assert lanes.follow(first) is third
    assert lanes.follow(third) is None
    assert lanes.admit(_delivery("a", 4))
