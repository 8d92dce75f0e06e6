"""A retrain: candidates on temporal folds, the winner fitted again on everything, and the portable model it becomes.

Everything but the wall times follows from the rows, the recipes and the settings. Where the fits ran does not show:
one thread each, seeds from content, and results taken in the order of the candidates.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from journal.errors import JobFailed
from registry.flavors.export import Exported, export
from training.candidates import Task, Tested, Work, fit_recipe, outcomes_of, score_candidate, times_of
from training.executor import Executor, SerialExecutor, one_thread
from training.folds import Fold, temporal_folds
from training.metrics import exact_auc, log_loss
from training.ray_executor import RayExecutor
from training.recipe import MakeByName, Recipe, RetrainSpec, estimate_seconds, seed_of

PROBE_ROWS = 256
CHECK_ROWS = 5_000

Say = Callable[[str], None]


class FoldScore(NamedTuple):
    """A candidate's figures on one test window."""

    log_loss: float
    auc: float
    rows: int


class _Candidate(NamedTuple):
    """A recipe with its figures by fold, its scores on every fold's test rows and its wall time."""

    recipe: Recipe
    scores: tuple[FoldScore, ...]
    tested: NDArray[np.float64]
    seconds: float


@dataclass(frozen=True, slots=True)
class Holdout:
    """Every fold's test rows, with what the winner said about them when it knew that fold's past alone.

    Attributes:
        prediction: Journal offsets of the predictions; shape (n,), like the others.
        at: When they were asked, in microseconds.
        outcome: What came of them.
        score: Probability of True, from the winner as fitted on the training rows of the row's fold.
    """

    prediction: NDArray[np.int64]
    at: NDArray[np.int64]
    outcome: NDArray[np.bool_]
    score: NDArray[np.float64]


class Probe(NamedTuple):
    """Predictions with what the winner's own estimator says to them: what serves must say the same.

    Attributes:
        predictions: Journal offsets.
        scores: Probabilities of True, from scikit-learn.
    """

    predictions: list[int]
    scores: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrained:
    """What came of a retrain.

    Attributes:
        winner: Name of the recipe with the lowest mean log loss.
        scores: Each candidate's figures by fold, in the order of the recipes.
        holdout: The rows that the winner was tested on.
        probe: Some of the rows that it was fitted on, with its answers.
        exported: The winner, fitted on all rows, as a portable model.
        rows: How many it was fitted on.
        width: Columns of its matrix.
        fit_seconds: Each candidate's wall time over its folds, and ``refit``. Never part of a digest, nor is the note.
        executor_note: Why the fits ran otherwise than asked for; empty when they did not.
    """

    winner: str
    scores: dict[str, tuple[FoldScore, ...]]
    holdout: Holdout
    probe: Probe
    exported: Exported
    rows: int
    width: int
    fit_seconds: dict[str, float]
    executor_note: str


def retrain(
    rows: pa.Table, spec: RetrainSpec, make: MakeByName, executor: Executor, say: Say = lambda _: None
) -> Retrained:
    """Fit every recipe on every fold, choose, fit the winner on all rows and export it.

    Args:
        rows: A dataset version's rows.
        spec: What to do; its ``hash`` is taken as the rows'.
        make: Finds recipe functions.
        executor: Where the fits run.
        say: Told about the progress.

    Raises:
        Refused: The rows do not make such folds.
        JobFailed: A candidate's scores are not finite.
    """
    recipes = spec.settings.recipes
    for recipe in recipes:
        make(recipe.function)
    folds = folds_of(rows, spec)
    work = Work(rows, spec.hash, make)
    candidates = _test(work, recipes, folds, executor, say)
    winner = candidates[choose([candidate.scores for candidate in candidates])]
    say(f"{winner.recipe.name} wins; fitting it on all {len(rows)} rows")
    begun = time.perf_counter()
    exported, probe, width = _refit(work, winner.recipe, len(folds))
    seconds = {candidate.recipe.name: candidate.seconds for candidate in candidates}
    return Retrained(
        winner=winner.recipe.name,
        scores={candidate.recipe.name: candidate.scores for candidate in candidates},
        holdout=_holdout(rows, folds, winner.tested),
        probe=probe,
        exported=exported,
        rows=len(rows),
        width=width,
        fit_seconds={**seconds, "refit": time.perf_counter() - begun},
        executor_note=executor.note,
    )


