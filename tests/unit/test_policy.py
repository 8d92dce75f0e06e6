"""A policy is read whole, or every mistake in it is named."""

import math
from typing import Any

import pytest

from journal.errors import Misconfigured
from registry.checks import CHECKS
from registry.policy import ALWAYS, Policy, Threshold, policy_of

SETTINGS: dict[str, Any] = {
    "confidence": 0.9,
    "auc": {"at_least": 0.68, "why": "Below it nobody is helped."},
    "log_loss_behind_champion": {"at_most": 0.002, "why": "A week's luck."},
    "rows": {"at_least": 5000, "why": "A week of flights."},
    "parity": {"at_most": 1e-9, "why": "What answers must be what was judged."},
}


def read(**changed: Any) -> tuple[Policy | None, dict[str, str]]:
    settings = {name: entry for name, entry in {**SETTINGS, **changed}.items() if entry is not None}
    policy, mistakes = policy_of(settings)
    return policy, dict(mistakes)


def test_a_policy_is_read() -> None:
    policy, mistakes = read()
    assert policy is not None and not mistakes
    assert policy.confidence == 0.9
    assert [threshold.check for threshold in policy.thresholds] == [name for name in SETTINGS if name != "confidence"]
    auc, behind = policy.thresholds[:2]
    assert (auc.at_least, auc.at_most, auc.limit, auc.why) == (0.68, None, 0.68, "Below it nobody is helped.")
    assert (behind.at_least, behind.at_most, behind.limit) == (None, 0.002, 0.002)
    assert (auc.gates, policy.thresholds[-1].gates) == ("always", "live")


def test_the_confidence_may_be_left_out() -> None:
    policy, _ = read(confidence=None)
    assert policy is not None and policy.confidence == 0.95


def test_what_is_always_asked_comes_first_and_may_only_be_tightened() -> None:
    policy, _ = read()
    assert policy is not None and policy.asked == (*ALWAYS, *policy.thresholds)
    tighter, _ = read(distinct_scores={"at_least": 50, "why": "Fifty buckets."})
    assert tighter is not None
    assert [(t.check, t.limit) for t in tighter.asked if t.check == "distinct_scores"] == [("distinct_scores", 50)]
    assert read(distinct_scores={"at_least": 1, "why": "Constant is fine."})[0] is None
    assert read(not_finite={"at_most": 3, "why": "A few."})[0] is None


@pytest.mark.parametrize(
    ("setting", "entry", "what"),
    [
        ("confidence", 1, "not a number from 0.5 to below 1"),
        ("confidence", 0.2, "not a number from 0.5 to below 1"),
        ("confidence", "high", "not a number from 0.5 to below 1"),
        ("accuracy", {"at_least": 0.9, "why": "Well."}, "is no check; there are: auc, "),
        ("auc", 0.68, "not a mapping of at_least and why"),
        ("auc", {"at_most": 0.68, "why": "Well."}, "bound it by at_least"),
        ("auc", {"at_least": 0.68, "at_most": 0.9, "why": "Well."}, "bound it by at_least"),
        ("auc", {"why": "Well."}, "has no at_least"),
        ("auc", {"at_least": 68, "why": "Well."}, "not between 0.5 and 1"),
        ("auc", {"at_least": 0.68}, "gives no reason"),
        ("auc", {"at_least": 0.68, "why": "  "}, "gives no reason"),
        ("auc", {"at_least": 0.68, "why": 7}, "gives no reason"),
        ("auc", {"at_least": 0.68, "why": "Well.", "gates": "live"}, "has 'gates', which is not a setting"),
        ("rows", {"at_least": math.nan, "why": "Well."}, "not a finite number"),
        ("rows", {"at_least": math.inf, "why": "Well."}, "not a finite number"),
        ("rows", {"at_least": True, "why": "Well."}, "not a finite number"),
        ("parity", {"at_most": "1e-9", "why": "Well."}, "write it as 0.002 or 1.0e-9"),
        ("size_bytes", {"at_most": 0, "why": "Well."}, "not between 1 and inf"),
        ("rows", None, "is missing"),
        ("log_loss_behind_champion", None, "is missing"),
        ("auc", None, "is missing, and so is log_loss"),
    ],
)
def test_a_mistake_is_named_at_its_setting(setting: str, entry: Any, what: str) -> None:
    policy, mistakes = read(**{setting: entry})
    assert policy is None
    assert list(mistakes) == [setting]
    assert what in mistakes[setting]


def test_all_mistakes_are_named_at_once() -> None:
    policy, mistakes = policy_of({"confidence": 2, "auc": {"at_most": 1}, "luck": 3})
    assert policy is None
    assert [setting for setting, _ in mistakes] == [
        "confidence",
        "auc",
        "auc",
        "luck",
        "rows",
        "log_loss_behind_champion",
    ]
    assert [setting for setting, _ in policy_of({})[1]] == ["auc", "rows", "log_loss_behind_champion"]


def test_a_floor_may_be_a_log_loss() -> None:
    policy, _ = read(auc=None, log_loss={"at_most": 0.6, "why": "The prior's is 0.65."})
    assert policy is not None


def test_a_threshold_and_a_policy_made_by_hand_are_held_to_the_same() -> None:
    with pytest.raises(Misconfigured, match="auc is bounded by at_most"):
        Threshold(check="auc", at_most=0.7, why="Well.")
    with pytest.raises(Misconfigured, match="gives no reason"):
        Threshold(check="auc", at_least=0.7, why="")
    with pytest.raises(Misconfigured, match="has no at_least"):
        Threshold(check="auc", why="Well.")
    auc = Threshold(check="auc", at_least=0.7, why="Well.")
    with pytest.raises(
        Misconfigured, match=r"rows is missing.*log_loss_behind_champion is missing.*auc is there twice"
    ):
        Policy(thresholds=(auc, auc))
    with pytest.raises(Misconfigured, match="confidence is nan"):
        Policy(thresholds=(auc,), confidence=math.nan)


def test_the_digest_is_of_what_decides() -> None:
    policy, _ = read()
    assert policy is not None
    same = Policy(thresholds=tuple(reversed(policy.thresholds)), confidence=0.9)
    reworded, _ = read(auc={"at_least": 0.68, "why": "In other words."})
    stricter, _ = read(auc={"at_least": 0.69, "why": "Below it nobody is helped."})
    surer, _ = read(confidence=0.99)
    assert reworded is not None and stricter is not None and surer is not None
    assert policy.digest == same.digest == reworded.digest
    assert len({policy.digest, stricter.digest, surer.digest}) == 3


@pytest.mark.parametrize("check", list(CHECKS))
def test_every_check_can_be_asked_for_from_its_own_side_only(check: str) -> None:
    meaning = CHECKS[check]
    limit = meaning.highest if math.isfinite(meaning.highest) else 10
    threshold = Threshold(check=check, why="Well.", **{meaning.bound: limit})
    assert threshold.limit == limit
    worse, better = (limit - 1, limit + 1) if meaning.bound == "at_least" else (limit + 1, limit - 1)
    assert (threshold.holds(worse), threshold.holds(limit), threshold.holds(better)) == (False, True, True)
    assert not threshold.holds(math.nan)
    other = "at_most" if meaning.bound == "at_least" else "at_least"
    with pytest.raises(Misconfigured):
        Threshold(check=check, why="Well.", **{other: limit})
