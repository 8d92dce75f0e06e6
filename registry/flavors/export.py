"""From a fitted classifier to bytes that serving can compute, by the first runtime that gives the same answers.

Converters are not to be believed: some are silently wrong on missing values or categories. So each runtime answers the
check rows and rows that sweep what serving can meet (every code of every categorical column, every feature missing, all
of them missing), and is taken only if no answer differs.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from journal.errors import CallerError, Refused, RivermillError
from registry.flavors import batch
from registry.flavors.batch_columns import Matrix
from registry.flavors.batch_document import (
    Converted,
    Document,
    Probabilities,
    Runtime,
    RuntimeName,
    floats_to_bytes,
    packed,
)
from registry.flavors.encoder import Encoder

TOLERANCE = 1e-9
"""Sums in another order differ by 1e-15; a wrong branch in one tree by far more than this."""

MOST_PROBES = 256
MOST_CHECKS = 5_000
LEAST_SWEPT = 16

# What converters raise on a model that they do not know.
_FAILURES = (ArithmeticError, AttributeError, LookupError, RivermillError, RuntimeError, TypeError, ValueError)


class NotPortable(CallerError):
    """No runtime gives this model's answers."""

    status = 422


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A portable model.

    Attributes:
        data: The whole of it; `batch.load` reads it.
        runtime: What computes its answers.
        digest: Its name by content, as `batch.digest` gives it.
        parity: ``rows`` compared, ``max_difference`` from the classifier's probabilities, and ``tried``: for each
            runtime its largest difference, or why it cannot.
    """

    data: bytes
    runtime: RuntimeName
    digest: str
    parity: dict[str, Any]


def export(estimator: Any, encoder: Encoder, *, probe: Matrix, check: Matrix) -> Exported:
    """Make a fitted binary classifier portable.

    Args:
        estimator: A classifier of scikit-learn with two classes, False and True (or 0 and 1).
        encoder: What made the rows that it was fitted on.
        probe: Encoded rows; the answers to the first 256 name the model.
        check: Encoded rows; the first 5,000 are compared.

    Raises:
        Refused: It is no fitted classifier of two such classes, or cannot answer when features are missing.
        NotPortable: No runtime gives its answers; the message has each one's difference.
    """
    _require_binary(estimator)
    _require_rows(encoder, probe=probe, check=check)
    rows = np.concatenate([check[:MOST_CHECKS], *_sweeps(encoder, check)])
    expected = _expected(estimator, rows)
    tried: list[tuple[str, float | str]] = []
    for name in batch.RUNTIMES:
        try:
            document, apart = _attempt(name, estimator, encoder, probe[:MOST_PROBES], rows, expected)
        except _FAILURES as error:
            tried.append((name, _reason(error)))
            continue
        tried.append((name, apart))
        if apart <= TOLERANCE:
            data = packed(document)
            parity = {"rows": len(rows), "max_difference": apart, "tried": tried}
            return Exported(data=data, runtime=name, digest=batch.digest(batch.load(data)), parity=parity)
    reasons = "; ".join(f"{name}: {found}" for name, found in tried)
    raise NotPortable(which=f"{type(estimator).__name__}: {reasons}", fix="Train another kind of model")


def _attempt(
    name: RuntimeName, estimator: Any, encoder: Encoder, probe: Matrix, rows: Matrix, expected: Probabilities
) -> tuple[Document, float]:
    """What one runtime would be stored as, and how far its answers are from the classifier's."""
    converted: Converted = batch.RUNTIMES[name].convert(estimator, encoder)
    runtime = batch.open_runtime(name, converted, encoder.width)
    apart = float(np.abs(runtime.many(rows) - expected).max())
    if not math.isfinite(apart):
        raise Refused(which="some answers are not numbers", fix="Look at the features for numbers without bound")
    document = Document(
        runtime=name,
        encoder=encoder.document(),
        alignment=converted.alignment,
        model=converted.data,
        width=encoder.width,
        probe=floats_to_bytes(probe),
        answers=floats_to_bytes(_steady_answers(runtime, probe)),
    )
    return document, apart


def _steady_answers(runtime: Runtime, probe: Matrix) -> Probabilities:
    """A runtime's answers, which must not change with the rows around them."""
    together = runtime.many(probe)
    alone = np.array([runtime.one(probe[row : row + 1]) for row in range(len(probe))])
    if together.tobytes() != alone.tobytes():
        raise Refused(which="its answers change with the rows around them", fix="Another runtime may take it")
    return together


def _require_binary(estimator: Any) -> None:
    from sklearn.base import BaseEstimator, is_classifier  # noqa: PLC0415 - only where a model is made

    name = type(estimator).__name__
    if not isinstance(estimator, BaseEstimator) or not is_classifier(estimator):
        raise Refused(which=f"{name} is no classifier of scikit-learn", fix="Train a classifier of True and False")
    if not hasattr(estimator, "classes_"):
        raise Refused(which=f"{name} is not fitted", fix="Fit it first")
    if not np.array_equal(estimator.classes_, [False, True]):
        raise Refused(
            which=f"{name} knows the outcomes {np.asarray(estimator.classes_).tolist()}, not False and True",
            fix="Train it on rows that have both outcomes, and on no others",
        )


def _require_rows(encoder: Encoder, **matrices: Matrix) -> None:
    for name, matrix in matrices.items():
        if matrix.ndim != 2 or matrix.shape[1] != encoder.width or not len(matrix):  # noqa: PLR2004 - rows and columns
            raise Refused(
                which=f"the {name} rows have the shape {matrix.shape}, not (at least 1, {encoder.width})",
                fix="Make them with the model's own encoder",
            )


def _expected(estimator: Any, rows: Matrix) -> Probabilities:
    try:
        return np.asarray(estimator.predict_proba(rows)[:, 1], dtype=np.float64)
    except (AttributeError, ValueError) as error:
        raise Refused(
            which=f"{type(estimator).__name__} gives no probability for rows that serving can meet: {error}",
            fix="Use the dense encoding, which has no missing numbers, or a classifier with probabilities",
        ) from error


def _sweeps(encoder: Encoder, check: Matrix) -> Iterator[Matrix]:
    """Check rows with one column after the other set to each code it can have, or to missing."""
    yield encoder.row(encoder.columns, [None] * len(encoder.columns))
    if encoder.encoding == "dense":
        return
    for column in range(encoder.width):
        codes = np.array([math.nan])
        if column in encoder.categorical:
            codes = np.arange(len(encoder.categories[column]) + 1, dtype=np.float64)
        count = max(len(codes), LEAST_SWEPT)
        rows = check[np.arange(count) % len(check)].copy()
        rows[:, column] = np.resize(codes, count)
        yield rows


def _reason(error: Exception) -> str:
    if isinstance(error, RivermillError):
        return error.which
    first, *_ = (*str(error).splitlines(), "")
    return f"{type(error).__name__}: {first}"
