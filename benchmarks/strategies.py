"""Over a year of flights: what freezing, learning online, retraining weekly and the gate between them are worth.

python -m benchmarks.strategies --home H [--weeks N]

H is the home of a finished demo. Nothing is played again: the recorded predictions and outcomes are read, and the
gradient boosting is fitted as it would have been at each trigger, on the examples that were joined by then.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from benchmarks.plain_flights import HOUR, WARM_UP
from benchmarks.strategies_report import Outcomes, Scores, Times, figures_of, plot, table_of, weeks_of, with_table
from features.examples import collect
from journal.body import Example, decode
from journal.clock import DAY, format_time
from journal.errors import Refused
from journal.reading import each_of
from journal.record import Kind
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.settings import Home, configs_folder
from rivermill.wiring import Run, open_run
from training.candidates import Work, features_of, fit_recipe, outcomes_of, times_of
from training.executor import one_thread
from training.models_file import models_file

GOAL = 0.005
RECIPE = "gradient_boosting"
DOCS = Path(__file__).resolve().parent.parent / "docs"

Answer = Callable[[pa.Table], Scores]
Fit = Callable[[pa.Table, int], Answer]


class Year(NamedTuple):
    """What a home recorded, a row per example in the order of the questions.

    Attributes:
        rows: The dataset's table: features as predicted, and the outcome.
        at: When each was asked, in microseconds; shape (n,).
        known: When each outcome was joined, in microseconds; shape (n,).
        outcomes: Shape (n,).
        online: What the learner said before it learned from the outcome; shape (n,).
        served: What was answered; shape (n,).
    """

    rows: pa.Table
    at: Times
    known: Times
    outcomes: Outcomes
    online: Scores
    served: Scores


class Turn(NamedTuple):
    """A model's term: fitted on what was known at ``fitted``, it answers from ``first`` until before ``last``."""

    fitted: int
    first: int
    last: int


def weekly_turns(first: int, every: int, since: int, until: int) -> list[Turn]:
    """The terms of a model that is fitted anew at every trigger, as far as they reach behind ``since``.

    Args:
        first: The first trigger, in microseconds.
        every: From one trigger to the next.
        since: The first question that counts.
        until: Behind the last one.
    """
    triggers = range(first, until, every)
    return [Turn(trigger, trigger, min(trigger + every, until)) for trigger in triggers if trigger + every > since]


def answered(rows: pa.Table, at: Times, known: Times, turns: Sequence[Turn], fit: Fit) -> Scores:
    """Let each turn's model answer its questions.

    Args:
        rows: A row per question, with its outcome; n of them.
        at: When each was asked; never decreasing; shape (n,).
        known: When each outcome was joined; shape (n,).
        turns: Who answers when.
        fit: Makes a model of the rows whose outcome was known by a moment.

    Returns:
        Shape (n,); NaN where nobody answered.
    """
    scores = np.full(len(at), np.nan)
    for turn in turns:
        first, last = np.searchsorted(at, [turn.first, turn.last])
        if first == last:
            continue
        answer = fit(rows.filter(pa.array(known <= turn.fitted)), turn.fitted)
        scores[first:last] = answer(rows.slice(first, last - first))
        sys.stderr.write(f"fitted on what was known at {format_time(turn.fitted)}, {last - first:,} answers\n")
    return scores


def our_fit(pipeline: Pipeline) -> Fit:
    """Our recipe and encoder, as a job fits them."""
    settings = pipeline.retrain
    if settings is None:
        raise Refused(which=f"pipeline {pipeline.name!r} declares no retrains", fix="Add a section 'retrain'")
    recipe = next(recipe for recipe in settings.recipes if recipe.name == RECIPE)
    make = models_file(pipeline.folder / "models.py")

    def fit(rows: pa.Table, moment: int) -> Answer:
        fitted = fit_recipe(Work(rows, f"strategies {moment}", make), recipe, 0, rows)

        def answer(asked: pa.Table) -> Scores:
            with one_thread():
                return np.asarray(fitted.classifier.predict_proba(fitted.encoder.matrix(asked))[:, 1], np.float64)

        return answer

    return fit


