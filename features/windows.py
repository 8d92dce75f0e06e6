"""Windows over event time, by tiles: what a view's features are computed from, exactly.

Rules (``tests/property/test_windows_oracle.py`` holds them against a slow and obvious oracle):

- A window is ``span`` whole tiles of ``width`` microseconds, aligned to the epoch. At clock c it holds the tiles k with
  c // width - span < k <= c // width. Tile k leaves when the clock reaches (k + span) * width.
- A tile holds exact integers: how many records, the sum of the column times its ``scale``, how many at or above the
  threshold. Integer sums are exact in any order, so a running total loses nothing when a leaving tile is taken off it.
- A float enters as value * scale, rounded once, half to even. A mean is one correctly rounded division.
- A record whose column is null counts for ``count`` and for nothing else.
- A decayed mean weighs tile k with 2 ** (k / half-life in tiles): a shift and one of a few 40-bit constants, so that
  numerator and denominator are integers too. It changes only with a record. What is 2 ** -400 of the newest vanishes.
- The last value is the one with the largest (time, id), whatever order they came in.
"""

from dataclasses import dataclass
from typing import Any

from features.measure import Measure, Sample
from features.rows import FieldValue
from features.timed import Timed

WEIGHT_BITS = 40
"""Precision of a decayed weight: 1e-12 of it, far below what a mean can show."""
KEPT_POWERS = 400
"""Terms down to this many half-lives below the newest are counted exactly."""
REBASE_POWERS = 512
"""How many half-lives the newest term may stand above the base before the base follows it."""
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class WindowPane:
    """One window over one column. ``count``, ``mean`` and ``rate`` are positions among the view's values, or None."""

    stream: str
    measure: Measure
    width: int
    span: int
    count: int | None = None
    mean: int | None = None
    rate: int | None = None

    def open(self, values: list[FieldValue]) -> "Window":
        """The empty state of one entity, which writes its features into ``values``."""
        return Window(self, values)


