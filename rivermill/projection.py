"""MLflow brought up to date with the journal and the control log: every version, and the alias ``champion``.

It can be run at any time, by anyone, as often as one likes. Nothing waits for it: while MLflow is down decisions hold,
and the next run makes up for what it missed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from features import dataset
from features.examples import Readable
from journal.blobs import Blobs
from journal.body import Definition, Snapshot, Version, decode
from journal.log import START
from journal.record import Kind, Record
from registry.mlflow_registry import MlflowRegistry
from registry.mlflow_versions import DatasetFacts, VersionFacts
from rivermill.build import build_fingerprint
from rivermill.evaluation import figures_of
from rivermill.lines import Lines

Logged = set[tuple[int, str]]


@dataclass(slots=True, kw_only=True)
class Projection:
    """One pipeline's mirror in MLflow.

    Attributes:
        lines: The pipeline's lines.
        journal: Where versions and snapshots are.
        blobs: Where their models are.
        datasets: The folder of dataset versions.
        mlflow: Where they go.
        say: Told what was put back.
        logged: What MLflow has: offsets of records, each with the gate's report on it.
    """

    lines: Lines
    journal: Readable
    blobs: Blobs
    datasets: Path
    mlflow: MlflowRegistry
    say: Callable[[str], None]
    logged: Logged = field(default_factory=set)

    def run(self) -> None:
        """Log what is missing, and let the alias name the champion.

        Raises:
            RegistryDown: MLflow does not answer.
        """
        for record in self._versions():
            self._log(record, self.mlflow.log_version)
        champion = self.lines.champion
        snapshot = self._snapshot_of(champion)
        if snapshot is not None:
            self._log(snapshot, self.mlflow.log_online)
        head = self.lines.control.head(self.lines.pipeline.name)
        if head is not None and (snapshot is not None or champion in self._names()):
            self._project(champion, head.sequence)

    def _log(self, record: Record, log: Callable[[VersionFacts], int]) -> None:
        """Log a record's model, and once more when the gate has said something else about it since."""
        judged = self.lines.judged(record.data["line"])
        known = (record.offset, judged.get("report", ""))
        if known not in self.logged:
            log(self._facts(record, judged))
            self.logged.add(known)

    def _project(self, champion: str, sequence: int) -> None:
        done = self.mlflow.project_champion(self.lines.pipeline.name, champion, sequence)
        if done.edited:
            self.say(
                f"MLflow's alias of {done.pipeline!r} had been moved to version {done.before.version} behind our back; "
                f"it names {done.line!r} again"
            )

    def _versions(self) -> list[Record]:
        return self.journal.of_kind(Kind.VERSION, START, 1_000_000)

    def _names(self) -> set[str]:
        return {record.id for record in self._versions()}

    def _snapshot_of(self, line: str) -> Record | None:
        """The snapshot at which an online line became champion, or its first one after that; None for a batch line."""
        entries = self.lines.control.entries(self.lines.pipeline.name)
        named = [entry for entry in entries if entry.subject == line and entry.action != "reject"]
        published = [r for r in self.lines.evaluation.snapshots() if r.data["published"] and r.data["line"] == line]
        if not named or not published:
            return None
        before = [record for record in published if record.at <= named[-1].at]
        return before[-1] if before else published[0]

    def _facts(self, record: Record, judged: Mapping[str, Any]) -> VersionFacts:
        kind: type[Version | Snapshot] = Version if record.kind is Kind.VERSION else Snapshot
        body = decode(record.body, kind)
        definition = decode(self.journal.of_kind(Kind.DEFINITION, START, 1)[0].body, Definition)
        return VersionFacts(
            pipeline=self.lines.pipeline.name,
            line=body.line,
            family=body.family,
            model_digest=body.model,
            model_bytes=self.blobs.get(body.blob),
            columns=definition.columns,
            types=definition.types,
            required=frozenset(definition.request),
            metrics=figures_of(judged),
            gate_report_markdown=judged.get("report", "The gate has not been asked about this line.\n"),
            verdict={name: value for name, value in judged.items() if name != "report"},
            dataset=self._dataset(body.dataset) if isinstance(body, Version) else None,
            job=body.job if isinstance(body, Version) else "",
            offset=record.offset,
            build=build_fingerprint(),
            at=record.at,
        )

    def _dataset(self, version: str) -> DatasetFacts:
        manifest = dataset.load(self.datasets, version)
        path = str((self.datasets / version).absolute())
        return DatasetFacts(name=version, hash=manifest.hash, path=path, rows=manifest.rows_out)
