"""What the gate asks of a line: thresholds, each with its reason.

The rules: `ALWAYS` is asked of every line, whatever a pipeline says: answers that are no probabilities, or one answer
to everything, never pass. A policy without a floor, without a comparison to the champion or without a number of rows is
none.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from journal.errors import Misconfigured
from journal.record import canonical_json
from registry.checks import CHECKS, Meaning, is_number, mistakes_in

Gates = Literal["always", "live"]

DEFAULT_CONFIDENCE = 0.95
_LEAST_CONFIDENCE = 0.5
_FLOORS = ("auc", "log_loss")
_REQUIRED = ("rows", "log_loss_behind_champion")


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """One limit and the reason for it; exactly one of ``at_least`` and ``at_most`` is given.

    Raises:
        Misconfigured: It names no check, bounds it from the wrong side or out of its range, or gives no reason.
    """

    check: str
    why: str
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        limits = {"at_least": self.at_least, "at_most": self.at_most}
        given = {name: limit for name, limit in limits.items() if limit is not None}
        mistakes = mistakes_in(self.check, {"why": self.why, **given})
        if mistakes:
            raise Misconfigured(which=f"{self.check} {'; '.join(mistakes)}", fix="Mend the threshold")

    @property
    def meaning(self) -> Meaning:
        """What the check is about."""
        return CHECKS[self.check]

    @property
    def limit(self) -> float:
        """The number, whichever side it bounds."""
        limit = self.at_most if self.at_least is None else self.at_least
        assert limit is not None, "a threshold without a limit is not made"
        return limit

    @property
    def gates(self) -> Gates:
        """When it decides: ``always``, or ``live`` alone."""
        return "live" if self.meaning.live else "always"

    def holds(self, measured: float) -> bool:
        """Whether a number meets it; one that is not a number meets nothing."""
        return measured >= self.limit if self.meaning.bound == "at_least" else measured <= self.limit


ALWAYS = (
    Threshold(check="not_finite", at_most=0, why="An answer that is no number is no answer."),
    Threshold(check="out_of_range", at_most=0, why="A score is a probability."),
    Threshold(check="distinct_scores", at_least=2, why="A model that says the same to everybody has learned nothing."),
)
"""What no policy can leave out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a pipeline asks of whoever is to answer.

    Attributes:
        thresholds: The pipeline's own, each check at most once.
        confidence: Of the two-sided interval around the difference to the champion.

    Raises:
        Misconfigured: A check is there twice or a required one is missing, or the confidence is none.
    """

    thresholds: tuple[Threshold, ...]
    confidence: float = DEFAULT_CONFIDENCE
    asked: tuple[Threshold, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = [threshold.check for threshold in self.thresholds]
        mistakes = [f"{name} {what}" for name, what in _missing(names)]
        mistakes += [f"{name} is there twice" for name in sorted({name for name in names if names.count(name) > 1})]
        mistakes += [f"confidence {what}" for what in _confidence_mistakes(self.confidence)]
        if mistakes:
            raise Misconfigured(which="; ".join(mistakes), fix="Mend the gate's policy")
        inherent = tuple(threshold for threshold in ALWAYS if threshold.check not in names)
        object.__setattr__(self, "asked", (*inherent, *self.thresholds))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of everything that decides: the limits and the confidence, not the reasons or their order."""
        limits = {threshold.check: threshold.limit for threshold in self.asked}
        return hashlib.sha256(canonical_json({"confidence": self.confidence, "limits": limits})).hexdigest()


def policy_of(settings: Mapping[str, Any]) -> tuple[Policy | None, list[tuple[str, str]]]:
    """Read the section ``gate`` of a pipeline.

    Args:
        settings: ``confidence``, and a mapping of ``at_least`` or ``at_most`` and ``why`` per check.

    Returns:
        The policy, None when there are mistakes; and all of them, as (setting, what is wrong with it).
    """
    checks = {name: entry for name, entry in settings.items() if name != "confidence"}
    confidence = settings.get("confidence", DEFAULT_CONFIDENCE)
    mistakes = [("confidence", what) for what in _confidence_mistakes(confidence)]
    mistakes += [(name, what) for name, entry in checks.items() for what in mistakes_in(name, entry)]
    mistakes += _missing(checks)
    if mistakes:
        return None, mistakes
    thresholds = tuple(Threshold(check=name, **entry) for name, entry in checks.items())
    return Policy(thresholds=thresholds, confidence=confidence), []


def _missing(names: Iterable[str]) -> list[tuple[str, str]]:
    known = set(names)
    missing = [(name, "is missing; no gate goes without it") for name in _REQUIRED if name not in known]
    if known.isdisjoint(_FLOORS):
        missing.insert(0, ("auc", "is missing, and so is log_loss: a gate has a floor of its own, or both drift down"))
    return missing


def _confidence_mistakes(confidence: object) -> list[str]:
    if is_number(confidence) and _LEAST_CONFIDENCE <= confidence < 1:  # type: ignore[operator]
        return []
    return [f"is {confidence!r}, not a number from {_LEAST_CONFIDENCE} to below 1"]
