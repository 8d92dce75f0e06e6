"""The features of a window view as declared, and the panes that they are read from."""

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, localcontext
from math import inf
from typing import TYPE_CHECKING, Any

import msgspec

from features.measure import Measure
from features.windows import WEIGHT_BITS, DecayedPane, LastPane, Pane, WindowPane
from journal.clock import parse_span

if TYPE_CHECKING:
    from journal.field import Field

Seat = dict[str, tuple[int, "Aggregate"]]
"""The features that share a window pane: kind to (position, aggregate)."""


class Declaration(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An `Aggregate` as ``views.py`` writes it: spans in words, unchecked."""

    kind: str
    stream: str
    column: str | None = None
    over: str | None = None
    tile: str | None = None
    at_least: float | None = None
    half_life: str | None = None
    scale: int | None = None
    integer: bool = False


class Aggregate(msgspec.Struct, frozen=True, kw_only=True):
    """One feature of a window view; spans in microseconds.

    Attributes:
        kind: ``count``, ``mean``, ``rate``, ``decayed_mean`` or ``last``.
        stream: Whose records.
        column: Of which field; None for a count.
        nullable: Whether the contract lets that field be null.
        over: The window's width; 0 where there is no window.
        tile: A tile's width; 0 for ``last``.
        at_least: A rate's threshold.
        half_life: Of a decayed mean; otherwise 0.
        scale: By what a value is multiplied before it is rounded to an integer.
        integer: Whether ``last`` gives an integer.
    """

    kind: str
    stream: str
    column: str | None = None
    nullable: bool = False
    over: int = 0
    tile: int = 0
    at_least: float | None = None
    half_life: int = 0
    scale: int = 1
    integer: bool = False


def write_declarations(features: Mapping[str, Declaration]) -> str:
    """As JSON, for a tag of the feature view."""
    return msgspec.json.encode(features).decode()


def parse_aggregates(
    declared: str, streams: "Mapping[str, Mapping[str, Field]]"
) -> tuple[tuple[Aggregate, ...], list[str]]:
    """Read what `write_declarations` wrote against the streams' fields, and list every mistake."""
    features = msgspec.json.decode(declared, type=dict[str, Declaration])
    aggregates, mistakes = [], []
    for name, feature in features.items():
        field = streams.get(feature.stream, {}).get(feature.column or "")
        found = [*_wrong_place(feature, streams), *_wrong_spans(feature), *_wrong_numbers(feature, field)]
        mistakes += [f"feature {name!r}: {mistake}" for mistake in found]
        if not found:
            aggregates.append(_aggregate(feature, nullable=field is not None and not field.required))
    return tuple(aggregates), mistakes


def _aggregate(feature: Declaration, *, nullable: bool) -> Aggregate:
    return Aggregate(
        kind=feature.kind,
        stream=feature.stream,
        column=feature.column,
        nullable=nullable,
        over=parse_span(feature.over or "0s"),
        tile=parse_span(feature.tile or "0s"),
        at_least=feature.at_least,
        half_life=parse_span(feature.half_life or "0s"),
        scale=feature.scale or 1,
        integer=feature.integer,
    )


def _wrong_place(feature: Declaration, streams: "Mapping[str, Mapping[str, Field]]") -> Iterator[str]:
    if feature.stream not in streams:
        yield f"stream {feature.stream!r} has no contract"
    elif feature.column is not None and feature.column not in streams[feature.stream]:
        yield f"stream {feature.stream!r} has no field {feature.column!r} in the clear"


def _wrong_spans(feature: Declaration) -> Iterator[str]:
    spans = {}
    for name, text in (("tile", feature.tile), ("over", feature.over), ("half_life", feature.half_life)):
        try:
            spans[name] = parse_span(text) if text is not None else None
        except ValueError as error:
            yield f"{name}: {error}"
            return
    tile = spans.pop("tile")
    for name, span in spans.items():
        if span is not None and (not tile or not span or span % tile):
            yield f"{name} {getattr(feature, name)} is not a whole number of tiles of {feature.tile}"


def _wrong_numbers(feature: Declaration, field: "Field | None") -> Iterator[str]:
    if field is None:
        return
    if field.type == "string":
        yield f"field {field.name!r} is a string; nothing can be computed from it"
    if field.type == "number" and feature.kind in {"mean", "decayed_mean"} and feature.scale is None:
        yield f"field {field.name!r} is not whole; say by what scale it becomes so, such as scale=1000"
    if field.type == "number" and feature.integer:
        yield f"field {field.name!r} is not whole; leave integer out"
    if feature.scale is not None and feature.scale < 1:
        yield f"scale {feature.scale} is not a whole number from 1"


def panes_of(aggregates: Sequence[Aggregate]) -> tuple[Pane, ...]:
    """The fewest panes from which a view's features can be read; an aggregate's place is its feature's position."""
    panes: list[Pane] = []
    seats: dict[tuple[Any, ...], Seat] = {}
    for position, aggregate in enumerate(aggregates):
        match aggregate.kind:
            case "last":
                measure = Measure(aggregate.column)
                panes.append(LastPane(aggregate.stream, measure, aggregate.integer, position))
            case "decayed_mean":
                measure = Measure(aggregate.column, aggregate.scale)
                weights = weights_of(aggregate.half_life // aggregate.tile)
                panes.append(DecayedPane(aggregate.stream, measure, aggregate.tile, weights, position))
            case _:
                _seat(seats, position, aggregate, aggregates)
    return tuple(_window_pane(seat) for seat in seats.values()) + tuple(panes)


def _seat(
    seats: dict[tuple[Any, ...], Seat],
    position: int,
    aggregate: Aggregate,
    aggregates: Sequence[Aggregate],
) -> None:
    """Let a pane take it: at most one count, one mean and one rate over one column share a pane."""
    window = (aggregate.stream, aggregate.over, aggregate.tile)
    column = aggregate.column or next(
        (a.column for a in aggregates if (a.stream, a.over, a.tile) == window and a.column and not a.nullable), None
    )
    n = 0
    while aggregate.kind in (seat := seats.setdefault((*window, column, n), {})):
        n += 1
    seat[aggregate.kind] = position, aggregate


def _window_pane(seat: Mapping[str, tuple[int, Aggregate]]) -> WindowPane:
    first = next(iter(seat.values()))[1]
    column = next((a.column for _, a in seat.values() if a.column), None)
    scale = seat["mean"][1].scale if "mean" in seat else 1
    at_least = seat["rate"][1].at_least if "rate" in seat else None
    positions = {kind: position for kind, (position, _) in seat.items()}
    measure = Measure(column, scale, inf if at_least is None else at_least)
    return WindowPane(first.stream, measure, first.tile, first.over // first.tile, **positions)


def weights_of(tiles: int) -> tuple[int, ...]:
    """2 ** (j / tiles) for j from 0, with `WEIGHT_BITS` bits behind the point; in decimal, since libms differ."""
    with localcontext() as context:
        context.prec = 50
        return tuple(round(Decimal(2) ** (WEIGHT_BITS + Decimal(step) / tiles)) for step in range(tiles))
