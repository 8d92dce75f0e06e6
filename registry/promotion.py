"""Carries out a plan: the only way in which a line becomes champion, comes back or is rejected.

`apply` builds the plan once more, from the control log, the evidence and the policy, and appends nothing unless both
are the same: no plan made by hand gets in. The append is a compare-and-swap, so of two plans one wins.
"""

from collections.abc import Mapping
from typing import Any

from journal.control import ControlLog, Entry
from journal.errors import GateClosed, Refused
from registry.plan import Plan, explain, plan_promotion, plan_rejection, plan_roll_back
from registry.signing import Signer
from registry.succession import Succession, succession_of

__all__ = [
    "Plan",
    "Succession",
    "apply",
    "decided",
    "explain",
    "plan_promotion",
    "plan_rejection",
    "plan_roll_back",
    "succession_of",
]


def apply(
    plan: Plan,
    control: ControlLog,
    *,
    at: int,
    principal: str,
    why: str,
    key: str,
    signer: Signer,
    facts: Mapping[str, Any] | None = None,
) -> Entry:
    """Decide what was planned.

    Args:
        plan: From one of the planners.
        control: The control log.
        at: Journal time, in microseconds.
        principal: Who decides.
        why: The reason given.
        key: Of the request: decided twice under one key is decided once.
        signer: Signs the decision.
        facts: What the decision's details say beside the plan's own, which they cannot replace.

    Returns:
        The decision's entry; the earlier one when this key has decided the same before.

    Raises:
        Refused: The plan has refusals, gives no reason, or is not what its evidence and the control log give.
        GateClosed: The gate does not let the line in; with every check that fails.
        LostRace: Somebody decided since it was planned.
        ConflictingId: The key has decided something else before.
    """
    entries = control.entries(plan.pipeline)
    # What this key has decided already is given back by the append below, which then appends nothing.
    if all(entry.key != key for entry in entries):
        planned_on = [entry for entry in entries if entry.sequence <= plan.expected]
        _refuse(plan, succession_of(plan.pipeline, planned_on), why)
    return control.append(
        plan.pipeline,
        expected=plan.expected,
        action=plan.action,
        subject=plan.to_line,
        why=why,
        details={**(facts or {}), **_details(plan)},
        at=at,
        principal=principal,
        key=key,
        signer=signer,
    )


def decided(control: ControlLog, pipeline: str, key: str) -> Entry | None:
    """What was decided under a key: a request that comes twice is answered from here, before it is planned again."""
    return next((entry for entry in control.entries(pipeline) if entry.key == key), None)


def _again(plan: Plan, succession: Succession) -> Plan:
    """The same plan, built from what it was built from."""
    if plan.policy is None:
        return plan_roll_back(succession, plan.to_line)
    planner = plan_rejection if plan.action == "reject" else plan_promotion
    return planner(
        succession,
        plan.to_line,
        version=plan.version,
        evidence=plan.evidence,
        policy=plan.policy,
        lockstep=plan.lockstep,
    )


def _refuse(plan: Plan, succession: Succession, why: str) -> None:
    """Return only when the plan may be applied."""
    if _again(plan, succession) != plan:
        raise Refused(
            which=f"this plan to {plan.action} {plan.to_line!r} is not what its evidence and the control log give",
            fix="Plan it again",
        )
    if plan.refusals:
        raise Refused(which="; ".join(plan.refusals), fix="Plan it again once that has changed")
    if not why.strip():
        raise Refused(which=f"no reason to {plan.action} {plan.to_line!r} was given", fix="Say why")
    if plan.action == "promote" and plan.verdict is not None and not plan.verdict.passes:
        found = " ".join(check.sentence for check in plan.verdict.failing)
        raise GateClosed(which=f"{plan.to_line!r}: {found.rstrip('.')}", fix="")


def _details(plan: Plan) -> dict[str, Any]:
    """What the decision's record says. Nothing in it was measured by the wall."""
    details: dict[str, Any] = {"from": plan.from_line, "to": plan.to_line, "version": plan.version}
    if plan.action == "reject":
        details = {"champion": plan.from_line, "version": plan.version}
    if plan.verdict is None:
        return details
    return details | {
        "verdict": "passed" if plan.verdict.passes else "failed",
        "checks": [
            {"check": check.name, "measured": check.measured, check.bound: check.limit, "passes": check.passes}
            for check in plan.verdict.checks
            if not check.live
        ],
        "policy": plan.verdict.policy,
        "evidence": plan.verdict.evidence,
    }
