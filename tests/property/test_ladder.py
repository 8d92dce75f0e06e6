"""The ladder of checkpoints: what it keeps of any history."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from training.ladder import ladder

OFFSETS = st.sets(st.integers(0, 10**7), min_size=1, max_size=200)


@given(OFFSETS)
def test_the_first_and_the_last_are_kept_and_nothing_is_invented(offsets: set[int]) -> None:
    kept = ladder(offsets, max(offsets))
    assert {min(offsets), max(offsets)} <= kept <= offsets
    assert ladder(kept, max(offsets)) == kept


@given(OFFSETS)
def test_there_is_one_per_power_of_two(offsets: set[int]) -> None:
    newest = max(offsets)
    kept = ladder(offsets, newest)
    stretches = [(newest - offset).bit_length() for offset in kept]
    assert len(stretches) == len(set(stretches))
    assert set(stretches) == {(newest - offset).bit_length() for offset in offsets}


@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=150))
def test_pruned_at_every_step_it_reaches_back_to_the_first(steps: list[int]) -> None:
    """However uneven the steps: a rung's age is less than eight times that of the next newer one and a step."""
    kept: frozenset[int] = frozenset({0})
    newest, widest = 0, max(steps)
    for step in steps:
        newest += step
        kept = ladder(kept | {newest}, newest)
    ages = sorted(newest - offset for offset in kept)
    assert ages[-1] == newest
    assert all(older < 8 * (younger + widest) for younger, older in pairwise(ages))
