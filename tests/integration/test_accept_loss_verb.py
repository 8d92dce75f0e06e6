"""A pipeline whose journal lost its end: nothing starts, the loss is accepted, what is sent again comes in."""

import json
import os
import shutil
from itertools import islice
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from journal.body import Decision, decode
from journal.errors import Corrupt
from journal.record import Kind
from journal.segment import segment_path
from rivermill.audit_commands import audit
from rivermill.journal_commands import journal
from rivermill.pipeline import load_pipeline
from rivermill.place import Place
from rivermill.settings import Home, configs_folder
from rivermill.wiring import open_run

pytestmark = pytest.mark.slow

KEPT, SENT = 40, 80


def repair(home: Home, *arguments: str) -> Result:
    place = Place(home.root, configs_folder())
    return CliRunner().invoke(journal, ["repair", "phishing", *arguments], obj=place, catch_exceptions=False)


def test_the_walk(tmp_path: Path) -> None:
    pipeline = load_pipeline(configs_folder() / "phishing")
    assert pipeline.recorded is not None
    events = list(islice(pipeline.recorded(), SENT))
    living, home = Home(tmp_path / "living", "phishing"), Home(tmp_path / "home", "phishing")
    run = open_run(pipeline, living)
    log = segment_path(living.journal, 0).with_name("segment-000000000000.sqlite-wal")
    run.lockstep.play(events[:KEPT], "test")
    kept, end = log.stat().st_size, run.journal.end()
    run.lockstep.play(events, "test")
    acknowledged = run.journal.end()
    # As a power cut leaves it whose disk had said that it synced, and had not.
    shutil.copytree(living.root, home.root)
    run.close()
    os.truncate(home.journal / log.name, kept)

    with pytest.raises(Corrupt, match=f"records {end + 1} to {acknowledged} were acknowledged"):
        open_run(pipeline, home)
    assert repair(home, "--accept-loss").exit_code == 2, "a loss needs a reason"
    loss = json.loads(repair(home, "--accept-loss", "--why", "the disk lied", "--json").stdout)
    assert (loss["end"], loss["acknowledged"]) == (end, acknowledged)

    shown = CliRunner().invoke(audit, ["show", "phishing", "--json"], obj=Place(home.root, configs_folder()))
    rows = [row for row in json.loads(shown.stdout) if row["action"] == "accept_loss"]
    assert [(row["object"], row["why"]) for row in rows] == [(loss["incarnation"], "the disk lied")]

    run = open_run(pipeline, home)
    (record,) = run.journal.read(0, end, 1)
    assert (record.kind, decode(record.body, Decision).details) == (Kind.DECISION, loss)
    assert run.journal.incarnation == loss["incarnation"]
    run.lockstep.play(events, "test")
    assert run.journal.end() == acknowledged + 1, "what was lost is taken in once more, behind the decision"
    assert {runner.offset for runner in run.folds.runners} == {acknowledged + 1}
    run.close()
