"""What a pipeline's ``views.py`` is written with: plain Feast objects, plus windows over its streams.

::

    from datetime import timedelta
    from feast import Entity, FeatureService, ValueType
    from features.declare import mean, window_view

    origin = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING)
    delays = window_view("delays", entities=[origin], ttl=timedelta(days=3), features={
        "mean_1h": mean("departures", "delay", over="1h", tile="5m"),
    })
    flight_delay = FeatureService(name="flight_delay", features=[delays])

A view without windows is a plain ``FeatureView`` with ``source=stream(NAME)``: its values are those of the newest
record. Its tags may hold ``version`` (from 1), ``stale`` (``default``, ``fail`` or ``flag``) and ``ttl: none``. Nothing
is checked here: `features.views.compile_views` reports all the mistakes of a folder at once.

This is the one module that needs Feast to be imported, so only a ``views.py`` imports it.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Literal, TypedDict, Unpack

from feast import Entity, FeatureView, Field, FileSource
from feast.data_format import DeltaFormat
from feast.types import Float64, Int64, from_value_type

from features.aggregates import Declaration, write_declarations
from features.views import STREAM, WINDOWS


class Window(TypedDict, total=False):
    """Which records of a stream count: give ``over`` and ``tile``, or ``every``, or ``gap``.

    Attributes:
        over: Sliding: the window's width, a whole number of tiles.
        tile: A tile's width.
        every: Tumbling: the records since the last whole multiple of this span.
        closed: With ``every``: those of the span before that one.
        gap: Session: the records with less than this between one and the next, until it has passed since the last.
        keep: With ``gap``: the last session that closed, for this long after it did.
    """

    over: str
    tile: str
    every: str
    closed: bool
    gap: str
    keep: str


def count(stream: str, **window: Unpack[Window]) -> Declaration:
    """How many records of a stream are in the window; 0 when there is none."""
    return Declaration(kind="count", stream=stream, **window)


def total(
    stream: str, column: str, *, scale: int | None = None, integer: bool = False, **window: Unpack[Window]
) -> Declaration:
    """The sum of a column over the window, 0 when there is no value; see `mean` for the scale.

    Args:
        stream: Whose records.
        column: Of which field; nulls do not count.
        scale: By what a value is multiplied and then rounded to an integer.
        integer: Whether it is an integer; missing then when 64 bits cannot hold it.
        **window: See `Window`.
    """
    return Declaration(kind="sum", stream=stream, column=column, scale=scale, integer=integer, **window)


def mean(stream: str, column: str, *, scale: int | None = None, **window: Unpack[Window]) -> Declaration:
    """The mean of a column over the window; missing when there is no value.

    Args:
        stream: Whose records.
        column: Of which field; nulls do not count.
        scale: By what a value is multiplied and then rounded to an integer, so that sums are exact. Needed where the
            contract says ``number``.
        **window: See `Window`.
    """
    return Declaration(kind="mean", stream=stream, column=column, scale=scale, **window)


def std(stream: str, column: str, *, scale: int | None = None, **window: Unpack[Window]) -> Declaration:
    """The sample standard deviation over the window; missing below two values. See `mean` for the scale."""
    return Declaration(kind="std", stream=stream, column=column, scale=scale, **window)


def rate(stream: str, column: str, *, at_least: float, **window: Unpack[Window]) -> Declaration:
    """The part of the window's values that reach ``at_least``; a boolean is 0 or 1. Missing when there is no value."""
    return Declaration(kind="rate", stream=stream, column=column, at_least=at_least, **window)


def minimum(stream: str, column: str, *, integer: bool = False, **window: Unpack[Window]) -> Declaration:
    """The smallest value in the window, as a float unless ``integer`` is asked for; missing when there is none."""
    return Declaration(kind="min", stream=stream, column=column, integer=integer, **window)


def maximum(stream: str, column: str, *, integer: bool = False, **window: Unpack[Window]) -> Declaration:
    """The largest value in the window, as a float unless ``integer`` is asked for; missing when there is none."""
    return Declaration(kind="max", stream=stream, column=column, integer=integer, **window)


def distinct(stream: str, column: str, **window: Unpack[Window]) -> Declaration:
    """How many different values are in the window: exact below 1,024, then with a standard error of 3.1 %."""
    return Declaration(kind="distinct", stream=stream, column=column, **window)


def decayed_mean(stream: str, column: str, *, half_life: str, tile: str, scale: int | None = None) -> Declaration:
    """The mean of all values, weights halving with every ``half_life`` (a whole number of tiles)."""
    return Declaration(kind="decayed_mean", stream=stream, column=column, half_life=half_life, tile=tile, scale=scale)


def last(stream: str, column: str, *, integer: bool = False, **window: Unpack[Window]) -> Declaration:
    """The value with the largest (time, id) that is not null, as a float unless ``integer`` is asked for.

    Without a window it is the last one ever.
    """
    return Declaration(kind="last", stream=stream, column=column, integer=integer, **window)


def stream(name: str, view: str | None = None) -> FileSource:
    """The source of a plain view that a stream feeds.

    Args:
        name: The stream.
        view: The view, where it is not called like its stream: its history has the view's name.
    """
    return _history(view or name, {STREAM: name})


def window_view(
    name: str,
    *,
    entities: Sequence[Entity],
    ttl: timedelta | Literal["none"],
    features: Mapping[str, Declaration],
    owner: str = "",
    description: str = "",
    version: int = 1,
    stale: str = "default",
    trust: str = "",
) -> FeatureView:
    """A Feast feature view whose features are windows over streams.

    Args:
        name: Names the view and its history.
        entities: Whose features; every stream has their join keys.
        ttl: After what a value is stale; ``"none"`` for never.
        features: Name to declaration, in the order of the row's values.
        owner: Whom to ask.
        description: What it says about an entity.
        version: Rises when the meaning changes.
        stale: What a reader does with a stale value: ``default``, ``fail`` or ``flag``.
        trust: What the catalog says: ``experimental`` (also when empty), ``trusted`` or ``deprecated``.
    """
    keys = [Field(name=entity.join_key, dtype=from_value_type(entity.value_type)) for entity in entities]
    tags = {WINDOWS: write_declarations(features), "version": str(version), "stale": stale}
    tags |= {"ttl": "none"} if ttl == "none" else {}
    tags |= {"trust": trust} if trust else {}
    return FeatureView(
        name=name,
        entities=list(entities),
        ttl=timedelta(0) if ttl == "none" else ttl,
        schema=[*keys, *(Field(name=feature, dtype=_dtype(declared)) for feature, declared in features.items())],
        source=_history(name, {}),
        tags=tags,
        owner=owner,
        description=description,
    )


def _dtype(declared: Declaration) -> object:
    return Int64 if declared.kind in {"count", "distinct"} or declared.integer else Float64


def _history(view: str, tags: Mapping[str, str]) -> FileSource:
    """Where a view's accepted rows are: a Delta table, its path relative to the history's root."""
    return FileSource(
        name=view,
        path=view,
        timestamp_field="event_timestamp",
        created_timestamp_column="known_timestamp",
        file_format=DeltaFormat(),
        tags=dict(tags),
    )
