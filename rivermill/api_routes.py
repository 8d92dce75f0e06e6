"""The cold routes: operations, jobs and the registry. They take their time in threads, beside the hot ones."""

from typing import Annotated, Any

from fastapi import FastAPI, Header, Query
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from journal.errors import RivermillError, UnknownName
from journal.poison import stopped_at
from rivermill import api_document
from rivermill.access import Principal
from rivermill.api_guard import PERMISSIONS, Caller
from rivermill.api_hot import DEFAULT_SOURCE, PipelineService, service_of
from rivermill.desk import Desk, JobDesk
from rivermill.http_metrics import HttpMetrics

_OWNER_SECONDS = 0.5

Key = Annotated[str, Header(alias="Idempotency-Key", max_length=200)]
Explain = Annotated[bool, Query(description="Say what it would do, and do nothing")]


class JobOrder(BaseModel):
    """A training job to submit."""

    model_config = ConfigDict(extra="forbid")
    pipeline: str
    executor: str = Field("auto", pattern="^(auto|ray|serial)$")
    promote: bool = False


class Promotion(BaseModel):
    """A line to promote."""

    model_config = ConfigDict(extra="forbid")
    line: str
    why: str = Field(min_length=1)
    expected: int | None = None


class Rollback(BaseModel):
    """A rollback: to an earlier champion by name, or to the one before."""

    model_config = ConfigDict(extra="forbid")
    why: str = Field(min_length=1)
    to: str = ""
    expected: int | None = None


def add_operations(app: FastAPI, services: dict[str, PipelineService], metrics: HttpMetrics) -> None:
    """Add what says how the service is."""

    @app.get("/livez", name="livez")
    async def livez() -> dict[str, str]:
        """Whether this process runs."""
        return {"status": "alive"}

    @app.get("/readyz", name="readyz")
    async def readyz() -> Response:
        """Whether everything answers; 503 with what does not."""
        wrong = {name: trouble for name, each in services.items() if (trouble := await _trouble(each))}
        ready = not wrong
        return JSONResponse({"ready": ready, "trouble": wrong}, status_code=200 if ready else 503)

    @app.get("/metrics", name="metrics", response_class=PlainTextResponse)
    async def metrics_text(caller: Caller) -> Response:
        """Counters in Prometheus' text format, for a key that is for every pipeline."""
        for name in services:
            caller.require(PERMISSIONS["metrics"], name)
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/openapi.json", name="openapi")
    async def openapi() -> dict[str, Any]:
        """What this API offers."""
        return api_document.document(app)

    @app.get("/v1/{pipeline}/status", name="status")
    async def status(pipeline: str, request: Request) -> dict[str, Any]:
        """Where a pipeline stands: its now, what answers, what became of the answers."""
        return _status(service_of(services, request), pipeline)


async def _trouble(service: PipelineService) -> str:
    if service.live.trouble:
        return service.live.trouble
    if service.attempts is not None and (suspect := stopped_at(service.attempts)) is not None:
        return f"fold {suspect.fold!r} stays before record {suspect.offset}: {suspect.error or 'its process died'}"
    try:
        await service.owner.state(_OWNER_SECONDS)
    except RivermillError as error:
        return str(error)
    return ""


def _status(service: PipelineService, name: str) -> dict[str, Any]:
    served, counters = service.live.answering.champion.served, service.live.counters
    return {
        "pipeline": name,
        "now": service.live.now_text,
        "line": served.line,
        "control": served.control,
        "snapshot": served.snapshot,
        "answers": {fate: getattr(counters, fate) for fate in counters.__slots__},
        "trouble": service.live.trouble,
    }


