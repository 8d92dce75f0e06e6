"""Tiles, panes and exact numbers: the pure core of window features."""

from fractions import Fraction
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.aggregates import Aggregate
from features.measure import Measure, Sample, scaled
from features.panes import panes_of, weights_of
from features.rows import FieldValue
from features.windows import (
    KEPT_POWERS,
    REBASE_POWERS,
    Decayed,
    DecayedPane,
    Last,
    LastPane,
    Window,
    WindowPane,
    exact,
    storable,
)

DELAY = Measure("delay", threshold=15)


def window(span: int = 3, width: int = 10) -> tuple[Window, list[FieldValue]]:
    values: list[FieldValue] = [None] * 3
    return WindowPane("s", DELAY, width, span, count=0, mean=1, rate=2).open(values), values


def decayed(tiles: int = 1) -> tuple[Decayed, list[FieldValue]]:
    values: list[FieldValue] = [None]
    return DecayedPane("s", Measure("delay"), 10, weights_of(tiles), 0).open(values), values


def sample(time: int, value: int, clock: int | None = None, id_: str = "a") -> Sample:
    return time, id_, time if clock is None else clock, value, int(value >= 15), value


def test_a_window_holds_whole_tiles_up_to_the_clock() -> None:
    state, values = window()
    assert values == [0, None, None]
    assert state.add(sample(101, 10)) == 130
    assert state.add(sample(109, 20)) is None, "its tile is open already"
    assert state.add(sample(110, 45)) == 140
    assert values == [3, 25.0, 2 / 3]
    state.leave(130)
    assert values == [1, 45.0, 1.0]
    state.leave(140)
    assert values == [0, None, None]
    assert state.is_empty()


def test_a_late_record_enters_its_own_tile_and_only_while_that_is_in_the_window() -> None:
    state, values = window()
    state.add(sample(125, 10))
    assert state.add(sample(100, 20, clock=129)) == 130
    assert state.add(sample(99, 40, clock=129)) is None
    assert values == [2, 15.0, 0.5]
    assert state.boundaries() == [150, 130]
    state.leave(130)
    assert state.add(sample(109, 20, clock=130)) is None
    assert values == [1, 10.0, 0.0]


def test_tiles_before_the_epoch_are_whole_too() -> None:
    state, _ = window(span=1)
    assert state.add(sample(-1, 5)) == 0, "the tile from -10 to -1 leaves at 0"
    state.leave(0)
    assert state.is_empty()


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(-(10**30), 10**30)), max_size=40), st.integers(60, 100))
def test_running_totals_equal_merging_the_tiles_anew(records: list[tuple[int, int]], clock: int) -> None:
    state, values = window()
    boundaries = [state.add(sample(time, value, clock=0)) for time, value in records]
    for boundary in boundaries:
        if boundary is not None and boundary <= clock:
            state.leave(boundary)
    merged, fresh = window()
    merged.load(state.dump())
    assert values == fresh
    held = [value for time, value in records if time // 10 > clock // 10 - 3]
    assert values[1] == (float(Fraction(sum(held), len(held))) if held else None)


def test_content_survives_a_dump_with_integers_of_any_size() -> None:
    state, values = window()
    for time, value in ((105, 2**70), (112, -(2**90)), (120, 7)):
        state.add(sample(time, value))
    again, copied = window()
    again.load(storable(state.dump()))
    assert (again.dump(), copied, again.boundaries()) == (state.dump(), values, state.boundaries())


@pytest.mark.parametrize("value", [0, -1, 2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 255 << 60, -(128 << 64), 3**200])
def test_integers_are_storable_and_exact(value: int) -> None:
    stored = storable(value)
    assert isinstance(stored, bytes) == (not -(2**63) <= value < 2**63)
    assert exact(stored) == value


@pytest.mark.parametrize(
    ("value", "scale", "whole"),
    [
        (0.5, 1, 0),
        (1.5, 1, 2),
        (2.5, 1, 2),
        (-0.5, 1, 0),
        (-1.5, 1, -2),
        (0.0015, 1000, 2),
        (0.0625, 8, 0),
        (True, 1, 1),
    ],
)
def test_a_float_is_rounded_once_half_to_even(value: float, scale: int, whole: int) -> None:
    assert scaled(value, scale) == whole


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([1, 3, 1000, 10**9]))
def test_scaling_is_what_fractions_say(value: float, scale: int) -> None:
    assert scaled(value, scale) == round(Fraction(value) * scale)


def test_a_sample_of_null_is_none_and_a_measure_without_column_takes_every_record() -> None:
    read = Measure("x", scale=10, threshold=2.5).sampler()
    assert read({}, 1, "a", 2) is None
    assert read({"x": None}, 1, "a", 2) is None
    assert read({"x": 2.5}, 1, "a", 2) == (1, "a", 2, 25, 1, 2.5)
    assert read({"x": 2}, 1, "a", 2) == (1, "a", 2, 20, 0, 2)
    assert Measure(None).sampler()({"x": None}, 1, "a", 2) == (1, "a", 2, 0, 0, None)


