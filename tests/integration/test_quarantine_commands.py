"""The quarantine's and the quality rules' verbs, over a home in which a pipeline has run and nothing runs now."""

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import click
import pytest

from journal.body import Alert, draft_of
from journal.errors import RivermillError
from journal.record import Kind
from journal.sqlite_log import SqliteJournal
from rivermill.auditing import audit_log
from rivermill.pipeline import load_pipeline
from rivermill.place import Place
from rivermill.quarantine_commands import quality, quarantine
from rivermill.settings import Home, configs_folder
from rivermill.wiring import open_run

pytestmark = pytest.mark.slow

Verb = Callable[..., Any]
SOUND = 60


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A run of the phishing pipeline, with three visits in quarantine; the wrong field is `popup_window`."""
    pipeline = load_pipeline(configs_folder() / "phishing")
    assert pipeline.recorded is not None
    recorded = list(islice(pipeline.recorded(), SOUND))
    visit = json.loads(next(raw for raw in recorded if b'"type":"visits"' in raw))
    bad = [visit | {"id": f"bad-{n}", "data": visit["data"] | {"popup_window": 7 + n}} for n in range(3)]
    home = Home(tmp_path, "phishing")
    run = open_run(pipeline, home)
    run.lockstep.play([*recorded, *(json.dumps(event).encode() for event in bad)], "test")
    run.close()
    return home


@pytest.fixture
def verb(home: Home, capsys: pytest.CaptureFixture[str]) -> Verb:
    def run(group: click.Group, *arguments: str) -> Any:
        place = Place(home.root, configs_folder())
        group.main([*arguments, "--json"], obj=place, standalone_mode=False)
        return json.loads(capsys.readouterr().out)

    return run


def test_from_the_list_to_three_ends(home: Home, verb: Verb, tmp_path: Path) -> None:
    waiting = verb(quarantine, "list", "phishing", "--stream", "visits", "--reason", "POPUP_window")
    assert [row["state"] for row in waiting] == ["waiting"] * 3
    assert verb(quarantine, "list", "phishing", "--reason", "no such words") == []
    assert verb(quarantine, "list", "phishing", "--stream", "reports") == []
    first, second, third = (row["id"] for row in waiting)

    shown = verb(quarantine, "show", "phishing", first)
    assert (shown["event"]["id"], shown["event"]["data"]["popup_window"]) == ("bad-0", 7)
    data = tmp_path / "data.json"
    data.write_text(json.dumps(shown["event"]["data"] | {"popup_window": 1.0}))
    fixed = verb(quarantine, "fix", "phishing", first, "--data", str(data), "--why", "the sensor says 1")
    assert (fixed["state"], fixed["event"], fixed["stream"]) == ("fixed", "bad-0", "visits")
    assert verb(quarantine, "discard", "phishing", second, "--why", "a test")["state"] == "discarded"
    with pytest.raises(RivermillError, match="popup_window"):
        verb(quarantine, "release", "phishing", third, "--why", "as it is")

    counts = {"quarantined": 3, "waiting": 1, "released": 0, "fixed": 1, "discarded": 1, "erased": 0}
    assert verb(quarantine, "counts", "phishing") == counts
    ended = {row["id"]: row for row in verb(quarantine, "list", "phishing", "--state", "all") if "why" in row}
    assert {row["why"] for row in ended.values()} == {"the sensor says 1", "a test"}
    assert all(row["settled by"].startswith("local:") for row in ended.values())
    journal = SqliteJournal(home.journal, "phishing")
    answered = journal.of_kind(Kind.PREDICTION, fixed["offset"], 9)
    journal.close()
    assert answered, "the fixed visit is a question, and the folds saw it"


def test_a_reveal_is_written_down(home: Home, verb: Verb) -> None:
    (row, *_) = verb(quarantine, "list", "phishing")
    with pytest.raises(click.UsageError, match="--why"):
        verb(quarantine, "show", "phishing", row["id"], "--reveal")
    verb(quarantine, "show", "phishing", row["id"], "--reveal", "--why", "a producer asked")
    with pytest.raises(RivermillError, match="'q-none'"):
        verb(quarantine, "show", "phishing", "q-none", "--reveal", "--why", "a typing error")
    control, _ = audit_log(home.root, "phishing")
    with control.database.reading() as connection:
        rows = [row for row in control.audited.rows(connection, "phishing") if row.action == "reveal"]
    assert [(row.object, row.why) for row in rows] == [
        (rows[0].object, "a producer asked"),
        ("q-none", "a typing error"),
    ]
    assert rows[0].object == row["id"]
    assert rows[0].outcome != rows[1].outcome


def test_a_fix_of_nothing_is_wrong_usage(verb: Verb) -> None:
    with pytest.raises(click.UsageError, match="Nothing is corrected"):
        verb(quarantine, "fix", "phishing", "q-1", "--why", "?")


def test_an_alert_stands_until_somebody_resumes(home: Home, verb: Verb) -> None:
    assert verb(quality, "list", "phishing") == []
    journal = SqliteJournal(home.journal, "phishing")
    body = Alert(
        name="popups",
        stage="intake",
        stream="visits",
        field="popup_window",
        metric="missing",
        measured=0.5,
        most=0.1,
        begins=0,
        ends=1_000_000,
        stop=True,
        events=40,
    )
    journal.append([draft_of(body, kind=Kind.ALERT, stream="quality", id="alert-popups-0")])
    journal.close()
    (alert,) = verb(quality, "list", "phishing")
    assert (alert["rule"], alert["about"], alert["stops"]) == ("popups", "visits.popup_window", True)
    with pytest.raises(RivermillError, match="there are: popups"):
        verb(quality, "resume", "phishing", "popup", "--why", "mended")
    decided = verb(quality, "resume", "phishing", "popups", "--why", "mended")
    assert (decided["action"], decided["rule"]) == ("resume", "popups")
    open_run(load_pipeline(configs_folder() / "phishing"), home).close()
    assert verb(quality, "list", "phishing") == []
    assert len(verb(quality, "list", "phishing", "--all")) == 1
