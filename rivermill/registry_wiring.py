"""Wiring of lines, retrains and MLflow: in lock-step over a run, live over a journal that another process owns."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from journal.blobs import DirectoryBlobs
from journal.checkpoint import FoldFile
from journal.record import Draft
from journal.sqlite_reader import SqliteReader
from rivermill.evaluation import Evaluation
from rivermill.lines import Lines
from rivermill.pipeline import Pipeline
from rivermill.retraining import Retrainer
from rivermill.settings import Home
from rivermill.wiring import Run, control_of, predictor_of, signer_of
from training.jobs import JobTable
from training.learner_state import StateStore
from training.scores import stored_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from registry.mlflow_registry import MlflowRegistry
    from rivermill.projection import Logged, Projection


def lines_of(run: Run) -> Lines:
    """The lines of a pipeline that this process owns, in lock-step."""
    evaluation = Evaluation(
        run.pipeline,
        run.journal,
        DirectoryBlobs(run.home.blobs),
        lambda: predictor_of(run.pipeline, run.home),
        run.folds.learner.scores.table,
    )
    return Lines(
        pipeline=run.pipeline,
        control=run.control,
        evaluation=evaluation,
        land=run.lockstep.land,
        clock=lambda: run.journal.clock,
        signer=signer_of(run.home),
        lockstep=True,
    )


def retrainer_of(run: Run, lines: Lines) -> Retrainer:
    """Retrains of a pipeline that this process owns, in lock-step."""
    return Retrainer(
        pipeline=run.pipeline,
        home=run.home,
        journal=run.journal,
        land=run.lockstep.land,
        lines=lines,
        blobs=DirectoryBlobs(run.home.blobs),
        signer=signer_of(run.home),
    )


def projection_of(run: Run, say: Callable[[str], None]) -> "Projection":
    """MLflow's mirror of a pipeline that this process owns."""
    from rivermill.projection import Projection  # noqa: PLC0415 - only where MLflow is wanted

    return Projection(
        lines=lines_of(run),
        journal=run.journal,
        blobs=DirectoryBlobs(run.home.blobs),
        datasets=run.home.datasets,
        mlflow=mlflow_of(run.home.root),
        say=say,
    )


def live_lines(pipeline: Pipeline, home: Home, journal: SqliteReader, land: Callable[[Draft], None]) -> Lines:
    """The lines of a pipeline whose journal another process may own."""

    def online_rows() -> "NDArray[np.void]":
        file = FoldFile(home.fold("learner"), readonly=True)
        try:
            stored = _state_store(pipeline, home).read(file)
            return stored_rows(file, stored[1].scores, stored[1].last_scores) if stored else stored_rows(file, 0, b"")
        finally:
            file.close()

    evaluation = Evaluation(
        pipeline, journal, DirectoryBlobs(home.blobs), lambda: predictor_of(pipeline, home), online_rows
    )
    return Lines(
        pipeline=pipeline,
        control=control_of(home),
        evaluation=evaluation,
        land=land,
        clock=lambda: journal.clock,
        signer=signer_of(home),
        lockstep=False,
    )


def live_projection(
    lines: Lines,
    home: Home,
    journal: SqliteReader,
    mlflow: "MlflowRegistry",
    say: Callable[[str], None],
    logged: "Logged",
) -> "Projection":
    """MLflow's mirror beside a journal that another process owns; ``logged`` remembers between two runs."""
    from rivermill.projection import Projection  # noqa: PLC0415 - only where MLflow is wanted

    return Projection(
        lines=lines,
        journal=journal,
        blobs=DirectoryBlobs(home.blobs),
        datasets=home.datasets,
        mlflow=mlflow,
        say=say,
        logged=logged,
    )


def live_retrainer(lines: Lines, home: Home, journal: SqliteReader) -> Retrainer:
    """Retrains beside a journal that another process owns."""
    return Retrainer(
        pipeline=lines.pipeline,
        home=home,
        journal=journal,
        land=lines.land,
        lines=lines,
        blobs=DirectoryBlobs(home.blobs),
        signer=lines.signer,
    )


def _state_store(pipeline: Pipeline, home: Home) -> StateStore:
    line = pipeline.line
    return StateStore(DirectoryBlobs(home.blobs), signer_of(home), line.settings.line, line.flavor)


def jobs_of(home: Home) -> JobTable:
    """The pipeline's training jobs."""
    return JobTable(control_of(home).engine)


def mlflow_of(root: Path, uri: str = "", ui: str = "") -> "MlflowRegistry":
    """The MLflow registry of a home: its own database, or a tracking server."""
    from registry.mlflow_registry import MlflowRegistry  # noqa: PLC0415 - costs what only a registration should pay

    folder = (root / "mlflow").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return MlflowRegistry(uri or f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts", ui)
