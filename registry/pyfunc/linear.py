"""Answers from the written parameters of an online logistic regression, with nothing but the standard library.

The other half of ``registry/flavors/river_document.py``, which writes them. It is a flavor without learning, and its
answers are River's to the last bit: the features come in River's order, so every sum is made in the same order.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from math import asinh, exp, sqrt
from typing import Any, NamedTuple

FAMILY = "river-linear"
FORMAT = 1
_SATURATED = 30

Features = Mapping[str, Any]
Part = Callable[[Features], dict[str, float]]


class Linear(NamedTuple):
    """A logistic regression over the union of some parts.

    Attributes:
        parts: What makes features of an instance; of two parts that make the same feature, the first one's counts.
        weights: By feature; one that is not there weighs nothing.
        intercept: Added last.
    """

    parts: tuple[Part, ...]
    weights: dict[str, float]
    intercept: float


def load(data: bytes) -> Linear:
    """Read a document; raises ValueError when it has another format than this code reads."""
    document = json.loads(data)
    if document["format"] != FORMAT:
        message = f"The document has format {document['format']}, this reader knows {FORMAT}: use the one beside it."
        raise ValueError(message)
    parts = tuple(_PARTS[part["kind"]](part) for part in document["parts"])
    return Linear(parts, document["weights"], document["intercept"])


def inputs(columns: Sequence[str], values: Sequence[Any]) -> Features:
    """A prediction's columns and values as an instance; what is missing has no entry."""
    return {name: value for name, value in zip(columns, values, strict=True) if value is not None}


def predict_one(model: Linear, x: Features) -> float:
    """Probability of True."""
    features: dict[str, float] = {}
    for part in reversed(model.parts):
        features.update(part(x))
    weight, total = model.weights.get, 0.0
    for name, value in features.items():
        total += weight(name, 0.0) * value
    return _sigmoid(total + model.intercept)


def _sigmoid(logit: float) -> float:
    if logit < -_SATURATED:
        return 0.0
    if logit > _SATURATED:
        return 1.0
    return 1 / (1 + exp(-logit))


def _squashed(part: Mapping[str, Any]) -> Part:
    unit, limit, moments = part["unit"], part["limit"], part["moments"]

    def transform(x: Features) -> dict[str, float]:
        return {name: scaled(name, number) for name, number in x.items() if type(number) is not str}

    def scaled(name: str, number: float) -> float:
        count, mean, squares = moments.get(name, (0.0, 0.0, 0.0))
        if not squares:
            return 0.0
        z: float = min(max((asinh(number / unit) - mean) / sqrt(squares / count), -limit), limit)
        return z

    return transform


def _standard(part: Mapping[str, Any]) -> Part:
    moments, with_std = part["moments"], part["with_std"]

    def transform(x: Features) -> dict[str, float]:
        return {name: scaled(number, *moments.get(name, (0.0, 0.0))) for name, number in x.items()}

    def scaled(number: float, mean: float, variance: float) -> float:
        if not with_std:
            return number - mean
        z: float = (number - mean) / variance**0.5 if variance else 0.0
        return z

    return transform


def _categories(part: Mapping[str, Any]) -> Part:
    groups = [(group, *group.partition("*")[::2]) for group in part["groups"]]

    def transform(x: Features) -> dict[str, float]:
        return {
            f"{group}={x[first]}*{x[second]}" if second else f"{group}={x[first]}": 1.0
            for group, first, second in groups
            if first in x and (not second or second in x)
        }

    return transform


_PARTS: dict[str, Callable[[Mapping[str, Any]], Part]] = {
    "squashed_scaler": _squashed,
    "standard_scaler": _standard,
    "categories": _categories,
}
