"""A pipeline's quality rules in a run: measured where there are some, and no file where there are none."""

import dataclasses
import re
from itertools import islice
from pathlib import Path

import pytest

from journal.checkpoint import positions_in
from journal.clock import HOUR
from journal.contract import QualityRule
from journal.errors import Stopped
from journal.quality import QualityFold, alerts_in
from journal.stage_rule import missing_features, rules_of
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.quarantine_desk import resume
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
    plain = dataclasses.replace(load_pipeline(configs_folder() / "phishing"), quality=())
    home = Home(tmp_path, "phishing")
    rule = missing_features(plain.views[0].name, name="nothing-may-miss", most=0.0, window=HOUR)
    ruled = dataclasses.replace(plain, quality=(rule,))
    assert set(play(ruled, home, EVENTS)) == {"nothing-may-miss"}
    places = positions_in(home.fold("x").parent)
    assert places.keys() == {*FOLDS, QualityFold.name}
    assert places[QualityFold.name] == places["join"] > EVENTS
    play(plain, home, EVENTS + 50)
    assert positions_in(home.fold("x").parent).keys() == set(FOLDS)


def spoiled(pipeline: Pipeline) -> list[bytes]:
    """The recording's first events, a stretch of the visits with a text where a number must stand."""
    assert pipeline.recorded is not None
    events = list(islice(pipeline.recorded(), EVENTS))
    visits = [n for n, raw in enumerate(events) if b'"type":"visits"' in raw]
    for n in visits[150:170]:
        events[n] = re.sub(rb'"https":[0-9.]+', b'"https":"none"', events[n])
    return events


def stopped_at(pipeline: Pipeline, home: Home, group: int) -> int:
    """How many events enter before the rule stops the run; it stops again at the same place after a restart."""
    places = []
    for _ in range(2):
        run = open_run(pipeline, home)
        try:
            with pytest.raises(Stopped, match="too-many-invalid"):
                run.lockstep.play(spoiled(pipeline), "test", group=group)
            mark = run.journal.mark("test")
            assert mark is not None
            places.append(mark.offset)
        finally:
            run.close()
    assert places[0] == places[1]
    return places[0]


def test_a_rule_that_stops_a_stream_ends_the_run_before_its_next_event(tmp_path: Path) -> None:
    plain = load_pipeline(configs_folder() / "phishing")
    rule = QualityRule(name="too-many-invalid", field="https", metric="invalid", most=0.01, window=HOUR, stop=True)
    visits = dataclasses.replace(plain.contracts["visits"], quality=(rule,))
    ruled = dataclasses.replace(plain, quality=rules_of({**plain.contracts, "visits": visits}))
    homes = {group: Home(tmp_path / str(group), "phishing") for group in (1, 70, 8_000)}
    places = {stopped_at(ruled, home, group) for group, home in homes.items()}
    assert len(places) == 1
    decided = resume(homes[70], "too-many-invalid", why="seen", principal="anna", key="k")
    assert decided["action"] == "resume"
    run = open_run(ruled, homes[70])
    try:
        assert run.lockstep.play(spoiled(ruled), "test") == EVENTS
    finally:
        run.close()
