"""What every online table keeps of a row and how it is checked, whatever the database.

The guard, wherever it is carried out: a row is taken when its stamp (event, known) is larger than the held one, and in
no other case.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from struct import Struct
from zlib import crc32

from features.rows import Row, decode_values, encode_values

Pair = tuple[str, bytes]
"""(view, encoded key)."""
Wanted = Sequence[Pair]
"""The rows asked for."""

_HEAD, _STAMPS = Struct(">IQQ"), Struct(">QQ")
_CHECKED = _HEAD.size - _STAMPS.size
_BIAS = 1 << 63


def pack(view: str, row: Row) -> bytes:
    """A row as it is stored: a checksum (4 bytes), event and known time (8 each), and its values; a delete has none.

    The numbers are big-endian, the times with 2**63 added, so that they order as bytes. The checksum (CRC-32) is over
    all that the row says, its view and key included: a row in the wrong place is damaged, too.
    """
    key, event, known, values = row
    stamped = _STAMPS.pack(event + _BIAS, known + _BIAS) + (b"" if values is None else encode_values(values))
    return crc32(stamped, crc32(key, _seed(view))).to_bytes(_CHECKED, "big") + stamped


def unpack(view: str, key: bytes, blob: bytes) -> Row | None:
    """Read back what `pack` wrote; None where the checksum does not hold."""
    # Spelled out: this runs for every row that is read.
    if len(blob) < _HEAD.size:
        return None
    check, event, known = _HEAD.unpack_from(blob)
    if crc32(blob[_CHECKED:], crc32(key, _seed(view))) != check:
        return None
    value = blob[_HEAD.size :]
    return tuple.__new__(Row, (key, event - _BIAS, known - _BIAS, decode_values(value) if value else None))


def pack_time(time: int) -> bytes:
    """A time as a stored row holds it."""
    return (time + _BIAS).to_bytes(8, "big")


def unpack_time(stored: bytes) -> int:
    """Read back what `pack_time` wrote."""
    return int.from_bytes(stored, "big") - _BIAS


@cache
def _seed(view: str) -> int:
    """What the checksums of a view's rows begin with."""
    return crc32(view.encode())


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
