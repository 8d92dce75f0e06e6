"""Lines of a real run in lock-step: what may answer, what does, and how that changes.

The run is played once: its schedule promoted a version, the online line, and another version; one stayed a candidate.
Every test decides in a copy of it.
"""

import dataclasses
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from journal.body import Decision, decode
from journal.control import ControlLog, Entry, echo_of
from journal.errors import ConflictingId, Corrupt, GateClosed, LostRace, OwnerDown, Refused, UnknownName, Untrusted
from journal.log import START
from journal.owner_client import OwnerClient
from journal.record import Draft, Kind, canonical_json
from journal.sqlite_reader import SqliteReader
from registry.policy import policy_of
from rivermill.lines import Lines
from rivermill.pipeline import Pipeline, load_pipeline
from rivermill.registry_wiring import lines_of
from rivermill.settings import Home, configs_folder
from rivermill.wiring import Run, open_run, verifier_of
from tests.played import play_with_retrains

pytestmark = pytest.mark.slow

BY: dict[str, Any] = {"why": "a test asks", "principal": "tester"}


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load_pipeline(configs_folder() / "phishing")


@pytest.fixture(scope="module")
def played(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("played")
    play_with_retrains(pipeline, root)
    return root


@pytest.fixture
def home(played: Path, tmp_path: Path) -> Home:
    shutil.copytree(played, tmp_path / "copy")
    return Home(tmp_path / "copy", "phishing")


@pytest.fixture
def run(pipeline: Pipeline, home: Home) -> Iterator[Run]:
    run = open_run(pipeline, home)
    yield run
    run.close()


@pytest.fixture
def lines(run: Run) -> Lines:
    return lines_of(run)


@pytest.fixture
def batch(lines: Lines) -> list[str]:
    """The three versions, oldest first: retired, candidate, champion."""
    return [facts["line"] for facts in lines.table() if facts["kind"] == "batch"]


def asking(lines: Lines, **limits: Any) -> Lines:
    """The same lines under another policy."""
    policy, mistakes = policy_of({name: {**limit, "why": "A test."} for name, limit in limits.items()})
    assert policy is not None, mistakes
    return dataclasses.replace(lines, pipeline=dataclasses.replace(lines.pipeline, gate=policy))


def lenient(lines: Lines) -> Lines:
    return asking(lines, auc={"at_least": 0.5}, log_loss_behind_champion={"at_most": 5.0}, rows={"at_least": 1})


def nobody_owns(draft: Draft) -> None:
    """The journal's owner is down, so an echo lands nowhere."""


def served(run: Run) -> str:
    return run.folds.answer.champion.served.line


def echoes(journal: Any) -> list[Decision]:
    return [decode(record.body, Decision) for record in journal.of_kind(Kind.DECISION, START, 1_000)]


# What stands after the run


def test_the_table_shows_each_line_with_its_state(lines: Lines, batch: list[str]) -> None:
    table = lines.table()
    assert [facts["kind"] for facts in table] == ["online", "batch", "batch", "batch"]
    assert [facts["state"] for facts in table] == ["retired", "retired", "candidate", "champion"]
    rows = [facts["rows"] for facts in table[1:]]
    assert rows == sorted(set(rows))
    assert lines.champion == batch[2]
    for facts in table[1:]:
        assert facts["line"] == f"{facts['recipe']}-{facts['model']}"
        assert lines.evaluation.version(facts["line"])[0] == facts["offset"]


def test_the_history_tells_who_followed_whom(lines: Lines, batch: list[str]) -> None:
    history = lines.history()
    assert [(entry["action"], entry["from"], entry["line"], entry["verdict"]) for entry in history] == [
        ("bootstrap", "", "online", ""),
        ("promote", "online", batch[0], "passed"),
        ("promote", batch[0], "online", "passed"),
        ("promote", "online", batch[2], "passed"),
    ]
    assert [entry["sequence"] for entry in history] == [1, 2, 3, 4]
    assert [entry["by"] for entry in history] == ["local", "schedule", "schedule", "schedule"]


def test_the_journal_echoes_every_decision_where_it_was_made(run: Run, lines: Lines) -> None:
    decided = [(entry.sequence, entry.action, entry.subject) for entry in lines.control.entries("phishing")]
    assert [(echo.sequence, echo.action, echo.subject) for echo in echoes(run.journal)] == decided
    assert served(run) == lines.champion


def test_the_gates_word_is_kept_for_every_line_that_competed(lines: Lines, batch: list[str]) -> None:
    """Also for the version that the online line beat: MLflow shows why it does not answer."""
    for line in ("online", *batch):
        judged = lines.judged(line)
        assert judged["line"] == line, line
        assert judged["report"].startswith("The gate is "), line
    assert lines.judged(batch[2])["passed"] is True
    assert lines.judged(batch[1])["champion"] == batch[0]


def test_showing_a_candidate_says_what_the_gate_would_say_now(lines: Lines, batch: list[str]) -> None:
    shown = lines.show(batch[1])
    assert shown["state"] == "candidate"
    assert shown["champion"] == batch[0]
    assert f"now {batch[2]}" in shown["now"]
    assert "now" not in lines.show(batch[2])
    with pytest.raises(UnknownName, match=batch[0]):
        lines.show("nobody")


# Promotion


def test_a_promotion_through_the_gate_answers_at_once(run: Run, lines: Lines, batch: list[str]) -> None:
    entry = lenient(lines).promote(batch[1], key="k", **BY)
    assert (entry.sequence, entry.action, entry.details["from"]) == (5, "promote", batch[2])
    assert served(run) == lines.champion == batch[1]
    assert run.folds.answer.champion.digest == lines.evaluation.version(batch[1])[1].model
    assert echoes(run.journal)[-1].signature == entry.signature
    assert {facts["line"]: facts["state"] for facts in lines.table()}[batch[2]] == "retired"


def test_a_closed_gate_names_the_checks_and_changes_nothing(run: Run, lines: Lines, batch: list[str]) -> None:
    strict = asking(
        lines,
        auc={"at_least": 0.999},
        rows={"at_least": 100_000},
        size_bytes={"at_most": 10_000_000},
        log_loss_behind_champion={"at_most": 5.0},
    )
    end = run.journal.end()
    with pytest.raises(GateClosed) as caught:
        strict.promote(batch[1], key="k", **BY)
    assert "auc is" in str(caught.value)
    assert "rows is 838" in str(caught.value)
    assert "size_bytes" not in str(caught.value)
    assert (run.journal.end(), len(lines.history()), served(run)) == (end, 4, batch[2])
    assert lines.judged(batch[1])["passed"] is False


def test_nobody_and_the_champion_itself_cannot_be_promoted(lines: Lines, batch: list[str]) -> None:
    with pytest.raises(UnknownName, match="nobody"):
        lines.promote("nobody", key="k", **BY)
    with pytest.raises(Refused, match="answers already"):
        lines.promote(batch[2], key="k", **BY)
    with pytest.raises(Refused, match="no reason"):
        lenient(lines).promote(batch[1], why=" ", principal="tester", key="k")
    assert len(lines.history()) == 4


def test_without_a_gate_nothing_is_promoted(lines: Lines, batch: list[str]) -> None:
    ungated = dataclasses.replace(lines, pipeline=dataclasses.replace(lines.pipeline, gate=None))
    with pytest.raises(Refused, match="no gate"):
        ungated.promote(batch[1], key="k", **BY)


def test_whoever_decides_on_what_is_not_the_last_decision_has_lost(lines: Lines, batch: list[str]) -> None:
    with pytest.raises(LostRace, match="decision 3 is not the last any more, 4 is"):
        lenient(lines).promote(batch[1], key="k", expected=3, **BY)
    with pytest.raises(LostRace, match=batch[2]):
        lines.roll_back(key="l", expected=3, **BY)
    assert len(lines.history()) == 4
    assert lenient(lines).promote(batch[1], key="k", expected=4, **BY).sequence == 5


def test_the_same_key_twice_is_one_decision(run: Run, lines: Lines, batch: list[str]) -> None:
    first = lenient(lines).promote(batch[1], key="k", **BY)
    assert lenient(lines).promote(batch[1], key="k", **BY) == first
    back = lines.roll_back(key="l", **BY)
    assert lines.roll_back(key="l", **BY) == back
    assert len(lines.history()) == len(echoes(run.journal)) == 6


def test_a_key_that_stands_for_another_decision_decides_nothing(lines: Lines, batch: list[str]) -> None:
    lenient(lines).promote(batch[1], key="k", **BY)
    with pytest.raises(ConflictingId, match=f"5: promote {batch[1]}"):
        lenient(lines).promote("online", key="k", **BY)
    with pytest.raises(ConflictingId, match=f"5: promote {batch[1]}"):
        lines.roll_back(key="k", **BY)
    assert lines.champion == batch[1]


# Rollback


def test_rolling_back_leads_to_the_champion_before_and_then_to_the_one_before_that(
    run: Run, lines: Lines, batch: list[str]
) -> None:
    ways = []
    for number in range(3):
        entry = lines.roll_back(key=f"k{number}", **BY)
        ways.append((entry.details["from"], entry.subject))
        assert served(run) == lines.champion == entry.subject
    assert ways == [(batch[2], "online"), ("online", batch[0]), (batch[0], "online")]
    with pytest.raises(Refused, match="no champion before"):
        lines.roll_back(key="further", **BY)


def test_a_rollback_by_name_leads_only_to_a_former_champion(run: Run, lines: Lines, batch: list[str]) -> None:
    with pytest.raises(Refused, match="has never been champion"):
        lines.roll_back(batch[1], key="k", **BY)
    lines.roll_back(batch[0], key="k", measure=True, **BY)
    assert served(run) == batch[0]
    took = lines.rollback_ms(batch[0])
    assert took is not None
    assert took > 0
    assert lines.rollback_ms("online") is None


def test_after_a_rollback_the_version_answers_to_the_last_bit_as_it_did(run: Run, lines: Lines) -> None:
    champion = run.folds.answer.champion
    before = champion.digest
    lines.roll_back(key="away", **BY)
    assert champion.digest != before
    lenient(lines).promote(lines.history()[3]["line"], key="back", **BY)
    assert champion.digest == before


# Evidence


def test_evidence_beside_another_champion_is_measured_anew(lines: Lines, batch: list[str]) -> None:
    beside_batch = lines.plan_promotion(batch[1]).evidence
    lines.roll_back(key="k", **BY)
    beside_online = lines.plan_promotion(batch[1]).evidence
    assert (beside_batch["champion"], beside_online["champion"]) == (batch[2], "online")
    assert beside_batch["auc"] == beside_online["auc"]
    assert beside_batch["champion_log_loss"] != beside_online["champion_log_loss"]


def test_a_plan_made_before_somebody_decided_is_not_carried_out(lines: Lines, batch: list[str]) -> None:
    open_gate = lenient(lines)
    plan = open_gate.plan_promotion(batch[1])
    lines.roll_back(key="k", **BY)
    with pytest.raises(LostRace):
        open_gate._apply(plan, "late", "tester", "l", None, None)
    assert lines.champion == "online"


def test_a_version_that_nobody_measured_is_staged_once(lines: Lines, batch: list[str], home: Home) -> None:
    assert lines.unstaged() == []
    with sqlite3.connect(home.folder / "control.sqlite") as db:
        db.execute("DELETE FROM evidence WHERE kind = 'serving'")
    db.close()
    assert lines.unstaged() == [batch[1]], "those that were decided about are past it"
    assert not lines.is_staged(batch[1])
    facts = lines.stage(batch[1])
    assert facts["parity"] < 1e-12
    assert facts["latency_us"] > 0
    assert lines.is_staged(batch[1])
    assert lines.unstaged() == []
    assert lines.plan_promotion(batch[1]).evidence["latency_us"] == facts["latency_us"]
    with pytest.raises(UnknownName):
        lines.stage("online")


# What is decided while nobody owns the journal


@pytest.fixture
def unechoed(pipeline: Pipeline, home: Home) -> Entry:
    """A decision that the control log holds and the journal does not."""
    run = open_run(pipeline, home)
    alone = dataclasses.replace(lines_of(run), land=nobody_owns)
    entry = alone.roll_back(key="k", **BY)
    assert [echo.sequence for echo in echoes(run.journal)] == [1, 2, 3, 4]
    assert served(run) != entry.subject
    run.close()
    return entry


def test_a_decision_without_its_echo_is_echoed_when_the_run_is_opened_next(
    pipeline: Pipeline, home: Home, unechoed: Entry
) -> None:
    for _ in range(2):
        run = open_run(pipeline, home)
        assert [echo.sequence for echo in echoes(run.journal)] == [1, 2, 3, 4, 5]
        assert served(run) == unechoed.subject == "online"
        run.close()


def test_a_decision_without_its_echo_is_echoed_by_the_next_owner(
    pipeline: Pipeline, home: Home, unechoed: Entry
) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-m", "rivermill.owner_process", str(home.root), str(pipeline.folder)], env={**os.environ}
    )
    try:
        until_up(owner, home)
    finally:
        owner.send_signal(signal.SIGTERM)
        assert owner.wait(30) == 0
    journal = SqliteReader(home.journal)
    assert [echo.sequence for echo in echoes(journal)] == [1, 2, 3, 4, 5]
    assert echoes(journal)[-1].signature == unechoed.signature
    journal.close()


