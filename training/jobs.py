"""The durable table of training jobs, in the control database, and the lifecycle that a job goes through.

The rules:

- A job is named by its pipeline and the caller's key: the same key with the same spec is the same job.
- Who claims a job holds a lease, numbered by its epoch. Whatever the holder writes names the epoch, and once somebody
  else has claimed the job it changes nothing: a claimer that was thought dead cannot finish another's work.
- A lease without a heartbeat for `LEASE` may be claimed again, up to `ATTEMPTS` times; then the job has failed.
- A stop ends a queued job at once. The holder of a running one learns of it from its next heartbeat.
- `TRANSITIONS` is the lifecycle. What is not in it is refused and changes nothing.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import sqlalchemy as sa

from journal.clock import SECOND
from journal.errors import ConflictingId, LostRace, Refused, UnknownName
from journal.record import canonical_json

State = Literal["queued", "running", "succeeded", "failed", "stopped"]
Event = Literal["claim", "succeed", "fail", "stop"]

TRANSITIONS: dict[State, dict[Event, State]] = {
    "queued": {"claim": "running", "stop": "stopped"},
    "running": {"claim": "running", "succeed": "succeeded", "fail": "failed", "stop": "stopped"},
    "succeeded": {},
    "failed": {},
    "stopped": {},
}

LEASE = 60 * SECOND
ATTEMPTS = 3

DAMAGED = "damaged"
"""Stands in a spec or a result that could not be read, with what is wrong."""

_EVENT_OF: dict[str, Event] = {"succeeded": "succeed", "failed": "fail", "stopped": "stop"}

_metadata = sa.MetaData()
_jobs = sa.Table(
    "jobs",
    _metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("pipeline", sa.String, nullable=False, index=True),
    sa.Column("key", sa.String, nullable=False),
    sa.Column("spec", sa.LargeBinary, nullable=False),
    sa.Column("principal", sa.String, nullable=False),
    sa.Column("submitted", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("heartbeat", sa.BigInteger, nullable=False),
    sa.Column("stop_requested", sa.Boolean, nullable=False),
    sa.Column("result", sa.LargeBinary, nullable=False),
)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table. Times are wall times in microseconds, given by the callers.

    Attributes:
        id: ``job-`` and the first 12 of the hash over pipeline and key.
        pipeline: Whose it is.
        key: The caller's idempotency key.
        spec: What is asked.
        principal: Who asked.
        submitted: When.
        state: Where it is in its lifecycle.
        epoch: How often it was claimed: the number of its lease, and its attempts.
        owner: Who holds, or held, the lease.
        heartbeat: When the holder last gave a sign of life.
        stop_requested: Whether the holder is to stop it.
        result: What came of it; empty before it ended.
    """

    id: str
    pipeline: str
    key: str
    spec: dict[str, Any]
    principal: str
    submitted: int
    state: State
    epoch: int
    owner: str
    heartbeat: int
    stop_requested: bool
    result: dict[str, Any]


class Beat(NamedTuple):
    """The answer to a heartbeat: whether the job is to stop."""

    stop: bool


def advance(state: State, event: Event) -> State:
    """The state that follows; raises Refused when the lifecycle has no such step."""
    following = TRANSITIONS[state].get(event)
    if following is None:
        known = ", ".join(TRANSITIONS[state]) or "nothing, it has ended"
        raise Refused(which=f"{event!r} on a job that is {state}; what can happen to it: {known}", fix="")
    return following


def job_id(pipeline: str, key: str) -> str:
    """The id that a pipeline's key stands for."""
    return f"job-{hashlib.sha256(canonical_json([pipeline, key])).hexdigest()[:12]}"