def folds_of(rows: pa.Table, spec: RetrainSpec) -> tuple[Fold, ...]:
    """The folds that the settings ask for; raises `Refused` when the rows do not make them."""
    settings = spec.settings
    return temporal_folds(times_of(rows), outcomes_of(rows), count=settings.folds, test=settings.test, gap=settings.gap)


def choose_executor(rows: pa.Table, spec: RetrainSpec) -> Executor:
    """Ray or not: as the spec says, and under ``auto`` by the work that the folds mean."""
    if spec.executor == "auto":
        fits = [fold.train for fold in folds_of(rows, spec) for _ in spec.settings.recipes]
        small = estimate_seconds(fits, rows.num_columns) < spec.settings.serial_below
        return SerialExecutor() if small else RayExecutor()
    return RayExecutor() if spec.executor == "ray" else SerialExecutor()


def choose(scores: Sequence[Sequence[FoldScore]]) -> int:
    """The candidate with the lowest mean log loss; the first of them on a tie."""
    means = [math.fsum(fold.log_loss for fold in folds) / len(folds) for folds in scores]
    return means.index(min(means))


def _test(
    work: Work, recipes: Sequence[Recipe], folds: Sequence[Fold], executor: Executor, say: Say
) -> list[_Candidate]:
    """Every recipe on every fold, gathered in their order."""
    tasks = [Task(recipe, number, fold) for recipe in recipes for number, fold in enumerate(folds)]
    outcomes = outcomes_of(work.rows)
    tested, figures = [], []
    with closing(executor.map(score_candidate, work, tasks)) as results:
        for task, result in zip(tasks, results, strict=True):
            tested.append(result)
            figures.append(_score(task, result, outcomes))
            say(f"{task.recipe.name}, fold {task.number}: log loss {figures[-1].log_loss:.5f}, {result.seconds:.1f} s")
    if executor.note:
        say(executor.note)
    cuts = [slice(n, n + len(folds)) for n in range(0, len(tasks), len(folds))]
    return [
        _Candidate(
            recipe,
            tuple(figures[cut]),
            np.concatenate([each.scores for each in tested[cut]]),
            sum(each.seconds for each in tested[cut]),
        )
        for recipe, cut in zip(recipes, cuts, strict=True)
    ]


def _score(task: Task, tested: Tested, outcomes: NDArray[np.bool_]) -> FoldScore:
    scores, known = tested.scores, outcomes[task.fold.first : task.fold.last]
    area = exact_auc(scores, known)
    if area is None or not np.all(np.isfinite(scores)):
        raise JobFailed(
            which=f"{task.recipe.name} on fold {task.number} gave scores that are not finite",
            fix="Look at its function in models.py",
        )
    losses = map(log_loss, scores.tolist(), known.tolist())
    return FoldScore(math.fsum(losses) / len(scores), area, len(scores))


def _refit(work: Work, recipe: Recipe, number: int) -> tuple[Exported, Probe, int]:
    """Fit on every row and export; probed on rows that the content chooses, checked on the newest."""
    encoder, classifier, matrix = fit_recipe(work, recipe, number, work.rows)
    chooser = np.random.default_rng(seed_of(work.hash, "probe", 0))
    chosen = np.sort(chooser.choice(len(matrix), min(PROBE_ROWS, len(matrix)), replace=False))
    with one_thread():
        exported = export(classifier, encoder, probe=matrix[chosen], check=matrix[-CHECK_ROWS:])
        scores = classifier.predict_proba(matrix[chosen])[:, 1]
    offsets = np.asarray(work.rows.column("prediction").combine_chunks())[chosen]
    return exported, Probe(offsets.tolist(), scores.tolist()), encoder.width


def _holdout(rows: pa.Table, folds: Sequence[Fold], scores: NDArray[np.float64]) -> Holdout:
    test = pa.concat_tables([rows.slice(fold.first, fold.last - fold.first) for fold in folds])
    offsets = np.asarray(test.column("prediction").combine_chunks())
    return Holdout(offsets, times_of(test), outcomes_of(test), scores)
