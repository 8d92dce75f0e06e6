"""The live service's verbs over its pipelines, for HTTP and the command line: lines, decisions, answers, jobs.

It reads the journals from their files and hands what it decides to their owners. With an owner down a decision holds,
and is echoed when the owner is back.
"""

import contextlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from journal.audit import Attempt
from journal.body import Definition, Prediction, decode
from journal.clock import format_time
from journal.control import Entry
from journal.errors import UnknownName
from journal.log import START
from journal.owner_client import OwnerClient
from journal.reading import read_one
from journal.record import Kind, Record
from journal.sqlite_reader import SqliteReader
from registry import promotion
from rivermill.auditing import Auditing
from rivermill.lines import Lines
from rivermill.pipeline import Pipeline
from rivermill.registry_wiring import jobs_of, live_lines
from rivermill.settings import Home
from rivermill.wall import wall_now
from training.jobs import Job, JobTable

Facts = dict[str, Any]


class Desk:
    """Lines, decisions and answers."""

    def __init__(self, pipelines: Mapping[str, tuple[Pipeline, Home]]) -> None:
        self._pipelines = pipelines

    def versions(self, pipeline: str) -> Sequence[Facts]:
        """A row per line."""
        with self._lines(pipeline) as (lines, _):
            return lines.table()

    def version(self, pipeline: str, line: str) -> Facts:
        """One line with its evidence and the gate's report; raises UnknownName."""
        with self._lines(pipeline) as (lines, _):
            return lines.show(line)

    def decisions(self, pipeline: str) -> Sequence[Facts]:
        """A row per decision."""
        with self._lines(pipeline) as (lines, _):
            return lines.history()

    def promote(
        self, pipeline: str, line: str, *, why: str, principal: str, key: str, expected: int | None, explain: bool
    ) -> Facts:
        """Let a line answer, through the gate; or say what that would do."""
        with self._lines(pipeline) as (lines, _):
            if explain:
                return {"explained": promotion.explain(lines.plan_promotion(line))}
            with _audited(self._pipelines[pipeline][1], principal, "promote", line, why) as attempt:
                entry = lines.promote(line, why=why, principal=principal, key=_key(key), expected=expected)
                attempt.decision = entry.sequence
            return _decision(entry)

    def roll_back(
        self, pipeline: str, to: str, *, why: str, principal: str, key: str, expected: int | None, explain: bool
    ) -> Facts:
        """Let an earlier champion answer again; or say what that would do."""
        with self._lines(pipeline) as (lines, _):
            if explain:
                return {"explained": promotion.explain(lines.plan_roll_back(to))}
            with _audited(self._pipelines[pipeline][1], principal, "roll_back", to, why) as attempt:
                entry = lines.roll_back(to, why=why, principal=principal, key=_key(key), expected=expected)
                attempt.object, attempt.decision = entry.subject, entry.sequence
            return _decision(entry)

    def prediction(self, pipeline: str, source: str, id: str) -> Facts:
        """The recorded answer to a question, with all that it was made from; raises UnknownName."""
        with self._lines(pipeline) as (_, journal):
            record, body = recorded_answer(journal, source, id)
            definition = decode(journal.of_kind(Kind.DEFINITION, START, 1)[0].body, Definition)
            judged_at = body.judged_at(read_one(journal)(body.question))
        stamps = [stamp and [format_time(moment) for moment in stamp] for stamp in body.stamps]
        return {
            "id": id,
            "source": source,
            "at": format_time(record.at),
            "offset": record.offset,
            "probability": body.score,
            **{name: getattr(body, name) for name in ("question", "key", "line", "model", "snapshot", "control")},
            "degraded": body.degraded,
            "judged_at": format_time(judged_at),
            "build": body.build,
            "features": dict(zip(definition.columns, body.values, strict=True)),
            "stamps": dict(zip(definition.views, stamps, strict=True)),
        }

    @contextmanager
    def _lines(self, pipeline: str) -> Iterator[tuple[Lines, SqliteReader]]:
        if pipeline not in self._pipelines:
            raise UnknownName(which=f"pipeline {pipeline!r}; there are: {', '.join(self._pipelines)}", fix="Name one")
        rules, home = self._pipelines[pipeline]
        journal, owner = SqliteReader(home.journal), OwnerClient(home.socket)
        try:
            yield live_lines(rules, home, journal, owner.offer), journal
        finally:
            owner.close()
            journal.close()


