"""The state of window views: their entities, and the timers that let tiles leave."""

from collections.abc import Iterable
from heapq import heappop, heappush
from math import inf
from typing import Any

import msgspec

from features.panes import Pane, PaneState, TimedState, panes_of
from features.rows import FieldValue, Row, decode_key, encode_key
from features.timed import Timed
from features.views import ViewPlan
from features.windows import storable

_encode = msgspec.msgpack.Encoder().encode


class Entity:
    """The state of one entity in one window view."""

    __slots__ = ("gone", "key", "order", "panes", "touched", "values", "view")

    def __init__(self, view: "WindowView", key: bytes) -> None:
        self.view, self.key = view, key
        self.order = (view.index, key)
        self.touched = -1
        self.gone = False
        self.values: list[FieldValue] = [None] * len(view.plan.fields)
        self.panes: list[PaneState] = [pane.open(self.values) for pane in view.panes]
        for pane in self.panes:
            if isinstance(pane, Timed):
                pane.owner = self

    def is_empty(self) -> bool:
        """Whether forgetting it changes nothing."""
        for pane in self.panes:  # noqa: SIM110 (all() takes twice as long, for every entity that changed)
            if not pane.is_empty():
                return False
        return True

    def dump(self) -> bytes:
        """Canonical bytes of the state."""
        contents = [pane.dump() for pane in self.panes]
        try:
            return _encode(contents)
        except OverflowError:
            return _encode(storable(contents))


class WindowView:
    """One window view's entities, by join-key value (a tuple of them where there are several)."""

    def __init__(self, plan: ViewPlan, index: int, lateness: int) -> None:
        self.plan, self.index, self.name = plan, index, plan.name
        self.panes: tuple[Pane, ...] = panes_of(plan.aggregates, lateness)
        self.entities: dict[Any, Entity] = {}
        self.rows: list[Row] = []
        self.prefix = plan.name.encode() + b"\0"

    def enter(self, key: Any) -> Entity:
        """An entity that is new here."""
        entity = self.entities[key] = Entity(self, encode_key(key if len(self.plan.join_keys) > 1 else (key,)))
        return entity

    def restore(self, key: bytes) -> Entity:
        """The same from an encoded key."""
        values = decode_key(key)
        return self.enter(tuple(values) if len(values) > 1 else values[0])

    def forget(self, key: bytes) -> Entity | None:
        """Let go of an entity; None when there is none of that key."""
        values = decode_key(key)
        return self.entities.pop(tuple(values) if len(values) > 1 else values[0], None)


class Timers:
    """Which windows lose a tile, or close, at which boundary."""

    def __init__(self) -> None:
        self.next: float = inf
        self.unseen: list[Entity] = []
        self._waiting: dict[int, list[TimedState]] = {}
        self._boundaries: list[int] = []

    def schedule(self, boundary: int, window: TimedState) -> None:
        """A tile of this window leaves at this boundary, or it closes."""
        waiting = self._waiting.get(boundary)
        if waiting is not None:
            waiting.append(window)
            return
        self._waiting[boundary] = [window]
        heappush(self._boundaries, boundary)
        self.next = self._boundaries[0]

    def fire(self, clock: int) -> Iterable[Entity]:
        """Let every tile leave whose boundary the clock has reached; the entities concerned, some more than once.

        Those whose state changed where nobody sees it are in ``unseen``, for the caller to empty.
        """
        while self.next <= clock:
            boundary = heappop(self._boundaries)
            self.next = self._boundaries[0] if self._boundaries else inf
            for window in self._waiting.pop(boundary):
                due = window.leave(boundary)
                if window.again is not None:
                    self.schedule(window.again, window)
                if due:
                    yield window.owner
                elif due is False:
                    self.unseen.append(window.owner)
