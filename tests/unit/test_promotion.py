"""Promotion and rollback: one plan, explained or applied; nobody becomes champion around the gate."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from journal.control import ControlLog, Entry
from journal.errors import ConflictingId, GateClosed, LostRace, Refused
from registry.lifecycle import State
from registry.plan import Plan, explain, plan_promotion, plan_rejection, plan_roll_back
from registry.policy import Policy, policy_of
from registry.promotion import apply, decided
from registry.signing import Signer
from registry.succession import Succession, succession_of

HOUR = 3_600_000_000


def read_policy(floor: float = 0.6) -> Policy:
    policy, mistakes = policy_of(
        {
            "auc": {"at_least": floor, "why": "A floor."},
            "log_loss_behind_champion": {"at_most": 0.002, "why": "Luck."},
            "rows": {"at_least": 100, "why": "Enough."},
            "latency_us": {"at_most": 2000, "why": "Quick."},
        }
    )
    assert policy is not None, mistakes
    return policy


def evidence(about: str, beside: str, **changed: Any) -> dict[str, Any]:
    return {
        "line": about,
        "champion": beside,
        "auc": 0.7,
        "log_loss_behind_champion_high": 0.001,
        "rows": 500,
        "distinct_scores": 400,
        "not_finite": 0,
        "out_of_range": 0,
        "confidence": 0.95,
        "latency_us": 85.25,
        **changed,
    }


class Desk:
    """A control log and whoever decides on it."""

    def __init__(self, folder: Path) -> None:
        self.control = ControlLog(f"sqlite:///{folder / 'control.sqlite'}")
        self.signer = Signer.open(folder / "signing.key")
        self.asked = 0

    @property
    def now(self) -> Succession:
        return succession_of("flights", self.control.entries("flights"))

    def bootstrap(self, line: str) -> Entry:
        return self.append("bootstrap", line, {"version": -1})

    def append(self, action: str, line: str, details: dict[str, Any]) -> Entry:
        self.asked += 1
        return self.control.append(
            "flights",
            expected=self.now.sequence,
            action=action,
            subject=line,
            why="by hand",
            details=details,
            at=self.asked * HOUR,
            principal="somebody",
            key=f"by-hand-{self.asked}",
            signer=self.signer,
        )

    def planned(self, name: str, version: int = 7, **changed: Any) -> Plan:
        facts = evidence(name, self.now.champion, **changed)
        return plan_promotion(self.now, name, version=version, evidence=facts, policy=read_policy(), lockstep=True)

    def apply(self, plan: Plan, key: str = "", **changed: Any) -> Entry:
        self.asked += 1
        asked = {"at": self.asked * HOUR, "principal": "ann", "why": "it is better", **changed}
        return apply(plan, self.control, key=key or f"request-{self.asked}", signer=self.signer, **asked)

    def promote(self, line: str, version: int = 7) -> Entry:
        return self.apply(self.planned(line, version))

    def roll_back(self, to: str = "") -> Entry:
        return self.apply(plan_roll_back(self.now, to))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    desk.bootstrap("online")
    return desk


def test_a_promotion_is_a_signed_decision_with_its_numbers(desk: Desk) -> None:
    entry = desk.promote("boosted-1", version=1234)
    assert (entry.sequence, entry.action, entry.subject, entry.why) == (2, "promote", "boosted-1", "it is better")
    assert (entry.at, entry.principal) == (2 * HOUR, "ann")
    plan = plan_promotion(
        succession_of("flights", [desk.control.entries("flights")[0]]),
        "boosted-1",
        version=1234,
        evidence=evidence("boosted-1", "online"),
        policy=read_policy(),
        lockstep=True,
    )
    assert plan.verdict is not None
    assert entry.details == {
        "from": "online",
        "to": "boosted-1",
        "version": 1234,
        "verdict": "passed",
        "checks": [
            {"check": "not_finite", "measured": 0, "at_most": 0, "passes": True},
            {"check": "out_of_range", "measured": 0, "at_most": 0, "passes": True},
            {"check": "distinct_scores", "measured": 400, "at_least": 2, "passes": True},
            {"check": "auc", "measured": 0.7, "at_least": 0.6, "passes": True},
            {"check": "log_loss_behind_champion", "measured": 0.001, "at_most": 0.002, "passes": True},
            {"check": "rows", "measured": 500, "at_least": 100, "passes": True},
        ],
        "policy": read_policy().digest,
        "evidence": plan.verdict.evidence,
    }
    assert desk.control.verify("flights", desk.signer) == 2
    assert desk.now.champion == "boosted-1"


def test_what_the_wall_measured_is_not_in_the_details(tmp_path: Path) -> None:
    written = []
    for name, took in (("quick", 80.0), ("slow", 1900.0)):
        (tmp_path / name).mkdir()
        desk = Desk(tmp_path / name)
        desk.bootstrap("online")
        written.append(desk.apply(desk.planned("boosted-1", latency_us=took)).details)
    assert written[0] == written[1]


def test_facts_beside_the_plan_are_kept_and_replace_nothing(desk: Desk) -> None:
    entry = desk.apply(desk.planned("boosted-1"), facts={"job": "weekly-3", "verdict": "brilliant", "version": 99})
    assert (entry.details["job"], entry.details["verdict"], entry.details["version"]) == ("weekly-3", "passed", 7)


def test_a_closed_gate_appends_nothing_and_names_every_failing_check(desk: Desk) -> None:
    plan = desk.planned("boosted-1", auc=0.51, rows=20)
    with pytest.raises(GateClosed) as caught:
        desk.apply(plan)
    said = str(caught.value)
    assert "'boosted-1': auc is 0.51, and at least 0.6 is asked. A floor." in said
    assert "rows is 20, and at least 100 is asked" in said
    assert desk.now.sequence == 1


@pytest.mark.parametrize("fact", ["auc", "rows", "log_loss_behind_champion_high", "distinct_scores", "confidence"])
def test_leaving_evidence_out_opens_no_gate(desk: Desk, fact: str) -> None:
    facts = {name: value for name, value in evidence("boosted-1", "online").items() if name != fact}
    plan = plan_promotion(desk.now, "boosted-1", version=7, evidence=facts, policy=read_policy(), lockstep=True)
    with pytest.raises(GateClosed):
        desk.apply(plan)
    assert desk.now.sequence == 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"line": "boosted-2"}, "the evidence is about 'boosted-2', not about 'boosted-1'"),
        ({"line": None}, "the evidence is about None"),
        ({"champion": "boosted-0"}, "measured beside 'boosted-0', and the champion is 'online'"),
    ],
)
def test_evidence_about_others_is_refused(desk: Desk, changed: dict[str, Any], said: str) -> None:
    plan = desk.planned("boosted-1", **changed)
    assert plan.verdict is not None and plan.verdict.passes
    with pytest.raises(Refused, match=said):
        desk.apply(plan)
    assert desk.now.sequence == 1


def test_no_plan_made_by_hand_gets_in(desk: Desk) -> None:
    closed, opened = desk.planned("boosted-1", auc=0.51), desk.planned("boosted-1")
    never = plan_roll_back(desk.now, "boosted-1")
    forged = [
        dataclasses.replace(closed, verdict=opened.verdict),
        dataclasses.replace(closed, verdict=None),
        dataclasses.replace(closed, policy=None, verdict=None, evidence={}),
        dataclasses.replace(closed, policy=None, verdict=None, evidence={}, action="roll_back"),
        dataclasses.replace(opened, to_line="boosted-2"),
        dataclasses.replace(opened, policy=read_policy(floor=0.9)),
        dataclasses.replace(opened, evidence=evidence("boosted-1", "online", auc=0.3)),
        dataclasses.replace(opened, action="roll_back"),
        dataclasses.replace(opened, from_line="boosted-0"),
        dataclasses.replace(opened, expected=5),
        dataclasses.replace(never, refusals=()),
        dataclasses.replace(never, refusals=(), action="promote"),
    ]
    for plan in forged:
        with pytest.raises(Refused, match="is not what its evidence and the control log give"):
            desk.apply(plan)
    assert desk.now.sequence == 1


def test_evidence_that_changed_behind_the_plan_is_noticed(desk: Desk) -> None:
    facts = evidence("boosted-1", "online", auc=0.51)
    plan = plan_promotion(desk.now, "boosted-1", version=7, evidence=facts, policy=read_policy(), lockstep=True)
    facts["auc"] = 0.9
    with pytest.raises(Refused, match="is not what its evidence"):
        desk.apply(plan)


def test_planning_and_explaining_change_nothing(desk: Desk) -> None:
    before = desk.control.entries("flights")
    shown = [explain(desk.planned("boosted-1")), explain(plan_roll_back(desk.now))]
    assert desk.control.entries("flights") == before
    assert "promote boosted-1 (pipeline flights, now online)" in shown[0]
    assert "1. Decision 2 is signed and appended to the control log" in shown[0]
    assert "The gate is open: every check holds." in shown[0]
    assert "It would be refused:\n- there is no champion before the present one" in shown[1]
    assert "roll_back nobody" in shown[1]


def test_a_race_has_one_winner(desk: Desk) -> None:
    first, second = desk.planned("boosted-1"), desk.planned("boosted-2")
    desk.apply(first)
    with pytest.raises(LostRace, match="promote boosted-1, by ann"):
        desk.apply(second)
    assert desk.now.champion == "boosted-1"


def test_a_request_that_comes_twice_is_one_decision(desk: Desk) -> None:
    plan = desk.planned("boosted-1")
    once = desk.apply(plan, key="k")
    assert desk.apply(plan, key="k") == once
    assert decided(desk.control, "flights", "k") == once
    assert decided(desk.control, "flights", "l") is None
    replanned = desk.planned("boosted-1")
    assert replanned.refusals
    assert desk.apply(replanned, key="k") == once
    with pytest.raises(ConflictingId):
        desk.apply(plan_roll_back(desk.now), key="k")
    assert desk.now.sequence == 2


def test_a_decision_needs_a_reason(desk: Desk) -> None:
    with pytest.raises(Refused, match="no reason to promote 'boosted-1' was given"):
        desk.apply(desk.planned("boosted-1"), why="  ")
    assert desk.now.sequence == 1


def test_before_the_bootstrap_nobody_is_promoted(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with pytest.raises(Refused, match="has no champion yet; its first decision is the bootstrap"):
        desk.promote("boosted-1")
    with pytest.raises(Refused, match="there is no champion before the present one"):
        desk.roll_back()


def test_the_champion_is_not_promoted_again(desk: Desk) -> None:
    with pytest.raises(Refused, match="'online' is champion, and that state takes no promote"):
        desk.promote("online", version=-1)


def test_going_back_twice_never_leads_forward(desk: Desk) -> None:
    desk.promote("boosted-1", version=10)
    desk.promote("boosted-2", version=20)
    assert desk.now.champions == ("online", "boosted-1", "boosted-2")
    back = desk.roll_back()
    assert (back.action, back.subject) == ("roll_back", "boosted-1")
    assert back.details == {"from": "boosted-2", "to": "boosted-1", "version": 10}
    again = desk.roll_back()
    assert again.details == {"from": "boosted-1", "to": "online", "version": -1}
    with pytest.raises(Refused, match="there is no champion before the present one"):
        desk.roll_back()
    assert desk.now.champion == "online"


def test_promoted_rolled_back_and_promoted_again(desk: Desk) -> None:
    desk.promote("boosted-1")
    desk.roll_back()
    assert desk.now.states == {"online": State.CHAMPION, "boosted-1": State.RETIRED}
    desk.promote("boosted-1")
    assert desk.now.champions == ("online", "boosted-1")
    desk.promote("online", version=-1)
    assert desk.roll_back().subject == "boosted-1"
    assert desk.roll_back().subject == "online"


def test_going_back_by_name_leads_to_the_latest_time_that_it_answered(desk: Desk) -> None:
    desk.promote("boosted-1")
    desk.promote("online", version=-1)
    desk.promote("boosted-2")
    desk.roll_back("online")
    assert desk.now.champions == ("online", "boosted-1", "online")


def test_going_back_to_a_named_champion(desk: Desk) -> None:
    desk.promote("boosted-1", version=10)
    desk.promote("boosted-2", version=20)
    assert desk.roll_back("online").details == {"from": "boosted-2", "to": "online", "version": -1}
    assert desk.now.champions == ("online",)
    assert desk.roll_back("boosted-2").details == {"from": "online", "to": "boosted-2", "version": 20}
    assert desk.roll_back().subject == "online"


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("boosted-9", "'boosted-9' has never been champion; it gets in through the gate alone"),
        ("boosted-1", "'boosted-1' is champion, and that state takes no roll_back"),
        ("logistic-1", "'logistic-1' has never been champion"),
    ],
)
def test_only_champions_are_gone_back_to(desk: Desk, to: str, said: str) -> None:
    desk.append("reject", "logistic-1", {})
    desk.promote("boosted-1")
    with pytest.raises(Refused, match=said):
        desk.roll_back(to)
    assert desk.now.champion == "boosted-1"


def test_a_rejection_says_why_and_is_final(desk: Desk) -> None:
    facts = evidence("boosted-1", "online", auc=0.51)
    plan = plan_rejection(desk.now, "boosted-1", version=7, evidence=facts, policy=read_policy(), lockstep=True)
    entry = desk.apply(plan, why="too weak")
    assert (entry.action, entry.details["verdict"], entry.details["champion"]) == ("reject", "failed", "online")
    assert {"check": "auc", "measured": 0.51, "at_least": 0.6, "passes": False} in entry.details["checks"]
    assert desk.now.champion == "online"
    assert desk.now.states["boosted-1"] is State.REJECTED
    with pytest.raises(Refused, match="'boosted-1' is rejected, and that state takes no promote"):
        desk.promote("boosted-1")


def test_what_the_gate_lets_in_is_not_rejected(desk: Desk) -> None:
    facts = evidence("boosted-1", "online")
    plan = plan_rejection(desk.now, "boosted-1", version=7, evidence=facts, policy=read_policy(), lockstep=True)
    with pytest.raises(Refused, match="the gate lets 'boosted-1' in"):
        desk.apply(plan)
    assert desk.now.sequence == 1


def test_decisions_about_nobody_move_nobody(desk: Desk) -> None:
    desk.promote("boosted-1")
    before = desk.now
    desk.append("release", "quarantine-3", {})
    after = desk.now
    assert (after.champions, after.states, after.versions) == (before.champions, before.states, before.versions)
    assert after.sequence == before.sequence + 1
    assert desk.roll_back().subject == "online"
