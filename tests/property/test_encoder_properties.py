"""The laws of the encoder, for any table: one row is the matrix's row, and nothing but the content decides."""

import math
import random
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from journal.record import canonical_json
from registry.flavors.encoder import ColumnType, Encoder, Encoding, fit

ARROW = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_()}
CELLS: dict[str, st.SearchStrategy[Any]] = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float64": st.floats(-1e150, 1e150, allow_nan=False).map(lambda x: x if abs(x) > 1e-140 else 0.0),
    "string": st.sampled_from(["", "a", "b", "B", "ä", "a b", "\U0001f600", "0"]),
    "bool": st.booleans(),
}
ENCODINGS: st.SearchStrategy[Encoding] = st.sampled_from(["codes", "dense"])


@st.composite
def tables(draw: st.DrawFn) -> tuple[pa.Table, list[ColumnType]]:
    types: list[ColumnType] = draw(st.lists(st.sampled_from(["int64", "float64", "string", "bool"]), min_size=1))
    rows = draw(st.integers(1, 12))
    columns = {
        f"c{place}": pa.array(draw(st.lists(st.none() | CELLS[kind], min_size=rows, max_size=rows)), ARROW[kind])
        for place, kind in enumerate(types)
    }
    return pa.table(columns), types


@settings(max_examples=150, deadline=None)
@given(tables(), tables(), ENCODINGS)
def test_a_row_is_the_matrixs_row_bit_for_bit(
    made: tuple[pa.Table, list[ColumnType]], other: tuple[pa.Table, list[ColumnType]], encoding: Encoding
) -> None:
    table, types = made
    encoder = fit(table, table.column_names, types, encoding)
    matrix = encoder.matrix(table)
    assert matrix.shape == (len(table), encoder.width)
    for place, row in enumerate(table.to_pylist()):
        assert encoder.row(list(row), list(row.values())).tobytes() == matrix[place : place + 1].tobytes()
    foreign, foreign_types = other
    if foreign_types == types:
        expected = encoder.matrix(foreign)
        for place, row in enumerate(foreign.to_pylist()):
            assert encoder.row(list(row), list(row.values())).tobytes() == expected[place : place + 1].tobytes()


@settings(max_examples=100, deadline=None)
@given(tables(), st.randoms(use_true_random=False))
def test_codes_do_not_depend_on_the_order_of_the_rows(
    made: tuple[pa.Table, list[ColumnType]], shuffled: random.Random
) -> None:
    table, types = made
    order = list(range(len(table)))
    shuffled.shuffle(order)
    first = fit(table, table.column_names, types, "codes")
    second = fit(table.take(order), table.column_names, types, "codes")
    assert canonical_json(first.document()) == canonical_json(second.document())


@settings(max_examples=100, deadline=None)
@given(tables(), ENCODINGS)
def test_codes_are_whole_numbers_in_range_and_dense_has_no_holes(
    made: tuple[pa.Table, list[ColumnType]], encoding: Encoding
) -> None:
    table, types = made
    encoder = fit(table, table.column_names, types, encoding)
    matrix = encoder.matrix(table)
    assert encoder.categorical == tuple(
        place for place, kind in enumerate(types) if kind == "string" and encoding == "codes"
    )
    for column in encoder.categorical:
        assert set(matrix[:, column]) <= set(range(len(encoder.categories[column]) + 1))
    if encoding == "dense":
        assert np.isfinite(matrix).all()


@settings(max_examples=100, deadline=None)
@given(tables(), ENCODINGS)
def test_the_document_gives_the_same_encoder(made: tuple[pa.Table, list[ColumnType]], encoding: Encoding) -> None:
    table, types = made
    encoder = fit(table, table.column_names, types, encoding)
    again = Encoder.of(encoder.document())
    assert again == encoder
    assert again.matrix(table).tobytes() == encoder.matrix(table).tobytes()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_standardising_follows_the_plain_formula(cells: list[float | None]) -> None:
    encoder = fit(pa.table({"x": pa.array(cells, pa.float64())}), ["x"], ["float64"], "dense")
    numbers = [cell for cell in cells if cell is not None]
    mean = math.fsum(numbers) / len(numbers) if numbers else 0.0
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / len(numbers)) if numbers else 0.0
    largest = max(map(abs, numbers), default=0.0)
    assert math.isclose(encoder.means[0], mean, rel_tol=1e-12, abs_tol=1e-12 * largest)
    if deviation > 1e-6 * largest:
        assert math.isclose(encoder.scales[0], deviation, rel_tol=1e-6)
