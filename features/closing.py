"""Windows that close: what they show may change at a boundary although nothing leaves, so they wake one by one.

At most one wake-up counts at a time, the earliest; one that an earlier one has overtaken is passed over.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from features.measure import Measure, Sample
from features.rows import FieldValue
from features.summaries import Partial, Summary
from features.timed import Timed


class Closing(Timed, ABC):
    """The way from one boundary to the next; what happens there is the subclass's."""

    __slots__ = ("_due", "again")

    def __init__(self) -> None:
        self._due: int | None = None
        self.again: int | None = None

    @abstractmethod
    def settle(self, clock: int) -> bool:
        """Let go of what the clock has passed and show what it has come to; whether the entity is due a row."""

    @abstractmethod
    def next_boundary(self, clock: int) -> int | None:
        """The first boundary behind the clock at which there is anything to do."""

    def wake_at(self, clock: int) -> int | None:
        """A wake-up that is needed and earlier than the one that is waited for."""
        boundary = self.next_boundary(clock)
        if boundary is None or (self._due is not None and self._due <= boundary):
            return None
        self._due = boundary
        return boundary

    def leave(self, boundary: int) -> bool | None:
        """Settle there, unless this wake-up was overtaken."""
        if boundary != self._due:
            self.again = None
            return None
        changed = self.settle(boundary)
        self.again = self._due = self.next_boundary(boundary)
        return changed

    def boundaries(self) -> list[int]:
        """The one wake-up that is waited for, if any."""
        return [] if self._due is None else [self._due]


@dataclass(frozen=True, slots=True)
class ClosedPane:
    """The tumbling window before the one that runs: yesterday's count, from the first record of today on."""

    stream: str
    measure: Measure
    width: int
    summary: Summary

    def open(self, values: list[FieldValue]) -> "Closed":
        """The empty state of one entity, which writes its features into ``values``."""
        return Closed(self, values)


class Closed(Closing):
    """The tile that runs, which nobody sees yet, and the one before it."""

    __slots__ = ("_pane", "_tiles", "_values")

    def __init__(self, pane: ClosedPane, values: list[FieldValue]) -> None:
        super().__init__()
        self._pane, self._values = pane, values
        self._tiles: dict[int, Partial] = {}
        pane.summary.show(None, values)

    def add(self, sample: Sample) -> int | None:
        """Add to the record's own tile, unless that has left; return when to wake this state, if that is news."""
        pane, clock = self._pane, sample[2]
        tile, running = sample[0] // pane.width, clock // pane.width
        if tile < running - 1:
            return None
        partial = self._tiles[tile] = pane.summary.take(self._tiles.get(tile), sample)
        if tile < running:
            pane.summary.show(partial, self._values)
        return self.wake_at(clock)

    def settle(self, clock: int) -> bool:
        """The tile that ran is shown now, the one that was shown leaves."""
        closed = clock // self._pane.width - 1
        self._tiles = {tile: partial for tile, partial in self._tiles.items() if tile >= closed}
        self._pane.summary.show(self._tiles.get(closed), self._values)
        return True

    def next_boundary(self, clock: int) -> int | None:
        """The end of the tile that runs."""
        width = self._pane.width
        return (clock // width + 1) * width if self._tiles else None

    def is_empty(self) -> bool:
        """Whether it is as if no record had ever come."""
        return not self._tiles

    def dump(self) -> Any:
        """(tile, partial) of each tile, oldest first."""
        return [(tile, self._pane.summary.dump(self._tiles[tile])) for tile in sorted(self._tiles)]

    def load(self, content: Any, clock: int) -> None:
        """Take back what `dump` gave when the clock stood there."""
        self._tiles = {tile: self._pane.summary.load(partial) for tile, partial in content}
        self.settle(clock)
        self._due = self.next_boundary(clock)
