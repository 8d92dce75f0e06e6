"""A grid of moments from the pipeline's start: the next one, and the last one that time has passed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal.clock import DAY
from training.recipe import RetrainSettings
from training.schedule import last_trigger, next_trigger

START = 1_000 * DAY
FIRST = 14 * DAY
EVERY = 7 * DAY


def settings(first: int = FIRST, every: int = EVERY) -> RetrainSettings:
    return RetrainSettings(recipes=(), folds=1, test=DAY, gap=0, every=every, first=first)


def test_the_first_retrain_waits_for_its_span_after_the_start() -> None:
    assert next_trigger(settings(), START, None) == START + FIRST


@pytest.mark.parametrize(
    ("handled", "expected"),
    [
        (START, FIRST),
        (START + FIRST - 1, FIRST),
        (START + FIRST, FIRST + EVERY),
        (START + FIRST + 1, FIRST + EVERY),
        (START + FIRST + EVERY - 1, FIRST + EVERY),
        (START + FIRST + EVERY, FIRST + 2 * EVERY),
    ],
)
def test_the_next_moment_lies_strictly_behind_what_was_handled(handled: int, expected: int) -> None:
    assert next_trigger(settings(), START, handled) == START + expected


@pytest.mark.parametrize(
    ("clock", "expected"),
    [
        (START, None),
        (START + FIRST - 1, None),
        (START + FIRST, START + FIRST),
        (START + FIRST + EVERY - 1, START + FIRST),
        (START + FIRST + EVERY, START + FIRST + EVERY),
    ],
)
def test_the_last_moment_is_the_one_that_the_clock_has_reached(clock: int, expected: int | None) -> None:
    assert last_trigger(settings(), START, clock) == expected


def test_a_gap_of_ten_weeks_asks_for_one_retrain_not_for_ten() -> None:
    clock = START + FIRST + 10 * EVERY + DAY
    reached = last_trigger(settings(), START, clock)
    assert reached == START + FIRST + 10 * EVERY
    assert next_trigger(settings(), START, reached) == START + FIRST + 11 * EVERY > clock


spans = st.integers(1, 400 * DAY)


@given(first=spans, every=spans, later=st.integers(0, 4_000 * DAY))
def test_once_the_last_moment_is_handled_nothing_is_due_until_the_clock_moves_on(
    first: int, every: int, later: int
) -> None:
    rules, clock = settings(first, every), START + first + later
    reached = last_trigger(rules, START, clock)
    assert reached is not None
    assert (reached - START - first) % every == 0
    assert reached <= clock < next_trigger(rules, START, reached) == reached + every
