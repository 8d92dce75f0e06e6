"""The gate is monotone, passes nothing that is not there, and lets in worse models as rarely as its confidence says."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal.clock import DAY
from registry.checks import CHECKS
from registry.evidence import Scored, digest_of, offline
from registry.gate import decide
from registry.measures import Floats
from registry.policy import Policy, Threshold

REQUIRED = ("auc", "rows", "log_loss_behind_champion")
# An AUC is bounded from both sides; "more is better" holds for everything else.
ONE_SIDED = tuple(check for check in CHECKS if check != "auc_too_good")
SETTABLE = tuple(check for check in ONE_SIDED if CHECKS[check].highest > 0)

numbers = st.floats(0, 2, allow_nan=False) | st.integers(0, 3)
anything = numbers | st.sampled_from([None, math.nan, math.inf, -math.inf, "1", True, [1.0]])


def limit_of(check: str, draw: st.DrawFn) -> float:
    meaning = CHECKS[check]
    return draw(st.floats(max(meaning.lowest, 0), min(meaning.highest, 2)))


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    more = draw(st.sets(st.sampled_from(SETTABLE)))
    limits: dict[str, Any] = {check: limit_of(check, draw) for check in sorted({*REQUIRED, *more})}
    thresholds = [Threshold(check=check, why="So.", **{CHECKS[check].bound: limit}) for check, limit in limits.items()]
    return Policy(thresholds=tuple(thresholds), confidence=0.9)


@st.composite
def passing(draw: st.DrawFn, policy: Policy) -> dict[str, Any]:
    """Evidence that meets every threshold, barely or by far."""
    facts: dict[str, Any] = {"confidence": draw(st.sampled_from([0.9, 0.99]))}
    for threshold in policy.asked:
        spare = draw(st.floats(0, 3))
        at_least = threshold.meaning.bound == "at_least"
        facts[threshold.meaning.fact] = threshold.limit + spare if at_least else threshold.limit - spare
    return facts


@given(data=st.data(), policy=policies(), lockstep=st.booleans())
def test_better_evidence_never_turns_a_pass_into_a_fail(data: st.DataObject, policy: Policy, lockstep: bool) -> None:
    facts = data.draw(passing(policy))
    assert decide(facts, policy, lockstep=lockstep).passes
    threshold = data.draw(st.sampled_from(policy.asked))
    gain = data.draw(st.floats(0, 1e6))
    signed = gain if threshold.meaning.bound == "at_least" else -gain
    better = {**facts, threshold.meaning.fact: facts[threshold.meaning.fact] + signed}
    assert decide(better, policy, lockstep=lockstep).passes


@given(data=st.data(), policy=policies(), lockstep=st.booleans())
def test_one_number_beyond_its_limit_is_enough(data: st.DataObject, policy: Policy, lockstep: bool) -> None:
    facts = data.draw(passing(policy))
    threshold = data.draw(st.sampled_from(policy.asked))
    beyond = math.nextafter(threshold.limit, -math.inf if threshold.meaning.bound == "at_least" else math.inf)
    verdict = decide({**facts, threshold.meaning.fact: beyond}, policy, lockstep=lockstep)
    assert verdict.passes == (lockstep and threshold.meaning.live)
    assert [check.name for check in verdict.checks if not check.passes] == [threshold.check]


@given(data=st.data(), policy=policies(), lockstep=st.booleans())
def test_a_looser_policy_never_turns_a_pass_into_a_fail(data: st.DataObject, policy: Policy, lockstep: bool) -> None:
    facts = {threshold.meaning.fact: data.draw(numbers) for threshold in policy.asked} | {"confidence": 0.9}
    fewer = [each for each in policy.thresholds if each.check in REQUIRED or data.draw(st.booleans())]
    loosened = Policy(thresholds=tuple(fewer), confidence=data.draw(st.floats(0.5, 0.9)))
    if decide(facts, policy, lockstep=lockstep).passes:
        assert decide(facts, loosened, lockstep=lockstep).passes


@given(data=st.data(), policy=policies(), lockstep=st.booleans())
def test_whatever_the_evidence_a_pass_means_that_every_gating_number_is_there(
    data: st.DataObject, policy: Policy, lockstep: bool
) -> None:
    names = [threshold.meaning.fact for threshold in policy.asked]
    facts = data.draw(st.dictionaries(st.sampled_from([*names, "confidence", "not_measured"]), anything))
    verdict = decide(facts, policy, lockstep=lockstep)
    for check in verdict.checks:
        value = facts.get(CHECKS[check.name].fact)
        sound = isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)
        assert not check.passes or sound
        assert check.measured is None or math.isfinite(check.measured)
    assert verdict.passes == all(check.passes for check in verdict.checks if check.gates)
    assert decide(dict(reversed(facts.items())), policy, lockstep=lockstep) == verdict


@given(data=st.data(), policy=policies())
def test_what_lockstep_lets_through_only_the_wall_can_stop(data: st.DataObject, policy: Policy) -> None:
    facts = {threshold.meaning.fact: data.draw(numbers) for threshold in policy.asked} | {"confidence": 0.9}
    live, lockstep = decide(facts, policy, lockstep=False), decide(facts, policy, lockstep=True)
    stopped = {check.name for check in live.failing} - {check.name for check in lockstep.failing}
    assert all(CHECKS[name].live for name in stopped)
    assert lockstep.passes or not live.passes


def answers(chances: Floats, push: Floats) -> Floats:
    return 1 / (1 + np.exp(-(np.log(chances / (1 - chances)) + push)))


def trial(rng: np.random.Generator, days: int, strength: float) -> tuple[float, float]:
    """The upper end of the interval for a line that errs by ``strength``, and how far it is truly behind the champion.

    Both err by the day, the champion by 0.5 and always to the other side. Outcomes share the luck of their day; luck
    is even and the difference of log losses is linear in the outcome, so it moves no mean, and the truth is known.
    """
    day = np.repeat(np.arange(days), 40)
    side = np.where(day % 2, 1.0, -1.0)
    chances = rng.uniform(0.2, 0.8, len(day))
    outcome = rng.random(len(day)) < chances + rng.uniform(-0.15, 0.15, days)[day]
    score, champion = answers(chances, strength * side), answers(chances, -0.5 * side)
    facts = offline(
        Scored(np.arange(len(day)), day * DAY, outcome, score),
        champion,
        prior=0.5,
        rows=1,
        size_bytes=1,
        confidence=0.9,
        seed_text=str(rng.integers(1 << 40)),
    )
    ours, theirs = (-(chances * np.log(each) + (1 - chances) * np.log(1 - each)) for each in (score, champion))
    return facts["log_loss_behind_champion_high"], float((ours - theirs).mean())


@pytest.mark.parametrize("days", [5, 7, 28])
def test_a_line_that_is_just_too_bad_passes_as_rarely_as_the_confidence_says(days: int) -> None:
    """The margin is exactly what the line is behind: one in twenty passes at 0.9 (two-sided), give or take our 400."""
    rng = np.random.default_rng(days)
    passed = [high <= truth for high, truth in (trial(rng, days, 0.5) for _ in range(400))]
    assert 0.02 < np.mean(passed) < 0.085


def test_better_lines_pass_more_often() -> None:
    """Against a margin of 0: one that errs a fifth as much as the champion nearly always, one that errs twice never."""
    rates = []
    for strength in (0.1, 0.3, 0.5, 1.0):
        rng = np.random.default_rng(11)
        rates.append(np.mean([trial(rng, 60, strength)[0] <= 0 for _ in range(100)]))
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.9
    assert rates[-1] == 0


@given(shift=st.integers(0, 400), seed=st.integers(0, 50))
def test_evidence_does_not_depend_on_where_its_days_lie(shift: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scored = Scored(np.arange(90), np.arange(90) * (DAY // 9), rng.random(90) < 0.4, rng.random(90))
    moved = scored._replace(at=scored.at + shift * DAY)
    facts, others = (
        offline(each, None, prior=0.4, rows=1, size_bytes=1, confidence=0.9, seed_text="x") for each in (scored, moved)
    )
    assert digest_of(facts) == digest_of(others)
