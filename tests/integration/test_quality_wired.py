"""A pipeline's quality rules in a run: measured where there are some, and no file where there are none."""

import dataclasses
from itertools import islice
from pathlib import Path

import pytest

from journal.checkpoint import positions_in
from journal.clock import HOUR
from journal.quality import QualityFold, alerts_in
from journal.stage_rule import missing_features
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.settings import Home, configs_folder
from rivermill.wiring import FOLDS, open_run

pytestmark = pytest.mark.slow

EVENTS = 1_200


def play(pipeline: Pipeline, home: Home, count: int) -> list[str]:
    """Play so many events of the recording; the names of the rules that alerted so far."""
    assert pipeline.recorded is not None
    run = open_run(pipeline, home)
    try:
        run.lockstep.play(islice(pipeline.recorded(), count), "test")
        return [alert.name for _, alert in alerts_in(run.journal)]
    finally:
        run.close()


def test_rules_alert_and_leave_no_file_when_they_are_gone(tmp_path: Path) -> None:
    plain, home = load_pipeline(configs_folder() / "phishing"), Home(tmp_path, "phishing")
    rule = missing_features(plain.views[0].name, name="nothing-may-miss", most=0.0, window=HOUR)
    ruled = dataclasses.replace(plain, quality=(rule,))
    assert set(play(ruled, home, EVENTS)) == {"nothing-may-miss"}
    places = positions_in(home.fold("x").parent)
    assert places.keys() == {*FOLDS, QualityFold.name}
    assert places[QualityFold.name] == places["join"] > EVENTS
    play(plain, home, EVENTS + 50)
    assert positions_in(home.fold("x").parent).keys() == set(FOLDS)
