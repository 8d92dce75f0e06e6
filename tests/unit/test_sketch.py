"""The sketch of different values, and the square root that deviations are read from."""

import math
import random
import subprocess
import sys
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.sketch import KEPT, estimate, hash_of, insert, read_sketch, union, write_sketch
from features.square_root import square_root
from features.summaries import Extremes, Sums, quotient
from features.windows import whole

ROOT = Path(__file__).parents[2]
WIDE = st.integers(1, 10**6) | st.integers(1, 2**2100)


def sketch_of(hashes: list[int]) -> list[int]:
    sketch: list[int] = []
    for each in hashes:
        insert(sketch, each)
    return sketch


def test_equal_numbers_have_one_hash_and_text_is_no_number() -> None:
    assert hash_of(1) == hash_of(1.0) == hash_of(True)
    assert hash_of(0.0) == hash_of(-0.0) == hash_of(0)
    different: list[float | str] = [0, 1, 0.5, -0.5, 2**63, "", "0", "1", "0.5", "n1", "\ud800"]
    assert len({hash_of(value) for value in different}) == len(different)


def test_hashes_are_written_down_for_ever() -> None:
    """Sketches in files are made of them."""
    assert [hash_of(value) for value in ("EWR", 7, 0.5)] == [
        11003168495035310358,
        11541439398025705497,
        9552113108296053087,
    ]


def test_hashes_do_not_follow_the_hash_seed() -> None:
    code = "from features.sketch import *; print(union([[hash_of(str(n)) for n in range(3000)], [hash_of(0.5)]])[:40])"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert len(printed) == 1


@pytest.mark.parametrize(("number", "cut"), [(0, 0), (5, 2), (KEPT, 300), (KEPT + 1, KEPT), (3 * KEPT, 2 * KEPT)])
def test_a_sketch_is_the_smallest_hashes_whatever_their_order_and_cuts(number: int, cut: int) -> None:
    shuffler = random.Random(number)
    hashes = [shuffler.getrandbits(64) for _ in range(number)]
    given_ = hashes + hashes[:cut]
    shuffler.shuffle(given_)
    expected = sorted(set(hashes))[:KEPT]
    assert sketch_of(given_) == expected
    assert union([sketch_of(given_[:cut]), sketch_of(given_[cut:]), ()]) == expected
    assert read_sketch(write_sketch(expected)) == expected


@pytest.mark.parametrize("number", [0, 1, KEPT - 1])
def test_a_sketch_counts_exactly_until_it_is_full(number: int) -> None:
    assert estimate(union([[hash_of(n) for n in range(number)]])) == number


@pytest.mark.parametrize("number", [2_000, 20_000])
def test_a_full_sketch_is_right_within_the_promised_error(number: int) -> None:
    errors = [estimate(union([[hash_of(f"{turn}/{n}") for n in range(number)]])) / number - 1 for turn in range(20)]
    error = 1 / math.sqrt(KEPT - 2)
    assert max(map(abs, errors)) < 3 * error
    assert abs(sum(errors) / len(errors)) < error
    assert any(errors)


@given(WIDE | st.just(0), WIDE)
def test_a_square_root_is_the_float_nearest_to_it(numerator: int, denominator: int) -> None:
    with localcontext() as context:
        context.prec = 200
        context.Emax, context.Emin = 10**6, -(10**6)
        try:
            expected = float((Decimal(numerator) / Decimal(denominator)).sqrt())
        except OverflowError:
            expected = math.inf
    if math.isinf(expected):
        with pytest.raises(OverflowError):
            square_root(numerator, denominator)
    else:
        assert square_root(numerator, denominator) == expected


@pytest.mark.parametrize("step", [-1, 0, 1])
@pytest.mark.parametrize("even", [2**52, 2**52 + 1])
def test_beside_the_middle_of_two_floats_a_root_goes_to_the_nearer(even: int, step: int) -> None:
    """The squares of the numbers half-way between two floats, and a hair beside them."""
    middle = Fraction(2 * even + 1, 2)
    squared = middle * middle + Fraction(step, 2**200)
    expected = {-1: even, 0: even + even % 2, 1: even + 1}[step]
    assert square_root(squared.numerator, squared.denominator) == expected


def test_what_no_float_and_no_64_bits_can_hold_is_missing() -> None:
    assert quotient(10**400, 10) is None
    assert quotient(-(10**400), 10**399) == -10.0
    assert [whole(value) for value in (2**63 - 1, -(2**63), 2**63)] == [2**63 - 1, -(2**63), None]


def test_sums_of_the_largest_floats_poison_nothing() -> None:
    summary = Sums(sum=0, mean=1, std=2)
    partial = None
    for _ in range(3):
        partial = summary.take(partial, (0, "a", 0, int(1.7e308), 0, 1.7e308))
    values: list[float | int | str | bool | None] = [None] * 3
    summary.show(partial, values)
    assert values == [None, 1.7e308, 0.0]
    summary.show(summary.take(partial, (0, "b", 0, -int(1.7e308), 0, -1.7e308)), values)
    assert values == [None, 0.85e308, 1.7e308]


def test_extremes_are_compared_exactly_and_shown_without_a_sign_of_zero() -> None:
    summary = Extremes(low=0, high=1, integers=frozenset({1}))
    partial = None
    for value in (2**53 + 1, 2.0**53, -0.0):
        partial = summary.take(partial, (0, "a", 0, 0, 0, value))
    values: list[float | int | str | bool | None] = [None] * 2
    summary.show(partial, values)
    assert repr(values) == f"[0.0, {2**53 + 1}]"
    assert summary.load([b"\x00\x80\x00\x00\x00\x00\x00\x00\x00", 0.5]) == (2**63, 0.5)
