"""Sliding and tumbling windows over any summary, by tiles; `features.windows.Window` is the short form for sums.

A tumbling window is a sliding one of a single tile: it holds the records since the last whole multiple of its width.
"""

from dataclasses import dataclass
from typing import Any

from features.measure import Measure, Sample
from features.rows import FieldValue
from features.summaries import Partial, Summary
from features.timed import Timed


@dataclass(frozen=True, slots=True)
class TilePane:
    """One window of ``span`` tiles of ``width`` microseconds, and what it says of its records."""

    stream: str
    measure: Measure
    width: int
    span: int
    summary: Summary

    def open(self, values: list[FieldValue]) -> "Tiles":
        """The empty state of one entity, which writes its features into ``values``."""
        return Tiles(self, values)


class Tiles(Timed):
    """A partial per tile that is in the window now, and the total of them."""

    __slots__ = ("_pane", "_tiles", "_total", "_values")

    def __init__(self, pane: TilePane, values: list[FieldValue]) -> None:
        self._pane, self._values = pane, values
        self._tiles: dict[int, Partial] = {}
        self._total: Partial = None
        pane.summary.show(None, values)

    def add(self, sample: Sample) -> int | None:
        """Add to the record's own tile, unless that has left; return when a tile that this opened leaves."""
        pane = self._pane
        summary, tile, leaves = pane.summary, sample[0] // pane.width, None
        partial = self._tiles.get(tile)
        if partial is None:
            leaves = (tile + pane.span) * pane.width
            if leaves <= sample[2]:
                return None
        self._tiles[tile] = summary.take(partial, sample)
        self._total = summary.take(self._total, sample)
        summary.show(self._total, self._values)
        return leaves

    def leave(self, boundary: int) -> bool:
        """Take the tile that leaves at this boundary off the total."""
        pane = self._pane
        leaving = self._tiles.pop(boundary // pane.width - pane.span)
        self._total = pane.summary.without(self._total, leaving, self._tiles.values())
        pane.summary.show(self._total, self._values)
        return True

    def boundaries(self) -> list[int]:
        """When each of its tiles leaves."""
        pane = self._pane
        return [(tile + pane.span) * pane.width for tile in self._tiles]

    def is_empty(self) -> bool:
        """Whether it is as if no record had ever come."""
        return not self._tiles

    def dump(self) -> Any:
        """(tile, partial) of each tile, oldest first."""
        return [(tile, self._pane.summary.dump(self._tiles[tile])) for tile in sorted(self._tiles)]

    def load(self, content: Any, _clock: int = 0) -> None:
        """Take back what `dump` gave; the total follows from it."""
        summary = self._pane.summary
        self._tiles = {tile: summary.load(partial) for tile, partial in content}
        self._total = summary.merge(self._tiles.values())
        summary.show(self._total, self._values)