class JobDesk:
    """Training jobs of all pipelines."""

    def __init__(self, homes: Mapping[str, Home]) -> None:
        self._homes = homes

    def submit(self, pipeline: str, key: str, principal: str, options: Mapping[str, Any]) -> Facts:
        """Queue a retrain; the same key is the same job. Raises UnknownName, ConflictingId."""
        table = self._table(pipeline)
        with _audited(self._homes[pipeline], principal, "submit", "") as attempt:
            job = table.submit(pipeline, _key(key), dict(options), wall_now(), principal)
            attempt.object = job.id
        return _job(job)

    def get(self, id: str) -> Facts:
        """One job; raises UnknownName."""
        return _job(self._find(id)[1])

    def list(self, pipeline: str | None = None) -> Sequence[Facts]:
        """Every job, or one pipeline's, in the order they were submitted."""
        names = [pipeline] if pipeline else list(self._homes)
        return [_job(job) for name in names for job in self._table(name).list(name)]

    def stop(self, id: str, principal: str) -> Facts:
        """Stop a job; raises UnknownName, Refused."""
        table, job = self._find(id)
        with _audited(self._homes[job.pipeline], principal, "stop", id):
            return _job(table.request_stop(id))

    def logs(self, id: str) -> str:
        """What a job has printed so far; raises UnknownName."""
        job = self._find(id)[1]
        log = self._homes[job.pipeline].jobs / id / "log.txt"
        return log.read_text(errors="replace") if log.exists() else ""

    def _find(self, id: str) -> tuple[JobTable, Job]:
        for name in self._homes:
            table = self._table(name)
            with contextlib.suppress(UnknownName):
                return table, table.get(id)
        raise UnknownName(which=f"job {id!r}", fix="`rivermill train list` shows them")

    def _table(self, pipeline: str) -> JobTable:
        if pipeline not in self._homes:
            raise UnknownName(which=f"pipeline {pipeline!r}; there are: {', '.join(self._homes)}", fix="Name one")
        return jobs_of(self._homes[pipeline])


def recorded_answer(journal: Any, source: str, id: str) -> tuple[Record, Prediction]:
    """The prediction that answers a question: one asked over HTTP, or an event that asks.

    Raises:
        UnknownName: No such question, or it is not answered yet.
    """
    offset = journal.find(Kind.QUESTION, source, id)
    if offset is None:
        offset = journal.find(Kind.SOURCE, source, id)
    after = offset
    while offset is not None and (page := journal.read(0, after, 1_000)):
        for record in page:
            if record.kind is Kind.PREDICTION and (body := decode(record.body, Prediction)).question == offset:
                return record, body
        after = page[-1].offset
    raise UnknownName(
        which=f"an answer to question {id!r} of source {source!r}", fix="Ask it first, or name its source"
    )


def _audited(home: Home, principal: str, action: str, object: str, why: str = "") -> AbstractContextManager[Attempt]:
    """What happens inside goes into the pipeline's audit, with its outcome."""
    auditing = Auditing(home.root, wall_now)
    return auditing.attempt(home.pipeline, person=principal, action=action, object=object, why=why)


def _key(key: str) -> str:
    """The caller's idempotency key, or one of its own for a request that gives none."""
    return key or uuid.uuid4().hex


def _decision(entry: Entry) -> Facts:
    return {
        "sequence": entry.sequence,
        "action": entry.action,
        "line": entry.subject,
        "at": format_time(entry.at),
        "why": entry.why,
        "details": entry.details,
    }


def _job(job: Job) -> Facts:
    return {
        "id": job.id,
        "pipeline": job.pipeline,
        "state": job.state,
        "key": job.key,
        "by": job.principal,
        "submitted": format_time(job.submitted),
        "attempts": job.epoch,
        **({"result": job.result} if job.result else {}),
    }
