"""What a pane takes from a record: exact integers, computed once per record however many panes share them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from features.sketch import hash_of

Sample = tuple[int, str, int, int, int, Any]
"""What a record says: its time, its id, the clock, value * scale, whether it reaches the threshold, and the value.

A measure that wants the bare value or its hash has 0 or the hash in place of value * scale, and no threshold."""

Sampler = Callable[[Mapping[str, Any], int, str, int], Sample | None]
"""Takes a sample from (data, time, id, clock); None when the column is null."""


@dataclass(frozen=True, slots=True)
class Measure:
    """What a pane takes from each record of its stream; panes with equal measures share the samples."""

    column: str | None
    scale: int = 1
    threshold: float = inf
    takes: Literal["amount", "value", "hash"] = "amount"

    def sampler(self) -> Sampler:
        """Compile it."""
        column, scale, threshold = self.column, self.scale, self.threshold
        if column is None:
            return lambda _, time, id_, clock: (time, id_, clock, 0, 0, None)
        if self.takes != "amount":
            return _bare_sampler(column, hashed=self.takes == "hash")

        def sample(data: Mapping[str, Any], time: int, id_: str, clock: int) -> Sample | None:
            value = data.get(column)
            if value is None:
                return None
            amount = value * scale if type(value) is int else scaled(value, scale)
            return time, id_, clock, amount, 1 if value >= threshold else 0, value

        return sample


def _bare_sampler(column: str, *, hashed: bool) -> Sampler:
    def sample(data: Mapping[str, Any], time: int, id_: str, clock: int) -> Sample | None:
        value = data.get(column)
        return None if value is None else (time, id_, clock, hash_of(value) if hashed else 0, 0, value)

    return sample


def scaled(value: float, scale: int) -> int:
    """``value * scale`` as an integer: exact, then rounded once, half to even."""
    numerator, denominator = value.as_integer_ratio()
    whole, rest = divmod(numerator * scale, denominator)
    return whole + (2 * rest > denominator or (2 * rest == denominator and whole & 1))
