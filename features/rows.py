"""A feature row, and the one format of its key and values: folds write it, the fast reader and Feast's plugins read it.

A key is the msgpack array of the entity's join-key values in the sorted order of the join keys' names. A value is the
msgpack array of the view's fields in declared order; None is missing. Integers stay integers, floats stay floats.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from journal.errors import Misconfigured

TYPES = ("int64", "float64", "string", "bool")
"""What a key or a field may be."""

KeyValue = str | int | float | bool
FieldValue = float | int | str | bool | None
"""What a pipeline computes; a view without a pipeline also holds bytes, and lists."""


class Row(NamedTuple):
    """One accepted value of one entity in one view.

    Attributes:
        key: The encoded entity key.
        event: When it happened: the fold's clock for windows, the record's own time for plain views (microseconds).
        known: The ``at`` of the record that caused it (microseconds).
        values: One per field of the view, in declared order; None as a whole marks a delete.
    """

    key: bytes
    event: int
    known: int
    values: Sequence[FieldValue] | None


encode_key: Callable[[Sequence[KeyValue]], bytes] = msgspec.msgpack.Encoder().encode
"""Write the join-key values, given in sorted order of their names."""

decode_key: Callable[[bytes], list[KeyValue]] = msgspec.msgpack.Decoder(list[str | int | float | bool]).decode
"""Read back what `encode_key` wrote."""

encode_values: Callable[[Sequence[FieldValue]], bytes] = msgspec.msgpack.Encoder().encode
"""Write a view's field values."""

decode_values: Callable[[bytes], list[Any]] = msgspec.msgpack.Decoder(list).decode
"""Read back what `encode_values` wrote."""


class ViewSchema(msgspec.Struct, frozen=True):
    """What a view's rows hold, in words that need neither Arrow nor Feast.

    Attributes:
        name: The view.
        join_keys: (name, type) of each join key, sorted by name: the order of `Row.key`.
        fields: (name, type) of each field, as declared: the order of `Row.values`.
    """

    name: str
    join_keys: tuple[tuple[str, str], ...]
    fields: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        wrong = [f"{name} is {kind!r}" for name, kind in self.join_keys + self.fields if kind not in TYPES]
        if wrong:
            raise Misconfigured(which=f"view {self.name!r}: {', '.join(wrong)}", fix=f"Use one of {', '.join(TYPES)}")
        if list(self.join_keys) != sorted(self.join_keys):
            raise Misconfigured(which=f"view {self.name!r}: its join keys are not sorted", fix="Sort them by name")
