"""The figures are River's, scikit-learn's, or what a slow count says."""

import math
import random
from itertools import product

import numpy as np
import pytest
from river import metrics
from sklearn.metrics import roc_auc_score

from training.metrics import BinnedAuc, Calibration, LogLoss, Prequential, exact_auc, log_loss

Pairs = list[tuple[float, bool]]


def answers(count: int, seed: int) -> Pairs:
    """Scores with ties, exact boundaries, and both ends."""
    rng = random.Random(seed)
    scores = [rng.choice((rng.random(), round(rng.random(), 1), rng.randrange(10) / 9, 0.0, 1.0)) for _ in range(count)]
    return [(score, rng.random() < 0.1 + 0.8 * score) for score in scores]


def auc_of(pairs: Pairs) -> float | None:
    return exact_auc(np.array([score for score, _ in pairs]), np.array([outcome for _, outcome in pairs], dtype=bool))


@pytest.mark.parametrize("seed", range(5))
def test_log_loss_and_binned_auc_are_rivers_to_the_last_bit(seed: int) -> None:
    ours, loss, auc = Prequential(), metrics.LogLoss(), metrics.ROCAUC()
    for score, outcome in answers(400, seed):
        ours.update(score, outcome)
        loss.update(outcome, {True: score, False: 1 - score})
        auc.update(outcome, {True: score, False: 1 - score})
        assert ours.log_loss.mean == loss.get()
        assert ours.auc.area() == auc.get()


def test_log_loss_is_clipped_at_both_ends() -> None:
    assert log_loss(0.0, True) == log_loss(-1.0, True) == -math.log(1e-15)
    assert log_loss(1.0, False) == -math.log(1 - (1 - 1e-15))
    assert log_loss(0.25, True) == -math.log(0.25)
    assert log_loss(0.25, False) == -math.log(0.75)
    assert math.isnan(log_loss(math.nan, True))


@pytest.mark.parametrize("seed", range(5))
def test_exact_auc_is_the_share_of_pairs_in_the_right_order(seed: int) -> None:
    pairs = answers(300, seed)
    positives = [score for score, outcome in pairs if outcome]
    negatives = [score for score, outcome in pairs if not outcome]
    twice = sum(2 * (p > n) + (p == n) for p, n in product(positives, negatives))
    assert auc_of(pairs) == twice / (2 * len(positives) * len(negatives))
    theirs = roc_auc_score([outcome for _, outcome in pairs], [score for score, _ in pairs])
    assert auc_of(pairs) == pytest.approx(theirs, abs=1e-12)


def test_exact_auc_at_its_edges() -> None:
    assert auc_of([]) is None
    assert auc_of([(0.3, True)]) is None
    assert auc_of([(0.3, True), (0.3, False)]) == 0.5
    assert auc_of([(0.3, True), (0.4, False)]) == 0.0
    assert auc_of([(0.4, True), (0.3, False)]) == 1.0


def test_exact_auc_ignores_the_order_of_the_examples() -> None:
    pairs = answers(500, 9)
    shuffled = random.Random(1).sample(pairs, len(pairs))
    assert auc_of(pairs) == auc_of(shuffled)


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
