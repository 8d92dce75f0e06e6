"""The guard of an online line: what a state must show before serving follows it. A pure function of measured facts."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardPolicy:
    """What is asked of a state.

    Attributes:
        window: How many of the latest examples are judged.
        factor: The log loss over them may be at most this many times the prior's.
        minimum: With fewer examples than this nothing is published.
    """

    window: int
    factor: float
    minimum: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardEvidence:
    """What was measured over the latest ``examples`` examples.

    Attributes:
        examples: How many there were, at most the policy's window.
        parameters_finite: Whether every number of the model's state is finite.
        outputs_not_finite: How many of the answers were infinite or not a number.
        log_loss: Mean log loss of the answers, in nats.
        prior_log_loss: Mean log loss that the prior would have had on the same examples.
    """

    examples: int
    parameters_finite: bool
    outputs_not_finite: int
    log_loss: float
    prior_log_loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardVerdict:
    """Whether the guard holds, the numbers it saw, and a sentence for each thing that is wrong."""

    holds: bool
    numbers: dict[str, float]
    reasons: list[str]


def hold(evidence: GuardEvidence, policy: GuardPolicy) -> GuardVerdict:
    """Judge a state. Numbers that are not finite are left out of the verdict's, since no record can hold them."""
    limit = evidence.prior_log_loss * policy.factor
    reasons = [reason for fails, reason in _checks(evidence, policy, limit) if fails]
    numbers = {
        "examples": float(evidence.examples),
        "parameters_finite": float(evidence.parameters_finite),
        "outputs_not_finite": float(evidence.outputs_not_finite),
        "log_loss": evidence.log_loss,
        "prior_log_loss": evidence.prior_log_loss,
        "limit": limit,
    }
    finite = {name: number for name, number in numbers.items() if math.isfinite(number)}
    return GuardVerdict(holds=not reasons, numbers=finite, reasons=reasons)


def _checks(evidence: GuardEvidence, policy: GuardPolicy, limit: float) -> list[tuple[bool, str]]:
    examples, loss = evidence.examples, evidence.log_loss
    return [
        (examples < policy.minimum, f"Only {examples} examples, and {policy.minimum} are needed."),
        (not evidence.parameters_finite, "A parameter of the model is infinite or not a number."),
        (
            evidence.outputs_not_finite > 0,
            f"{evidence.outputs_not_finite} of the last {examples} answers are infinite or not a number.",
        ),
        (
            not loss <= limit,
            f"The log loss of the last {examples} examples is {loss:.6f}, above {limit:.6f}, "
            f"which is {policy.factor:g} times the prior's.",
        ),
    ]
