"""The parts that River lacks for a linear model on served features: small transformers with a fixed feature order.

River's own ``compose.Select`` keeps its keys in a set, so the order of the features, and with it the last bits of every
sum, would follow the hash seed. What is here keeps the order that it was given, and pickles as plain data. Predicting
changes nothing: a feature that was never learned leaves no trace.
"""

from collections.abc import Mapping
from math import asinh, sqrt
from typing import Any

from river import base

Features = Mapping[str, Any]


class Categories(base.Transformer):  # type: ignore[misc]
    """One-hot features of some categories, alone or crossed two by two.

    Args:
        groups: Names such as ``"origin"``, or two joined by an asterisk, such as ``"origin*dest"``, for a feature per
            pair of values. The output keeps this order; a group of which an instance lacks a part is left out.

    >>> Categories("origin", "origin*dest").transform_one({"dest": "IAH", "origin": "EWR", "distance": 1400.0})
    {'origin=EWR': 1.0, 'origin*dest=EWR*IAH': 1.0}
    """

    def __init__(self, *groups: str) -> None:
        self.groups = groups
        self._parts = [(group, *group.partition("*")[::2]) for group in groups]

    def transform_one(self, x: Features) -> dict[str, float]:
        """Return the feature of each group that the instance has."""
        encoded = {}
        for group, first, second in self._parts:
            if first not in x:
                continue
            if not second:
                encoded[f"{group}={x[first]}"] = 1.0
            elif second in x:
                encoded[f"{group}={x[first]}*{x[second]}"] = 1.0
        return encoded


class SquashedScaler(base.Transformer):  # type: ignore[misc]
    """Make the numbers of an instance fit for a linear model: squashed, standardised, clipped; strings are left out.

    Delays have heavy tails, and a wind of 1048 mph that once stood in the data would spoil a plain variance for months.
    So a value is taken as ``asinh(value / unit)``, linear within a few units and logarithmic beyond, then scaled as by
    River's ``StandardScaler`` (Welford, population variance), then clipped. One class for the three steps, with one
    look-up per feature: a chain of three parts took 13 microseconds more per example, a fifth of all learning.

    Args:
        unit: Where the squashing sets in, in the unit of the features.
        limit: Scaled values are clipped to [-limit, limit], in standard deviations.

    >>> scaler = SquashedScaler(unit=10.0, limit=1.5)
    >>> for delay in (0.0, 2.0, 90.0):
    ...     scaler.learn_one({"delay": delay, "origin": "EWR"})
    >>> scaler.transform_one({"delay": 400.0, "origin": "EWR"})
    {'delay': 1.5}
    """

    def __init__(self, unit: float = 10.0, limit: float = 3.0) -> None:
        self.unit = unit
        self.limit = limit
        self.moments: dict[str, list[float]] = {}

    def learn_one(self, x: Features) -> None:
        """Take the numbers into their running moments: count, mean, sum of squared deviations."""
        moments, unit = self.moments, self.unit
        for name, number in x.items():
            if type(number) is not str:
                value = asinh(number / unit)
                moment = moments.get(name)
                if moment is None:
                    moments[name] = [1.0, value, 0.0]
                else:
                    moment[0] += 1.0
                    deviation = value - moment[1]
                    moment[1] += deviation / moment[0]
                    moment[2] += deviation * (value - moment[1])

    def transform_one(self, x: Features) -> dict[str, float]:
        """Return the numbers, scaled and clipped, in the order of the instance; one that never varied is 0."""
        moments, unit, limit = self.moments, self.unit, self.limit
        scaled = {}
        for name, number in x.items():
            if type(number) is not str:
                moment = moments.get(name)
                if moment is None or not moment[2]:
                    scaled[name] = 0.0
                    continue
                z = (asinh(number / unit) - moment[1]) / sqrt(moment[2] / moment[0])
                scaled[name] = limit if z > limit else (-limit if z < -limit else z)
        return scaled
