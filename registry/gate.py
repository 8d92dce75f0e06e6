"""The gate: whether a line may answer. A pure function of measured facts and thresholds.

The rules: what was not measured fails, so nothing passes by leaving evidence out; what is not a number fails; an
interval must be at least as sure as the policy asks; what the wall measured decides live and is reported in lock-step.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from registry.checks import Bound
from registry.evidence import digest_of
from registry.policy import Policy, Threshold

_SIGNS: dict[Bound, str] = {"at_least": "≥", "at_most": "≤"}
_WORDS: dict[Bound, str] = {"at_least": "at least", "at_most": "at most"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One threshold, held against one number.

    Attributes:
        name: The check's.
        measured: The number; None when there is none.
        limit: The policy's.
        bound: From which side the limit holds.
        passes: Whether the number meets it.
        gates: Whether that decides.
        live: Whether the wall measured it.
        why: The policy's reason.
        sentence: What was found, for people.
    """

    name: str
    measured: float | None
    limit: float
    bound: Bound
    passes: bool
    gates: bool
    live: bool
    why: str
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Pass or fail, per check and altogether, with the digests of the policy and of the evidence it follows from."""

    passes: bool
    checks: tuple[Check, ...]
    policy: str
    evidence: str

    @property
    def failing(self) -> tuple[Check, ...]:
        """The checks that keep the line out."""
        return tuple(check for check in self.checks if check.gates and not check.passes)


def decide(evidence: Mapping[str, Any], policy: Policy, *, lockstep: bool) -> Verdict:
    """Judge a line.

    Args:
        evidence: Facts by name, as `registry.evidence.offline` gives them; what live checks read may be among them.
        policy: What is asked.
        lockstep: Whether time stands still while we measure, so that checks by the wall are reported only.
    """
    checks = tuple(_check(evidence, threshold, policy.confidence, lockstep) for threshold in policy.asked)
    return Verdict(
        passes=all(check.passes for check in checks if check.gates),
        checks=checks,
        policy=policy.digest,
        evidence=digest_of(evidence),
    )


def report(verdict: Verdict) -> str:
    """The verdict as Markdown: one sentence, a row per check, and what is wrong."""
    failing = verdict.failing
    gating = sum(check.gates for check in verdict.checks)
    head = (
        "The gate is open: every check" if verdict.passes else f"The gate is closed: {len(failing)} of {gating} checks"
    )
    lines = [f"{head} {'holds' if verdict.passes else 'fail' if len(failing) > 1 else 'fails'}."]
    lines += ["", "| check | measured | asked | result | why |", "|---|---:|---:|---|---|"]
    lines += [_row(check) for check in verdict.checks]
    lines += ["", *(f"- {check.sentence}" for check in failing)] if failing else []
    return "\n".join(lines) + "\n"


def _check(evidence: Mapping[str, Any], threshold: Threshold, confidence: float, lockstep: bool) -> Check:
    meaning = threshold.meaning
    measured, missing = _measured(evidence, threshold, confidence)
    passes = measured is not None and threshold.holds(measured)
    return Check(
        name=threshold.check,
        measured=measured,
        limit=threshold.limit,
        bound=meaning.bound,
        passes=passes,
        gates=not (meaning.live and lockstep),
        live=meaning.live,
        why=threshold.why,
        sentence=_sentence(threshold, measured, missing, passes),
    )


def _measured(evidence: Mapping[str, Any], threshold: Threshold, confidence: float) -> tuple[float | None, str]:
    """The number that a threshold is about; or None, and why there is none."""
    meaning = threshold.meaning
    value, sure = evidence.get(meaning.fact), evidence.get("confidence")
    if not isinstance(value, int | float) or isinstance(value, bool):
        reasons = evidence.get("not_measured")
        known = reasons.get(meaning.fact) if isinstance(reasons, Mapping) else None
        return None, str(known or "the evidence does not say")
    if not math.isfinite(value):
        return None, f"the evidence says {value}"
    if meaning.interval and not (isinstance(sure, int | float) and sure >= confidence):
        return None, f"the interval is of confidence {sure}, and {confidence} is asked"
    return value, ""


def _sentence(threshold: Threshold, measured: float | None, missing: str, passes: bool) -> str:
    asked = f"{_WORDS[threshold.meaning.bound]} {_written(threshold.limit)}"
    if measured is None:
        return f"{threshold.check} was not measured: {missing}; {asked} is asked. {threshold.why}"
    found = _written(measured)
    if not passes and found == _written(threshold.limit):
        found = repr(measured)
    if passes:
        return f"{threshold.check} is {found}, {asked} as is asked."
    return f"{threshold.check} is {found}, and {asked} is asked. {threshold.why}"


def _written(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else f"{number:.6g}"


def _row(check: Check) -> str:
    measured = "-" if check.measured is None else _written(check.measured)
    result = "holds" if check.passes else "fails"
    shown = result if check.gates else f"{result}, reported only"
    why = " ".join(check.why.replace("|", "\\|").split())
    return f"| {check.name} | {measured} | {_SIGNS[check.bound]} {_written(check.limit)} | {shown} | {why} |"
