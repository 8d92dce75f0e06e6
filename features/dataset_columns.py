"""The values of predictions as columns: read off their JSON text by Arrow, a batch at a time.

A body's ``values`` is a JSON array of numbers, strings, booleans and nulls. Lines of such arrays without their brackets
are what Arrow's CSV reader takes, in C++ and on every core, with the same exact numbers. Quotes mean nothing to it:
they stay on strings, which tells these from numbers, and are cut off afterwards. A batch in which a string holds an
escape or a comma is decoded in Python.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from journal.body import Definition
from journal.errors import Corrupt

ARROW_TYPES = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_()}

_PYTHON_TYPES: dict[str, Any] = {
    "int64": int | None,
    "float64": float | None,
    "string": str | None,
    "bool": bool | None,
}

_QUOTED = r'(?s)^".*"$'


class Columns:
    """Reads the values of one service's predictions."""

    def __init__(self, definition: Definition) -> None:
        """Know the columns by their definition."""
        self.schema = pa.schema(
            [(name, ARROW_TYPES[kind]) for name, kind in zip(definition.columns, definition.types, strict=True)]
        )
        self._strings = [place for place, kind in enumerate(definition.types) if kind == "string"]
        self._service = definition.service
        row: Any = tuple.__class_getitem__(tuple(_PYTHON_TYPES[kind] for kind in definition.types))
        self._decode = msgspec.json.Decoder(row).decode
        self._options = {
            "read_options": csv.ReadOptions(column_names=self.schema.names),
            "parse_options": csv.ParseOptions(quote_char=False, double_quote=False, ignore_empty_lines=False),
            "convert_options": csv.ConvertOptions(
                column_types=self.schema,
                null_values=["null"],
                true_values=["true"],
                false_values=["false"],
                strings_can_be_null=True,
            ),
        }

    def read(self, values: Sequence[msgspec.Raw]) -> pa.Table:
        """One row per array, in order.

        Raises:
            Corrupt: An array has other values than its service has columns, or of other types.
        """
        if not values or not self.schema.names:
            return self.schema.empty_table()
        lines = b"\n".join([bytes(each)[1:-1] for each in values])
        if b"\\" in lines:
            return self._decoded(values)
        try:
            table = csv.read_csv(pa.BufferReader(lines), **self._options)
        except pa.ArrowInvalid:
            return self._decoded(values)
        if len(table) != len(values) or not all(_is_quoted(table.column(place)) for place in self._strings):
            return self._decoded(values)
        for place in self._strings:
            bare = pc.utf8_slice_codeunits(table.column(place), 1, -1)
            table = table.set_column(place, self.schema.field(place), bare)
        return table

    def _decoded(self, values: Sequence[msgspec.Raw]) -> pa.Table:
        try:
            rows = [self._decode(each) for each in values]
        except msgspec.ValidationError as error:
            raise self._foreign(str(error)) from error
        # One pass over the rows and a strided copy per column: zip(*rows) would walk all rows once for each column.
        flat, width = list(chain.from_iterable(rows)), len(self.schema.names)
        arrays = [pa.array(flat[column::width], kind) for column, kind in enumerate(self.schema.types)]
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def _foreign(self, what: str) -> Corrupt:
        return Corrupt(
            which=f"predictions of service {self._service}: {what}", fix="`rivermill journal verify` finds the damage"
        )


def _is_quoted(texts: Any) -> bool:
    """Whether all of these, where not null, are strings with their quotes: no other value, and no part of a string."""
    return pc.all(pc.match_substring_regex(texts, _QUOTED)).as_py() is not False
