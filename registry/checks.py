"""Every check that a gate can make: what it measures, in which unit, and which limits make sense."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Bound = Literal["at_least", "at_most"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What a check is about.

    Attributes:
        measures: What, in words.
        unit: Of the number.
        bound: The side on which a limit makes sense.
        fact: The name of the number in the evidence.
        live: Whether the wall measures it, or serving once a version is staged: in lock-step it is reported only.
        interval: Whether the number is an end of an interval, and so depends on the confidence.
        lowest: The smallest limit that makes sense.
        highest: The largest one.
    """

    measures: str
    unit: str
    bound: Bound
    fact: str
    live: bool = False
    interval: bool = False
    lowest: float = 0.0
    highest: float = math.inf


CHECKS: dict[str, Meaning] = {
    "auc": Meaning(
        measures="area under the ROC curve over the later examples",
        unit="0.5 is guessing, 1 is perfect",
        bound="at_least",
        fact="auc",
        lowest=0.5,
        highest=1.0,
    ),
    "auc_too_good": Meaning(
        measures="the same area, where too much means that a feature knows the outcome",
        unit="0.5 is guessing, 1 is perfect",
        bound="at_most",
        fact="auc",
        lowest=0.5,
        highest=1.0,
    ),
    "log_loss": Meaning(
        measures="mean log loss over the later examples", unit="nats", bound="at_most", fact="log_loss"
    ),
    "log_loss_behind_champion": Meaning(
        measures="upper end of the interval of the mean log loss minus the champion's, on the very same examples",
        unit="nats",
        bound="at_most",
        fact="log_loss_behind_champion_high",
        interval=True,
        lowest=-math.inf,
    ),
    "calibration_error": Meaning(
        measures="mean gap between score and share of positives, over ten bins",
        unit="probability",
        bound="at_most",
        fact="calibration_error",
        highest=1.0,
    ),
    "examples": Meaning(measures="later examples it was judged on", unit="examples", bound="at_least", fact="examples"),
    "days": Meaning(measures="days that these examples cover", unit="days", bound="at_least", fact="days"),
    "rows": Meaning(
        measures="rows that it was fitted on, or has learned", unit="rows", bound="at_least", fact="rows", lowest=1
    ),
    "size_bytes": Meaning(measures="the stored model", unit="bytes", bound="at_most", fact="size_bytes", lowest=1),
    "distinct_scores": Meaning(
        measures="different answers to the later examples",
        unit="answers",
        bound="at_least",
        fact="distinct_scores",
        lowest=2,
    ),
    "not_finite": Meaning(
        measures="answers that are infinite or not a number",
        unit="answers",
        bound="at_most",
        fact="not_finite",
        highest=0,
    ),
    "out_of_range": Meaning(
        measures="answers below 0 or above 1", unit="answers", bound="at_most", fact="out_of_range", highest=0
    ),
    "parity": Meaning(
        measures="largest gap between the answers as served and as judged",
        unit="probability",
        bound="at_most",
        fact="parity",
        live=True,
    ),
    "latency_us": Meaning(
        measures="time of one answer in the process that serves",
        unit="microseconds",
        bound="at_most",
        fact="latency_us",
        live=True,
    ),
}
"""Every check there is."""

LIVE_FACTS = frozenset(meaning.fact for meaning in CHECKS.values() if meaning.live)
"""The facts that serving measures: outside every digest."""

_SETTINGS = ("at_least", "at_most", "why")


def mistakes_in(check: str, entry: object) -> list[str]:
    """What is wrong with one check's settings."""
    if check not in CHECKS:
        return [f"is no check; there are: {', '.join(CHECKS)}"]
    if not isinstance(entry, Mapping):
        return [f"is {entry!r}, not a mapping of {CHECKS[check].bound} and why"]
    why = entry.get("why")
    unknown = [f"has {name!r}, which is not a setting" for name in entry if name not in _SETTINGS]
    reason = [] if isinstance(why, str) and why.strip() else ["gives no reason; say why the limit is what it is"]
    return unknown + _limit_mistakes(CHECKS[check], entry) + reason


def _limit_mistakes(meaning: Meaning, entry: Mapping[str, Any]) -> list[str]:
    other = "at_most" if meaning.bound == "at_least" else "at_least"
    if other in entry:
        return [f"is bounded by {other}; it measures the {meaning.measures}, so bound it by {meaning.bound}"]
    if meaning.bound not in entry:
        return [f"has no {meaning.bound}"]
    limit = entry[meaning.bound]
    if not is_number(limit):
        return [f"has {meaning.bound} {limit!r}, not a finite number; write it as 0.002 or 1.0e-9"]
    if not meaning.lowest <= limit <= meaning.highest:
        return [f"has {meaning.bound} {limit!r}, not between {meaning.lowest:g} and {meaning.highest:g}"]
    return []


def is_number(value: object) -> bool:
    """Whether it is a finite number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
