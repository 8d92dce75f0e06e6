"""A feature row, and how its key and values are written: the one format that the fold writes, the fast reader decodes
and the Feast plugins translate.

A key is the msgpack array of the entity's join-key values in the sorted order of the join keys' names. A value is the
msgpack array of the view's fields in declared order; None is missing. Integers stay integers, floats stay floats.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

KeyValue = str | int | float | bool
FieldValue = float | int | str | bool | None

_encode = msgspec.msgpack.Encoder().encode
_decode_values = msgspec.msgpack.Decoder(list[float | int | str | bool | None]).decode


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


def encode_key(values: Sequence[KeyValue]) -> bytes:
    """Write the join-key values, given in sorted order of their names."""
    return _encode(values)


def encode_values(values: Sequence[FieldValue]) -> bytes:
    """Write a view's field values."""
    return _encode(values)


def decode_values(blob: bytes) -> list[FieldValue]:
    """Read back what `encode_values` wrote."""
    return _decode_values(blob)
