"""What a window says of its records, whatever kind of window it is: partials that are taken up, merged and shown.

A partial is None while it holds no record. What it shows follows from the set of its records alone, so that neither
their order nor the cuts between partials matter:

- `Sums`: how many, the sum and the sum of squares of value * scale, how many at or above the threshold: integers.
- `Extremes`: the smallest and the largest value, as the records have them.
- `Newest`: the value with the largest (time, id).
- `Different`: a sketch of the values (`features.sketch`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from features.measure import Sample
from features.rows import FieldValue
from features.sketch import estimate, insert, read_sketch, union, write_sketch
from features.square_root import square_root
from features.windows import exact, whole

Partial = Any
"""A summary's own: a tuple of numbers, or a sketch's list; None for no record."""


class Summary(Protocol):
    """How the partials of one pane are made and what they show."""

    def take(self, partial: Partial, sample: Sample) -> Partial:
        """The partial with one record more; a list may be changed in place."""
        ...

    def merge(self, partials: Iterable[Partial]) -> Partial:
        """A new partial of all these, None for none; they stay as they are."""
        ...

    def without(self, total: Partial, leaving: Partial, rest: Iterable[Partial]) -> Partial:
        """What is left of a total when one of its parts leaves; ``rest`` are the other parts."""
        ...

    def show(self, partial: Partial, values: list[FieldValue]) -> None:
        """Write the features into a view's values."""
        ...

    def dump(self, partial: Partial) -> Any:
        """The partial as msgpack has it."""
        ...

    def load(self, content: Any) -> Partial:
        """Take back what `dump` gave."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """``count``, ``sum``, ``mean``, ``rate`` and ``std`` are positions among the view's values, or None."""

    scale: int = 1
    count: int | None = None
    sum: int | None = None
    mean: int | None = None
    rate: int | None = None
    std: int | None = None
    integer: bool = False

    def take(self, partial: Partial, sample: Sample) -> Partial:
        """See `Summary.take`."""
        amount = sample[3]
        if partial is None:
            return 1, amount, sample[4], amount * amount
        count, total, high, squares = partial
        return count + 1, total + amount, high + sample[4], squares + amount * amount

    def merge(self, partials: Iterable[Partial]) -> Partial:
        """See `Summary.merge`."""
        return tuple(map(sum, zip(*partials, strict=True))) or None

    def without(self, total: Partial, leaving: Partial, rest: Iterable[Partial]) -> Partial:  # noqa: ARG002
        """Integers subtract exactly."""
        count = total[0] - leaving[0]
        return (count, total[1] - leaving[1], total[2] - leaving[2], total[3] - leaving[3]) if count else None

    def show(self, partial: Partial, values: list[FieldValue]) -> None:
        """An empty window has a count and a sum of 0, and no mean, rate or deviation."""
        count, total, high, squares = partial or (0, 0, 0, 0)
        if self.count is not None:
            values[self.count] = count
        if self.sum is not None:
            values[self.sum] = whole(total) if self.integer else quotient(total, self.scale)
        if self.mean is not None:
            values[self.mean] = total / (count * self.scale) if count else None
        if self.rate is not None:
            values[self.rate] = high / count if count else None
        if self.std is not None:
            values[self.std] = self._deviation(count, total, squares)

    def _deviation(self, count: int, total: int, squares: int) -> float | None:
        if count < 2:  # noqa: PLR2004 (one value says nothing of how far values lie apart)
            return None
        try:
            return square_root(count * squares - total * total, count * (count - 1) * self.scale * self.scale)
        except OverflowError:  # as of every number that no float can hold, there is none
            return None

    def dump(self, partial: Partial) -> Any:
        """(records, sum, high, squares)."""
        return partial

    def load(self, content: Any) -> Partial:
        """See `Summary.load`."""
        return tuple(map(exact, content))


