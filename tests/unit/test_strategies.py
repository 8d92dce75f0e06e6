"""Who answers when, on what was known, and how the answers become figures, a table and a plot."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from benchmarks import strategies
from benchmarks.strategies import Answer, Turn, aligned, answered, plain_fit, weekly_turns
from benchmarks.strategies_report import BEGIN, END, Week, figures_of, plot, table_of, weeks_of, with_table
from journal.clock import DAY
from journal.errors import Refused
from rivermill.pipeline import load_pipeline
from rivermill.settings import configs_folder

Floats = NDArray[np.float64]


def flights(count: int, seed: int = 3) -> pa.Table:
    """Rows in which one airline is late more often, and some numbers and names are missing."""
    rng = np.random.default_rng(seed)
    carriers = rng.choice(np.array(["AA", "UA", "B6"]), count)
    delays = rng.normal(10 * (carriers == "UA"), 5)
    late = delays + rng.normal(0, 5, count) > 8
    return pa.table(
        {
            "prediction": pa.array(range(count), pa.int64()),
            "at": pa.array(range(count), pa.timestamp("us", "UTC")),
            "key": [f"trip-{n}" for n in range(count)],
            "carrier": pa.array(
                [None if n % 17 == 0 else name for n, name in enumerate(carriers.tolist())], pa.string()
            ),
            "delay": pa.array([None if n % 5 == 0 else value for n, value in enumerate(delays.tolist())], pa.float64()),
            "seats": pa.array([None if n % 7 == 0 else n % 3 for n in range(count)], pa.int64()),
            "outcome": late.tolist(),
        }
    )


def test_turns_follow_one_another_and_cover_every_question_that_counts() -> None:
    turns = weekly_turns(first=28, every=7, since=60, until=80)
    assert turns == [Turn(56, 56, 63), Turn(63, 63, 70), Turn(70, 70, 77), Turn(77, 77, 80)]


def test_a_turn_that_ends_where_counting_begins_is_not_fitted() -> None:
    assert weekly_turns(first=28, every=7, since=63, until=70) == [Turn(63, 63, 70)]


def test_a_model_sees_exactly_what_was_known_when_it_was_fitted() -> None:
    rows = flights(10)
    at = np.arange(10, dtype=np.int64)
    # The outcome of row 2 took long; that of row 5 became known in the very moment of the second fit.
    known = np.array([1, 2, 9, 4, 5, 6, 8, 8, 9, 10], dtype=np.int64)
    seen: list[tuple[int, list[int]]] = []

    def fit(examples: pa.Table, moment: int) -> Answer:
        seen.append((moment, examples.column("prediction").to_pylist()))
        return lambda asked: np.full(len(asked), float(moment))

    scores = answered(rows, at, known, [Turn(4, 4, 6), Turn(6, 6, 9), Turn(20, 20, 30)], fit)
    assert seen == [(4, [0, 1, 3]), (6, [0, 1, 3, 4, 5])]
    assert np.isnan(scores[[0, 1, 2, 3, 9]]).all()
    assert scores[4:9].tolist() == [4, 4, 6, 6, 6]


def test_our_fit_and_the_plain_one_agree_on_who_is_late() -> None:
    """Both are the same trees over the same rows, so they may differ by rounding and the order of categories alone."""
    rows = flights(3_000)
    train, asked = rows.slice(0, 2_000), rows.slice(2_000)
    ours = strategies.our_fit(load_pipeline(configs_folder() / "flights"))(train, 1)(asked)
    plain = plain_fit(train, 1)(asked)
    outcomes = np.asarray(asked.column("outcome").to_numpy(), np.bool_)
    figures = figures_of({"weekly": ours, "plain": plain}, outcomes)
    assert figures["weekly"].auc > 0.8
    assert abs(figures["weekly"].auc - figures["plain"].auc) < 0.005


def test_the_plain_fit_takes_an_airline_that_it_has_never_seen_for_a_missing_one() -> None:
    rows = flights(1_000)
    answer = plain_fit(rows, 0)
    place = rows.column_names.index("carrier")
    unknown = rows.set_column(place, "carrier", pa.array(["ZZ"] * len(rows), pa.string()))
    missing = rows.set_column(place, "carrier", pa.array([None] * len(rows), pa.string()))
    assert answer(unknown).tolist() == answer(missing).tolist()
    assert answer(unknown).tolist() != answer(rows).tolist()


def test_scores_are_laid_beside_the_predictions_that_they_belong_to() -> None:
    wanted = np.array([5, 9, 7, 30], dtype=np.int64)
    found = aligned(wanted, np.array([9, 2, 5, 30]), np.array([0.9, 0.2, 0.5, 0.3]))
    assert found[[0, 1, 3]].tolist() == [0.5, 0.9, 0.3]
    assert np.isnan(found[2])


def test_figures_are_over_the_flights_that_every_strategy_answered() -> None:
    outcomes = np.array([True, False, True, False, True])
    one = np.array([0.9, 0.1, 0.4, 0.5, np.nan])
    other = np.array([0.5, 0.5, 0.5, 0.5, 0.0])
    figures = figures_of({"online": one, "served": other}, outcomes)
    assert figures["online"].flights == figures["served"].flights == 4
    assert figures["online"].auc == 0.75
    assert figures["served"].auc == 0.5
    assert figures["served"].log_loss == pytest.approx(np.log(2))


@pytest.mark.parametrize("outcomes", [[False, False, True], [True, True, False]])
def test_one_class_alone_has_no_figures(outcomes: list[bool]) -> None:
    scores = np.array([0.1, 0.2, np.nan])
    with pytest.raises(Refused, match="2 flights that every strategy answered"):
        figures_of({"online": scores}, np.array(outcomes))


def test_weeks_begin_where_counting_does_and_small_ones_are_left_out() -> None:
    start, count = 60 * DAY, 600
    at = np.concatenate([start - 1 + np.zeros(count), np.full(count, start), np.full(9, start + 7 * DAY)]).astype("<i8")
    outcomes = np.arange(len(at)) % 2 == 0
    perfect: Floats = outcomes.astype(np.float64)
    weeks = weeks_of(at, {"online": perfect, "served": 1 - perfect}, outcomes, start)
    assert weeks == [Week(start, {"online": 1.0, "served": 0.0})]


def test_the_table_goes_between_its_marks_and_nothing_else_changes() -> None:
    page = f"# Title\n\n{BEGIN}\nold\n{END}\n\nThe end.\n"
    outcomes = np.array([True, False])
    table = table_of(figures_of({"online": np.array([0.75, 0.25])}, outcomes))
    assert "| Online only: learns from every outcome | 1.0000 | 0.2877 |" in table
    assert "2 flights" in table
    once = with_table(page, table)
    assert once == f"# Title\n\n{BEGIN}\n{table}\n{END}\n\nThe end.\n"
    assert with_table(once, table) == once


@pytest.mark.parametrize("page", ["nothing", f"{BEGIN} only", f"only {END}"])
def test_a_page_without_the_marks_is_left_alone(page: str) -> None:
    with pytest.raises(Refused, match="no place"):
        with_table(page, "table")


def test_equal_figures_draw_equal_bytes_without_a_date(tmp_path: Path) -> None:
    names = ("frozen", "online", "weekly", "served")
    weeks = [Week((60 + 7 * n) * DAY, dict.fromkeys(names, 0.7 + 0.01 * n)) for n in range(4)]
    for name in ("one.svg", "two.svg"):
        plot(weeks, tmp_path / name)
    drawn = (tmp_path / "one.svg").read_text()
    assert drawn == (tmp_path / "two.svg").read_text()
    assert not re.search(r"20\d\d-\d\d-\d\dT|<dc:date>", drawn)
    assert "What Rivermill served" in drawn
    plot(weeks[:3], tmp_path / "two.svg")
    assert drawn != (tmp_path / "two.svg").read_text()
