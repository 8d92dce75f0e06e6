"""Drift: measures against their definitions, verdicts at their limits, and what is too little to say anything."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.drift import MOST_VALUES, Drift, FeatureDrift, Limits, compare, compare_one
from journal.errors import UnknownName

LIMITS = Limits(minimum=10)
RNG = np.random.default_rng(7)
NORMAL = RNG.normal(size=4_000)


class Table:
    """Columns in memory."""

    def __init__(self, columns: Mapping[str, Sequence[Any]], types: Mapping[str, str]) -> None:
        self.types, self.rows = types, len(next(iter(columns.values()), ()))
        self._columns = columns

    def read(self, name: str) -> pa.ChunkedArray:
        return pa.chunked_array([pa.array(self._columns[name])])


def floats(reference: Sequence[Any], recent: Sequence[Any], limits: Limits = LIMITS) -> FeatureDrift:
    before, now = (pa.chunked_array([pa.array(side, pa.float64())]) for side in (reference, recent))
    return compare_one("x", before, now, limits)


def strings(reference: Sequence[Any], recent: Sequence[Any]) -> FeatureDrift:
    before, now = (pa.chunked_array([pa.array(side, pa.string())]) for side in (reference, recent))
    return compare_one("x", before, now, LIMITS)


def compared(reference: Mapping[str, Sequence[Any]], recent: Mapping[str, Sequence[Any]], limits: Limits) -> Drift:
    types = dict.fromkeys(reference, "float64")
    return compare(Table(reference, types), Table(recent, types), limits)


def psi_by_hand(reference: Sequence[int], recent: Sequence[int]) -> float:
    """From counts per bin, each with half a value more."""
    bins = len(reference)
    before = [(count + 0.5) / (sum(reference) + 0.5 * bins) for count in reference]
    now = [(count + 0.5) / (sum(recent) + 0.5 * bins) for count in recent]
    return sum((b - a) * math.log(b / a) for a, b in zip(before, now, strict=True))


def test_the_same_values_have_not_drifted() -> None:
    found = floats(list(NORMAL), list(NORMAL))
    assert (found.psi, found.ks, found.verdict, found.why) == (0, 0, "ok", ())


def test_numbers_are_binned_at_the_references_deciles() -> None:
    reference = list(range(1, 101))
    recent = list(range(51, 151))
    expected = psi_by_hand([10] * 10, [0, 0, 0, 0, 0, 10, 10, 10, 10, 60])
    assert floats(reference, recent).psi == pytest.approx(expected, rel=1e-12)


def test_few_values_have_a_bin_each_and_their_edge_belongs_to_them() -> None:
    """By deciles, 95 ones and five zeros would be a single bin."""
    reference, recent = [1] * 95 + [0] * 5, [1] * 60 + [0] * 40
    found = floats(reference, recent)
    assert found.psi == pytest.approx(psi_by_hand([5, 95], [40, 60]), rel=1e-12)
    assert found.verdict == "drifted"


def test_the_distance_is_that_of_the_distribution_functions() -> None:
    found = floats([1, 2, 3, 4] * 50, [3, 4, 5, 6] * 50)
    assert found.ks == pytest.approx(0.5)
    assert found.p_value is not None
    assert found.p_value < 1e-9


def test_a_distance_that_chance_may_make_does_not_count() -> None:
    limits = Limits(psi=100, ks=0.3, minimum=1)
    before, now = list(range(1, 11)), list(range(6, 16))
    few, many = floats(before, now, limits), floats(before * 50, now * 50, limits)
    assert (few.ks, few.verdict) == (0.5, "ok")
    assert (many.ks, many.verdict, many.why) == (0.5, "drifted", ("ks 0.5",))


@pytest.mark.parametrize(
    ("share", "verdict"),
    [(0.0, "ok"), (0.05, "ok"), (0.06, "warn"), (0.1, "warn"), (0.11, "drifted"), (1.0, "drifted")],
)
def test_missing_values_warn_at_half_their_limit_and_drift_above_it(share: float, verdict: str) -> None:
    missing = round(share * 100)
    recent = [None] * missing + [float(number) for number in range(100 - missing)]
    found = floats(list(range(100)), recent, Limits(psi=100, ks=1, missing=0.1))
    assert (found.missing, found.verdict) == (share, verdict)


def test_fewer_missing_values_are_a_change_too() -> None:
    found = floats([None, 1.0] * 50, [1.0] * 100)
    assert (found.missing_reference, found.missing) == (0.5, 0)
    assert "missing 0.5" in found.why


@pytest.mark.parametrize("held", [0, 9])
def test_a_side_with_too_few_values_has_no_psi(held: int) -> None:
    found = floats([None] * 100 + [9.0] * held, [1.0] * 100)
    assert (found.psi, found.ks, found.verdict) == (None, None, "drifted")
    assert floats([None] * 100 + [9.0] * 10, [1.0] * 100).ks == 1


def test_strings_are_compared_by_frequency() -> None:
    reference, recent = ["a"] * 60 + ["b"] * 40, ["a"] * 30 + ["b"] * 60 + ["c"] * 10
    found = strings(reference, recent)
    assert found.psi == pytest.approx(psi_by_hand([60, 40, 0], [30, 60, 10]), rel=1e-12)
    assert (found.ks, found.new) == (None, 0.1)


def test_rare_values_share_a_bin() -> None:
    """Each of a hundred would add its own noise; those of equal frequency are kept in alphabetical order."""
    names = [f"{number:03}" for number in range(100)]
    reference = names * 3
    moved = names[MOST_VALUES:] * 3 + names[MOST_VALUES:40] * 3
    expected = psi_by_hand([3] * MOST_VALUES + [240], [0] * MOST_VALUES + [300])
    assert strings(reference, moved).psi == pytest.approx(expected, rel=1e-12)
    assert strings(reference, moved).new == 0


def test_booleans_are_values_and_no_numbers() -> None:
    before, now = (
        pa.chunked_array([pa.array(side)]) for side in ([True] * 90 + [False] * 10, [True] * 10 + [False] * 90)
    )
    found = compare_one("x", before, now, LIMITS)
    assert found.ks is None
    assert found.psi == pytest.approx(psi_by_hand([90, 10, 0], [10, 90, 0]), rel=1e-12)


def test_the_verdict_needs_as_many_features_as_the_limits_say() -> None:
    still, moved = list(NORMAL), list(NORMAL + 3)
    reference, recent = {"a": still, "b": still, "c": still}, {"a": moved, "b": still, "c": moved}
    verdicts = [compared(reference, recent, Limits(least=least)).verdict for least in (1, 2, 3)]
    assert verdicts == ["drifted", "drifted", "warn"]
    assert compared(reference, recent, Limits(features=("b",))).verdict == "ok"
    assert [each.feature for each in compared(reference, recent, Limits()).features] == ["a", "b", "c"]


def test_the_furthest_is_named_first() -> None:
    still = list(NORMAL)
    found = compared({"a": still, "b": still}, {"a": list(NORMAL + 1), "b": list(NORMAL + 3)}, Limits())
    assert found.drifted == ("b", "a")
    assert found.reason.startswith("b (psi ")
    assert found.reason.endswith(") drifted")


def test_a_long_reason_is_cut() -> None:
    reference, recent = ({name: list(NORMAL + by) for name in "abcde"} for by in (0, 3))
    assert compared(reference, recent, Limits()).reason.endswith(") and 2 more drifted")
    assert compared(reference, reference, Limits()).reason == "nothing drifted"


@pytest.mark.parametrize(("before", "now"), [(499, 600), (600, 499)])
def test_too_few_rows_on_either_side_say_nothing(before: int, now: int) -> None:
    found = compared({"a": [1.0] * before}, {"a": [9.0] * now}, Limits(minimum=500))
    assert (found.verdict, found.reference, found.recent, found.features) == ("too few", before, now, ())


def test_an_unknown_feature_is_named_with_those_that_there_are() -> None:
    with pytest.raises(UnknownName, match="feature nope; there are: a"):
        compared({"a": [1.0]}, {"a": [1.0]}, Limits(features=("nope",)))


def test_columns_that_only_one_side_has_are_left_out() -> None:
    reference = Table({"a": [1.0] * 20, "b": [1.0] * 20}, {"a": "float64", "b": "float64"})
    recent = Table({"a": [1.0] * 20, "b": [1] * 20, "c": [1.0] * 20}, {"a": "float64", "b": "int64", "c": "float64"})
    assert [each.feature for each in compare(reference, recent, LIMITS).features] == ["a"]


values = st.lists(st.one_of(st.none(), st.floats(-5, 5), st.integers(0, 3).map(float)), min_size=1, max_size=60)


@given(values, values, st.randoms(use_true_random=False))
def test_no_measure_depends_on_the_order_of_rows(before: list[Any], now: list[Any], random: Any) -> None:
    once = floats(before, now)
    for side in (before, now):
        random.shuffle(side)
    assert floats(before, now) == once
    assert once.psi is None or once.psi >= 0
    assert once.ks is None or 0 <= once.ks <= 1
