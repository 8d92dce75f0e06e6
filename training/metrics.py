"""What a stream of (score, outcome) says about its model. Every sum runs in the order of the examples.

`LogLoss` and `BinnedAuc` give River's numbers to the last bit (tests hold them to it) at a tenth of the cost.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from registry.measures import BINS, exact_auc, log_loss

_EDGE = 1e-7

__all__ = ["BINS", "BinnedAuc", "Calibration", "CalibrationBin", "LogLoss", "Prequential", "exact_auc", "log_loss"]


class LogLoss:
    """A running mean of log losses, by River's recurrence (West 1979)."""

    __slots__ = ("count", "mean")

    def __init__(self, count: int = 0, mean: float = 0.0) -> None:
        self.count = count
        self.mean = mean

    def update(self, score: float, outcome: bool) -> None:
        """Take one answer and its outcome."""
        self.count += 1
        self.mean += (1.0 / self.count) * (log_loss(score, outcome) - self.mean)


class CalibrationBin(NamedTuple):
    """Scores of one tenth of [0, 1]: how many, their mean, and the share of positives among them."""

    examples: int
    mean_score: float
    positive_rate: float


class Calibration:
    """Ten bins of equal width; a score on a boundary belongs to the upper one."""

    __slots__ = ("counts", "positives", "sums")

    def __init__(self) -> None:
        self.counts = [0] * BINS
        self.sums = [0.0] * BINS
        self.positives = [0] * BINS

    def update(self, score: float, outcome: bool) -> None:
        """Take one answer and its outcome. A score that is not finite is in no bin."""
        if not math.isfinite(score):
            return
        place = min(max(int(score * BINS), 0), BINS - 1)
        self.counts[place] += 1
        self.sums[place] += score
        self.positives[place] += outcome

    def bins(self) -> list[CalibrationBin]:
        """The bins that are not empty, from low to high."""
        filled = zip(self.counts, self.sums, self.positives, strict=True)
        return [CalibrationBin(count, total / count, hits / count) for count, total, hits in filled if count]

    def error(self) -> float:
        """Expected calibration error: the mean gap between score and rate, weighted by the bins' sizes."""
        everything = sum(self.counts)
        gaps = [row.examples * abs(row.mean_score - row.positive_rate) for row in self.bins()]
        return sum(gaps) / everything if everything else 0.0


class BinnedAuc:
    """River's ``metrics.ROCAUC``: the area under a curve of ten thresholds, for a live line.

    It reads a little below the exact figure (`exact_auc`) and costs no memory.
    """

    __slots__ = ("negatives", "positives")

    THRESHOLDS = (-_EDGE, *(i / (BINS - 1) for i in range(1, BINS - 1)), 1 + _EDGE)

    def __init__(self) -> None:
        self.negatives = [0] * (BINS + 1)
        self.positives = [0] * (BINS + 1)

    def update(self, score: float, outcome: bool) -> None:
        """Take one answer and its outcome."""
        (self.positives if outcome else self.negatives)[bisect_left(self.THRESHOLDS, score)] += 1

    def area(self) -> float:
        """The area, in [0, 1]; 0 while one of the classes is missing."""
        hits, alarms = _rates(self.positives), _rates(self.negatives)
        # NumPy sums nine terms in an order of its own, and River's figure is that sum.
        return -float((np.diff(alarms) * (hits[1:] + hits[:-1]) / 2.0).sum())


def _rates(counts: Sequence[int]) -> NDArray[np.float64]:
    above = np.cumsum(counts[:0:-1])[::-1]
    total = sum(counts)
    return above / total if total else np.zeros(BINS)


class Prequential:
    """The running figures of one learner over its own questions."""

    __slots__ = ("auc", "calibration", "log_loss")

    def __init__(self) -> None:
        self.log_loss = LogLoss()
        self.calibration = Calibration()
        self.auc = BinnedAuc()

    def update(self, score: float, outcome: bool) -> None:
        """Take one answer and its outcome."""
        self.log_loss.update(score, outcome)
        self.calibration.update(score, outcome)
        self.auc.update(score, outcome)

    def state(self) -> list[Any]:
        """Everything it knows, as plain lists."""
        loss, bins, auc = self.log_loss, self.calibration, self.auc
        return [loss.count, loss.mean, bins.counts, bins.sums, bins.positives, auc.negatives, auc.positives]

    @classmethod
    def restore(cls, state: Sequence[Any]) -> Self:
        """What `state` gave, as it was."""
        self = cls()
        self.log_loss = LogLoss(state[0], state[1])
        self.calibration.counts, self.calibration.sums, self.calibration.positives = map(list, state[2:5])
        self.auc.negatives, self.auc.positives = map(list, state[5:7])
        return self
