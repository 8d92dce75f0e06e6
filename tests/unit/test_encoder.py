"""The encoder: what it makes of each type, what it refuses, and that it comes back from its document."""

import json
import math
import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from journal.errors import Corrupt, Refused, UnknownName
from registry.flavors.batch_columns import MOST_CATEGORIES
from registry.flavors.encoder import ColumnType, Encoder, Encoding, fit

COLUMNS = ["delay", "origin", "late", "count"]
TYPES: list[ColumnType] = ["float64", "string", "bool", "int64"]
TABLE = pa.table(
    {
        "count": pa.array([1, None, 3, 8], pa.int64()),
        "origin": pa.array(["JFK", "EWR", None, "EWR"]),
        "delay": pa.array([2.0, 4.0, None, 6.0]),
        "late": pa.array([True, False, None, True]),
        "outcome": pa.array([True, False, True, False]),
    }
)


def made(encoding: Encoding) -> Encoder:
    return fit(TABLE, COLUMNS, TYPES, encoding)


def test_codes_number_strings_by_frequency_and_leave_missing_numbers_to_the_model() -> None:
    encoder = made("codes")
    nan = math.nan
    expected = [[2.0, 2.0, 1.0, 1.0], [4.0, 1.0, 0.0, nan], [nan, 0.0, nan, 3.0], [6.0, 1.0, 1.0, 8.0]]
    np.testing.assert_array_equal(encoder.matrix(TABLE), expected)
    assert (encoder.width, encoder.categorical, encoder.categories[1]) == (4, (1,), ("EWR", "JFK"))


def test_dense_standardises_numbers_first_and_then_one_hot_blocks() -> None:
    encoder = made("dense")
    matrix = encoder.matrix(TABLE)
    assert (encoder.width, encoder.categorical) == (5, ())
    assert encoder.means == pytest.approx((4.0, 0.0, 2 / 3, 4.0))
    assert encoder.scales == pytest.approx((math.sqrt(8 / 3), 1.0, math.sqrt(2 / 9), math.sqrt(26 / 3)))
    assert matrix[2].tolist() == [0.0, 0.0, pytest.approx(-1 / math.sqrt(26 / 3)), 0.0, 0.0]
    assert matrix[:, 3:].tolist() == [[0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]
    assert matrix[[0, 1, 3], 0].tolist() == pytest.approx([-2 / math.sqrt(8 / 3), 0.0, 2 / math.sqrt(8 / 3)])


def test_ties_go_by_name_and_only_the_most_frequent_categories_are_known() -> None:
    names = [f"n{number:03}" for number in range(300)]
    table = pa.table({"name": [*reversed(names), "n299", "n298", "n299"]})
    codes = fit(table, ["name"], ["string"], "codes")
    assert len(codes.categories[0]) == MOST_CATEGORIES == 254
    assert codes.categories[0][:3] == ("n299", "n298", "n000")
    asked = pa.table({"name": ["n299", "n000", "n251", "n252", "never seen", "", None]})
    assert codes.matrix(asked)[:, 0].tolist() == [1.0, 3.0, 254.0, 0.0, 0.0, 0.0, 0.0]
    dense = fit(table, ["name"], ["string"], "dense").matrix(asked)
    assert dense.shape == (7, 254)
    assert dense.sum(axis=1).tolist() == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]


def test_the_empty_string_is_a_category_and_not_missing() -> None:
    encoder = fit(pa.table({"s": ["", "", None, "a"]}), ["s"], ["string"], "codes")
    assert encoder.row(["s"], [""]).tolist() == [[1.0]]
    assert encoder.row(["s"], [None]).tolist() == [[0.0]]


@pytest.mark.parametrize("value", [0.1, -3e300, 5e-324, 0.0])
def test_a_constant_has_deviation_one_however_its_mean_rounds(value: float) -> None:
    encoder = fit(pa.table({"x": [value] * 1_003}), ["x"], ["float64"], "dense")
    assert (encoder.means, encoder.scales) == ((value,), (1.0,))
    assert encoder.row(["x"], [value]).tolist() == [[0.0]]


def test_a_column_without_any_value_encodes_as_missing() -> None:
    table = pa.table({"x": pa.array([None, None], pa.float64()), "s": pa.array([None, None], pa.string())})
    codes, dense = (fit(table, ["x", "s"], ["float64", "string"], way) for way in ("codes", "dense"))
    np.testing.assert_array_equal(codes.matrix(table), [[math.nan, 0.0]] * 2)
    assert dense.matrix(table).tolist() == [[0.0], [0.0]]
    assert dense.row(["x", "s"], [2.5, "new"]).tolist() == [[2.5]]


