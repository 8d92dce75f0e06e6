"""The features of a window view as declared, checked against the streams' fields."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import msgspec

from journal.clock import parse_span

if TYPE_CHECKING:
    from journal.field import Field

SCALED = frozenset({"sum", "mean", "std", "decayed_mean"})
"""Kinds that add values up, and so need them as integers."""
KINDS = SCALED | {"count", "rate", "min", "max", "distinct", "last"}
_WHOLE = frozenset({"sum", "min", "max", "last"})
_WINDOWS = {"over": "sliding", "every": "tumbling", "gap": "session"}
_SPANS = ("tile", "over", "every", "gap", "keep", "half_life")


class Declaration(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An `Aggregate` as ``views.py`` writes it: spans in words, unchecked."""

    kind: str
    stream: str
    column: str | None = None
    over: str | None = None
    tile: str | None = None
    every: str | None = None
    closed: bool = False
    gap: str | None = None
    keep: str | None = None
    at_least: float | None = None
    half_life: str | None = None
    scale: int | None = None
    integer: bool = False


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a window other than the newest tiles; spans in microseconds.

    Attributes:
        gap: After how long without a record a session ends; 0 for the last closed tile.
        keep: How long the newest closed session is shown; 0 for the open one.
    """

    gap: int = 0
    keep: int = 0


class Aggregate(msgspec.Struct, frozen=True, kw_only=True):
    """One feature of a window view; spans in microseconds.

    Attributes:
        kind: One of `KINDS`.
        stream: Whose records.
        column: Of which field; None for a count.
        nullable: Whether the contract lets that field be null.
        over: The window's width; 0 where there is none, and for sessions.
        tile: A tile's width, the whole width where the window tumbles; 0 where there is no window, and for sessions.
        at_least: A rate's threshold.
        half_life: Of a decayed mean; otherwise 0.
        scale: By what a value is multiplied before it is rounded to an integer.
        integer: Whether ``sum``, ``min``, ``max`` and ``last`` give integers.
        shape: Of a session, or the last closed tile. Unset for a sliding or running window, and then not written.
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
    shape: Shape | msgspec.UnsetType = msgspec.UNSET

    @property
    def windowed(self) -> bool:
        """Whether only the records of a window count."""
        return bool(self.over) or isinstance(self.shape, Shape)


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
    gap, keep = parse_span(feature.gap or "0s"), parse_span(feature.keep or "0s")
    return Aggregate(
        kind=feature.kind,
        stream=feature.stream,
        column=feature.column,
        nullable=nullable,
        over=parse_span(feature.over or feature.every or "0s"),
        tile=parse_span(feature.tile or feature.every or "0s"),
        at_least=feature.at_least,
        half_life=parse_span(feature.half_life or "0s"),
        scale=feature.scale or 1,
        integer=feature.integer,
        shape=Shape(gap=gap, keep=keep) if gap or feature.closed else msgspec.UNSET,
    )


def _wrong_place(feature: Declaration, streams: "Mapping[str, Mapping[str, Field]]") -> Iterator[str]:
    if feature.kind not in KINDS:
        yield f"kind {feature.kind!r} is none of {', '.join(sorted(KINDS))}"
    if feature.stream not in streams:
        yield f"stream {feature.stream!r} has no contract"
    elif feature.column is not None and feature.column not in streams[feature.stream]:
        yield f"stream {feature.stream!r} has no field {feature.column!r} in the clear"
    elif feature.column is None and feature.kind != "count":
        yield f"a {feature.kind} is of a column; name one"


def _wrong_spans(feature: Declaration) -> Iterator[str]:
    spans = {}
    for name in _SPANS:
        text: str | None = getattr(feature, name)
        try:
            spans[name] = None if text is None else parse_span(text)
        except ValueError as error:
            yield f"{name}: {error}"
            return
    yield from _wrong_window(feature, [name for name in _WINDOWS if spans[name] is not None])
    tile = spans["tile"]
    for name in ("over", "half_life"):
        span = spans[name]
        if span is not None and tile is not None and (not tile or not span or span % tile):
            yield f"{name} {getattr(feature, name)} is not a whole number of tiles of {feature.tile}"
    for name in ("every", "gap", "keep"):
        if spans[name] == 0:
            yield f"{name} {getattr(feature, name)} is no span of time"


def _wrong_window(feature: Declaration, named: list[str]) -> Iterator[str]:
    """Spans that are missing, or that do not go together."""
    if len(named) > 1:
        yield f"{' and '.join(named)} are of different windows; give one of them"
    if feature.kind == "decayed_mean":
        if named or feature.half_life is None:
            yield "a decayed mean has a half_life and a tile, and no window"
    elif not named and feature.kind != "last":
        yield "it has no window; give over and tile (sliding), every (tumbling) or gap (session)"
    for name, owner in (("over", "tile"), ("half_life", "tile"), ("closed", "every"), ("keep", "gap")):
        if getattr(feature, name) and getattr(feature, owner) is None:
            yield f"{name} goes with {owner}, which is missing"
    if feature.tile is not None and feature.over is None and feature.half_life is None:
        yield f"tile {feature.tile} goes with over or half_life; a tumbling window or a session has none"


def _wrong_numbers(feature: Declaration, field: "Field | None") -> Iterator[str]:
    if field is None:
        return
    if field.type == "string" and feature.kind != "distinct":
        yield f"field {field.name!r} is a string; nothing can be computed from it"
    if field.type == "number" and feature.kind in SCALED and feature.scale is None:
        yield f"field {field.name!r} is not whole; say by what scale it becomes so, such as scale=1000"
    if field.type == "number" and feature.integer:
        yield f"field {field.name!r} is not whole; leave integer out"
    if feature.integer and feature.kind not in _WHOLE:
        yield f"a {feature.kind} is not made an integer; leave integer out"
    if feature.scale is not None and feature.scale < 1:
        yield f"scale {feature.scale} is not a whole number from 1"
    if feature.integer and feature.scale not in {None, 1}:
        yield f"an integer is not scaled; leave scale={feature.scale} out"
