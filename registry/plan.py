"""What a promotion, a rollback or a rejection would do: a value, built without side effects.

The rules: a line becomes champion through the gate, on evidence that is its own and beside the present champion; going
back needs no gate, but leads only to a line that has been champion. `registry.promotion.apply` is what carries one out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from registry.gate import Verdict, decide, report
from registry.lifecycle import TABLE, Event, State
from registry.policy import Policy
from registry.succession import NO_VERSION, Succession

Action = Literal["promote", "roll_back", "reject"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a promotion, a rollback or a rejection would do.

    Attributes:
        pipeline: Whose champion.
        action: What is decided.
        from_line: The champion as planned.
        to_line: The line that it is about; empty when there is none to go back to.
        version: The offset of its version's record; -1 for an online line.
        expected: The control log's last sequence as planned.
        lockstep: Whether checks by the wall are reported only.
        steps: What will happen, in sentences.
        refusals: Why it will not; empty when it may.
        evidence: What was measured about the line; empty for a rollback.
        policy: What is asked of it; None for a rollback.
        verdict: What follows from the two; None for a rollback.
    """

    pipeline: str
    action: Action
    from_line: str
    to_line: str
    version: int
    expected: int
    lockstep: bool
    steps: tuple[str, ...]
    refusals: tuple[str, ...]
    evidence: Mapping[str, Any] = field(default_factory=dict)
    policy: Policy | None = None
    verdict: Verdict | None = None


def plan_promotion(
    succession: Succession, line: str, *, version: int, evidence: Mapping[str, Any], policy: Policy, lockstep: bool
) -> Plan:
    """Plan that a line becomes champion.

    Args:
        succession: What the control log says now.
        line: Who.
        version: The offset of its version's record; -1 for an online line.
        evidence: What was measured; its ``line`` and ``champion`` say about whom and beside whom.
        policy: The pipeline's.
        lockstep: Whether checks by the wall are reported only.
    """
    verdict = decide(evidence, policy, lockstep=lockstep)
    return Plan(
        pipeline=succession.pipeline,
        action="promote",
        from_line=succession.champion,
        to_line=line,
        version=version,
        expected=succession.sequence,
        lockstep=lockstep,
        steps=_steps(succession, line, f"the gate's verdict on {line!r} goes with it"),
        refusals=tuple(_not_promotable(succession, line) + _not_about(succession, line, evidence)),
        evidence=evidence,
        policy=policy,
        verdict=verdict,
    )


def plan_rejection(
    succession: Succession, line: str, *, version: int, evidence: Mapping[str, Any], policy: Policy, lockstep: bool
) -> Plan:
    """Plan that a line which the gate does not let in is rejected. Takes what `plan_promotion` takes."""
    verdict = decide(evidence, policy, lockstep=lockstep)
    refusals = _illegal(succession, line, Event.REJECT) + _not_about(succession, line, evidence)
    if verdict.passes:
        refusals.append(f"the gate lets {line!r} in")
    return Plan(
        pipeline=succession.pipeline,
        action="reject",
        from_line=succession.champion,
        to_line=line,
        version=version,
        expected=succession.sequence,
        lockstep=lockstep,
        steps=(_append_step(succession, f"it rejects {line!r}, with the checks that fail"),),
        refusals=tuple(refusals),
        evidence=evidence,
        policy=policy,
        verdict=verdict,
    )


def plan_roll_back(succession: Succession, to: str = "") -> Plan:
    """Plan that an earlier champion answers again: the one before the present one, or any by name."""
    line = to or succession.previous
    return Plan(
        pipeline=succession.pipeline,
        action="roll_back",
        from_line=succession.champion,
        to_line=line,
        version=succession.versions.get(line, NO_VERSION),
        expected=succession.sequence,
        lockstep=False,
        steps=_steps(succession, line, "no gate is asked, since this line has passed it or came first"),
        refusals=tuple(_not_reachable(succession, line)),
    )


def explain(plan: Plan) -> str:
    """The plan in Markdown: what would happen, what keeps it from happening, and the gate's report."""
    title = f"{plan.action} {plan.to_line or 'nobody'} (pipeline {plan.pipeline}, now {plan.from_line or 'nobody'})"
    lines = [title, "", *(f"{place}. {step}" for place, step in enumerate(plan.steps, 1))]
    if plan.refusals:
        lines += ["", "It would be refused:", *(f"- {reason}" for reason in plan.refusals)]
    if plan.verdict is not None:
        lines += ["", report(plan.verdict).rstrip()]
    return "\n".join(lines) + "\n"


def _steps(succession: Succession, line: str, about: str) -> tuple[str, ...]:
    champion = succession.champion or "nobody"
    return (
        _append_step(succession, f"the champion is {line!r} instead of {champion!r}; {about}"),
        "The decision is echoed into the journal, and every fold acts on it there.",
        f"Serving answers with {line!r}; {champion!r} stays warm.",
        "MLflow's alias follows.",
    )


def _append_step(succession: Succession, what: str) -> str:
    return (
        f"Decision {succession.sequence + 1} is signed and appended to the control log, "
        f"unless somebody decides first: {what}."
    )


def _illegal(succession: Succession, line: str, event: Event) -> list[str]:
    state = succession.states.get(line, State.CANDIDATE)
    return [] if event in TABLE[state] else [f"{line!r} is {state}, and that state takes no {event}"]


def _not_promotable(succession: Succession, line: str) -> list[str]:
    if not succession.champion:
        return [f"pipeline {succession.pipeline!r} has no champion yet; its first decision is the bootstrap"]
    return _illegal(succession, line, Event.PROMOTE)


def _not_about(succession: Succession, line: str, evidence: Mapping[str, Any]) -> list[str]:
    """Why this evidence says nothing about this line beside this champion."""
    measured, beside = evidence.get("line"), evidence.get("champion")
    reasons = []
    if measured != line:
        reasons.append(f"the evidence is about {measured!r}, not about {line!r}")
    if beside != succession.champion:
        reasons.append(f"the evidence was measured beside {beside!r}, and the champion is {succession.champion!r}")
    return reasons


def _not_reachable(succession: Succession, line: str) -> list[str]:
    if not line:
        return ["there is no champion before the present one"]
    if line not in succession.versions:
        return [f"{line!r} has never been champion; it gets in through the gate alone"]
    return _illegal(succession, line, Event.ROLL_BACK)
