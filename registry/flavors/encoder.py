"""The one encoding of features into a batch model's matrix, in training and in serving.

A model that is trained on one encoding and asked through another is wrong without an error. So the encoder is fitted
once, on the training rows, travels inside the model, and has two entrances that agree bit for bit: `Encoder.matrix` for
a table, `Encoder.row` for one prediction's values.

``codes`` (for trees) keeps a column per feature: strings are numbered, other types are numbers with NaN for missing.
Strings are numbered by descending frequency, from 1 to at most 254; what is unknown, rare or missing is 0, never NaN.

``dense`` (for linear models) has the standardised numbers first, in the order of the features, missing at the mean, and
then a block of one-hot columns per string feature, where what is unknown, rare or missing is all zero.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Literal, Self

import msgspec
import numpy as np
import pyarrow as pa

from journal.errors import Corrupt, Refused, UnknownName
from registry.flavors.batch_columns import (
    MOST_CATEGORIES,
    ColumnType,
    Matrix,
    column_of,
    floats,
    moments,
    most_frequent,
    ranks,
)

__all__ = ["ColumnType", "Encoder", "Encoding", "Matrix", "fit"]

Encoding = Literal["codes", "dense"]
Pick = Callable[[Sequence[Any]], tuple[Any, ...]]


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is stored of an encoder; lists are by column, empty or neutral where a column has none."""

    encoding: Encoding
    columns: tuple[str, ...]
    types: tuple[ColumnType, ...]
    categories: tuple[tuple[str, ...], ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """How features become numbers; made by `fit`.

    Attributes:
        encoding: ``codes`` or ``dense``.
        columns: The features, in order.
        types: Their types, in the same order.
        categories: The known strings of each column by descending frequency; empty unless it is a string column.
        means: What is subtracted from each column; 0 where nothing is.
        scales: What each column is divided by; 1 where by nothing.
    """

    encoding: Encoding
    columns: tuple[str, ...]
    types: tuple[ColumnType, ...]
    categories: tuple[tuple[str, ...], ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    _strings: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _numbers: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _tables: tuple[dict[str, int], ...] = field(init=False, repr=False, compare=False)
    _shift: Matrix = field(init=False, repr=False, compare=False)
    _scale: Matrix = field(init=False, repr=False, compare=False)
    _width: int = field(init=False, repr=False, compare=False)
    _one: Callable[[Pick, Sequence[Any]], Matrix] = field(init=False, repr=False, compare=False)
    _asked: list[tuple[Sequence[str], Pick]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        strings = tuple(i for i, kind in enumerate(self.types) if kind == "string")
        numbers = tuple(i for i, kind in enumerate(self.types) if kind != "string")
        dense = self.encoding == "dense"
        tables, end = [], len(numbers) if dense else 1
        for position in strings:
            known = self.categories[position]
            tables.append({text: end + rank for rank, text in enumerate(known)})
            end += len(known) if dense else 0
        derived = {
            "_strings": strings,
            "_numbers": numbers,
            "_tables": tuple(tables),
            "_shift": np.array([self.means[i] for i in numbers], dtype=np.float64),
            "_scale": np.array([self.scales[i] for i in numbers], dtype=np.float64),
            "_width": end if dense else len(self.columns),
            "_one": self._dense_row if dense else self._codes_row,
            "_asked": [((), _nothing)],
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles as its document: what is derived from it is derived again."""
        return Encoder.of, (self.document(),)

    @property
    def width(self) -> int:
        """Columns of the matrix."""
        return self._width

    @property
    def categorical(self) -> tuple[int, ...]:
        """The matrix's columns that hold codes; none in the dense encoding."""
        return self._strings if self.encoding == "codes" else ()

    def matrix(self, table: pa.Table) -> Matrix:
        """Encode a table's rows.

        Returns:
            Shape (rows, width).

        Raises:
            UnknownName: The table lacks a column.
        """
        columns = [column_of(table, name, kind) for name, kind in zip(self.columns, self.types, strict=True)]
        return self._dense(columns, len(table)) if self.encoding == "dense" else self._codes(columns, len(table))

    def row(self, columns: Sequence[str], values: Sequence[Any]) -> Matrix:
        """Encode one prediction's values; None is missing. Fastest when ``columns`` is the same list each time.

        Returns:
            Shape (1, width), newly made.

        Raises:
            UnknownName: The columns lack a feature.
        """
        known, pick = self._asked[0]
        if columns is not known and columns != known:
            pick = self._picker(columns)
            self._asked[0] = (columns, pick)
        return self._one(pick, values)

    def document(self) -> dict[str, Any]:
        """What to store: plain JSON, equal for equal encoders."""
        stored = _Document(**{name: getattr(self, name) for name in _Document.__struct_fields__})
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(stored))
        return plain

    @classmethod
    def of(cls, document: Any) -> Self:
        """The encoder of a stored document; raises `Corrupt` when it is not one."""
        try:
            stored = msgspec.convert(document, _Document)
        except msgspec.ValidationError as error:
            raise Corrupt(which=f"the encoder's document: {error}", fix="Restore the model from its version") from error
        wrong = _wrong(stored)
        if wrong:
            raise Corrupt(which=f"the encoder's document: {wrong}", fix="Restore the model from its version")
        return cls(**{name: getattr(stored, name) for name in _Document.__struct_fields__})

    def _picker(self, columns: Sequence[str]) -> Pick:
        places = {name: place for place, name in enumerate(columns)}
        missing = [name for name in self.columns if name not in places]
        if missing:
            raise UnknownName(
                which=f"{', '.join(missing)}: the model was trained on this, and the prediction's columns lack it",
                fix="Ask with the feature service that the model was trained on",
            )
        order = range(len(self.columns)) if self.encoding == "codes" else (*self._numbers, *self._strings)
        return _getter([places[self.columns[position]] for position in order])

    def _codes_row(self, pick: Pick, values: Sequence[Any]) -> Matrix:
        picked = list(pick(values))
        for position, table in zip(self._strings, self._tables, strict=True):
            picked[position] = table.get(picked[position], 0)
        return np.array([picked], dtype=np.float64)

    def _dense_row(self, pick: Pick, values: Sequence[Any]) -> Matrix:
        picked = pick(values)
        count = len(self._numbers)
        row = np.zeros((1, self._width))
        row[0, :count] = self._standardised(np.array(picked[:count], dtype=np.float64))
        for table, text in zip(self._tables, picked[count:], strict=True):
            place = table.get(text)
            if place is not None:
                row[0, place] = 1.0
        return row

    def _codes(self, columns: list[Any], rows: int) -> Matrix:
        matrix = np.empty((rows, self._width))
        for position in self._numbers:
            matrix[:, position] = floats(columns[position])
        for position in self._strings:
            matrix[:, position] = ranks(columns[position], self.categories[position])
        return matrix

    def _dense(self, columns: list[Any], rows: int) -> Matrix:
        matrix = np.zeros((rows, self._width))
        for place, position in enumerate(self._numbers):
            matrix[:, place] = floats(columns[position])
        count = start = len(self._numbers)
        matrix[:, :count] = self._standardised(matrix[:, :count])
        for position in self._strings:
            places = ranks(columns[position], self.categories[position])
            known = np.flatnonzero(places)
            matrix[known, start - 1 + places[known]] = 1.0
            start += len(self.categories[position])
        return matrix

    def _standardised(self, numbers: Matrix) -> Matrix:
        scaled = (numbers - self._shift) / self._scale
        scaled[scaled != scaled] = 0.0  # noqa: PLR0124 - NaN alone differs from itself, and this costs half of isnan
        return scaled


def fit(table: pa.Table, columns: Sequence[str], types: Sequence[ColumnType], encoding: Encoding) -> Encoder:
    """Make the encoder of some training rows.

    Args:
        table: The training rows; no others may be in it.
        columns: The features, in order.
        types: Their types, in the same order.
        encoding: ``codes`` for trees, ``dense`` for linear models.

    Raises:
        UnknownName: The table lacks a column.
        Refused: The columns or types make no encoder.
    """
    cells = [column_of(table, name, kind) for name, kind in zip(columns, types, strict=True)]
    plain = encoding == "codes"
    scaling = [
        (0.0, 1.0) if plain or kind == "string" else moments(cell) for cell, kind in zip(cells, types, strict=True)
    ]
    document = _Document(
        encoding=encoding,
        columns=tuple(columns),
        types=tuple(types),
        categories=tuple(
            most_frequent(cell) if kind == "string" else () for cell, kind in zip(cells, types, strict=True)
        ),
        means=tuple(mean for mean, _ in scaling),
        scales=tuple(scale for _, scale in scaling),
    )
    wrong = _wrong(document)
    if wrong:
        raise Refused(which=f"no encoder can be made: {wrong}", fix="Look at the dataset's schema")
    return Encoder(**{name: getattr(document, name) for name in _Document.__struct_fields__})


def _wrong(document: _Document) -> str:
    """What keeps a document from being an encoder, or nothing."""
    count = len(document.columns)
    lists = (document.types, document.categories, document.means, document.scales)
    if not count or any(len(each) != count for each in lists):
        return f"{count} columns with lists of {', '.join(str(len(each)) for each in lists)}"
    if len(set(document.columns)) != count:
        return "a column stands twice"
    if any(len(set(known)) != len(known) or len(known) > MOST_CATEGORIES for known in document.categories):
        return f"a column's categories are not at most {MOST_CATEGORIES} different ones"
    numbers = (*document.means, *document.scales)
    if not all(map(math.isfinite, numbers)) or min(document.scales) <= 0.0:
        return "a mean or deviation is not finite, or a deviation is not positive"
    return ""


def _getter(places: list[int]) -> Pick:
    if len(places) > 1:
        return itemgetter(*places)
    (place,) = places
    return lambda values: (values[place],)


def _nothing(values: Sequence[Any]) -> tuple[Any, ...]:  # noqa: ARG001
    return ()
