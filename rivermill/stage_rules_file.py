"""The section ``quality`` of a pipeline.yaml: how much may be bad behind intake.

::

    quality:
      weather_missing: {metric: missing_feature, view: weather, most: 0.2, window: 1d, stop: true}
      never_arrived: {metric: no_label, most: 0.1, window: 7d}
      arrived_late: {metric: late_label, most: 0.05, window: 7d}

What a contract says about its own stream stands in the contract.
"""

from journal.stage_rule import StageRule, late_labels, missing_features, no_labels
from rivermill.source_file import Section
from training.label_rule import LabelRule

METRICS = ("missing_feature", "no_label", "late_label")


def read_stage_rules(section: Section, label: LabelRule) -> tuple[StageRule, ...]:
    """Every rule of the section, in its order; what is wrong is noted with its line."""
    return tuple(_read(section.section(name), name, label) for name in section.names())


def _read(section: Section, name: str, label: LabelRule) -> StageRule:
    metric = section.text("metric", among=METRICS)
    view = section.text("view") if metric == "missing_feature" else ""
    most, window, stop = section.number("most"), section.span("window"), section.flag("stop", default=False)
    section.finish()
    if metric == "missing_feature":
        return missing_features(view, name=name, most=most, window=window, stop=stop)
    if metric == "late_label":
        return late_labels(label.stream, label.key, label.wait, name=name, most=most, window=window, stop=stop)
    return no_labels(name=name, most=most, window=window, stop=stop)
