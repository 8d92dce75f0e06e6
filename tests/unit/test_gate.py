"""The gate: what is good enough passes, and every way of being worse is refused with its reason."""

import math
from typing import Any

import numpy as np
import pytest

from journal.clock import DAY
from registry.checks import CHECKS
from registry.evidence import Scored, offline, with_live
from registry.gate import Check, Verdict, decide, report
from registry.measures import Floats
from registry.policy import ALWAYS, Policy, policy_of

SETTINGS: dict[str, Any] = {
    "confidence": 0.9,
    "auc": {"at_least": 0.68, "why": "Below it nobody is helped."},
    "auc_too_good": {"at_most": 0.98, "why": "Nobody knows the weather that well."},
    "log_loss_behind_champion": {"at_most": 0.002, "why": "A week's luck."},
    "calibration_error": {"at_most": 0.05, "why": "Rebooking starts at a probability."},
    "rows": {"at_least": 5000, "why": "A week of flights."},
    "size_bytes": {"at_most": 20_000_000, "why": "Two lines in memory."},
    "parity": {"at_most": 1e-9, "why": "What answers must be what was judged."},
    "latency_us": {"at_most": 2000, "why": "An answer has 250 ms."},
}

GOOD: dict[str, Any] = {
    "auc": 0.71,
    "log_loss": 0.55,
    "log_loss_behind_champion": -0.004,
    "log_loss_behind_champion_low": -0.009,
    "log_loss_behind_champion_high": 0.001,
    "calibration_error": 0.02,
    "rows": 6000,
    "size_bytes": 120_000,
    "distinct_scores": 5400,
    "not_finite": 0,
    "out_of_range": 0,
    "confidence": 0.9,
    "not_measured": {},
}
LIVE = {"parity": 0.0, "latency_us": 80.5}


def policy() -> Policy:
    found, mistakes = policy_of(SETTINGS)
    assert found is not None, mistakes
    return found


def judged(lockstep: bool = True, **changed: Any) -> Verdict:
    return decide({**GOOD, **changed}, policy(), lockstep=lockstep)


def named(verdict: Verdict, name: str) -> Check:
    return next(check for check in verdict.checks if check.name == name)


def failing(verdict: Verdict) -> list[str]:
    assert verdict.passes == (not verdict.failing)
    return [check.name for check in verdict.failing]


def test_a_good_line_passes_and_every_check_says_what_it_saw() -> None:
    verdict = judged()
    assert verdict.passes
    assert [check.name for check in verdict.checks] == [
        *(threshold.check for threshold in ALWAYS),
        *(name for name in SETTINGS if name != "confidence"),
    ]
    auc = named(verdict, "auc")
    assert (auc.measured, auc.limit, auc.bound, auc.passes, auc.gates) == (0.71, 0.68, "at_least", True, True)
    assert auc.sentence == "auc is 0.71, at least 0.68 as is asked."
    assert named(verdict, "log_loss_behind_champion").measured == 0.001


@pytest.mark.parametrize(
    ("fact", "value", "check"),
    [
        ("auc", 0.6799, "auc"),
        ("auc", 0.985, "auc_too_good"),
        ("log_loss_behind_champion_high", 0.0021, "log_loss_behind_champion"),
        ("calibration_error", 0.051, "calibration_error"),
        ("rows", 4999, "rows"),
        ("size_bytes", 20_000_001, "size_bytes"),
        ("distinct_scores", 1, "distinct_scores"),
        ("not_finite", 1, "not_finite"),
        ("out_of_range", 1, "out_of_range"),
    ],
)
def test_each_check_alone_keeps_a_line_out(fact: str, value: float, check: str) -> None:
    changed: dict[str, Any] = {fact: value}
    verdict = judged(**changed)
    assert failing(verdict) == [check]
    assert named(verdict, check).measured == value


@pytest.mark.parametrize(
    ("fact", "value"),
    [("auc", 0.68), ("log_loss_behind_champion_high", 0.002), ("rows", 5000), ("size_bytes", 20_000_000)],
)
def test_a_limit_itself_is_good_enough(fact: str, value: float) -> None:
    changed: dict[str, Any] = {fact: value}
    assert judged(**changed).passes


