"""What was measured about a line, beside the champion on the very same later examples.

The rules: figures over answers that are no probabilities are not given at all, and ``not_measured`` says why; every
number is finite or None; the same examples give the same evidence, in whatever process. The difference to the champion
is paired, and its interval comes from resampling whole blocks of time, since the hours of one day share their luck.
"""

import hashlib
import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from journal.clock import DAY, HOUR, MINUTE
from journal.errors import Refused
from journal.record import canonical_json
from registry.checks import LIVE_FACTS
from registry.measures import Floats, Outcomes, calibration_error, exact_auc, log_losses

RESAMPLES = 2_000

LEAST_BLOCKS = 5
"""With fewer the spread between blocks is hardly known; shorter ones are taken then."""

MOST_UNANSWERED = 0.05
"""The share of the examples that the champion may have left unanswered and still be compared with."""

_BLOCKS = (DAY, HOUR, MINUTE)
_BEHIND = ("log_loss_behind_champion", "log_loss_behind_champion_low", "log_loss_behind_champion_high")


class Scored(NamedTuple):
    """A line's answers to later examples, in their order; every array of shape (n,).

    Attributes:
        predictions: Offsets of the predictions.
        at: When they were asked, in microseconds.
        outcome: What came true.
        score: The line's answers.
    """

    predictions: NDArray[np.int64]
    at: NDArray[np.int64]
    outcome: Outcomes
    score: Floats


