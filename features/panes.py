"""The panes that a view's features are read from: the fewest that hold what they need, each computed once."""

from collections.abc import Mapping, Sequence
from decimal import Decimal, localcontext
from math import inf
from typing import Any

from features.aggregates import SCALED, Aggregate, Shape
from features.closing import Closed, ClosedPane
from features.measure import Measure
from features.sessions import SessionPane, Sessions
from features.summaries import Different, Extremes, Newest, Summary, Sums
from features.tiles import TilePane, Tiles
from features.windows import WEIGHT_BITS, Decayed, DecayedPane, Last, LastPane, Window, WindowPane

Pane = WindowPane | TilePane | ClosedPane | SessionPane | DecayedPane | LastPane
TimedState = Window | Tiles | Closed | Sessions
PaneState = TimedState | Decayed | Last

Seat = dict[str, tuple[int, Aggregate]]
"""The features that share a window pane: kind to (position, aggregate)."""

_SUMS = frozenset({"count", "sum", "mean", "rate", "std"})
_PLAIN_SUMS = frozenset({"count", "mean", "rate"})
_GROUPS = dict.fromkeys(_SUMS, "sums") | {"min": "extremes", "max": "extremes", "distinct": "different", "last": "last"}


def panes_of(aggregates: Sequence[Aggregate], lateness: int = 0) -> tuple[Pane, ...]:
    """The fewest panes from which a view's features can be read; an aggregate's place is its feature's position.

    Args:
        aggregates: A view's features, in order.
        lateness: How long a record may still change a session (microseconds).
    """
    panes: list[Pane] = []
    seats: dict[tuple[Any, ...], Seat] = {}
    for position, aggregate in enumerate(aggregates):
        match aggregate.kind:
            case "last" if not aggregate.windowed:
                measure = Measure(aggregate.column)
                panes.append(LastPane(aggregate.stream, measure, aggregate.integer, position))
            case "decayed_mean":
                measure = Measure(aggregate.column, aggregate.scale)
                weights = weights_of(aggregate.half_life // aggregate.tile)
                panes.append(DecayedPane(aggregate.stream, measure, aggregate.tile, weights, position))
            case _:
                _seat(seats, position, aggregate, aggregates)
    return tuple(_window_pane(seat, lateness) for seat in seats.values()) + tuple(panes)


def _window(aggregate: Aggregate) -> tuple[Any, ...]:
    return aggregate.stream, aggregate.over, aggregate.tile, aggregate.shape


def _seat(
    seats: dict[tuple[Any, ...], Seat],
    position: int,
    aggregate: Aggregate,
    aggregates: Sequence[Aggregate],
) -> None:
    """Let a pane take it: at most one feature of each kind over one column share a pane."""
    window = _window(aggregate)
    column = aggregate.column or next(
        (a.column for a in aggregates if _window(a) == window and a.column and not a.nullable and a.kind in _SUMS),
        None,
    )
    n = 0
    while not _fits(seat := seats.setdefault((*window, _GROUPS[aggregate.kind], column, n), {}), aggregate):
        n += 1
    seat[aggregate.kind] = position, aggregate


def _fits(seat: Seat, aggregate: Aggregate) -> bool:
    """Whether its kind is free, and its scale is that of the others."""
    if aggregate.kind in seat:
        return False
    scales = {other.scale for kind, (_, other) in seat.items() if kind in SCALED}
    return aggregate.kind not in SCALED or scales <= {aggregate.scale}


def _window_pane(seat: Mapping[str, tuple[int, Aggregate]], lateness: int) -> Pane:
    first = next(iter(seat.values()))[1]
    measure, summary = _summary(seat)
    if isinstance(first.shape, Shape):
        if first.shape.gap:
            return SessionPane(first.stream, measure, first.shape.gap, first.shape.keep, lateness, summary)
        return ClosedPane(first.stream, measure, first.over, summary)
    span = first.over // first.tile
    if seat.keys() <= _PLAIN_SUMS:
        positions = {kind: position for kind, (position, _) in seat.items()}
        return WindowPane(first.stream, measure, first.tile, span, **positions)
    return TilePane(first.stream, measure, first.tile, span, summary)


def _summary(seat: Mapping[str, tuple[int, Aggregate]]) -> tuple[Measure, Summary]:
    """What is taken from each record, and what becomes of it."""
    kind, (position, first) = next(iter(seat.items()))
    match _GROUPS[kind]:
        case "extremes":
            low, high = (seat[name][0] if name in seat else None for name in ("min", "max"))
            integers = frozenset(place for place, aggregate in seat.values() if aggregate.integer)
            return Measure(first.column, takes="value"), Extremes(low=low, high=high, integers=integers)
        case "different":
            return Measure(first.column, takes="hash"), Different(position)
        case "last":
            return Measure(first.column, takes="value"), Newest(position, first.integer)
    return _sums(seat)


def _sums(seat: Mapping[str, tuple[int, Aggregate]]) -> tuple[Measure, Summary]:
    column = next((a.column for _, a in seat.values() if a.column), None)
    scale = next((a.scale for kind, (_, a) in seat.items() if kind in SCALED), 1)
    at_least = seat["rate"][1].at_least if "rate" in seat else None
    integer = "sum" in seat and seat["sum"][1].integer
    positions = {kind: position for kind, (position, _) in seat.items()}
    measure = Measure(column, scale, inf if at_least is None else at_least)
    return measure, Sums(scale=scale, integer=integer, **positions)


def weights_of(tiles: int) -> tuple[int, ...]:
    """2 ** (j / tiles) for j from 0, with `WEIGHT_BITS` bits behind the point; in decimal, since libms differ."""
    with localcontext() as context:
        context.prec = 50
        return tuple(round(Decimal(2) ** (WEIGHT_BITS + Decimal(step) / tiles)) for step in range(tiles))