def test_a_mean_that_is_better_does_not_help_when_the_interval_reaches_too_far() -> None:
    assert failing(judged(log_loss_behind_champion=-0.1, log_loss_behind_champion_high=0.01)) == [
        "log_loss_behind_champion"
    ]


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, "0.9", True, [0.9]])
def test_what_is_not_a_number_passes_nothing(value: Any) -> None:
    for threshold in policy().asked:
        fact = threshold.meaning.fact
        verdict = decide({**GOOD, **LIVE, fact: value}, policy(), lockstep=False)
        assert threshold.check in failing(verdict)
        assert named(verdict, threshold.check).measured is None


def test_leaving_evidence_out_passes_nothing() -> None:
    everything = {**GOOD, **LIVE}
    assert decide(everything, policy(), lockstep=False).passes
    for threshold in policy().asked:
        without = {name: fact for name, fact in everything.items() if name != threshold.meaning.fact}
        verdict = decide(without, policy(), lockstep=False)
        assert threshold.check in failing(verdict)
        assert "was not measured: the evidence does not say" in named(verdict, threshold.check).sentence
    assert len(failing(decide({}, policy(), lockstep=True))) == len(policy().asked) - 2


@pytest.mark.parametrize("confidence", [None, 0.5, 0.89, math.nan, "high"])
def test_an_interval_that_is_less_sure_than_asked_does_not_count(confidence: Any) -> None:
    verdict = judged(confidence=confidence)
    assert failing(verdict) == ["log_loss_behind_champion"]
    assert "the interval is of confidence" in named(verdict, "log_loss_behind_champion").sentence


def test_an_interval_that_is_surer_than_asked_counts() -> None:
    assert judged(confidence=0.99).passes


def test_the_wall_decides_live_and_is_reported_in_lockstep() -> None:
    slow = {**GOOD, "parity": 1e-12, "latency_us": 4000.0}
    live, lockstep = decide(slow, policy(), lockstep=False), decide(slow, policy(), lockstep=True)
    assert failing(live) == ["latency_us"]
    assert lockstep.passes
    reported = named(lockstep, "latency_us")
    assert (reported.measured, reported.passes, reported.gates, reported.live) == (4000.0, False, False, True)
    assert "| latency_us | 4,000 | ≤ 2,000 | fails, reported only |" in report(lockstep)
    assert failing(judged(lockstep=False)) == ["parity", "latency_us"]


def test_the_digests_leave_out_the_wall() -> None:
    quick, slow = ({**GOOD, **LIVE, "latency_us": took} for took in (80.0, 4000.0))
    one, other = decide(quick, policy(), lockstep=False), decide(slow, policy(), lockstep=False)
    assert one.passes != other.passes
    assert (one.evidence, one.policy) == (other.evidence, other.policy) == (one.evidence, policy().digest)
    assert judged(rows=7000).evidence != judged().evidence


def test_sentences_say_what_was_found_what_is_asked_and_why() -> None:
    verdict = judged(auc=0.51, rows=1200, calibration_error=None, not_measured={"calibration_error": "nobody looked"})
    assert [check.sentence for check in verdict.failing] == [
        "auc is 0.51, and at least 0.68 is asked. Below it nobody is helped.",
        "calibration_error was not measured: nobody looked; at most 0.05 is asked. Rebooking starts at a probability.",
        "rows is 1,200, and at least 5,000 is asked. A week of flights.",
    ]
    barely = named(judged(auc=0.6799999999), "auc")
    assert barely.sentence.startswith("auc is 0.6799999999, and at least 0.68 is asked.")


def test_the_report_is_a_table_with_a_row_per_check() -> None:
    shown = report(judged(auc=0.51))
    lines = shown.splitlines()
    assert lines[0] == "The gate is closed: 1 of 9 checks fails."
    assert lines[2] == "| check | measured | asked | result | why |"
    assert len([line for line in lines if line.startswith("| ")]) == 1 + len(policy().asked)
    assert "| auc | 0.51 | ≥ 0.68 | fails | Below it nobody is helped. |" in lines
    assert "| parity | - | ≤ 1e-09 | fails, reported only | What answers must be what was judged. |" in lines
    assert lines[-1] == "- auc is 0.51, and at least 0.68 is asked. Below it nobody is helped."
    assert report(judged()).splitlines()[0] == "The gate is open: every check holds."
    assert report(judged(auc=0.51, rows=3)).startswith("The gate is closed: 2 of 9 checks fail.")


