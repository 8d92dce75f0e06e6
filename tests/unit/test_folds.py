"""Temporal folds: nobody trains on an outcome that was not known yet."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from journal.errors import Refused
from training.folds import SMALLEST, Fold, temporal_folds


def alternating(count: int) -> NDArray[np.bool_]:
    return np.resize([True, False], count)


def test_windows_end_with_the_newest_row_and_follow_each_other() -> None:
    at = np.arange(0, 1000, 2)
    folds = temporal_folds(at, alternating(500), count=3, test=100, gap=50)
    assert [fold.start for fold in folds] == [699, 799, 899]
    assert folds[2] == Fold(train=425, first=450, last=500, start=899)
    assert all(earlier.last == later.first for earlier, later in pairwise(folds))


def test_training_windows_grow() -> None:
    folds = temporal_folds(np.arange(1000), alternating(1000), count=4, test=100, gap=0)
    assert [fold.train for fold in folds] == [600, 700, 800, 900]


def test_a_row_whose_outcome_comes_with_the_window_is_not_trained_on() -> None:
    at = np.arange(1000)
    (fold,) = temporal_folds(at, alternating(1000), count=1, test=100, gap=100)
    assert fold.start == 900
    assert at[fold.train - 1] == 799, "800 + 100 is the window's first microsecond"


@given(
    steps=st.lists(st.integers(3, 9), min_size=400, max_size=450),
    count=st.integers(1, 3),
    test=st.integers(200, 240),
    gap=st.integers(0, 60),
)
def test_every_training_outcome_was_known_when_its_test_began(
    steps: list[int], count: int, test: int, gap: int
) -> None:
    at = np.cumsum(np.array(steps))
    folds = temporal_folds(at, alternating(len(at)), count=count, test=test, gap=gap)
    for fold in folds:
        assert np.all(at[: fold.train] + gap < fold.start)
        assert np.all(at[fold.train : fold.first] + gap >= fold.start), "no row is left out that could be used"
        assert np.all((at[fold.first : fold.last] >= fold.start) & (at[fold.first : fold.last] < fold.start + test))
    assert folds[-1].last == len(at)


@pytest.mark.parametrize(
    ("outcomes", "count", "message"),
    [
        (alternating(200), 9, "fold 0: training rows .*: 0 rows, fewer than"),
        (np.zeros(200, np.bool_), 1, "one class only"),
        (np.append(alternating(180), np.ones(20, np.bool_)), 1, "test rows .* one class only"),
    ],
)
def test_a_fold_without_substance_is_refused(outcomes: NDArray[np.bool_], count: int, message: str) -> None:
    with pytest.raises(Refused, match=message):
        temporal_folds(np.arange(200), outcomes, count=count, test=SMALLEST, gap=20)


def test_rows_out_of_order_are_refused() -> None:
    with pytest.raises(Refused, match="not in the order"):
        temporal_folds(np.array([3, 2, 1]), alternating(3), count=1, test=1, gap=0)


def test_no_rows_at_all_are_refused() -> None:
    with pytest.raises(Refused, match="0 rows"):
        temporal_folds(np.empty(0, np.int64), alternating(0), count=1, test=1, gap=0)
