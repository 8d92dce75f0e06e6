"""The hash that names a dataset version: over its canonical rows, whatever file they lie in."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa


def hash_rows(table: pa.Table) -> str:
    """SHA-256 over the canonical rows: column by column its name, type, validity and little-endian values.

    Chunking, file layout and what lies under a null do not matter; a changed bit, row or order does.
    """
    total = hashlib.sha256()
    for field in table.schema:
        column = table.column(field.name).combine_chunks()
        total.update(f"{field.name}\0{field.type}\0{len(column)}\0".encode())
        total.update(np.asarray(column.is_valid()).tobytes())
        _feed_values(total.update, column)
    return total.hexdigest()


def _feed_values(update: Callable[[Any], None], column: Any) -> None:
    if pa.types.is_string(column.type):
        filled = column.fill_null("")
        lengths = np.asarray(pa.compute.binary_length(filled)).astype("<i8")
        update(lengths.tobytes())
        offsets = np.frombuffer(filled.buffers()[1], np.int32)[filled.offset : filled.offset + len(filled) + 1]
        if len(filled):
            update(memoryview(filled.buffers()[2] or b"")[int(offsets[0]) : int(offsets[-1])])
        return
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    filled = np.asarray(column.fill_null(False if pa.types.is_boolean(column.type) else 0))
    update(np.ascontiguousarray(filled.astype(filled.dtype.newbyteorder("<"), copy=False)))
