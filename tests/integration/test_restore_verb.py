"""A backup that is older than the folds beside it: they are rebuilt, and the verb says so."""

import json
import shutil
from itertools import islice
from pathlib import Path

import pytest
from click.testing import CliRunner

from journal.body import Decision, decode
from journal.record import Kind
from rivermill.journal_commands import journal
from rivermill.pipeline import load_pipeline
from rivermill.place import Place
from rivermill.settings import Home, configs_folder
from rivermill.wiring import Run, open_run

pytestmark = pytest.mark.slow

EARLY, LATE = 40, 80


def verb(home: Home, *arguments: str) -> dict[str, str]:
    place = Place(home.root, configs_folder())
    result = CliRunner().invoke(journal, [*arguments, "--json"], obj=place, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    facts: dict[str, str] = json.loads(result.stdout)
    return facts


def digests(run: Run) -> list[str]:
    return [runner.fold.digest() for runner in run.folds.runners]


def test_folds_that_are_ahead_of_the_backup_are_rebuilt(tmp_path: Path) -> None:
    pipeline = load_pipeline(configs_folder() / "phishing")
    assert pipeline.recorded is not None
    events = list(islice(pipeline.recorded(), LATE))
    home = Home(tmp_path / "home", "phishing")
    run = open_run(pipeline, home)
    run.lockstep.play(events[:EARLY], "test")
    run.close()
    backup = tmp_path / "backup"
    end = int(verb(home, "backup", "phishing", str(backup))["end"])
    run = open_run(pipeline, home)
    early = digests(run)
    run.lockstep.play(events, "test")
    stood = run.folds.runners[0].offset
    assert digests(run) != early
    run.close()
    shutil.rmtree(home.journal)
    (home.folder / "control.sqlite").unlink()

    done = verb(home, "restore", "phishing", str(backup), "--why", "the disk died")
    assert f"features (stood at {stood})" in done["rebuilt at the next start"]
    run = open_run(pipeline, home)
    assert digests(run) == early
    (record,) = run.journal.read(0, end, 10)
    decision = decode(record.body, Decision)
    assert (record.kind, decision.action, decision.why) == (Kind.DECISION, "restore", "the disk died")
    assert decision.details["was"] != run.journal.incarnation == decision.details["incarnation"]
    run.close()