def test_a_not_a_number_reads_as_missing_in_both_entrances() -> None:
    encoder = made("dense")
    table = TABLE.set_column(TABLE.column_names.index("delay"), "delay", pa.array([math.nan] * 4))
    assert encoder.matrix(table)[:, 0].tolist() == [0.0] * 4
    assert encoder.row(COLUMNS, [math.nan, None, None, None])[0, 0] == 0.0


@pytest.mark.parametrize("encoding", ["codes", "dense"])
def test_a_row_finds_its_values_by_name_whatever_the_order_of_the_columns(encoding: Encoding) -> None:
    encoder = made(encoding)
    values = {"other": 7, "count": 1, "late": True, "origin": "JFK", "delay": 2.0}
    expected = encoder.matrix(TABLE)[:1]
    forward, backward = list(values), list(reversed(values))
    for columns in (forward, backward, list(forward), tuple(backward), forward):
        row = encoder.row(columns, [values[name] for name in columns])
        assert row.tobytes() == expected.tobytes()
        assert row.shape == (1, encoder.width)


def test_every_row_is_a_new_one() -> None:
    encoder = made("codes")
    first = encoder.row(COLUMNS, [1.0, "JFK", True, 1])
    first[:] = -1.0
    assert encoder.row(COLUMNS, [1.0, "JFK", True, 1]).tolist() == [[1.0, 2.0, 1.0, 1.0]]


def test_a_missing_feature_is_named_in_a_row_and_in_a_table() -> None:
    encoder = made("codes")
    with pytest.raises(UnknownName, match="late, count: the model was trained on this"):
        encoder.row(["delay", "origin"], [1.0, "JFK"])
    with pytest.raises(UnknownName, match="'late'"):
        encoder.matrix(TABLE.drop_columns(["late"]))


def test_integers_beyond_two_to_the_53_round_alike() -> None:
    numbers = [2**53 + 1, -(2**63), 2**63 - 1, 2**62 + 129]
    table = pa.table({"n": pa.array([*numbers, None], pa.int64())})
    encoder = fit(table, ["n"], ["int64"], "codes")
    rows = [encoder.row(["n"], [number])[0, 0] for number in numbers]
    assert rows == encoder.matrix(table)[:-1, 0].tolist() == [float(number) for number in numbers]


def test_dictionaries_and_chunks_encode_like_plain_strings() -> None:
    encoder = made("codes")
    chunked = pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)])
    place = TABLE.column_names.index("origin")
    coded = TABLE.set_column(place, "origin", TABLE.column("origin").dictionary_encode())
    for table in (chunked, coded):
        assert encoder.matrix(table).tobytes() == encoder.matrix(TABLE).tobytes()
        assert fit(table, COLUMNS, TYPES, "codes") == encoder


@pytest.mark.parametrize("encoding", ["codes", "dense"])
def test_the_document_is_json_and_gives_back_the_same_encoder(encoding: Encoding) -> None:
    encoder = made(encoding)
    document = encoder.document()
    read = json.loads(json.dumps(document))
    assert read == document
    assert Encoder.of(read) == encoder == pickle.loads(pickle.dumps(encoder))
    assert Encoder.of(read).matrix(TABLE).tobytes() == encoder.matrix(TABLE).tobytes()
    assert pickle.loads(pickle.dumps(encoder)).row(COLUMNS, [1, "EWR", None, 2]).shape == (1, encoder.width)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"encoding": "hashed"}, "encoding"),
        ({"types": ["float64", "string", "bool", "date"]}, "types"),
        ({"columns": ["delay", "origin", "late"]}, "3 columns with lists of 4"),
        ({"columns": ["delay", "origin", "late", "late"]}, "stands twice"),
        ({"categories": [[], ["EWR", "EWR"], [], []]}, "at most 254 different"),
        ({"scales": [1.0, 1.0, 0.0, 1.0]}, "not positive"),
        ({"means": [1.0, 1.0, None, 1.0]}, "means"),
        ({"more": 1}, "more"),
    ],
)
def test_a_changed_document_is_refused_with_what_is_wrong(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(Corrupt, match=reason):
        Encoder.of({**made("codes").document(), **change})
    with pytest.raises(Corrupt, match="document"):
        Encoder.of([1])


def test_fitting_refuses_what_makes_no_encoder() -> None:
    with pytest.raises(UnknownName, match="'nowhere'"):
        fit(TABLE, ["nowhere"], ["string"], "codes")
    with pytest.raises(Refused, match="'origin' is not of type float64"):
        fit(TABLE, ["origin"], ["float64"], "codes")
    with pytest.raises(Refused, match="stands twice"):
        fit(TABLE, ["late", "late"], ["bool", "bool"], "codes")
    with pytest.raises(Refused, match="0 columns"):
        fit(TABLE, [], [], "dense")
    with pytest.raises(Refused, match="not finite"):
        fit(pa.table({"x": [1.0, math.inf]}), ["x"], ["float64"], "dense")
