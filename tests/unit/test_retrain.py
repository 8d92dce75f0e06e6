"""Retrains in one process: the right winner, honest scores, and one answer however often it is asked."""

from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

from features.dataset import hash_rows
from journal.clock import DAY, HOUR
from journal.errors import JobFailed, Refused
from registry.flavors import batch
from training.candidates import Task, Work, features_of, score_candidate, times_of
from training.executor import SerialExecutor
from training.folds import temporal_folds
from training.metrics import exact_auc
from training.ray_executor import RayExecutor
from training.recipe import Recipe, RetrainSettings, RetrainSpec, estimate_seconds, seed_of
from training.retrain import FoldScore, Retrained, choose, choose_executor, folds_of, retrain

BOOSTING = Recipe(name="boosting", function="boosting", encoding="codes")
LOGISTIC = Recipe(name="logistic", function="logistic", encoding="dense")


def boosting(*, seed: int, categorical: Sequence[int]) -> Any:
    return HistGradientBoostingClassifier(
        max_iter=8, random_state=seed, categorical_features=list(categorical), early_stopping=False
    )


def logistic(*, seed: int, categorical: Sequence[int]) -> Any:
    assert not categorical
    return LogisticRegression(max_iter=200, random_state=seed)


MAKE: dict[str, Callable[..., Any]] = {"boosting": boosting, "logistic": logistic}