def until_up(process: "subprocess.Popen[bytes]", home: Home) -> None:
    client = OwnerClient(home.socket)
    while process.poll() is None:
        try:
            client.state()
        except OwnerDown:
            continue
        break
    client.close()
    assert process.poll() is None, "the owner ended"


# What somebody wrote into the control log by hand


def forge(home: Home, control: ControlLog, last: Entry, **changed: Any) -> None:
    """A decision behind the last one, rightly chained, with a signature that is somebody else's."""
    row = {**msgspec.to_builtins(last), **changed, "sequence": 5, "key": "forged", "previous": last.hash}
    row["hash"] = control.decided.hash_of(msgspec.convert(row, Entry))
    row |= {name: canonical_json(row[name]).decode() for name in ("details", "heads")}
    names, marks = ",".join(row), ",".join("?" * len(row))
    with sqlite3.connect(home.folder / "control.sqlite") as db:
        db.execute(f"INSERT INTO decisions ({names}) VALUES ({marks})", list(row.values()))
    db.close()


@pytest.fixture
def forged(lines: Lines, batch: list[str], home: Home) -> Entry:
    """A decision for the candidate."""
    last = lines.control.head("phishing")
    assert last is not None
    forge(home, lines.control, last, subject=batch[1])
    head = lines.control.head("phishing")
    assert head is not None
    assert head.subject == batch[1]
    return head


