"""Figures over whole arrays are those that one answer at a time gives, to the last bit."""

import math
import random
from itertools import product

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from registry.measures import calibration_error, exact_auc, log_loss, log_losses
from training.metrics import Calibration

Pairs = list[tuple[float, bool]]


def answers(count: int, seed: int) -> Pairs:
    """Scores with ties, exact boundaries, and both ends."""
    rng = random.Random(seed)
    scores = [rng.choice((rng.random(), round(rng.random(), 1), rng.randrange(10) / 9, 0.0, 1.0)) for _ in range(count)]
    return [(score, rng.random() < 0.1 + 0.8 * score) for score in scores]


def scores_of(pairs: Pairs) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([score for score, _ in pairs], dtype=np.float64)


def outcomes_of(pairs: Pairs) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.array([outcome for _, outcome in pairs], dtype=bool)


def auc_of(pairs: Pairs) -> float | None:
    return exact_auc(scores_of(pairs), outcomes_of(pairs))


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


def test_log_loss_is_clipped_at_both_ends() -> None:
    assert log_loss(0.0, True) == log_loss(-1.0, True) == -math.log(1e-15)
    assert log_loss(1.0, False) == -math.log(1 - (1 - 1e-15))
    assert log_loss(0.25, True) == -math.log(0.25)
    assert log_loss(0.25, False) == -math.log(0.75)
    assert math.isnan(log_loss(math.nan, True))


@pytest.mark.parametrize("seed", range(3))
def test_log_losses_are_the_single_ones_to_the_last_bit(seed: int) -> None:
    pairs = answers(3_000, seed)
    assert log_losses(scores_of(pairs), outcomes_of(pairs)).tolist() == [log_loss(*pair) for pair in pairs]


def test_log_losses_of_answers_that_are_no_probabilities() -> None:
    losses = log_losses(np.array([math.nan, math.inf, -math.inf]), np.array([True, True, True]))
    assert math.isnan(losses[0])
    assert losses[1:].tolist() == [log_loss(math.inf, True), log_loss(-math.inf, True)]
    assert log_losses(np.array([]), np.array([], dtype=bool)).shape == (0,)


@pytest.mark.parametrize("seed", range(5))
def test_the_calibration_error_is_the_running_one_to_the_last_bit(seed: int) -> None:
    pairs = [*answers(800, seed), (math.nan, True), (math.inf, False), (-0.5, True), (1.5, False)]
    running = Calibration()
    for score, outcome in pairs:
        running.update(score, outcome)
    assert calibration_error(scores_of(pairs), outcomes_of(pairs)) == running.error()


def test_the_calibration_error_without_scores_is_zero() -> None:
    assert calibration_error(np.array([]), np.array([], dtype=bool)) == 0.0
    assert calibration_error(np.array([math.nan]), np.array([True])) == 0.0