def plain_fit(rows: pa.Table, moment: int) -> Answer:  # noqa: ARG001
    """The same with pandas and scikit-learn alone: strings as categories, missing as missing."""
    names, _ = features_of(rows)
    frame = rows.select(list(names)).to_pandas()
    kinds = {
        name: pd.CategoricalDtype(sorted(frame[name].dropna().unique())) if frame[name].dtype == object else "float64"
        for name in names
    }
    model = HistGradientBoostingClassifier(
        max_iter=150, learning_rate=0.08, categorical_features="from_dtype", early_stopping=False, random_state=1
    )
    with one_thread():
        model.fit(frame.astype(kinds), rows.column("outcome").to_numpy())

    def answer(asked: pa.Table) -> Scores:
        with one_thread():
            wanted = asked.select(list(names)).to_pandas().astype(kinds)
            return np.asarray(model.predict_proba(wanted)[:, 1], np.float64)

    return answer


def aligned(wanted: NDArray[np.int64], having: NDArray[np.int64], values: Scores) -> Scores:
    """Values by prediction: those of ``having``, in the order of ``wanted``; NaN for one that is not among them."""
    order = np.argsort(having)
    places = np.searchsorted(having, wanted, sorter=order).clip(max=len(having) - 1)
    found = order[places]
    return np.where(having[found] == wanted, values[found], np.nan)


def read_year(run: Run, until: int | None) -> Year:
    """Read what a home recorded, up to the questions of a moment (microseconds) or all of it."""
    rows = collect(run.journal, run.journal.end()).table
    if until is not None:
        rows = rows.filter(pa.array(times_of(rows) < until))
    predictions = np.asarray(rows.column("prediction").combine_chunks())
    joined = np.array(list(_joined(run)), dtype=np.int64)
    known = dict(zip(joined[:, 0].tolist(), joined[:, 1].tolist(), strict=True))
    scores = run.folds.learner.scores.table()
    return Year(
        rows=rows,
        at=times_of(rows),
        known=np.array([known[prediction] for prediction in predictions.tolist()], dtype=np.int64),
        outcomes=outcomes_of(rows),
        online=aligned(predictions, scores["prediction"], scores["score"]),
        served=aligned(predictions, scores["prediction"], scores["served"]),
    )


def _joined(run: Run) -> Iterator[tuple[int, int]]:
    """Each example's prediction, and when it was joined."""
    for record in each_of(run.journal, Kind.EXAMPLE):
        yield decode(record.body, Example).prediction, record.at


def answers_of(pipeline: Pipeline, year: Year, since: int) -> dict[str, Scores]:
    """Every strategy's scores, NaN before ``since``; shape (n,) each."""
    settings, fit = pipeline.retrain, our_fit(pipeline)
    assert settings is not None
    until = int(year.at[-1]) + 1
    turns = weekly_turns(pipeline.starts[0] + settings.first, settings.every, since, until)
    asked = (year.rows, year.at, year.known)
    answers = {
        "frozen": answered(*asked, [Turn(since, since, until)], fit),
        "online": year.online,
        "weekly": answered(*asked, turns, fit),
        "served": year.served,
        "plain": answered(*asked, turns, plain_fit),
    }
    return {name: np.where(year.at >= since, scores, np.nan) for name, scores in answers.items()}


def main() -> None:
    """Read a home, fit what it takes, print the table, and write it and the plot into the documentation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="where a demo of the flights has finished")
    parser.add_argument("--weeks", type=int, help="only so many from the start; all that was played when left out")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder of strategies.md")
    options = parser.parse_args()
    pipeline = load_pipeline(configs_folder() / "flights")
    start = pipeline.starts[0] + 5 * HOUR
    run = open_run(pipeline, Home(options.home, pipeline.name))
    try:
        year = read_year(run, None if options.weeks is None else start + options.weeks * 7 * DAY)
    finally:
        run.close()
    answers = answers_of(pipeline, year, start + WARM_UP)
    figures = figures_of(answers, year.outcomes)
    difference = figures["weekly"].auc - figures["plain"].auc
    table = table_of(figures)
    sys.stdout.write(f"{table}\n\nweekly retrain less the plain script: {difference:+.6f} in ROC AUC, goal {GOAL}\n")
    page = options.docs / "strategies.md"
    page.write_text(with_table(page.read_text(), table))
    plot(weeks_of(year.at, answers, year.outcomes, start + WARM_UP), options.docs / "strategies.svg")
    sys.exit(abs(difference) > GOAL)


if __name__ == "__main__":
    main()
