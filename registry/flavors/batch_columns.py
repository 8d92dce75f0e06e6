"""What an encoder takes from a table's columns: floats, ranks of strings, and what it is fitted on."""

import math
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from journal.errors import Refused, UnknownName

Matrix = NDArray[np.float64]
ColumnType = Literal["int64", "float64", "string", "bool"]

MOST_CATEGORIES = 254
"""With code 0 this fills the 255 bins that scikit-learn's histogram trees have."""

_ARROW = {"int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_(), "string": pa.string()}


def column_of(table: pa.Table, name: str, kind: ColumnType) -> Any:
    """A table's column as one array of its type."""
    if name not in table.column_names:
        raise UnknownName(which=f"column {name!r} in the table", fix="Build the dataset from the service it is for")
    column = table.column(name).combine_chunks()
    try:
        return column.cast(_ARROW[kind])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Refused(which=f"column {name!r} is not of type {kind}: {error}", fix="Look at its schema") from error


def floats(column: Any) -> Matrix:
    """A column of numbers or truth values as floats; NaN is missing."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    numbers: Matrix = np.asarray(column.cast(pa.float64(), safe=False).fill_null(math.nan))
    return numbers


def most_frequent(column: Any) -> tuple[str, ...]:
    """The strings that an encoder knows: by descending frequency, ties by name."""
    counts = [(-entry["counts"], entry["values"]) for entry in pc.value_counts(column.drop_null()).to_pylist()]
    return tuple(text for _, text in sorted(counts)[:MOST_CATEGORIES])


def ranks(column: Any, known: tuple[str, ...]) -> NDArray[np.int64]:
    """The place of each string among the known ones, from 1; 0 when it is none of them or missing."""
    found = pc.index_in(column, value_set=pa.array(known, pa.string()))
    places: NDArray[np.int64] = np.asarray(found.fill_null(-1)).astype(np.int64) + 1
    return places


def moments(column: Any) -> tuple[float, float]:
    """Mean and standard deviation of what is there; both infinite when one of the numbers is.

    In units of the largest absolute value: so nothing overflows, and the deviation of a constant is exactly zero, where
    the rounding of its mean would else pass for a deviation of 1e-17 to divide by.
    """
    numbers = floats(column)
    numbers = np.ascontiguousarray(numbers[~np.isnan(numbers)])
    largest = float(np.abs(numbers).max(initial=0.0))
    if largest == 0.0 or not math.isfinite(largest):
        return largest, largest or 1.0
    units = numbers / largest
    mean = float(units.mean())
    deviation = float(np.sqrt(np.square(units - mean).mean())) * largest
    return mean * largest, deviation or 1.0