def test_a_decayed_mean_halves_with_every_half_life() -> None:
    state, values = decayed()
    assert values == [None]
    state.add(sample(5, 30))
    assert values == [30.0]
    state.add(sample(15, 0))
    assert values == [10.0]
    state.add(sample(39, 10))
    assert values == [(30 + 8 * 10) / 11]


@given(st.permutations([(5, 30), (15, -7), (39, 10), (39, 11), (200, 3), (12, 1)]))
def test_a_decayed_mean_does_not_depend_on_the_order(records: list[tuple[int, int]]) -> None:
    state, values = decayed(tiles=3)
    for record in records:
        state.add(sample(*record))
    in_order, expected = decayed(tiles=3)
    for record in sorted(records):
        in_order.add(sample(*record))
    assert values == expected


def test_a_decayed_mean_stays_small_for_ever_and_what_is_far_below_vanishes() -> None:
    state, values = decayed()
    for power in range(0, 20 * REBASE_POWERS, 7):
        state.add(sample(10 * power, 3))
    assert values == [3.0]
    _, numerator, denominator = map(exact, state.dump())
    assert max(numerator.bit_length(), denominator.bit_length()) < REBASE_POWERS + 50
    state.add(sample(10 * (power - 3 * KEPT_POWERS), 10**6))
    assert values == [3.0]
    state.add(sample(10**9, -4))
    assert values == [-4.0]
    again, copied = decayed()
    again.load(state.dump())
    assert (copied, again.dump()) == (values, state.dump())


def test_when_the_base_moves_no_bit_that_counts_is_lost() -> None:
    state, values = decayed()
    records = ((0, 5), (REBASE_POWERS - 42, 2**60), (REBASE_POWERS + 1, 1))
    for power, value in records:
        state.add(sample(10 * power, value))
    weighed = sum(Fraction(value) * 2**power for power, value in records)
    assert values == [float(weighed / sum(2**power for power, _ in records))]


def test_a_decayed_mean_may_begin_long_before_the_epoch() -> None:
    state, values = decayed()
    state.add(sample(-(10**6), 7))
    assert values == [7.0]


def test_weights_are_powers_of_two_in_forty_bits() -> None:
    assert weights_of(2) == (2**40, 1554944255988)
    assert weights_of(12)[0] == 2**40
    assert all(2**40 <= weight < 2**41 for weight in weights_of(24))


def test_last_is_the_largest_time_then_id_whatever_came_first() -> None:
    values: list[FieldValue] = [None]
    state: Last = LastPane("s", Measure("delay"), False, 0).open(values)
    for time, id_, value in ((5, "b", 1), (5, "a", 2), (4, "z", 3)):
        state.add(sample(time, value, id_=id_))
        assert values == [1.0]
    state.add(sample(5, 4, id_="c"))
    assert values == [4.0]
    assert type(values[0]) is float
    again: list[FieldValue] = [None]
    restored = LastPane("s", Measure("delay"), False, 0).open(again)
    restored.load(state.dump())
    assert (again, restored.dump()) == (values, [5, "c", 4.0])


def test_a_last_integer_that_64_bits_cannot_hold_is_missing() -> None:
    values: list[FieldValue] = [None]
    state = LastPane("s", Measure("delay"), True, 0).open(values)
    for time, value, shown in ((1, 7, 7), (2, 2**64 - 1, None), (3, -(2**63), -(2**63))):
        state.add(sample(time, value))
        assert values == [shown]


def count(**more: object) -> Aggregate:
    return Aggregate(**({"kind": "count", "stream": "s", "over": 30, "tile": 10} | more))  # type: ignore[arg-type]


def test_features_over_one_window_and_column_share_a_pane() -> None:
    panes = panes_of(
        [count(), count(kind="mean", column="d", scale=10), count(kind="rate", column="d", at_least=15)],
    )
    assert panes == (WindowPane("s", Measure("d", 10, 15), 10, 3, count=0, mean=1, rate=2),)


def test_a_count_does_not_share_with_a_nullable_column() -> None:
    panes = panes_of([count(), count(kind="mean", column="d", nullable=True)])
    assert panes == (
        WindowPane("s", Measure(None, 1, inf), 10, 3, count=0),
        WindowPane("s", Measure("d", 1, inf), 10, 3, mean=1),
    )


def test_what_differs_in_threshold_window_or_stream_has_panes_of_its_own() -> None:
    rates = [count(kind="rate", column="d", at_least=at_least) for at_least in (15, 30)]
    panes = panes_of([*rates, count(over=60), count(stream="t")])
    assert [(pane.stream, pane.measure.threshold) for pane in panes] == [("s", 15), ("s", 30), ("s", inf), ("t", inf)]
