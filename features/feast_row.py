"""Between Feast's protobuf and our rows."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import FeastType

from features.rows import FieldValue, Row, encode_key
from journal.clock import datetime_of, micros_of
from journal.errors import Misconfigured

Place = tuple[int, str, Callable[[Any], Value]]
"""Where a feature stands among a row's values, its name, and what makes its protobuf value."""
Answer = tuple[datetime | None, dict[str, Value] | None]
Written = tuple[EntityKey, dict[str, Value], datetime, datetime | None]

_LIST = "_list_val"
_SCALARS = ("int32", "int64", "float", "double", "string", "bool", "bytes", "unix_timestamp")
_VALUES = frozenset(f"{name}_val" for kind in _SCALARS for name in (kind, f"{kind}_list"))
KEY_TYPES: Mapping[str, str] = {
    "Int32": "int64", "Int64": "int64", "Float64": "float64", "String": "string", "Bool": "bool"
}  # fmt: skip
"""What a key of each Feast type is in `features.rows`."""


def check_views(views: Sequence[FeatureView]) -> None:
    """Raise `Misconfigured` with every field and key whose type our online stores cannot hold."""
    fields = [(view, column) for view in views for column in view.features if _place_in(column.dtype) not in _VALUES]
    keys = [(view, column) for view in views for column in view.entity_columns if str(column.dtype) not in KEY_TYPES]
    wrong = [f"{view.name}.{column.name} is {column.dtype}" for view, column in (*fields, *keys)]
    if wrong:
        raise Misconfigured(
            which=", ".join(wrong),
            fix="A feature is Int32, Int64, Float32, Float64, String, Bool, Bytes, UnixTimestamp or an Array of one; "
            f"a key is {', '.join(KEY_TYPES)}",
        )


def _place_in(dtype: FeastType) -> str:
    """Which of a protobuf value's places a type has."""
    return f"{dtype.to_value_type().name.lower()}_val"


@cache
def _maker(dtype: FeastType) -> Callable[[Any], Value]:
    """What makes a protobuf value of a stored one."""
    place = _place_in(dtype)
    if not place.endswith(_LIST):
        return lambda value: Value(**{place: value})
    several = type(getattr(Value(), place))
    return lambda values: Value(**{place: several(val=values)})


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
    place = value.WhichOneof("val")
    if not place:
        return None
    held = getattr(value, place)
    return list(held.val) if place.endswith(_LIST) else held


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
        (place, feature.name, _maker(feature.dtype))
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