def made(count: int = 1500, *, straight: bool = True) -> pa.Table:
    """Rows an hour apart. ``straight``: the outcome follows a line; otherwise only a tree can tell."""
    rng = np.random.default_rng(7)
    x, z = rng.normal(size=(2, count))
    score = 2 * x if straight else 4 * np.where(x * z > 0, 1, -1)
    return pa.table(
        {
            "prediction": pa.array(np.arange(count) * 3 + 5),
            "at": pa.array(np.arange(count) * HOUR).cast(pa.timestamp("us", "UTC")),
            "key": pa.array([f"k{n}" for n in range(count)]),
            "x": pa.array(x, mask=rng.random(count) < 0.05),
            "z": pa.array(z),
            "carrier": pa.array(rng.choice(["AA", "UA", "WN"], count), mask=rng.random(count) < 0.05),
            "weekday": pa.array(np.arange(count) // 24 % 7),
            "outcome": pa.array(rng.random(count) < 1 / (1 + np.exp(-score))),
        }
    )


def spec_of(rows: pa.Table, **changes: Any) -> RetrainSpec:
    settings: dict[str, Any] = {
        "recipes": (BOOSTING, LOGISTIC),
        "folds": 3,
        "test": 7 * DAY,
        "gap": 2 * DAY,
        "every": 7 * DAY,
        "first": 28 * DAY,
    }
    return RetrainSpec(
        root="",
        dataset="d",
        hash=hash_rows(rows),
        models="",
        models_hash="",
        settings=RetrainSettings(**{**settings, **changes}),
    )


def run(rows: pa.Table, **changes: Any) -> Retrained:
    return retrain(rows, spec_of(rows, **changes), MAKE.__getitem__, SerialExecutor())


@pytest.fixture(scope="module")
def straight() -> Retrained:
    return run(made())


def test_the_recipe_that_fits_the_data_wins(straight: Retrained) -> None:
    assert straight.winner == "logistic"
    assert run(made(straight=False)).winner == "boosting"


def test_every_candidate_is_scored_on_every_fold(straight: Retrained) -> None:
    assert list(straight.scores) == ["boosting", "logistic"]
    assert [score.rows for scores in straight.scores.values() for score in scores] == [168] * 6
    assert all(score.auc > 0.8 and 0 < score.log_loss < 0.6 for score in straight.scores["logistic"])


def test_the_holdout_is_every_test_window_scored_by_a_model_that_had_not_seen_it(straight: Retrained) -> None:
    rows, holdout = made(), straight.holdout
    assert holdout.prediction.tolist() == rows.column("prediction").to_pylist()[-504:]
    assert holdout.at.tolist() == times_of(rows)[-504:].tolist()
    assert holdout.outcome.tolist() == rows.column("outcome").to_pylist()[-504:]
    for number, score in enumerate(straight.scores["logistic"]):
        fold = slice(168 * number, 168 * (number + 1))
        assert exact_auc(holdout.score[fold], holdout.outcome[fold]) == score.auc
    final = batch.load(straight.exported.data)
    names = features_of(rows)[0]
    again = [batch.predict_one(final, batch.inputs(names, list(row.values()))) for row in _features(rows, names)]
    assert not np.array_equal(again[-504:], holdout.score), "the refitted model has seen them, and answers otherwise"


def _features(rows: pa.Table, names: Sequence[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = rows.select(list(names)).to_pylist()
    return found


def test_the_same_rows_give_the_same_model_and_scores(straight: Retrained) -> None:
    again = run(made())
    assert (again.exported.digest, again.scores) == (straight.exported.digest, straight.scores)
    assert again.holdout.score.tobytes() == straight.holdout.score.tobytes()
    assert (again.rows, again.width) == (1500, straight.width)


def test_another_row_gives_another_model(straight: Retrained) -> None:
    assert run(made(1499)).exported.digest != straight.exported.digest


def test_a_fold_is_blind_to_everything_after_its_training_rows() -> None:
    rows = made()
    fold = temporal_folds(times_of(rows), np.asarray(rows.column("outcome")), count=1, test=7 * DAY, gap=2 * DAY)[0]
    flipped = rows.set_column(
        rows.column_names.index("outcome"),
        "outcome",
        pa.array([value != (place >= fold.train) for place, value in enumerate(rows.column("outcome").to_pylist())]),
    )
    seen = [
        score_candidate(Work(table, "hash", MAKE.__getitem__), Task(recipe, 0, fold)).scores.tobytes()
        for recipe in (BOOSTING, LOGISTIC)
        for table in (rows, flipped)
    ]
    assert seen[0] == seen[1]
    assert seen[2] == seen[3]


def test_a_fit_uses_one_thread() -> None:
    seen: list[int] = []

    class Watching(LogisticRegression):  # type: ignore[misc]
        def fit(self, x: Any, y: Any) -> Any:
            seen.extend(pool["num_threads"] for pool in threadpool_info())
            return super().fit(x, y)

    rows = made()
    fold = folds_of(rows, spec_of(rows))[0]
    make: Callable[[str], Callable[..., Any]] = lambda _: lambda **_: Watching()  # noqa: E731
    score_candidate(Work(rows, "hash", make), Task(LOGISTIC, 0, fold))
    assert seen
    assert set(seen) == {1}


def test_ties_go_to_the_first_recipe() -> None:
    same, worse = FoldScore(0.5, 0.7, 10), FoldScore(0.6, 0.9, 10)
    assert choose([(worse, worse), (same, worse), (worse, same)]) == 1


def test_seeds_follow_from_content() -> None:
    seeds = {seed_of(hash, name, fold) for hash in ("a", "b") for name in ("x", "y") for fold in (0, 1)}
    assert len(seeds) == 8
    assert seed_of("a", "x", 0) == 79232640
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_each_fit_is_told_its_own_seed() -> None:
    told: list[int] = []

    def recipe(*, seed: int, categorical: Sequence[int]) -> Any:
        told.append(seed)
        return logistic(seed=seed, categorical=categorical)

    rows = made()
    retrain(rows, spec_of(rows, recipes=(LOGISTIC,)), lambda _: recipe, SerialExecutor())
    assert told == [seed_of(hash_rows(rows), "logistic", number) for number in range(4)]


def test_a_model_without_finite_answers_is_no_candidate() -> None:
    class Lost(LogisticRegression):  # type: ignore[misc]
        def predict_proba(self, x: Any) -> Any:
            return np.full((len(x), 2), np.nan)

    rows = made()
    with pytest.raises(JobFailed, match="logistic on fold 0 gave scores that are not finite"):
        retrain(rows, spec_of(rows, recipes=(LOGISTIC,)), lambda _: lambda **_: Lost(), SerialExecutor())


def test_an_executor_is_closed_when_a_candidate_fails() -> None:
    class Counting(SerialExecutor):
        closed = False

        def map(self, *arguments: Any) -> Generator[Any, None, None]:
            try:
                yield from super().map(*arguments)
            finally:
                self.closed = True

    def broken(**_: Any) -> Any:
        message = "no such solver"
        raise ValueError(message)

    rows, executor = made(), Counting()
    with pytest.raises(ValueError, match="no such solver"):
        retrain(rows, spec_of(rows), lambda _: broken, executor)
    assert executor.closed


def test_rows_that_make_no_folds_are_refused_before_anything_is_fitted() -> None:
    with pytest.raises(Refused, match="fold 0"):
        run(made(100))


def test_a_column_that_is_no_feature_is_refused() -> None:
    rows = made().append_column("when", pa.array([None] * 1500, pa.date32()))
    with pytest.raises(Refused, match=r"when is date32\[day\]"):
        run(rows)


def test_small_work_stays_here_and_large_work_goes_to_ray() -> None:
    rows = made()
    assert isinstance(choose_executor(rows, spec_of(rows)), SerialExecutor)
    assert isinstance(choose_executor(rows, spec_of(rows, serial_below=0.5)), RayExecutor)


def test_the_estimate_is_that_of_the_measurement_it_was_made_from() -> None:
    assert estimate_seconds([20_000], 20) == pytest.approx(0.46, rel=0.2)
    assert estimate_seconds([60_000], 20) == pytest.approx(0.89, rel=0.4)


def test_the_probe_is_what_the_estimator_itself_says_to_recorded_predictions(straight: Retrained) -> None:
    rows, probe = made(), straight.probe
    known = rows.column("prediction").to_pylist()
    places = [known.index(offset) for offset in probe.predictions]
    assert len(places) == 256
    assert places == sorted(places)
    final, names = batch.load(straight.exported.data), features_of(rows)[0]
    values = [list(row.values()) for row in _features(rows, names)]
    served = [batch.predict_one(final, batch.inputs(names, values[place])) for place in places]
    assert max(abs(ours - theirs) for ours, theirs in zip(served, probe.scores, strict=True)) < 1e-9