def test_a_forged_decision_is_found(lines: Lines, forged: Entry, home: Home) -> None:
    assert forged.sequence == 5
    with pytest.raises(Untrusted):
        lines.control.verify("phishing", verifier_of(home))


def test_a_changed_decision_is_found_by_its_sequence(lines: Lines, home: Home) -> None:
    verifier = verifier_of(home)
    assert lines.control.verify("phishing", verifier) == 4
    with sqlite3.connect(home.folder / "control.sqlite") as db:
        db.execute("UPDATE decisions SET subject = 'online' WHERE sequence = 2")
    db.close()
    with pytest.raises(Corrupt, match="decision 2"):
        lines.control.verify("phishing", verifier)


def test_a_forged_decision_is_not_obeyed(run: Run, forged: Entry, batch: list[str]) -> None:
    before = run.journal.end()
    with pytest.raises(Untrusted):
        run.lockstep.land(echo_of(forged))
    assert served(run) == batch[2]
    assert run.journal.end() == before, "and no echo of it remains"


def test_a_run_with_a_forged_decision_is_not_opened_until_it_is_gone(
    pipeline: Pipeline, home: Home, played: Path
) -> None:
    run = open_run(pipeline, home)
    control = lines_of(run).control
    last = control.head("phishing")
    assert last is not None
    forge(home, control, last, subject="online")
    run.close()
    with pytest.raises(Untrusted):
        open_run(pipeline, home)
    shutil.copy(played / "phishing" / "control.sqlite", home.folder / "control.sqlite")
    run = open_run(pipeline, home)
    assert served(run) == last.subject
    assert len(echoes(run.journal)) == 4
    run.close()