@dataclass(frozen=True, slots=True, kw_only=True)
class Extremes:
    """``low`` and ``high`` are positions among the view's values, or None."""

    low: int | None = None
    high: int | None = None
    integers: frozenset[int] = frozenset()

    def take(self, partial: Partial, sample: Sample) -> Partial:
        """See `Summary.take`."""
        value = sample[5]
        if partial is None:
            return value, value
        low, high = partial
        if low <= value <= high:
            return partial
        return (value, high) if value < low else (low, value)

    def merge(self, partials: Iterable[Partial]) -> Partial:
        """See `Summary.merge`."""
        lows_and_highs = list(zip(*partials, strict=True))
        return (min(lows_and_highs[0]), max(lows_and_highs[1])) if lows_and_highs else None

    def without(self, total: Partial, leaving: Partial, rest: Iterable[Partial]) -> Partial:
        """Only a leaving part that reaches the edge may move it."""
        inside = total[0] < leaving[0] and leaving[1] < total[1]
        return total if inside else self.merge(rest)

    def show(self, partial: Partial, values: list[FieldValue]) -> None:
        """An empty window has neither."""
        for position, value in zip((self.low, self.high), partial or (None, None), strict=True):
            if position is not None:
                values[position] = number(value, integer=position in self.integers)

    def dump(self, partial: Partial) -> Any:
        """(smallest, largest)."""
        return partial

    def load(self, content: Any) -> Partial:
        """See `Summary.load`."""
        return tuple(exact(value) if isinstance(value, bytes) else value for value in content)


@dataclass(frozen=True, slots=True)
class Newest:
    """``value`` is a position among the view's values."""

    value: int
    integer: bool = False

    def take(self, partial: Partial, sample: Sample) -> Partial:
        """See `Summary.take`."""
        if partial is None or sample[:2] > partial[:2]:
            return sample[0], sample[1], sample[5]
        return partial

    def merge(self, partials: Iterable[Partial]) -> Partial:
        """See `Summary.merge`."""
        return max(partials, key=lambda partial: partial[:2], default=None)

    def without(self, total: Partial, leaving: Partial, rest: Iterable[Partial]) -> Partial:
        """Only the part that holds the newest may change it."""
        return self.merge(rest) if total == leaving else total

    def show(self, partial: Partial, values: list[FieldValue]) -> None:
        """An empty window has none."""
        values[self.value] = number(partial and partial[2], integer=self.integer)

    def dump(self, partial: Partial) -> Any:
        """(time, id, value)."""
        return partial

    def load(self, content: Any) -> Partial:
        """See `Summary.load`."""
        time, id_, value = content
        return time, id_, exact(value) if isinstance(value, bytes) else value


@dataclass(frozen=True, slots=True)
class Different:
    """How many different values; ``value`` is a position among the view's values."""

    value: int

    def take(self, partial: Partial, sample: Sample) -> Partial:
        """The hash is the sample's amount."""
        if partial is None:
            return [sample[3]]
        insert(partial, sample[3])
        return partial

    def merge(self, partials: Iterable[Partial]) -> Partial:
        """See `Summary.merge`."""
        return union(partials) or None

    def without(self, total: Partial, leaving: Partial, rest: Iterable[Partial]) -> Partial:  # noqa: ARG002
        """A sketch forgets nothing, so the rest is merged anew."""
        return self.merge(rest)

    def show(self, partial: Partial, values: list[FieldValue]) -> None:
        """0 for an empty window."""
        values[self.value] = estimate(partial or ())

    def dump(self, partial: Partial) -> Any:
        """See `features.sketch.write_sketch`."""
        return write_sketch(partial)

    def load(self, content: Any) -> Partial:
        """See `Summary.load`."""
        return read_sketch(content)


def quotient(total: int, scale: int) -> float | None:
    """``total / scale``, correctly rounded; None when no float is that large."""
    try:
        return total / scale
    except OverflowError:
        return None


def number(value: float | None, *, integer: bool) -> FieldValue:
    """As the field's type; a zero has no sign, since -0.0 and 0.0 are equal and which came first must not show."""
    if value is None:
        return None
    return whole(int(value)) if integer else float(value) + 0.0
