"""Lanes: their bounds, their order, and what each gets of a group."""

from dataclasses import dataclass

import pytest

from journal.errors import Busy
from journal.lane import MOST_BYTES_PER_GROUP, MOST_PER_GROUP, Lane, next_group


@dataclass(frozen=True)
class Item:
    name: str
    size: int = 1


def lane(*items: Item, most: int = 100_000, most_bytes: int = 1 << 40) -> Lane[Item]:
    made: Lane[Item] = Lane("items", most, most_bytes)
    for item in items:
        assert made.put(item) is None
    return made


def many(name: str, count: int, size: int = 1) -> list[Item]:
    return [Item(f"{name}{n}", size) for n in range(count)]


def test_a_lane_is_bounded_by_count_and_by_bytes() -> None:
    short = lane(*many("a", 2), most=2)
    assert isinstance(short.put(Item("late")), Busy)
    small = lane(Item("a", 60), most_bytes=100)
    refusal = small.put(Item("b", 41))
    assert isinstance(refusal, Busy)
    assert "1 items wait already" in str(refusal)
    assert small.put(Item("b", 40)) is None


def test_what_was_taken_makes_room() -> None:
    small = lane(*many("a", 2, size=50), most_bytes=100)
    assert [item.name for item in small.take(1, 1)] == ["a0"]
    assert small.put(Item("b", 50)) is None
    assert [item.name for item in small.drain()] == ["a1", "b"]
    assert small.put(Item("c", 100)) is None


def test_an_item_larger_than_a_group_goes_alone() -> None:
    events = lane(Item("huge", 2 * MOST_BYTES_PER_GROUP), Item("next"))
    assert [item.name for item in next_group((lane(), events))] == ["huge"]
    assert [item.name for item in next_group((lane(), events))] == ["next"]


def test_a_lane_alone_has_the_whole_group() -> None:
    events = lane(*many("e", MOST_PER_GROUP + 1))
    assert len(next_group((lane(), events))) == MOST_PER_GROUP
    assert len(events) == 1


@pytest.mark.parametrize("size", [1, MOST_BYTES_PER_GROUP // 250])
def test_a_flood_in_one_lane_leaves_the_other_its_share_either_way(size: int) -> None:
    few, flood = many("few", 100, size), many("flood", 3 * MOST_PER_GROUP, size)
    for lanes in ((lane(*few), lane(*flood)), (lane(*flood), lane(*few))):
        group = next_group(lanes)
        assert [item for item in group if item.name.startswith("few")] == few
        assert len(group) <= MOST_PER_GROUP
        assert sum(item.size for item in group) <= MOST_BYTES_PER_GROUP + 2 * size
    assert len(group) >= MOST_PER_GROUP // 2 or size > 1


def test_order_within_a_lane_is_kept() -> None:
    events = lane(*many("e", 5_000))
    taken = [item.name for _ in range(4) for item in next_group((lane(*many("q", 10)), events))]
    assert [name for name in taken if name.startswith("e")] == [f"e{n}" for n in range(5_000)]
