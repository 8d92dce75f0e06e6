"""Values read off their text are the values: to the bit, and as a plain JSON reader gives them."""

import struct
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.dataset_columns import Columns
from journal.body import Definition, encode
from journal.errors import Corrupt

VALUES = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float64": st.floats(allow_nan=False, allow_infinity=False),
    "string": st.text(),
    "bool": st.booleans(),
}


class Body(msgspec.Struct):
    values: list[Any]


class Held(msgspec.Struct):
    values: msgspec.Raw


def definition(types: list[str]) -> Definition:
    return Definition(service="s@1", request=[], views=[], columns=[f"c{n}" for n in range(len(types))], types=types)


def held(values: list[Any]) -> msgspec.Raw:
    return msgspec.json.decode(encode(Body(values)), type=Held).values


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[str], list[list[Any]]]:
    types = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=5))
    row = st.tuples(*(st.none() | VALUES[kind] for kind in types)).map(list)
    return types, draw(st.lists(row, max_size=6))


def bits(value: Any) -> Any:
    return struct.pack("<d", value) if isinstance(value, float) else value


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(batches())
def test_what_was_written_is_read(batch: tuple[list[str], list[list[Any]]]) -> None:
    types, rows = batch
    table = Columns(definition(types)).read([held(row) for row in rows])
    assert len(table) == len(rows)
    for index, column in enumerate(table.columns):
        assert [bits(value) for value in column.to_pylist()] == [bits(row[index]) for row in rows]


@pytest.mark.parametrize(
    "text", ["null", "", "true", "1", "a,b", 'say "hi"', "back\\slash", "two\nlines", "\u2028 é", " "]
)
def test_strings_that_look_like_something_else(text: str) -> None:
    table = Columns(definition(["string", "int64"])).read([held([text, 1]), held([None, None]), held([text, 3])])
    assert table["c0"].to_pylist() == [text, None, text]
    assert table["c1"].to_pylist() == [1, None, 3]


def test_many_rows_stay_in_order() -> None:
    rows: list[list[Any]] = [[n, n / 7, f"name {n}"] for n in range(30_000)]
    table = Columns(definition(["int64", "float64", "string"])).read([held(row) for row in rows])
    assert table.to_pylist() == [dict(zip(("c0", "c1", "c2"), row, strict=True)) for row in rows]


@pytest.mark.parametrize(
    ("types", "values"),
    [
        (["int64"], [1, 2]),
        (["int64", "int64"], [1]),
        (["float64"], ["x"]),
        (["int64"], [0.5]),
        (["int64"], ["5"]),
        (["float64"], ["1.5"]),
        (["bool"], ["true"]),
        (["bool"], [1]),
        (["float64"], [True]),
        (["string"], [5]),
        (["string"], [True]),
        (["int64", "string"], ["5", 7]),
        (["string", "string"], ["a,b"]),
        (["string", "string"], [","]),
    ],
)
def test_other_values_than_defined_are_refused(types: list[str], values: list[Any]) -> None:
    """Also when a good row stands before them and after."""
    good: list[Any] = [None] * len(types)
    with pytest.raises(Corrupt, match="predictions of service s@1"):
        Columns(definition(types)).read([held(good), held(values), held(good)])


def test_no_rows_and_no_columns_are_nothing() -> None:
    assert Columns(definition(["int64"])).read([]).equals(pa.table({"c0": pa.array([], pa.int64())}))
    assert Columns(definition([])).read([held([1])]).num_columns == 0
