"""A retrain from its trigger to its decision.

A dataset version of everything joined so far; a job that fits the recipes and leaves a portable model; a version record
in the journal; evidence beside the champion's; the gate; a decision. Everything is named by its content, and each step
done twice changes nothing: whatever dies on the way, the same trigger is simply run again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from features import dataset
from features.dataset_process import build_apart
from features.dataset_store import TRAINING
from features.examples import Readable
from journal.blobs import Blobs
from journal.body import Decision, Version, decode, draft_of
from journal.clock import format_time
from journal.control import Entry
from journal.errors import Refused
from journal.log import START
from journal.record import Draft, Kind
from registry.evidence import Scored
from registry.signing import Signer
from rivermill.build import build_fingerprint
from rivermill.datasets import of_everything
from rivermill.evaluation import pack_holdout
from rivermill.lines import Lines
from rivermill.pipeline import Pipeline
from rivermill.settings import Home
from training.job_folder import Finished, write_spec
from training.job_runner import run_job
from training.jobs import job_id
from training.models_file import models_file
from training.recipe import RetrainSpec, Where
from training.retrain import folds_of

FAMILY = "batch"
_STAGED_WITHIN = 30.0
_LOOK_EVERY = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a job is asked to do.

    Attributes:
        job: Its id.
        trigger: The journal time that it was due at, in microseconds.
        executor: Where its fits run.
        promote: Whether the best line that passes the gate is promoted; otherwise the version stays a candidate.
        principal: Who asked.
        reason: Why, where that is not the schedule.
    """

    job: str
    trigger: int
    executor: Where = "auto"
    promote: bool = True
    principal: str = "schedule"
    reason: str = ""


class TrainingJournal(Readable, Protocol):
    """What a retrain reads."""

    def end(self, partition: int = 0) -> int:
        """See `journal.log.Journal.end`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrainer:
    """Runs retrains of one pipeline, in whatever process.

    Attributes:
        pipeline: Whose.
        home: Where datasets and jobs lie.
        journal: What is read.
        land: Appends a record durably, with all that follows from it.
        lines: The pipeline's lines.
        blobs: Where models go.
        signer: Signs them.
    """

    pipeline: Pipeline
    home: Home
    journal: TrainingJournal
    land: Callable[[Draft], None]
    lines: Lines
    blobs: Blobs
    signer: Signer

    def run(self, order: Order, stopped: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        """Retrain, judge, decide.

        Raises:
            JobFailed: It was stopped, or its process came to no model; the message holds the log's last lines.
            Refused: There are too few examples, or none of one class.
        """
        manifest = build_apart(
            self.home.journal,
            self.home.datasets,
            self.pipeline.name,
            self.journal.end(),
            build_fingerprint(),
            of_everything(self.pipeline, TRAINING),
        )
        folder, spec = self.home.jobs / order.job, self._spec(manifest, order)
        # Asked before a process is started for it: only here a refusal can be told from a failure.
        folds_of(dataset.read(self.home.datasets, manifest.version, ["at", "outcome"]), spec)
        write_spec(folder, spec)
        finished = run_job(folder, stopped=stopped)
        version = self._stage(order, manifest, finished)
        self._staged(version.line, stopped)
        entry = self._decide(version, order) if order.promote else None
        return {
            "job": order.job,
            "trigger": format_time(order.trigger),
            "dataset": manifest.version,
            "rows": manifest.rows_out,
            "winner": finished.facts.winner,
            "line": version.line,
            "decision": None if entry is None else _decision(entry),
        }

    def _staged(self, line: str, stopped: Callable[[], bool]) -> None:
        """In lock-step measure the version here; live, wait for whoever serves. The gate says it if nobody did."""
        if self.lines.lockstep:
            if not self.lines.is_staged(line):
                self.lines.stage(line)
            return
        until = time.monotonic() + _STAGED_WITHIN
        while not (self.lines.is_staged(line) or stopped() or time.monotonic() > until):
            time.sleep(_LOOK_EVERY)

    def _decide(self, version: Version, order: Order) -> Entry:
        facts = {"trigger": order.trigger, "job": order.job} | ({"reason": order.reason} if order.reason else {})
        return self.lines.decide(version.line, principal=order.principal, key=order.job, facts=facts)

    def _spec(self, manifest: dataset.Manifest, order: Order) -> RetrainSpec:
        if self.pipeline.retrain is None:
            raise Refused(which=f"pipeline {self.pipeline.name!r} declares no retrains", fix="Add a section 'retrain'")
        models = models_file(self.pipeline.folder / "models.py")
        return RetrainSpec(
            root=str(self.home.datasets.absolute()),
            dataset=manifest.version,
            hash=manifest.hash,
            models=models.path,
            models_hash=models.hash,
            settings=self.pipeline.retrain,
            executor=order.executor,
        )

    def _stage(self, order: Order, manifest: dataset.Manifest, finished: Finished) -> Version:
        """Bring the model into the registry: a version record, once."""
        facts, holdout = finished.facts, finished.holdout
        line = f"{facts.winner}-{facts.model[:12]}"
        known = self.lines.evaluation.versions().get(line)
        if known is not None:
            return known[1]
        scored = Scored(predictions=holdout.prediction, at=holdout.at, outcome=holdout.outcome, score=holdout.score)
        blob = self.blobs.put(finished.model)
        version = Version(
            line=line,
            family=FAMILY,
            model=facts.model,
            blob=blob,
            signature=self.signer.sign(line, FAMILY, facts.model, blob),
            service=manifest.service,
            dataset=manifest.version,
            job=order.job,
            trigger=order.trigger,
            recipe=facts.winner,
            evidence={
                "holdout": self.blobs.put(pack_holdout(scored)),
                "probe": self.blobs.put(msgspec.msgpack.encode(facts.probe)),
                "rows": manifest.rows_out,
                "size_bytes": len(finished.model),
                "runtime": facts.runtime,
                "folds": msgspec.to_builtins(facts.scores),
            },
        )
        self.land(draft_of(version, kind=Kind.VERSION, stream="versions", id=line))
        return version


def _decision(entry: Entry) -> dict[str, Any]:
    return {"sequence": entry.sequence, "action": entry.action, "line": entry.subject, "why": entry.why}


def scheduled_key(trigger: int) -> str:
    """The key of the job that a schedule's trigger asks for, in lock-step and live alike: one trigger is one job."""
    return f"scheduled {format_time(trigger)}"


def scheduled_job(pipeline: str, trigger: int) -> str:
    """The id of that job."""
    return job_id(pipeline, scheduled_key(trigger))


def handled_triggers(journal: Readable) -> set[int]:
    """The triggers that the journal's decisions answer."""
    records = journal.of_kind(Kind.DECISION, START, 1_000_000)
    return {details["trigger"] for r in records if "trigger" in (details := decode(r.body, Decision).details)}
