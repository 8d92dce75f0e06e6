"""Homes in which a recording was played, with its retrains."""

from pathlib import Path

from rivermill.agenda import Retrains
from rivermill.pipeline import Pipeline
from rivermill.registry_wiring import lines_of, retrainer_of
from rivermill.settings import Home
from rivermill.wiring import open_run


def play_with_retrains(pipeline: Pipeline, root: Path) -> Home:
    """Play all of a pipeline's recording in a new home, in lock-step; retrains run in this process."""
    assert pipeline.recorded is not None
    home = Home(root, pipeline.name)
    run = open_run(pipeline, home)
    retrains = Retrains(run, retrainer_of(run, lines_of(run)), ray_once=False, say=lambda _: None)
    run.lockstep.play(pipeline.recorded(), "test", agenda=retrains)
    run.close()
    return home