def add_jobs(app: FastAPI, jobs: JobDesk) -> None:
    """Add training jobs."""

    @app.post("/v1/jobs", name="submit_job", status_code=202)
    async def submit_job(order: JobOrder, caller: Caller, key: Key = "") -> dict[str, Any]:
        """Submit a retrain; the same Idempotency-Key is the same job."""
        caller.require(PERMISSIONS["submit_job"], order.pipeline)
        options = {"executor": order.executor, "promote": order.promote}
        return await run_in_threadpool(jobs.submit, order.pipeline, key, caller.name, options)

    @app.get("/v1/jobs", name="jobs")
    async def list_jobs(caller: Caller, pipeline: str | None = None) -> dict[str, Any]:
        """Every job that the key reaches, or one pipeline's."""
        caller.require(PERMISSIONS["jobs"], pipeline)
        found = await run_in_threadpool(jobs.list, pipeline)
        return {"jobs": [job for job in found if caller.reaches(job["pipeline"])]}

    @app.get("/v1/jobs/{job}", name="job")
    async def job(job: str, caller: Caller) -> dict[str, Any]:
        """One job and what came of it."""
        return await run_in_threadpool(_reached, jobs, job, caller)

    @app.get("/v1/jobs/{job}/logs", name="job_logs", response_class=PlainTextResponse)
    async def job_logs(job: str, caller: Caller) -> str:
        """What a job has printed so far."""
        await run_in_threadpool(_reached, jobs, job, caller)
        return await run_in_threadpool(jobs.logs, job)

    @app.post("/v1/jobs/{job}/stop", name="stop_job")
    async def stop_job(job: str, caller: Caller) -> dict[str, Any]:
        """Stop a job."""
        await run_in_threadpool(_reached, jobs, job, caller)
        return await run_in_threadpool(jobs.stop, job, caller.name)


def _reached(jobs: JobDesk, id: str, caller: Principal) -> dict[str, Any]:
    """A job, if the key is for its pipeline: the address does not name it. Raises UnknownName for both."""
    job = jobs.get(id)
    if not caller.reaches(job["pipeline"]):
        raise UnknownName(which=f"job {id!r}", fix="This key is for other pipelines")
    return job


def add_registry(app: FastAPI, desk: Desk) -> None:
    """Add lines, decisions and recorded answers."""

    @app.get("/v1/{pipeline}/predictions/{id:path}", name="prediction")
    async def prediction(pipeline: str, id: str, source: str = DEFAULT_SOURCE) -> dict[str, Any]:
        """The recorded answer to a question, with all that it was made from."""
        return await run_in_threadpool(desk.prediction, pipeline, source, id)

    @app.get("/v1/{pipeline}/versions", name="versions")
    async def versions(pipeline: str) -> dict[str, Any]:
        """Every line with its state."""
        return {"lines": await run_in_threadpool(desk.versions, pipeline)}

    @app.get("/v1/{pipeline}/versions/{line}", name="version")
    async def version(pipeline: str, line: str) -> dict[str, Any]:
        """One line, what the gate said about it, and what it would say now."""
        return await run_in_threadpool(desk.version, pipeline, line)

    @app.get("/v1/{pipeline}/decisions", name="decisions")
    async def decisions(pipeline: str) -> dict[str, Any]:
        """Every decision, with who decided and why."""
        return {"decisions": await run_in_threadpool(desk.decisions, pipeline)}

    @app.post("/v1/{pipeline}/promote", name="promote")
    async def promote(
        pipeline: str, asked: Promotion, caller: Caller, explain: Explain = False, key: Key = ""
    ) -> dict[str, Any]:
        """Let a line answer, if the gate lets it in; 422 with every failing check if not."""
        how = _how(asked, caller, explain, key)
        return await run_in_threadpool(desk.promote, pipeline, asked.line, **how)

    @app.post("/v1/{pipeline}/rollback", name="rollback")
    async def rollback(
        pipeline: str, asked: Rollback, caller: Caller, explain: Explain = False, key: Key = ""
    ) -> dict[str, Any]:
        """Let an earlier champion answer again."""
        how = _how(asked, caller, explain, key)
        return await run_in_threadpool(desk.roll_back, pipeline, asked.to, **how)


def _how(asked: Promotion | Rollback, caller: Principal, explain: bool, key: str) -> dict[str, Any]:
    """What both kinds of decisions are given beside the line."""
    known = {"why": asked.why, "principal": caller.name, "key": key}
    return {**known, "expected": asked.expected, "explain": explain}
