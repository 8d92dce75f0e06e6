"""The running figures are River's, or what a slow count says."""

import math
import random

import pytest
from river import metrics

from training.metrics import BinnedAuc, Calibration, LogLoss, Prequential

Pairs = list[tuple[float, bool]]


def answers(count: int, seed: int) -> Pairs:
    """Scores with ties, exact boundaries, and both ends."""
    rng = random.Random(seed)
    scores = [rng.choice((rng.random(), round(rng.random(), 1), rng.randrange(10) / 9, 0.0, 1.0)) for _ in range(count)]
    return [(score, rng.random() < 0.1 + 0.8 * score) for score in scores]


@pytest.mark.parametrize("seed", range(5))
def test_log_loss_and_binned_auc_are_rivers_to_the_last_bit(seed: int) -> None:
    ours, loss, auc = Prequential(), metrics.LogLoss(), metrics.ROCAUC()
    for score, outcome in answers(400, seed):
        ours.update(score, outcome)
        loss.update(outcome, {True: score, False: 1 - score})
        auc.update(outcome, {True: score, False: 1 - score})
        assert ours.log_loss.mean == loss.get()
        assert ours.auc.area() == auc.get()


def test_calibration_counts_by_tenths() -> None:
    calibration = Calibration()
    for score, outcome in [(0.0, False), (0.05, True), (0.1, False), (1.0, True), (0.95, True), (math.nan, True)]:
        calibration.update(score, outcome)
    assert [tuple(row) for row in calibration.bins()] == [(2, 0.025, 0.5), (1, 0.1, 0.0), (2, 0.975, 1.0)]
    assert calibration.error() == pytest.approx((2 * 0.475 + 1 * 0.1 + 2 * 0.025) / 5)
    assert Calibration().error() == 0.0


def test_nothing_breaks_on_numbers_that_are_none() -> None:
    figures = Prequential()
    for score in (math.nan, math.inf, -math.inf):
        figures.update(score, True)
    assert figures.log_loss.count == 3
    assert math.isnan(figures.log_loss.mean)
    assert figures.calibration.bins() == []


def test_a_restored_state_goes_on_exactly() -> None:
    whole, restored = Prequential(), Prequential()
    for score, outcome in answers(300, 4):
        whole.update(score, outcome)
        restored.update(score, outcome)
        restored = Prequential.restore(restored.state())
    assert whole.state() == restored.state()
    assert isinstance(restored.auc, BinnedAuc)
    assert isinstance(restored.log_loss, LogLoss)
