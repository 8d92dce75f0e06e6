"""What scores and outcomes say about a model, over whole arrays. Equal, to the last bit, to counting one by one.

Logarithms are the C library's: NumPy's own differ from them in the last bit for one score in three hundred, and from
one processor to the next.
"""

import math

import numpy as np
from numpy.typing import NDArray

BINS = 10

_SMALLEST = 1e-15
_LARGEST = 1 - 1e-15

Floats = NDArray[np.float64]
Outcomes = NDArray[np.bool_]


def log_loss(score: float, outcome: bool) -> float:
    """The loss of one answer in nats, with the score clipped as River's ``metrics.LogLoss`` clips it."""
    clipped = max(min(score, _LARGEST), _SMALLEST)
    return -math.log(clipped) if outcome else -math.log(1 - clipped)


def log_losses(scores: Floats, outcomes: Outcomes) -> Floats:
    """The loss of every answer in nats, each equal to `log_loss` of it.

    Args:
        scores: Shape (n,).
        outcomes: Shape (n,).

    Returns:
        Shape (n,); NaN where the score is.
    """
    clipped = np.clip(scores, _SMALLEST, _LARGEST)
    likelihoods = np.where(outcomes, clipped, 1 - clipped)
    return -np.fromiter(map(math.log, likelihoods.tolist()), np.float64, len(likelihoods))


def calibration_error(scores: Floats, outcomes: Outcomes) -> float:
    """Expected calibration error over ten bins of equal width; a score on a boundary belongs to the upper one.

    Args:
        scores: Shape (n,). One that is not finite is in no bin.
        outcomes: Shape (n,).

    Returns:
        The mean gap between score and share of positives, weighted by the bins' sizes; 0 without scores.
    """
    finite = np.isfinite(scores)
    scores, outcomes = scores[finite], outcomes[finite]
    places = np.minimum((np.clip(scores, 0, 1) * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(places, minlength=BINS).tolist()
    sums = np.bincount(places, weights=scores, minlength=BINS).tolist()
    positives = np.bincount(places, weights=outcomes, minlength=BINS).tolist()
    filled = [row for row in zip(counts, sums, positives, strict=True) if row[0]]
    gaps = [count * abs(total / count - hits / count) for count, total, hits in filled]
    return sum(gaps) / len(scores) if gaps else 0.0


def exact_auc(scores: Floats, outcomes: Outcomes) -> float | None:
    """The exact area under the ROC curve: the share of (positive, negative) pairs in the right order, ties half.

    Args:
        scores: Shape (n,).
        outcomes: Shape (n,).

    Returns:
        The area, correctly rounded; None while one of the classes is missing.
    """
    _, place = np.unique(scores, return_inverse=True)
    positives = np.bincount(place, weights=outcomes).astype(np.int64)
    negatives = np.bincount(place).astype(np.int64) - positives
    below = np.cumsum(negatives) - negatives
    # Twice the area's numerator is a whole number, so nothing is rounded before the one division.
    twice = int(np.sum(positives * (2 * below + negatives)))
    pairs = int(positives.sum()) * int(negatives.sum())
    return twice / (2 * pairs) if pairs else None
