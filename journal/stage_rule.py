"""What is measured of each stage, and how much of it may be bad.

A contract's rules are measured at intake. A pipeline adds rules about what lies behind it: how many feature values were
missing when a question was answered, how many predictions no label reached, how many labels came too late.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from journal.contract import Contract
from journal.errors import Misconfigured
from journal.quality_rule import QualityRule
from journal.record import canonical_json

INTAKE, FEATURES, JOIN, DATASET = "intake", "features", "join", "dataset"

MISSING_FEATURE, NO_LABEL, LATE_LABEL = "missing_feature", "no_label", "late_label"

_FORMAT = 2
"""Rises when the fold's state changes shape, or what is counted does."""


@dataclass(frozen=True, kw_only=True)
class StageRule:
    """One thing that is measured over windows of journal time.

    Attributes:
        name: What an alert calls it; unique in its pipeline.
        stage: Where it is measured, and what a breach stops if it stops anything.
        stream: The stream of the records that it measures.
        field: The field, the view, or nothing.
        metric: Whose share: a `journal.quality_rule.Metric`, ``missing_feature``, ``no_label`` or ``late_label``.
        most: The share that may be so, 0 to 1.
        window: How long one window is, in microseconds.
        stop: Whether a breach stops the stage.
        bound: For ``late`` the contract's timeliness, for ``late_label`` the label's wait, in microseconds.
        reference: For ``reference``: the other stream and its field.
    """

    name: str
    stage: str
    stream: str
    field: str
    metric: str
    most: float
    window: int
    stop: bool = False
    bound: int = 0
    reference: tuple[str, str] | None = None


def rules_of(contracts: Mapping[str, Contract], further: Sequence[StageRule] = ()) -> tuple[StageRule, ...]:
    """All rules of a pipeline by name: its contracts' and those about later stages.

    Raises:
        Misconfigured: With all the mistakes: names that stand twice, fields that no record shows, dangling references.
    """
    mistakes: list[str] = []
    rules = [
        _at_intake(contract, rule, contracts, mistakes) for contract in contracts.values() for rule in contract.quality
    ]
    rules += further
    names = [rule.name for rule in rules]
    mistakes += [f"quality rule {name!r} stands twice" for name in sorted(set(names)) if names.count(name) > 1]
    for rule in rules:
        if rule.window <= 0 or not 0 <= rule.most <= 1:
            mistakes.append(f"quality rule {rule.name!r}: its window is empty, or its share not within 0 and 1")
    if mistakes:
        raise Misconfigured(which="; ".join(mistakes), fix="Mend the quality rules, then try again")
    return tuple(sorted(rules, key=lambda rule: rule.name))


def version_of(rules: Sequence[StageRule]) -> int:
    """A fold version: another set of rules, or another shape of the state, is another version."""
    return zlib.crc32(canonical_json([_FORMAT, [asdict(rule) for rule in rules]]))


def missing_features(view: str, *, name: str, most: float, window: int, stop: bool = False) -> StageRule:
    """How many values of a view were missing in the predictions of a window."""
    return StageRule(
        name=name,
        stage=FEATURES,
        stream="predictions",
        field=view,
        metric=MISSING_FEATURE,
        most=most,
        window=window,
        stop=stop,
    )


def no_labels(*, name: str, most: float, window: int, stop: bool = False) -> StageRule:
    """How many predictions ended in a window because no label came in time."""
    return StageRule(
        name=name,
        stage=JOIN,
        stream="examples",
        field="",
        metric=NO_LABEL,
        most=most,
        window=window,
        stop=stop,
    )


def late_labels(
    stream: str, key: str, wait: int, *, name: str, most: float, window: int, stop: bool = False
) -> StageRule:
    """How many labels of a stream came for predictions that had waited ``wait`` and ended."""
    return StageRule(
        name=name,
        stage=JOIN,
        stream=stream,
        field=key,
        metric=LATE_LABEL,
        most=most,
        window=window,
        stop=stop,
        bound=wait,
    )


def _at_intake(
    contract: Contract, rule: QualityRule, contracts: Mapping[str, Contract], mistakes: list[str]
) -> StageRule:
    faults = list(_faults(contract, rule, contracts))
    mistakes += [f"quality rule {rule.name!r} of {contract.stream!r}: {fault}" for fault in faults]
    stream, _, field = rule.reference.rpartition(".")
    return StageRule(
        name=rule.name,
        stage=INTAKE,
        stream=contract.stream,
        field=rule.field,
        metric=rule.metric,
        most=rule.most,
        window=rule.window,
        stop=rule.stop,
        bound=contract.timeliness or 0,
        reference=(stream, field) if rule.metric == "reference" else None,
    )


def _faults(contract: Contract, rule: QualityRule, contracts: Mapping[str, Contract]) -> Iterator[str]:
    if rule.field and rule.metric != "invalid" and not _is_shown(contract, rule.field):
        yield f"no record shows the field {rule.field!r}"
    if rule.metric in ("missing", "reference", "unique") and not rule.field:
        yield f"{rule.metric!r} is about a field, and it names none"
    if rule.metric == "late" and contract.timeliness is None:
        yield "the contract promises no timeliness"
    if rule.metric == "reference":
        stream, _, field = rule.reference.rpartition(".")
        if stream not in contracts or not _is_shown(contracts[stream], field):
            yield f"there is no {rule.reference!r} to refer to"
        elif rule.field in contract.personal or field in contracts[stream].personal:
            yield "pseudonyms cannot be compared"


def _is_shown(contract: Contract, field: str) -> bool:
    return field in contract.field_names - contract.personal | contract.pseudonymous
