"""Looks at the features' drift on a grid of journal time and says when a retrain is due because of it.

A look at a moment follows from what the journal held before that moment, so it comes to the same result whoever takes
it, in lock-step or live, at once or after a restart. Nothing is written down about a look that asks for nothing.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from journal.clock import format_time
from journal.control import ControlLog
from journal.errors import Refused, UnknownName
from rivermill.drift_settings import DriftSettings, drift_settings
from rivermill.feature_drift import Compared, DriftGauge, LiveJournal
from rivermill.pipeline import Pipeline
from rivermill.retraining import handled_triggers
from rivermill.settings import Home
from training.jobs import JobTable, job_id
from training.schedule import last_moment, next_moment

PRINCIPAL = "drift"
"""Whom a job names that was asked for here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftWatch:
    """The looks of one pipeline.

    Attributes:
        settings: What the pipeline declares.
        first: The first look, in microseconds of journal time: not before the first scheduled retrain.
        compare: What the window before a moment came to; raises Refused, UnknownName.
    """

    settings: DriftSettings
    first: int
    compare: Callable[[int], Compared]

    def next(self, looked: int | None) -> int:
        """The next look behind the last one."""
        return next_moment(self.first, self.settings.every, looked)

    def last(self, clock: int) -> int | None:
        """The latest look that the clock has reached; None before the first."""
        return last_moment(self.first, self.settings.every, clock)

    def reason(self, moment: int, triggers: Collection[int]) -> str:
        """Why a retrain is due at a look; empty where none is.

        Args:
            moment: Of the look.
            triggers: Of the retrains that were made or asked for so far.
        """
        if any(moment - self.settings.rest < trigger <= moment for trigger in triggers):
            return ""
        try:
            compared = self.compare(moment)
        except (Refused, UnknownName):
            # What there is nothing to compare with asks for nothing; `features drift` says what is wrong.
            return ""
        return compared.reason if compared.drift.verdict == "drifted" else ""


def watch_of(pipeline: Pipeline, home: Home, journal: LiveJournal, control: ControlLog) -> DriftWatch | None:
    """The watch that a pipeline declares; None where it declares none."""
    settings = drift_settings(pipeline.folder)
    if not settings.retrain or pipeline.retrain is None:
        return None
    gauge = DriftGauge(
        pipeline=pipeline.name, settings=settings, journal=journal, control=control, datasets=home.datasets
    )
    return DriftWatch(settings=settings, first=pipeline.starts[0] + pipeline.retrain.first, compare=gauge.compare)


def drift_key(moment: int) -> str:
    """The key of the job that a look asks for."""
    return f"drift {format_time(moment)}"


def drift_job(pipeline: str, moment: int) -> str:
    """The id of that job, in lock-step and live alike."""
    return job_id(pipeline, drift_key(moment))


class LiveDrift:
    """The looks of one pipeline beside a journal that another process owns."""

    def __init__(self, pipeline: str, watch: DriftWatch, journal: LiveJournal, jobs: JobTable) -> None:
        self._pipeline, self._watch, self._journal, self._jobs = pipeline, watch, journal, jobs
        self._looked: int | None = None

    def look(self, now: int) -> None:
        """Take the latest look that is due, if it was not taken before, and submit the retrain that it asks for.

        Args:
            now: The wall's, in microseconds: when a job was submitted.
        """
        moment = self._watch.last(self._journal.clock)
        if moment is None or moment == self._looked:
            return
        self._looked = moment
        asked = {int(job.spec["trigger"]) for job in self._jobs.list(self._pipeline) if "trigger" in job.spec}
        reason = self._watch.reason(moment, asked | handled_triggers(self._journal))
        if reason:
            spec = {"trigger": moment, "reason": reason, "promote": True}
            self._jobs.submit(self._pipeline, drift_key(moment), spec, now, PRINCIPAL)
