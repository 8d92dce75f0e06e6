"""Drift of a pipeline's traffic against what its champion was trained on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from features.drift import Columns, Drift, compare
from features.recent import DatasetColumns, Readable, TrafficColumns
from journal.body import Version, decode
from journal.clock import format_span, format_time
from journal.control import ControlLog
from journal.reading import each_of
from journal.record import Kind
from registry.succession import succession_of
from rivermill.drift_settings import DriftSettings, drift_settings
from rivermill.inspection import reading
from rivermill.settings import Home
from rivermill.wiring import control_of

Facts = dict[str, Any]

EARLIER = "earlier traffic"
"""What stands for a dataset's name where there is none: the predictions before the window, for four times as long."""
_EARLIER_WINDOWS = 4


class LiveJournal(Readable, Protocol):
    """What a comparison reads."""

    @property
    def incarnation(self) -> str:
        """Its life."""
        ...

    @property
    def clock(self) -> int:
        """The journal's, in microseconds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A comparison and what was compared.

    Attributes:
        champion: The line that answered at the end of the window.
        reference: The dataset version it was compared with, or `EARLIER`.
        since: The window's beginning, in microseconds of journal time.
        until: Its end: predictions recorded from here on are not in it.
        drift: What was found.
    """

    champion: str
    reference: str
    since: int
    until: int
    drift: Drift

    @property
    def reason(self) -> str:
        """Why a retrain is asked for."""
        span = format_span(self.until - self.since)
        return f"{self.drift.reason} in the {span} before {format_time(self.until)}, against {self.reference}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftGauge:
    """Compares recent traffic with a dataset.

    Attributes:
        pipeline: Whose.
        settings: What it declares.
        journal: Where predictions are.
        control: Where champions are decided.
        datasets: Where dataset versions lie.
    """

    pipeline: str
    settings: DriftSettings
    journal: LiveJournal
    control: ControlLog
    datasets: Path

    def compare(self, until: int, version: str = "") -> Compared:
        """Compare the window before a moment with a dataset; with the champion's, where none is named.

        The result follows from the records known before ``until`` and the decisions made before it, however far the
        journal has come since.

        Raises:
            UnknownName: There is no such dataset, or a feature that the settings name.
            Refused: The rows of the dataset were let go of.
        """
        since = until - self.settings.window
        champion = self._champion(until)
        name = version or self._dataset_of(champion, until)
        reference: Columns
        if name:
            reference = DatasetColumns(self.datasets, name)
        else:
            reference = TrafficColumns(self.journal, since - _EARLIER_WINDOWS * self.settings.window, since)
        recent = TrafficColumns(self.journal, since, until)
        drift = compare(reference, recent, self.settings.limits)
        return Compared(champion=champion, reference=name or EARLIER, since=since, until=until, drift=drift)

    def _champion(self, until: int) -> str:
        entries = [entry for entry in self.control.entries(self.pipeline) if entry.at < until]
        return succession_of(self.pipeline, entries).champion

    def _dataset_of(self, champion: str, until: int) -> str:
        """What a batch line was fitted on; for an online line the newest that any line was fitted on."""
        known = [decode(r.body, Version) for r in each_of(self.journal, Kind.VERSION) if r.at < until]
        fitted = {version.line: version.dataset for version in known}
        return fitted.get(champion) or (known[-1].dataset if known else "")


def drift_of(folder: Path, home: Home, version: str) -> Compared:
    """Compare a pipeline's newest traffic with a dataset version; with the champion's, where none is named."""
    settings = drift_settings(folder)
    with reading(home) as journal:
        gauge = DriftGauge(
            pipeline=home.pipeline,
            settings=settings,
            journal=journal,
            control=control_of(home),
            datasets=home.datasets,
        )
        return gauge.compare(journal.last_at + 1, version)


def as_facts(compared: Compared) -> Facts:
    """A comparison as JSON."""
    facts: Facts = msgspec.to_builtins(compared.drift)
    return {
        "verdict": facts.pop("verdict"),
        "champion": compared.champion,
        "reference": compared.reference,
        "since": format_time(compared.since),
        "until": format_time(compared.until),
        "rows": facts.pop("recent"),
        "reference_rows": facts.pop("reference"),
        **facts,
    }