def offline(
    scored: Scored,
    champion: Floats | None,
    *,
    prior: float,
    rows: int,
    size_bytes: int,
    confidence: float,
    seed_text: str,
) -> dict[str, Any]:
    """Measure a line.

    Args:
        scored: Its answers.
        champion: The champion's answers to the same examples, shape (n,), NaN where it gave none; None when only the
            prior answers.
        prior: What answers where there is no champion.
        rows: How many rows it was fitted on.
        size_bytes: Of its stored model.
        confidence: Of the two-sided interval.
        seed_text: Seeds the resampling.

    Returns:
        The facts that the gate reads, by name, and ``not_measured``: why those are None that are None.

    Raises:
        Refused: The two did not answer the same number of examples.
    """
    beside = np.full(len(scored.score), prior) if champion is None else champion
    if beside.shape != scored.score.shape:
        raise Refused(
            which=f"the champion answered {len(beside)} examples and the line {len(scored.score)}",
            fix="Let both answer the very same examples",
        )
    why_not = _why_not(scored.score)
    own, own_missing = _figures(scored.score, scored.outcome, why_not)
    behind, behind_missing = _comparison(scored, beside, why_not, confidence, seed_text)
    return {
        "examples": len(scored.score),
        "days": len(np.unique(scored.at // DAY)),
        "rows": int(rows),
        "size_bytes": int(size_bytes),
        "confidence": float(confidence),
        "distinct_scores": len(np.unique(scored.score)),
        "not_finite": _not_finite(scored.score),
        "out_of_range": _out_of_range(scored.score),
        **own,
        **behind,
        "not_measured": own_missing | behind_missing,
    }


def with_live(facts: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """Evidence with what serving measured when the version was staged: those facts alone, nothing else is replaced."""
    return {**facts, **{name: live[name] for name in sorted(LIVE_FACTS) if name in live}}


def digest_of(evidence: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of everything that was not measured by the wall."""
    kept = {name: fact for name, fact in evidence.items() if name not in LIVE_FACTS}
    return hashlib.sha256(canonical_json(kept)).hexdigest()


def _not_finite(scores: Floats) -> int:
    return int(np.count_nonzero(~np.isfinite(scores)))


def _out_of_range(scores: Floats) -> int:
    return int(np.count_nonzero(np.isfinite(scores) & ((scores < 0) | (scores > 1))))


def _why_not(scores: Floats) -> str:
    """Why no figure can be given over these answers; empty when all can."""
    if not len(scores):
        return "there are no later examples"
    if count := _not_finite(scores):
        return f"{count} of {len(scores)} answers are infinite or not a number"
    if count := _out_of_range(scores):
        return f"{count} of {len(scores)} answers are no probabilities"
    return ""


def _figures(scores: Floats, outcomes: Outcomes, why_not: str) -> tuple[dict[str, Any], dict[str, str]]:
    """AUC, log loss and calibration error, and why those are None that are None."""
    if why_not:
        names = ("auc", "log_loss", "calibration_error")
        return dict.fromkeys(names), dict.fromkeys(names, why_not)
    auc = exact_auc(scores, outcomes)
    figures = {
        "auc": auc,
        "log_loss": _mean(log_losses(scores, outcomes)),
        "calibration_error": calibration_error(scores, outcomes),
    }
    return figures, {} if auc is not None else {"auc": f"all {len(scores)} examples came out the same"}


def _comparison(
    scored: Scored, beside: Floats, why_not: str, confidence: float, seed_text: str
) -> tuple[dict[str, Any], dict[str, str]]:
    """The champion's figures, and the paired difference over what both answered."""
    answered = np.isfinite(beside) & (beside >= 0) & (beside <= 1)
    theirs, _ = _figures(beside[answered], scored.outcome[answered], _why_not(beside[answered]))
    facts: dict[str, Any] = {
        "champion_auc": theirs["auc"],
        "champion_log_loss": theirs["log_loss"],
        "champion_unanswered": len(beside) - int(np.count_nonzero(answered)),
        "block_us": None,
        **dict.fromkeys(_BEHIND),
    }
    block = _block(scored.at[answered])
    why_not = why_not or _why_no_comparison(facts["champion_unanswered"], len(beside), block)
    if why_not:
        return facts, dict.fromkeys(_BEHIND, why_not)
    outcomes = scored.outcome[answered]
    behind = log_losses(scored.score[answered], outcomes) - log_losses(beside[answered], outcomes)
    low, high = _interval(behind, scored.at[answered] // block, confidence, seed_text)
    facts |= dict(zip(_BEHIND, (_mean(behind), low, high), strict=True)) | {"block_us": block}
    return facts, {}


def _why_no_comparison(unanswered: int, examples: int, block: int) -> str:
    if unanswered > MOST_UNANSWERED * examples:
        return f"the champion left {unanswered} of {examples} examples unanswered"
    return "" if block else f"the examples lie within fewer than {LEAST_BLOCKS} minutes"


def _block(at: NDArray[np.int64]) -> int:
    """The longest block of time of which there are enough, in microseconds; 0 when none is short enough."""
    return next((block for block in _BLOCKS if len(np.unique(at // block)) >= LEAST_BLOCKS), 0)


def _mean(values: Floats) -> float:
    return math.fsum(values.tolist()) / len(values)


def _interval(values: Floats, blocks: NDArray[np.int64], confidence: float, seed_text: str) -> tuple[float, float]:
    """A two-sided interval around the mean: percentiles over resampled blocks, expanded where blocks are few."""
    _, place = np.unique(blocks, return_inverse=True)
    sums, counts = np.bincount(place, weights=values), np.bincount(place)
    seed = int.from_bytes(hashlib.sha256(seed_text.encode()).digest())
    random = np.random.Generator(np.random.PCG64(seed))
    drawn = random.integers(0, len(sums), size=(RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    tail = _tail(len(sums), confidence)
    low, high = np.quantile(means, [tail, 1 - tail]).tolist()
    return low, high


def _tail(blocks: int, confidence: float) -> float:
    """The share of resampled means beyond each end.

    Plain percentiles are too sure with few blocks. Hesterberg (2015, "What teachers should know about the bootstrap")
    expands them to Student's t; its quantile is Fisher's expansion (Abramowitz and Stegun, 26.7.5), within 0.01 of the
    true one from four degrees of freedom on, up to a confidence of 0.95.
    """
    normal, free = NormalDist(), blocks - 1
    z = normal.inv_cdf((1 + confidence) / 2)
    student = (
        z
        + (z**3 + z) / (4 * free)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * free**3)
    )
    return normal.cdf(-student * math.sqrt(blocks / free))
