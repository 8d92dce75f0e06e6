"""Between Feast's protobuf and our rows."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Bool, FeastType, Float64, Int64, String

from features.rows import FieldValue, Row, encode_key
from journal.clock import datetime_of, micros_of
from journal.errors import Misconfigured

Place = tuple[int, str, Callable[[Any], Value]]
"""Where a feature stands among a row's values, its name, and what makes its protobuf value."""
Answer = tuple[datetime | None, dict[str, Value] | None]
Written = tuple[EntityKey, dict[str, Value], datetime, datetime | None]

_PROTO: Mapping[FeastType, Callable[[Any], Value]] = {
    Int64: lambda value: Value(int64_val=value),
    Float64: lambda value: Value(double_val=value),
    String: lambda value: Value(string_val=value),
    Bool: lambda value: Value(bool_val=value),
}


def check_views(views: Sequence[FeatureView]) -> None:
    """Raise `Misconfigured` with every field and key whose type our online stores cannot hold."""
    wrong = [
        f"{view.name}.{column.name} is {column.dtype}"
        for view in views
        for column in [*view.features, *view.entity_columns]
        if column.dtype not in _PROTO
    ]
    if wrong:
        raise Misconfigured(which=", ".join(wrong), fix="Use Int64, Float64, String or Bool")


def fields_of(view: FeatureView) -> list[str]:
    """``name:type`` of each feature, as declared: what stored values follow."""
    return [f"{field.name}:{field.dtype}" for field in view.features]


def key_of(key: EntityKey) -> bytes:
    """The encoded key; the order in which the join keys come does not matter."""
    return encode_key([value for _, value in key_values(key)])


def key_values(key: EntityKey) -> list[tuple[str, Any]]:
    """(name, value) of each join key, sorted by name; none for a view without entities."""
    pairs = sorted(zip(key.join_keys, key.entity_values, strict=True), key=lambda pair: pair[0])
    return [(name, scalar(value)) for name, value in pairs if name != DUMMY_ENTITY_ID]


def scalar(value: Value) -> Any:
    """What a protobuf value holds; None when it holds nothing."""
    kind = value.WhichOneof("val")
    return getattr(value, kind) if kind else None


def row_of(names: Sequence[str], written: Written) -> Row:
    """A row as Feast hands it over; one without a created time is known when it happened."""
    key, values, event, created = written
    happened = micros(event)
    known = happened if created is None else micros(created)
    return Row(key_of(key), happened, known, [scalar(values[name]) for name in names])


def micros(moment: datetime) -> int:
    """Microseconds; a naive time is UTC, as Feast reads it."""
    return micros_of(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def places_of(view: FeatureView, requested: Sequence[str] | None) -> list[Place]:
    """The requested features among a row's values; None for all."""
    return [
        (place, feature.name, _PROTO[feature.dtype])
        for place, feature in enumerate(view.features)
        if requested is None or feature.name in requested
    ]


def answer_of(view: FeatureView, places: Sequence[Place], row: Row | None, oldest: int | None) -> Answer:
    """A row as Feast wants it; (None, None) where it is missing, deleted, or older than ``oldest``.

    Raises:
        Misconfigured: The row was written by another definition of the view.
    """
    if row is None or row.values is None or (oldest is not None and row.event < oldest):
        return None, None
    if len(row.values) != len(view.features):
        raise Misconfigured(
            which=f"view {view.name!r} declares {len(view.features)} features, its rows hold {len(row.values)}",
            fix="Apply the views that wrote these rows",
        )
    values = row.values
    return datetime_of(row.event), {name: _proto(make, values[place]) for place, name, make in places}


def _proto(make: Callable[[Any], Value], value: FieldValue) -> Value:
    return Value() if value is None else make(value)