class JobTable:
    """The jobs of all pipelines. Several processes may use it at a time."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        _metadata.create_all(engine)

    def submit(self, pipeline: str, key: str, spec: dict[str, Any], at: int, principal: str) -> Job:
        """Queue a job, or find the one that this key queued before.

        Raises:
            ConflictingId: The key is taken by a job with another spec.
        """
        id, asked = job_id(pipeline, key), canonical_json(spec)
        row = {"id": id, "pipeline": pipeline, "key": key, "spec": asked, "principal": principal, "submitted": at}
        unheld = {"state": "queued", "epoch": 0, "owner": "", "heartbeat": 0, "stop_requested": False, "result": b"{}"}
        try:
            with self._engine.begin() as connection:
                connection.execute(_jobs.insert().values(**row, **unheld))
        except sa.exc.IntegrityError:
            self._check_same(id, key, asked)
        return self.get(id)

    def get(self, id: str) -> Job:
        """One job; raises UnknownName."""
        found = self._select(_jobs.c.id == id)
        if not found:
            raise UnknownName(which=f"job {id!r}", fix="`rivermill train list` shows them")
        return found[0]

    def list(self, pipeline: str) -> Sequence[Job]:
        """A pipeline's jobs, in the order in which they were submitted."""
        return self._select(_jobs.c.pipeline == pipeline)

    def claim(self, owner: str, now: int) -> Job | None:
        """Take the lease of the oldest job that nobody works on; None when there is none.

        One that is damaged or whose attempts are used up fails instead, and the next is tried.
        """
        stale = sa.and_(_jobs.c.state == "running", _jobs.c.heartbeat < now - LEASE)
        for job in self._select(sa.or_(_jobs.c.state == "queued", stale)):
            held = {"owner": owner, "heartbeat": now, "epoch": job.epoch + 1}
            if DAMAGED in job.spec:
                self._move(job, "claim", **held)
                self.finish(job.id, job.epoch + 1, "failed", {"reason": job.spec[DAMAGED]})
            elif job.epoch >= ATTEMPTS:
                why = {"reason": f"given up after {ATTEMPTS} attempts, each of which ended without a word"}
                self._move(job, "fail", result=canonical_json(why))
            elif job.stop_requested:
                self._move(job, "stop", result=canonical_json({"reason": "stopped"}))
            elif self._move(job, "claim", **held):
                return self.get(job.id)
        return None

    def heartbeat(self, id: str, epoch: int, now: int) -> Beat:
        """Keep a lease, and learn whether the job is to stop.

        Raises:
            LostRace: Somebody else holds the lease by now, or the job has ended.
        """
        job = self.get(id)
        held = sa.and_(_jobs.c.id == id, _jobs.c.epoch == epoch, _jobs.c.state == "running")
        if not self._update(held, heartbeat=now):
            raise _fenced(job, epoch)
        return Beat(job.stop_requested)

    def finish(self, id: str, epoch: int, state: State, result: dict[str, Any]) -> Job:
        """End a job that one holds the lease of.

        Args:
            id: Which.
            epoch: The lease's number.
            state: ``succeeded``, ``failed`` or ``stopped``.
            result: What came of it.

        Raises:
            LostRace: Somebody else holds the lease by now.
            Refused: The job is not running, or ``state`` is no end.
        """
        job = self.get(id)
        if job.epoch != epoch:
            raise _fenced(job, epoch)
        if state not in _EVENT_OF:
            raise Refused(which=f"{state!r} as the end of a job", fix=f"Use one of {', '.join(_EVENT_OF)}")
        if not self._move(job, _EVENT_OF[state], result=canonical_json(result)):
            raise _fenced(self.get(id), epoch)
        return self.get(id)

    def request_stop(self, id: str) -> Job:
        """Stop a queued job, or ask the holder of a running one to stop it.

        Raises:
            Refused: It has ended already.
        """
        job = self.get(id)
        advance(job.state, "stop")
        if job.state == "queued":
            ended = self._move(job, "stop", stop_requested=True, result=canonical_json({"reason": "stopped"}))
        else:
            ended = self._update(sa.and_(_jobs.c.id == id, _jobs.c.state == "running"), stop_requested=True)
        # It was claimed, or it ended, between our look and our word: look again.
        return self.get(id) if ended else self.request_stop(id)

    def _check_same(self, id: str, key: str, asked: bytes) -> None:
        with self._engine.connect() as connection:
            known = connection.execute(sa.select(_jobs.c.spec).where(_jobs.c.id == id)).scalar_one()
        if known != asked:
            raise ConflictingId(which=f"{id} under key {key!r}, with another spec", fix="Use another key")

    def _select(self, condition: sa.ColumnElement[bool]) -> Sequence[Job]:
        query = sa.select(_jobs).where(condition).order_by(_jobs.c.submitted, _jobs.c.id)
        with self._engine.connect() as connection:
            return [_job(row) for row in connection.execute(query).mappings()]

    def _move(self, job: Job, event: Event, **values: Any) -> bool:
        """Take a step, unless somebody else has taken one since ``job`` was read."""
        unchanged = sa.and_(_jobs.c.id == job.id, _jobs.c.epoch == job.epoch, _jobs.c.state == job.state)
        if job.state == "running" and event == "claim":
            unchanged = sa.and_(unchanged, _jobs.c.heartbeat == job.heartbeat)
        return self._update(unchanged, state=advance(job.state, event), **values)

    def _update(self, condition: sa.ColumnElement[bool], **values: Any) -> bool:
        with self._engine.begin() as connection:
            return connection.execute(_jobs.update().where(condition).values(**values)).rowcount == 1


def _job(row: sa.RowMapping) -> Job:
    values = dict(row)
    return Job(**{**values, "spec": _object(values["spec"]), "result": _object(values["result"])})


def _object(stored: bytes) -> dict[str, Any]:
    """What a column holds; where that cannot be read, a note in its place, so that the other jobs go on."""
    try:
        return msgspec.json.decode(stored, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        return {DAMAGED: f"its row in the table of jobs cannot be read ({error}); submit it again under another key"}


def _fenced(job: Job, epoch: int) -> LostRace:
    return LostRace(
        which=f"{job.id}: lease {epoch} no longer holds; it is {job.state}, {job.epoch} of {job.owner or 'nobody'}",
        fix="Stop working on it: its result would change nothing",
    )
