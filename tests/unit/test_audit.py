"""Who did what, when, why, with which outcome: asked by person, object and time, decisions joined."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from journal.audit import Audited, Denials, audit, audited
from journal.clock import SECOND
from journal.control import ControlLog
from journal.errors import GateClosed, LostRace, NoKey, NotAllowed
from registry.signing import Signer
from rivermill.access import KeyRing
from rivermill.auditing import HOME_WIDE, NOBODY, Auditing, asker_of, audit_log
from rivermill.settings import Home

NOON = 1_767_268_800 * SECOND
JOURNAL_NOON = 1_357_041_600 * SECOND


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.open(tmp_path / "key")


@pytest.fixture
def control(tmp_path: Path) -> ControlLog:
    return ControlLog(f"sqlite:///{tmp_path / 'control.sqlite'}")


def note(control: ControlLog, signer: Signer, second: int, **changes: Any) -> None:
    facts: dict[str, Any] = {"person": "anna", "action": "submit", "object": "job-1", "outcome": "done"}
    control.put_audit("flights", when=NOON + second * SECOND, signer=signer, **(facts | changes))


def decide(control: ControlLog, signer: Signer, number: int, **changes: Any) -> None:
    facts: dict[str, Any] = {"action": "promote", "subject": "line", "why": "better", "details": {"from": "prior"}}
    control.append(
        "flights",
        expected=number,
        at=JOURNAL_NOON + number,
        principal="ben",
        key=str(number),
        signer=signer,
        **(facts | changes),
    )


def seconds(rows: list[Audited]) -> list[int]:
    return [((row.when or 0) - NOON) // SECOND for row in rows]


def test_it_answers_by_person_object_and_time(control: ControlLog, signer: Signer) -> None:
    done = [("anna", "a"), ("ben", "a"), ("anna", "b"), ("ben", "b"), ("anna", "a")]
    for second, (person, object_) in enumerate(done):
        note(control, signer, second, person=person, object=object_)
    assert seconds(audit(control, "flights")) == [0, 1, 2, 3, 4]
    assert seconds(audit(control, "flights", person="anna")) == [0, 2, 4]
    assert seconds(audit(control, "flights", object="a")) == [0, 1, 4]
    assert seconds(audit(control, "flights", person="anna", object="a")) == [0, 4]
    since, until = NOON + SECOND, NOON + 4 * SECOND
    assert seconds(audit(control, "flights", since=since, until=until)) == [1, 2, 3]
    assert seconds(audit(control, "flights", limit=2)) == [3, 4]
    assert audit(control, "flights", limit=0) == []
    assert audit(control, "flights", person="nobody") == []
    assert audit(control, "phishing") == []


def test_a_row_and_its_decision_are_one_answer(control: ControlLog, signer: Signer) -> None:
    decide(control, signer, 0)
    note(control, signer, 3, person="ben", action="promote", object="line", decision=1, why="better", details={"x": 1})
    (row,) = audit(control, "flights")
    assert (row.when, row.at, row.decision) == (NOON + 3 * SECOND, JOURNAL_NOON, 1)
    assert row.details == {"from": "prior", "x": 1}


def test_a_decision_that_no_row_tells_of_is_there_all_the_same(control: ControlLog, signer: Signer) -> None:
    decide(control, signer, 0)
    decide(control, signer, 1, subject="other")
    note(control, signer, 3, person="ben", action="promote", object="line", decision=1)
    untold, told = audit(control, "flights", person="ben")
    assert (untold.sequence, untold.when, untold.at, untold.object) == (0, None, JOURNAL_NOON + 1, "other")
    assert (untold.person, untold.action, untold.outcome, untold.why) == ("ben", "promote", "done", "better")
    assert told.sequence == 1
    assert audit(control, "flights", object="other") == [untold]
    assert audit(control, "flights", person="anna") == []
    assert audit(control, "flights", since=JOURNAL_NOON + 1, until=JOURNAL_NOON + 2) == [untold]
    assert audit(control, "flights", since=JOURNAL_NOON + 2, until=NOON) == []


def test_a_row_filtered_out_does_not_make_its_decision_untold(control: ControlLog, signer: Signer) -> None:
    decide(control, signer, 0)
    note(control, signer, 3, person="ben", object="line", decision=1)
    assert audit(control, "flights", person="ben", until=NOON) == []


def attempt(control: ControlLog, signer: Signer, error: Exception | None) -> None:
    with audited(
        control,
        "flights",
        person="anna",
        action="promote",
        object="a line",
        why="better",
        now=lambda: NOON,
        signer=signer,
    ) as noted:
        noted.object = "line-7"
        noted.details["expected"] = 3
        if error is not None:
            raise error
        noted.decision = 4


def test_an_attempt_is_written_down_with_its_outcome(control: ControlLog, signer: Signer) -> None:
    attempt(control, signer, None)
    with pytest.raises(GateClosed):
        attempt(control, signer, GateClosed(which="auc"))
    with pytest.raises(LostRace):
        attempt(control, signer, LostRace(which="3"))
    done, closed, lost = audit(control, "flights")
    assert [row.outcome for row in (done, closed, lost)] == ["done", "GateClosed", "LostRace"]
    assert (done.decision, closed.decision) == (4, 0)
    assert {(row.person, row.action, row.object, row.why) for row in (done, closed, lost)} == {
        ("anna", "promote", "line-7", "better")
    }
    assert closed.details == {"expected": 3}


def test_a_defect_is_no_success(control: ControlLog, signer: Signer) -> None:
    with pytest.raises(ZeroDivisionError):
        attempt(control, signer, ZeroDivisionError())
    assert [row.outcome for row in audit(control, "flights")] == ["Defect"]


def test_denials_are_bounded_for_each_asker_and_counted() -> None:
    denials = Denials(most=2, span=10)
    assert [denials.admit("a", now) for now in (100, 101, 102, 103)] == [("a", 0), ("a", 0), None, None]
    assert denials.admit("b", 104) == ("b", 0)
    assert [denials.admit("a", now) for now in (110, 111, 112)] == [("a", 2), ("a", 0), None]
    assert denials.admit("a", 5) == ("a", 1)


def test_many_askers_share_one_name() -> None:
    denials = Denials(most=1, span=10, askers=2)
    assert [denials.admit(name, 1) for name in "abcd"] == [("a", 0), ("b", 0), ("others", 0), None]
    assert denials.admit("z", 11) == ("z", 0)


def test_askers_who_never_come_back_are_counted_under_one_name() -> None:
    denials = Denials(most=1, span=10, askers=2)
    for minute in range(50):
        for name in (f"a{minute}", f"b{minute}"):
            assert denials.admit(name, minute * 10) == (name, 0)
            assert denials.admit(name, minute * 10) is None
    assert len(denials._passed_over) <= 5
    rows = [denials.admit(name, 500) for name in ("c", "d", "others")]
    assert [row[0] for row in rows if row is not None] == ["c", "d", "others"]
    assert sum(row[1] for row in rows if row is not None) >= 96, "nobody's requests are forgotten"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    home = Home(tmp_path / "home", "flights")
    home.prepare()
    home.journal.mkdir()
    return tmp_path / "home"


def test_denied_requests_go_where_they_were_meant_to(root: Path) -> None:
    auditing = Auditing(root, lambda: NOON, Denials(most=2, span=3600 * SECOND))

    async def knock() -> None:
        for _ in range(5):
            for pipeline in ("flights", "../elsewhere", "no-such", None):
                error = NoKey(which="x") if pipeline == "no-such" else NotAllowed(which="x")
                await auditing.denied(pipeline, asker=f"key-{pipeline}", route="/v1/x", error=error)

    asyncio.run(knock())
    rows = audit(audit_log(root, "flights")[0], "flights")
    assert [(row.person, row.action, row.object, row.outcome) for row in rows] == [
        ("key-flights", "deny", "/v1/x", "NotAllowed")
    ] * 2
    assert rows[0].details == {"status": 403}
    control, signer = audit_log(root)
    assert [(row.person, row.outcome) for row in audit(control, HOME_WIDE)] == [
        ("key-../elsewhere", "NotAllowed"),
        ("key-no-such", "NoKey"),
        ("key-None", "NotAllowed"),
    ] * 2
    with control.database.reading() as connection:
        assert len(control.audited.check(connection, HOME_WIDE, signer)) == 6
    assert sorted(path.name for path in root.iterdir()) == ["access", "flights"]


def test_the_homes_own_audit_is_its_owners(root: Path) -> None:
    with Auditing(root, lambda: NOON).attempt("", person="anna", action="add_key", object="ben", why=""):
        pass
    assert [row.action for row in audit(audit_log(root)[0], HOME_WIDE)] == ["add_key"]
    assert (root / "access").stat().st_mode & 0o777 == 0o700
    assert (root / "access" / "signing.key").stat().st_mode & 0o777 == 0o600


def test_who_knocks(tmp_path: Path) -> None:
    ring = KeyRing.open(tmp_path / "access")
    secret = ring.add("anna", ["auditor"])
    assert asker_of(ring, f"Bearer {secret}", None) == "anna"
    assert asker_of(ring, None, secret) == "anna"
    assert asker_of(ring, None, None) == NOBODY
    stranger = asker_of(ring, "Bearer rm_guess", None)
    assert stranger == asker_of(ring, "Bearer rm_guess", None) != asker_of(ring, "Bearer rm_other", None)
    assert stranger.startswith("key-")
    assert "guess" not in stranger