class Window(Timed):
    """The tiles that are in the window now, and their running totals."""

    __slots__ = ("_high", "_pane", "_tiles", "_total", "_values", "_width", "count")

    def __init__(self, pane: WindowPane, values: list[FieldValue]) -> None:
        self._pane, self._values, self._width = pane, values, pane.width
        self._tiles: dict[int, tuple[int, int, int]] = {}
        self.count = self._total = self._high = 0
        self._show()

    def add(self, sample: Sample) -> int | None:
        """Add to the record's own tile, unless that has left; return when a tile that this opened leaves."""
        time, _, clock, amount, high, _ = sample
        tile, leaves = time // self._width, None
        partial = self._tiles.get(tile)
        if partial is None:
            leaves = (tile + self._pane.span) * self._width
            if leaves <= clock:
                return None
            self._tiles[tile] = (1, amount, high)
        else:
            self._tiles[tile] = (partial[0] + 1, partial[1] + amount, partial[2] + high)
        self.count += 1
        self._total += amount
        self._high += high
        self._show()
        return leaves

    def leave(self, boundary: int) -> bool:
        """Take the tile that leaves at this boundary off the totals."""
        count, total, high = self._tiles.pop(boundary // self._width - self._pane.span)
        self.count -= count
        self._total -= total
        self._high -= high
        self._show()
        return True

    def _show(self) -> None:
        pane, values, count = self._pane, self._values, self.count
        if pane.count is not None:
            values[pane.count] = count
        if pane.mean is not None:
            values[pane.mean] = self._total / (count * pane.measure.scale) if count else None
        if pane.rate is not None:
            values[pane.rate] = self._high / count if count else None

    def boundaries(self) -> list[int]:
        """When each of its tiles leaves."""
        return [(tile + self._pane.span) * self._width for tile in self._tiles]

    def is_empty(self) -> bool:
        """Whether it is as if no record had ever come."""
        return not self.count

    def dump(self) -> Any:
        """(tile, (records, sum, high)) of each tile, oldest first."""
        return sorted(self._tiles.items())

    def load(self, content: Any, _clock: int = 0) -> None:
        """Take back what `dump` gave; the totals follow from it."""
        self._tiles = {tile: (count, exact(total), high) for tile, (count, total, high) in content}
        self.count, self._total, self._high = map(sum, zip((0, 0, 0), *self._tiles.values(), strict=True))
        self._show()


@dataclass(frozen=True, slots=True)
class DecayedPane:
    """A mean whose weights halve every ``len(weights)`` tiles. ``value`` is a position among the view's values."""

    stream: str
    measure: Measure
    width: int
    weights: tuple[int, ...]
    value: int

    def open(self, values: list[FieldValue]) -> "Decayed":
        """The empty state of one entity, which writes its feature into ``values``."""
        return Decayed(self, values)


class Decayed:
    """Numerator and denominator of a decayed mean, in units of 2 ** (base - `WEIGHT_BITS`).

    A late term below the base lowers it, which is exact. When a term stands more than `REBASE_POWERS` above the base,
    the base moves to `KEPT_POWERS` below that term and the bits under it are cut.
    """

    __slots__ = ("_base", "_denominator", "_numerator", "_pane", "_values")

    def __init__(self, pane: DecayedPane, values: list[FieldValue]) -> None:
        self._pane, self._values = pane, values
        self._base = self._numerator = self._denominator = 0
        self._show()

    def add(self, sample: Sample) -> int | None:
        """Add with the weight of the record's own tile; no tile of it ever leaves."""
        pane = self._pane
        power, step = divmod(sample[0] // pane.width, len(pane.weights))
        above = power - self._base
        if not 0 <= above <= REBASE_POWERS:
            above = self._rebase(power)
        if above >= 0:
            weight = pane.weights[step] << above
            self._numerator += weight * sample[3]
            self._denominator += weight
            self._show()
        return None

    def _rebase(self, power: int) -> int:
        """Move the base so that a term of this power fits; return its place above the base, negative if it vanishes."""
        above = power - self._base
        if not self._denominator:
            up = above
        elif above > 0:
            up = above - KEPT_POWERS
            self._numerator >>= up
            self._denominator >>= up
        elif self._denominator.bit_length() - above > REBASE_POWERS + 2 * WEIGHT_BITS:
            return above
        else:
            up = above
            self._numerator <<= -up
            self._denominator <<= -up
        self._base += up
        return above - up

    def _show(self) -> None:
        whole = self._denominator * self._pane.measure.scale
        self._values[self._pane.value] = self._numerator / whole if whole else None

    def is_empty(self) -> bool:
        """Whether it is as if no record had ever come."""
        return not self._denominator

    def dump(self) -> Any:
        """[base, numerator, denominator]; the last two mostly need more than 64 bits."""
        return [self._base, storable(self._numerator), storable(self._denominator)]

    def load(self, content: Any, _clock: int = 0) -> None:
        """Take back what `dump` gave."""
        self._base, self._numerator, self._denominator = map(exact, content)
        self._show()


@dataclass(frozen=True, slots=True)
class LastPane:
    """The last value that is not null. ``value`` is a position among the view's values."""

    stream: str
    measure: Measure
    integer: bool
    value: int

    def open(self, values: list[FieldValue]) -> "Last":
        """The empty state of one entity, which writes its feature into ``values``."""
        return Last(self, values)


class Last:
    """The value with the largest (time, id), and those two."""

    __slots__ = ("_newest", "_pane", "_values")

    def __init__(self, pane: LastPane, values: list[FieldValue]) -> None:
        self._pane, self._values = pane, values
        self._newest: tuple[int, str] | None = None
        values[pane.value] = None

    def add(self, sample: Sample) -> int | None:
        """Take the value if it is the newest; nothing ever leaves."""
        newest = sample[:2]
        if self._newest is None or newest > self._newest:
            self._newest = newest
            self._values[self._pane.value] = whole(int(sample[5])) if self._pane.integer else float(sample[5])
        return None

    def is_empty(self) -> bool:
        """Whether it is as if no record had ever come."""
        return self._newest is None

    def dump(self) -> Any:
        """[time, id, value], or nothing."""
        return [*self._newest, self._values[self._pane.value]] if self._newest else []

    def load(self, content: Any, _clock: int = 0) -> None:
        """Take back what `dump` gave."""
        if content:
            time, id_, self._values[self._pane.value] = content
            self._newest = (time, id_)


def storable(content: Any) -> Any:
    """Content that msgpack can write: integers beyond 64 bits as signed bytes."""
    kind = type(content)
    if kind is int:
        return content if _LEAST <= content <= _MOST else content.to_bytes(content.bit_length() // 8 + 1, signed=True)
    if kind is not list and kind is not tuple:
        return content
    # Most lists hold small integers only, a window's tiles above all; those are handed on as they are.
    return [part if type(part) is int and _LEAST <= part <= _MOST else storable(part) for part in content]


def whole(value: int) -> int | None:
    """An integer as a feature has it: None when 64 bits cannot hold it."""
    return value if -(1 << 63) <= value < 1 << 63 else None


def exact(value: int | bytes) -> int:
    """The integer that `storable` may have made bytes of."""
    return value if isinstance(value, int) else int.from_bytes(value, signed=True)
