"""Fitting one recipe on one fold: the task that executors run, here or in a process of its own."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from journal.errors import Refused
from registry.flavors.encoder import ColumnType, Encoder, fit
from training.executor import one_thread
from training.folds import Fold
from training.recipe import MakeByName, Recipe, seed_of

_NOT_FEATURES = frozenset({"prediction", "at", "key", "outcome", "reconstructed"})
_TYPES: dict[str, ColumnType] = {"int64": "int64", "double": "float64", "string": "string", "bool": "bool"}


@dataclass(frozen=True, slots=True)
class Work:
    """What every task needs: sent once.

    Attributes:
        rows: The dataset's rows, in the order of their times.
        hash: The dataset's hash, which the seeds follow from.
        make: Finds recipe functions.
    """

    rows: pa.Table
    hash: str
    make: MakeByName


class Task(NamedTuple):
    """One candidate on one fold."""

    recipe: Recipe
    number: int
    fold: Fold


class Fitted(NamedTuple):
    """An encoder and the classifier that was fitted on what it makes of the rows."""

    encoder: Encoder
    classifier: Any
    matrix: NDArray[np.float64]


class Tested(NamedTuple):
    """A candidate's scores on a fold's test rows, and how long it took to fit (seconds of wall time)."""

    scores: NDArray[np.float64]
    seconds: float


def score_candidate(work: Work, task: Task) -> Tested:
    """Fit on the fold's training rows and score its test rows."""
    begun = time.perf_counter()
    fold = task.fold
    fitted = fit_recipe(work, task.recipe, task.number, work.rows.slice(0, fold.train))
    seconds = time.perf_counter() - begun
    rows = work.rows.slice(fold.first, fold.last - fold.first)
    with one_thread():
        scores = fitted.classifier.predict_proba(fitted.encoder.matrix(rows))[:, 1]
    return Tested(np.asarray(scores, np.float64), seconds)


def fit_recipe(work: Work, recipe: Recipe, number: int, rows: pa.Table) -> Fitted:
    """Fit an encoder and a classifier on some rows, in one thread, with the seed of that fit."""
    columns, types = features_of(rows)
    with one_thread():
        encoder = fit(rows, columns, types, recipe.encoding)
        matrix = encoder.matrix(rows)
        classifier = work.make(recipe.function)(
            seed=seed_of(work.hash, recipe.name, number), categorical=encoder.categorical
        )
        classifier.fit(matrix, outcomes_of(rows))
    return Fitted(encoder, classifier, matrix)


def features_of(rows: pa.Table) -> tuple[Sequence[str], Sequence[ColumnType]]:
    """Names and types of the feature columns, in order.

    Raises:
        Refused: A column's type is not one that features have.
    """
    fields = [field for field in rows.schema if field.name not in _NOT_FEATURES]
    foreign = [f"{field.name} is {field.type}" for field in fields if str(field.type) not in _TYPES]
    if foreign:
        raise Refused(which=f"columns that are no features: {', '.join(foreign)}", fix="Build the dataset again")
    return [field.name for field in fields], [_TYPES[str(field.type)] for field in fields]


def outcomes_of(rows: pa.Table) -> NDArray[np.bool_]:
    """The outcomes; shape (rows,)."""
    return np.asarray(rows.column("outcome").combine_chunks(), np.bool_)


def times_of(rows: pa.Table) -> NDArray[np.int64]:
    """When each row was asked, in microseconds; shape (rows,)."""
    return np.asarray(rows.column("at").cast(pa.int64()).combine_chunks())
