"""What a retrain is made of: its recipes, how it is scored, and when it is due.

A recipe is a function of the pipeline's ``models.py``::

    def gradient_boosting(*, seed: int, categorical: Sequence[int]) -> ClassifierMixin: ...

It returns an untrained scikit-learn classifier. ``categorical`` are the columns of its input that hold category codes.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from journal.record import canonical_json

Encoding = Literal["codes", "dense"]
Where = Literal["auto", "ray", "serial"]

MakeClassifier = Callable[..., Any]
"""A recipe's function, as above."""

MakeByName = Callable[[str], MakeClassifier]
"""Finds a recipe's function by its name. It must survive the way into another process: see `training.models_file`."""

# Measured on 2 shared cores with HistGradientBoosting of 150 trees in one thread, the dearest recipe there is: 0.24 s
# for 2,000 rows x 20 columns, 0.46 s for 20,000 x 20, 0.80 s for 20,000 x 40, 0.89 s for 60,000 x 20.
_SECONDS_PER_FIT = 0.2
_SECONDS_PER_CELL = 0.8e-6


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """One way to make a model.

    Attributes:
        name: What versions are called after.
        function: The function of ``models.py`` that makes the untrained classifier.
        encoding: How rows become numbers: ``codes`` (categories as codes, missing as NaN) or ``dense`` (one-hot,
            imputed and scaled).
    """

    name: str
    function: str
    encoding: Encoding


class RetrainSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a pipeline declares about its retrains. Spans are in microseconds of journal time.

    Attributes:
        recipes: The candidates, in the order that breaks ties.
        folds: How many temporal folds score them.
        test: Span of each fold's test window.
        gap: How long an outcome may take to become known: the label's wait.
        every: Span between two retrains.
        first: When the first is due, after the pipeline's start.
        serial_below: Seconds of estimated work under which starting Ray costs more than it saves.
    """

    recipes: tuple[Recipe, ...]
    folds: int
    test: int
    gap: int
    every: int
    first: int
    serial_below: float = 30.0


class RetrainSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a retrain's result follows from; equal specs give equal models.

    Attributes:
        root: Folder of the dataset versions.
        dataset: The version to fit on.
        hash: What its rows must hash to.
        models: The pipeline's ``models.py``.
        models_hash: SHA-256 of that file.
        settings: Recipes, folds and spans.
        executor: Where the fits run. The result is the same everywhere.
    """

    root: str
    dataset: str
    hash: str
    models: str
    models_hash: str
    settings: RetrainSettings
    executor: Where = "auto"


def seed_of(dataset_hash: str, recipe: str, fold: int) -> int:
    """The seed of one fit, in [0, 2^32): it follows from content alone."""
    return int.from_bytes(hashlib.sha256(canonical_json([dataset_hash, recipe, fold])).digest()[:4])


def estimate_seconds(rows: Sequence[int], columns: int) -> float:
    """What fits over so many training rows each would take, one after the other, were all of them the dearest."""
    return sum(_SECONDS_PER_FIT + count * columns * _SECONDS_PER_CELL for count in rows)
