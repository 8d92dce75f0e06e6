"""What every online table keeps of a row and how it is checked, whatever the database.

The guard, wherever it is carried out: a row is taken when its stamp (event, known) is larger than the held one, and in
no other case.
"""

import json
import zlib
from collections.abc import Mapping, Sequence

import msgspec

from features.rows import Row

Pair = tuple[str, bytes]
"""(view, encoded key)."""
Wanted = Sequence[Pair]
"""The rows asked for."""

_encode = msgspec.msgpack.Encoder().encode


def checksum(view: str, key: bytes, event: int, known: int, value: bytes | None) -> int:
    """CRC-32 over all that a row says, its view and key included: a row in the wrong place is damaged too."""
    return zlib.crc32(_encode((view, key, event, known, value)))


def living(row: Row | None) -> Row | None:
    """The row itself; None for a delete."""
    return None if row is None or row.values is None else row


def newest(rows: Sequence[Row]) -> Mapping[bytes, Row]:
    """The row with the largest stamp of each key."""
    best: dict[bytes, Row] = {}
    for row in rows:
        held = best.get(row.key)
        if held is None or (row.event, row.known) > (held.event, held.known):
            best[row.key] = row
    return best


def layout_of(fields: Sequence[str]) -> bytes:
    """How a field list, each ``name:type``, is stored beside the rows that follow it."""
    return json.dumps(list(fields)).encode()


def move(row: Row, stored: bytes, fields: Sequence[str]) -> Row:
    """A row of a stored field list as one of another: values keep their place by name and type, new ones are missing.

    Args:
        row: With one value per field of ``stored``.
        stored: What `layout_of` gave.
        fields: The list to follow from now on.
    """
    values = row.values
    if values is None:
        return row
    places = {field: place for place, field in enumerate(json.loads(stored))}
    return row._replace(values=[values[places[field]] if field in places else None for field in fields])
