"""How the entity rows' keys meet a view's: within one family of types, and never by losing digits."""

import pyarrow as pa

from journal.errors import Refused


def as_key(column: pa.ChunkedArray, kind: pa.DataType, which: str) -> pa.ChunkedArray:
    """A key column in the view's type, in which both meet; numbers become integers only when they are whole.

    Raises:
        Refused: It holds something else.
    """
    if not any(alike(kind) and alike(_plain(column.type)) for alike in _FAMILIES) and column.null_count < len(column):
        raise Refused(which=f"{which} is {column.type} in the entity rows and {kind} in the view", fix="Convert it")
    try:
        return column.cast(kind)
    except pa.ArrowInvalid as error:
        raise Refused(which=f"{which}: {error}", fix=f"Convert it to {kind}") from error


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


_FAMILIES = (_is_text, _is_number, pa.types.is_boolean)
