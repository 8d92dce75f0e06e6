"""Temporal folds: each trains on everything known before its test window, and is tested on what came after.

The last test window ends with the newest row, and each one before it ends where the next begins. An outcome may take
``gap`` to become known, so a fold trains only on rows whose outcome was certainly known when its test window began.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from journal.clock import format_span, format_time
from journal.errors import Refused

# Fewer rows than this on either side say nothing about a model.
SMALLEST = 20


class Fold(NamedTuple):
    """Rows ``[0, train)`` to fit on and ``[first, last)`` to test on; ``start`` is when the test window begins."""

    train: int
    first: int
    last: int
    start: int


def temporal_folds(
    at: NDArray[np.int64], outcomes: NDArray[np.bool_], *, count: int, test: int, gap: int
) -> tuple[Fold, ...]:
    """Cut rows into folds, oldest first.

    Args:
        at: When each row was asked, in microseconds, never decreasing; shape (n,).
        outcomes: Shape (n,).
        count: How many folds.
        test: Span of a test window, in microseconds.
        gap: Span that an outcome may take to become known, in microseconds.

    Raises:
        Refused: The rows are out of order, or a fold has too few rows, or one class only, on one of its sides.
    """
    if np.any(np.diff(at) < 0):
        raise Refused(which="the rows are not in the order of their times", fix="Build the dataset again")
    end = int(at[-1]) + 1 if len(at) else 0
    starts = [end - test * back for back in range(count, 0, -1)]
    folds = tuple(_fold(at, start, test, gap) for start in starts)
    for number, fold in enumerate(folds):
        _check(f"fold {number}: training rows up to {format_span(gap)} before", fold, outcomes[: fold.train])
        _check(f"fold {number}: test rows from", fold, outcomes[fold.first : fold.last])
    return folds


def _fold(at: NDArray[np.int64], start: int, test: int, gap: int) -> Fold:
    # An outcome that becomes known in the very microsecond in which the window starts does not count as known.
    train, first, last = np.searchsorted(at, [start - gap, start, start + test])
    return Fold(int(train), int(first), int(last), start)


def _check(side: str, fold: Fold, outcomes: NDArray[np.bool_]) -> None:
    classes = len(np.unique(outcomes))
    if len(outcomes) < SMALLEST or classes == 1:
        found = f"{len(outcomes)} rows, fewer than {SMALLEST}" if len(outcomes) < SMALLEST else "one class only"
        raise Refused(
            which=f"{side} {format_time(max(fold.start, 0))}: {found}",
            fix="Retrain later, or with fewer folds or shorter test windows",
        )
