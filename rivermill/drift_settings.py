"""When features count as drifted, and what follows: the section ``drift`` of ``pipeline.yaml``.

::

    drift:
      psi: 0.2        # limits of the measures; each has a default
      ks: 0.15
      missing: 0.1
      window: 7d      # recent traffic
      minimum: 500    # fewer predictions than this say nothing
      features: [origin_delays__dep_mean_1h]   # only these; all where left out
      least: 1        # how many of them must have drifted
      retrain: true   # look at every whole `every` of journal time, and retrain on a verdict
      every: 1d
      rest: 7d        # not within so long after another retrain
"""

from dataclasses import dataclass, field
from pathlib import Path

from features.drift import Limits
from journal.clock import DAY
from journal.located import Mistakes, read_document
from rivermill.source_file import Section

SECTION = "drift"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftSettings:
    """What a pipeline declares about drift. Spans are in microseconds of journal time.

    Attributes:
        limits: What a feature may do without being called drifted.
        window: How far back traffic is recent.
        retrain: Whether a verdict asks for a retrain.
        every: Span between two looks.
        rest: After a retrain, whatever asked for it, no look asks for another one within this span.
    """

    limits: Limits = field(default_factory=Limits)
    window: int = 7 * DAY
    retrain: bool = False
    every: int = DAY
    rest: int = 7 * DAY


def drift_settings(folder: Path) -> DriftSettings:
    """The settings of a pipeline's folder; what it does not say is as by default.

    Raises:
        Misconfigured: With the mistakes in the section.
    """
    mistakes = Mistakes()
    document = read_document(folder / "pipeline.yaml", mistakes)
    settings = DriftSettings() if document is None else read_drift(Section(document, mistakes))
    mistakes.raise_all(f"pipeline {folder.name}", "Mend the lines named, then try again")
    return settings


def read_drift(top: Section) -> DriftSettings:
    """The same of a pipeline's document, with what is wrong noted."""
    if not top.has(SECTION):
        return DriftSettings()
    section, usual = top.section(SECTION), DriftSettings()
    limits = Limits(
        **{name: _positive(section, name, getattr(usual.limits, name)) for name in ("psi", "ks", "missing")},
        minimum=_whole(section, "minimum", usual.limits.minimum),
        features=section.texts("features"),
        least=_whole(section, "least", usual.limits.least),
    )
    settings = DriftSettings(
        limits=limits,
        window=_span(section, "window", usual.window),
        retrain=section.flag("retrain", default=usual.retrain),
        every=_span(section, "every", usual.every),
        rest=_span(section, "rest", usual.rest),
    )
    if settings.retrain and not top.has("retrain"):
        section.wrong("retrain", "asks for retrains, and there is no section 'retrain' that says how")
    if limits.features and limits.least > len(limits.features):
        section.wrong("least", f"is {limits.least}, more than the {len(limits.features)} features that are looked at")
    section.finish()
    return settings


def _positive(section: Section, name: str, usual: float) -> float:
    value = section.number(name, default=usual)
    if not value > 0:
        section.wrong(name, f"is {value}; a limit is above 0")
    return value


def _whole(section: Section, name: str, usual: int) -> int:
    return section.whole(name) if section.has(name) else usual


def _span(section: Section, name: str, usual: int) -> int:
    span = section.span(name) if section.has(name) else usual
    if span <= 0:
        section.wrong(name, "is no span of time")
    return span