def test_a_reason_cannot_break_the_table() -> None:
    found, _ = policy_of({**SETTINGS, "auc": {"at_least": 0.68, "why": "One | two\nthree"}})
    assert found is not None
    assert "| One \\| two three |" in report(decide(GOOD, found, lockstep=True))


# Models that must not get in, measured for real: 3,000 examples over 30 days, beside a champion that knows most of what
# can be known.

RNG = np.random.default_rng(7)
CHANCES = RNG.beta(1.5, 2.5, 3_000)
OUTCOMES = RNG.random(3_000) < CHANCES
CHAMPION = np.clip(CHANCES + RNG.normal(0, 0.05, 3_000), 0.01, 0.99)


def measured(answers: Floats) -> Verdict:
    at = 15_706 * DAY + np.arange(3_000) * (DAY // 100)
    scored = Scored(np.arange(3_000), at, OUTCOMES, answers)
    facts = offline(scored, CHAMPION, prior=0.4, rows=9000, size_bytes=1000, confidence=0.9, seed_text="x")
    return decide(facts, policy(), lockstep=True)


def test_a_model_that_knows_more_than_the_champion_gets_in() -> None:
    assert failing(measured(CHANCES)) == []


def test_the_champion_itself_is_not_worse_than_itself() -> None:
    verdict = measured(CHAMPION)
    assert named(verdict, "log_loss_behind_champion").measured == 0.0
    assert verdict.passes


def test_a_model_that_is_not_a_number_is_refused() -> None:
    verdict = measured(np.full(3_000, np.nan))
    assert set(failing(verdict)) >= {"not_finite", "distinct_scores", "auc", "log_loss_behind_champion"}
    assert "3000 of 3000 answers are infinite or not a number" in named(verdict, "auc").sentence


def test_a_single_answer_that_is_not_a_number_is_enough() -> None:
    assert failing(measured(np.where(np.arange(3_000) == 17, np.inf, CHANCES)))[0] == "not_finite"


def test_a_constant_model_is_refused_even_where_nobody_set_a_floor_for_its_auc() -> None:
    found, _ = policy_of(
        {
            "log_loss": {"at_most": 9.0, "why": "Anything goes."},
            "log_loss_behind_champion": {"at_most": 9.0, "why": "Anything goes."},
            "rows": {"at_least": 1, "why": "Anything goes."},
        }
    )
    assert found is not None
    rng = np.random.default_rng(3)
    scored = Scored(np.arange(900), np.arange(900) * (DAY // 30), rng.random(900) < 0.4, np.full(900, 0.4))
    facts = offline(scored, None, prior=0.4, rows=1, size_bytes=1, confidence=0.95, seed_text="x")
    verdict = decide(facts, found, lockstep=True)
    assert failing(verdict) == ["distinct_scores"]
    assert "has learned nothing" in verdict.failing[0].sentence


def test_a_model_that_has_seen_the_label_is_refused() -> None:
    verdict = measured(np.where(OUTCOMES, 0.98, 0.02) + 0.01 * CHANCES)
    assert "auc_too_good" in failing(verdict)
    assert "Nobody knows the weather that well." in named(verdict, "auc_too_good").sentence


def test_a_model_of_another_world_is_refused() -> None:
    verdict = measured(np.clip(1 - CHANCES, 0.01, 0.99))
    assert set(failing(verdict)) >= {"auc", "log_loss_behind_champion", "calibration_error"}


def test_a_slow_model_is_refused_live() -> None:
    verdict = decide(with_live(GOOD, {"parity": 0.0, "latency_us": 4000.0}), policy(), lockstep=False)
    assert failing(verdict) == ["latency_us"]


def test_every_check_reads_a_fact_that_somebody_measures() -> None:
    scored = Scored(np.arange(9), np.arange(9) * DAY, np.arange(9) % 2 == 0, np.linspace(0.1, 0.9, 9))
    facts = offline(scored, None, prior=0.4, rows=1, size_bytes=1, confidence=0.95, seed_text="x")
    assert {meaning.fact for meaning in CHECKS.values() if not meaning.live} <= set(facts)
