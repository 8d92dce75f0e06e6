"""What serving finds out about a version before it may answer: whether it says what was judged, and how fast."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

from journal.body import Prediction
from serving.predictor import Predictor

_ROUNDS = 3


def measure(
    predictor: Predictor, columns: list[str], predictions: Sequence[Prediction], scores: Sequence[float]
) -> dict[str, Any]:
    """Answer recorded questions again, with the features as predicted.

    Args:
        predictor: Has loaded the version, its signature and digest checked.
        columns: What the predictions' values are.
        predictions: Recorded ones.
        scores: What the version's own estimator says to them.

    Returns:
        ``parity``: the largest difference between the two. ``latency_us``: median microseconds of one answer.
    """
    parity = max(
        (abs(predictor.predict_one(columns, p.values) - score) for p, score in zip(predictions, scores, strict=True)),
        default=0.0,
    )
    return {"parity": parity, "latency_us": _latency(predictor, columns, predictions)}


def _latency(predictor: Predictor, columns: list[str], predictions: Sequence[Prediction]) -> float:
    took = []
    for prediction in list(predictions) * _ROUNDS:
        begun = time.perf_counter_ns()
        predictor.predict_one(columns, prediction.values)
        took.append((time.perf_counter_ns() - begun) / 1_000)
    return round(statistics.median(took), 1) if took else 0.0
